"""The table and the figure of a comparison of methods."""

from collections.abc import Mapping
from pathlib import Path

from experiments.methods.figures import figure, verdict
from kdjax.study.compare import Compared, Pair, save, subtracted
from kdjax.study.report import spread


def report(workdir: Path, compared: Compared, unfit: Mapping[str, str], *, title: str, alone: str) -> None:
    """results.json, table.md, methods.png.

    A method beats the student alone where the whole interval of the paired difference is above zero, and falls behind
    where all of it is below; it ties where the interval includes zero.
    """
    results = compared.results
    accuracy = {role: [s["accuracy"] for s in scores] for role, scores in results.items()}
    pairs = [Pair(role, alone) for role in results if role not in ("teacher", alone)]
    differences = subtracted(results, pairs)
    against = {pair.first: d for pair, d in differences.items()}
    head = ["", "accuracy %, last epoch", f"minus {alone}, 95%", "verdict", "best epoch %, on test", "NLL", "chosen"]
    lines = [" | ".join(head), "|".join(["---"] * len(head))]
    for role, scores in sorted(results.items(), key=lambda item: -float(sum(accuracy[item[0]]))):
        best = [s["best_epoch"] for s in scores if "best_epoch" in s]
        cells = [
            role,
            spread(accuracy[role], scale=100),
            _interval(against[role]) if role in against else "",
            verdict(against[role]) if role in against else "",
            spread(best, scale=100) if best else "",
            spread([s["nll"] for s in scores], digits=3),
            f"{scores[0]['choice']:g}" if best else "",
        ]
        lines.append(" | ".join(cells))
    text = "\n".join(f"| {line} |" for line in lines)
    counts = [verdict(d) for d in against.values()]
    text += f"\n\nOf {len(counts)} methods {counts.count('beats')} beat the {alone}, {counts.count('ties')} tie, "
    text += f"{counts.count('falls behind')} fall behind. `chosen`: on validation, a learning rate for the {alone}, "
    text += "a factor of the field's weights for a method."
    text += "".join(f"\nNot run: {name}: {why}" for name, why in unfit.items())
    more = {"unfit": dict(unfit), **{pair.name: d for pair, d in differences.items()}}
    if against:
        figure(against, workdir / "methods.png", title=title, alone=alone)
    save(workdir, compared, pairs, text, more)


def _interval(d: Mapping[str, float]) -> str:
    mean, low, high = (100 * d[k] for k in ("mean", "low", "high"))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
