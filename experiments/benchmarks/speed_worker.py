"""The workers of `benchmarks.speed`: one side of the comparison in one process, doing jobs as they are asked for."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def serve(jobs: Callable[[str], Callable[[], None]]) -> None:
    """Read a job's name per line; do it; answer with the seconds it took. A job is set up once, outside the time."""
    ready: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ready:
            ready[name] = jobs(name)
        begun = time.perf_counter()
        ready[name]()
        print(time.perf_counter() - begun, flush=True)


def kdjax_jobs(spec: dict[str, Any], data: dict[str, np.ndarray]) -> Callable[[str], Callable[[], None]]:
    """An epoch by kdjax's own engine."""
    import jax

    if cache := os.environ.get("KDJAX_BENCHMARK_CACHE"):
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

    from kdjax.data import pipeline
    from kdjax.losses import response
    from kdjax.models.create import create
    from kdjax.recipes.distill import distill
    from kdjax.recipes.supervised import supervised
    from kdjax.teachers.live import live
    from kdjax.teachers.stored import cached
    from kdjax.training import optimizers, parallel
    from kdjax.training.state import create_state, variables
    from kdjax.training.step import many_steps, one_step, train_step

    shape = {"num_classes": int(data["label"].max()) + 1, "image_shape": data["inputs"].shape[1:]}
    mesh, tx = parallel.data_mesh(), optimizers.optimizer("adam")
    teacher = create("mlp", **shape, hidden=tuple(spec["teacher"]), dropout=0.5)
    student = create("mlp", **shape, hidden=tuple(spec["student"]))
    cnn = create("cnn", **shape, hidden=tuple(spec["channels"]))
    hparams = {"learning_rate": 1e-3, "temperature": 7.0, "alpha": 0.8}
    answers = np.random.default_rng(0).normal(size=(len(data["label"]), shape["num_classes"])).astype(np.float32)
    held = create_state(teacher, tx, jax.random.key(1), hparams=hparams)
    labels = supervised(student)
    table = {
        "student from labels": (student, labels, True),
        "student, teacher cached": (student, distill(student, cached(), response.kl), True),
        "student, teacher in the step": (student, distill(student, live(teacher.apply), response.kl), True),
        "teacher": (teacher, supervised(teacher), True),
        "first step": (student, labels, False),
        "mlp scan": (student, labels, True),
        "mlp step": (student, labels, False),
        "cnn scan": (cnn, supervised(cnn), True),
        "cnn step": (cnn, supervised(cnn), False),
    }

    def job(name: str) -> Callable[[], None]:
        model, loss_fn, scan = table[name]
        columns = {**data, "teacher_logits": answers} if name == "student, teacher cached" else data
        frozen = parallel.replicate(variables(held), mesh) if name == "student, teacher in the step" else None
        state = parallel.replicate(create_state(model, tx, jax.random.key(0), hparams=hparams), mesh)
        state = state.replace(frozen=frozen)
        resident = parallel.replicate(columns, mesh)
        step = train_step(loss_fn, tx)
        run = parallel.jit_step((many_steps if scan else one_step)(step), mesh, batch_axis=1 if scan else 0)
        epoch = 0

        def work() -> None:
            nonlocal state, epoch
            order = pipeline.epoch_order(len(data["label"]), seed=0, epoch=epoch)
            index, mask = pipeline.batches(order, spec["batch"])
            out: Any = None
            if scan:
                state, out = run(state, resident, {"index": index, "mask": mask})
            else:
                for i, m in zip(index[: 1 if name == "first step" else None], mask, strict=False):
                    state, out = run(state, resident, {"index": i, "mask": m})
            jax.block_until_ready((state.params, out))
            epoch += 1

        return work

    return job


def torch_jobs(
    spec: dict[str, Any], data: dict[str, np.ndarray], *, fused: bool
) -> Callable[[str], Callable[[], None]]:
    """An epoch of plain PyTorch: tensors in memory, a permutation, a loop over slices of it."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    image = torch.from_numpy(np.ascontiguousarray(data["inputs"], np.float32)).flatten(1)
    image = image / 255 if data["inputs"].dtype == np.uint8 else image
    label = torch.from_numpy(data["label"].astype(np.int64))
    classes, inputs = int(label.max()) + 1, image.shape[1]

    def mlp(hidden: list[int], dropout: float) -> nn.Sequential:
        layers, width = [], inputs
        for size in hidden:
            layers += [nn.Linear(width, size), *([nn.Dropout(dropout)] if dropout else []), nn.ReLU()]
            width = size
        return nn.Sequential(*layers, nn.Linear(width, classes))

    answers = torch.randn(len(label), classes)

    def job(name: str) -> Callable[[], None]:
        teacher = mlp(spec["teacher"], 0.5)
        model = teacher if name == "teacher" else mlp(spec["student"], 0.0)
        model.train()
        if model is not teacher:
            teacher.eval()
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

        def loss(rows: torch.Tensor) -> torch.Tensor:
            x, y = image[rows], label[rows]
            logits = model(x)
            hard = F.cross_entropy(logits, y)
            if name in ("student from labels", "teacher"):
                return hard
            if name == "student, teacher cached":
                theirs = answers[rows]
            else:
                with torch.no_grad():
                    theirs = teacher(x)
            soft = F.kl_div(F.log_softmax(logits / 7, 1), F.softmax(theirs / 7, 1), reduction="batchmean")
            return 0.8 * 49 * soft + 0.2 * hard

        def work() -> None:
            for rows in torch.randperm(len(label)).split(spec["batch"]):
                adam.zero_grad()
                loss(rows).backward()
                adam.step()

        return work

    return job


if __name__ == "__main__":
    spec = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["threads"]])
    arrays = dict(np.load(spec["data"]))
    if spec["name"] == "kdjax":
        serve(kdjax_jobs(spec, arrays))
    else:
        serve(torch_jobs(spec, arrays, fused=spec["name"] == "torch fused"))
