"""Experts of several domains, one student of them all: who is to be asked, and is it better than labels?

    python -m experiments.domains
    python -m experiments.domains --domains='mnist, usps, mnist(invert), mnist(rotate(45)), mnist(blur_noise)' \
        --per_domain=20000 --transfer=2000 --labels=100 --batch_size=128 --schedule='cosine(1, 0)' \
        --expert_hidden=512,512 --expert_epochs=10 --student_hidden=128 --epochs=60 --learning_rate=1e-3 \
        --workdir=runs/domains-mnist
    python -m experiments.domains --labels=0 \
        --domains="mnist + fashion_mnist + kmnist(train='test[:80%]', test='test[80%:]')" \
        --per_domain=8000 --batch_size=128 --schedule='cosine(1, 0)' --expert_hidden=512,512 --expert_epochs=15 \
        --student_hidden=512,512 --epochs=30 --learning_rate=1e-3 --workdir=runs/domains-disjoint
    python -m experiments.domains --domains='mnist(classes=range(0, 7)), mnist(classes=range(4, 10))' \
        --per_domain=8000 --labels=100 --batch_size=128 --schedule='cosine(1, 0)' \
        --expert_hidden=512,512 --expert_epochs=10 --student_hidden=128 --epochs=30 --learning_rate=1e-3 \
        --workdir=runs/domains-overlap

The first is four views of 1,797 real digits. Minutes on two shared cores: domains 5, domains-mnist 18,
domains-disjoint 27, domains-overlap 6. Results: docs/results/README.md. How domains are written: `kdjax.data.domains`.

One expert per domain learns from that domain's labels. Every student starts from the same parameters, sees the images
of all domains and makes the same number of updates; it is told the domain neither in training nor in test. They differ
in their teacher: none (labels alone), the experts, weighed by a gate, or one big network that learned from all labels.
With --labels=N students have N labels per domain, while experts, the learned gate and the big teacher have all that
there are, and the table has the same student on all labels of the same images too: the claim is tested with few labels
and with all. --transfer=N lets students see fewer images of each domain than the experts saw. A capped domain draws its
own images, so that `mnist(invert)` shows other digits than `mnist`.

The experts' answers are computed once. To choose a flag, report a split that is not the test's:
--train_split=train[:80%] --test_split=train[80%:].
"""

import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.domains import arms, figures, learners
from kdjax import models
from kdjax.config import field
from kdjax.data import domains as typed
from kdjax.data.checks import require_image_shape, require_labels
from kdjax.ensembles.label_spaces import LabelSpaces
from kdjax.study import command, compare
from kdjax.study.data import Common, Study, check_batch, optimizer_of
from kdjax.study.figures import curves
from kdjax.study.report import gain
from kdjax.training import parallel
from kdjax.training.record import Recorder
from kdjax.types import BadInput


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/domains", "folder for everything the run leaves", identity=False, smoke="runs/smoke/domains"
    )
    domains: str = field(
        "digits, digits(invert), digits(rotate(45)), digits(blur_noise)",
        f"what there is an expert for: {typed.ACCEPTED}",
        smoke="digits, digits(invert)",
    )
    dataset: str = field("", "not used here: --domains names the data sets")
    train_split: str = field("train", "split to train on, of domains without their own")
    validation_split: str = field("", "not used here")
    per_domain: int = field(0, "most training images of each domain; 0 for all", low=0, smoke=200)
    transfer: int = field(0, "most of these that students see, by seed; 0 for all", low=0)
    gates: str = field(
        "", f"who is asked, of {', '.join(arms.GATES)}; empty for all that apply", smoke="oracle,learned,none"
    )
    entropy_scale: float = field(0.3, "of the entropy gate: softmax(-entropy/scale) over experts, nats", low=1e-6)
    confidence_scale: float = field(0.1, "of the confidence gate: softmax(top probability/scale)", low=1e-6)
    expert_model: str = field("mlp", "network of experts and of the big teacher", choices=models.all_names())
    expert_hidden: tuple[int, ...] = field((256, 256), "widths or channels of each expert", low=1, smoke=(16,))
    expert_dropout: float = field(0.2, "dropout rate of experts and of the big teacher", low=0.0, high=0.99)
    expert_norm: str = field("batch", "their normalisation, where they have one", choices=models.NORMS)
    expert_epochs: int = field(40, "passes of experts and of the big teacher over their images", low=1, smoke=2)
    expert_learning_rate: float = field(1e-3, "peak learning rate of experts, gate and big teacher", low=0.0)
    big_hidden: tuple[int, ...] = field(
        (512, 512), "widths or channels of the big teacher of all domains", low=1, smoke=(16,)
    )
    gate_hidden: tuple[int, ...] = field((64,), "widths of the learned gate, which tells domains apart", low=1)
    gate_epochs: int = field(10, "passes of the learned gate over all images", low=1, smoke=1)
    student_hidden: tuple[int, ...] = field((64,), "student's widths, an mlp", low=1, smoke=(8,))
    labels: int = field(60, "labels that students have in each domain, balanced over its classes; 0 for all", low=0)
    epochs: int = field(40, "students' passes over the images of all domains", low=1, smoke=2)
    learning_rate: float = field(3e-3, "students' peak learning rate", low=0.0)
    temperature: float = field(2.0, "softens both sides", low=1e-6, high=1e4)
    alpha: float = field(0.9, "weight of the teacher; 1 - alpha of the labels", low=0.0, high=1.0)


