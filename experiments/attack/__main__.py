"""Attack a trained network: any attacks, any radii, and what all of them together leave.

    python -m experiments.attack --model=runs/teacher --attacks='fgsm, pgd(steps=40), apgd, square(queries=1000)'
    python -m experiments.attack --model=runs/fgsm-rs --examples=1000 --epsilons=0.1,0.2,0.3,0.4 \
        --attacks='fgsm, pgd(steps=50, random_start=True, restarts=10), apgd, apgd(objective=dlr), square' \
        --workdir=runs/attack-rs
    python -m experiments.attack --model=runs/teacher --attacks='cw(steps=200), deepfool, pgd' --target=next \
        --workdir=runs/attack-next
    KDJAX_SERVICE_KEY=... python -m experiments.attack --model=http://127.0.0.1:8000 --dataset=mnist --examples=20 \
        --attacks='square(queries=500), hop_skip_jump(iterations=5)' --epsilons=0.1 --workdir=runs/attack-service

Cost: seconds to minutes on two cores; Square and ZOO the most. Without --model a small network is trained on the
embedded digits first. An attack is NAME or NAME(key=value); `--helpfull` lists the names, a wrong key is answered with
the right ones. `objective` (cross_entropy, dlr, margin) replaces the one of the attack's paper, `restarts` keeps the
worst of several runs.

AutoAttack is `--attacks=standard`. `--save_adversarial=FILE.npz` keeps the attacked images of one network at one
radius, with their labels and what made them, and `--dataset=npz:FILE.npz` trains or tests on them: of each image the
worst case, or what the first attack of the list made of it where none fooled.

Attacks with a radius run at every epsilon, from programs that are compiled once; those that look for the nearest image
(cw, deepfool, zoo) run once, and count at an epsilon where their image lies in that ball. Worst case: what no attack of
the list fools, example by example.

A service (`experiments.serve`) is asked and paid, through a ledger in the working directory: attacks that need no
gradients, which count what the service counts; the same command after a kill pays for nothing twice.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.attack import figures, victims
from experiments.attack.outcomes import Case, Outcome, kept, row, scores, worst_case
from experiments.attack.targets import TARGETS, check_target, targets
from kdjax.attacks.catalogue import ATTACKS
from kdjax.attacks.projections import require_radius
from kdjax.attacks.run import run
from kdjax.attacks.sweep import at_radius
from kdjax.config import field
from kdjax.data import npz
from kdjax.data.checks import require_labels
from kdjax.data.load import load
from kdjax.study import command, lineage, networks, report, service
from kdjax.study.attacks import Named, Scores, first, several, table
from kdjax.study.provenance import provenance
from kdjax.study.supervised import small_network
from kdjax.types import Attack, BadInput

log = logging.getLogger("kdjax.attack")
SHARES = ("accuracy", "precision", "recall", "F1", "success")
COLUMNS = (*SHARES, "linf", "L2", "queries", "first success")
LEGEND = """
Accuracy, precision, recall and F1 (macro) of the answers to the attacked images. Success: images that got a wrong
answer, or the wanted one; over them the mean distances, and the median of queries until it was known. Queries: model
evaluations, mean over all images. Worst case: for each image the first attack that succeeds within the radius."""


@dataclass(frozen=True)
class Config:
    """Flags of this experiment."""

    workdir: str = field("runs/attack", "folder of the run", identity=False, smoke="runs/smoke/attack")
    model: str = field(
        "", f"workdir of a finished run, or {service.HELP}; empty trains a small network on digits",
        identity=service.identity,
    )  # fmt: skip
    role: str = field("teacher", "which of its networks: a folder in its checkpoints/, such as distilled")
    seed: int = field(-1, "which of its seeds; -1 for all", low=-1)
    dataset: str = field("", "what is attacked; empty for what the network learned from")
    data_dir: str = field("", "where TFDS sets are prepared", identity=False)
    split: str = field("test", "split that is attacked")
    examples: int = field(1000, "images, from the first on", low=1, smoke=40)
    attacks: str = field(
        "noise, fgsm, pgd, apgd, square(queries=500)", f"any of {', '.join(ATTACKS.names())}, each with its settings",
        smoke="fgsm, pgd(steps=3), deepfool(steps=3), square(queries=20)",
    )  # fmt: skip
    epsilons: tuple[float, ...] = field((0.05, 0.1, 0.2, 0.3), "radii, in pixel units", low=0.0, smoke=(0.05, 0.2))
    norm: str = field("linf", "of the radii", choices=("linf", "l2"))
    target: str = field("", f"class wanted: {', '.join(TARGETS)} or a number; empty for any wrong one")
    save_adversarial: str = field("", "new file, .npz, that keeps the attacked images; empty: none", identity=False)
    chunk: int = field(128, "images at once; changes no result", low=1)
    draws: int = field(0, "seed of the attacks' draws", low=0)


def main(config: Config, workdir: Path) -> None:
    """Check everything, attack every seed's network, tabulate."""
    chosen = several(config.attacks, flag="attacks", fixed={"epsilon": "--epsilons", "norm": "--norm"})
    for one in chosen:
        if config.norm != "linf" and one.has("epsilon") and not one.has("norm"):
            raise BadInput(f"--norm={config.norm}: {one.call.name} knows linf alone; accepted are attacks with a norm.")
    check_target(config.target)
    path = config.model or small_network(workdir)
    under = victims.found(path, config.role, config.dataset, workdir)
    if config.seed >= len(under.by_seed):
        raise BadInput(f"--seed={config.seed}: accepted are -1 and the seeds 0 to {len(under.by_seed) - 1}.")
    name, side = config.dataset or under.learned["dataset"], under.learned.get("image_size", 0)
    source = load(name, config.split, data_dir=config.data_dir, image_size=side)
    shape: dict[str, Any] = {"num_classes": source.num_classes, "image_shape": source.image_shape()}
    networks.refuse_other_shapes(under.description, path, shape, name, flag="model")
    for epsilon in config.epsilons:
        require_radius("--epsilons", epsilon, config.norm, math.prod(source.image_shape()))
    image, label = first(source, config.examples)
    require_labels(source.select(np.arange(len(label))), flag="split")

    def case(seed: int) -> Case:
        victim = under.by_seed[seed]
        logits = under.logits(victim, image)
        return Case(victim, image, label, logits, targets(config.target, logits, label, seed=config.draws))

    seeds = range(len(under.by_seed)) if config.seed < 0 else [config.seed]
    radii = sorted(set(config.epsilons))
    if config.save_adversarial:
        require_place(config.save_adversarial, workdir, len(seeds), len(radii))
    refuse_what_cannot_run(config, chosen, case(seeds[0]))
    attacks = {one.text: programs(config, one) for one in chosen}
    rows: dict[str, list[Scores]] = {}
    counted = 0
    for seed in seeds:
        on, done = case(seed), {}
        for one in chosen:
            for epsilon in radii if one.has("epsilon") else [None]:
                found = run(
                    attacks[one.text](epsilon), on.victim, image, label, objective=one.objective, target=on.target,
                    seed=config.draws, chunk=config.chunk, on_device=False,
                )  # fmt: skip
                counted += int(found.queries.sum())
                done[one.text, epsilon] = Outcome(found, under.logits(on.victim, found.image))
                log.info("seed %d: %s at %s leaves %.4f", seed, one.text, epsilon, 1 - found.success.mean())
        worst = {e: worst_case(on, done, e, config.norm) for e in radii}
        new = {"clean": scores(on, on.logits), **{row(*key): scores(on, o.logits, o.found) for key, o in done.items()}}
        new |= {row("worst case", e): scores(on, logits) for e, (logits, _) in worst.items()}
        for label_of_row, score in new.items():
            rows.setdefault(label_of_row, []).append(score)
        if seed == seeds[0]:
            logits, images = worst[max(worst)]
            shown = f"worst case, {config.norm} {max(worst):g}"
            figures.picture(image, images, on.logits, logits, workdir / "images.png", shown)
        if config.save_adversarial:
            made_by = {"model": path, "seed": seed, "dataset": name, "epsilon": radii[0]}
            made_by["accuracy"] = new[row("worst case", radii[0])]["accuracy"]
            images = kept(on, done, radii[0], config.norm)
            save(config, workdir, images, label, source.num_classes, made_by)
    title = f"{name}, {path if config.model else 'a small network'}" + f", target {config.target}" * bool(config.target)
    figures.curves(rows, [one.text for one in chosen], radii, workdir / "curves.png", title)
    text = table(rows, COLUMNS, SHARES) + "\n" + LEGEND
    if (paid := under.paid) is not None:
        text += f"\nThe service answered {paid['images']} images, {counted} of them to attacks' queries."
    images = f"{name} {config.split}, first {len(label)}"
    network = lineage.trained_elsewhere(under.lineage, path, role=config.role, attacked=images)
    arms = {"network": {**network, "seeds": list(seeds)}}
    lineages = lineage.lineages(arms, dict.fromkeys(rows, arms))
    report.save_results(
        workdir, {**rows, **({"service": {**paid, "counted": counted}} if paid else {}), **lineages}, text
    )


