"""One recipe of terms with views: supervised learning, adversarial training, distillation, and any sum of them."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks import objectives, victims
from kdjax.ensembles.pools import Ensemble, Vote
from kdjax.recipes._batch import Augment, agreement, augmented, correct, known, spread_rows
from kdjax.recipes.memory import over_devices, recall
from kdjax.recipes.terms import LABELS, TEACHER, Number, Term
from kdjax.teachers.live import Teacher
from kdjax.types import (
    ATTACKED,
    CLEAN,
    STUDENT,
    Attack,
    Aux,
    BadInput,
    Batch,
    LossFn,
    Metrics,
    Model,
    Objective,
    Outputs,
    PyTree,
    TrainState,
)

Pairs = Callable[..., tuple[dict[str, tuple[Any, Any, dict[str, Any]]], PyTree]]
"""`(connectors' variables, student's outputs, teacher's outputs, train=..., mask=...) -> ({name: (student, teacher,
keywords)}, the connectors' new state)`: what is compared, once connectors have made it comparable."""

CONNECTORS = "connectors"
"""What the network of all connectors is called in the train state."""


class Frozen(NamedTuple):
    """`TrainState.frozen` where a loss remembers: the teacher's, and by loss what it must know of the data set."""

    teacher: PyTree
    facts: dict[str, PyTree]


class Attacked(NamedTuple):
    """How the attacked view is made.

    The attack runs inside the step against the student as it is deployed: in evaluation mode, its weights constants. No
    gradient passes through it.

    Attributes:
        attack: any of the algebra.
        objective: what it makes small: `(victim, labels, reference) -> Objective`.
        reference: whose clean answer the objective is given, `student` or `teacher`; empty: nobody's, and only rows
            whose label is known are attacked.
        share: of each batch's rows, in [0, 1]; padding never is attacked.
    """

    attack: Attack
    objective: Callable[..., Objective] = objectives.cross_entropy
    reference: str = ""
    share: float = 1.0


