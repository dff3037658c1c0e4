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

The first is four views of 1,797 real digits, two to three minutes on two cores, the others 8 to 13 minutes each;
results: docs/results/README.md. How domains are written: `kdjax.data.domains`.

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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.domains import arms, figures
from kdjax import models
from kdjax.config import field
from kdjax.data import domains as typed
from kdjax.data.checks import require_labels
from kdjax.data.source import Source, labelled
from kdjax.ensembles.label_spaces import LabelSpaces, embed_all
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, networks
from kdjax.study.compare import Arm, Done, Given, Lineage, Row
from kdjax.study.data import Common, Study, check_batch, optimizer_of
from kdjax.study.figures import curves
from kdjax.study.report import gain
from kdjax.teachers.stored import cached
from kdjax.training import parallel
from kdjax.training.record import Recorder
from kdjax.types import BadInput, LossFn, Model


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


@dataclass(frozen=True)
class Setting:
    """What is the same for every seed: domains, their data, who knows what, which gates."""

    domains: tuple[typed.Domain, ...]
    union: typed.Union
    study: Study
    spaces: LabelSpaces
    gates: list[str]
    note: str

    @property
    def test(self) -> Source:
        """The test images of all domains."""
        assert isinstance(self.study.test, Source)
        return self.study.test


