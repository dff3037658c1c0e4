"""Is a defence real, or are its gradients hidden? Twenty-three checks, a table, and a page that a reviewer can read.

    python -m experiments.audit --dataset=mnist --model=runs/natural --epsilon=0.1 --examples=500 \
        --workdir=runs/audit-natural
    python -m experiments.audit --dataset=mnist --model=runs/defended --twin=runs/natural --epsilon=0.3 \
        --training_attack=fgsm --adaptive="adversarial training: nothing to adapt to" --workdir=runs/audit-defended

--model and --twin are working directories of `experiments.train_teacher`, or of another run, whose networks --role and
--twin_role choose among; the twin is the same network, undefended.
Without --model a small network is trained on the embedded digits. The page is `audit.html` in the working directory.

A service (`experiments.serve`) is audited by what it answers, each answer paid through a ledger in the working
directory; checks that need gradients are skipped. There --twin may be a surrogate, whose gradients attack it:

    KDJAX_SERVICE_KEY=... python -m experiments.audit --dataset=mnist --model=http://127.0.0.1:8000 --examples=50 \
        --queries=500 --hard_examples=5 --hard_iterations=5 --twin=runs/surrogate --workdir=runs/audit-service

The checks are neither necessary nor sufficient, and the page says so.
"""

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.audit import page
from kdjax.attacks.projections import require_radius
from kdjax.attacks.victims import Victim, black_box, white_box
from kdjax.audit.audit import audit
from kdjax.audit.finding import Finding, record
from kdjax.audit.subject import SMALL, Sizes, Subject, Threat
from kdjax.config import field
from kdjax.data.checks import require_labels
from kdjax.data.load import load
from kdjax.data.pipeline import take
from kdjax.data.source import Examples
from kdjax.models.create import create
from kdjax.recipes.supervised import supervised
from kdjax.study import attacks, command, compare, lineage, networks, report, service
from kdjax.study.data import Common, open_study, overlap
from kdjax.teachers.answers import checksum
from kdjax.types import BadInput

log = logging.getLogger("kdjax.audit")
FULL = Sizes()


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field("runs/audit", "folder for everything the run leaves", identity=False, smoke="runs/smoke/audit")
    model: str = field(
        "", f"workdir of a finished run, or {service.HELP}; empty trains a small network on --dataset",
        identity=service.identity,
    )  # fmt: skip
    model_seed: int = field(0, "which of that run's seeds", low=0)
    role: str = field("teacher", "which of its networks: a folder in its checkpoints/, such as distilled")
    twin: str = field("", "workdir of the same network trained without the defence; empty skips what needs it")
    twin_role: str = field("teacher", "which of the networks in the twin's workdir")
    examples: int = field(500, "examples of the test split, from its start", low=2, smoke=60)
    norm: str = field("linf", "of the threat", choices=("linf", "l2"))
    epsilon: float = field(0.1, "radius of the threat, in pixel units", low=1e-6)
    adaptive: str = field("", "how the attacks were fitted to this defence, or why that is not needed; for the record")
    claim: float = field(-1.0, "robust accuracy that is claimed, in [0, 1]; -1 for none", low=-1.0, high=1.0)
    training_attack: str = field("", "attack it was trained with, such as fgsm or pgd(steps=7); empty: the plain PGD")
    epochs: int = field(20, "passes, where a network is trained here", low=1, smoke=10)
    seed: int = field(0, "of every draw of the attacks", low=0)
    steps: int = field(FULL.steps, "of the plain PGD", low=2, smoke=SMALL.steps)
    long_steps: int = field(FULL.long_steps, "of the PGD that shows convergence", low=2, smoke=SMALL.long_steps)
    sweep_steps: int = field(FULL.sweep_steps, "at each radius", low=2, smoke=SMALL.sweep_steps)
    restarts: int = field(FULL.restarts, "random starts", low=2, smoke=SMALL.restarts)
    apgd_steps: int = field(FULL.apgd_steps, "of APGD", low=2, smoke=SMALL.apgd_steps)
    targets: int = field(FULL.targets, "of targeted APGD", low=2, smoke=SMALL.targets)
    queries: int = field(FULL.queries, "of the Square attack", low=2, smoke=SMALL.queries)
    draws: int = field(FULL.draws, "random points per example", low=2, smoke=SMALL.draws)
    draw_examples: int = field(FULL.draw_examples, "examples that get them", low=2, smoke=SMALL.draw_examples)
    hard_iterations: int = field(FULL.hard_iterations, "of the hard-label attack", low=2, smoke=SMALL.hard_iterations)
    hard_examples: int = field(FULL.hard_examples, "that it runs on", low=2, smoke=SMALL.hard_examples)
    cw_steps: int = field(FULL.cw_steps, "of C&W, for each of 5 constants", low=2, smoke=SMALL.cw_steps)
    points: int = field(FULL.points, "examples of the loss landscape", low=2, smoke=SMALL.points)
    grid: int = field(FULL.grid, "side of the landscape, odd", low=3, smoke=SMALL.grid)


