"""Train in one call: the whole engine at its defaults, for notebooks and first steps."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from kdjax.data import pipeline
from kdjax.data.source import Source
from kdjax.training import loop, parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.state import create_state, variables
from kdjax.training.step import many_steps, one_step, step_of
from kdjax.training.update import Update, updates_of
from kdjax.types import BadInput, LossFn, Model, Networks, PyTree

STEPS_PER_CALL = 1000
"""The most steps of one scan."""


def fit(
    model: Model | Networks,
    loss_fn: LossFn | Sequence[Update],
    source: Source,
    *,
    tx: optax.GradientTransformation | None = None,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    hparams: Mapping[str, float] | None = None,
    frozen: PyTree = None,
    workdir: str | Path | None = None,
) -> dict[str, PyTree]:
    """Train a model on examples that fit on the device.

    Args:
        model: a network, or the networks of a lesson.
        loss_fn: what a recipe returned, or the updates of a step.
        source: the examples; every epoch visits each once, in an order of its own.
        tx: an Optax optimizer; it moves weights as its manual says. None with updates, which have theirs.
        epochs: passes.
        batch_size: examples per step, over all devices.
        seed: of initialisation, data order and every draw.
        hparams: traced numbers that replace the recipe's own, by name.
        frozen: what the loss function reads and never writes: a teacher's variables, or what `fit` returned for it.
        workdir: where checkpoints go, and from which the same call goes on; None keeps nothing.

    Returns:
        `{network: {"params": ..., **model_state}}`; one network is called `student`.

    Raises:
        BadInput: a batch larger than the data; an optimizer missing, or given twice; hyper-parameters that nothing
            reads.
        Diverged: a number became NaN or infinite.
    """
    if (tx is None) != isinstance(loss_fn, Sequence):
        raise BadInput(f"tx={tx}: accepted is an optimizer with a loss function, and none with updates")
    updates = tuple(loss_fn) if isinstance(loss_fn, Sequence) else updates_of(tx or optax.identity(), loss_fn)
    own = {name: value for u in updates for name, value in getattr(u.loss_fn, "hparams", {}).items()}
    if unknown := (hparams or {}).keys() - own.keys() - {"learning_rate"}:
        raise BadInput(f"hparams has {min(unknown)}: accepted are {', '.join([*own, 'learning_rate'])}")
    mesh = parallel.data_mesh()
    state = create_state(model, updates, jax.random.key(seed), hparams={**own, **(hparams or {})}, frozen=frozen)
    scans = parallel.scans(state.params, mesh)

    def body(axis_name: str | None) -> parallel.Run:
        step = step_of(updates, axis_name=axis_name)
        return many_steps(step) if scans else one_step(step)

    run = parallel.wrap("jit", body, mesh, batch_axis=1 if scans else 0)
    steps = -(-len(source) // batch_size)

    def chunks(epoch: int, first: int) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        rows = pipeline.epoch_rows(len(source), batch_size, seed=seed, epoch=epoch, multiple_of=mesh.size)
        size = STEPS_PER_CALL if scans else 1
        for at in range(first, steps, size):
            part = slice(at, at + size) if scans else at
            yield min(size, steps - at), {name: column[part] for name, column in rows.items()}

    checkpointer = Checkpointer(Path(workdir) / "checkpoints") if workdir else None
    try:
        state = loop.fit(
            parallel.place(state, mesh),
            run,
            data=parallel.replicate(dict(source.arrays), mesh),
            chunks=chunks,
            epochs=epochs,
            steps_per_epoch=steps,
            checkpointer=checkpointer,
        )
    finally:
        if checkpointer:
            checkpointer.__exit__()
    return {name: variables(state, name) for name in state.params}
