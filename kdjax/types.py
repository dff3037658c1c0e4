"""The nouns of kdjax. Every other file is written in these words, and in no others.

Shapes: B examples, H x W pixels, C channels, K classes. Images are float32 in [0, 1], channels last.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float

PyTree = Any

AnyArray = Array | np.ndarray
"""On a device or on the host."""

Batch = Mapping[str, AnyArray]
"""Arrays that share their first axis. `inputs [B, ...]` float32, images `[B, H, W, C]` in [0, 1] or rows of a table
`[B, D]`; `label [B]` int32, where -1 is an example whose label is not known; `mask [B]` float32, 1 for a real example
and 0 for padding; optional `index [B]` int32, the example's place in its data set, `epoch [B]` int32, how many times
the run has shown it before (no index has the same number twice in a run; augmented views are made of both),
`domain [B]`, and `teacher_logits [B, K]`, answers computed once beforehand."""

Metrics = dict[str, Array | tuple[Array, Array]]
"""Metric name to one number per example, `[B]`, or to such numbers and weights, both `[B]`, where not every example
counts (a label that is not known). The train step masks and reduces, once."""


class BadInput(ValueError):
    """What a user typed or handed over cannot be used; says the argument, the value and what is accepted."""


class Diverged(RuntimeError):
    """A number became NaN or infinite: it is no result, and nothing after the last good checkpoint was kept."""


class NotNumbers(BadInput, Diverged):
    """Answers that are NaN or infinite: bad input of a function, and no result of a run."""


def nearest(word: str, words: Iterable[str], *, most: int = 1) -> str:
    """The end of an error message: `; did you mean adam?`, or nothing where no word is close.

    >>> nearest("adm", ["adam", "sgd"]), nearest("lamb", ["sgd"])
    ('; did you mean adam?', '')
    """
    close = difflib.get_close_matches(word, list(words), n=most)
    return f"; did you mean {' or '.join(close)}?" if close else ""


class Outputs(NamedTuple):
    """All that a model says about a batch.

    `logits [B, K]` before any softmax or temperature; `features` by name, each `[B, ...]`.
    """

    logits: Array
    features: dict[str, Array] = {}  # noqa: RUF012 - a NamedTuple's default is never written to


@runtime_checkable
class ApplyFn(Protocol):
    """Pure: variables `{"params": ..., **model_state}` and images to `Outputs` and the new model state.

    `mask [B]` is 1 for a real row; while training, batch statistics are those of real rows. None: all rows are real.
    """

    def __call__(
        self, variables: PyTree, inputs: Array, /, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]: ...


Init = Callable[[Array], tuple[PyTree, PyTree]]
"""`key -> (params, model_state)`, as a `Model` has it."""


class Model(NamedTuple):
    """A model as two pure functions: `init(key) -> (params, model_state)` and its `ApplyFn`.

    `input_shape`: of one example, where it is known: a lesson looks up the layers that an expression names by it.
    """

    init: Init
    apply: ApplyFn
    input_shape: tuple[int, ...] = ()


@runtime_checkable
class Loss(Protocol):
    """Pure: student first, teacher second, one number per example; hyper-parameters by keyword."""

    def __call__(self, student: Array, teacher: Array, /, *_: Any, **hyper: Any) -> Float[Array, " batch"]: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that training reads and writes.

    `step`: updates made so far; it alone says where in the data the run is. `params` and `model_state`: by network,
    `{"student": ..., "connectors": ...}`; a network's model state holds its collections. `opt_state`: one for each
    update of a step. `memory`: what losses remember, by loss; no network reads it, it is made from the global batch,
    and so is the same on all devices without averaging and may lie split over them. `key`: never split, only folded
    with the step, so that a resumed run draws what the uninterrupted one would have drawn. `hparams`: traced scalars
    (learning rate, temperature, weights ...): changing one does not recompile. `frozen`: what the step reads and never
    writes (teachers); it is not checkpointed with the student.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    key: Array
    hparams: dict[str, Any]
    frozen: PyTree
    memory: dict[str, PyTree] = field(default_factory=dict)

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with some fields changed."""
        return replace(self, **changes)


STUDENT = "student"
"""What the network is called that a recipe trains, where it trains one."""

