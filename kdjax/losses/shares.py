"""How several terms share a weight of 1, by what each costs and has cost: shares that remember, all called alike.

    f(memory, losses [terms], **own) -> (shares [terms], memory)

`losses` are the terms' means over the global batch, and `begin(terms)` is the memory at first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses._rows import Scalar, require_fraction

Memory = dict[str, Array]


def begin(terms: int) -> Memory:
    """Equal shares, and no loss seen yet."""
    return {"first": jnp.full(terms, -1.0, jnp.float32), "shares": jnp.full(terms, 1 / terms, jnp.float32)}


def progress(
    memory: Memory, losses: Float[Array, " terms"], *, rate: Scalar = 0.025
) -> tuple[Float[Array, " terms"], Memory]:
    """More for the term that has come down less: w_k <- w_k - r (w_k - R_k), R_k = (L_k / L_k(0)) / sum_j L_j / L_j(0).

    Args:
        memory: of the steps before.
        losses: L_k, none negative; the first ones that are seen are L_k(0).
        rate: r, from 0 to 1.

    Returns: the new shares, which sum to 1, and the new memory.

    Raises: BadInput: a rate outside [0, 1].

    >>> _, memory = progress(begin(2), jnp.array([2.0, 4.0]), rate=0.5)
    >>> progress(memory, jnp.array([1.0, 4.0]), rate=0.5)[0].round(5)  # half way from 1/2 to 1/3 and 2/3
    Array([0.41667, 0.58333], dtype=float32)

    Reference: Zhao, Wang, Wei, "Enhanced Accuracy and Robustness via Multi-Teacher Adversarial Distillation" (MTARD),
    ECCV 2022, equations 7 to 9.
    """
    require_fraction("rate", rate)
    first = jnp.where(memory["first"] < 0, losses, memory["first"])
    # A loss of 0 has nothing left to come down: both sides of the quotient are kept above 0.
    left = jnp.maximum(losses, 1e-12) / jnp.maximum(first, 1e-12)
    shares = memory["shares"] - rate * (memory["shares"] - left / left.sum())
    return shares, {"first": first, "shares": shares}
