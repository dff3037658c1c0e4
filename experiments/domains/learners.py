"""Experts, the big teacher, the learned gate and the students: what each learns from what, and how all are scored."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.domains import arms
from kdjax import models
from kdjax.data import domains as typed
from kdjax.data.source import Source, labelled
from kdjax.ensembles.label_spaces import LabelSpaces, embed_all
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import networks
from kdjax.study.compare import Arm, Done, Given, Lineage, Row
from kdjax.study.data import Study
from kdjax.teachers.stored import cached
from kdjax.types import LossFn, Model


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


def network(config: Any, source: Source, hidden: str = "expert_hidden") -> Model:
    """An expert, or the big teacher, that fits its images and classes."""
    shape = {"num_classes": source.num_classes, "image_shape": source.image_shape()}
    return networks.from_flags(config, shape, "expert", hidden=hidden).model


def images_of(config: Any, setting: Setting, done: Done) -> Source:
    """What students see at a seed."""
    return done.once("images", lambda: arms.transfer_set(setting.union.source, config.transfer, done.seed))


def transfer_of(config: Any, setting: Setting, done: Done) -> Source:
    """The same with the labels that students have."""
    images = images_of(config, setting, done)
    return done.once("transfer", lambda: arms.scarce(images, config.labels, done.seed))


def expert_answers(config: Any, setting: Setting, done: Done, source: Source, gate: str) -> arms.ExpertAnswers:
    """What the experts say of a source, and the domain classifier where the gate is the learned one."""
    experts = [done.answers(f"expert of {d.name}", source) for d in setting.domains]
    return arms.ExpertAnswers(source, experts, done.answers(arms.TELLS, source) if gate == "learned" else None)


def follows(setting: Setting, gate: str) -> tuple[str, ...]:
    """The arms that a gate's answers are made of."""
    experts = tuple(f"expert of {d.name}" for d in setting.domains)
    return (*experts, arms.TELLS) if gate == "learned" else experts


def arms_of(config: Any, setting: Setting) -> list[Arm]:
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

    def target(gate: str) -> Callable[[Done], Given]:
        together = arms.together(gate, spaces, scales=scales, temperature=config.temperature)

        def given(done: Done) -> Given:
            answers, _ = together(expert_answers(config, setting, done, images(done), gate))
            return Given(transfer(done).with_column("teacher_logits", answers))

        return given

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
        found.append(learner(name, gate, soft, tempered, lineage, target(gate)))
    return found


def rows_of(config: Any, setting: Setting) -> dict[str, Row]:
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
        together = arms.together(gate, spaces, scales=scales, temperature=1.0)

        def of(done: Done) -> arms.Scores:
            pooled, share = together(expert_answers(config, setting, done, test, gate))
            asked = {} if share is None else {"gate": arms.gate_accuracy(share, test, domains, spaces)}
            return {**score(pooled), **asked}

        return Row(follows(setting, gate), of)

    found = {f"expert of {d.name}": expert(number) for number, d in enumerate(domains)}
    found[arms.TEACHER] = own(arms.TEACHER)
    found |= {f"ensemble, {arms.called(gate)}": ensemble(gate) for gate in setting.gates}
    students = [arms.FEW, *([arms.ALL] if config.labels else []), arms.BIG]
    students += [f"student, {arms.called(gate)}" for gate in setting.gates]
    return found | {name: own(name) for name in students}
