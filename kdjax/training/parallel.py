"""One step body, two wrappers. The only file that mentions meshes and pmap.

Both take and return the same values, and agree on the same global batch. Where they legitimately differ:

- dropout: jit draws one mask for the global batch (the same on any number of devices); pmap folds the device's number
  into the key, so its masks depend on how many devices there are; augmented views are the same where batches say which
  `epoch` each row is of;
- what couples examples (BatchNorm, relations, DIST, mixup) sees the global batch under both; under pmap each device
  gathers the others' rows, computes all and keeps its own, which costs more than the same under jit;
- memories of losses (a bank of every example, a queue) have the same values. Under jit each device holds its part of
  their rows, where the number of devices divides these (`place`); under pmap every device holds all of them.

JAX keeps pmap in maintenance, built on jit and shard_map; it is here for those who ask for it, and can be deleted
without touching a recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.training.state import separate, unite
from kdjax.training.step import Rows, Run, Sums
from kdjax.types import AnyArray, BadInput, PyTree, TrainState

AXIS = "data"
Device: TypeAlias = Any  # jax.Device is no class to type checkers


def data_mesh(devices: Sequence[Device] | None = None) -> Mesh:
    """A mesh with one axis, `data`, over the given devices (all of them by default)."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def platform(mesh: Mesh) -> str:
    """What the mesh is made of: cpu, gpu or tpu, whatever this process would use by default."""
    return mesh.devices.flat[0].platform


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a tree, whole, on every device of the mesh. The copies are new: donating them harms nobody."""
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.device_put(_own(x), sharding, may_alias=False), tree)


def _own(x: Any) -> Any:
    """A copy of what lies on a device: on a mesh of several, JAX shares the buffer of the first, `may_alias` or not."""
    return x.copy() if isinstance(x, jax.Array) else x


def shard(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
    """Split a tree of host arrays over the mesh along one axis, each device receiving only its part."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)))


def place(state: TrainState, mesh: Mesh, wrapper: str = "jit") -> TrainState:
    """Put a state on the mesh as the step under that wrapper holds it. The copies are new, as those of `replicate`."""
    if wrapper != "jit":
        return replicate(state, mesh)
    memory = jax.device_put(jax.tree.map(_own, state.memory), _by_rows(state.memory, mesh), may_alias=False)
    return replicate(state.replace(memory={}), mesh).replace(memory=memory)


def _by_rows(memory: PyTree, mesh: Mesh) -> PyTree:
    """How a memory lies under jit: each array split by rows where the devices divide these, else whole on each."""
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: split if x.ndim and len(x) % mesh.size == 0 else whole, memory)


