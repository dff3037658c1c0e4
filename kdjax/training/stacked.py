"""States stacked on a leading axis: a plain run lifted to many members, and their answers.

The step counter and what is frozen are shared. Nothing in a lifted program knows how many members there are but its
shapes, and members never read each other's numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from kdjax.training import parallel
from kdjax.training.state import Init, create_state, initializer, separate, unite
from kdjax.training.state import variables as student
from kdjax.training.step import Rows, Run, eval_step
from kdjax.types import ApplyFn, Model, Networks, PyTree, TrainState


class Member(NamedTuple):
    """One training: its seed (initialisation, data order, every draw) and its traced hyper-parameters."""

    seed: int
    hparams: Mapping[str, float]


def create_states(
    model: Model | Networks,
    tx: optax.GradientTransformation,
    members: Sequence[Member],
    *,
    frozen: PyTree = None,
    init: Init | None = None,
) -> TrainState:
    """Each member's own initial state, stacked: what `create_state` makes of its seed, bit for bit.

    `init`: the model's `initializer`, where states are made of it several times.
    """
    init = init or initializer(model)
    states = [create_state(model, tx, jax.random.key(m.seed), hparams=m.hparams, init=init) for m in members]
    stacked = jax.tree.map(_stack, *states)
    return stacked.replace(step=states[0].step, frozen=frozen)


def _stack(*leaves: Array) -> Any:
    # On the host: each device is then given its members, and no program is compiled for a shape.
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jnp.stack(leaves)
    return np.stack([np.asarray(leaf) for leaf in leaves])


def together(run: Run, *, own_order: bool = True, group: int = 0) -> Callable[..., Any]:
    """Lift `run` from one state to a population on one device.

    Args:
        run: `(state, data, rows) -> (state, metrics)` for rows of axes [S, B].
        own_order: rows are [M, S, B], each member's own; otherwise [S, B] for all.
        group: members of one `vmap`, lowered to a divisor of M; 0 is M. A group of 1 runs the program of a plain run.

    Returns:
        `(own, (step, frozen), active [M], data, rows) -> (own, metrics, finite [M])`, own being each member's part of
        the state. Only active members whose metrics, parameters and statistics stayed finite are advanced; a group
        without an active member costs nothing.
    """

    def population(own: PyTree, shared: Any, active: Array, data: Any, rows: Rows) -> Any:
        def one(own: PyTree, its_rows: Rows | None) -> Any:
            new, sums = run(unite(own, shared), data, rows if its_rows is None else its_rows)
            return separate(new)[0], sums

        def several(part: Any) -> Any:
            old, active, its_rows = part

            def train(old: PyTree) -> Any:
                if len(active) > 1:
                    new, sums = jax.vmap(one)(old, its_rows)
                else:  # unbatched, so that one member is a plain run to the last bit
                    alone = jax.tree.map(lambda x: x[0], (old, its_rows))
                    new, sums = jax.tree.map(lambda x: x[None], one(*alone))
                totals = {name: total for name, (total, _) in sums.items()}
                finite = _finite((totals, new["params"], new["model_state"]))
                take = active & finite
                return jax.tree.map(lambda n, o: jnp.where(_like(take, n), n, o), new, old), sums, finite

            def skip(old: PyTree) -> Any:
                _, sums, finite = jax.tree.map(jnp.zeros_like, jax.eval_shape(train, old))
                return old, sums, ~finite

            return jax.lax.cond(jnp.any(active), train, skip, old)

        count = len(active)
        size = next(g for g in range(min(group or count, count), 0, -1) if count % g == 0)
        part = (own, active, rows if own_order else None)
        if size == count:
            return several(part)
        split = jax.tree.map(lambda x: x.reshape(count // size, size, *x.shape[1:]), part)
        return jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), jax.lax.map(several, split))

    return population


def member_state(states: TrainState, member: int | slice) -> TrainState:
    """One member's state, as a plain run would have it; with a slice, some members'."""
    own, shared = separate(states)
    return unite(jax.tree.map(lambda x: x[member], own), shared)


def _like(flags: Array, leaf: Array) -> Array:
    return flags.reshape(-1, *[1] * (leaf.ndim - 1))


def _finite(tree: PyTree) -> Array:
    leaves = [jnp.all(jnp.isfinite(x.reshape(len(x), -1)), axis=1) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves), axis=0)


class Asked:
    """Every member's logits for every image, in evaluation mode; compiled once for all states that it is given.

    Args:
        apply: the members' network.
        mesh: members are split over its devices.
        group: members at a time on a device; 0 is all.
    """

    def __init__(self, apply: ApplyFn, mesh: parallel.Mesh, *, group: int = 0) -> None:
        forward = eval_step(apply)

        def body(variables: PyTree, image: Array) -> Array:
            count = len(jax.tree.leaves(variables)[0])
            return jax.lax.map(lambda v: forward(v, image), variables, batch_size=min(group or count, count))

        self._mesh, self._run = mesh, parallel.map_members(body, mesh)

    def __call__(self, states: TrainState, image: np.ndarray, *, batch_size: int = 1000) -> np.ndarray:
        """Args:
            states: of M members.
            image: `[N, ...]`, bytes or floats of [0, 1].
            batch_size: images at a time.

        Returns:
            `[M, N, K]` float32.
        """
        variables = student(states)
        count = len(jax.tree.leaves(variables)[0])
        places = np.resize(np.arange(count), -(-count // self._mesh.size) * self._mesh.size)
        if len(places) > count:
            variables = parallel.shard(jax.tree.map(lambda x: np.asarray(x)[places], variables), self._mesh)
        size = min(batch_size, len(image))
        padded = np.concatenate([image, np.repeat(image[:1], -len(image) % size, axis=0)])
        parts = [np.asarray(self._run(variables, part)) for part in np.split(padded, len(padded) // size)]
        return np.concatenate(parts, axis=1)[:count, : len(image)]
