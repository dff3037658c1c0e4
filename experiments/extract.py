"""Steal a network that only answers: what is worth asking it, and what does each way of answering cost whom?

    python -m experiments.extract
    python -m experiments.extract --dataset=mnist --victim=runs/natural --own_split='test[:1000]' \
        --test_split='test[1000:]' --public='kmnist + usps' --public_split=test --batch_size=128 --epochs=40 \
        --budgets=100,200,400,800,1600,3200,6400 --surrogate='mlp(256, 256)' --workdir=runs/extract-mnist
    KDJAX_SERVICE_KEY=... python -m experiments.extract --dataset=mnist --victim=http://127.0.0.1:8000 \
        --own_split='test[:1000]' --test_split='test[1000:]' --public=kmnist --arms='random, jacobian(pool=own)' \
        --budgets=100,200,400,800,1600,3200,6400 --workdir=runs/extract-service

Cost: the first two minutes. Minutes on two shared cores, by the commands of docs/results/README.md: extract-mnist 33,
extract-noise 20, extract-dfme 4. No service is needed: a network in process answers by the same policies.

Every arm buys answers in rounds, each up to the next of `--budgets`, and at every budget trains a surrogate from the
same fresh parameters in equally many steps on what it has bought: so all arms are compared at equal queries, counted to
the last image. The strategies are those of `kdjax.teachers.queries`. Own images are of the victim's domain and
come without labels; the victim's training labels are seen by nobody but the victim.

Agreement, accuracy and KL are on the test split; `normalised` is accuracy over the victim's. Below the arms stand the
victim's answers as honest users get them, policy by policy. `flagged`: what a detector of near-duplicate questions
says of what was asked (`kdjax.teachers.serving.duplicates`), at a threshold that flags one training image in a
thousand.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdjax.config import field
from kdjax.data.source import unit_interval
from kdjax.evaluation.fidelity import fidelity
from kdjax.study import asking, command, compare, extraction, figures, networks, service
from kdjax.study.asking import Way
from kdjax.study.attacks import first
from kdjax.study.compare import Arm, Done, Pair, Row, Scores
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.extraction import VICTIM, Extractor
from kdjax.study.report import gain, table
from kdjax.teachers import queries
from kdjax.teachers.serving.duplicates import Nearby, calibrated

COLUMNS = ("accuracy", "normalised", "agreement", "teacher_kl", "nll", "ece", "queries", "price", "flagged")
ARMS = (
    "random(pool=own), jacobian(pool=own), random, adaptive, uncertainty, k_centre, noise(grain=2), "
    "random(answers=top_k(3)), random(answers=hard), random(answers=rounded(1)), random(answers=smoothed(0.3)), "
    "random(answers=noisy(2.0))"
)
LOOKED_AT = 10000
"""Questions that the detector looks at, of those that were asked first."""


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/extract", "folder for everything the run leaves", identity=False, smoke="runs/smoke/extract"
    )
    train_split: str = field("train[:60%]", "split that the victim is trained on, if here, and the detector set by")
    validation_split: str = field("", "split for curves only; nothing is chosen on it")
    victim: str = field(
        "mlp(64, 64)",
        f"workdir of a finished train_teacher run; or, trained here, {networks.NETWORK}; or {service.HELP}",
        smoke="mlp(32)",
        identity=service.identity,
    )
    victim_epochs: int = field(60, "its passes, if trained here", low=1, smoke=8)
    victim_learning_rate: float = field(1e-3, "its peak learning rate, if trained here", low=0.0, smoke=3e-3)
    own_split: str = field("train[60%:]", "images of the victim's domain that the thief has; labels are not read")
    public: str = field(
        "digits(invert) + digits(rotate(90))", "public pool: domains, as experiments.domains reads them"
    )
    public_split: str = field("train", "split of those without their own")
    surrogate: str = field("mlp(64, 64)", networks.NETWORK, smoke="mlp(16)")
    arms: str = field(
        ARMS, asking.HELP,
        smoke="random(pool=own), jacobian(pool=own), adaptive, uncertainty, k_centre, noise, random, "
        "random(answers=hard)",
    )  # fmt: skip
    budgets: tuple[int, ...] = field((64, 128, 256, 512), "queries at the end of each round", low=1, smoke=(40, 80))
    epochs: int = field(60, "surrogates' passes over as many places as the last budget", low=1, smoke=2)
    learning_rate: float = field(3e-3, "surrogates' peak learning rate", low=0.0)
    checkpoint_every: int = field(
        1000, "epochs between checkpoints; surrogates train for seconds", low=1, identity=False
    )
    price: float = field(0.001, "of an answer, where no service says its own", low=0.0)


def main(config: Config, workdir: Path) -> None:
    """The victim; for each way and budget a surrogate; for each seed."""
    study = open_study(config, workdir)
    victim = extraction.victim(config, study)
    surrogate = networks.named(config.surrogate, study.shape, flag="surrogate").model
    chosen = asking.ways(config.arms, flag="arms", says=victim.says)
    pools = extraction.pools(config, study)
    extraction.refuse_small_pools(chosen, pools, config.budgets, config.batch_size)
    for epochs, places in ((config.epochs, config.budgets[-1]), (config.victim_epochs, len(study.train))):
        optimizer_of(config, steps=-(-places // config.batch_size) * epochs)
    thief = Extractor(study, surrogate, victim, pools, config.budgets, extraction.recipe(surrogate))
    by_way = {way: thief.arms(way) for way in chosen}
    arms = [victim.arm(config), *(arm for arms in by_way.values() for arm in arms)]
    rows = {VICTIM: compare.tested(VICTIM)}
    for way, of in by_way.items():
        rows |= {arm.name: row(thief, way, number, of) for number, arm in enumerate(of)}
    if not victim.says:
        rows |= {f"honest user, {way.said}": honest(way) for way in chosen}
    pairs = pairs_of(by_way)
    found = compare.scored(study, workdir, arms, rows, pairs)
    shown = [VICTIM, *(of[-1].name for of in by_way.values()), *(name for name in rows if name.startswith("honest"))]
    text = table({name: found.results[name] for name in shown}, COLUMNS)
    differences = {f"{pair.name}": d for pair, d in compare.subtracted(found.results, pairs).items()}
    text += "\n" + "".join(f"\n{gain(name, d)}  " for name, d in differences.items()) + "\n\nDifferences in agreement."
    series = {way.text: [found.results[arm.name] for arm in of] for way, of in by_way.items()}
    figures.by_queries(
        {name: [(s[0]["queries"], [x["agreement"] for x in s]) for s in scores] for name, scores in series.items()},
        workdir / "agreement.png",
        ylabel="agreement with the victim, %",
        title=f"{config.dataset}, {config.victim}, surrogate {config.surrogate}",
    )
    compare.save(workdir, found, pairs, text, differences)


def row(thief: Extractor, way: Way, number: int, arms: list[Arm]) -> Row:
    """A surrogate's scores on the test images, what it cost, and what the detector says of the questions."""
    names = [arm.name for arm in arms]

    def of(done: Done) -> Scores:
        logits, true = done.test(names[number]), done.test(VICTIM)
        scores = compare.scores(thief.study, logits, done.weights(names[number]))
        paid = thief.paid(way, number, names, done)
        last = number == len(names) - 1
        flagged = {"flagged": watched(thief.study, paid.images)} if last else {}
        return {
            **scores,
            **fidelity(student=logits, teacher=true),
            "normalised": scores["accuracy"] / compare.score(done, VICTIM)["accuracy"],
            "queries": paid.queries,
            "price": thief.victim.price * paid.queries,
            **flagged,
        }

    return Row((names[number], VICTIM), of)


