"""Read an attack of an expression: `pgd(8/255, steps=10, objective=response.kl(student=attacked))`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax import spec
from kdjax.attacks import catalogue, objectives
from kdjax.attacks.catalogue import ATTACKS
from kdjax.recipes.attacked import Attacked, check
from kdjax.recipes.reading import Reader
from kdjax.recipes.terms import Term, numbers_of, value_of
from kdjax.spec import Call, Formula, Schedule, Set
from kdjax.types import ATTACKED, CLEAN, LINEARIZED, BadInput, TrainState

OBJECTIVE, SHARE = "objective", "share"
CLIMBED = (CLEAN, ATTACKED, LINEARIZED)
"""The views that an attack may look at."""


class ReadAttack(NamedTuple):
    """An attack that was read: what `learn` takes, its numbers by place, and the sets among them."""

    attacked: Attacked
    hparams: dict[str, float]
    sets: dict[str, Set]


def read_attack(typed: str | Call, *, steps: int | None = None, teachers: tuple[str, ...] = ()) -> ReadAttack:
    """The attack that makes the attacked view, with its numbers as hyper-parameters.

    Args:
        typed: an attack of `kdjax.attacks` with its settings, and beside them `objective`, a sum of losses that it
            makes large (`response.kl(student=attacked, teacher=clean)`; in it `stop` is False where nothing is said)
            or the name of one of labels alone, and `share`, of the rows that it attacks.
        steps: of the run; needed where a schedule stands.
        teachers: names of further teachers.

    Returns:
        The attack, and its numbers by `ATTACK.SETTING`; a setting that is a whole number by nature is none of them.

    Raises:
        BadInput: an unknown attack, setting, loss or view, a set where a whole number stands, or a number that the
            attack or a loss refuses: of sets both ends are looked at, of schedules the least and the greatest too.
    """
    call = spec.call(typed, flag="attack")
    bound = ATTACKS.bind(call, beside=_conduct)
    objective, share = bound.pop(OBJECTIVE, None), bound.pop(SHARE, 1.0)
    if isinstance(share, Schedule | Set):
        raise call.error(f"read {SHARE}={share!r}; accepted: one number from 0 to 1")
    make, parameters = ATTACKS.find(call), ATTACKS.parameters(call)
    whole = [key for key, p in parameters.items() if p.annotation is int]
    if varying := [key for key in whole if isinstance(bound.get(key), Schedule | Set)]:
        raise call.error(f"read {varying[0]}={bound[varying[0]]!r} of {call.name}; accepted: one whole number")
    traced = {key: x for key, x in bound.items() if key not in whole and _varies(x)}
    plain = {key: x for key, x in bound.items() if key not in traced}
    for moment in spec.extremes(Call(call.name, (), tuple(traced.items()))):
        try:
            make(**plain, **moment.keywords)
        except BadInput as error:
            varied = (f"{key}={x}" for key, x in traced.items() if isinstance(x, Schedule | Set))
            named = next((one for one in varied if str(error).startswith(one.partition("=")[0] + "=")), "")
            raise call.error(f"{named} comes to {error}" if named else str(error)) from None
    reader = Reader(Formula(()), None, steps)
    numbers = {key: reader.number(x, f"{call.name}.{key}") for key, x in traced.items()}
    climbed = _climbed(call, objective, steps, teachers)
    attacked = Attacked(
        partial(make, **plain),
        tuple(climbed.terms) if isinstance(climbed, Reader) else climbed,
        share,
        lambda state: {key: number(state) for key, number in numbers.items()},
    )
    check(attacked)
    parts = [reader, climbed] if isinstance(climbed, Reader) else [reader]
    return ReadAttack(
        attacked,
        {name: x for part in parts for name, x in part.hparams.items()},
        {name: x for part in parts for name, x in part.sets.items()},
    )


def _conduct(objective=None, share: float = 1.0) -> None:
    """What can be said of every attack."""


def _climbed(
    call: Call, objective: Any, steps: int | None, teachers: tuple[str, ...]
) -> Reader | Callable[..., objectives.Scored]:
    """What the attack makes large, read; or what it makes small of labels alone, where that has a name."""
    aim = Call(catalogue.objective_of(call.name)) if objective is None else objective
    if isinstance(aim, Call) and aim.name in catalogue.OBJECTIVES and not aim.args + aim.kwargs:
        return catalogue.OBJECTIVES[aim.name]
    if not isinstance(aim, Call | Formula):
        names = ", ".join(catalogue.OBJECTIVES)
        raise call.error(f"read {OBJECTIVE}={aim!r}; accepted: a sum of losses, or one of {names}")
    own: Any = {"teachers": teachers, "prefix": f"{call.name}.", "stop": False, "views": CLIMBED, "fits": False}
    formula = spec.formula(aim)
    for moment in spec.extremes(formula):
        plain = Reader(moment, None, steps, **own)
        for term in plain.terms:
            _look(term, plain.hparams)
    return Reader(formula, None, steps, **own)


def _varies(value: Any) -> bool:
    return isinstance(value, Schedule | Set | float | int) and not isinstance(value, bool)


def _look(term: Term, hparams: Mapping[str, float]) -> None:
    """One look at the loss with its numbers as they are, so that it refuses them."""
    hyper: Any = dict(hparams)
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0), hyper, None)
    two = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    jax.eval_shape(lambda z, y: value_of(term, numbers_of(term, state), lambda side: z, y, None), two, label)
