"""Several teachers of one student: what they are, what each of them sees, what they say, and how they are followed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax import models, spec
from kdjax.data.source import Examples
from kdjax.ensembles import pools
from kdjax.evaluation.answers import decided
from kdjax.losses import response
from kdjax.models.connect import connectors
from kdjax.recipes import confidence
from kdjax.recipes.distill import distill
from kdjax.recipes.learn import CONNECTORS
from kdjax.spec import Call, Formula
from kdjax.spec.formula import Summand
from kdjax.study.compare import Done, Given
from kdjax.study.train import predict
from kdjax.teachers import several
from kdjax.teachers.live import Teacher
from kdjax.teachers.stored import cached, cached_with_features
from kdjax.types import STUDENT, BadInput, LossFn, Model, Networks, Outputs, PyTree

TEACHERS = "networks with their widths, such as 'mlp(128), cnn(8, 16), lenet'"

FEATURES = "features"


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
    for call in spec.calls(text, flag="teachers"):
        if call.kwargs or not all(type(width) is int for width in call.args):
            raise call.error(f"read {call!r}; accepted: {TEACHERS}")
        try:
            model = models.create(call.name, **shape, hidden=call.args)  # pyright: ignore[reportArgumentType]
            jax.eval_shape(model.init, jax.random.key(0))
        except BadInput as error:
            raise call.error(f"{error}; accepted: {TEACHERS}") from None
        found.append(Expert(str(call), model, Model(model.init, partial(_last_features, model))))
    return found


def _last_features(
    model: Model, variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
) -> Any:
    outputs, state = model.apply(variables, image, train=train, key=key, mask=mask)
    return Outputs(outputs.features["embedding"], outputs.features), state


class Way(NamedTuple):
    """A way of following all teachers: how one answer is made of theirs, and the weight of CA-MKD's feature term."""

    ensemble: pools.Ensemble
    features: float = 0.0


def parse_way(value: str | Summand) -> Way:
    """`vote(threshold=0.5) + entropy(scale=0.3)` as a way; `features` is CA-MKD's feature term beside the answers.

    Raises:
        BadInput: no ensemble, or a weight of the term that is not one number from 0 up.

    >>> parse_way("mean_probability + confidence_aware + 50*features").features
    50
    """
    terms = spec.formula(value, flag="arms").terms
    weights: list[float] = []
    for weight, call in terms:
        if call.name == FEATURES:
            if not isinstance(weight, int | float) or weight < 0 or weights or call != Call(FEATURES):
                raise call.error(f"read {weight!r}*{call!r}; accepted: one NUMBER*{FEATURES}, the number from 0 up")
            weights.append(weight)
    answers = tuple(term for term in terms if term.call.name != FEATURES)
    if not answers:
        raise terms[0].call.error(f"read {value} without a pool; accepted: POOL + GATE + NUMBER*{FEATURES}")
    return Way(pools.resolve(Formula(answers)), *weights)


def parse_ways(text: str, against: str, *, experts: Sequence[Expert], classes: int) -> dict[str, Way]:
    """All arms by the names in the table, each called once on shapes alone, so that all is checked now."""
    typed = (*spec.summands(against, flag="against"), *(spec.summands(text, flag="arms") if text else ()))
    ways = {str(one): parse_way(one) for one in typed}
    logits, labels = jnp.zeros((len(experts), 2, classes)), jnp.zeros(2, jnp.int32)
    for way in ways.values():
        jax.eval_shape(lambda v, z, y, way=way: way.ensemble(v, student=z, labels=y), logits, logits[0], labels)
    for expert in experts if any(way.features for way in ways.values()) else ():
        confidence.classifier(_shapes(expert.model))
    return ways


def taught(source: Examples, share: float, noise: float, seed: int) -> Examples:
    """What a teacher sees: a share of the images, of which a share is labelled as the next class."""
    rng = np.random.default_rng(seed)
    seen = source.select(np.sort(rng.permutation(len(source))[: max(round(share * len(source)), 1)]))
    label = seen.labels().copy()
    wrong = rng.permutation(len(label))[: round(noise * len(label))]
    label[wrong] = (label[wrong] + 1) % source.num_classes
    return seen.with_column("label", label)


