"""A teacher or a victim behind an API, from flags: `http://HOST:PORT`, or `service("http://HOST:PORT", budget=60000)`.

The key is read from the environment, where it is neither in a list of processes nor in config.json.
"""

import hashlib
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax import spec
from kdjax.data.source import unit_interval
from kdjax.spec import Call, Family
from kdjax.study.data import Study
from kdjax.types import BadInput, Batch, Model, Outputs, PyTree

if TYPE_CHECKING:
    from kdjax.teachers.service import Service

log = logging.getLogger("kdjax.service")
KEY, LEDGER = "KDJAX_SERVICE_KEY", "paid.sqlite"
HELP = (
    f"the http://HOST:PORT of a service (experiments.serve), whose key is in ${KEY}, or "
    'service("http://HOST:PORT", budget=IMAGES, batch=256, concurrency=4, timeout=60)'
)
"""The manual of a flag that may name a service."""


class Terms(NamedTuple):
    """What a flag says of a service."""

    url: str
    budget: int
    batch: int
    concurrency: int
    timeout: float


def service(url: str, budget: int = 0, batch: int = 256, concurrency: int = 4, timeout: float = 60.0) -> Terms:
    """What can be typed; see `kdjax.teachers.service.Service`."""
    return Terms(url, budget, batch, concurrency, timeout)


def is_service(text: str) -> bool:
    """Whether a flag names a service."""
    return text.startswith(("http://", "https://", "service("))


def identity(text: str) -> str:
    """What of a flag changes results: of a service nothing, for what it paid is bound to the model and the policy.

    So a run goes on with a larger budget, and where the service has moved to another address.
    """
    return "a service" if is_service(text) else text


def connect(text: str, folder: Path, *, flag: str) -> "Service":
    """Connect to the service that a flag names; its ledger is in a folder, and held as long as the process lives.

    Raises:
        BadInput: another text, no key, packages that are missing, or as `Service`.
    """
    call = spec.call(text, flag=flag) if text.startswith("service(") else Call("service", (text,))
    terms = Family(sys.modules[__name__], accepts=lambda f: f.__name__ == "service").resolve(call, varying=False)()
    key = os.environ.get(KEY, "")
    if not key:
        raise BadInput(f"--{flag}={text}: no key; accepted: the service's key for you in the environment, {KEY}=KEY.")
    try:
        from kdjax.teachers.service import Service
    except ImportError as error:
        raise BadInput(f"--{flag}={text}: {error}; accepted once installed: pip install 'kdjax[service]'.") from None
    found = Service(key=key, ledger=folder / LEDGER, **terms._asdict())
    paid = found.paid.totals()[1]
    log.info("%s answers by %s, %g an image; %d are paid", terms.url, found.policy, found.price, paid)
    return found


def description(found: "Service") -> dict[str, Any]:
    """What model.json says of a service."""
    return {"service": found.policy, "num_classes": found.num_classes, "image_shape": found.image_shape}


def teacher(found: "Service", study: Study) -> tuple[Model, list[PyTree]]:
    """A network that is asked over HTTP wherever a study asks networks for logits, on the host.

    In a compiled step it cannot be asked, and says NaN there; lessons look at shapes alone.
    """

    def apply(
        variables: PyTree, inputs: Any, *, train: bool, key: Any, mask: Any = None
    ) -> tuple[Outputs, dict[str, Any]]:
        return Outputs(jnp.full((len(inputs), found.num_classes), jnp.nan)), {}

    def ask(variables: PyTree, batches: Iterable[Batch]) -> np.ndarray:
        real = [unit_interval(np.asarray(b["inputs"]))[np.asarray(b["mask"]) > 0] for b in batches]
        return np.concatenate([found.logits(images) for images in real])

    model = Model(lambda key: ({}, {}), apply, found.image_shape)
    study.asked[model.apply] = ask
    named = hashlib.sha256(f"{found.model} {found.policy}".encode()).digest()
    return model, [{"params": {}, "service": np.frombuffer(named, np.uint8)}]