def learn(
    student: Model,
    terms: Sequence[Term],
    *,
    teacher: Teacher | None = None,
    attacked: Attacked | None = None,
    augment: Augment | None = None,
    ensemble: Ensemble | None = None,
    pairs: Pairs | None = None,
    temperature: Number | None = None,
    moves: Sequence[str] | None = None,
) -> LossFn:
    """The weighted sum of terms, `l = sum_i weight_i loss_i(left_i, right_i)`, per example.

    Each network is asked once for every view that a term looks at. The student is in training mode; a teacher is asked
    as its kind says (a live one in evaluation mode), and no gradient reaches it.

    Args:
        student: the network in training.
        terms: what is summed.
        teacher: whoever is asked for the right sides that are a teacher's; it must be able to answer their views.
        attacked: how the view `attacked` is made, needed where a term looks at it.
        augment: applied to the images of each step, before the attack.
        ensemble: makes one answer of several teachers' `[T, B, K]`. It sees the labels, the student's logits and, where
            the batch has it, `domain`. Where it votes, terms on its answer are multiplied by the example's weight.
            Layers of stacked teachers are averaged.
        pairs: what terms on layers compare.
        temperature: at which the ensemble averages; None is 1.
        moves: the views whose pass moves running statistics, in this order; None is all that are shown.

    Returns:
        A `LossFn` with a metric for each term under its name, `accuracy` on the first view shown, `agreement` with the
        teacher's top class where its answers are compared, and with an attack `attacked_accuracy`, on these rows.

    Raises:
        BadInput: no term; a view that the teacher cannot answer or nothing makes; terms on layers without pairs. When
            called: several teachers without an ensemble, or an ensemble for one; a hyper-parameter that is missing.
    """
    terms = list(terms)
    shown = _views(terms)
    _check(terms, shown, teacher, attacked, pairs)
    losses = {t.name: over_devices(t.loss, remembers=t.remembers) if t.row.couples else t.loss for t in terms}
    moving = shown if moves is None else list(moves)
    asked_of_teacher = list(dict.fromkeys(t.teacher.view for t in terms if t.teacher.network == TEACHER))

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        state = state.replace(params=params)
        batch, key = augmented(batch, key, augment, run_key=state.key)
        label, mask = jnp.asarray(batch["label"]), jnp.asarray(batch["mask"])
        frozen = state.frozen.teacher if isinstance(state.frozen, Frozen) else state.frozen
        inputs = {CLEAN: jnp.asarray(batch["inputs"])}
        rows = jnp.zeros(len(label), bool)
        if attacked is not None and ATTACKED in (*shown, *asked_of_teacher):
            inputs[ATTACKED], rows = _attack(attacked, student, teacher, state, frozen, batch, key)

        own: dict[str, Outputs] = {}
        model_state = state.model_state[STUDENT]
        for place, view in enumerate(shown):
            variables = {"params": params[STUDENT], **model_state}
            # The first pass draws what it would draw alone.
            drawn = key if place == 0 else jax.random.fold_in(key, zlib.crc32(f"view/{view}".encode()))
            own[view], moved = student.apply(variables, inputs[view], train=True, key=drawn, mask=mask)
            model_state = moved if view in moving else model_state
        theirs: dict[str, tuple[Outputs, Array | None]] = {}
        for view in asked_of_teacher:
            assert teacher is not None
            said = jax.lax.stop_gradient(teacher(frozen, {**batch, "inputs": inputs[view]}))
            beside, at = own.get(view, own[shown[0]]), temperature(state) if temperature else 1.0
            theirs[view] = _pooled(said, ensemble, beside, batch, at)

        first = own[shown[0]].logits
        metrics: Metrics = {"accuracy": (correct(first, label), known(label))}
        compared, connected = _compare(terms, pairs, state, own, theirs, mask)
        total: Any = None
        memories: dict[str, PyTree] = {}
        for term in terms:
            numbers, where = dict(term.numbers(state)), mask > 0
            mine, voted = own[term.student.view], None
            if term.teacher.network == LABELS:
                value = losses[term.name](mine.logits, label, **numbers)
                metrics[term.name] = (value, known(label))
            elif term.on_layers:
                left, right, keywords = compared[term.pair or term.name]
                if term.remembers:
                    recalled = recall(term.name, state, batch)
                    value, memories[term.name] = losses[term.name](left, right, where=where, **keywords, **recalled)
                else:
                    value = losses[term.name](left, right, where=where, **keywords, **numbers)
                metrics[term.name] = value
            else:
                if term.teacher.network == TEACHER:
                    answer, voted = theirs[term.teacher.view]
                    right = answer.logits
                    metrics.setdefault("agreement", agreement(mine.logits, right))
                else:
                    right = own[term.teacher.view].logits
                    right = jax.lax.stop_gradient(right) if term.stop else right
                value = losses[term.name](mine.logits, right, labels=label, where=where, **numbers)
                metrics[term.name] = value if voted is None else (value, voted)
                value = value if voted is None else voted * value
            weighed = term.weight(state) * value
            total = weighed if total is None else total + weighed
        if ATTACKED in shown:
            right = correct(own[ATTACKED].logits, label)
            metrics["attacked_accuracy"] = (right, rows.astype(jnp.float32))
        return total, Aux({STUDENT: model_state, **connected}, metrics, memories)

    return loss_fn


def _views(terms: Sequence[Term]) -> list[str]:
    """The views that the student is shown, in the order in which terms name them."""
    sides = [side for t in terms for side in (t.student, t.teacher) if side.network == STUDENT]
    return list(dict.fromkeys(side.view for side in sides))


def _check(
    terms: Sequence[Term], shown: Sequence[str], teacher: Teacher | None, attacked: Attacked | None, pairs: Pairs | None
) -> None:
    names = [t.name for t in terms]
    if not terms or len(set(names)) < len(names):
        raise BadInput(f"terms={names}: accepted are one or more, each with a name of its own")
    of_teacher = [t for t in terms if t.teacher.network == TEACHER]
    if of_teacher and teacher is None:
        raise BadInput(f"teacher=None: {of_teacher[0].name} compares the student with one; accepted: a teacher")
    for term in of_teacher:
        if teacher is not None and term.teacher.view not in teacher.views:
            raise BadInput(
                f"{term.name} asks the teacher about the view {term.teacher.view}, and its answers are stored: "
                f"accepted are {', '.join(teacher.views)}, or a live teacher"
            )
    asked = [*shown, *(t.teacher.view for t in of_teacher)]
    if ATTACKED in asked and attacked is None:
        raise BadInput("attacked=None: a term looks at the attacked view; accepted: an attack")
    if unknown := set(asked) - {CLEAN, ATTACKED}:
        raise BadInput(f"view {min(unknown)!r}; accepted: {CLEAN}, {ATTACKED}")
    if attacked is not None and not 0 <= attacked.share <= 1:
        raise BadInput(f"attacked={attacked.share}: accepted are shares of a batch, from 0 to 1.")
    on_layers = [t.name for t in terms if t.on_layers]
    if on_layers and pairs is None:
        raise BadInput(f"{on_layers} compare layers: accepted with pairs, which a lesson makes")


