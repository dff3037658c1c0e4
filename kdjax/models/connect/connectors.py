"""What stands between a student's layer and a teacher's while a feature loss compares them; thrown away afterwards.

A connector is a Linen module called as `connector(student, teacher, train=...) -> (student, teacher, keywords)`: what
the loss compares, two arrays or two tuples of them, and the further keywords that it takes. Projections stand on the
student's side, or the teacher's target could be made small; embeddings stand on both, as their papers say. `connect`
makes all connectors of a student one network beside it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from kdjax.models.connect.sizes import pooled, same_size
from kdjax.models.padding import BatchMean, real_rows
from kdjax.types import BadInput, Init, Model, Outputs, PyTree

Feature = Array | tuple[Array, ...]
Pair = tuple[Any, Any, dict[str, Any]]


class Project(nn.Module):
    """The student's layer as wide as the teacher's: itself where shapes agree, else one linear map of its channels.

    Of maps of different size the larger one is averaged to the smaller. Beside a vector a map is its mean over pixels.

    FitNets' regressor is a convolution whose kernel is as large as the difference of the maps' sizes, with the hint's
    own nonlinearity after it (in the CIFAR-100 code 3 x 3 with stride 2, 4 x 4 transposed with stride 2 or one that
    keeps the size, then BatchNorm and ReLU, and that too where shapes agree). Averages and 1 x 1 kernels have far fewer
    parameters and can reach negative hints.

    Reference:
        Jiao et al., TinyBERT, Findings of EMNLP 2020, equation 8 (W_h); Romero et al., FitNets: Hints for Thin Deep
        Nets, ICLR 2015, section 2.2.
    """

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> Pair:
        student, teacher = same_size(student, teacher)
        if student.shape != teacher.shape:
            student = nn.Dense(teacher.shape[-1], name="linear")(student)
        return student, teacher, {}


class Normalised(nn.Module):
    """A linear map of the student's channels and BatchNorm, always: the connector of AB and OFD.

    With `margin`, also the margin of each of the teacher's channels, the mean of its negative values over all batches
    seen while training, this one included; 0 where there are none. Its running sums lie in the state's collection
    `margins`: after a pass they are over the training set. The released code puts the
    numbers of the teacher's last BatchNorm into a closed form instead, `losses.feature.ofd_margin`: that is the same
    mean for a layer that is a BatchNorm's output and normally distributed, which after a shortcut's sum it is not.

    Both papers take layers before their ReLU: of a layer after it OFD's margin is 0. AB needs the teacher's signs
    alone, which are the same after it.

    Reference:
        Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019, section 3 and equation 3; Heo et al.,
        Knowledge Transfer via Distillation of Activation Boundaries, AAAI 2019, equation 5 (the connector).
    """

    margin: bool = False

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> Pair:
        keywords = {"margin": self._margin(teacher, train)} if self.margin else {}
        student, teacher = same_size(student, teacher)
        student = nn.Dense(teacher.shape[-1], use_bias=False, name="linear")(student)
        student = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="norm")(student)
        return student, teacher, keywords

    def _margin(self, teacher: Array, train: bool) -> Array:
        teacher, channels = jax.lax.stop_gradient(teacher), teacher.shape[-1:]
        total, share, batches = (
            self.variable("margins", name, jnp.zeros, shape)
            for name, shape in (("mean", channels), ("share", channels), ("batches", ()))
        )
        if train:
            mean, negative = BatchMean(), teacher < 0
            batches.value = batches.value + 1
            for variable, values in ((total, jnp.where(negative, teacher, 0)), (share, negative)):
                variable.value = variable.value + (mean(values) - variable.value) / batches.value
        return jnp.where(share.value > 0, total.value / jnp.where(share.value > 0, share.value, 1), 0)


class Variational(nn.Module):
    """Three linear maps of the student's channels with ReLU between, as the mean; one variance per teacher's channel.

    Reference:
        Ahn, Hu, Damianou, Lawrence, Dai, Variational Information Distillation for Knowledge Transfer, CVPR 2019,
        equations 4 to 6; variance 5 at first and 1e-5 at least, as in their released code.
    """

    first: float = 5.0
    least: float = 1e-5

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> Pair:
        student, teacher = same_size(student, teacher)
        channels = teacher.shape[-1]
        for number in (1, 2):
            student = jax.nn.relu(nn.Dense(channels, use_bias=False, name=f"linear{number}")(student))
        mean = nn.Dense(channels, use_bias=False, name="linear3")(student)
        start = jnp.log(jnp.expm1(self.first - self.least))
        raw = self.param("variance", lambda key: jnp.full((channels,), start))
        return mean, teacher, {"variance": jax.nn.softplus(raw) + self.least}


class Embed(nn.Module):
    """One linear map of each side's vectors to the same width; both learn, as in the CIFAR-100 code of CC.

    Reference:
        Tian, Krishnan, Isola, Contrastive Representation Distillation, ICLR 2020, section 3.2; Peng et al.,
        Correlation Congruence for Knowledge Distillation, ICCV 2019.
    """

    dims: int = 128

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> Pair:
        return (
            nn.Dense(self.dims, name="student")(pooled(student)),
            nn.Dense(self.dims, name="teacher")(pooled(teacher)),
            {},
        )


class Untouched(nn.Module):
    """Both layers as they are."""

    @nn.compact
    def __call__(self, student: Feature, teacher: Feature, *, train: bool) -> Pair:
        return student, teacher, {}


class Pooled(nn.Module):
    """Both layers as vectors: maps by their mean over pixels."""

    @nn.compact
    def __call__(self, student: Array, teacher: Array, *, train: bool) -> Pair:
        return pooled(student), pooled(teacher), {}


class Link(NamedTuple):
    """A connector between layers of the student and of the teacher, by their names in `features`, or `logits`.

    Of one layer the connector is given the array, of several a tuple.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    module: nn.Module