def main(config: Config, workdir: Path) -> None:
    """Load or train, audit, write the table and the page."""
    test = load(config.dataset, config.test_split, data_dir=config.data_dir, image_size=config.image_size)
    sizes = Sizes(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Sizes)})
    require_radius("--epsilon", config.epsilon, config.norm, math.prod(test.image_shape()), zero=False)
    training = parse_attack(config)
    asked = service.connect(config.model, workdir, flag="model") if service.is_service(config.model) else None
    if asked is not None:
        shape = {"num_classes": test.num_classes, "image_shape": test.image_shape()}
        networks.refuse_other_shapes(service.description(asked), config.model, shape, config.dataset, flag="model")
        victim = black_box(asked.ask, num_classes=asked.num_classes)
        arms = {"network": lineage.trained_elsewhere({}, config.model)}
    else:
        victim, own = given(config, test, config.model, "model") if config.model else trained(config, workdir)
        arms = {"network": own}
    twin = None
    if config.twin:
        twin, arms["twin"] = given(config, test, config.twin, "twin")
    image, label = first(test, config.examples)
    require_labels(test.select(np.arange(len(label))), flag="test_split")
    threat = Threat(norm=config.norm, epsilon=config.epsilon, adaptive=config.adaptive)
    subject = Subject(victim, image, label, threat, twin=twin, seed=config.seed)
    findings: list[Finding] = []
    for finding in audit(subject, sizes, claim=None if config.claim < 0 else config.claim, training_attack=training):
        log.info("%s %s: %s", finding.id, finding.verdict, finding.title)
        findings.append(finding)
    findings.sort(key=lambda f: int(f.id[1:]))
    facts = {
        "network": config.model or "trained here", "undefended twin": config.twin or "none",
        "data": f"{config.dataset} {config.test_split}, first {len(label)}",
        "threat": f"{config.norm}, radius {config.epsilon:g}",
    }  # fmt: skip
    page.page(findings, workdir / "audit.html", title="Robustness audit", facts=facts)
    results: dict[str, Any] = {f.id: record(f) for f in findings}
    arms["network"]["facts"]["attacked"] = facts["data"]
    origins = lineage.lineages(arms, dict.fromkeys(results, arms))
    if asked is None:
        results["subject"] = {
            "checksum": checksum(victim.variables), "norm": config.norm, "epsilon": config.epsilon,
            "examples": len(label),
        }  # fmt: skip
    text = page.markdown(findings)
    if asked is not None:
        text += "\n\nThe service answered {1:,} images in {0:,} requests, at a price of {2:g}.".format(
            *asked.paid.totals()
        )
    report.save_results(workdir, {**results, **origins}, text)


def parse_attack(config: Config) -> Any:
    """Name, attack and objective of --training_attack; None where it is empty."""
    if not config.training_attack:
        return None
    found = attacks.named(config.training_attack, flag="training_attack")
    return found.text, found.repeated(found.make(epsilon=config.epsilon)), found.objective


def given(config: Config, test: Examples, path: str, flag: str) -> tuple[Victim, dict[str, Any]]:
    """A network from the folder of the run that trained it, and where it comes from."""
    role = config.role if flag == "model" else config.twin_role
    network = networks.load_network(path, flag=flag, role=role)
    shape = {"num_classes": test.num_classes, "image_shape": test.image_shape()}
    networks.refuse_other_shapes(network.description, path, shape, config.dataset, flag=flag)
    learned = network.learned
    if learned["dataset"] == config.dataset and overlap(config, learned["train_split"], config.test_split):
        raise BadInput(
            f"--{flag}={path}: it learned from {learned['train_split']}, which shares examples with "
            f"--test_split={config.test_split}; accepted is a network that has not seen them."
        )
    if config.model_seed >= len(network.weights):
        raise BadInput(f"--model_seed={config.model_seed}: --{flag}={path} has seeds 0 to {len(network.weights) - 1}.")
    own = lineage.trained_elsewhere(network.lineage, path, role=role, seed=config.model_seed)
    return white_box(network.model.apply, network.weights[config.model_seed]), own


def trained(config: Config, workdir: Path) -> tuple[Victim, dict[str, Any]]:
    """A small network of the data set's own, without any defence, and where it comes from."""
    study = open_study(config, workdir)
    model = create("mlp", **study.shape, hidden=(64,))
    rate, learned = {"learning_rate": 3e-3}, lineage.Lineage("labels")
    arm = compare.Arm("teacher", model, supervised(model), config.epochs, rate, learned, once=True)
    network = compare.Trainer(study, workdir).train(arm, compare.Done(study, 0))
    return white_box(model.apply, network.weights), compare.described(arm, study)


def first(source: Examples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images, in [0, 1], and their labels."""
    rows = np.arange(min(count, len(source)), dtype=np.int32)
    batch = take(source, rows, np.ones(len(rows), np.float32))
    return batch["inputs"], batch["label"]


if __name__ == "__main__":
    command.start(Config, main)
