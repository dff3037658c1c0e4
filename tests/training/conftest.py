"""A small real task: the digits, an MLP with dropout, and everything `fit` needs around it."""

from pathlib import Path

import jax
import numpy as np
import pytest

from kdjax import spec
from kdjax.data import pipeline
from kdjax.data.load import load
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.training import optimizers, parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.loop import fit
from kdjax.training.state import create_state, initializer
from kdjax.training.step import many_steps, train_step


class Task:
    """Digits, batch 64 (18 steps an epoch, the last one uneven), Adam, a cosine schedule and dropout."""

    def __init__(self, wrapper: str = "jit", *, scan: bool = True, dropout: float = 0.2, augment=None) -> None:
        self.source = load("digits", "train[:80%]")
        self.model = create("mlp", num_classes=10, image_shape=(8, 8, 1), hidden=(16,), dropout=dropout)
        self.steps, self.epochs, self.scan = 18, 4, scan
        self.tx = optimizers.optimizer(
            "adam", learning_rate=optimizers.following(spec.cosine(1, 0), steps=self.steps * self.epochs)
        )
        self.mesh = parallel.data_mesh()
        self.loss_fn = supervised(self.model, augment=augment)
        self.init = initializer(self.model)

        def make(axis_name):
            step = train_step(self.loss_fn, self.tx, axis_name=axis_name)
            return many_steps(step) if scan else lambda state, data, rows: step(state, rows)

        self.run = parallel.wrap(wrapper, make, self.mesh, batch_axis=1 if scan else 0)
        self.data = parallel.replicate(self.source.arrays, self.mesh) if scan else {}

    def state(self, seed: int = 0):
        rate = {"learning_rate": 1e-2}
        state = create_state(self.model, self.tx, jax.random.key(seed), hparams=rate, init=self.init)
        return parallel.replicate(state, self.mesh)

    def chunks(self, epoch, first):
        rows = pipeline.epoch_rows(len(self.source), 64, seed=0, epoch=epoch, multiple_of=self.mesh.size)
        for at in range(0, self.steps, 9):
            if at >= first and self.scan:
                yield 9, {name: column[at : at + 9] for name, column in rows.items()}
        for at in range(first, self.steps):
            if not self.scan:
                yield 1, pipeline.take(self.source, **{name: column[at] for name, column in rows.items()})

    def fit(self, directory: Path | None = None, **changes):
        args = {
            "data": self.data,
            "chunks": self.chunks,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps,
            **changes,
        }
        if directory is None:
            return fit(self.state(), self.run, **args)
        with Checkpointer(directory, keep=3) as checkpointer:
            return fit(self.state(), self.run, checkpointer=checkpointer, **args)


def same(a, b) -> bool:
    """Whether two trees are equal bit for bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


@pytest.fixture(scope="session")
def task() -> Task:
    """The task under jit, scanned."""
    return Task()


@pytest.fixture(scope="session")
def finished(task: Task):
    """The state at the end of an uninterrupted run without any checkpoint."""
    return task.fit()
