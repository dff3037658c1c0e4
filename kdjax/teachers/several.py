"""Several teachers as one `Teacher`, whose logits are `[teachers, batch, classes]`: for `distill` with an ensemble.

A third way is `stored.cached` on a column `teacher_logits [batch, teachers, classes]`.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.teachers.live import Teacher
from kdjax.types import ApplyFn, BadInput, Batch, Outputs, PyTree


def stack(variables: Sequence[PyTree]) -> PyTree:
    """The variables of several teachers of one architecture as one pytree with a leading axis, for `stacked`.

    Raises:
        BadInput: no teachers, or teachers whose variables differ in names or shapes.

    >>> stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])["w"].shape
    (2, 3)
    """
    described = [jax.tree.map(jnp.shape, v) for v in variables]
    if not described or any(d != described[0] for d in described):
        raise BadInput(
            f"variables={described}: accepted are those of one or more teachers of one architecture; "
            "teachers of several architectures go together()"
        )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)


def stacked(apply: ApplyFn) -> Teacher:
    """Teachers of one architecture, run in every step as one program on the `stack` of their variables.

    Features too get a leading axis of teachers.
    """

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        image = jnp.asarray(batch["inputs"])
        return jax.vmap(lambda v: apply(v, image, train=False, key=None)[0])(frozen)

    return Teacher(ask)


def together(applies: Mapping[str, ApplyFn]) -> Teacher:
    """Teachers of any architectures, run in every step; `state.frozen` holds the variables of each under its name.

    Teacher number t is the t-th name. Features are named `NAME/FEATURE`, since their shapes differ.

    Raises:
        BadInput: no teachers; when called, names in `frozen` that are not these, or answers of different shapes.
    """
    if not applies:
        raise BadInput("applies={}: accepted is one teacher or more, by name")

    def ask(frozen: PyTree, batch: Batch) -> Outputs:
        if not isinstance(frozen, Mapping) or set(frozen) != set(applies):
            has = sorted(frozen) if isinstance(frozen, Mapping) else type(frozen).__name__
            raise BadInput(f"frozen has {has}: accepted are the variables of {sorted(applies)}, by name")
        image = jnp.asarray(batch["inputs"])
        answers = {name: apply(frozen[name], image, train=False, key=None)[0] for name, apply in applies.items()}
        shapes = {name: outputs.logits.shape for name, outputs in answers.items()}
        if len(set(shapes.values())) > 1:
            raise BadInput(f"teachers answer {shapes}: accepted are teachers for the same classes")
        features: dict[str, Array] = {
            f"{name}/{feature}": value
            for name, outputs in answers.items()
            for feature, value in outputs.features.items()
        }
        return Outputs(jnp.stack([outputs.logits for outputs in answers.values()]), features)

    return Teacher(ask)
