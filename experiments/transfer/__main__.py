"""Attack what only answers: through surrogates that were paid for, by questions alone, or by both, at equal queries.

    python -m experiments.transfer
    python -m experiments.transfer --dataset=mnist --image_size=14 --train_split='train[:10000]' \
        --own_split='test[:1000]' --test_split='test[1000:]' --public=kmnist --public_split=test \
        --victims='mlp(128, 128), cnn(8, 16), resnet8' --defended= --victim_epochs=4 \
        --surrogates='mlp(128, 128), cnn(8, 16), resnet8' --budgets=800,1600 --epochs=10 --batch_size=128 \
        --queried='square(queries=500)' --begun='square(queries=500)' --workdir=runs/transfer-matrix

Minutes on two shared cores, by the commands of docs/results/README.md: transfer-matrix 17, transfer-curve 23.

Every network of `--surrogates` extracts every victim by `--asks`, at each of `--budgets` (see experiments.extract). On
each surrogate, and on the victim itself, attacks make images that the victim judges: `transfer` is the share fooled
among images that it classifies rightly, `misclassified` the share of wrong answers among all, as Papernot et al. count.
The matrix sets victims beside surrogates of other architectures.

The curve is of `--query_examples` images at `--query_epsilon`, for the first victim and the defended one: success among
rightly classified images against all queries together. A surrogate's queries are those of its budget and one look at
each image; an attack that asks pays for each image until it is fooled; `from the surrogate` begins where the images
made on the first surrogate of the last budget end, and pays for both.

The last lines are the audit's: a victim of which images made on its own surrogates break more than those made on
itself hides its gradient. With --victims or --defended of finished runs, write their folders in quotes:
--victims="'runs/natural'".
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.transfer.attacks import Attacks, Plan, called
from experiments.transfer.rows import audits, curves, transfers
from experiments.transfer.tables import Points, at_equal_queries, by_attack, matrix, points
from kdjax import spec
from kdjax.attacks.catalogue import ATTACKS
from kdjax.attacks.projections import require_radius
from kdjax.config import field
from kdjax.evaluation.fidelity import fidelity
from kdjax.recipes.supervised import supervised
from kdjax.study import asking, attacks, command, compare, extraction, figures, networks, report
from kdjax.study.asking import Way
from kdjax.study.attacks import first
from kdjax.study.compare import Done, Pair, Row, Scores
from kdjax.study.data import Common, Study, open_study, optimizer_of
from kdjax.study.extraction import Extractor, Victim
from kdjax.types import BadInput, LossFn, Model

FIXED = {"epsilon": "--epsilons", "norm": "--norm"}


@dataclass(frozen=True)
class Config(Common):
    """Flags of this experiment."""

    workdir: str = field(
        "runs/transfer", "folder for everything the run leaves", identity=False, smoke="runs/smoke/transfer"
    )
    train_split: str = field("train[:60%]", "split that victims are trained on, if here")
    validation_split: str = field("", "split for curves only; nothing is chosen on it")
    victims: str = field(
        "mlp(64, 64), cnn(8, 16), resnet8", f"naturally trained: {networks.NETWORK}; or 'FOLDER' of a run in quotes",
        smoke="mlp(16)",
    )  # fmt: skip
    defended: str = field(
        "mlp(64, 64)", "trained here on images of --attack, or 'FOLDER'; empty: none", smoke="mlp(16)"
    )
    attack: str = field("pgd(0.15, steps=7, random_start=True)", "that the defended one is trained with", smoke="fgsm")
    victim_epochs: int = field(40, "victims' passes, if trained here", low=1, smoke=6)
    victim_learning_rate: float = field(1e-3, "victims' peak learning rate, if trained here", low=0.0, smoke=5e-3)
    own_split: str = field("train[60%:]", "images of the victims' domain that the thief has; labels are not read")
    public: str = field(
        "digits(invert) + digits(rotate(90))", "public pool: domains, as experiments.domains reads them"
    )
    public_split: str = field("train", "split of those without their own")
    surrogates: str = field("mlp(64, 64), cnn(8, 16), resnet8", networks.NETWORK, smoke="mlp(16), mlp(12, 12)")
    asks: str = field("jacobian(pool=own)", f"how all surrogates ask: one of the {asking.HELP}")
    budgets: tuple[int, ...] = field((64, 128, 256, 512), "queries at the end of each round", low=1, smoke=(40, 80))
    epochs: int = field(40, "surrogates' passes over as many places as the last budget", low=1, smoke=4)
    learning_rate: float = field(3e-3, "surrogates' peak learning rate", low=0.0)
    attacks: str = field(
        "noise(queries=1), fgsm, mi_fgsm, mi_fgsm(diverse=0.5, kernel=3), pgd(steps=20)",
        f"made on surrogates; the last fills the matrix; any of {', '.join(ATTACKS.names())}",
        smoke="fgsm, pgd(steps=3)",
    )
    epsilons: tuple[float, ...] = field((0.1, 0.2), "radii, in pixel units", low=0.0, smoke=(0.2,))
    norm: str = field("linf", "of the radii", choices=("linf", "l2"))
    examples: int = field(200, "images of the test split that surrogates' attacks change", low=2, smoke=40)
    queried: str = field(
        "zoo(search_steps=1, steps=20), zoo(search_steps=1, steps=80), nes(steps=60), spsa(steps=30), "
        "square(queries=1000), hop_skip_jump(iterations=1), hop_skip_jump(iterations=5)",
        "that only ask; one that looks for the nearest image is a point, and of several settings a line",
        smoke="square(queries=20), hop_skip_jump(iterations=1)",
    )
    begun: str = field("nes(steps=60), square(queries=1000)", "that also begin at the surrogate's images",
                       smoke="square(queries=20)")  # fmt: skip
    query_epsilon: float = field(0.2, "their radius", low=0.0)
    query_examples: int = field(40, "images that they attack, the first", low=2, smoke=10)
    checkpoint_every: int = field(1000, "epochs between checkpoints; these train for seconds", low=1, identity=False)


def main(config: Config, workdir: Path) -> None:
    """Victims, their surrogates, and attacks on all; for each seed."""
    study = open_study(config, workdir)
    for radius in (*config.epsilons, config.query_epsilon):
        require_radius("--epsilons", radius, config.norm, int(np.prod(study.test.image_shape())))
    made, queried, begun = (
        attacks.several(getattr(config, flag), flag=flag, fixed=FIXED) for flag in ("attacks", "queried", "begun")
    )
    for one in (*made, *queried, *begun):
        if config.norm != "linf" and one.has("epsilon") and not one.has("norm"):
            raise BadInput(f"--norm={config.norm}: {one.call.name} knows linf alone; accepted: attacks with a norm.")
    if missing := [one.text for one in begun if not one.has("epsilon")]:
        raise BadInput(f"--begun: {missing[0]} has no radius to begin in; accepted: attacks with epsilon.")
    ways = asking.ways(config.asks, flag="asks")
    if len(ways) != 1:
        raise BadInput(f"--asks={config.asks}; accepted: one way.")
    pools = extraction.pools(config, study)
    extraction.refuse_small_pools(ways, pools, config.budgets, config.batch_size)

    known: dict[str, Model] = {}

    def network(text: str, flag: str) -> Model:
        # One for all of an architecture: what attacks one of them is compiled for all.
        if text not in known:
            known[text] = networks.named(text, study.shape, flag=flag).model
        return known[text]

    recipes, victims = victims_of(config, study, network)
    for epochs, places in ((config.epochs, config.budgets[-1]), (config.victim_epochs, len(study.train))):
        optimizer_of(config, steps=-(-places // config.batch_size) * epochs)
    calls = spec.calls(config.surrogates, flag="surrogates")
    nets = {str(call): network(str(call), "surrogates") for call in calls}
    loss = {name: extraction.recipe(model) for name, model in nets.items()}
    thieves = {}
    for victim in victims:
        for name, model in nets.items():
            thief = Extractor(study, model, victim, pools, config.budgets, loss[name])
            thieves[victim.name, name] = thief, thief.arms(ways[0], prefix=f"{name} of {victim.name}: ")
    image, label = first(study.test, max(config.examples, config.query_examples))
    plan = Plan(Attacks(image, label, config.norm), victims, thieves, made, queried, begun)
    arms = [victim.arm(config, recipes[victim.name], attack=attack_of(config, victim)) for victim in victims]
    arms += [arm for _, of in thieves.values() for arm in of]
    rows = {victim.name: compare.tested(victim.name) for victim in victims}
    rows |= {of[-1].name: matched(thief, ways[0], [arm.name for arm in of]) for thief, of in thieves.values()}
    rows |= transfers(config, plan) | curves(config, plan) | audits(config, plan)
    pairs = pairs_of(config, plan)
    report_all(config, workdir, plan, compare.scored(study, workdir, arms, rows, pairs), pairs)


def victims_of(
    config: Config, study: Study, network: Callable[[str, str], Model]
) -> tuple[dict[str, LossFn | None], list[Victim]]:
    """The networks that are attacked, natural ones first, and the recipes of those that are defended here."""
    found, recipes = list[Victim](), dict[str, LossFn | None]()
    against = attacks.named(config.attack, flag="attack")
    for flag in ("victims", "defended"):
        text = getattr(config, flag)
        typed = spec.parse(text, flag=flag) if text else ()
        for one in typed if isinstance(typed, tuple) else (typed,):
            robust = flag == "defended"
            name = f"{one}, adversarially trained" if robust else str(one)
            if name in recipes:
                raise BadInput(f"--{flag}={text}: {one} twice; accepted: each network once.")
            if isinstance(one, str):
                found.append(Victim(name, *networks.load_teachers(study, one, flag=flag), one))
            else:
                found.append(Victim(name, network(str(one), flag), [], ""))
            how = {"attack": against.repeated(against.make()), "objective": against.objective} if robust else {}
            recipes[name] = supervised(found[-1].model, **how)
    if not any(not name.endswith("trained") for name in recipes):
        raise BadInput(f"--victims={config.victims}; accepted: one network or more.")
    return recipes, found


def attack_of(config: Config, victim: Victim) -> str:
    """What a victim that is trained here is trained with; "" for clean images."""
    return config.attack if victim.name.endswith("adversarially trained") and not victim.given else ""


def matched(thief: Extractor, way: Way, names: list[str]) -> Row:
    """A surrogate on the test images, beside its victim."""
    name, victim = names[-1], thief.victim.name

    def of(done: Done) -> Scores:
        logits = done.test(name)
        paid = thief.paid(way, len(names) - 1, names, done).queries
        return {
            **compare.scores(done.study, logits, done.weights(name)),
            **fidelity(student=logits, teacher=done.test(victim)),
            "queries": paid,
        }

    return Row((name, victim), of)


def pairs_of(config: Config, plan: Plan) -> list[Pair]:
    """The surrogate of the victim's own architecture minus each other one, by transfer of the matrix's attack."""
    one, epsilon, found = plan.made[-1], config.epsilons[-1], []
    for victim in plan.victims:
        plain = victim.name.removesuffix(", adversarially trained")
        names = list(plan.surrogates(victim))
        if plain in names:
            own, *rest = (called(one, epsilon, name, victim.name) for name in sorted(names, key=plain.__ne__))
            found += [Pair(own, other, "transfer") for other in rest]
    return found


def report_all(config: Config, workdir: Path, plan: Plan, found: compare.Compared, pairs: list[Pair]) -> None:
    """Tables, the curve, results.json."""
    results = found.results
    last = [arms[-1].name for _, arms in plan.thieves.values()]
    columns = ("accuracy", "agreement", "teacher_kl", "queries", "parameters")
    parts = [report.table({name: results[name] for name in [*(v.name for v in plan.victims), *last]}, columns)]
    for epsilon in config.epsilons:
        parts.append(matrix(config, plan, results, epsilon))
    parts.append(by_attack(config, plan, results))
    lines = dict[str, Points]()
    for victim in plan.victims:
        own = {row: results[row] for row in results if row.endswith(f" on {victim.name}")}
        series = {row.removesuffix(f" on {victim.name}"): points(seeds) for row, seeds in own.items()}
        if series:
            lines |= {f"{line}, {victim.name}": at for line, at in series.items()}
            number = [v.name for v in plan.victims].index(victim.name)
            figures.by_queries(
                series, workdir / f"queries-{number}.png", ylabel="success, %",
                title=f"{config.dataset}, {victim.name}, {config.norm} {config.query_epsilon:g}",
            )  # fmt: skip
    parts.append(at_equal_queries(lines))
    verdicts = []
    for victim in plan.victims:
        seeds = results[f"audit of {victim.name}"]
        worst = max(seeds, key=lambda s: s["gap"])
        verdicts.append(
            f"Audit of {victim.name}: {worst['verdict']}, at the worst of {len(seeds)} seeds {worst['text']}."
        )
    differences = {pair.name: d for pair, d in compare.subtracted(results, pairs).items()}
    parts += ["  \n".join(report.gain(name, d) for name, d in differences.items()), "  \n".join(verdicts)]
    compare.save(workdir, found, pairs, "\n\n".join(part for part in parts if part), differences)


if __name__ == "__main__":
    command.start(Config, main)