CLEAN, ATTACKED, MIRRORED = "clean", "attacked", "mirrored"
"""The views of a batch: its inputs x, augmented where a recipe says so; what an attack makes of these, x + d; and
x - d, which may lie outside [0, 1]."""

LINEARIZED = "linearized"
"""The attacked view as an answer to x and its slope there foretell the answer: T(x) + e_y <dT_y/dx, d>, of the label's
logit alone. Attacks may look at it."""


class Networks(NamedTuple):
    """What a recipe trains, where that is more than one network: each by name, and what its losses remember at first.

    `memory`: by loss, `key -> memory`.
    """

    init: Mapping[str, Init]
    memory: Mapping[str, Callable[[Array], PyTree]] = {}


class Aux(NamedTuple):
    """What a loss function finds out besides the loss.

    `model_state`: of the networks that ran, by name. `metrics`: one number per example each. `memory`: by loss, of the
    losses that remember.
    """

    model_state: dict[str, PyTree]
    metrics: Metrics
    memory: dict[str, PyTree] = {}  # noqa: RUF012 - a NamedTuple's default is never written to


LossFn = Callable[[PyTree, TrainState, Batch, Array], tuple[Array, Aux]]
"""What a recipe returns: `(params, state, batch, key) -> ([B], Aux)`, the parameters by network."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """A `LossFn` that says which hyper-parameters it reads, and what they are where nobody says otherwise.

    `sets`: those for which the expression has a set of numbers (`kdjax.spec`), of which a run trains one.
    """

    function: LossFn
    hparams: Mapping[str, float]
    sets: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return self.function(params, state, batch, key)


@runtime_checkable
class Objective(Protocol):
    """What an attacker wants small, one number per example; every evaluation also says who is fooled by now.

    `where [B]` marks the rows that are asked for: a counting or paid victim is not shown the others, and their numbers
    mean nothing. `key` is for victims that draw random numbers. An objective is a pytree (weights and labels are its
    leaves), so a compiled attack takes it as an argument.

    `white_box`: whether gradients may be taken. `logits(image, ...) -> [B, K]` is the answer that is scored, float32 at
    least, and `data` what it is scored by, one row per example: `label [B]`, and `target [B]` where one is wanted.
    """

    @property
    def white_box(self) -> bool: ...

    @property
    def data(self) -> Mapping[str, Array]: ...

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array: ...

    def __call__(
        self, image: Array, *, key: Array | None = None, where: Array | None = None
    ) -> tuple[Array, Array]: ...


class Estimate(NamedTuple):
    """What an oracle found out at a point: `value [B]`, `success [B]`, and the slope `grad`, shaped like the point.

    `mask` is 1 on the coordinates that were looked at and `curvature` the second derivative there; both None where
    all were looked at, once. `queries [B]` int32: model evaluations spent.
    """

    value: Array
    success: Array
    grad: Array
    queries: Array
    mask: Array | None = None
    curvature: Array | None = None


@runtime_checkable
class Oracle(Protocol):
    """`(objective, key [B], point, origin, where=[B]) -> Estimate`, `origin` being where the attack began.

    `queries` is the number of model evaluations that one call costs each example, at most. `forward_only`: it takes no
    gradient, so that a loop of it is as fast on the device as stepped from Python.
    """

    @property
    def queries(self) -> int: ...

    @property
    def forward_only(self) -> bool: ...

    def __call__(self, objective: Objective, key: Array, point: Array, origin: Array, *, where: Array) -> Estimate: ...


Projection = Callable[[Array, Array], Array]
"""`(image, origin) -> image`: the nearest image, or one near it, in the threat set around the origin."""


class Adversarial(NamedTuple):
    """What an attack returns for every example, fooled or not.

    `image [B, H, W, C]`; `value [B]` of the objective there; `success [B]` bool; `queries [B]` int32, model evaluations
    spent, success checks included; `first_success [B]` int32, queries spent when the first success was known, -1 if
    there was none.
    """

    image: Array
    value: Array
    success: Array
    queries: Array
    first_success: Array


@runtime_checkable
class Attack(Protocol):
    """Pure: objective, one key per example `[B]`, clean images; it begins at `start` if given.

    Rows outside `where` are returned as they came, at no query.
    """

    def __call__(
        self,
        objective: Objective,
        key: Array,
        image: Array,
        start: Array | None = None,
        *,
        where: Array | None = None,
    ) -> Adversarial: ...
