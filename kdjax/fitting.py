"""Train in one call: the whole engine at its defaults, for notebooks and first steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from kdjax.data import pipeline
from kdjax.data.source import Source, validate
from kdjax.training import loop, parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.feed import Feed
from kdjax.training.program import Program, chooses_scan
from kdjax.training.state import create_state, variables
from kdjax.training.update import Update, updates_of
from kdjax.types import BadInput, LossFn, Model, Networks, PyTree


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
        BadInput: what is no model, no source or no optimizer; images that are neither bytes nor in [0, 1]; a batch
            larger than the data; an optimizer missing, or given twice; hyper-parameters that nothing reads, or for
            which a lesson has a set.
        Diverged: a number became NaN or infinite.
    """
    if (tx is None) != isinstance(loss_fn, Sequence):
        raise BadInput(f"tx={tx}: accepted is an optimizer with a loss function, and none with updates")
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if value < 1:
            raise BadInput(f"{name}={value}; accepted: 1 or more")
    if not isinstance(source, Source):
        raise BadInput(f"source is a {type(source).__name__}; accepted: a Source, as data.load makes them")
    if "inputs" not in source.arrays:
        raise BadInput(f"source has no inputs; it has {', '.join(source.arrays)}; accepted: inputs and label")
    if source.arrays["inputs"].ndim == 4:
        validate(source)
    updates = tuple(loss_fn) if isinstance(loss_fn, Sequence) else updates_of(tx or optax.identity(), loss_fn)
    own = {name: value for u in updates for name, value in getattr(u.loss_fn, "hparams", {}).items()}
    if unknown := (hparams or {}).keys() - own.keys() - {"learning_rate"}:
        raise BadInput(f"hparams has {min(unknown)}: accepted are {', '.join([*own, 'learning_rate'])}")
    sets = {name: one for u in updates for name, one in getattr(u.loss_fn, "sets", {}).items()}
    if swept := [f"{name}={one}" for name, one in sets.items() if name not in (hparams or {})]:
        raise BadInput(
            f"{', '.join(swept)}, where one network is trained; accepted: a number or a schedule there, or in hparams. "
            "experiments.sweep trains a network for each number of a set."
        )
    mesh = parallel.data_mesh()
    state = create_state(model, updates, jax.random.key(seed), hparams={**own, **(hparams or {})}, frozen=frozen)
    scan = chooses_scan("auto", state.params, mesh)

    def order(seed: int, epoch: int) -> Mapping[str, np.ndarray]:
        return pipeline.epoch_rows(len(source), batch_size, seed=seed, epoch=epoch, multiple_of=mesh.size)

    steps = -(-len(source) // batch_size)
    feed = Feed(order, steps, mesh, source.arrays, scan=scan)
    checkpointer = Checkpointer(Path(workdir) / "checkpoints") if workdir else None
    try:
        state = loop.fit(
            parallel.place(state, mesh),
            Program(updates, mesh, scan=scan).run,
            data=feed.data(),
            chunks=feed.chunks(seed),
            epochs=epochs,
            steps_per_epoch=steps,
            checkpointer=checkpointer,
        )
    finally:
        if checkpointer:
            checkpointer.__exit__()
    return {name: variables(state, name) for name in state.params}
