"""The methods of the field on one pair of networks: the flags, and each method's stages."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from kdjax import spec
from kdjax.config import field
from kdjax.methods import FAMILY, METHODS, Method, method
from kdjax.recipes.lesson import Lesson, lesson
from kdjax.recipes.reading import OF_LABELS
from kdjax.study import networks
from kdjax.study.data import Common, Study
from kdjax.study.stages import AFTER_LAYERS, hints_alone
from kdjax.teachers.live import live
from kdjax.types import BadInput, LossFn, Model

NAMES = ", ".join(METHODS.names())
ALL = "all"


@dataclass(frozen=True)
class Flags(Common):
    """The flags of what tries methods on one pair of networks."""

    methods: str = field(ALL, f"all that fit the networks and attack nobody, or some of: {NAMES}", smoke="kd, ab")
    teacher: str = field("cnn(32, 64, 64)", networks.NETWORK, smoke="cnn(6, 6, 6)")
    student: str = field("cnn(8, 16, 16)", networks.NETWORK, smoke="cnn(4, 4, 4)")
    standardize: bool = field(False, networks.STANDARDIZE)
    epochs: int = field(30, "passes of each student", low=1, smoke=4)


class Stage(NamedTuple):
    """A part of a method's training, `epochs` long: its lesson, and the recipe that serves every factor."""

    plan: Lesson
    recipe: LossFn
    epochs: int


class Arm(NamedTuple):
    """One method on one pair of networks: its only stage, or a first one that compares layers alone and the second."""

    method: Method
    stages: tuple[Stage, ...]

    def hparams(self, factor: float) -> list[dict[str, float]]:
        """Those of each stage, all weights but the labels' multiplied by a factor."""
        own = [dict.fromkeys(set(stage.plan.kinds.values()) - {OF_LABELS}, factor) for stage in self.stages]
        if len(self.stages) == 1:
            return [self.stages[0].plan.scaled(own[0])]
        first, second = (stage.plan for stage in self.stages)
        off = dict.fromkeys(set(second.kinds.values()) - set(AFTER_LAYERS), 0.0)
        alone = {name: value for name, value in hints_alone(first).items()}
        kept = {name: first.scaled(own[0])[name] if value else value for name, value in alone.items()}
        return [kept, second.scaled({**own[1], **off})]


def named(text: str) -> dict[str, Method]:
    """The methods that a flag names: `all`, or some with numbers of their own, `kd, review(weight=5)`.

    Raises:
        BadInput: a name that is no method's, or one twice.

    >>> list(named("at, kd(temperature=2)"))
    ['at', 'kd(temperature=2)']
    """
    if text == ALL:
        return {name: method(name) for name in FAMILY.names()}
    calls = spec.calls(text, flag="methods")
    if len(set(calls)) < len(calls):
        raise BadInput(f"--methods={text} names one twice; accepted is each once.")
    return {str(call): method(call, flag="methods") for call in calls}


def slug(name: str) -> str:
    """A method's name in folders.

    >>> slug("kd(temperature=2)")
    'kd-temperature-2'
    """
    return "-".join("".join(c if c.isalnum() or c in "._" else " " for c in name).split())


def arms(
    config: Flags, study: Study, student: Model, teacher: Model, *, examples: int
) -> tuple[dict[str, Arm], dict[str, str]]:
    """The methods that the flag names; of `all`, also those that these networks have no layers for, with the reason.

    Args:
        config, study: flags and data.
        student, teacher: the networks.
        examples: that students learn from.

    Raises:
        BadInput: a name that is no method's; a method by name that does not fit the networks.
    """
    found: dict[str, Arm] = {}
    unfit: dict[str, str] = {}
    steps = -(-len(study.train) // config.batch_size)
    for name, one in named(config.methods).items():
        first = max(round(one.first * config.epochs), 1) if one.first and config.epochs > 1 else 0
        lengths = [first, config.epochs - first] if first else [config.epochs]
        own = partial(
            lesson, one.expression, student, teacher, examples=examples, batch_size=config.batch_size,
            attacked=one.attack, flag=name,
        )  # fmt: skip
        try:
            plans = [own(steps=steps * length, taught=number > 0) for number, length in enumerate(lengths)]
        except BadInput as error:
            if config.methods != ALL:
                raise
            unfit[name] = str(error)
            continue
        for plan in plans:
            plan.refuse_sets(f"--methods={config.methods}")
        stages = zip(plans, lengths, strict=True)
        found[name] = Arm(one, tuple(Stage(plan, plan.taught_by(live(teacher.apply)), n) for plan, n in stages))
    return found, unfit
