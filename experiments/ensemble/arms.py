"""Several teachers of one student: what they are, what each of them sees, what they say, and how they are followed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.data.source import Examples
from kdjax.ensembles import pools
from kdjax.losses import response
from kdjax.models import create as models
from kdjax.models.connect import connectors
from kdjax.recipes import confidence
from kdjax.recipes.distill import distill
from kdjax.teachers import several
from kdjax.teachers.live import Teacher
from kdjax.teachers.stored import cached, cached_with_features
from kdjax.types import BadInput, LossFn, Model, Outputs, PyTree

TEACHERS = "NAME:WIDTH:WIDTH, joined by commas, such as mlp:128,cnn:8:16,lenet"


Predict = Callable[[Model, PyTree, Examples], np.ndarray]
"""`(network, variables, examples) -> [N, ...]`, what a network says of every example."""


class Expert(NamedTuple):
    """A teacher as it was typed, its network, and the same network answering with its last features."""

    text: str
    model: Model
    features: Model


def parse_teachers(text: str, shape: dict[str, Any]) -> list[Expert]:
    """The networks that a flag names, for classes and images of this shape.

    Raises:
        BadInput: none, an unknown network, or widths that do not fit it.
    """
    found: list[Expert] = []
    for part in text.replace(" ", "").split(","):
        name, *widths = part.split(":")
        try:
            own: dict[str, Any] = {"hidden": tuple(map(int, widths))} if widths else {}
            model = models.create(name, **shape, **own)
            jax.eval_shape(model.init, jax.random.key(0))
        except (BadInput, ValueError) as error:
            raise BadInput(f"--teachers={text}: {part!r}: {error}; accepted is {TEACHERS}") from None
        found.append(Expert(part, model, Model(model.init, partial(_last_features, model))))
    return found


def _last_features(
    model: Model, variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
) -> Any:
    outputs, state = model.apply(variables, image, train=train, key=key, mask=mask)
    return Outputs(outputs.features["embedding"], outputs.features), state


class Arm(NamedTuple):
    """A way of following all teachers: how one answer is made of theirs, and the weight of CA-MKD's feature term."""

    ensemble: pools.Ensemble
    features: float = 0.0


def parse_arm(text: str) -> Arm:
    """`vote+entropy:scale=0.3:threshold=0.5` as an arm; a keyword's value is a number, or several, as in 2/1/1.

    The keyword `features` is the weight of CA-MKD's feature term beside the answers.

    >>> parse_arm("mean_probability+confidence_aware:features=50").features
    50.0
    """
    names, *pairs = text.split(":")
    pool, _, gate = names.partition("+")
    hyper: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            numbers = tuple(float(part) for part in value.split("/"))
            if not np.isfinite(numbers).all():
                raise ValueError
        except ValueError:
            raise BadInput(f"--arms: {pair!r} in {text!r}; accepted are KEY=NUMBER, or KEY=1/2/1.") from None
        hyper[key] = numbers[0] if len(numbers) == 1 else numbers
    features = hyper.pop("features", 0.0)
    if isinstance(features, tuple) or features < 0:
        raise BadInput(f"--arms: features={features} in {text!r}; accepted is one number from 0 up.")
    return Arm(pools.resolve(pool, gate or "uniform", **hyper), features)


def parse_arms(text: str, against: str, *, experts: Sequence[Expert], classes: int) -> dict[str, Arm]:
    """All arms by the names in the table, each called once on shapes alone, so that all is checked now."""
    texts = dict.fromkeys([against, *filter(None, text.replace(" ", "").split(","))])
    arms = {text: parse_arm(text) for text in texts}
    said, labels = jnp.zeros((len(experts), 2, classes)), jnp.zeros(2, jnp.int32)
    for arm in arms.values():
        jax.eval_shape(lambda v, z, y, arm=arm: arm.ensemble(v, student=z, labels=y), said, said[0], labels)
    for expert in experts if any(arm.features for arm in arms.values()) else ():
        params, state = jax.eval_shape(expert.model.init, jax.random.key(0))
        confidence.classifier({"params": params, **state})
    return arms


