"""Checks of the gradient itself: is it there, is it true, does it lead upwards. E9, E13, E14."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks import objectives
from kdjax.attacks.projections import lengths
from kdjax.attacks.victims import Victim
from kdjax.audit.attacking import Goal
from kdjax.audit.comparisons import percent, remedy
from kdjax.audit.finding import FAIL, FAR, FLAG, PASS, POINT, Finding, grade, skipped, worst
from kdjax.audit.subject import Subject, chunks
from kdjax.types import Objective

TINY = 1e-12
"""A gradient norm below which nothing can be followed."""

SMALL_STEP, LARGE_STEP = 1e-3, 0.1
"""Half the distances of differences: one inside a piece of a piecewise linear network, one across steps of 8 levels."""


@jax.jit
def _slope(objective: Objective, image: Array, key: Array) -> Array:
    return jax.grad(lambda x: objective(x, key=key)[0].sum())(image)


def gradients(subject: Subject, goal: Goal) -> np.ndarray:
    """Gradients of an objective by every image, `[N, H, W, C]`."""
    key = jax.random.key(subject.seed)
    parts = [
        np.asarray(
            _slope(goal(subject.victim, jnp.asarray(subject.label[rows])), jnp.asarray(subject.image[rows]), key)
        )[asked]
        for rows, asked in chunks(subject, len(subject.image))
    ]
    return np.concatenate(parts)


def gradient_health(gradient: np.ndarray) -> Finding:
    """E9: the cross-entropy's gradient by the image is there, for every example."""
    flat = gradient.reshape(len(gradient), -1)
    bad = float(np.mean(~np.isfinite(flat).all(-1)))
    dead = float(np.mean((flat == 0).all(-1)))
    norm = float(np.median(np.linalg.norm(flat.astype(np.float64), axis=-1)))
    verdict = worst(grade(dead, POINT, FAR), FAIL if bad else PASS, PASS if norm >= TINY else FLAG)
    return Finding(
        "E9", "gradients are alive", verdict,
        f"{percent(dead)} of the examples have a gradient that is exactly 0 (flag above 1 %, fail above 10 %); "
        f"median L2 "
        f"norm {norm:.2g} (flag below 1e-12); not finite: {percent(bad)} (fail: any)",
        remedy(verdict, "Cross-entropy is saturated or an operation has no slope: attack margins or divided logits "
                       "(E8, E10), BPDA (E13)."),
        {"zero": dead, "norm": norm, "not_finite": bad},
    )  # fmt: skip


def logit_gap(logits: np.ndarray, *, rescaled: tuple[float, float] | None = None) -> Finding:
    """E10: float32's softmax is not saturated; `rescaled`: a(PGD) as it is and on logits divided to unit deviation."""
    order = np.sort(logits, -1)
    gap = order[:, -1] - order[:, -2]
    middle = float(np.median(gap))
    verdict = grade(middle, 17.0, 104.0)
    note, numbers = "", {}
    if rescaled is not None:
        note = f"; a(PGD) {percent(rescaled[0])}, on logits of unit deviation {percent(rescaled[1])}"
        numbers = {"pgd": rescaled[0], "pgd_unit_deviation": rescaled[1]}
    return Finding(
        "E10", "logits are not saturated", verdict,
        f"the first logit leads the second by {middle:.1f} in the median (flag above 17, where 1 - p rounds to 0; fail "
        f"above 104, where every other p does){note}",
        remedy(verdict, "Attack a margin, or logits divided by their deviation or by the training temperature."),
        {"gap": middle, "largest": float(gap.max()), **numbers}, {"gap": [float(g) for g in gap]},
    )  # fmt: skip


@jax.jit
def _directional(objective: Objective, image: Array, directions: Array, step: Array, key: Array) -> tuple[Array, Array]:
    """Derivatives along directions `[M, N, H, W, C]`, by autodiff and by differences, each `[M, N]`."""
    slope = jax.grad(lambda x: objective(x, key=key)[0].sum())(image)

    def along(direction: Array) -> tuple[Array, Array]:
        up, down = jnp.clip(image + step * direction, 0, 1), jnp.clip(image - step * direction, 0, 1)
        rise = objective(up, key=key)[0] - objective(down, key=key)[0]
        return jnp.sum((slope * direction).reshape(len(image), -1), -1), rise / (2 * step)

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(along, directions)


def differences_agree(subject: Subject, *, points: int = 20, directions: int = 8) -> Finding:
    """E13: differences of the margin agree with its derivatives along random directions.

    Per point the relative error is ||d - a|| / max(||d||, ||a||) over the directions. Points are moved off ties by
    noise of 0.01, since networks on flat backgrounds have kinks exactly there. One whose derivatives or differences
    are no finite numbers is counted as such: what is NaN is neither small nor large, and compares with nothing.
    """
    key, rng = jax.random.key(subject.seed), np.random.default_rng([subject.seed, 13])
    clean = subject.image[:points]
    noisy = clean + 0.01 * rng.normal(size=clean.shape)
    image = jnp.asarray(np.clip(noisy, 2 * SMALL_STEP, 1 - 2 * SMALL_STEP), jnp.float32)
    objective = _unfloored(subject.victim, jnp.asarray(subject.label[:points]))
    random = jnp.asarray(rng.choice([-1.0, 1.0], (directions, *image.shape)), jnp.float32)
    exact, small = (
        np.asarray(x, np.float64) for x in _directional(objective, image, random, jnp.asarray(SMALL_STEP), key)
    )
    large = np.asarray(_directional(objective, image, random, jnp.asarray(LARGE_STEP), key)[1])
    broken = ~np.isfinite(exact + small + large).all(0)
    exact, small, large = (np.where(broken, 0, x) for x in (exact, small, large))
    sizes = [np.linalg.norm(x, axis=0) for x in (exact, small, large)]
    error = np.linalg.norm(small - exact, axis=0) / np.maximum(np.maximum(sizes[0], sizes[1]), 1e-30)
    error = np.where(np.maximum(sizes[0], sizes[1]) > 0, error, 0)
    blind = float(np.mean((sizes[0] == 0) & (sizes[2] > 0)))
    middle = float(np.median(error[~broken])) if not broken.all() else np.nan
    bad = float(np.mean(broken))
    verdict = worst(grade(middle, FAR), grade(blind, 0.0, FAR), FAIL if bad else PASS)
    return Finding(
        "E13", "differences agree with derivatives", verdict,
        f"at {len(image)} points along {directions} directions the relative error is {percent(middle)} in the "
        f"median (flag "
        f"above 10 %); {percent(blind)} have derivatives of exactly 0 where differences are not (flag: any, fail "
        f"above 10 %); not finite: {percent(bad)} (fail: any)",
        remedy(verdict, "An operation is not differentiable: replace it by a smooth one in the backward pass "
                       "(BPDA), or attack by queries."),
        {"relative_error": middle, "blind": blind, "not_finite": bad},
    )  # fmt: skip