class Connected(NamedTuple):
    """All connectors of a student, as one network beside it.

    `init`: its parameters and states are by link, `{name: ...}`. `pairs`: `(variables, student's outputs, teacher's,
    train=..., mask=...) -> ({name: (student, teacher, keywords)}, state)`, what the losses compare and the connectors'
    new state; `mask` as an `ApplyFn` takes it.
    """

    init: Init
    pairs: Callable[..., tuple[dict[str, Pair], PyTree]]


def connect(
    student: Model, links: Mapping[str, Link], *, image_shape: tuple[int, ...], teacher: tuple[Model, PyTree]
) -> Connected:
    """Make the connectors of links, whose shapes are those of the layers that they join.

    Args:
        student: the network to train.
        links: connectors by name.
        image_shape: height, width and channels, to learn the layers' shapes.
        teacher: the model and its variables, or their shapes; only shapes are looked at.

    Raises:
        BadInput: a layer that a network does not have; layers that a connector cannot join.
    """
    image = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    mine, state = jax.eval_shape(student.init, jax.random.key(0))
    shapes = [
        jax.eval_shape(lambda v, x, m=model: layers_of(m.apply(v, x, train=False, key=None)[0]), variables, image)
        for model, variables in ((student, {"params": mine, **state}), teacher)
    ]
    for name, link in links.items():
        for side, layers, found in zip(("student", "teacher"), link[:2], shapes, strict=True):
            if missing := [layer for layer in layers if layer not in found]:
                raise BadInput(f"{name}: the {side} has no layer {missing[0]!r}; accepted: {', '.join(found)}")

    def init(key: Array) -> tuple[PyTree, PyTree]:
        own, theirs = ({n: jnp.zeros(leaf.shape, leaf.dtype) for n, leaf in side.items()} for side in shapes)
        made = {
            name: link.module.init(
                jax.random.fold_in(key, number), _layers(own, link.student), _layers(theirs, link.teacher), train=False
            )
            for number, (name, link) in enumerate(links.items())
        }
        columns = dict.fromkeys(column for tree in made.values() for column in tree)
        joined = {c: {name: tree[c] for name, tree in made.items() if c in tree} for c in columns}
        return joined.pop("params", {}), joined

    def pairs(
        variables: PyTree, own: Outputs, theirs: Outputs, *, train: bool, mask: Array | None = None
    ) -> tuple[dict[str, Pair], dict[str, dict[str, PyTree]]]:
        found: dict[str, Pair] = {}
        states = {column: dict(tree) for column, tree in variables.items() if column != "params"}
        for name, link in links.items():
            mine = {column: tree[name] for column, tree in variables.items() if name in tree}
            state = [column for column in mine if column != "params"]
            arrays = _layers(layers_of(own), link.student), _layers(layers_of(theirs), link.teacher)
            with real_rows(mask):
                answer: Any = link.module.apply(mine, *arrays, train=train, mutable=state if train and state else False)
            if train and state:
                answer, updated = answer
                for column in state:
                    states[column][name] = updated[column]
            found[name] = answer
        return found, states

    return Connected(init, pairs)


def layers_of(outputs: Outputs) -> dict[str, Array]:
    """All that can be compared: features, and the logits as the last stage."""
    return {**outputs.features, "logits": outputs.logits}


def _layers(features: Mapping[str, Array], names: Sequence[str]) -> Feature:
    first, *others = (features[name] for name in names)
    return (first, *others) if others else first


def numbered(features: Iterable[str]) -> list[str]:
    """The names of a network's layers that a layer map counts: `block1 ..`, or `hidden1 ..` of an MLP."""
    names = list(features)
    for prefix in ("block", "hidden"):
        found = [name for name in names if name.startswith(prefix) and name[len(prefix) :].isdigit()]
        if found:
            return sorted(found, key=lambda name: int(name[len(prefix) :]))
    return []


def copied(student: PyTree, teacher: PyTree, pairs: Sequence[tuple[int, int]]) -> tuple[PyTree, list[str]]:
    """A student's parameters with layers copied from the teacher, where both have the same shapes.

    Args:
        student, teacher: parameters whose top level names layers by a word and a number, such as `dense2`, `block4`, or
            another collection of the same networks, such as BatchNorm's averages.
        pairs: `(m, g(m))`: the student's layer m becomes the teacher's layer g(m).

    Returns:
        The parameters, and the names of the student's layers that were copied.

    Reference:
        Sanh, Debut, Chaumond, Wolf, DistilBERT, a distilled version of BERT, 2019, section 3 (every second layer).

    >>> copied({"dense1": {"bias": jnp.zeros(2)}}, {"dense2": {"bias": jnp.ones(2)}}, [(1, 2)])[1]
    ['dense1']
    """
    found, names = dict(student), []
    for m, g in pairs:
        for word in sorted({name.rstrip("0123456789") for name in student}):
            mine, theirs = student.get(f"{word}{m}"), teacher.get(f"{word}{g}")
            if mine is not None and theirs is not None and _shapes(mine) == _shapes(theirs):
                found[f"{word}{m}"] = theirs
                names.append(f"{word}{m}")
    return found, names


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, tree)
