"""Many trainings as one compiled program: a grid or a sample over hyper-parameters and seeds.

An epoch of all members is one call, in which the steps are scanned; a study compiles once. Members differ in seed and
in anything that the recipe reads from `state.hparams`. Steps are always scanned, which slows convolutions on a CPU.

A member is *active* until it has diverged or its patience has run out; an epoch that is not wanted, or not finite,
is not taken, so a member's state is then that of its last good epoch.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array

from kdjax.files import to_json, write_whole
from kdjax.training import memory, parallel
from kdjax.training.checkpoint import Checkpointer
from kdjax.training.stacked import Member, create_states, member_state, together
from kdjax.training.state import initializer, separate, unite
from kdjax.training.step import Rows, many_steps, train_step
from kdjax.training.stop import Interrupted, until_stopped
from kdjax.types import AnyArray, BadInput, LossFn, Model, Networks, PyTree, TrainState

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a member ended: `finished`, `stopped` (patience) or `diverged`, and after how many epochs it stands."""

    status: str = "training"
    epochs: int = 0
    best: float | None = None
    best_epoch: int = 0

    @property
    def active(self) -> bool:
        """Whether it still trains."""
        return self.status == "training"

    def settle(self, score: float | None, patience: int) -> None:
        """Count a good epoch; stop where its score is the last that patience waits for."""
        self.epochs += 1
        if score is not None and (self.best is None or score > self.best):
            self.best, self.best_epoch = score, self.epochs
        if patience and self.epochs - self.best_epoch >= patience:
            self.status = "stopped"


class Trained(NamedTuple):
    """Members that were trained together, their stacked states and how each ended; padding is gone."""

    members: list[Member]
    states: TrainState
    outcomes: list[Outcome]


@dataclass(frozen=True)
class Plan:
    """How a population is laid out.

    Attributes:
        own_order: every member visits the data in the order of its own seed, as it would alone; otherwise all share the
            order of seed 0, a batch is gathered once, and the first layer of all members is one wide product.
        members_per_call: members trained at a time, over all devices; 0 takes what memory holds.
        group: members of one `vmap`; groups follow one another on a device. 0 chooses: all on an accelerator; on a CPU
            16 with a shared order and 1 with own orders, where a batch of small products is slower than one by one.
    """

    own_order: bool = True
    members_per_call: int = 0
    group: int = 0

    def grouped(self, mesh: parallel.Mesh) -> int:
        """The members of one `vmap` that this plan means on these devices, 0 for all of a device."""
        if self.group or parallel.platform(mesh) != "cpu":
            return self.group
        return 1 if self.own_order else 16


