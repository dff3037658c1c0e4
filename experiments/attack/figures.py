"""Figures of an attack: what is left at every radius, and what the images look like."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kdjax.study.attacks import Scores
from kdjax.study.figures import save_figure, subplots


def curves(
    rows: Mapping[str, Sequence[Scores]], attacks: Sequence[str], epsilons: Sequence[float], path: Path, title: str
) -> None:
    """Success and accuracy against the radius, every attack and the worst case: mean over seeds, a band of one sd."""
    fig, axes = subplots(1, 2, figsize=(10.4, 4.4))
    for ax, column in zip(axes, ("success", "accuracy"), strict=True):
        for name in (*attacks, "worst case"):
            style = {"color": "black", "linestyle": "--"} if name == "worst case" else {}
            if name in rows:  # it has no radius: one level for all
                ax.axhline(100 * np.mean(values(rows[name], column)), linestyle=":", label=name, color="grey")
                continue
            at = [0.0, *(e for e in epsilons if e > 0)]
            found = [100 * values(rows[f"{name}, {e:g}" if e else "clean"], column) for e in at]
            mean = np.array([v.mean() for v in found])
            sd = np.array([v.std(ddof=1) if len(v) > 1 else 0 for v in found])
            (line,) = ax.plot(at, mean, marker=".", label=name, **style)
            ax.fill_between(at, mean - sd, mean + sd, alpha=0.15, linewidth=0, color=line.get_color())
        ax.set(xlabel="epsilon", ylabel=f"{column}, %", ylim=(-3, 103))
        ax.grid(alpha=0.3)
    fig.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    fig.suptitle(title, fontsize=10)
    save_figure(fig, path)


def values(scores: Sequence[Scores], column: str) -> np.ndarray:
    """A column over the seeds."""
    return np.array([s[column] for s in scores], np.float64)


def picture(
    clean: np.ndarray,
    attacked: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    path: Path,
    title: str,
    most: int = 8,
) -> None:
    """Clean image, perturbation (grey is 0) and attacked image, each with the answer and its probability.

    Args:
        clean, attacked: `[N, H, W, C]`. Examples that were changed come first.
        before, after: logits `[N, K]`.
        path: of the PNG.
        title: above all.
    """
    changed = np.abs(attacked - clean).reshape(len(clean), -1).max(1) > 0
    shown = np.argsort(~changed, kind="stable")[:8]
    scale = max(float(np.abs(attacked - clean)[shown].max()), 1e-6)
    fig, axes = subplots(3, len(shown), figsize=(1.25 * len(shown) + 0.6, 4.6), squeeze=False)
    for column, i in enumerate(shown):
        delta = (attacked[i] - clean[i]) / (2 * scale) + 0.5
        for ax, image, logits in zip(
            axes[:, column], (clean[i], delta, attacked[i]), (before, None, after), strict=True
        ):
            grey = image.shape[-1] == 1
            ax.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if logits is not None:
                ax.set_title(answer(logits[i]), fontsize=8)
    for ax, text in zip(axes[:, 0], ("clean", f"perturbation\n±{scale:.2g}", "attacked"), strict=True):
        ax.set_ylabel(text, fontsize=8)
    fig.suptitle(title, fontsize=10)
    save_figure(fig, path)


def answer(logits: np.ndarray) -> str:
    """The class with the largest logit and its probability.

    >>> answer(np.log(np.array([0.25, 0.75])))
    '1: 75%'
    """
    odds = np.exp(logits - logits.max())
    return f"{int(logits.argmax())}: {100 * odds.max() / odds.sum():.0f}%"
