"""A teacher behind an API: asked over HTTP, paid for each image once, and never from inside a compiled step.

    service("http://127.0.0.1:8000", budget=60000, batch=256, concurrency=4)

Answers to a pool are data: `Service.logits(images)` becomes the column `teacher_logits`. An attack asks through
`Service.ask`, where each question counts, as it does at the service.
"""

import hashlib
import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tenacity
from jaxtyping import Float

from kdjax.data.source import unit_interval
from kdjax.teachers.paid import Asked, Paid, Request
from kdjax.teachers.serving import wire
from kdjax.teachers.serving.policy import policy
from kdjax.types import BadInput

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request is sent again."""
HOPELESS = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Errors of what is sent, which a later attempt would send again."""
FREE = frozenset({400, 402, 403, 409, 411, 412, 413, 415, 422})
"""Statuses that say that this request was not charged, now or before: who asks looks for a kept answer first."""

_KEY = re.compile(r"[\x21-\x7e]+")


class _Retry(Exception):
    """An answer that says: later."""

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class Service:
    """One service, one key, one ledger. It may be used from several threads; call `close`, or use it in a `with`.

    Attributes:
        model: the checksum of the network that answers; another one ends the client.
        policy: by which it answers.
        num_classes, image_shape: of its network.
        price: of an image.
    """

    def __init__(
        self,
        url: str,
        ledger: Path,
        *,
        key: str,
        budget: int = 0,
        batch: int = 256,
        concurrency: int = 4,
        timeout: float = 60.0,
        attempts: int = 8,
        http: httpx.Client | None = None,
    ) -> None:
        """Meet a service, and settle what an earlier client of this ledger left open.

        Args:
            url: where it is.
            ledger: the client's file; made if it is missing.
            key: what the service knows the client by.
            budget: most images that are ever paid through this ledger; 0 leaves the limit to the service.
            batch: images in a request; fewer where the service takes fewer.
            concurrency: requests on their way at once.
            timeout: seconds without a byte after which a request is sent again.
            attempts: how often one is sent.
            http: instead of a client of its own, which is then not closed here.

        Raises:
            BadInput: no service, a wrong key, one whose model is not the ledger's.
        """
        if batch < 1 or concurrency < 1 or budget < 0 or attempts < 1 or not timeout > 0:
            raise BadInput(
                f"service: batch={batch}, concurrency={concurrency}, budget={budget}, timeout={timeout}, "
                f"attempts={attempts}; accepted: numbers from 1, a budget from 0, a timeout above 0."
            )
        if not _KEY.fullmatch(key):  # nothing else fits in a header; and it is nobody's business what stands there
            raise BadInput(f"{url}: a key of {len(key)} characters; accepted: visible ASCII characters alone.")
        self._url, self._budget, self._concurrency = url.rstrip("/"), budget, concurrency
        self._attempts, self._key = attempts, key
        self._own = None
        if http is None:
            limits = httpx.Limits(max_connections=concurrency)
            # To read the list of authorities takes as long as several requests; http: has no use for it.
            self._own = httpx.Client(timeout=timeout, limits=limits, verify=not url.startswith("http:"))
        self._http = http or self._own
        self._times: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self.paid = Paid(ledger)
        try:
            offer = self._offer()
            self.model, self.policy = str(offer["model"]), str(offer["policy"])
            self.num_classes, most = _size(offer["num_classes"]), _size(offer["most"])
            self.image_shape = tuple(map(_size, offer["image_shape"]))
            self.price = _price(offer["price"])
            self._read = policy(self.policy).read
            self._batch = min(batch, most)
            facts = {name: offer[name] for name in ("model", "policy", "num_classes", "image_shape")}
            self.paid.bind(facts)
            self._send(self.paid.waiting())
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{url}: /v1/model answers what is no offer ({error}); accepted: a kdjax service.") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections and ledger."""
        if self._own is not None:
            self._own.close()
        self.paid.close()

    def logits(self, images: Float[np.ndarray, "batch ..."]) -> Float[np.ndarray, "batch classes"]:
        """Answers as logits; an image that was ever answered, to whatever question, is not asked again.

        Args:
            images: `[N, *image_shape]` in [0, 1].

        Raises:
            BadInput: as `ask`.
        """
        images = self._checked(images)
        digests, known, begun = list[bytes](), dict[bytes, bytes](), set[bytes]()

        def requests() -> Iterator[Request]:
            """Each is made while earlier ones are on their way, and is cut by place before known images are left out: a
            resumed client asks in the same batches."""
            for at in range(0, len(images), self._batch):
                part = images[at : at + self._batch]
                own = [_digest(image) for image in part]
                digests.extend(own)
                known.update(self.paid.known(own))
                new = {digest: row for row, digest in enumerate(own) if digest not in known and digest not in begun}
                begun.update(new)
                if len(new) < len(part):
                    part = part[list(new.values())]
                if new:
                    yield self._request(part, [(digest, 0) for digest in new])

        known |= {digest: said for (digest, _), said in self._send(requests()).items()}
        return self._logits([known[digest] for digest in digests])

    def ask(self, images: Float[np.ndarray, "batch ..."]) -> Float[np.ndarray, "batch classes"]:
        """The same for an attack: every image is a question of its own, also one that was asked before.

        The n-th time that a client asks about an image is remembered as that: a run that was killed and is started
        again asks the same questions, and gets from its ledger what it has paid. A service takes images: what finite
        differences ask beside the box of pixels is asked at its edge.

        Raises:
            BadInput: images of another shape, a budget that is spent, a service that does not answer, that refuses, or
                that answers what its policy cannot have said. What is paid is kept.
        """
        images = self._checked(np.clip(images, 0, 1))
        digests, asked = [_digest(image) for image in images], list[Asked]()
        with self._lock:
            for digest in digests:
                self._times[digest] += 1
                asked.append((digest, self._times[digest]))
        said = self.paid.told(asked)
        new = [row for row, one in enumerate(asked) if one not in said]
        parts = [new[at : at + self._batch] for at in range(0, len(new), self._batch)]
        said |= self._send(self._request(images[part], [asked[row] for row in part]) for part in parts)
        return self._logits([said[one] for one in asked])

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = unit_interval(np.asarray(images)).astype(np.float32, copy=False)
        if images.shape[1:] != self.image_shape:
            raise BadInput(f"images of shape {images.shape[1:]}; accepted by the service: {self.image_shape}.")
        return images

    def _request(self, images: np.ndarray, asked: list[Asked]) -> Request:
        parts = [str(self.paid.fact("ledger")).encode(), *(image + b"%d;" % when for image, when in asked)]
        name = hashlib.sha256(b"".join(parts))
        return Request(name.hexdigest(), tuple(asked), wire.pack(images))

    def _logits(self, said: Sequence[bytes]) -> np.ndarray:
        """Rows of answers, as the ledger keeps them, as logits."""
        if not said:
            return np.zeros((0, self.num_classes), np.float32)
        rows = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in self.paid.fact("columns")])
        found = np.frombuffer(b"".join(said), rows)
        return self._read({name: found[name] for name in rows.names or ()}, len(said), self.num_classes)

    def _send(self, requests: Iterable[Request]) -> dict[Asked, bytes]:
        """Send requests, several at once, and return their answers; after a failure none is begun, and those on their
        way are awaited."""
        left, said = iter(requests), dict[Asked, bytes]()
        begun = list(islice(left, 2))
        if len(begun) < 2:  # an attack's questions come one by one
            for request in begun:
                said |= self._settle(request, threading.Event())
            return said
        waiting, turn = chain(begun, left), threading.Lock()
        failed, given_up = threading.Event(), threading.Event()

        def work() -> None:
            while not failed.is_set():
                with turn:
                    request = next(waiting, None)
                if request is None:
                    return
                try:
                    said.update(self._settle(request, given_up))  # no two requests hold the same question
                except BaseException:
                    failed.set()
                    raise

        with ThreadPoolExecutor(self._concurrency) as pool:
            jobs = [pool.submit(work) for _ in range(self._concurrency)]
            try:
                for job in jobs:
                    job.result()
            except BaseException as error:
                failed.set()
                if not isinstance(error, Exception):  # Ctrl-C does not wait for attempts to come
                    given_up.set()
                raise
        return said

    def _settle(self, request: Request, given_up: threading.Event) -> dict[Asked, bytes]:
        """Write down, send, check, write down; the answers as the ledger keeps them."""
        self.paid.open(request, self._budget)
        response = self._post(request, given_up)
        if response.status_code != 200:
            if response.status_code in FREE:
                self.paid.withdraw(request)
            raise self._refusal(response)
        price = len(request.asked) * self.price
        try:
            columns, facts = wire.unpack_answer(response.content)
            if facts.get("model") != self.model:
                raise BadInput(
                    f"{self._url}: the model is {facts.get('model')}, and was {self.model}; nothing is mixed."
                )
            self._read(columns, len(request.asked), self.num_classes)
            price = _price(facts.get("price", ""))
        except BadInput as error:
            self.paid.fault(request, str(error), price)
            raise
        layout = [[name, columns[name].dtype.str, list(columns[name].shape[1:])] for name in sorted(columns)]
        if self.paid.fact("columns") != layout:
            self.paid.bind({"columns": layout})
        rows = np.zeros(len(request.asked), np.dtype([(name, kind, tuple(shape)) for name, kind, shape in layout]))
        for name in columns:
            rows[name] = columns[name]
        whole, size = rows.tobytes(), rows.itemsize
        said = [whole[at : at + size] for at in range(0, len(whole), size)]
        self.paid.settle(request, whole, price)
        return dict(zip(request.asked, said, strict=True))

    def _post(self, request: Request, given_up: threading.Event) -> httpx.Response:
        headers = {
            "Content-Type": wire.NPY, "Accept": wire.TENSORS, "Idempotency-Key": request.id,
            "If-Match": f'"{self.model}"',
        }  # fmt: skip
        return self._call("POST", "/v1/answers", headers, request.body, given_up)

    def _offer(self) -> dict[str, Any]:
        response = self._call("GET", "/v1/model", {}, None, threading.Event())
        if response.status_code != 200:
            raise self._refusal(response)
        return dict(response.json())

    def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, given_up: threading.Event
    ) -> httpx.Response:
        """Send until there is an answer, or the caller gives up; later each time, by `Retry-After` at least."""
        assert self._http is not None
        http, headers = self._http, {**headers, "Authorization": f"Bearer {self._key}"}

        def once() -> httpx.Response:
            response = http.request(method, self._url + path, headers=headers, content=body)
            if response.status_code in RETRIED:
                raise _Retry(f"status {response.status_code}", _seconds(response.headers.get("retry-after", "")))
            return response

        jitter = tenacity.wait_random_exponential(multiplier=0.1, max=10)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(jitter(state), error.wait if isinstance(error, _Retry) else 0.0)

        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_when_event_set(given_up),
            sleep=lambda seconds: _sleep(given_up, seconds),
            wait=wait,
            retry=tenacity.retry_if_exception_type((httpx.TransportError, _Retry))
            & tenacity.retry_if_not_exception_type(HOPELESS),
            reraise=True,
        )
        try:
            return again(once)
        except HOPELESS as error:
            raise BadInput(f"{self._url}: {error}; accepted: http://HOST:PORT of a service.") from None
        except (httpx.HTTPError, _Retry) as error:
            what = str(error) or type(error).__name__
            raise BadInput(
                f"{self._url}: no answer after {self._attempts} attempts ({what}); accepted: a service that runs. What "
                "is paid is kept, and the same command goes on from it."
            ) from None

    def _refusal(self, response: httpx.Response) -> BadInput:
        try:
            told = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            told = response.text[:200]
        return BadInput(f"{self._url} refuses ({response.status_code}): {told} What is paid is kept.")


def _sleep(given_up: threading.Event, seconds: float) -> None:
    given_up.wait(seconds)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _size(told: Any) -> int:
    if type(told) is not int or told < 1:
        raise ValueError(f"{told!r} where a whole number from 1 stands")
    return told


def _price(told: Any) -> float:
    try:
        found = float(told)
    except (ValueError, TypeError):
        found = -1.0
    if not 0 <= found < math.inf:
        raise BadInput(f"the service answers price={str(told)[:80]!r}; accepted: a number from 0.")
    return found


def _seconds(typed: str) -> float:
    """Retry-After in seconds; a date, or nothing, leaves the wait to the backoff. No service makes us wait an hour."""
    try:
        return min(max(float(typed), 0.0), 300.0)
    except ValueError:
        return 0.0