def taught(source: Examples, share: float, noise: float, seed: int) -> Examples:
    """What a teacher sees: a share of the images, of which a share is labelled as the next class."""
    rng = np.random.default_rng(seed)
    seen = source.select(np.sort(rng.permutation(len(source))[: max(round(share * len(source)), 1)]))
    label = seen.labels().copy()
    wrong = rng.permutation(len(label))[: round(noise * len(label))]
    label[wrong] = (label[wrong] + 1) % source.num_classes
    return seen.with_column("label", label)


class Taught(NamedTuple):
    """How a student follows an arm: what is trained, the student on what was trained, the recipe, what to train on,
    the step's frozen variables, and further hyper-parameters."""

    model: Model
    student: Model
    recipe: LossFn
    source: Examples
    frozen: PyTree = None
    hparams: Mapping[str, float] = MappingProxyType({})


class Staff:
    """Trained teachers and their answers, each computed once where they are cached."""

    def __init__(
        self, predict: Predict, experts: Sequence[Expert], weights: Sequence[PyTree], *, live: bool = False
    ) -> None:
        self.predict, self.experts, self.weights, self.live = predict, experts, weights, live
        self.names = [f"teacher{number}" for number in range(1, len(experts) + 1)]

    def answers(self, source: Examples) -> np.ndarray:
        """What the teachers say of every example, `[N, T, K]`."""
        pairs = zip(self.experts, self.weights, strict=True)
        return np.stack([self.predict(e.model, w, source) for e, w in pairs], 1)

    def teach(self, student: Model, transfer: Examples, said: np.ndarray, arm: Arm) -> Taught:
        """How a student follows all teachers.

        Args:
            student: the network.
            transfer: its images.
            said: the teachers' answers to them.
            arm: in which way.
        """
        if not arm.features:
            source, teacher, frozen = self._source(transfer, said)
            recipe = distill(student, teacher, response.kl, ensemble=arm.ensemble)
            return Taught(student, student, recipe, source, frozen)
        by_name = dict(zip(self.names, self.weights, strict=True))
        together = several.together({n: e.model.apply for n, e in zip(self.names, self.experts, strict=True)})
        if self.live:
            source, teacher, frozen = transfer, together, by_name
        else:
            source, teacher = transfer.with_column("teacher_logits", said), cached_with_features(self.names)
            frozen = {n: confidence.classifier(w) for n, w in by_name.items()}
            for name, expert in zip(self.names, self.experts, strict=True):
                column = self.predict(expert.features, by_name[name], transfer)
                source = source.with_column(f"{name}/embedding", column)

        def whole(
            variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
        ) -> tuple[Outputs, PyTree]:
            return together(variables, {"image": image}), {}

        links = {n: connectors.Link("embedding", f"{n}/embedding", connectors.Project()) for n in self.names}
        connected = connectors.connect(
            student, links, image_shape=transfer.image_shape(), teacher=(Model(student.init, whole), by_name)
        )
        recipe = confidence.distill_with_features(
            connected.model, connected.pairs, teacher, response.kl, names=self.names, ensemble=arm.ensemble
        )
        alone = Model(student.init, partial(_without_projections, student))
        return Taught(connected.model, alone, recipe, source, frozen, {confidence.WEIGHT: arm.features})

    def _source(self, transfer: Examples, said: np.ndarray) -> tuple[Examples, Teacher, PyTree]:
        if not self.live:
            return transfer.with_column("teacher_logits", said), cached(), None
        if len({e.text for e in self.experts}) == 1:
            return transfer, several.stacked(self.experts[0].model.apply), several.stack(self.weights)
        applies = {n: e.model.apply for n, e in zip(self.names, self.experts, strict=True)}
        return transfer, several.together(applies), dict(zip(self.names, self.weights, strict=True))


def _without_projections(
    student: Model, variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
) -> Any:
    return student.apply(connectors.without_adapter(variables), image, train=train, key=key, mask=mask)