def everywhere(tree: PyTree) -> PyTree:
    """In a step of `jit_step`, arrays whole on every device: what lies split, such as a memory, then stays where it is
    when it meets them. Elsewhere the tree as it is."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


class Wrapped:
    """A step over all devices. Called, it runs; lowered, on arrays or on their shapes alone, it does not.

    Teachers are passed beside the donated state, so that two students may share one teacher's arrays.
    """

    def __init__(
        self,
        compiled: Any,
        arguments: Callable[[TrainState, PyTree, Any, Any], tuple[Any, ...]],
        result: Callable[..., tuple[TrainState, Sums]],
    ) -> None:
        self._compiled, self._arguments, self._result = compiled, arguments, result

    def __call__(self, state: TrainState, data: Mapping[str, AnyArray], rows: Rows) -> tuple[TrainState, Sums]:
        frozen = state.frozen
        new, metrics = self._result(*self._compiled(*self._arguments(state.replace(frozen=None), frozen, data, rows)))
        return new.replace(frozen=frozen), metrics

    def lower(self, state: TrainState, data: Any, rows: Any) -> Any:
        """The program before it is compiled: `.compile()` it for its memory, its cost or to keep it."""
        return self._compiled.lower(*self._arguments(state.replace(frozen=None), state.frozen, data, rows))


def jit_step(run: Run, mesh: Mesh, *, batch_axis: int = 0) -> Wrapped:
    """Data-parallel by sharding: the state as `place` puts it, rows split along `batch_axis`. The state is donated."""
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS))

    # A memory comes in as it lies, and goes out as `place` would put it.
    inputs, outputs = (whole, None, whole, whole, split), (whole, None, whole)

    @partial(jax.jit, donate_argnums=(0, 1), in_shardings=inputs, out_shardings=outputs)
    def compiled(state: TrainState, memory: PyTree, frozen: PyTree, data: Any, rows: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # for `everywhere`
            new, metrics = run(state.replace(frozen=frozen, memory=memory), data, rows)
        memory = jax.lax.with_sharding_constraint(new.memory, _by_rows(new.memory, mesh))
        return new.replace(frozen=None, memory={}), memory, metrics

    def arguments(state: TrainState, frozen: PyTree, data: Any, rows: Any) -> tuple[Any, ...]:
        return state.replace(memory={}), state.memory, frozen, data, rows

    return Wrapped(compiled, arguments, lambda new, memory, metrics: (new.replace(memory=memory), metrics))


def pmap_step(run: Run, devices: Sequence[Device] | None = None, *, batch_axis: int = 0) -> Wrapped:
    """The same by pmap; `run` was built with `axis_name=AXIS`. State and metrics have no device axis."""
    used = list(devices or jax.devices())

    @partial(
        jax.pmap,
        axis_name=AXIS,
        devices=used,
        in_axes=(None, None, None, 0),
        out_axes=None,
        donate_argnums=0,
    )
    def compiled(state: TrainState, frozen: PyTree, data: Any, rows: Any) -> tuple[TrainState, Sums]:
        new, metrics = run(state.replace(frozen=frozen), data, rows)
        return new.replace(frozen=None), metrics

    def by_device(x: Any) -> np.ndarray:
        x = np.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x)
        shape = (
            *x.shape[:batch_axis],
            len(used),
            x.shape[batch_axis] // len(used),
            *x.shape[batch_axis + 1 :],
        )
        return np.moveaxis(x.reshape(shape), batch_axis, 0)

    def arguments(state: TrainState, frozen: PyTree, data: Any, rows: Any) -> tuple[Any, ...]:
        return state, frozen, data, jax.tree.map(by_device, rows)

    return Wrapped(compiled, arguments, lambda new, metrics: (new, metrics))


def wrap(parallel: str, make: Callable[[str | None], Run], mesh: Mesh, *, batch_axis: int = 0) -> Wrapped:
    """Choose a wrapper by name. `make(axis_name)` builds the body, since pmap's body must name its axis."""
    if parallel == "jit":
        return jit_step(make(None), mesh, batch_axis=batch_axis)
    if parallel == "pmap":
        return pmap_step(make(AXIS), list(mesh.devices.flat), batch_axis=batch_axis)
    raise BadInput(f"parallel={parallel!r}: accepted are jit and pmap.")


def place_members(states: TrainState, mesh: Mesh) -> TrainState:
    """Put a population on the mesh, members split over the devices; step and frozen are whole on each."""
    own, shared = separate(states)
    return unite(shard(own, mesh), replicate(shared, mesh))


def jit_members(run: Callable[..., Any], mesh: Mesh, *, own_order: bool) -> Callable[..., Any]:
    """Split members over devices: each trains its own, and nothing is communicated. The states are donated.

    Args:
        run: `(own, (step, frozen), active [M], data, rows) -> (own, metrics, finite [M])`, for the members of a device.
        mesh: its devices divide M.
        own_order: whether rows have a leading axis of members, or are shared.

    Returns:
        `(states, active [M], data, rows) -> (states, metrics, finite [M])`.
    """
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    inputs, outputs = (split, whole, split, whole, split if own_order else whole), (split, split, split)
    lifted = jax.shard_map(run, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    compiled = jax.jit(lifted, donate_argnums=0)

    def call(states: TrainState, active: Any, data: Any, rows: Any) -> Any:
        own, (step, frozen) = separate(states)
        own, metrics, finite = compiled(own, (step, frozen), active, data, rows)
        return unite(own, (step + rows["mask"].shape[-2], frozen)), metrics, finite

    return call


def map_members(function: Callable[[PyTree, PyTree], PyTree], mesh: Mesh) -> Callable[[PyTree, PyTree], PyTree]:
    """Compile `(stacked, shared) -> stacked`, each device working on its own members."""
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    lifted = jax.shard_map(function, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    return jax.jit(lifted)