class Teachers:
    """Several teachers as arms, and what they say together at a seed; each is asked once.

    Args:
        experts: the networks.
        arms: by the name of the arm that trains each.
        live: whether they run in every step, and are not asked once.
    """

    def __init__(self, experts: Sequence[Expert], arms: Sequence[str], *, live: bool = False) -> None:
        self.experts, self.arms, self.live = experts, tuple(arms), live
        self.names = [f"teacher{number}" for number in range(1, len(experts) + 1)]

    def answers(self, done: Done, source: Examples) -> np.ndarray:
        """What the teachers say of every example, `[N, T, K]`."""
        ask = lambda: np.stack([done.answers(arm, source) for arm in self.arms], 1)  # noqa: E731
        return done.once(("teachers", id(source)), ask)

    def best(self, done: Done, validation: Examples) -> tuple[int, list[float]]:
        """The number of the teacher with the best accuracy on the validation split, and every one's."""
        right = decided(self.answers(done, validation)) == validation.labels()[:, None]
        accuracy = right.mean(0)
        return int(accuracy.argmax()), [float(a) for a in accuracy]

    def weights(self, done: Done) -> dict[str, PyTree]:
        """The teachers' variables by name."""
        return {name: done.weights(arm) for name, arm in zip(self.names, self.arms, strict=True)}


class Followed(NamedTuple):
    """How a student follows all teachers by one way: what is trained, the recipe, further hyper-parameters, and what it
    trains on at a seed."""

    model: Model | Networks
    recipe: LossFn
    hparams: Mapping[str, float]
    given: Callable[[Done], Given]


def follow(student: Model, transfers: Sequence[Examples], teachers: Teachers, way: Way) -> Followed:
    """A student of several teachers.

    Args:
        student: the network.
        transfers: its images, by seed.
        teachers: whom it follows.
        way: in which way.
    """

    def cached_answers(done: Done) -> Examples:
        images = transfers[done.seed]
        return images.with_column("teacher_logits", teachers.answers(done, images))

    applies = {name: e.model.apply for name, e in zip(teachers.names, teachers.experts, strict=True)}
    if way.features:
        return _with_features(student, transfers, teachers, way, several.together(applies), cached_answers)
    if not teachers.live:
        teacher, given = cached(), lambda done: Given(cached_answers(done))
    elif len({e.text for e in teachers.experts}) == 1:
        teacher = several.stacked(teachers.experts[0].model.apply)
        given = lambda done: Given(transfers[done.seed], several.stack(list(teachers.weights(done).values())))  # noqa: E731
    else:
        teacher = several.together(applies)
        given = lambda done: Given(transfers[done.seed], teachers.weights(done))  # noqa: E731
    recipe = distill(student, teacher, response.kl, ensemble=way.ensemble)
    return Followed(student, recipe, {}, given)


def _with_features(
    student: Model,
    transfers: Sequence[Examples],
    teachers: Teachers,
    way: Way,
    together: Teacher,
    cached_answers: Callable[[Done], Examples],
) -> Followed:
    """CA-MKD: the student's last features, projected, are near each teacher's too."""

    def whole(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        return together(variables, {"inputs": image}), {}

    def given(done: Done) -> Given:
        by_name = teachers.weights(done)
        if teachers.live:
            return Given(transfers[done.seed], by_name)
        source = cached_answers(done)
        for name, expert in zip(teachers.names, teachers.experts, strict=True):
            column = predict(done.study, expert.features, by_name[name], transfers[done.seed])
            source = source.with_column(f"{name}/embedding", column)
        return Given(source, {name: confidence.classifier(w) for name, w in by_name.items()})

    shapes = {name: _shapes(e.model) for name, e in zip(teachers.names, teachers.experts, strict=True)}
    links = {n: connectors.Link(("embedding",), (f"{n}/embedding",), connectors.Project()) for n in teachers.names}
    connected = connectors.connect(
        student, links, image_shape=transfers[0].image_shape(), teacher=(Model(student.init, whole), shapes)
    )
    teacher = together if teachers.live else cached_with_features(teachers.names)
    recipe = confidence.distill_with_features(
        student, connected.pairs, teacher, response.kl, names=teachers.names, ensemble=way.ensemble
    )
    both = Networks({STUDENT: student.init, CONNECTORS: connected.init})
    return Followed(both, recipe, {confidence.WEIGHT: way.features}, given)


def _shapes(model: Model) -> PyTree:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    return {"params": params, **state}
