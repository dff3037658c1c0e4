"""The methods of the field, each as flags of `distill` would write it, with the weights that the field uses for it.

Weights are those of CIFAR-100's common protocol (Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR
2020, and the code released with it) where it has the method, of the method's own code or paper otherwise; they were
tuned on one pair of networks, so `compare_methods` multiplies them by factors chosen on validation data.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from experiments import _knowledge
from kdjax.losses import combine
from kdjax.recipes.distill import live
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

    def text(self, factor: float = 1.0) -> str:
        """The losses as `--loss` takes them, weights multiplied by a factor."""
        weighed = [f"{name}:{weight * factor:.9g}" for name, weight in self.losses.items()]
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
    "AB": Method({"feature.ab": 1.0}, layers=ALL, first=1 / 8),
    "FT": Method({"feature.ft": 200.0}, layers=LAST),
    "PKD": Method({"feature.pkd": 10.0}, layers=ALL),
    "cosine": Method({"feature.cosine": 1.0}, layers=ALL),
    "RKD": Method({"relation.rkd_distance": 25.0, "relation.rkd_angle": 50.0}),
    "SP": Method({"relation.sp": 3000.0}, layers=LAST),
    "PKT": Method({"relation.pkt": 30000.0}),
    "CC, kernel": Method({"relation.cc_kernel": 0.02}),
    "CC, neighbours": Method({"relation.cc_neighbours": 0.02}),
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


class Arm(NamedTuple):
    """One method on one pair of networks: `plan` and `recipe` serve every factor, whose weights are `hparams`.

    `epochs` of the stage that compares layers alone, 0 for none, and of the one that follows.
    """

    plan: _knowledge.Plan
    recipe: LossFn
    hparams: dict[float, dict[str, float]]
    epochs: tuple[int, int]


def arms(
    methods: str,
    student: Model,
    teacher: Model,
    shape: Mapping[str, Any],
    *,
    steps_per_epoch: int,
    epochs: int,
    layers: str,
    factors: Sequence[float],
    temperature: float,
    wrapper: str,
) -> tuple[dict[str, Arm], dict[str, str]]:
    """The methods that a flag names; of `all`, also those that these networks have no layers for, with the reason.

    Raises:
        BadInput: a name that is no method's; a method by name that does not fit the networks.
    """
    found: dict[str, Arm] = {}
    unfit: dict[str, str] = {}
    pairs = _knowledge.plan(student, teacher, shape, loss="response.kl", steps=1, layers=layers).layers
    for name, method in named(methods).items():
        first = round(method.first * epochs)
        plan = partial(
            _knowledge.plan,
            student,
            teacher,
            shape,
            steps=steps_per_epoch * (epochs - first),
            temperature=temperature,
            loss_args=method.args,
            layers=method.map(pairs),
            schedules=method.schedules,
            wrapper=wrapper,
        )
        try:
            plans = {factor: plan(loss=method.text(factor)) for factor in factors}
        except BadInput as error:
            if methods != "all":
                raise
            unfit[name] = str(error)
            continue
        # One program: factors are weights, and weights are traced.
        one = next(iter(plans.values()))
        hparams = {factor: p.hparams for factor, p in plans.items()}
        found[name] = Arm(one, one.recipe(live(teacher.apply)), hparams, (first, epochs - first))
    return found, unfit
