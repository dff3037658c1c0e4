"""The methods of the field, each as flags of `distill` would write it, with the weights that the field uses for it.

Weights are those of CIFAR-100's common protocol (Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR
2020, and the code released with it) where it has the method, of the method's own code or paper otherwise; they were
tuned on one pair of networks, so `experiments.methods` multiplies them by factors chosen on validation data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from kdjax.config import field
from kdjax.losses import combine
from kdjax.models import create as models
from kdjax.study import lesson, networks
from kdjax.study.data import Common, Study
from kdjax.study.stages import answers_alone, hints_alone
from kdjax.teachers.live import live
from kdjax.types import BadInput, LossFn, Model, nearest

ALL, MIDDLE, LAST = "all", "middle", "last"


class Method(NamedTuple):
    """What one method adds to cross-entropy with the labels.

    `losses`: weights by name, of those that `combine.names()` knows. `labels`: the cross-entropy's weight. `layers`:
    which pairs of the layer map losses on features compare; losses that need none compare answers or embeddings.
    `args`, `schedules`: as the flags of `distill` write them; `{warmup}` is a fraction of the run. `first`: what
    share of the epochs compares layers alone, before those of labels alone.
    """

    losses: dict[str, float]
    labels: float = 1.0
    layers: str = ""
    args: str = ""
    schedules: str = ""
    first: float = 0.0

    def text(self, pairs: Sequence[tuple[str, str]] = ()) -> str:
        """The losses as `--loss` takes them; relations between layers, of which there is one pair, name it."""
        at = "@{}={}".format(*pairs[-1]) if self.layers == LAST and pairs else ""
        weighed = [f"{n}:{weight:g}{at if n.startswith('relation.') else ''}" for n, weight in self.losses.items()]
        return ",".join([f"labels:{self.labels:g}", *weighed])

    def map(self, pairs: Sequence[tuple[int, int]]) -> str:
        """Its layers as `--layers` takes them, of the pairs of a layer map."""
        if not self.layers or not pairs:
            return ""
        chosen = {ALL: list(pairs), MIDDLE: [pairs[len(pairs) // 2]], LAST: [pairs[-1]]}[self.layers]
        return ",".join(f"{m}={g}" for m, g in chosen)


_WARM = 20 / 240

METHODS: dict[str, Method] = {
    "KD": Method({"response.kl": 0.9}, labels=0.1),
    "soft cross-entropy": Method({"response.soft_cross_entropy": 0.9}, labels=0.1),
    "reverse KL": Method({"response.reverse_kl": 0.9}, labels=0.1),
    "Jensen-Shannon": Method({"response.jensen_shannon": 0.9}, labels=0.1),
    "logit MSE": Method({"response.logit_mse": 0.9}, labels=0.1),
    "centred logit MSE": Method({"response.centred_logit_mse": 0.9}, labels=0.1),
    "hard labels of the teacher": Method({"response.hard_label": 0.5}, labels=0.5),
    "KD, standardised": Method({"response.standardized_kl": 9.0}, labels=0.1),
    "DKD": Method({"response.dkd": 1.0}, args="beta=8", schedules=f"response.dkd=warmup:{_WARM:.4f}"),
    "DIST": Method({"response.dist": 1.0}),
    "FitNet": Method({"feature.hint": 100.0}, layers=MIDDLE),
    "FitNet, two stages": Method({"feature.hint": 100.0}, layers=MIDDLE, first=1 / 4),
    "AT": Method({"feature.attention": 1000.0}, layers=ALL),
    "AT, as in the paper": Method({"feature.attention_paper": 1.0}, layers=ALL),
    "NST": Method({"feature.nst": 50.0}, layers=ALL),
    "FSP": Method({"feature.fsp": 50.0}, layers=ALL, first=1 / 8),
    "VID": Method({"feature.vid": 1.0}, layers=ALL),
    "OFD": Method({"feature.ofd": 1e-3}, layers=ALL),
    "ReviewKD": Method({"feature.review": 1.0}, layers=ALL, schedules=f"feature.review=warmup:{_WARM:.4f}"),
    "AB": Method({"feature.ab": 3e-3}, layers=ALL, first=1 / 8),
    "FT": Method({"feature.ft": 500.0}, layers=LAST, first=1 / 8),
    "FT, as in the CIFAR-100 code": Method({"feature.ft_crd": 200.0}, layers=LAST, first=1 / 8),
    "PKD": Method({"feature.pkd": 10.0}, layers=ALL),
    "cosine": Method({"feature.cosine": 1.0}, layers=ALL),
    "RKD": Method({"relation.rkd_distance": 25.0, "relation.rkd_angle": 50.0}),
    "SP": Method({"relation.sp": 3000.0}, layers=LAST),
    "PKT": Method({"relation.pkt": 30000.0}),
    "CC, kernel": Method({"relation.cc_kernel": 0.02}),
    "CC, neighbours": Method({"relation.cc_neighbours": 0.02}),
    "CRD": Method({"contrastive.crd": 0.8}),
    "CRD with KD": Method({"response.kl": 1.0, "contrastive.crd": 0.8}),
    "contrast with a queue": Method({"contrastive.queue": 0.8}),
}
"""By the names that tables print."""


def missing() -> set[str]:
    """The losses that no method uses; a test wants none."""
    return set(combine.names()) - {name for method in METHODS.values() for name in method.losses}


def slug(name: str) -> str:
    """A method's name in folders and flags.

    >>> slug("FitNet, two stages")
    'fitnet-two-stages'
    """
    return name.lower().replace(",", "").replace(" ", "-")


NAMES = ", ".join(map(slug, METHODS))


def named(text: str) -> dict[str, Method]:
    """The methods that a flag names: `all`, or slugs joined by commas.

    Raises:
        BadInput: a name that is no method's, or one twice.

    >>> list(named("at,kd"))
    ['AT', 'KD']
    """
    by_slug = {slug(name): name for name in METHODS}
    found: dict[str, Method] = {}
    for part in by_slug if text == "all" else [part.strip() for part in text.split(",")]:
        if part not in by_slug:
            raise BadInput(f"--methods={text}: {part!r} is no method; accepted: all, {NAMES}{nearest(part, by_slug)}")
        if by_slug[part] in found:
            raise BadInput(f"--methods={text} names {part} twice; accepted is each once.")
        found[by_slug[part]] = METHODS[by_slug[part]]
    return found


@dataclass(frozen=True)
class Flags(Common):
    """The flags of what tries methods on one pair of networks."""

    methods: str = field("all", f"all that fit the networks, or some of: {NAMES}", smoke="kd,ab")
    teacher_model: str = field("cnn", "teacher's network", choices=models.all_names())
    teacher_hidden: tuple[int, ...] = field((32, 64, 64), "teacher's widths or channels", low=1, smoke=(6, 6, 6))
    student_model: str = field("cnn", "student's network", choices=models.all_names())
    student_hidden: tuple[int, ...] = field((8, 16, 16), "student's widths or channels", low=1, smoke=(4, 4, 4))
    standardize: bool = field(False, networks.STANDARDIZE)
    layers: str = field("every:1", "numbered layers that methods on layers take their pairs from, such as every:3")
    epochs: int = field(30, "passes of each student", low=1, smoke=4)
    temperature: float = field(4.0, "softens both sides where answers are compared", low=1e-6, high=1e4)


class Stage(NamedTuple):
    """A part of a method's training, `epochs` long: its plan, and the recipe that serves every factor."""

    plan: lesson.Plan
    recipe: LossFn
    epochs: int


