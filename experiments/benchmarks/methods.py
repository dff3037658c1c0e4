"""What a training step of each method costs beside one of plain distillation, teacher in the step.

    python -m experiments.benchmarks.methods
    python -m experiments.benchmarks.methods --methods=kd,fitnet,at,sp,rkd,crd,dkd --workdir=runs/methods-speed-few

Cost and result: docs/benchmarks.md.

Every method's step is compiled once; then the methods alternate, a few steps each, round after round, and every round
gives each method's time over that of `KD` in the same round. Reported are medians over the rounds and their range: on a
shared machine the ratios mean more than the seconds. Networks start at random: a step costs what it costs.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import jax
import numpy as np

from kdjax.config import field
from kdjax.data import pipeline
from kdjax.recipes.supervised import supervised
from kdjax.study import command, methods, networks
from kdjax.study.data import open_study, optimizer_of
from kdjax.study.report import save_results
from kdjax.training import parallel
from kdjax.training.state import create_state
from kdjax.training.step import Run, one_step, train_step
from kdjax.types import BadInput

BASE, LABELS = "kd", "labels alone"


@dataclass(frozen=True)
class Config(methods.Flags):
    """Flags of this experiment."""

    workdir: str = field("runs/methods-speed", "folder of the run", identity=False, smoke="runs/smoke/methods-speed")
    rounds: int = field(20, "how often the methods alternate", low=1, smoke=2)
    steps: int = field(5, "of a method in a round", low=1, smoke=1)


def main(config: Config, workdir: Path) -> None:
    """Compile every method, alternate, tabulate."""
    if config.methods != "all" and BASE not in methods.named(config.methods):
        raise BadInput(f"--methods={config.methods}; accepted: with kd, which the others are compared with.")
    study = open_study(config, workdir)
    moments = study.train if config.standardize else None
    teacher, student = (
        networks.named(getattr(config, role), study.shape, flag=role, train=moments).model
        for role in ("teacher", "student")
    )
    arms, unfit = methods.arms(config, study, student, teacher, examples=len(study.train))
    params, model_state = jax.jit(teacher.init)(jax.random.key(1))
    variables = {"params": params, **model_state}
    tx = optimizer_of(config, steps=1)
    index, mask = pipeline.batches(np.arange(len(study.train), dtype=np.int32), config.batch_size, study.mesh.size)
    batch = pipeline.take(study.train, index[0], mask[0])

    # The stage that compares layers is the costlier one of two.
    plans = {name: arm.stages[0].plan for name, arm in arms.items()}
    recipes = {name: arm.stages[0].recipe for name, arm in arms.items()} | {LABELS: supervised(student)}
    runs, states = {}, {}
    for name, recipe in recipes.items():
        plan = plans.get(name)
        model = student if plan is None else plan.model
        frozen = None if plan is None else plan.frozen(variables, study.train.labels)
        hparams = {"learning_rate": 1e-6, **({} if plan is None else plan.hparams)}
        state = create_state(model, tx, jax.random.key(0), hparams=hparams)
        states[name] = parallel.place(state.replace(frozen=frozen), study.mesh, config.parallel)

        def make(axis_name: str | None, recipe=recipe) -> Run:
            return one_step(train_step(recipe, tx, axis_name=axis_name))

        runs[name] = parallel.wrap(config.parallel, make, study.mesh)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(config.rounds + 1):
        for name, run in runs.items():
            jax.block_until_ready(states[name].params)
            begun = time.perf_counter()
            for _ in range(config.steps):
                states[name], _ = run(states[name], {}, batch)
            jax.block_until_ready(states[name].params)
            seconds[name].append((time.perf_counter() - begun) / config.steps)
    # The first round warms up.
    report(workdir, {name: taken[1:] for name, taken in seconds.items()}, unfit)


def report(workdir: Path, seconds: dict[str, list[float]], unfit: dict[str, str]) -> None:
    """results.json, table.md: the cheapest first."""
    base = np.array(seconds[BASE])
    ratios = {name: np.array(taken) / base for name, taken in seconds.items()}
    lines = ["| | of a step of KD | range (10 to 90 %) | milliseconds | steps a second |", "|---|---|---|---|---|"]
    for name in sorted(ratios, key=lambda name: float(np.median(ratios[name]))):
        low, high = np.quantile(ratios[name], (0.1, 0.9))
        taken = median(seconds[name])
        cells = [f"{np.median(ratios[name]):.2f}", f"{low:.2f} to {high:.2f}", f"{1e3 * taken:.2f}", f"{1 / taken:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "".join(f"\n\nNot run: {name}: {why}" for name, why in unfit.items())
    results = {name: {"of_kd": float(np.median(r)), "seconds": median(seconds[name])} for name, r in ratios.items()}
    save_results(workdir, results, text)


if __name__ == "__main__":
    command.start(Config, main)
