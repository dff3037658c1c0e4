"""One recipe of terms with views: supervised learning, adversarial training, distillation, and any sum of them."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ensembles.pools import Ensemble
from kdjax.recipes._batch import Augment, agreement, augmented, correct, known
from kdjax.recipes.attacked import Attacked, attacked_images, check
from kdjax.recipes.memory import over_devices, recall
from kdjax.recipes.pooling import pooled, require_layers
from kdjax.recipes.sharing import shared_out
from kdjax.recipes.softening import fitted_after, temperatures_of
from kdjax.recipes.terms import LABELS, TEACHER, Number, Side, Term, numbers_of, value_of
from kdjax.teachers.live import Teacher
from kdjax.types import (
    ATTACKED,
    CLEAN,
    MIRRORED,
    STUDENT,
    Aux,
    BadInput,
    Batch,
    LossFn,
    Metrics,
    Model,
    Outputs,
    PyTree,
    TrainState,
)

Pairs = Callable[..., tuple[dict[str, tuple[Any, Any, dict[str, Any]]], PyTree]]
"""From the connectors' variables and both outputs, with `train=` and `mask=`, to what is compared, once connectors have
made it comparable, `{name: (student, teacher, keywords)}`, and the connectors' new state."""

CONNECTORS = "connectors"
"""What the network of all connectors is called in the train state."""


class Frozen(NamedTuple):
    """`TrainState.frozen` where there is more than the teacher's.

    Attributes:
        teacher: the teacher's.
        facts: by loss, what it must know of the data set.
        others: other teachers', by name.
    """

    teacher: PyTree
    facts: Mapping[str, PyTree] = {}
    others: Mapping[str, PyTree] = {}


