"""What is measured on a network that hides its gradients: slopes, gaps, and how far FGSM must go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kdjax.attacks.objectives import Scored, cross_entropy, margin
from kdjax.attacks.victims import Victim
from kdjax.types import Model, Outputs, PyTree


def at_temperature(model: Model, temperature: float) -> Model:
    """The model with its logits divided by T, so that every loss of it is Papernot's at T, without a factor T^2.

    Its variables are the model's own: deployed at 1, the model itself is asked.

    Reference:
        Papernot, McDaniel, Wu, Jha, Swami, Distillation as a Defense to Adversarial Perturbations against Deep Neural
        Networks, IEEE S&P 2016, section IV.
    """

    def apply(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        outputs, state = model.apply(variables, image, train=train, key=key, mask=mask)
        return outputs._replace(logits=outputs.logits / temperature), state

    return Model(model.init, apply)


@jax.jit
def slopes(objective: Scored, image: Array) -> Array:
    """The gradient of an objective by the image, `[B, H, W, C]`."""
    return jax.grad(lambda x: objective(x)[0].sum())(image)


def gradients(victim: Victim, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """L2 norms of input gradients: of cross-entropy median, mean and share of exact zeros; of the margin the median."""
    found = {f.__name__: slopes(f(victim, jnp.asarray(label)), image) for f in (cross_entropy, margin)}
    norm = {name: np.linalg.norm(np.asarray(g, np.float64).reshape(len(g), -1), axis=1) for name, g in found.items()}
    return {
        "gradient median": float(np.median(norm["cross_entropy"])),
        "gradient mean": float(norm["cross_entropy"].mean()),
        "zero gradients": float(np.mean([not np.any(g) for g in np.asarray(found["cross_entropy"])])),
        "margin gradient": float(np.median(norm["margin"])),
    }


def logit_gap(logits: np.ndarray) -> float:
    """Median over examples of the largest logit minus the second.

    >>> logit_gap(np.array([[1.0, 5.0, 3.0], [0.0, 0.0, 9.0], [4.0, 0.0, 0.0]]))
    4.0
    """
    order = np.sort(logits, axis=-1)
    return float(np.median(order[:, -1] - order[:, -2]))


@functools.partial(jax.jit, static_argnames="sizes")
def smallest_step(victim: Victim, asked: Victim, image: Array, label: Array, *, sizes: int = 200) -> Array:
    """The smallest epsilon of a grid over (0, 1] whose FGSM step fools the victim, `[B]`; 1 where none does.

    The grid has steps of 1 / sizes; the gradient of cross-entropy is `asked`'s: the victim itself, or a copy whose
    gradients are not hidden.
    """
    step = jnp.sign(-jax.grad(lambda x: cross_entropy(asked, label)(x)[0].sum())(image))
    grid = jnp.arange(1, sizes + 1) / sizes
    fooled = jax.lax.map(lambda e: victim(jnp.clip(image + e * step, 0, 1)).argmax(-1) != label, grid)
    return jnp.where(fooled.any(0), grid[fooled.argmax(0)], 1.0)
