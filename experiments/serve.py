"""Serve a trained network over HTTP: who has a key asks, pays for each image once, and gets what the policy says.

    python -m experiments.serve --model=runs/teacher --port=8000
    python -m experiments.serve --model=runs/teacher --policy='top_k(3)' --price=0.001 --port=8001 \
        --keys='alice(budget=60000, rate=5000), bob(budget=1000)' --workdir=runs/serve-top

Needs the extra: pip install 'kdjax[service]'. Without --model a small network is trained on the embedded digits first.
Clients' keys are drawn once and lie in keys.json of the working directory; what was answered, to whom and at what price
in ledger.sqlite, answers included, so that a repeat of a request id is free, today and after any kill. The same command
goes on from there. SIGTERM and Ctrl-C let requests that are being answered end first.

    python -m experiments.serve --model=runs/teacher --detect='nearby(share=0.001, most=500)' --port=8002 \
        --workdir=runs/serve-watched

watches for questions that lie close together, as those of attacks that search do: an image is flagged whose mean
distance to the nearest ten of the last thousand that its client asked is below that of all but one honest image in a
thousand; after 500 flags the client gets 403, and what it has paid. `most=0`, the default, only counts. Flags are paid,
stand in the ledger and in /metrics, and are told to nobody else. What it costs honest users is measured at the start on
images that did not set the threshold, and logged. Counts outlive the process; the remembered questions do not.

Pages: /v1/answers, /v1/model, /v1/account, /health, /metrics, and what describes them, /openapi.json. Flags name the
service by its address, such as `--teacher=http://127.0.0.1:8000` of `experiments.distill` and `--model=` of
`experiments.attack` and `experiments.audit`, with the key in the environment variable KDJAX_SERVICE_KEY.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdjax.config import field
from kdjax.data.load import load
from kdjax.study import attacks, command, lineage, networks, report
from kdjax.study.supervised import small_network
from kdjax.training.stop import Interrupted
from kdjax.types import BadInput

if TYPE_CHECKING:
    from kdjax.teachers.serving.watch import Monitor

log = logging.getLogger("kdjax.serve")
LOOKED_AT = 10000
"""Honest images that set what is near, and as many that it is tried on."""


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
    detect: str = field(
        "", "rule for questions that lie close together, nearby(share=0.001, most=0, neighbours=10, last=1000): the "
        "share of honest images that it may flag, the flags after which a client is refused, 0 for never; empty: none",
        identity=False, smoke="nearby(most=100)",
    )  # fmt: skip
    honest: str = field(
        "", "data set of honest images, whose train split sets what is near; empty: what the model learned from",
        identity=False,
    )  # fmt: skip
    host: str = field("127.0.0.1", "address to listen at; 0.0.0.0 is all of this machine's", identity=False)
    port: int = field(8000, "port to listen at; 0 for any free one", low=0, high=65535, identity=False, smoke=0)
    most: int = field(256, "most images in one request", low=1, high=65536, identity=False)
    seconds: float = field(0.0, "end after so many; 0 for SIGTERM or Ctrl-C", low=0.0, identity=False, smoke=0.5)


def main(config: Config, workdir: Path) -> None:
    """Load, listen, and say at the end who was answered."""
    try:
        from kdjax.teachers.serving import accounts, answering, app, host, ledger, policy, watch
    except ImportError as error:
        raise BadInput(f"{error}; accepted once installed: pip install 'kdjax[service]'.") from None
    offered, rule = policy.policy(config.policy), watch.rule(config.detect) if config.detect else None
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
    known, unseen = honest(config, network) if rule else (np.empty(0), np.empty(0))
    watching = watch.Monitor(rule, known, books) if rule else None
    cost = costs(watching, unseen) if watching else {}
    answerer = answering.Answerer(ask, offer, offered, accounts.Accounts(clients, books), books, watching)
    at = host.bind(config.host, config.port)
    try:
        ask.warm_up(shape)
        log.info("serving at http://%s:%d; keys are in %s", config.host, at.getsockname()[1], workdir / "keys.json")
        stop = host.serve(app.application(answerer), at, seconds=config.seconds)
    finally:
        at.close()
        totals = books.totals()
        books.close()
    lines = ["| client | policy | requests | images | price | bytes in | bytes out | flagged |", "|---" * 8 + "|"]
    lines += [f"| {' | '.join(f'{x:g}' if isinstance(x, float) else str(x) for x in total)} |" for total in totals]
    arms = {"network": lineage.trained_elsewhere(network.lineage, path, role=config.role, seed=config.seed)}
    results = {"clients": [total._asdict() for total in totals], **({"detector": cost} if cost else {})}
    report.save_results(workdir, {**results, **lineage.lineages(arms, {"clients": arms})}, "\n".join(lines))
    if stop:
        raise Interrupted(f"{stop.name}; what was answered is kept, and the same command goes on", stop.number)


def honest(config: Config, network: networks.Network) -> tuple[np.ndarray, np.ndarray]:
    """Images that set what is near, and others of the same kind."""
    learned = network.learned
    dataset = config.honest or learned["dataset"]
    same = dataset == learned["dataset"]
    splits = [learned.get(f"{name}_split") if same else "" for name in ("train", "test")]
    how = {"data_dir": learned.get("data_dir", ""), "image_size": learned.get("image_size", 0)} if same else {}
    found = [load(dataset, split or name, **how) for split, name in zip(splits, ("train", "test"), strict=True)]
    for source in found:
        if source.image_shape() != network.description["image_shape"]:
            raise BadInput(
                f"--honest={dataset}: images of {source.image_shape()}; accepted: the model's, "
                f"{network.description['image_shape']}."
            )
    known, unseen = (attacks.first(source, LOOKED_AT)[0] for source in found)
    return known, unseen


def costs(watching: "Monitor", unseen: np.ndarray) -> dict[str, float]:
    """What the rule does to an honest client that asks about images which did not set the threshold."""
    share = float(watching.fresh()(unseen).mean())
    most = watching.rule.most
    after = f"; such a client is refused after about {most / share:.0f} images" if most and share else ""
    log.info("of %d honest images %.2f%% are flagged%s", len(unseen), 100 * share, after)
    return {"threshold": watching.threshold, "honest images": len(unseen), "flagged of them": share}


if __name__ == "__main__":
    command.start(Config, main)