def honest(way: Way) -> Row:
    """What an honest user of the test images gets behind a policy."""

    def of(done: Done) -> Scores:
        images, true = first(done.study.test, len(done.study.test))[0], done.test(VICTIM)
        said = extraction.through(way.answers, true, images, done.seed)
        scores = compare.scores(done.study, said)
        return {
            **scores,
            **fidelity(student=said, teacher=true),
            "normalised": scores["accuracy"] / compare.score(done, VICTIM)["accuracy"],
            "flagged": done.once("honest", lambda: watched(done.study, images)),
        }

    return Row((VICTIM,), of)


def watched(study: Study, images: np.ndarray) -> float:
    """The share of questions that the detector flags."""
    known = first(study.train, LOOKED_AT)[0]
    detector = Nearby(calibrated(known))
    return float(detector(unit_interval(images[:LOOKED_AT])).mean())


def pairs_of(by_way: dict[Way, list[Arm]]) -> list[Pair]:
    """Each strategy minus `random` of the same pool and answers; each policy minus soft answers to the same images."""
    last = {way: arms[-1].name for way, arms in by_way.items()}
    found = []
    for way, name in last.items():
        plain = way.strategy.func is queries.random
        for other, rival in last.items():
            if other is way or other.strategy.func is not queries.random:
                continue
            same_answers, same_pool = other.said == way.said, other.pool == way.pool
            if (same_answers and not plain and (same_pool or way.made)) or (
                plain and same_pool and other.said == asking.SAID
            ):
                found.append(Pair(name, rival, "agreement"))
    return found


if __name__ == "__main__":
    command.start(Config, main)
