"""The table of robust distillation, its paired differences, and its figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdjax.study import compare
from kdjax.study.attacks import table
from kdjax.study.compare import Compared, Pair
from kdjax.study.data import Study
from kdjax.study.report import gain

LEGEND = """Accuracy, recall and F1 (macro) of the last epoch on all test images; then the accuracy that each attack
leaves of the first {examples}, at {epsilon:g} in linf, attacked anew for each network. `entropy`: of the teacher's
answers to the images of the first attack, in nats. `fool teacher`: of those that fool the network, the share that fools
the teacher too. Recall, F1, entropy and this share under every attack, and scores class by class: results.json."""


def report(
    config: Any,
    workdir: Path,
    study: Study,
    found: Compared,
    pairs: Sequence[Pair],
    attacks: Sequence[str],
    chosen: Sequence[str],
) -> None:
    """Table, differences, figures, results.json.

    Args:
        config, workdir, study: of the run.
        found: every row's scores.
        pairs: what is subtracted.
        attacks: what scores.
        chosen: what chose the best epoch.
    """
    shown = {name: [_shown(s, attacks[0]) for s in scores] for name, scores in found.results.items()}
    shares = ["accuracy", "recall", "F1", *attacks]
    shares += [f"best: {name}" for name in ("accuracy", *attacks)] if chosen else []
    columns = [*shares, "entropy", "fool teacher", "seconds an epoch", "ms an image", "bytes", "parameters"]
    text = table(shown, columns, {*shares, "fool teacher"})
    by_pair: dict[str, dict[str, Any]] = {}
    for pair, d in compare.subtracted(found.results, pairs).items():
        by_pair.setdefault(pair.name, {})[pair.score] = d
    lines = [gain(f"{name}, {score}", d) for name, each in by_pair.items() for score, d in each.items()]
    text += "\n" + "".join(f"\n{line}  " for line in lines) if lines else ""
    text += "\n\n" + LEGEND.format(examples=config.robust_examples, epsilon=config.epsilon).replace("\n", " ")
    if chosen:
        text += "\n\n" + best(chosen, config.robust_examples)
    compare.draw(study, workdir, found.results, title=f"{config.dataset}, {config.teacher} to {config.student}")
    compare.save(workdir, found, pairs, text, by_pair)


def best(chosen: Sequence[str], examples: int) -> str:
    """What the columns are of that begin with `best`.

    >>> best(["fgsm", "pgd"], 1000)
    '`best: ...`: of the epoch that gets most of the first 1000 validation images right under all of fgsm, pgd.'
    """
    under = f"all of {', '.join(chosen)}" if len(chosen) > 1 else chosen[0]
    return f"`best: ...`: of the epoch that gets most of the first {examples} validation images right under {under}."


def _shown(scores: compare.Scores, attack: str) -> compare.Scores:
    """A row's scores as the table's columns name them."""
    names = {"F1": "f1", "entropy": f"{attack}: teacher's entropy", "fool teacher": f"{attack}: fool teacher"}
    return {**scores, **{name: scores[of] for name, of in names.items()}}