class Population:
    """A population's program as a value: traced once for all members of as many as it was first given.

    Args:
        model: what is trained.
        tx: an Optax transformation of unit learning rate.
        loss_fn: a recipe's.
        mesh: members are split over its devices, and padded where these do not divide them.
        plan: order, members at a time, members of one `vmap`.
    """

    def __init__(
        self,
        model: Model | Networks,
        tx: optax.GradientTransformation,
        loss_fn: LossFn,
        mesh: parallel.Mesh,
        plan: Plan = Plan(),
    ) -> None:
        self.model, self.tx, self.mesh, self.plan = model, tx, mesh, plan
        self._begin = partial(create_states, model, tx, init=initializer(model))
        self._run = many_steps(train_step(loss_fn, tx))
        lifted = together(self._run, own_order=plan.own_order, group=plan.grouped(mesh))
        self._compiled = parallel.jit_members(lifted, mesh, own_order=plan.own_order)

    def train(
        self,
        members: Sequence[Member],
        *,
        data: Mapping[str, AnyArray],
        order: Callable[[int, int], Rows],
        epochs: int,
        frozen: PyTree = None,
        evaluate: Callable[[TrainState], Mapping[str, np.ndarray]] | None = None,
        watch: str = "validation_accuracy",
        patience: int = 0,
        directory: Path | None = None,
        checkpoint_every: int = 1,
        on_epoch: Callable[[Sequence[Member], int, list[dict[str, float]]], None] | None = None,
    ) -> Iterator[Trained]:
        """Train members, as many at a time as the plan says, each part to its end.

        Args:
            members: seeds and hyper-parameters; all have the same names.
            data: arrays that rows index into; they are put on every device.
            order: `(seed, epoch) -> {"index": [S, B], "mask": [S, B]}`, and further columns such as "epoch"; as many
                steps for every seed and epoch.
            epochs: passes.
            frozen: for `TrainState.frozen`, one for all.
            evaluate: metrics of states on held-out data, each `[M]`, once per epoch.
            watch: the metric of `evaluate` that patience looks at; higher is better.
            patience: a member stops after so many epochs without a better `watch`; 0 never.
            directory: checkpoints; a study that was interrupted goes on from them.
            checkpoint_every: epochs between checkpoints; a part's last epoch always has one.
            on_epoch: called with (members, epoch from 1, metrics of each member; empty for one that did not train).

        Yields:
            `Trained`, part by part in the order of `members`. A part that was finished earlier comes back from its
            checkpoint, untrained.

        Raises:
            BadInput: no members, members with different names, or patience without an evaluation.
            Interrupted: after SIGTERM or Ctrl-C, once the states are saved.
        """
        mesh, plan, begin = self.mesh, self.plan, self._begin
        if not members or len({frozenset(m.hparams) for m in members}) > 1:
            raise BadInput(f"{len(members)} members: accepted are one or more, all with the same hyper-parameters.")
        if patience and evaluate is None:
            raise BadInput(
                f"patience={patience} without evaluate: accepted is 0, or an evaluation to be patient about."
            )

        def step_bytes() -> int:
            def one(own: PyTree, shared: Any, data: Any, rows: Rows) -> Any:
                new, sums = self._run(unite(own, shared), data, rows)
                return separate(new)[0], sums

            state = member_state(begin(members[:1], frozen=frozen), 0)
            rows = {name: x[:1] for name, x in order(members[0].seed, 0).items()}
            found = jax.jit(one).lower(*separate(state), dict(data), rows).compile().memory_analysis()
            return found.temp_size_in_bytes if found else 0

        size = _part_size(members, plan, mesh, begin, step_bytes, directory)
        log.info("%d members, %d at a time over %d devices", len(members), size, mesh.size)
        resident, whole = parallel.replicate(dict(data), mesh), parallel.replicate(frozen, mesh)
        for at in range(0, len(members), size):
            real = list(members[at : at + size])
            padded = real + real[:1] * (size - len(real))

            def rows(epoch: int, padded: list[Member] = padded) -> Rows:
                if not plan.own_order:
                    return order(0, epoch)
                by_seed = {m.seed: order(m.seed, epoch) for m in padded}
                return {name: np.stack([by_seed[m.seed][name] for m in padded]) for name in by_seed[padded[0].seed]}

            def tell(epoch: int, metrics: list[dict[str, float]], real: list[Member] = real) -> None:
                if on_epoch:
                    on_epoch(real, epoch, metrics[: len(real)])

            with ExitStack() as stack:
                checkpointer = None
                if directory:
                    checkpointer = stack.enter_context(Checkpointer(directory / f"part-{at // size}", keep=1))
                states, outcomes = _fit(
                    parallel.place_members(begin(padded, frozen=whole), mesh),
                    [Outcome() for _ in real] + [Outcome("padding") for _ in padded[len(real) :]],
                    lambda s, a, e, rows=rows: self._compiled(s, a, resident, rows(e)),
                    epochs=epochs,
                    steps=len(order(0, 0)["mask"]),
                    evaluate=evaluate,
                    watch=watch,
                    patience=patience,
                    checkpointer=checkpointer,
                    checkpoint_every=checkpoint_every,
                    place=lambda s: parallel.place_members(s, mesh),
                    on_epoch=tell,
                )
            yield Trained(real, member_state(states, slice(len(real))), outcomes[: len(real)])


