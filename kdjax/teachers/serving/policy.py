"""What a service says of an image, and what its client makes of that: both sides of each policy.

    soft      logits      top_k(3)      hard      rounded(2)      smoothed(0.1)      noisy(0.5)

A policy's `answer` turns a network's logits into the columns that are sent; `read` checks columns that came and turns
them into logits again, so that every loss and every objective takes them.
"""

import hashlib
import sys
import typing
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, softmax

from kdjax import spec
from kdjax.spec import Call, Family
from kdjax.teachers import top_k as shortening
from kdjax.types import BadInput

Columns = Mapping[str, np.ndarray]
"""Columns of an answer, a row for each image."""

SMALLEST = 1e-30
"""What stands for a probability of 0 where its logarithm is taken."""


class Policy(NamedTuple):
    """`answer(logits [N, K], images [N, ...], secret)` gives columns; `read(columns, N, K)` gives logits `[N, K]`."""

    answer: Callable[[np.ndarray, np.ndarray, bytes], Columns]
    read: Callable[[Columns, int, int], np.ndarray]


def policy(text: str | Call, *, flag: str = "policy") -> Policy:
    """The policy that an expression names.

    Raises:
        BadInput: an unknown name, or a setting that does not fit.

    >>> answer = policy("hard").answer(np.array([[0.0, 2.0]]), np.zeros((1, 1)), b"")
    >>> answer["classes"].tolist()
    [1]
    """
    call = spec.call(text, flag=flag)
    made = POLICIES.resolve(call, varying=False)
    try:
        return made()
    except BadInput as error:
        raise call.error(str(error)) from None


def soft() -> Policy:
    """All probabilities, `probabilities [N, K]` float32."""
    return Policy(
        lambda logits, images, secret: {"probabilities": softmax(logits, axis=-1).astype(np.float32)},
        lambda columns, n, k: _logarithm(_probabilities(columns, n, k, slack=1e-3), SMALLEST),
    )


def logits() -> Policy:
    """What the network's last layer says, `logits [N, K]` float32."""

    def read(columns: Columns, n: int, k: int) -> np.ndarray:
        found = _column(columns, ["logits"], "logits", (n, k), "f")
        if not (np.abs(found) <= np.finfo(np.float32).max).all():  # NaN is refused too
            raise BadInput("the service answers logits with NaN or infinity; accepted: finite numbers of float32.")
        return found.astype(np.float32)

    return Policy(lambda logits, images, secret: {"logits": logits.astype(np.float32)}, read)


def top_k(k: int = 1) -> Policy:
    """The k largest probabilities and their classes, `probabilities [N, k]` float32, `classes [N, k]` int32.

    The client spreads what is missing to 1 evenly over the other classes.
    """
    if k < 1:
        raise BadInput(f"k={k}; accepted: 1 or more.")

    def answer(logits: np.ndarray, images: np.ndarray, secret: bytes) -> Columns:
        classes = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
        values = np.take_along_axis(softmax(logits, axis=-1), classes, axis=-1)
        return {"probabilities": values.astype(np.float32), "classes": classes.astype(np.int32)}

    def read(columns: Columns, n: int, number: int) -> np.ndarray:
        kept = min(k, number)
        names = ["classes", "probabilities"]
        values = _column(columns, names, "probabilities", (n, kept), "f")
        classes = _column(columns, names, "classes", (n, kept), "iu")
        _in_range(classes, number)
        if kept > 1 and (np.diff(np.sort(classes, axis=-1), axis=-1) == 0).any():
            raise BadInput("the service answers a class twice for one image; accepted: k different classes.")
        # No class that is left out is likelier than the least that is told.
        _summing(values, 1e-3, low=1 - (number - kept) * values.min(-1).astype(np.float64))
        whole = kept == number
        rest = np.maximum(1 - values.sum(-1, dtype=np.float64), SMALLEST)
        rest = np.full(n, -np.inf) if whole else np.log(rest)
        kept_logits, rest = _logarithm(values, SMALLEST, normalize=False), rest.astype(np.float32)
        found = shortening.expand(jnp.asarray(kept_logits), jnp.asarray(classes), jnp.asarray(rest), number)
        return np.asarray(found)

    return Policy(answer, read)


