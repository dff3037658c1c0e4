"""An NNX network through the whole engine: step, scan, checkpoint, resume."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.models.from_nnx import from_nnx
from kdjax.recipes.supervised import supervised
from kdjax.training import optimizers
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.state import create_state
from kdjax.training.step import many_steps, train_step
from tests.training.conftest import same


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first, self.norm = nnx.Linear(16, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.25, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, image):
        x = self.norm(self.first(image.reshape(len(image), -1)))
        return self.last(self.drop(nnx.relu(x)))


def test_train_save_and_go_on(tmp_path, key):
    model, tx = from_nnx(Net), optimizers.optimizer("adam")
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((64, 4, 4, 1), np.float32))
    data = {"inputs": image, "label": jnp.asarray(image[:, :3, 0, 0].argmax(-1), jnp.int32)}
    rows = {"index": jnp.asarray(rng.permutation(64).reshape(4, 16)), "mask": jnp.ones((4, 16))}
    run = jax.jit(many_steps(train_step(supervised(model), tx)))
    start = create_state(model, tx, key, hparams={"learning_rate": 0.02})

    def epochs(state, count):
        for _ in range(count):
            state, metrics = run(state, data, rows)
        return state, float(metrics["loss"][0].sum())

    whole, last = epochs(start, 20)
    assert last < 0.7 * epochs(start, 1)[1]
    assert not same(whole.model_state, start.model_state)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(epochs(start, 8)[0])
    with Checkpointer(tmp_path) as checkpointer:
        found = checkpointer.restore(start)
    assert found is not None
    resumed, _ = epochs(found[0], 12)
    assert same(resumed.params, whole.params)
    assert same(resumed.model_state, whole.model_state)
