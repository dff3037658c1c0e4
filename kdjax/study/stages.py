"""How a student begins: as initialised, with layers of the teacher, or from a first stage that taught layers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax.models.connect import connectors
from kdjax.models.connect.factors import LEARNED
from kdjax.study.lesson import FACTORS, Plan
from kdjax.types import BadInput, PyTree, TrainState

_ON_LAYERS = ("weight/feature.", "weight/relation.", "weight/contrastive.")
_FACTORS = tuple(f"weight/{name}" for name in FACTORS)


def unchanged(state: TrainState) -> TrainState:
    """The initial state as it is."""
    return state


def after(
    trained: TrainState, begin: Callable[[TrainState], TrainState] = unchanged
) -> Callable[[TrainState], TrainState]:
    """The initial state of a second stage, with what learned in the first; optimizer and step begin anew.

    Args:
        trained: the end of the first stage, of a plan and of its `hints_alone`.
        begin: how the first stage began. The student begins so again if nothing taught it there, as where paraphrasers
            learned of the teacher alone.
    """
    taught = any(name.startswith(_ON_LAYERS) and value > 0 for name, value in trained.hparams.items())

    def start(state: TrainState) -> TrainState:
        fresh = begin(state)
        # Copies: what begins a run is donated to it.
        params, model_state = jax.tree.map(jnp.array, (trained.params, trained.model_state))
        paraphrasers = fresh.model_state.get(LEARNED, {}).get("adapter", {})
        held = {name: {"paraphraser": params["adapter"][name]["paraphraser"]} for name in paraphrasers}
        if held:
            model_state[LEARNED] = {"student": {}, "adapter": held}
            params["adapter"] |= {name: fresh.params["adapter"][name] for name in held}
        if not taught:
            params["student"] = fresh.params["student"]
            model_state |= {
                name: {**tree, "student": fresh.model_state[name]["student"]}
                for name, tree in model_state.items()
                if "student" in tree
            }
        return state.replace(params=params, model_state=model_state)

    return start


def copies(given: Plan, teacher: PyTree) -> tuple[Callable[[TrainState], TrainState], list[str]]:
    """The initial state with the teacher's layers copied into the student where shapes agree, and which they are.

    Raises:
        BadInput: no layer map, or no pair of layers of the same shape.
    """

    def student(tree: PyTree) -> PyTree:
        return tree["student"] if given.compares_layers else tree

    params = jax.eval_shape(given.model.init, jax.random.key(0))[0]
    names = connectors.copied(student(params), teacher["params"], given.layers)[1]
    if not names:
        raise BadInput("--copy_layers: no pair of --layers has the same shapes; accepted: layers of the same width.")

    def copy(tree: PyTree, theirs: PyTree) -> PyTree:
        new, _ = connectors.copied(student(tree), theirs, given.layers)
        # Copies of the copies: the state is donated, and the teacher must survive it.
        new = jax.tree.map(jnp.array, new)
        return {**tree, "student": new} if given.compares_layers else new

    def begin(state: TrainState) -> TrainState:
        # BatchNorm's averages come with its numbers.
        model_state = {n: copy(tree, teacher[n]) if n in teacher else tree for n, tree in state.model_state.items()}
        return state.replace(params=copy(state.params, teacher["params"]), model_state=model_state)

    return begin, names


def hints_alone(given: Plan) -> dict[str, float]:
    """The hyper-parameters of a first stage that compares layers and nothing else (FitNets, AB, FSP).

    Factor transfer waits: in this stage its paraphraser learns of the teacher alone.
    """
    if not given.compares_layers:
        raise BadInput("--hint_epochs: no loss compares layers; accepted with one such as feature.hint:100@block2.")
    waiting = {name: 0.0 for name in given.hparams if name.startswith(_FACTORS)}
    return {**given.hparams, **waiting, "alpha": 0.0, "label_weight": 0.0}


def answers_alone(given: Plan) -> dict[str, float]:
    """The hyper-parameters of the second stage: all but what compared layers in the first."""
    over = tuple(n for n in given.hparams if n.startswith(_ON_LAYERS) and not n.startswith(_FACTORS))
    return {**given.hparams, **dict.fromkeys(over, 0.0)}
