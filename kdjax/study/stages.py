"""How a student begins: as initialised, with layers of the teacher, or from a first stage that taught layers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax import spec
from kdjax.models.connect import connectors
from kdjax.models.connect.factors import LEARNED
from kdjax.recipes.layers import Shown, mapped
from kdjax.recipes.learn import CONNECTORS
from kdjax.recipes.lesson import Lesson, layer_names
from kdjax.recipes.reading import OF_ANSWERS, OF_FACTORS, OF_LABELS, OF_LAYERS
from kdjax.types import STUDENT, BadInput, Model, PyTree, TrainState

AFTER_LAYERS = (OF_ANSWERS, OF_LABELS, OF_FACTORS)
"""What the second of two stages teaches."""


def unchanged(state: TrainState) -> TrainState:
    """The initial state as it is."""
    return state


def hints_alone(given: Lesson) -> dict[str, float]:
    """The hyper-parameters of a first stage that compares layers and nothing else (FitNets, AB, FSP).

    Factor transfer waits: in this stage its paraphraser learns of the teacher alone.

    Raises:
        BadInput: no loss compares layers.
    """
    if not given.compares_layers:
        raise BadInput("--hint_epochs: no loss compares layers; accepted with one such as 100*feature.hint(block2).")
    return given.with_weights(OF_LAYERS)


def answers_alone(given: Lesson) -> dict[str, float]:
    """The hyper-parameters of the second stage: all but what compared layers in the first."""
    return given.with_weights(*AFTER_LAYERS)


def after(
    given: Lesson, trained: TrainState, begin: Callable[[TrainState], TrainState] = unchanged
) -> Callable[[TrainState], TrainState]:
    """The initial state of a second stage, with what learned in the first; optimizer and step begin anew.

    Args:
        given: the first stage's lesson.
        trained: the end of the first stage, with `hints_alone`.
        begin: how the first stage began. The student begins so again if nothing taught it there, as where paraphrasers
            learned of the teacher alone.
    """
    taught = OF_LAYERS in given.kinds.values()

    def start(state: TrainState) -> TrainState:
        fresh = begin(state)
        # Copies: what begins a run is donated to it.
        params, model_state, memory = jax.tree.map(jnp.array, (trained.params, trained.model_state, trained.memory))
        learned = fresh.model_state[CONNECTORS].get(LEARNED, {})
        held = {name: {"paraphraser": params[CONNECTORS][name]["paraphraser"]} for name in learned}
        if held:
            model_state[CONNECTORS] = {**model_state[CONNECTORS], LEARNED: held}
            params[CONNECTORS] |= {name: fresh.params[CONNECTORS][name] for name in held}
        if not taught:
            params[STUDENT], model_state[STUDENT] = fresh.params[STUDENT], fresh.model_state[STUDENT]
        return state.replace(params=params, model_state=model_state, memory=memory)

    return start


def copies(
    text: str, student: Model, teacher: Model, weights: PyTree
) -> tuple[Callable[[TrainState], TrainState], list[str]]:
    """The initial state with the teacher's layers copied into the student where shapes agree, and which they are.

    Args:
        text: a layer map, such as `every(2)`.
        student, teacher: the networks.
        weights: the teacher's variables, or their shapes.

    Raises:
        BadInput: no layer map, or no pair of layers of the same shape.
    """
    call = spec.call(text, flag="copy_layers")
    pairs = mapped(call, Shown(layer_names(student), layer_names(teacher)))
    params = jax.eval_shape(student.init, jax.random.key(0))[0]
    names = connectors.copied(params, weights["params"], pairs)[1]
    if not names:
        raise BadInput(
            f"--copy_layers={text}: no pair of layers has the same shapes; accepted: layers of the same width."
        )

    def copy(tree: PyTree, theirs: PyTree) -> PyTree:
        # Copies of the copies: the state is donated, and the teacher must survive it.
        return jax.tree.map(jnp.array, connectors.copied(tree, theirs, pairs)[0])

    def begin(state: TrainState) -> TrainState:
        own, states = state.params[STUDENT], state.model_state[STUDENT]
        # BatchNorm's averages come with its numbers.
        states = {n: copy(tree, weights[n]) if n in weights else tree for n, tree in states.items()}
        return state.replace(
            params={**state.params, STUDENT: copy(own, weights["params"])},
            model_state={**state.model_state, STUDENT: states},
        )

    return begin, names