def _unfloored(victim: Victim, label: Array) -> objectives.Scored:
    # With the floor at 0 the margin is flat where the example is wrong already.
    return objectives.margin(victim, label, kappa=1e30)


@functools.cache
def _surface(norm: str) -> Any:
    def surface(
        objective: Objective, image: Array, random: Array, epsilon: Array, at: Array, key: Array
    ) -> tuple[Array, Array, Array]:
        """Loss on the grid `[G, G, N]` spanned by gradient and random direction, at the image, and linear along it."""
        loss = lambda x: -objective(jnp.clip(x, 0, 1), key=key)[0]  # noqa: E731
        slope = jax.grad(lambda x: loss(x).sum())(image)
        up, side = epsilon * _steepest(norm, slope), epsilon * _steepest(norm, random)

        def row(a: Array) -> tuple[Array, Array]:
            def cell(b: Array) -> tuple[Array, Array]:
                delta = jnp.clip(image + a * up + b * side, 0, 1) - image
                return loss(image + delta), jnp.sum((slope * delta).reshape(len(image), -1), -1)

            return jax.lax.map(cell, at)

        grid, linear = jax.lax.map(row, at)
        return grid, loss(image), linear

    return jax.jit(surface)


def _steepest(norm: str, direction: Array) -> Array:
    if norm == "linf":
        return jnp.sign(direction)
    length = lengths(direction)["l2"].reshape(-1, 1, 1, 1)
    return direction / jnp.where(length > 0, length, 1)


def landscape(subject: Subject, where: np.ndarray, *, points: int = 50, grid: int = 21) -> Finding:
    """E14: cross-entropy rises more along its gradient than along a random direction, and without teeth.

    The linearity error is max |L(x + d) - L(x) - d . grad L| over the grid, relative to the largest |L(x + d) - L(x)|.
    An example with a NaN among its losses or slopes leads nowhere: it is counted, and left out of the other numbers.
    """
    title = "the gradient leads upwards"
    rows = np.flatnonzero(where)[:points]
    if not len(rows):
        return skipped("E14", title, "no example is classified rightly")
    image, objective = (
        jnp.asarray(subject.image[rows]),
        objectives.cross_entropy(subject.victim, jnp.asarray(subject.label[rows])),
    )
    key, rng = jax.random.key(subject.seed), np.random.default_rng([subject.seed, 14])
    at = jnp.asarray(np.linspace(-1, 1, grid), jnp.float32)
    random = jnp.asarray(rng.normal(size=image.shape), jnp.float32)
    epsilon = jnp.asarray(subject.threat.epsilon, jnp.float32)
    surface, clean, linear = map(np.asarray, _surface(subject.threat.norm)(objective, image, random, epsilon, at, key))
    broken = ~np.isfinite(surface + clean + linear).all((0, 1))
    bad = float(np.mean(broken))
    if broken.all():
        return Finding(
            "E14", title, FAIL, "no example has a loss and a slope that are finite", "Look at E9.", {"not_finite": bad}
        )
    surface, clean, linear = (x[..., ~broken] for x in (surface, clean, linear))
    middle = grid // 2
    along, across = surface[:, middle], surface[middle]  # [G, N]
    not_above = float(np.mean(along[-1] <= np.maximum(across[-1], across[0])))
    turns = np.diff(np.sign(np.diff(along, axis=0)), axis=0)
    teeth = float(np.median(np.sum(turns != 0, axis=0)))
    moved = np.abs(surface - clean).max((0, 1))
    bent = float(np.median(np.abs(surface - clean - linear).max((0, 1)) / np.maximum(moved, 1e-30)))
    verdict = worst(grade(not_above, 0.2, 0.5), grade(teeth, 4.0), FAIL if bad else PASS)
    return Finding(
        "E14", title, verdict,
        f"for {percent(not_above)} of {len(clean)} examples the loss rises no more along the gradient than along a "
        f"random "
        f"direction (flag above 20 %, fail above 50 %); along the gradient it turns {teeth:.0f} times in {grid} "
        f"points (flag "
        f"above 4); linearity error {bent:.2g}; not finite: {percent(bad)} (fail: any)",
        remedy(verdict, "The surface is flat or jagged: attack another loss, smooth the gradient over noise, or "
                       "use queries."),
        {"not_above": not_above, "turns": teeth, "linearity_error": bent, "not_finite": bad},
        {"loss": surface.mean(-1).round(5).tolist(), "at": np.asarray(at * epsilon).round(6).tolist()},
    )  # fmt: skip
