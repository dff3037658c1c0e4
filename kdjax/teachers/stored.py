"""Teachers whose answers were computed once and travel with the data."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from kdjax.teachers import top_k
from kdjax.teachers.live import Teacher
from kdjax.types import CLEAN, BadInput, Batch, Outputs, PyTree


def cached() -> Teacher:
    """A teacher whose logits were computed once and travel with the data as `teacher_logits [B, K]`.

    Exact where inputs are not augmented: the same example gets the same answer every epoch. `[B, T, K]` are those of
    several teachers.
    """

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        if "teacher_logits" not in batch:
            raise BadInput(f"the batch has {sorted(batch)}: accepted is one with teacher_logits, the stored answers")
        return Outputs(_teachers_first(jnp.asarray(batch["teacher_logits"])))

    return Teacher(ask, views=(CLEAN,))


def cached_top_k(num_classes: int) -> Teacher:
    """The same where only the k largest logits travel with the data, and the others' sum: see `kdjax.teachers.top_k`.

    The batch has `teacher_values` and `teacher_classes [B, k]` and `teacher_rest [B]`; several teachers' are
    `[B, T, k]` and `[B, T]`. All `num_classes` logits exist for one batch at a time.
    """

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        names = [f"teacher_{name}" for name in ("values", "classes", "rest")]
        if missing := [name for name in names if name not in batch]:
            raise BadInput(f"the batch has {sorted(batch)}: accepted is one with {missing[0]}, of the stored answers")
        values, classes, rest = (jnp.asarray(batch[name]) for name in names)
        return Outputs(_teachers_first(top_k.expand(values, classes, rest, num_classes)))

    return Teacher(ask, views=(CLEAN,))


def _teachers_first(logits: Array) -> Array:
    return jnp.moveaxis(logits, 1, 0) if logits.ndim == 3 else logits


def cached_with_features(names: Sequence[str]) -> Teacher:
    """Teachers whose logits travel with the data as `teacher_logits [B, T, K]`, features as `NAME/embedding [B, D]`.

    Nothing of `state.frozen` is read; `distill_with_features` needs each teacher's `classifier` there, by name.
    """
    answers = cached()

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        outputs = answers(frozen, batch)
        return outputs._replace(features={f"{n}/embedding": jnp.asarray(batch[f"{n}/embedding"]) for n in names})

    return Teacher(ask, views=(CLEAN,))
