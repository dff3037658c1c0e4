"""Games with a victim that only answers, played within a study: rounds that are paid, each followed by one step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.lib.format import open_memmap

from kdjax.recipes.data_free import Game, rounds
from kdjax.study.data import Study, factor_of, optimizer_of
from kdjax.study.train import kept
from kdjax.training import parallel
from kdjax.training.loop import Chunk
from kdjax.training.program import Program
from kdjax.training.state import create_state, initializer
from kdjax.training.step import Rows
from kdjax.types import TrainState

REMEMBERED = 10000
"""Questions that are kept, of those that were asked first."""

Ask = Callable[[np.ndarray], np.ndarray]
"""Images `[N, H, W, C]` to a victim's logits `[N, K]`; it is called outside of any compiled step, and pays."""


class Match:
    """A game at every budget, by one program for all of them and all seeds.

    A budget goes on where the one before ended: students, generators and optimizers are then those of one run.
    """

    def __init__(self, study: Study, game: Game, budgets: Sequence[int]) -> None:
        """Compile nothing yet.

        Raises:
            BadInput: two budgets with less than a round's row between them.
        """
        self._study, self._game, self._budgets = study, game, list(budgets)
        config, mesh = study.config, study.mesh
        parts = [after - before for before, after in pairwise([0, *budgets])]
        self._rounds = [rounds(part, config.batch_size, game, multiple_of=mesh.size) for part in parts]
        played = sum(one.count for one in self._rounds)
        tx, factor = optimizer_of(config, steps=played * game.turns), factor_of(config, steps=played)
        self._updates = game.updates(tx, factor)
        self._program = Program(self._updates, mesh, wrapper=config.parallel, scan=False)
        self._make, self._init = jax.jit(game.make), initializer(game.networks)

    @property
    def rounds(self) -> list[int]:
        """Of each budget."""
        return [one.count for one in self._rounds]

    def play(
        self, workdir: Path, names: Sequence[str], number: int, ask: Ask, *, seed: int, before: TrainState | None
    ) -> TrainState:
        """Go on to a budget, or take its end from its checkpoint.

        Args:
            workdir: of the experiment.
            names: of the runs, one for each budget.
            number: of the budget.
            ask: the victim.
            seed: of first parameters and every draw.
            before: the end of the budget before, if there is one.
        """
        config, game = self._study.config, self._game
        if before is None:
            key, hparams = jax.random.key(seed), {"learning_rate": config.learning_rate, **game.hparams}
            begun = create_state(game.networks, self._updates, key, hparams=hparams, init=self._init)
        else:
            begun = before.replace(step=np.zeros((), np.int32), key=jax.random.fold_in(before.key, number))
        state = parallel.place(begun, self._study.mesh, config.parallel)
        part, paid = self._rounds[number], [0, *self._budgets][number]
        file = remembered(workdir, names[-1], seed)
        shape = (min(self._budgets[-1], REMEMBERED), *self._study.test.image_shape())

        def played(state: TrainState, data: Mapping[str, Any], rows: Rows) -> Any:
            batch = jax.device_get(self._make(state, rows["asked"]))
            there = rows["asked"] > 0
            images = batch["inputs"][there]
            _remember(file, shape, paid + part.before(int(state.step)), images)
            said = ask(images)
            answers = np.zeros((*there.shape, said.shape[-1]), np.float32)
            answers[there] = said
            return self._program.run(state, data, {**batch, "answers": answers})

        def chunks(epoch: int, first: int) -> Iterator[tuple[int, Chunk]]:
            yield 1, {"asked": part.asked(epoch)}

        return kept(
            self._study, workdir, f"{names[number]}/seed-{seed}", state, played, data={}, chunks=chunks,
            epochs=part.count, steps=1,
        )  # fmt: skip


def remembered(workdir: Path, run: str, seed: int) -> Path:
    """The file of the first questions that a run asked, in their order."""
    return workdir / "asked" / run / f"seed-{seed}.npy"


def _remember(file: Path, shape: tuple[int, ...], at: int, images: np.ndarray) -> None:
    """Write images where they stand among all questions: a round that is played again finds its own."""
    if at >= shape[0]:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = open_memmap(file, mode="r+") if file.exists() else open_memmap(file, "w+", np.float32, shape)
    kept[at : at + len(images)] = images[: shape[0] - at]
    kept.flush()
