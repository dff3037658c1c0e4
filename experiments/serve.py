"""Serve a trained network over HTTP: who has a key asks, pays for each image once, and gets what the policy says.

    python -m experiments.serve --model=runs/teacher --port=8000
    python -m experiments.serve --model=runs/teacher --policy='top_k(3)' --price=0.001 --port=8001 \
        --keys='alice(budget=60000, rate=5000), bob(budget=1000)' --workdir=runs/serve-top

Needs the extra: pip install 'kdjax[service]'. Without --model a small network is trained on the embedded digits first.
Clients' keys are drawn once and lie in keys.json of the working directory; what was answered, to whom and at what price
in ledger.sqlite, answers included, so that a repeat of a request id is free, today and after any kill. The same command
goes on from there. SIGTERM and Ctrl-C let requests that are being answered end first.

Pages: /v1/answers, /v1/model, /v1/account, /health, /metrics, and what describes them, /openapi.json. Flags name the
service by its address, such as `--teacher=http://127.0.0.1:8000` of `experiments.distill` and `--model=` of
`experiments.attack` and `experiments.audit`, with the key in the environment variable KDJAX_SERVICE_KEY.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from kdjax.config import field
from kdjax.study import command, lineage, networks, report
from kdjax.study.supervised import small_network
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput

log = logging.getLogger("kdjax.serve")


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/serve", "folder of keys, ledger and log", identity=False, smoke="runs/smoke/serve")
    model: str = field("", "workdir of a finished run; empty trains a small network on digits")
    role: str = field("teacher", "which of its networks: a folder in its checkpoints/, such as distilled")
    seed: int = field(0, "which of its seeds", low=0)
    policy: str = field("soft", "what is answered: soft, logits, top_k(3), hard, rounded(2), smoothed(0.1), noisy(0.5)")
    keys: str = field(
        "user(budget=1000000)", "clients, each with its budget in images and, if limited, images a second",
        identity=False,
    )  # fmt: skip
    price: float = field(0.0, "of an image", low=0.0, identity=False)
    host: str = field("127.0.0.1", "address to listen at; 0.0.0.0 is all of this machine's", identity=False)
    port: int = field(8000, "port to listen at; 0 for any free one", low=0, high=65535, identity=False, smoke=0)
    most: int = field(256, "most images in one request", low=1, high=65536, identity=False)
    seconds: float = field(0.0, "end after so many; 0 for SIGTERM or Ctrl-C", low=0.0, identity=False, smoke=0.5)


def main(config: Config, workdir: Path) -> None:
    """Load, listen, and say at the end who was answered."""
    try:
        from kdjax.teachers.serving import accounts, answering, app, host, ledger, policy
    except ImportError as error:
        raise BadInput(f"{error}; accepted once installed: pip install 'kdjax[service]'.") from None
    offered = policy.policy(config.policy)
    path = config.model or small_network(workdir)
    network = networks.load_network(path, flag="model", role=config.role)
    if config.seed >= len(network.weights):
        raise BadInput(f"--seed={config.seed}: accepted are 0 to {len(network.weights) - 1}, the run's seeds.")
    books = ledger.Ledger(workdir / "ledger.sqlite")
    clients = accounts.clients(config.keys, workdir / "keys.json")
    shape = network.description["image_shape"]
    ask = answering.Network(network.model.apply, network.weights[config.seed], config.most)
    offer = answering.Offer(
        ask.checksum, config.policy, network.description["num_classes"], shape, config.price, config.most
    )
    desk = answering.Desk(ask, offer, offered, accounts.Accounts(clients, books), books)
    at = host.bind(config.host, config.port)
    try:
        ask.warm_up(shape)
        log.info("serving at http://%s:%d; keys are in %s", config.host, at.getsockname()[1], workdir / "keys.json")
        stop = host.serve(app.application(desk), at, seconds=config.seconds)
    finally:
        at.close()
        totals = books.totals()
        books.close()
    lines = ["| client | policy | requests | images | price | bytes in | bytes out |", "|---" * 7 + "|"]
    lines += [f"| {' | '.join(f'{x:g}' if isinstance(x, float) else str(x) for x in total)} |" for total in totals]
    arms = {"network": lineage.trained_elsewhere(network.lineage, path, role=config.role, seed=config.seed)}
    results = {"clients": [total._asdict() for total in totals], **lineage.lineages(arms, {"clients": arms})}
    report.save_results(workdir, results, "\n".join(lines))
    if stop:
        raise Interrupted(f"{stop.name}; what was answered is kept, and the same command goes on", stop.number)


if __name__ == "__main__":
    command.start(Config, main)
