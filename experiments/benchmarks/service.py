"""A teacher behind an API: how fast, under load, through malformed requests, and through kills.

    python -m experiments.benchmarks.service --model=runs/natural --dataset=mnist

Cost: about 8 minutes on two cores. Result: see the README's table. Server and client are processes on one machine and
share its cores. Without --model a small network is trained on the embedded digits.

Speed: a pool is asked in requests of --batch images, keys, ledgers and HTTP included, beside the bare forward pass of
the same network in batches of the same size; images that are asked one by one; ZOO through the endpoint, in process.
Load: clients that ask about 1 to 8 images, every answer compared with the network's own. Malformed: requests that must
each get a 4xx with a reason, and be charged nothing. Kills: client, server or both, at moments spread over a pool.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from experiments.benchmarks import service_kills, service_load
from kdjax.attacks import named
from kdjax.attacks.run import run
from kdjax.attacks.victims import black_box, queries_only, white_box
from kdjax.config import field
from kdjax.data.load import load
from kdjax.study import attacks, command, networks, report
from kdjax.study.supervised import small_network
from kdjax.teachers.service import Service
from kdjax.teachers.serving import host
from kdjax.training.step import eval_step
from kdjax.types import BadInput

log = logging.getLogger("kdjax.benchmark")


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field(
        "runs/service-benchmark", "folder of the run", identity=False, smoke="runs/smoke/service-benchmark"
    )
    model: str = field("", "workdir of a finished run; empty trains a small network on digits")
    dataset: str = field("digits", "what is asked about")
    split: str = field("test", "its split")
    examples: int = field(10_000, "images of the pool, from the first on", low=1, smoke=64)
    batch: int = field(256, "images in a request", low=1, high=4096, smoke=32)
    concurrency: int = field(4, "requests on their way at once", low=1)
    rounds: int = field(3, "repetitions of what is timed; medians", low=1, smoke=1)
    singles: int = field(300, "images that are asked one by one", low=1, smoke=5)
    zoo_examples: int = field(8, "images that ZOO attacks; 0 for none", low=0, smoke=0)
    zoo_steps: int = field(20, "steps of ZOO", low=1, smoke=2)
    clients: int = field(200, "clients at once", low=1, smoke=4)
    seconds: float = field(60.0, "of load", low=0.1, smoke=0.5)
    malformed: int = field(10_000, "malformed requests", low=1, smoke=60)
    kills: int = field(20, "moments at which something is killed; 0 for none", low=0, smoke=0)
    seed: int = field(0, "of moments and malformed requests", low=0)


def main(config: Config, workdir: Path) -> None:
    """Start a server, measure, tabulate."""
    path = config.model or small_network(workdir)
    network = networks.load_network(path, flag="model")
    pool, label = attacks.first(load(config.dataset, config.split), config.examples)
    pool = pool.astype(np.float32)
    if pool.shape[1:] != network.description["image_shape"]:
        raise BadInput(f"--dataset={config.dataset}: images of {pool.shape[1:]}; accepted: those of --model={path}.")
    with host.bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url, folder = f"http://127.0.0.1:{port}", workdir / f"server-{time.time_ns()}"
    budget = 10 * (config.rounds + 1) * len(pool) + 10**9
    line = [
        sys.executable, "-m", "experiments.serve", f"--workdir={folder}", f"--model={path}", f"--port={port}",
        f"--most={config.batch}", f"--keys=user(budget={budget}), spent(budget=0)",
    ]  # fmt: skip
    server = service_kills.Server(line, url, workdir / "server.log")
    server.start()
    keys, ledger = json.loads((folder / "keys.json").read_text()), folder / "ledger.sqlite"
    results: dict[str, Any] = {}

    def step(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        results[name] = measure()
        log.info("%s: %s", name, results[name])

    def connect(name: str) -> Service:
        file = folder / f"{name}-{time.time_ns()}.sqlite"
        return Service(url, file, key=keys["user"], batch=config.batch, concurrency=config.concurrency)

    weights = network.weights[0]
    try:
        step("speed", lambda: speed(config, network.model.apply, weights, pool, connect))
        if config.zoo_examples:
            step("zoo", lambda: zoo(config, network, pool, label, connect))
        wanted = softmax(
            np.concatenate(
                [forward(network.model.apply)(weights, pool[i : i + 500]) for i in range(0, len(pool), 500)]
            ),
            -1,
        )

        def loaded() -> dict[str, Any]:
            before = service_kills.answered(ledger)
            how = {"clients": config.clients, "seconds": config.seconds, "name": f"load-{time.time_ns()}"}
            found = asyncio.run(service_load.load(url, keys["user"], pool, wanted, **how))
            return {**found, "charged": service_kills.answered(ledger) - before}

        def refused() -> dict[str, Any]:
            before = service_kills.answered(ledger)
            bad = service_load.malformed(
                pool.shape[1:], keys["user"], keys["spent"], np.random.default_rng(config.seed)
            )
            found = service_load.refuse(port, bad, config.malformed, server.pid)
            return {**found, "charged": service_kills.answered(ledger) - before}

        step("load", loaded)
        step("malformed", refused)
        if config.kills:
            np.save(folder / "pool.npy", pool)
            files = {"ledger": folder / "killed.sqlite", "pool": folder / "pool.npy", "out": folder / "killed.npy"}
            spec = {
                **{name: str(file) for name, file in files.items()}, "url": url, "key": keys["user"], "batch": 16,
                "concurrency": config.concurrency, "attempts": 60,
            }  # fmt: skip

            def killed() -> dict[str, Any]:
                rng = np.random.default_rng(config.seed)
                books = service_kills.survive(server, ledger, spec, config.kills, rng)
                answers = softmax(np.load(folder / "killed.npy"), -1)
                agree = bool(np.allclose(answers, wanted, atol=1e-4))
                return {**books._asdict(), "killed": len(books.killed), "pool": len(pool), "answers agree": agree}

            step("kills", killed)
    finally:
        code = server.stop()
    results["exit code after SIGTERM"] = code
    lines = [
        f"| {name}, {n} | {cell(value)} |"
        for name, found in results.items()
        if isinstance(found, dict)
        for n, value in found.items()
    ]
    report.save_results(workdir, results, "\n".join(["| | |", "|---|---|", *lines]))


def cell(value: Any) -> str:
    """A number or a text in a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def forward(apply: Any) -> Callable[[Any, np.ndarray], np.ndarray]:
    """The bare forward pass."""
    compiled = jax.jit(eval_step(apply))
    return lambda weights, images: np.asarray(compiled(weights, images))