def _attack(
    attacked: Attacked,
    student: Model,
    teacher: Teacher | None,
    state: TrainState,
    frozen: PyTree,
    batch: Batch,
    key: Array,
) -> tuple[Array, Array]:
    """The attacked images, and which rows they are."""
    image, label = jnp.asarray(batch["inputs"]), jnp.asarray(batch["label"])
    rows = (jnp.asarray(batch["mask"]) > 0) & spread_rows(attacked.share, len(label))
    if not attacked.reference:
        rows = rows & (label >= 0)
    if attacked.share == 0:
        return image, rows
    held = jax.lax.stop_gradient({"params": state.params[STUDENT], **state.model_state[STUDENT]})
    victim = victims.white_box(student.apply, held)
    more = {}
    if attacked.reference == STUDENT:
        more = {"reference": victim(image)}
    elif attacked.reference == TEACHER:
        assert teacher is not None
        more = {"reference": teacher(frozen, batch).logits}
    # Folded and not split, so that the model draws what it would draw without an attack.
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, 1), jnp.arange(len(label)))
    found = attacked.attack(attacked.objective(victim, label, **more), keys, image, where=rows).image
    return jax.lax.stop_gradient(found), rows


def _pooled(
    said: Outputs, ensemble: Ensemble | None, student: Outputs, batch: Batch, temperature: Any
) -> tuple[Outputs, Array | None]:
    """One answer of whoever was asked, and the weight of each example where there was a vote."""
    if said.logits.ndim != (2 if ensemble is None else 3):
        raise BadInput(
            f"the teacher's logits have shape {said.logits.shape}: accepted are one teacher's [B, K] without an "
            "ensemble, or several teachers' [T, B, K] with one"
        )
    if ensemble is None:
        return said, None
    teachers, rows, _ = said.logits.shape
    answer = ensemble(
        said.logits,
        student=student.logits,
        labels=jnp.asarray(batch["label"]),
        domain=jnp.asarray(batch["domain"]) if "domain" in batch else None,
        temperature=temperature,
    )
    answer = jax.lax.stop_gradient(answer)
    logits, weight = answer if isinstance(answer, Vote) else (answer, None)
    # Of several teachers run as one, a layer has an axis of teachers; of others, each layer is one teacher's.
    layers = {n: x.mean(0) if x.shape[:2] == (teachers, rows) else x for n, x in said.features.items()}
    return Outputs(logits, layers), weight


def _compare(
    terms: Sequence[Term],
    pairs: Pairs | None,
    state: TrainState,
    own: Mapping[str, Outputs],
    theirs: Mapping[str, tuple[Outputs, Any]],
    mask: Array,
) -> tuple[dict[str, Any], dict[str, PyTree]]:
    """What terms on layers compare, and the connectors' new state."""
    on_layers = [t for t in terms if t.on_layers]
    if not on_layers or pairs is None:
        return {}, {}
    sides = {(t.student.view, t.teacher.view) for t in on_layers}
    if len(sides) > 1:
        raise BadInput(f"terms on layers look at the views {sorted(sides)}: accepted is one pair of views for all")
    mine, right = sides.pop()
    variables = {"params": state.params[CONNECTORS], **state.model_state[CONNECTORS]}
    compared, moved = pairs(variables, own[mine], theirs[right][0], train=True, mask=mask)
    return compared, {CONNECTORS: {**state.model_state[CONNECTORS], **moved}}