def prepare(config: Config, workdir: Path) -> learners.Setting:
    """Load and check: all that can be refused is refused here, before anything trains."""
    for name in ("dataset", "validation_split"):
        if value := getattr(config, name):
            hint = "report another split instead: --train_split=train[:80%] --test_split=train[80%:]"
            raise BadInput(f"--{name}={value} is not used here; accepted: empty ({hint}).")
    domains = typed.parse(config.domains)
    if len(domains) < 2:
        raise BadInput(f"--domains={config.domains}: one domain; accepted: two or more, joined by a comma or a plus.")
    typed.refuse_shared_examples(domains, config.train_split, config.test_split, data_dir=config.data_dir)
    load = partial(typed.unite, domains, data_dir=config.data_dir, image_size=config.image_size)
    train = load("train", config.train_split, most=config.per_domain)
    spaces = LabelSpaces(train.maps, train.source.num_classes)
    for domain, own in zip(domains, spaces.maps, strict=True):
        if len(own) < 2:
            raise BadInput(
                f"--domains={config.domains}: {domain.name} has one class, of which an expert has nothing to say; "
                "accepted: two classes or more in each domain."
            )
    gates, note = arms.chosen(config.gates, spaces)
    test = load("test", config.test_split).source
    require_labels(test, flag="test_split")
    require_image_shape(test, train.source, flag=f"test_split={config.test_split}")
    study = Study(config, train.source, None, test, parallel.data_mesh(), Recorder(workdir))
    learners.network(config, train.source, "big_hidden")
    for d in range(len(domains)):
        part = typed.of_domain(train, d)
        learners.network(config, part)
        check_batch(study, part)
        optimizer_of(config, steps=-(-len(part) // config.batch_size) * config.expert_epochs)
    for seed in range(config.seeds):
        transfer = arms.transfer_set(train.source, config.transfer, seed)
        check_batch(study, transfer)
        arms.scarce(transfer, config.labels, seed)
        optimizer_of(config, steps=-(-len(transfer) // config.batch_size) * config.epochs)
    optimizer_of(config, steps=-(-len(train.source) // config.batch_size) * config.gate_epochs)
    return learners.Setting(domains, train, study, spaces, gates, note)


def main(config: Config, workdir: Path) -> None:
    """For each seed: experts, gate, big network, and the students."""
    setting = prepare(config, workdir)
    trained, rows = learners.arms_of(config, setting), learners.rows_of(config, setting)
    pairs = arms.pairs(list(rows)) if arms.ORACLE in rows else []
    report(config, workdir, setting, compare.scored(setting.study, workdir, trained, rows, pairs), pairs)


def report(
    config: Config, workdir: Path, setting: learners.Setting, found: compare.Compared, pairs: list[compare.Pair]
) -> None:
    """Table, differences, claims, figures, results.json."""
    domains, spaces, results = setting.domains, setting.spaces, found.results
    text, more = arms.table(results, domains, spaces), dict[str, Any]()
    text += f"\n\n{setting.note}" if setting.note else ""
    if arms.ORACLE in results and config.seeds > 1:
        gains = arms.differences(results, domains)
        more["differences"] = gains
        text += "\n\n" + "\n\n".join(gain(name, d) for name, d in gains.items())
        text += "\n\n" + "\n\n".join(arms.claims(gains))
    else:
        text += "\n\nNo claim is tested: that takes the oracle gate and at least 2 seeds."
    names = ", ".join(d.name for d in domains)
    title = f"{names}; {config.labels or 'all'} labels, T={config.temperature:g}, alpha={config.alpha:g}"
    figures.draw(workdir, results, domains, spaces, title=title)
    curves(setting.study.recorder.rows(), workdir / "curves.png", title=textwrap.fill(title, 100))
    compare.save(workdir, found, pairs, text, more)


if __name__ == "__main__":
    command.start(Config, main)