def timed(count: int, rounds: int, work: Callable[[], Any]) -> float:
    """How many a second, the median of the rounds; the first of all is not counted."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        found.append(count / (time.perf_counter() - start))
    return median(found[1:])


def speed(
    config: Config, apply: Any, weights: Any, pool: np.ndarray, connect: Callable[[str], Service]
) -> dict[str, Any]:
    """Images a second: bare, through the service, and one image a request."""
    ask = forward(apply)
    parts = [pool[at : at + config.batch] for at in range(0, len(pool) - config.batch + 1, config.batch)]
    whole, singles = np.concatenate(parts), pool[: config.singles]

    def through(images: np.ndarray, *, one_by_one: bool = False) -> None:
        with connect("speed") as service:
            for part in np.split(images, len(images)) if one_by_one else [images]:
                service.logits(part)

    bare = timed(len(whole), config.rounds, lambda: [ask(weights, part) for part in parts])
    served = timed(len(whole), config.rounds, lambda: through(whole))
    single = timed(len(singles), config.rounds, lambda: through(singles, one_by_one=True))
    return {
        "bare images a second": bare, "served": served, "served over bare": served / bare,
        "one image a request": single, "batches over single images": served / single,
    }  # fmt: skip


def zoo(
    config: Config, network: networks.Network, pool: np.ndarray, label: np.ndarray, connect: Callable[[str], Service]
) -> dict[str, Any]:
    """Queries a second of ZOO, in process and through the service, and whether both sides count alike."""
    images, labels = pool[: config.zoo_examples], label[: config.zoo_examples]
    attack = named.zoo(steps=config.zoo_steps, search_steps=1)
    counts: list[tuple[int, int]] = []
    asked: list[Service] = []
    # One victim for all rounds, so that the attack is compiled once.
    outside = black_box(lambda rows: asked[-1].ask(rows), num_classes=network.description["num_classes"])

    def through() -> None:
        with connect("zoo") as service:
            asked.append(service)
            found = run(attack, outside, images, labels)
            counts.append((int(found.queries.sum()), service.paid.totals()[1]))

    inside = queries_only(white_box(network.model.apply, network.weights[0]))
    queries = int(run(attack, inside, images, labels).queries.sum())
    own = timed(queries, config.rounds, lambda: run(attack, inside, images, labels))
    through()
    served = timed(counts[0][0], config.rounds, through)
    return {
        "queries": counts[0][0], "in process, queries a second": own, "served": served, "served over own": served / own,
        "counted alike": all(a == b for a, b in counts),
    }  # fmt: skip


if __name__ == "__main__":
    command.start(Config, main)
