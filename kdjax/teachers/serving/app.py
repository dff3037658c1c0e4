"""The web application: requests are checked in the order in which that is cheap, and every refusal has a reason."""

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kdjax.teachers.serving.accounts import Account
from kdjax.teachers.serving.answering import Answerer
from kdjax.teachers.serving.openapi import document
from kdjax.teachers.serving.wire import JSON, NPY, TENSORS, Refused, to_json, unpack_answer

ROOM = 32
"""Requests whose bodies are in memory at once; others wait unread."""
PATIENCE = 30.0
"""Seconds that a body may take to come."""
_ID = re.compile(r"[\x21-\x7e]{1,200}")


def application(answerer: Answerer) -> Starlette:
    """The service of one who answers, as ASGI."""
    room, busy = asyncio.Semaphore(ROOM), _Busy()

    async def answers(request: Request) -> Response:
        account = _account(answerer, request)
        number = request.headers.get("idempotency-key", "")
        if not _ID.fullmatch(number):
            raise Refused(400, "no_request_id", "no Idempotency-Key; accepted: 1 to 200 visible ASCII characters.")
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media not in (NPY, JSON):
            raise Refused(415, "media_type", f"Content-Type {media[:80]!r}; accepted: {NPY} or {JSON}.")
        length = _length(request, answerer.longest(media))
        async with room:
            body = await _body(request, length)
            async with busy.alone((account.name, number)):
                wanted = request.headers.get("if-match", "").strip('"')
                sent, again = await to_thread.run_sync(
                    lambda: answerer.answer(account, number, body, media=media, model=wanted)
                )
        answerer.counts["replayed" if again else "answered"] += 1
        # A repeat is what was answered then, perhaps by the network that was served before.
        model = unpack_answer(sent)[1]["model"] if again else answerer.offer.model
        headers = {"Model-Checksum": model} | ({"Idempotency-Replayed": "true"} if again else {})
        if request.headers.get("accept", "").startswith(TENSORS):
            return Response(sent, media_type=TENSORS, headers=headers)
        return Response(await to_thread.run_sync(to_json, sent), media_type=JSON, headers=headers)

    async def offered(request: Request) -> Response:
        _account(answerer, request)
        return JSONResponse({**answerer.offer._asdict(), "media": [NPY, JSON]})

    async def account(request: Request) -> Response:
        who = _account(answerer, request)
        left = who.budget - who.spent
        price = await to_thread.run_sync(answerer.ledger.price, who.name)
        told = {"name": who.name, "budget": who.budget, "spent": who.spent, "left": left, "rate": who.rate}
        return JSONResponse({**told, "price": price})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": answerer.offer.model})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(await to_thread.run_sync(_metrics, answerer), media_type="text/plain; version=0.0.4")

    async def openapi(request: Request) -> Response:
        return JSONResponse(document(answerer.offer))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        answerer.counts[error.reason] += 1
        return _refusal(error)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answerer.counts["no_such_page"] += 1
        return _refusal(Refused(error.status_code, "no_such_page", f"{error.detail}; accepted: see /openapi.json."))

    async def failed(request: Request, error: Exception) -> Response:
        answerer.counts["failed"] += 1
        return _refusal(Refused(500, "failed", "the service failed; nothing that has no answer is charged."))

    return Starlette(
        routes=[
            Route("/v1/answers", answers, methods=["POST"]),
            Route("/v1/model", offered),
            Route("/v1/account", account),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={Refused: refused, HTTPException: unknown, Exception: failed},
    )


class _Busy:
    """One request at a time of each id: a repeat that comes while the first is being answered waits for it."""

    def __init__(self) -> None:
        self._locks: dict[Any, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def alone(self, key: Any) -> AsyncIterator[None]:
        lock, waiting = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            _, waiting = self._locks[key]
            if waiting == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, waiting - 1


def _account(answerer: Answerer, request: Request) -> Account:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return answerer.accounts.who(key.strip() if scheme.lower() == "bearer" else "")


def _length(request: Request, most: int) -> int:
    typed = request.headers.get("content-length", "")
    if not (typed.isascii() and typed.isdigit()):
        raise Refused(411, "no_length", "no Content-Length; accepted: the body's length in bytes.")
    if int(typed[:20]) > most:
        raise Refused(413, "too_large", f"{typed[:20]} bytes; accepted: {most} at most.")
    return int(typed)


async def _body(request: Request, length: int) -> bytes:
    """The whole body, of the length that was announced."""
    found = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                found += part
                if len(found) > length:
                    break
    except TimeoutError:
        raise Refused(408, "slow", f"the body did not come within {PATIENCE:g} s.") from None
    except ClientDisconnect:
        raise Refused(400, "malformed", "the client left before its body had come.") from None
    if len(found) != length:
        raise Refused(400, "malformed", f"{len(found)} bytes, not the {length} of Content-Length.")
    return bytes(found)


def _refusal(error: Refused) -> Response:
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        headers["Connection"] = "close"  # what is left of the body is not read
    told = {"error": {"reason": error.reason, "message": error.message}}
    return JSONResponse(told, status_code=error.status, headers=headers)


def _metrics(answerer: Answerer) -> str:
    """In the text form of Prometheus: since the start by how requests ended, and for all time by client."""
    lines = ["# TYPE kdjax_requests_total counter"]
    lines += [f'kdjax_requests_total{{ended="{name}"}} {n}' for name, n in sorted(answerer.counts.items())]
    lines += [f"# TYPE kdjax_{name} gauge" for name in ("paid_images", "paid_price", "flagged_images")]
    for total in answerer.ledger.totals():
        label = f'{{client="{total.who}",policy="{total.policy}"}}'.replace("\n", " ")
        lines += [f"kdjax_paid_images{label} {total.images}", f"kdjax_paid_price{label} {total.price!r}"]
        lines += [f"kdjax_flagged_images{label} {total.flagged}"]
    return "\n".join(lines) + "\n"
