"""Augmented views from flags: what those see who learn from labels, and what is shown to student and live teacher."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax.data import views
from kdjax.recipes._batch import Augment
from kdjax.types import BadInput

HELP = (
    "views of training images, one after the other, such as 'random_shift(pixels=2), random_flip'; any of "
    f"{', '.join(views.AUGMENTATIONS.names())}; mixup is for learning from a live teacher alone"
)


class Views(NamedTuple):
    """`from_labels` leaves out what labels are wrong for; `from_teacher` is all of it. None: images as they are."""

    from_labels: Augment | None
    from_teacher: Augment | None


def from_flag(text: str, shape: Mapping[str, Any]) -> Views:
    """What `--augment` names, tried on the images' shape.

    Raises:
        BadInput: no such view, or one that the images are too small for.
    """
    image = jax.ShapeDtypeStruct((2, *shape["image_shape"]), jnp.float32)
    found = Views(views.resolve(text, mixing=False), views.resolve(text))
    try:
        if found.from_teacher is not None:
            jax.eval_shape(lambda x: found.from_teacher(jax.random.key(0), x, jnp.ones(len(x))), image)  # pyright: ignore[reportOptionalCall]
    except BadInput as error:
        raise BadInput(f"--augment={text}: {error}") from None
    return found


def refuse_mixing(text: str, *, why: str) -> None:
    """Refuse views that mix examples where labels have weight."""
    if views.mixes(text):
        raise BadInput(
            f"--augment={text}: mixup shows mixtures, for which an example's label is wrong, and {why}; accepted: no "
            "mixup, or a student that learns from the teacher alone, such as by --loss=response.kl."
        )
