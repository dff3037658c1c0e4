"""Teachers' temperatures that are fitted: what they are in a step, and what they learn from it."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax import axis
from kdjax.losses.temperatures import Fitted
from kdjax.recipes.terms import Side, Softened, Term
from kdjax.types import Batch, PyTree, TrainState


def temperatures_of(
    terms: Sequence[Term], state: TrainState, batch: Batch
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """The temperatures at the beginning of a step, `[terms, B]` by group, and the memories.

    Args:
        terms: all terms.
        state, batch: of the step.
    """
    found: dict[str, Array] = {}
    memories: dict[str, PyTree] = {}
    for group, members in _groups(terms).items():
        fitted = _fitted(members[0], state)
        found[group], memories[group] = fitted.now(state.memory[group], jnp.asarray(batch["label"]), _visit(batch))
    return found, memories


def fitted_after(
    terms: Sequence[Term],
    memories: Mapping[str, PyTree],
    answer: Callable[[Side], Array],
    state: TrainState,
    batch: Batch,
) -> dict[str, PyTree]:
    """The memories at the end of a step.

    Args:
        terms: all terms.
        memories: at its beginning.
        answer: what a side says, `[B, K]`.
        state, batch: of the step.
    """
    found: dict[str, PyTree] = {}
    for group, members in _groups(terms).items():
        theirs, own = (jnp.stack([answer(getattr(t, side)) for t in members], 1) for side in ("teacher", "student"))
        rows = theirs, own, jnp.asarray(batch["label"]), jnp.asarray(batch["mask"]) > 0
        theirs, own, label, where = axis.whole(jax.lax.stop_gradient(rows))
        learn = _fitted(members[0], state).learn
        found[group] = learn(memories[group], jnp.moveaxis(theirs, 1, 0), jnp.moveaxis(own, 1, 0), label, where)
    return found


def _groups(terms: Sequence[Term]) -> dict[str, list[Term]]:
    found: dict[str, list[Term]] = {}
    for term in terms:
        if term.softened:
            found.setdefault(term.softened.group, []).append(term)
    return found


def _fitted(term: Term, state: TrainState) -> Fitted:
    softened = term.softened
    assert isinstance(softened, Softened)
    return softened.rule(**softened.numbers(state))


def _visit(batch: Batch) -> Array | None:
    """How many times the data set was seen whole: the least that a real row says."""
    if "epoch" not in batch:
        return None
    visit, mask = axis.whole((jnp.asarray(batch["epoch"]), jnp.asarray(batch["mask"])))
    return jnp.min(jnp.where(mask > 0, visit, jnp.iinfo(jnp.int32).max))