def _part_size(
    members: Sequence[Member],
    plan: Plan,
    mesh: parallel.Mesh,
    begin: Callable[[Sequence[Member]], TrainState],
    step_bytes: Callable[[], int],
    directory: Path | None,
) -> int:
    """Members trained at a time: a multiple of the devices, and of whole groups where there are so many."""
    note = directory / "plan.json" if directory else None
    if note and note.exists():  # free memory may differ today; the checkpoints' shapes may not
        size = json.loads(note.read_text())["members_per_call"]
        if size % mesh.size:
            raise BadInput(f"{note}: {size} members at a time on {mesh.size} devices; accepted is a divisor of {size}.")
        return size
    limit = plan.members_per_call
    if not limit and len(members) > mesh.size:
        state = memory.tree_bytes(begin(members[:1]))
        free = min(memory.free_bytes(device) for device in mesh.devices.flat)
        limit = memory.members_that_fit(state, step_bytes(), free) * mesh.size
    limit = min(limit or len(members), len(members))
    unit = mesh.size * max(plan.grouped(mesh), 1)
    unit = unit if limit >= unit else mesh.size
    parts = -(-len(members) // max(limit // unit * unit, unit))
    size = -(-len(members) // (parts * unit)) * unit
    if note:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, to_json({"members_per_call": size}, note.name) + "\n")
    return size


def _fit(
    states: TrainState,
    outcomes: list[Outcome],
    run: Callable[[TrainState, np.ndarray, int], Any],
    *,
    epochs: int,
    steps: int,
    evaluate: Callable[[TrainState], Mapping[str, np.ndarray]] | None,
    watch: str,
    patience: int,
    checkpointer: Checkpointer | None,
    checkpoint_every: int,
    place: Callable[[TrainState], TrainState],
    on_epoch: Callable[[int, list[dict[str, float]]], None],
) -> tuple[TrainState, list[Outcome]]:
    """Train one part to its end, or until no member is active."""
    with until_stopped() as stop:
        if checkpointer and (found := checkpointer.restore(states)):
            states, outcomes = place(found[0]), [Outcome(**o) for o in found[1]["outcomes"]]
            log.info("resumed at epoch %d of %d", int(states.step) // steps, epochs)
        for epoch in range(int(states.step) // steps, epochs):
            active = np.array([o.active for o in outcomes])
            if not active.any():
                break
            states, sums, finite = run(states, active, epoch)
            means = _means(sums)
            scores = evaluate(states) if evaluate else {}
            metrics: list[dict[str, float]] = []
            for i, (outcome, good) in enumerate(zip(outcomes, np.asarray(finite), strict=True)):
                metrics.append({})
                if not outcome.active:
                    continue
                if not good:
                    outcome.status = "diverged"
                    log.warning("a member diverged in epoch %d and stands at its state before it", epoch + 1)
                    continue
                metrics[-1] = {f"train_{name}": float(mean[i]) for name, mean in means.items() if np.isfinite(mean[i])}
                metrics[-1] |= {name: float(score[i]) for name, score in scores.items()}
                if not all(map(math.isfinite, metrics[-1].values())):
                    metrics[-1], outcome.status = {}, "diverged"
                    log.warning("a member diverged in epoch %d: its answers are not finite", epoch + 1)
                    continue
                outcome.settle(metrics[-1].get(watch), patience)
            on_epoch(epoch + 1, metrics)
            over = epoch + 1 == epochs or not any(o.active for o in outcomes)
            if checkpointer and (over or stop or (epoch + 1) % checkpoint_every == 0):
                checkpointer.save(states, meta={"outcomes": [asdict(o) for o in outcomes]})
            if stop:
                where = "nothing is saved"
                if checkpointer:
                    checkpointer.wait()
                    where = f"saved after epoch {epoch + 1}; the same command goes on from there"
                raise Interrupted(f"population: {stop.name}; {where}", stop.number)
    ended = [replace(o, status="finished") if o.active else o for o in outcomes]
    return states, ended


def _means(sums: Mapping[str, tuple[Array, Array]]) -> dict[str, np.ndarray]:
    """Each member's means over an epoch, `[M]`, summed in float64; NaN where no example counted."""
    found = {}
    for name, pair in sums.items():
        total, count = (np.asarray(x, np.float64).sum(1) for x in pair)
        found[name] = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return found