class Arm(NamedTuple):
    """One method on one pair of networks: its only stage, or a first one that compares layers alone and the second."""

    method: Method
    stages: tuple[Stage, ...]

    def hparams(self, factor: float) -> list[dict[str, float]]:
        """Those of each stage, the method's weights multiplied by a factor."""
        plans = [stage.plan for stage in self.stages]
        scaled = [plan._replace(hparams=self._scaled(plan.hparams, factor)) for plan in plans]
        if len(scaled) == 1:
            return [scaled[0].hparams]
        return [hints_alone(scaled[0]), answers_alone(scaled[1])]

    def _scaled(self, hparams: dict[str, float], factor: float) -> dict[str, float]:
        own = ("alpha", *(f"weight/{name}" for name in self.method.losses))
        return {name: value * factor if name.partition("@")[0] in own else value for name, value in hparams.items()}


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
    plan = partial(
        lesson.plan,
        student,
        teacher,
        study.shape,
        temperature=config.temperature,
        examples=examples,
        batch_size=config.batch_size,
    )
    mapped = plan(loss="response.kl", steps=1, layers=config.layers)
    pairs = mapped.layers
    if "+" in config.layers or not pairs:
        raise BadInput(f"--layers={config.layers}; accepted: a map of numbered layers, such as every:3 or 3=9,6=18.")
    for name, method in named(config.methods).items():
        first = max(round(method.first * config.epochs), 1) if method.first and config.epochs > 1 else 0
        lengths = [first, config.epochs - first] if first else [config.epochs]
        own = partial(
            plan,
            loss=method.text(mapped.named),
            loss_args=method.args,
            layers=method.map(pairs),
            schedules=method.schedules,
        )
        try:
            plans = [own(steps=steps * length, second=number > 0) for number, length in enumerate(lengths)]
        except BadInput as error:
            if config.methods != "all":
                raise
            unfit[name] = str(error)
            continue
        stages = zip(plans, lengths, strict=True)
        found[name] = Arm(method, tuple(Stage(one, one.recipe(live(teacher.apply)), n) for one, n in stages))
    return found, unfit
