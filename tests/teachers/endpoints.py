"""Services in this process: a linear network behind the web application, without a socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from anyio.from_thread import start_blocking_portal

from kdjax.teachers.serving import accounts, answering, app, ledger, watch, wire
from kdjax.teachers.serving.policy import policy

SHAPE, CLASSES, MOST = (4, 4, 1), 5, 16
URL = "http://service"
WEIGHTS = np.random.default_rng(7).normal(size=(16, CLASSES)).astype(np.float32)


def network(images: np.ndarray) -> np.ndarray:
    """Logits, the same for an image in any batch."""
    return np.stack([image.reshape(-1) @ WEIGHTS for image in images])


def pool(count: int, seed: int = 0) -> np.ndarray:
    """Images in [0, 1], no two alike."""
    return np.random.default_rng(seed).random((count, *SHAPE)).astype(np.float32)


class InProcess(httpx.BaseTransport):
    """Requests to an application; `meddle(request, response)` may change or replace what comes back."""

    def __init__(self, asgi: Any, portal: Any) -> None:
        self._asgi, self._portal = httpx.ASGITransport(asgi, raise_app_exceptions=False), portal
        self.meddle: Any = lambda request, response: response

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()

        async def call() -> httpx.Response:
            found = await self._asgi.handle_async_request(request)
            return httpx.Response(found.status_code, headers=found.headers, content=await found.aread())

        return self.meddle(request, self._portal.call(call))


class Served(NamedTuple):
    """A running service: its answerer, its clients' keys, a client of HTTP, and the transport below that."""

    answerer: answering.Answerer
    keys: dict[str, str]
    http: httpx.Client
    transport: InProcess

    def post(self, body: bytes, *, who: str = "alice", number: str = "1", **headers: str) -> httpx.Response:
        """A request for answers, npy unless headers say otherwise."""
        own = {"Authorization": f"Bearer {self.keys[who]}", "Idempotency-Key": number, "Content-Type": wire.NPY}
        sent = httpx.Headers(own)
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.http.post("/v1/answers", content=body, headers=sent)

    @property
    def charged(self) -> int:
        """Images in the server's books."""
        return sum(total.images for total in self.answerer.ledger.totals())


@contextmanager
def served(
    folder: Path, *, said: str = "soft", clients: str = "alice(budget=100), bob(budget=10)", ask: Any = network,
    model: str = "one", clock: Any = None, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES, most: int = MOST,
    detect: str = "",
) -> Iterator[Served]:  # fmt: skip
    """A service whose books are in a folder; with a rule that `detect` names, as uniform images set it."""
    folder.mkdir(parents=True, exist_ok=True)
    books = ledger.Ledger(folder / "server.sqlite")
    found = accounts.clients(clients, folder / "keys.json")
    offer = answering.Offer(model, said, classes, shape, 0.5, most)
    timed = {} if clock is None else {"clock": clock}
    watching = watch.Monitor(watch.rule(detect), pool(200, seed=9), books) if detect else None
    answerer = answering.Answerer(ask, offer, policy(said), accounts.Accounts(found, books, **timed), books, watching)
    with start_blocking_portal() as portal:
        transport = InProcess(app.application(answerer), portal)
        with httpx.Client(transport=transport, base_url=URL) as http:
            yield Served(answerer, {account.name: key for key, account in found.items()}, http, transport)
    books.close()
