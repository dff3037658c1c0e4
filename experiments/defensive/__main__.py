"""Papernot et al. (2016): a network distilled at temperature T and deployed at 1 looks robust, and is not.

    python -m experiments.defensive
    python -m experiments.defensive --seeds=5 --workdir=runs/defensive-5

Minutes on two shared cores with --seeds=5: defensive 4. Result: docs/results/README.md.

The teacher learns the labels at T, from the cross-entropy of softmax(z / T); the student, of the same architecture,
learns softmax(z_teacher / T) at T. Neither loss has a factor T^2, so their gradients shrink as 1 / T; Adam, whose steps
do not depend on the size of gradients, trains them all with one learning rate. Deployed at 1, logits are about T times
larger and softmax saturates: in float32 the gradient of cross-entropy is exactly 0 once the largest logit leads by 17,
and an attack that follows it goes nowhere. Dividing the logits by T again, or attacking the margin, asking without
gradients (ZOO, Square) or attacking the undefended twin, shows what there was to defend.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.defensive import figures, slopes
from kdjax import models
from kdjax.attacks import named, objectives
from kdjax.attacks.run import run
from kdjax.attacks.victims import Victim, white_box
from kdjax.config import field
from kdjax.evaluation.answers import decided
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import command, compare, networks
from kdjax.study.attacks import Scores, answers, first, table
from kdjax.study.compare import Arm, Done, Given, Lineage, Row
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.figures import curves
from kdjax.study.train import predict
from kdjax.teachers.stored import cached

UNDEFENDED = "undefended"
NETWORK = (
    "clean", "logit gap", "gradient median", "gradient mean", "zero gradients", "margin gradient", "FGSM epsilon",
    "FGSM epsilon /T",
)  # fmt: skip
ROBUST = (
    "naive FGSM", "naive PGD", "FGSM /T", "PGD /T", "FGSM margin", "PGD margin", "Square", "transfer", "worst case",
    "ZOO fooled", "ZOO L2",
)  # fmt: skip
SHARES = {"clean", "zero gradients", *ROBUST} - {"ZOO L2"}
SOFT = response.soft_cross_entropy
LEGEND = """
Deployed at T = 1. Gradients are of cross-entropy by the image (L2 norm), the margin's beside them. FGSM epsilon: the
smallest step along the sign of the gradient that fools, median over images that are classified well, 1 where none does;
/T: with the gradient of logits / T. Attacks: accuracy that is left. ZOO has no radius: share of images that it fools,
and how far it went. Transfer: PGD on the undefended twin, trained on labels at T = 1 from the same seed. Worst case: an
image counts that no attack of the table with a radius fools."""


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field("runs/defensive", "folder of the run", identity=False, smoke="runs/smoke/defensive")
    dataset: str = field("mnist", "a prepared TFDS set", smoke="digits")
    train_split: str = field("train[:20000]", "split to train on", smoke="train")
    validation_split: str = field("", "split for curves only; nothing is chosen on it")
    seeds: int = field(3, "runs, numbered from 0; more go on in the same --workdir", low=1, smoke=1, may_grow=True)
    model: str = field("mlp", "network of teachers and students", choices=models.all_names())
    hidden: tuple[int, ...] = field((200,), "its widths or channels", low=1, smoke=(16,))
    temperatures: tuple[float, ...] = field(
        (1.0, 5.0, 20.0, 50.0, 100.0), "of both trainings", low=1e-6, high=1e4, smoke=(20.0,)
    )
    epochs: int = field(12, "passes, of teacher and of student", low=1, smoke=3)
    learning_rate: float = field(1e-3, "peak learning rate of both", low=0.0)
    examples: int = field(500, "test images attacked, from the first on", low=1, smoke=40)
    epsilon: float = field(0.1, "radius in every pixel", low=0.0)
    steps: int = field(20, "of PGD, each 2.5 epsilon / steps", low=1, smoke=5)
    queries: int = field(1000, "of Square, per image", low=1, smoke=20)
    zoo_examples: int = field(10, "images attacked by ZOO, the first ones that are classified well", low=1, smoke=2)
    zoo_steps: int = field(120, "of ZOO at each of 3 constants, 257 queries each", low=1, smoke=5)


class Attacks:
    """Every attack of the table, compiled once for all networks."""

    def __init__(self, config: Config) -> None:
        self.fgsm = named.fgsm(config.epsilon)
        self.pgd = named.pgd(config.epsilon, steps=config.steps)
        self.square = named.square(config.epsilon, queries=config.queries)
        self.zoo = named.zoo(steps=config.zoo_steps, search_steps=3, initial_weight=1.0)
        self.zoo_examples = config.zoo_examples

    def scores(self, victim: Victim, twin: Victim, temperature: float, x: np.ndarray, y: np.ndarray) -> Scores:
        """Columns of the table, for one network."""
        # Divided by 1 the victim is itself, and shares its programs with the one divided by T.
        logits, calm = answers(victim, x), objectives.divided(victim, temperature)
        victim, twin = objectives.divided(victim, 1.0), objectives.divided(twin, 1.0)
        well, left = decided(logits) == y, {}
        entropy, margin = objectives.cross_entropy, objectives.margin
        for name, attack, on, objective in (
            ("naive FGSM", self.fgsm, victim, entropy),
            ("naive PGD", self.pgd, victim, entropy),
            ("FGSM /T", self.fgsm, calm, entropy),
            ("PGD /T", self.pgd, calm, entropy),
            ("FGSM margin", self.fgsm, victim, margin),
            ("PGD margin", self.pgd, victim, margin),
            ("Square", self.square, victim, margin),
        ):
            left[name] = ~run(attack, on, x, y, objective=objective, chunk=len(x)).success
        borrowed = run(self.pgd, twin, x, y, objective=entropy, chunk=len(x)).image
        left["transfer"] = decided(answers(victim, borrowed)) == y
        left["worst case"] = np.all(list(left.values()), axis=0)
        some = np.flatnonzero(well)[: self.zoo_examples]
        zoo = run(self.zoo, victim, x[some], y[some], objective=margin)
        return {
            "clean": float(well.mean()),
            "logit gap": slopes.logit_gap(logits),
            **slopes.gradients(victim, x, y),
            "FGSM epsilon": float(np.median(slopes.smallest_step(victim, victim, x, y)[well])),
            "FGSM epsilon /T": float(np.median(slopes.smallest_step(victim, calm, x, y)[well])),
            **{name: float(held.mean()) for name, held in left.items()},
            "ZOO fooled": float(zoo.success.mean()),
            "ZOO L2": float(zoo.distance["l2"][zoo.success].mean()) if zoo.success.any() else None,
        }


def main(config: Config, workdir: Path) -> None:
    """For each seed a twin on labels alone; for each temperature teacher, student, and every attack on the student."""
    study = open_study(config, workdir)
    model, described = networks.from_flags(config, study.shape)
    networks.save_model(workdir, **described)
    steps = -(-len(study.train) // config.batch_size) * config.epochs
    optimizer_of(config, steps=steps)
    x, y = first(study.test, config.examples)
    attacks = Attacks(config)
    rate = {"learning_rate": config.learning_rate}
    soft = {**rate, "temperature": 1.0, "alpha": 1.0}  # the model has divided already, on both sides
    tempered = {t: slopes.at_temperature(model, t) for t in dict.fromkeys((1.0, *config.temperatures))}

    def taught(done: Done, teacher: str, t: float) -> Given:
        logits = predict(study, tempered[t], done.weights(teacher), study.train)
        return Given(study.train.with_column("teacher_logits", logits))

    def labels(name: str, t: float) -> Arm:
        recipe, lineage = supervised(tempered[t]), Lineage("labels", facts={"temperature": t})
        return Arm(name, model, recipe, config.epochs, rate, lineage)

    def attacked(name: str, t: float) -> Row:
        def of(done: Done) -> Scores:
            twin, victim = (white_box(model.apply, done.weights(n)) for n in (UNDEFENDED, name))
            return attacks.scores(victim, twin, t, x, y)

        return Row((UNDEFENDED, name), of)

    arms, rows = [labels(UNDEFENDED, 1.0)], {UNDEFENDED: attacked(UNDEFENDED, 1.0)}
    for t in config.temperatures:
        teacher, student = UNDEFENDED if t == 1 else f"teacher-{t:g}", f"distilled-{t:g}"
        arms += [] if t == 1 else [labels(teacher, t)]
        lineage = Lineage("response.soft_cross_entropy", (teacher,), "all images", facts={"temperature": t})
        recipe, given = distill(tempered[t], cached(), SOFT), partial(taught, teacher=teacher, t=t)
        arms.append(Arm(student, model, recipe, config.epochs, soft, lineage, given))
        rows[student] = attacked(student, t)
    report(config, workdir, study, compare.scored(study, workdir, arms, rows))


def report(config: Config, workdir: Path, study: Study, found: compare.Compared) -> None:
    """Tables, figure, results.json."""
    described, rows = networks.from_flags(config, study.shape).description, found.results
    setting = f"{config.dataset}, {networks.title(described)}, epsilon {config.epsilon:g}"
    distilled = {t: rows[f"distilled-{t:g}"] for t in config.temperatures}
    panels = {"accuracy, %": ("clean", *ROBUST[:-2]), "share of images, %": ("zero gradients", "ZOO fooled")}
    figures.draw(distilled, panels, workdir / "defence.png", title=f"{setting}, deployed at T = 1")
    curves(study.recorder.rows(), workdir / "curves.png", title=setting)
    tables = [table(rows, columns, SHARES) for columns in (NETWORK, ROBUST)]
    compare.save(workdir, found, (), "\n\n".join([*tables, LEGEND.strip()]), {})


if __name__ == "__main__":
    command.start(Config, main)
