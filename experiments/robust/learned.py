"""What networks learn here: methods by name with one radius, and the snippet's two controls."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import spec
from kdjax.methods import METHODS, Method, bound, method
from kdjax.recipes import peer
from kdjax.recipes.lesson import lesson
from kdjax.spec import Call, Family, Formula
from kdjax.teachers.live import Teacher
from kdjax.types import Aux, BadInput, Batch, LossFn, Model, Networks, PyTree, Recipe, TrainState, nearest

SNIPPET = "labels + 0.1*response.logit_l1"
CONTROLS = ("snippet", "snippet_training")
"""The article's snippet, and the same with its teacher left in training mode, as the article leaves it."""
PEER_AID = "peer_aid"
"""Two networks that learn at once: no method of a fixed teacher. The peer is another network of the teacher's kind."""
IN_TRAINING = "teacher in training mode"
TEACHER_KEY = "teacher_key"


class Training(NamedTuple):
    """How one network is trained, as its arm takes it.

    `says`: what it minimises; `asks`: the teachers whose variables `frozen` arranges; `from_labelled`: whether it
    learns from labelled images alone.
    """

    says: str
    model: Networks
    recipe: LossFn
    hparams: Mapping[str, float]
    frozen: Callable[..., PyTree]
    facts: Mapping[str, Any]
    asks: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    from_labelled: bool = False


def named(text: str, epsilon: Any, *, flag: str = "methods") -> dict[str, Method]:
    """The methods that a flag names, each with the radius, where it attacks and says none.

    Beside `kdjax.methods` there are the controls, PeerAiD, and sums of losses that are no method:
    `labels + response.logit_l1`.

    Raises:
        BadInput: a name that is none, or one twice.

    >>> list(named("pgd_at, snippet, adaad + igdm(weight=2)", 0.1))
    ['pgd_at', 'snippet', 'adaad + igdm(weight=2)']
    """
    found: dict[str, Method] = {}
    for one in spec.summands(text, flag=flag):
        formula = spec.formula(one, flag=flag)
        calls = [call for _, call in formula.terms]
        name = " + ".join(map(str, calls)) if all(weight == 1 for weight, _ in formula.terms) else str(formula)
        if name in found:
            raise BadInput(f"--{flag}={text} names {name} twice; accepted is each once.")
        if name in CONTROLS:
            found[name] = Method(spec.formula(SNIPPET))
        elif peers := [call for call in calls if call.name == PEER_AID]:
            if formula.terms != ((1, peers[0]),):
                raise peers[0].error(f"read {one}; accepted: {PEER_AID} by itself, without weight")
            _of_peers(peers[0])
            found[name] = Method(formula, attack=replace(spec.call(peer.ATTACK, flag=flag), args=(epsilon,)))
        elif any("." in call.name or call.name == "labels" for call in calls):
            found[name] = Method(formula)
        else:
            known = sorted((*METHODS.names(), *CONTROLS, PEER_AID))
            if strange := next((call for call in calls if call.name not in known), None):
                listed = f"accepted: {', '.join(known)}{nearest(strange.name, known)}"
                raise strange.error(f"read the name {strange.name}; {listed}")
            terms = [weight * _at(call, epsilon) for weight, call in formula.terms]
            found[name] = method(Formula(tuple(t for term in terms for t in term.terms)), flag=flag)
    return found


def peer_aid(
    form: Literal["paper", "release"] = "paper",
    temperature: float = peer.HPARAMS["temperature"],
    labels: float = peer.HPARAMS["labels"],
    peer: float = peer.HPARAMS["peer"],
    own: float = peer.HPARAMS["own"],
    peer_labels: float = peer.HPARAMS["peer_labels"],
    peer_student: float = peer.HPARAMS["peer_student"],
) -> tuple[Literal["paper", "release"], dict[str, float]]:
    """What can be typed of `kdjax.recipes.peer.peer_aid`: its form, and its numbers."""
    numbers = {
        "temperature": temperature, "labels": labels, "peer": peer, "own": own, "peer_labels": peer_labels,
        "peer_student": peer_student,
    }  # fmt: skip
    if wrong := [f"{name}={x:g}" for name, x in numbers.items() if x < 0 or (name == "temperature" and x == 0)]:
        raise BadInput(f"{wrong[0]}; accepted: numbers from 0 up, a temperature above 0")
    return form, numbers


