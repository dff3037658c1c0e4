"""One answer and one of each layer, of whoever was asked: one teacher, or several."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ensembles.pools import Ensemble, Vote
from kdjax.models.connect.connectors import layers_of
from kdjax.recipes.terms import Term
from kdjax.types import BadInput, Batch, Outputs


def pooled(
    outputs: Outputs, ensemble: Ensemble | None, student: Array, batch: Batch, temperature: Any
) -> tuple[Outputs, Array | None]:
    """One answer of whoever was asked, and the weight of each example where there was a vote.

    Of several teachers a layer is their mean, where all have it in one shape.

    Args:
        outputs: logits `[B, K]`, or `[T, B, K]` of several teachers.
        ensemble: makes one answer of several; None for one teacher.
        student: its logits, `[B, K]`.
        batch: of the step.
        temperature: at which the ensemble averages.

    Raises:
        BadInput: several teachers without an ensemble, or an ensemble for one.
    """
    if outputs.logits.ndim != (2 if ensemble is None else 3):
        raise BadInput(
            f"the teacher's logits have shape {outputs.logits.shape}: accepted are one teacher's [B, K] without an "
            "ensemble, or several teachers' [T, B, K] with one"
        )
    if ensemble is None:
        return outputs, None
    answer = ensemble(
        outputs.logits,
        student=student,
        labels=jnp.asarray(batch["label"]),
        domain=jnp.asarray(batch["domain"]) if "domain" in batch else None,
        temperature=temperature,
    )
    answer = jax.lax.stop_gradient(answer)
    logits, weight = answer if isinstance(answer, Vote) else (answer, None)
    return Outputs(logits, _averaged(outputs.features, *outputs.logits.shape[:2])), weight


def _averaged(features: Mapping[str, Array], teachers: int, rows: int) -> dict[str, Array]:
    """Each layer's mean over teachers: along an axis of its own, or of `NAME/LAYER`, which stay as they are too."""
    own = {name: x for name, x in features.items() if "/" in name}
    apart: dict[str, list[Array]] = {}
    for name, x in own.items():
        apart.setdefault(name.partition("/")[2], []).append(x)
    stacked = {name: x for name, x in features.items() if name not in own}
    means = {name: x.mean(0) if x.shape[:2] == (teachers, rows) else x for name, x in stacked.items()}
    for name, found in apart.items():
        if len(found) == teachers and len({x.shape for x in found}) == 1:
            means[name] = jnp.mean(jnp.stack(found), axis=0)
    return {**own, **means}


def require_layers(terms: Sequence[Term], outputs: Outputs) -> None:
    """Refuse a layer that the teacher, or one of several, does not have in the shape of the others.

    Raises:
        BadInput: naming the term, the layer and its shapes.
    """
    known = layers_of(outputs)
    for term in terms:
        for layer in term.teacher.layers:
            if layer in known:
                continue
            shapes = {name: x.shape for name, x in known.items() if name.partition("/")[2] == layer}
            has = f"whose shapes are {shapes}" if shapes else "which it does not have"
            accepted = f"a layer of one shape in all teachers: {', '.join(name for name in known if '/' not in name)}"
            raise BadInput(f"{term.name} looks at the teacher's {layer}, {has}; accepted: {accepted}")