def prepare(config: Config, workdir: Path) -> Setting:
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
    study = Study(config, train.source, None, test, parallel.data_mesh(), Recorder(workdir))
    network(config, train.source, "big_hidden")
    for d in range(len(domains)):
        part = typed.of_domain(train, d)
        network(config, part)
        check_batch(study, part)
        optimizer_of(config, steps=-(-len(part) // config.batch_size) * config.expert_epochs)
    for seed in range(config.seeds):
        transfer = arms.transfer_set(train.source, config.transfer, seed)
        check_batch(study, transfer)
        arms.scarce(transfer, config.labels, seed)
        optimizer_of(config, steps=-(-len(transfer) // config.batch_size) * config.epochs)
    optimizer_of(config, steps=-(-len(train.source) // config.batch_size) * config.gate_epochs)
    return Setting(domains, train, study, spaces, gates, note)


def network(config: Config, source: Source, hidden: str = "expert_hidden") -> Model:
    """An expert, or the big teacher, that fits its images and classes."""
    shape = {"num_classes": source.num_classes, "image_shape": source.image_shape()}
    return networks.from_flags(config, shape, "expert", hidden=hidden).model


def main(config: Config, workdir: Path) -> None:
    """For each seed: experts, gate, big network, and the students."""
    setting = prepare(config, workdir)
    trained, rows = arms_of(config, setting), rows_of(config, setting)
    pairs = arms.pairs(list(rows)) if arms.ORACLE in rows else []
    report(config, workdir, setting, compare.scored(setting.study, workdir, trained, rows, pairs), pairs)


def images_of(config: Config, setting: Setting, done: Done) -> Source:
    """What students see at a seed."""
    return done.once("images", lambda: arms.transfer_set(setting.union.source, config.transfer, done.seed))


def transfer_of(config: Config, setting: Setting, done: Done) -> Source:
    """The same with the labels that students have."""
    images = images_of(config, setting, done)
    return done.once("transfer", lambda: arms.scarce(images, config.labels, done.seed))


def expert_answers(config: Config, setting: Setting, done: Done, source: Source, gate: str) -> arms.ExpertAnswers:
    """What the experts say of a source, and the domain classifier where the gate is the learned one."""
    experts = [done.answers(f"expert of {d.name}", source) for d in setting.domains]
    return arms.ExpertAnswers(source, experts, done.answers(arms.TELLS, source) if gate == "learned" else None)


def follows(setting: Setting, gate: str) -> tuple[str, ...]:
    """The arms that a gate's answers are made of."""
    experts = tuple(f"expert of {d.name}" for d in setting.domains)
    return (*experts, arms.TELLS) if gate == "learned" else experts


def arms_of(config: Config, setting: Setting) -> list[Arm]:
    """Experts, the big network, the learned gate, and the students."""
    union, spaces, students = setting.union, setting.spaces, "images of all domains"
    few = f"{config.labels or 'all'} labels of each domain"

    def teacher(name: str, run: str, source: Source, model: Model, epochs: int = config.expert_epochs) -> Arm:
        rate, lineage = {"learning_rate": config.expert_learning_rate}, Lineage("labels", source=name)
        return Arm(name, model, supervised(model), epochs, rate, lineage, lambda done: Given(source), run=run)

    parts = [typed.of_domain(union, d) for d in range(len(setting.domains))]
    found = [
        teacher(f"expert of {domain.name}", f"expert-{d}", part, network(config, part))
        for d, (domain, part) in enumerate(zip(setting.domains, parts, strict=True))
    ]
    found.append(teacher(arms.TEACHER, "big", union.source, network(config, union.source, "big_hidden")))
    shape: dict[str, Any] = {"image_shape": union.source.image_shape()}
    if "learned" in setting.gates:
        asked = replace(union.source, num_classes=len(parts)).with_column("label", union.source.arrays["domain"])
        gate = models.create("mlp", num_classes=asked.num_classes, **shape, hidden=config.gate_hidden)
        found.append(teacher(arms.TELLS, "gate", asked, gate, config.gate_epochs))

    student = models.create("mlp", num_classes=spaces.union, **shape, hidden=config.student_hidden)
    alone, soft = supervised(student), distill(student, cached(), response.kl)
    images, transfer = partial(images_of, config, setting), partial(transfer_of, config, setting)
    rate = {"learning_rate": config.learning_rate}
    tempered = {**rate, "temperature": config.temperature, "alpha": config.alpha}
    scales = {"entropy": config.entropy_scale, "confidence": config.confidence_scale}
    # As many updates for each: an epoch has as many places as there are images, which is the same for every seed.
    places = len(arms.transfer_set(union.source, config.transfer, 0))

    def learner(name: str, run: str, loss_fn: LossFn, hparams: Any, lineage: Lineage, given: Any) -> Arm:
        run = f"student-{run}"
        return Arm(name, student, loss_fn, config.epochs, hparams, lineage, given, run=run, places=places)

    def target(done: Done, gate: str) -> Given:
        experts = expert_answers(config, setting, done, images(done), gate)
        answers, _ = arms.together(gate, experts, spaces, scales=scales, temperature=config.temperature)
        return Given(transfer(done).with_column("teacher_logits", answers))

    def of_big(done: Done) -> Given:
        return Given(transfer(done).with_column("teacher_logits", done.answers(arms.TEACHER, images(done))))

    found.append(
        learner(
            arms.FEW, "labels", alone, rate, Lineage("labels", source=few), lambda done: Given(labelled(transfer(done)))
        )
    )
    if config.labels:
        whole = Lineage("labels", source=f"all labels of the {students}")
        found.append(learner(arms.ALL, "all-labels", alone, rate, whole, lambda done: Given(images(done))))
    loss = "alpha*response.kl + (1-alpha)*labels"
    lineage = Lineage(loss, (arms.TEACHER,), f"{students}, {few}")
    found.append(learner(arms.BIG, "big", soft, tempered, lineage, of_big))
    for gate in setting.gates:
        lineage = Lineage(loss, follows(setting, gate), f"{students}, {few}", facts={"gate": gate})
        name = f"student, {arms.called(gate)}"
        found.append(learner(name, gate, soft, tempered, lineage, partial(target, gate=gate)))
    return found


def rows_of(config: Config, setting: Setting) -> dict[str, Row]:
    """Everyone on the test images of all domains."""
    test, domains, spaces = setting.test, setting.domains, setting.spaces
    scales = {"entropy": config.entropy_scale, "confidence": config.confidence_scale}
    score = partial(arms.score, test=test, domains=domains, spaces=spaces)

    def own(name: str) -> Row:
        return Row((name,), lambda done: score(done.test(name)))

    def expert(number: int) -> Row:
        def of(done: Done) -> arms.Scores:
            experts = expert_answers(config, setting, done, test, "")
            return score(np.asarray(embed_all([jnp.asarray(v) for v in experts.answers], spaces))[number])

        return Row(follows(setting, ""), of)

    def ensemble(gate: str) -> Row:
        def of(done: Done) -> arms.Scores:
            experts = expert_answers(config, setting, done, test, gate)
            pooled, share = arms.together(gate, experts, spaces, scales=scales, temperature=1.0)
            asked = {} if share is None else {"gate": arms.gate_accuracy(share, test, domains, spaces)}
            return {**score(pooled), **asked}

        return Row(follows(setting, gate), of)

    found = {f"expert of {d.name}": expert(number) for number, d in enumerate(domains)}
    found[arms.TEACHER] = own(arms.TEACHER)
    found |= {f"ensemble, {arms.called(gate)}": ensemble(gate) for gate in setting.gates}
    students = [arms.FEW, *([arms.ALL] if config.labels else []), arms.BIG]
    students += [f"student, {arms.called(gate)}" for gate in setting.gates]
    return found | {name: own(name) for name in students}


def report(config: Config, workdir: Path, setting: Setting, found: compare.Compared, pairs: list[compare.Pair]) -> None:
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
