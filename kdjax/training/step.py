"""One step body for every way of running it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.axis import batch_over
from kdjax.training.metrics import Sums, reduce
from kdjax.training.optimizers import UnitRate, bounded
from kdjax.training.state import need
from kdjax.training.update import Update, updates_of
from kdjax.types import AnyArray, ApplyFn, Aux, BadInput, Batch, LossFn, Metrics, PyTree, TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]
Rows = Mapping[str, AnyArray]
"""What changes from step to step: `index [B]`, `mask [B]` and `epoch [B]` for data that is on the device, or a whole
`Batch`."""
COLUMNS = ("inputs", "label", "index", "epoch", "domain", "teacher_logits")
"""What a batch may have beside its mask."""
_APART = 2**31
"""So that no update's key is one that a recipe makes of another's."""

Run = Callable[[TrainState, Mapping[str, AnyArray], Rows], tuple[TrainState, Sums]]


def train_step(loss_fn: LossFn, tx: optax.GradientTransformation, *, axis_name: str | None = None) -> Step:
    """Build the step of one update that moves every network: `step_of` with a loss function and an optimizer."""
    return step_of(updates_of(tx, loss_fn), axis_name=axis_name)


def step_of(updates: Sequence[Update], *, axis_name: str | None = None) -> Step:
    """Build `(state, batch) -> (state, metrics)`: each update in turn differentiates its masked global mean and moves.

    The mean divides by the number of real examples on *all* devices, so it depends neither on padding nor on how a
    batch was split. With `axis_name` the body runs per device (pmap) and sums over that axis; without, it sees the
    global batch.

    Metrics are those of the recipe, and `loss` and `grad_norm`; of several updates, each after its name and a slash.
    Of an update that is made several times they are those of the last time.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        if "mask" not in batch:
            raise BadInput(f"the batch has {sorted(batch)}: accepted is one with mask [B], 1 for a real row")
        step_key = jax.random.fold_in(state.key, state.step)
        if axis_name:
            step_key = jax.random.fold_in(step_key, jax.lax.axis_index(axis_name))
        metrics: Sums = {}
        for number, update in enumerate(updates):
            for time in range(update.times):
                first = number == time == 0
                key = step_key if first else jax.random.fold_in(jax.random.fold_in(step_key, _APART + number), time)
                state, found = _moved(update, number, state, update.sees(batch, time), key, axis_name)
                metrics |= {f"{update.name}/{name}" if update.name else name: pair for name, pair in found.items()}
        return state.replace(step=state.step + 1), metrics

    return step


def _moved(
    update: Update, number: int, state: TrainState, batch: Batch, key: Array, axis_name: str | None
) -> tuple[TrainState, Sums]:
    """The state after an update was made once, and its metrics."""
    mask = batch["mask"]
    everywhere = (lambda x: jax.lax.psum(x, axis_name)) if axis_name else (lambda x: x)
    count = jnp.maximum(everywhere(jnp.sum(mask)), 1)
    mine = update.moved(state.params)

    def mean_loss(mine: PyTree) -> tuple[Array, tuple[Aux, Metrics]]:
        params = {**state.params, **mine}
        with batch_over(axis_name), _columns_named(batch):
            losses, aux = update.loss_fn(params, state.replace(params=params), batch, key)
        # `where` and not a product. Padding must still be finite, as the pipeline's is (it repeats an example):
        # the gradient of what is left out is zero times what stood there.
        return jnp.sum(jnp.where(mask > 0, losses, 0)) / count, (aux, {"loss": losses, **aux.metrics})

    (_, (aux, per_example)), grads = jax.value_and_grad(mean_loss, has_aux=True)(mine)
    grads = everywhere(grads)
    seen = jax.lax.pmean(aux.model_state, axis_name) if axis_name else aux.model_state
    updates, opt_state = update.tx.update(grads, state.opt_state[number], mine)
    if isinstance(update.tx, UnitRate):
        rate = need(state, "learning_rate")
        updates = jax.tree.map(lambda u: rate.astype(u.dtype) * u, updates)
    metrics = reduce(per_example, mask, axis_name=axis_name)
    metrics["grad_norm"] = (optax.tree.norm(grads), jnp.ones(()))
    opt_states = (*state.opt_state[:number], opt_state, *state.opt_state[number + 1 :])
    moved: Any = optax.apply_updates(mine, updates)
    if isinstance(update.tx, UnitRate) and update.tx.max_norm:
        moved = bounded(moved, update.tx.max_norm)
    new = state.replace(
        params={**state.params, **moved},
        model_state={**state.model_state, **seen},
        opt_state=opt_states,
        memory={**state.memory, **aux.memory},
    )
    return new, metrics


@contextmanager
def _columns_named(batch: Batch) -> Iterator[None]:
    """A column that a loss function reads and the batch has not is refused by name."""
    try:
        yield
    except KeyError as error:
        if (name := error.args[0]) in COLUMNS and name not in batch:
            raise BadInput(
                f"the batch has {sorted(batch)}: accepted is one with {name} for this loss function"
            ) from None
        raise


def assemble(data: Mapping[str, AnyArray], rows: Rows) -> Batch:
    """Make the batch that `rows` stands for; bytes become float32 in [0, 1] here, on the device."""
    batch = {name: column[rows["index"]] for name, column in data.items()} | dict(rows)
    return {**batch, "inputs": unit_interval(jnp.asarray(batch["inputs"]))}


def unit_interval(image: Array) -> Array:
    """Bytes as float32 in [0, 1], on the device; floats as they are."""
    return image.astype(jnp.float32) * jnp.float32(1 / 255) if image.dtype == jnp.uint8 else image


def one_step(step: Step) -> Run:
    """`(state, data, rows) -> (state, metrics)` for rows with axes [B]."""
    return lambda state, data, rows: step(state, assemble(data, rows))


def many_steps(step: Step) -> Run:
    """The same for rows with axes [S, B]: S steps in one call; metrics come back with a leading axis S."""

    def run(state: TrainState, data: Mapping[str, AnyArray], rows: Rows) -> tuple[TrainState, Sums]:
        # Four steps an iteration: 1.2x to 1.3x faster than one for a student of 20 units on a CPU, and eight no faster;
        # it takes twice as long to compile, which a short scan does not win back.
        unroll = 4 if len(rows["mask"]) >= 100 else 1
        return jax.lax.scan(lambda s, r: step(s, assemble(data, r)), state, rows, unroll=unroll)

    return run


def eval_step(apply: ApplyFn) -> Callable[[PyTree, Array], Array]:
    """Build `(variables, image) -> logits [B, K]`, in evaluation mode; uint8 images are taken as bytes of [0, 1]."""

    def step(variables: PyTree, image: AnyArray) -> Array:
        return apply(variables, unit_interval(jnp.asarray(image)), train=False, key=None)[0].logits

    return step