def _of_peers(call: Call) -> tuple[Literal["paper", "release"], dict[str, float]]:
    """The form and the numbers that a call of PeerAiD says."""
    bound = Family(sys.modules[__name__], accepts=lambda function: function is peer_aid).resolve(call, varying=False)
    try:
        return bound()
    except BadInput as error:
        raise call.error(str(error)) from None


def _at(call: Call, epsilon: Any) -> Call:
    """The same with the radius, where it takes one and has none."""
    if "epsilon" in bound(call) or METHODS.find(call)().attack is None:
        return call
    return replace(call, kwargs=(*call.kwargs, ("epsilon", epsilon)))


def training_of(name: str, one: Method, student: Model, teacher: Model, *, steps: int, batch_size: int) -> Training:
    """How the student learns by one method, checked on shapes.

    Raises:
        BadInput: as `lesson`; the folder of a further teacher.
    """
    facts = {"attack": str(one.attack or ""), IN_TRAINING: name == CONTROLS[1]}
    call = one.expression.terms[0].call
    if call.name == PEER_AID and one.attack:
        form, numbers = _of_peers(call)
        both = peer.peer_aid(student, teacher, attack=one.attack, form=form, steps=steps)
        hparams = {**both.hparams, **numbers}
        return Training(name, peer.peers(student, teacher), both, hparams, _none, facts, from_labelled=True)
    if any(folder for _, folder in one.others):
        raise BadInput(f"{name}: read {dict(one.others)}; accepted: none, the natural teacher is trained here.")
    others = {role: teacher for role, _ in one.others}
    plan = lesson(
        one.expression, student, teacher, steps=steps, batch_size=batch_size, attacked=one.attack, others=others,
        flag=name,
    )  # fmt: skip
    plan.refuse_sets(name)
    recipe = with_key(plan.taught_by(in_training(plan.teacher))) if facts[IN_TRAINING] else plan.loss_fn
    # Of images without a label it attacks none, or no teacher says anything of them.
    labelled = plan.by_label or not plan.asks
    says, asks = str(one.expression), tuple(plan.asks)
    return Training(says, plan.model, recipe, plan.hparams, plan.frozen, facts, asks, tuple(plan.others), labelled)


def _none(*given: Any) -> None:
    """A method without a teacher reads no variables but its own."""


def refuse_same_in_training(teacher: Model, shape: Mapping[str, Any]) -> None:
    """Refuse a control that equals what it controls: a teacher that says the same in training mode.

    Raises:
        BadInput: the teacher has neither dropout nor batch statistics.
    """
    params, state = teacher.init(jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (8, *shape["image_shape"]))
    plain, drawn = (
        np.asarray(teacher.apply({"params": params, **state}, image, train=train, key=jax.random.key(2))[0].logits)
        for train in (False, True)
    )
    if np.array_equal(plain, drawn):
        raise BadInput(
            f"--methods={CONTROLS[1]}: the teacher says the same in training mode; accepted: a teacher with dropout or "
            "batch norm, or no such control."
        )


def in_training(teacher: Model) -> Teacher:
    """A teacher left in training mode: its dropout draws in every step, its BatchNorm sees the batch alone."""

    def ask(frozen: PyTree, batch: Batch) -> Any:
        key: Any = batch[TEACHER_KEY]
        image, mask = jnp.asarray(batch["inputs"]), jnp.asarray(batch["mask"])
        return teacher.apply(frozen, image, train=True, key=key, mask=mask)[0]

    return Teacher(ask)


def with_key(recipe: LossFn) -> LossFn:
    """A recipe whose teacher draws too, other numbers than the student."""

    def keyed(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return recipe(params, state, {**batch, TEACHER_KEY: jax.random.fold_in(key, 2)}, key)

    return replace(recipe, function=keyed) if isinstance(recipe, Recipe) else keyed