def learn(
    student: Model,
    terms: Sequence[Term],
    *,
    teacher: Teacher | None = None,
    others: Mapping[str, Teacher] = MappingProxyType({}),
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
        others: further teachers by the names that terms call them.
        attacked: how the view `attacked` is made, needed where a term looks at it or at `mirrored`.
        augment: applied to the images of each step, before the attack.
        ensemble: makes one answer of several teachers' `[T, B, K]`. It sees the labels, the student's logits and, where
            the batch has it, `domain`. Where it votes, terms on its answer are multiplied by the example's weight.
            Layers that all teachers have in one shape are averaged.
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
    asked = _asked(terms)
    shown = [view for network, view in asked if network == STUDENT]
    teachers = {**({} if teacher is None else {TEACHER: teacher}), **others}
    _check(terms, asked, teachers, attacked, pairs)
    terms = [t._replace(loss=over_devices(t.loss, remembers=t.remembers)) if t.row.couples else t for t in terms]
    # What weighs examples may look at the others.
    terms = [
        t._replace(times=t.times._replace(emphasis=over_devices(t.times.emphasis))) if t.times else t for t in terms
    ]
    moving = shown if moves is None else list(moves)
    moved_inputs = {view for _, view in asked} - {CLEAN}

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        state = state.replace(params=params)
        batch, key = augmented(batch, key, augment, run_key=state.key)
        label, mask = jnp.asarray(batch["label"]), jnp.asarray(batch["mask"])
        frozen = state.frozen if isinstance(state.frozen, Frozen) else Frozen(state.frozen)
        variables_of = {TEACHER: frozen.teacher, **frozen.others}
        inputs = {CLEAN: jnp.asarray(batch["inputs"])}
        rows = jnp.zeros(len(label), bool)
        temperatures, fitted = temperatures_of(terms, state, batch)

        def asked_of(name: str, variables: PyTree, image: Array, student: Array) -> tuple[Outputs, Array | None]:
            outputs = teachers[name](variables, {**batch, "inputs": image})
            at = temperature(state) if temperature else 1.0
            return pooled(outputs, ensemble if name == TEACHER else None, student, batch, at)

        if attacked is not None and moved_inputs:
            ask = lambda *given: asked_of(*given)[0].logits  # noqa: E731
            inputs[ATTACKED], rows = attacked_images(
                attacked, student, ask, variables_of, state, batch, key, temperatures
            )
            inputs[MIRRORED] = 2 * inputs[CLEAN] - inputs[ATTACKED]

        own: dict[str, Outputs] = {}
        model_state = state.model_state[STUDENT]
        for place, view in enumerate(shown):
            variables = {"params": params[STUDENT], **model_state}
            # The first pass draws what it would draw alone.
            drawn = key if place == 0 else jax.random.fold_in(key, zlib.crc32(f"view/{view}".encode()))
            own[view], moved = student.apply(variables, inputs[view], train=True, key=drawn, mask=mask)
            model_state = moved if view in moving else model_state
        theirs: dict[tuple[str, str], tuple[Outputs, Array | None]] = {}
        for name, view in asked:
            if name != STUDENT:
                beside = own.get(view, own[shown[0]]).logits
                outputs, vote = asked_of(name, variables_of[name], inputs[view], beside)
                theirs[name, view] = jax.lax.stop_gradient(outputs), vote

        def answer(side: Side) -> Array:
            outputs = own if side.network == STUDENT else {v: theirs[n, v][0] for n, v in theirs if n == side.network}
            logits = outputs[side.view].logits
            return logits - outputs[side.minus].logits if side.minus else logits

        first = own[shown[0]].logits
        metrics: Metrics = {"accuracy": (correct(first, label), known(label))}
        compared, connected = _compare(terms, pairs, state, own, theirs, mask)
        parts: list[tuple[Term, Array]] = []
        memories: dict[str, PyTree] = {}
        for term in terms:
            numbers, where, voted = numbers_of(term, state, temperatures), mask > 0, None
            if term.on_layers:
                left, right, keywords = compared[term.pair or term.name]
                if term.remembers:
                    recalled = recall(term.name, state, batch)
                    value, memories[term.name] = term.loss(left, right, where=where, **keywords, **recalled)
                else:
                    value = term.loss(left, right, where=where, **keywords, **numbers["loss"])
                metrics[term.name] = value
            else:
                value = value_of(term, numbers, answer, label, where)
                metrics[term.name] = (value, known(label)) if term.teacher.network == LABELS else value
                if term.teacher.network == TEACHER:
                    voted = theirs[TEACHER, term.teacher.view][1]
                    if not term.student.minus + term.teacher.minus:
                        metrics.setdefault("agreement", agreement(answer(term.student), answer(term.teacher)))
                if voted is not None:
                    metrics[term.name], value = (value, voted), voted * value
            parts.append((term, value))
        shares, shared = shared_out(parts, mask, state)
        fitted = fitted_after(terms, fitted, answer, state, batch)
        total: Any = None
        for term, value in parts:
            weighed = term.weight(state) * shares.get(term.name, 1.0) * value
            total = weighed if total is None else total + weighed
        if ATTACKED in own:
            right = correct(own[ATTACKED].logits, label)
            metrics["attacked_accuracy"] = (right, rows.astype(jnp.float32))
        return total, Aux({STUDENT: model_state, **connected}, metrics, memories | shared | fitted)

    return loss_fn


def _asked(terms: Sequence[Term]) -> list[tuple[str, str]]:
    """The networks that terms look at, each with the views of it, in the order in which terms name them."""
    sides = [side for t in terms for side in t.sides if side.network != LABELS]
    return list(dict.fromkeys((side.network, view) for side in sides for view in side.views))


def _check(
    terms: Sequence[Term],
    asked: Sequence[tuple[str, str]],
    teachers: Mapping[str, Teacher],
    attacked: Attacked | None,
    pairs: Pairs | None,
) -> None:
    names = [t.name for t in terms]
    if not terms or len(set(names)) < len(names):
        raise BadInput(f"terms={names}: accepted are one or more, each with a name of its own")
    if attacked is not None:
        check(attacked)
    for term in (*terms, *(attacked.terms if attacked else ())):
        for side in term.sides:
            _check_side(term.name, side, teachers)
    fitted = [(t.softened.group, t.softened.row) for t in terms if t.softened]
    for term in attacked.terms if attacked else ():
        if term.softened and (term.softened.group, term.softened.row) not in fitted:
            accepted = ", ".join(f"{group} in {1 + row} terms" for group, row in dict(fitted).items()) or "none"
            raise BadInput(f"{term.name}: no loss fits its teacher_temperature; accepted: {accepted}")
    views = {view for _, view in asked}
    if views - {CLEAN} and attacked is None:
        raise BadInput(
            f"attacked=None: a term looks at the {min(views - {CLEAN})} view; accepted: an attack"
            if views <= {CLEAN, ATTACKED, MIRRORED}
            else f"view {min(views - {CLEAN, ATTACKED, MIRRORED})!r}; accepted: {CLEAN}, {ATTACKED}, {MIRRORED}"
        )
    on_layers = [t.name for t in terms if t.on_layers]
    if on_layers and pairs is None:
        raise BadInput(f"{on_layers} compare layers: accepted with pairs, which a lesson makes")


def _check_side(name: str, side: Side, teachers: Mapping[str, Teacher]) -> None:
    """Refuse a teacher that there is not, or one that cannot answer."""
    if side.network in (STUDENT, LABELS):
        return
    if side.network not in teachers:
        if side.network == TEACHER:
            raise BadInput(f"teacher=None: {name} compares the student with one; accepted: a teacher")
        raise BadInput(
            f"others={sorted(set(teachers) - {TEACHER})}: {name} asks {side.network}; accepted: one so called"
        )
    for view in side.views:
        if view not in (accepted := teachers[side.network].views):
            raise BadInput(
                f"{name} asks the {side.network} about the view {view}, and its answers are stored: "
                f"accepted are {', '.join(accepted)}, or a live teacher"
            )


def _compare(
    terms: Sequence[Term],
    pairs: Pairs | None,
    state: TrainState,
    own: Mapping[str, Outputs],
    theirs: Mapping[tuple[str, str], tuple[Outputs, Any]],
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
    require_layers(on_layers, theirs[TEACHER, right][0])
    variables = {"params": state.params[CONNECTORS], **state.model_state[CONNECTORS]}
    compared, moved = pairs(variables, own[mine], theirs[TEACHER, right][0], train=True, mask=mask)
    return compared, {CONNECTORS: {**state.model_state[CONNECTORS], **moved}}
