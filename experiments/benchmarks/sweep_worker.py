"""The workers of `benchmarks.sweep`: the plain epoch of `speed_worker` on either side, and a whole population's."""

import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks import speed_worker

TEMPERATURES, ALPHAS, SEEDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0), (0.5, 0.9), 4


def grid(temperatures: int, alphas: int, seeds: int) -> list[tuple[int, float, float]]:
    """`(seed, temperature, alpha)` of every student, point by point."""
    return [(s, t, a) for t, a, s in itertools.product(TEMPERATURES[:temperatures], ALPHAS[:alphas], range(seeds))]


def population_jobs(spec: dict[str, Any], data: dict[str, np.ndarray]) -> Callable[[str], Callable[[], None]]:
    """An epoch of all students; the job's name is `own` or `shared`, the order of the data."""
    import jax

    from kdjax.data import pipeline
    from kdjax.losses import response
    from kdjax.models.create import create
    from kdjax.recipes.distill import distill
    from kdjax.teachers.stored import cached
    from kdjax.training import optimizers, parallel, stacked
    from kdjax.training.population import Member, Plan
    from kdjax.training.step import many_steps, train_step

    shape = {"num_classes": int(data["label"].max()) + 1, "image_shape": data["inputs"].shape[1:]}
    student = create("mlp", **shape, hidden=tuple(spec["student"]))
    mesh, tx, count = parallel.data_mesh(), optimizers.optimizer("adam"), len(data["label"])
    members = [Member(s, {"learning_rate": 1e-3, "temperature": t, "alpha": a}) for s, t, a in grid(*spec["grid"])]
    answers = np.random.default_rng(0).normal(size=(count, shape["num_classes"])).astype(np.float32)
    resident = parallel.replicate({**data, "teacher_logits": answers}, mesh)
    run = many_steps(train_step(distill(student, cached(), response.kl), tx))

    def job(name: str) -> Callable[[], None]:
        own = name == "own"
        plan = Plan(own_order=own, group=spec["group"])
        compiled = parallel.jit_members(
            stacked.together(run, own_order=own, group=plan.grouped(mesh)), mesh, own_order=own
        )
        states = parallel.place_members(stacked.create_states(student, tx, members), mesh)
        active, epoch = np.ones(len(members), bool), 0

        def rows(seed: int) -> dict[str, np.ndarray]:
            index, mask = pipeline.batches(pipeline.epoch_order(count, seed=seed, epoch=epoch), spec["batch"])
            return {"index": index, "mask": mask}

        def work() -> None:
            nonlocal states, epoch
            if own:
                each = {seed: rows(seed) for seed in {m.seed for m in members}}
                batch = {name: np.stack([each[m.seed][name] for m in members]) for name in ("index", "mask")}
            else:
                batch = rows(0)
            states, out, finite = compiled(states, active, resident, batch)
            jax.block_until_ready((states.params, out))
            assert np.asarray(finite).all()
            epoch += 1

        return work

    return job


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["threads"]])
    arrays = dict(np.load(spec["data"]))
    if spec["name"] == "population":
        os.environ["JAX_NUM_CPU_DEVICES"] = str(spec["devices"])  # a CPU is then as many devices; others are not hit
        speed_worker.serve(population_jobs(spec, arrays))
    elif spec["name"] == "sequential":
        speed_worker.serve(speed_worker.kdjax_jobs(spec, arrays))
    else:
        speed_worker.serve(speed_worker.torch_jobs(spec, arrays, fused=False))
