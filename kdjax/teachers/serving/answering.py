"""A network that answers requests: one at a time, in few compiled sizes, each paid answer kept before it is sent."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from kdjax.teachers.answers import checksum
from kdjax.teachers.serving.accounts import Account, Accounts
from kdjax.teachers.serving.ledger import Entry, Ledger
from kdjax.teachers.serving.policy import Policy
from kdjax.teachers.serving.watch import Monitor
from kdjax.teachers.serving.wire import NPY, Refused, longest, pack_answer, unpack
from kdjax.training.step import eval_step
from kdjax.types import ApplyFn, PyTree


class Offer(NamedTuple):
    """What is served: images of this shape, answers for so many classes by a policy, at a price for each image.

    `most`: images in one request.
    """

    model: str
    policy: str
    num_classes: int
    image_shape: tuple[int, ...]
    price: float
    most: int


class Network:
    """A forward pass of up to `most` images: filled up to a power of two, so that few programs are compiled."""

    def __init__(self, apply: ApplyFn, variables: PyTree, most: int) -> None:
        self._variables, self._most = jax.device_put(variables), most
        self._step, self._lock = jax.jit(eval_step(apply)), threading.Lock()
        self.checksum = checksum(variables)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits `[N, K]` float32; one call at a time runs."""
        size = min(1 << (len(images) - 1).bit_length(), self._most)
        filled = images if size == len(images) else np.resize(images, (size, *images.shape[1:]))
        with self._lock:
            return np.asarray(self._step(self._variables, filled))[: len(images)]

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Compile every size, so that no request waits for that."""
        for power in range(self._most.bit_length()):
            self(np.zeros((min(1 << power, self._most), *shape), np.float32))
        self(np.zeros((self._most, *shape), np.float32))


class Answerer:
    """Where a request becomes an answer. Safe to use from several threads, save for one request in two at once.

    Attributes:
        counts: of requests by how they ended: `answered`, `replayed`, or the reason of a refusal.
    """

    def __init__(
        self,
        ask: Callable[[np.ndarray], np.ndarray],
        offer: Offer,
        policy: Policy,
        accounts: Accounts,
        ledger: Ledger,
        watch: Monitor | None = None,
    ) -> None:
        self._watch = watch
        self._ask, self.offer, self._policy, self.accounts, self.ledger = ask, offer, policy, accounts, ledger
        self.counts: Counter[str] = Counter()

    def longest(self, media: str) -> int:
        """The most bytes that a body may have."""
        return longest(media, self.offer.image_shape, self.offer.most)

    def answer(
        self, account: Account, request: str, body: bytes, *, media: str = NPY, model: str = ""
    ) -> tuple[bytes, bool]:
        """The kept answer of a request that is known, free; otherwise a new one, charged and kept.

        Args:
            account: whose request it is.
            request: its id; the account's own.
            body: images.
            media: what the body is.
            model: the checksum that the client wants; "" for any.

        Returns:
            The answer, and whether it is a repeat.

        Raises:
            Refused: with nothing charged.
        """
        digest = hashlib.sha256(media.encode() + b"\n" + body).digest()
        if (kept := self.ledger.find(account.name, request)) is not None:
            if kept[0] != digest:
                raise Refused(
                    409, "other_request", "this Idempotency-Key has answered other images; accepted: a new one."
                )
            return kept[1], True
        offer = self.offer
        if model not in ("", offer.model):
            raise Refused(412, "other_model", f"the model is {offer.model}, not {model[:80]}.")
        if self._watch:
            self._watch.admit(account.name)
        images = unpack(body, media, offer.image_shape, offer.most)
        count = len(images)
        with self.accounts.hold(account, count):
            logits = self._ask(images)
            if not np.isfinite(logits).all():
                raise Refused(422, "no_number", "the network's answer to an image is not a number; nothing is charged.")
            price, flagged = count * offer.price, self._watch.look(account.name, images) if self._watch else 0
            facts = {
                "request": request, "model": offer.model, "policy": offer.policy, "images": str(count),
                "price": repr(price),
            }  # fmt: skip
            sent = pack_answer(self._policy.answer(logits, images, self.ledger.secret), facts)
            self.ledger.add(
                Entry(account.name, request, count, offer.policy, offer.model, price, len(body), digest, sent, flagged)
            )
        return sent, False