def require_place(typed: str, workdir: Path, seeds: int, radii: int) -> None:
    """Refuse to keep images of several networks or radii, or in the place of another command's file."""
    flag = f"--save_adversarial={typed}"
    try:
        file = npz.require_npz(typed, new=True)
        made = npz.made_by(file).get("command") if file.exists() else None
    except BadInput as error:
        raise BadInput(f"{flag}: {error}") from None
    if seeds > 1 or radii > 1:
        raise BadInput(f"{flag}: networks: {seeds}, radii: {radii}; accepted: one --seed and one of --epsilons")
    if file.exists() and made != provenance(workdir)["command"]:
        by = f"made by {made}" if made else "which does not say what command made it"
        raise BadInput(f"{flag}: there is such a file, {by}; accepted: a new file, or the same command once more")


def save(
    config: Config, workdir: Path, image: np.ndarray, label: np.ndarray, classes: int, facts: dict[str, Any]
) -> None:
    """Keep the attacked images with what made them: the command, the commit, the flags, and `facts`."""
    typed = {name: getattr(config, name) for name in ("attacks", "norm", "target", "draws", "role", "split")}
    made_by = {**provenance(workdir), **typed, **facts}
    npz.save(config.save_adversarial, config.split, image, label, classes, made_by)


def refuse_what_cannot_run(config: Config, chosen: list[Named], case: Case) -> None:
    """Trace every attack on shapes alone: what no attack can do is found before the first has run."""
    wanted = {} if case.target is None else {"target": jnp.asarray(case.target[:1])}
    for one in chosen:
        objective = one.objective(case.victim, jnp.asarray(case.label[:1]), **wanted)
        made = [one.make(epsilon=epsilon, norm=config.norm) for epsilon in sorted(config.epsilons)]
        try:  # the largest radius, where it meets the image's size
            jax.eval_shape(made[-1], objective, jax.random.split(jax.random.key(0), 1), jnp.asarray(case.image[:1]))
        except BadInput as error:
            raise one.call.error(str(error)) from None


def programs(config: Config, one: Named) -> Callable[[Any], Attack]:
    """An attack as a function of its radius, compiled once for all of them."""
    if not one.has("epsilon"):
        plain = one.repeated(one.make(norm=config.norm))
        return lambda epsilon: plain
    at = at_radius(lambda epsilon: one.make(epsilon=epsilon, norm=config.norm))
    return lambda epsilon: one.repeated(at(epsilon))


if __name__ == "__main__":
    command.start(Config, main)