def hard() -> Policy:
    """The class alone, `classes [N]` int32; read as probability 1 of it."""

    def read(columns: Columns, n: int, k: int) -> np.ndarray:
        classes = _column(columns, ["classes"], "classes", (n,), "iu")
        _in_range(classes, k)
        return _logarithm(np.eye(k, dtype=np.float32)[classes], SMALLEST)

    return Policy(lambda logits, images, secret: {"classes": logits.argmax(-1).astype(np.int32)}, read)


def rounded(decimals: int = 2) -> Policy:
    """All probabilities to so many decimals; one that became 0 is read as half of what rounds to 0 at most."""
    if not 1 <= decimals <= 6:
        raise BadInput(f"decimals={decimals}; accepted: 1 to 6.")
    step = 10.0**-decimals

    def read(columns: Columns, n: int, k: int) -> np.ndarray:
        # Each of k numbers may be off by half a step.
        return _logarithm(_probabilities(columns, n, k, slack=1e-3 + k * step / 2), step / 4)

    return Policy(
        lambda logits, images, secret: {
            "probabilities": np.round(softmax(logits, axis=-1), decimals).astype(np.float32)
        },
        read,
    )


def smoothed(share: float = 0.1) -> Policy:
    """Probabilities of which a share is spread over all classes, (1 - share) p + share / K."""
    if not 0 < share < 1:
        raise BadInput(f"share={share}; accepted: above 0, below 1.")

    def answer(logits: np.ndarray, images: np.ndarray, secret: bytes) -> Columns:
        spread = (1 - share) * softmax(logits, axis=-1) + share / logits.shape[-1]
        return {"probabilities": spread.astype(np.float32)}

    return Policy(answer, soft().read)


def noisy(scale: float = 0.5) -> Policy:
    """Probabilities of the logits plus Gaussian noise of a standard deviation in logits.

    An image always gets the same noise, so that no mean takes it away; it is drawn from a secret of the service and the
    image, so that nobody else can compute it.
    """
    if not scale > 0:
        raise BadInput(f"scale={scale}; accepted: above 0.")

    def answer(logits: np.ndarray, images: np.ndarray, secret: bytes) -> Columns:
        drawn = np.stack([_noise(image, secret, logits.shape[-1]) for image in images])
        return soft().answer(logits + scale * drawn, images, secret)

    return Policy(answer, soft().read)


def _noise(image: np.ndarray, secret: bytes, k: int) -> Float[np.ndarray, " classes"]:
    digest = hashlib.sha256(secret + np.ascontiguousarray(image, np.float32).tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16])).standard_normal(k)


def _column(columns: Columns, names: list[str], name: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
    if sorted(columns) != names:
        raise BadInput(f"the service answers {sorted(columns)}; accepted by its policy: {names}.")
    found = columns[name]
    if found.shape != shape or found.dtype.kind not in kinds:
        raise BadInput(f"the service answers {name} {found.dtype} {found.shape}; accepted: {shape}.")
    return found


def _in_range(classes: np.ndarray, k: int) -> None:
    if classes.size and (classes.min() < 0 or classes.max() >= k):
        raise BadInput(f"the service answers classes {classes.min()} to {classes.max()}; accepted: 0 to {k - 1}.")


def _probabilities(columns: Columns, n: int, k: int, *, slack: float) -> np.ndarray:
    found = _column(columns, ["probabilities"], "probabilities", (n, k), "f")
    _summing(found, slack)
    return found


def _summing(found: np.ndarray, slack: float, low: float | np.ndarray = 1.0) -> None:
    """Refuse what is not in [0, 1], or sums to less than low or more than 1, but for slack; NaN among it."""
    total = found.sum(-1, dtype=np.float64)
    if not ((found >= 0).all() and (found <= 1).all() and (total >= low - slack).all() and (total <= 1 + slack).all()):
        raise BadInput("the service's probabilities are not in [0, 1], or do not sum to 1; accepted: probabilities.")


def _logarithm(found: np.ndarray, smallest: float, *, normalize: bool = True) -> np.ndarray:
    logits = np.log(np.maximum(found.astype(np.float64), smallest))
    return (log_softmax(logits, axis=-1) if normalize else logits).astype(np.float32)


POLICIES = Family(
    sys.modules[__name__],
    accepts=lambda function: typing.get_type_hints(function).get("return") is Policy and function is not policy,
)
"""The policies by name."""
