"""Many honest clients at once, and requests that are wrong in every way: what each gets, how soon, at what cost."""

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from kdjax.teachers.serving import wire


def headers(key: str, number: str, media: str = wire.NPY) -> dict[str, str]:
    """Of a request for answers."""
    return {"Authorization": f"Bearer {key}", "Idempotency-Key": number, "Content-Type": media, "Accept": wire.TENSORS}


async def load(
    url: str, key: str, pool: np.ndarray, wanted: np.ndarray, *, clients: int, seconds: float, name: str
) -> dict[str, Any]:
    """So many clients, each of which asks about 1 to 8 images at a time, again and again.

    Args:
        url, key: of a service whose policy is `soft`.
        pool: images, of which parts are asked about.
        wanted: probabilities `[N, K]`.
        clients, seconds: how many and how long.
        name: what request ids begin with.

    Returns:
        Requests, images, `wrong` and `lost` answers, requests `repeated` after a broken connection, requests a second,
        p50 and p99 in milliseconds.
    """
    waited: list[float] = []
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def one(http: httpx.AsyncClient, who: int) -> None:
        rng, number = np.random.default_rng(who), 0
        while time.monotonic() < end:
            rows, number = rng.integers(len(pool), size=rng.integers(1, 9)), number + 1
            start = time.monotonic()
            response = None
            for _ in range(3):  # a connection that breaks costs nothing: the repeat has the same id
                try:
                    sent = headers(key, f"{name}-{who}-{number}")
                    response = await http.post(f"{url}/v1/answers", content=wire.pack(pool[rows]), headers=sent)
                    break
                except httpx.HTTPError:
                    counts["repeated"] += 1
            waited.append(time.monotonic() - start)
            if response is None or response.status_code != 200:
                counts["lost"] += 1
                continue
            answers = wire.unpack_answer(response.content)[0]["probabilities"]
            counts["wrong"] += not (
                answers.shape == wanted[rows].shape and np.allclose(answers, wanted[rows], atol=1e-4)
            )
            counts["requests"] += 1
            counts["images"] += len(rows)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(limits=limits, timeout=60) as http:
        begun = time.monotonic()
        await asyncio.gather(*(one(http, who) for who in range(clients)))
        took = time.monotonic() - begun
    p50, p99 = (1000 * float(np.quantile(waited, q)) for q in (0.5, 0.99))
    found = {n: counts[n] for n in ("requests", "images", "wrong", "lost", "repeated")}
    return {
        **found,
        "clients": clients,
        "seconds": took,
        "per second": counts["requests"] / took,
        "p50": p50,
        "p99": p99,
    }


def npy(array: np.ndarray, **how: Any) -> bytes:
    """An npy file's bytes."""
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def announced(descr: str, shape: str, rest: bytes = b"") -> bytes:
    """An npy file whose header says what it does not hold."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest


def malformed(
    shape: tuple[int, ...], key: str, spent: str, rng: np.random.Generator
) -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Requests that must be refused, without end: a kind, body and headers."""
    good = npy(rng.random((2, *shape)).astype(np.float32))
    side = ", ".join(map(str, shape))
    number = 0
    while True:
        cut = int(rng.integers(0, len(good)))
        image = rng.random((int(rng.integers(1, 4)), *shape))
        bad = float(rng.choice([np.nan, np.inf, -np.inf, -1e-3, 1.001, 1e30]))
        spoiled = image.astype(np.float32)
        spoiled.reshape(-1)[rng.integers(spoiled.size)] = bad
        flipped = bytearray(good)
        flipped[int(rng.integers(0, 8))] ^= int(rng.integers(1, 256))
        kinds: dict[str, tuple[bytes, Mapping[str, str]]] = {
            "truncated": (good[:cut], {}),
            "longer than it says": (good + rng.bytes(int(rng.integers(1, 50))), {}),
            "noise": (rng.bytes(int(rng.integers(0, 300))), {}),
            "another magic": (bytes(flipped), {}),
            "pickled": (npy(np.array([{"a": image}], object), allow_pickle=True), {}),
            "objects announced": (announced("'|O'", f"(1, {side})", rng.bytes(64)), {}),
            "two gigabytes": (announced("'<f4'", f"({2**31}, {side})"), {}),
            "less than none": (announced("'<f4'", f"(-{rng.integers(1, 9)}, {side})"), {}),
            "code as a type": (announced("__import__('os')", "()"), {}),
            "no number": (npy(spoiled), {}),
            "another type": (npy(image.astype(str(rng.choice(["<f8", ">f4", "<f2", "<i4", "<c8", "<U2", "?"])))), {}),
            "another shape": (npy(rng.random(tuple(rng.integers(0, 5, int(rng.integers(0, 5))))).astype("<f4")), {}),
            "JSON cut": (
                json.dumps({"images": image.tolist()}).encode()[: -int(rng.integers(1, 60))],
                {"m": wire.JSON},
            ),
            "JSON ragged": (json.dumps({"images": [[1, 2], [1]]}).encode(), {"m": wire.JSON}),
            "JSON deep": (b'{"images": ' + b"[" * int(rng.integers(1, 5000)), {"m": wire.JSON}),
            "JSON of text": (json.dumps({"images": [["a"]]}).encode(), {"m": wire.JSON}),
            "JSON NaN": (b'{"images": [[[[NaN]]]]}', {"m": wire.JSON}),
            "JSON noise": (rng.bytes(50), {"m": wire.JSON}),
            "other media": (good, {"m": str(rng.choice(["image/png", "", "application/x-npz", "text/plain"]))}),
            "no key": (good, {"Authorization": ""}),
            "wrong key": (good, {"Authorization": "Bearer " + rng.bytes(8).hex()}),
            "spent key": (good, {"Authorization": f"Bearer {spent}"}),
            "no id": (good, {"Idempotency-Key": ""}),
            "a long id": (good, {"Idempotency-Key": "a" * int(rng.integers(201, 3000))}),
            "another model": (good, {"If-Match": '"other"'}),
            "length of another body": (good, {"Content-Length": str(len(good) * 100_000)}),
        }
        for kind, (body, changes) in kinds.items():
            number += 1
            changed = {"Content-Type" if name == "m" else name: value for name, value in changes.items()}
            yield kind, body, {**headers(key, f"bad-{number}"), **changed}


def resident(pid: int) -> float:
    """A process's resident memory in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def refuse(port: int, requests: Iterator[tuple[str, bytes, dict[str, str]]], count: int, pid: int) -> dict[str, Any]:
    """Send malformed requests, one after another.

    Returns:
        How many got which status, the kinds that got another than 4xx with a reason, and the server's memory in MiB
        after the first tenth and at the end.
    """
    statuses: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    before = 0.0
    # httpx sends nothing that is wrong in itself, such as a length that is another body's.
    http = HTTPConnection("127.0.0.1", port, timeout=60)
    for number, (kind, body, sent) in zip(range(count), requests, strict=False):
        if number == max(count // 10, 1):
            before = resident(pid)
        try:
            http.request("POST", "/v1/answers", body, sent)
            response = http.getresponse()
            told = json.loads(response.read())["error"]
            fine = 400 <= response.status < 500 and told["reason"] and told["message"]
            statuses[str(response.status)] += 1
        except (HTTPException, OSError, ValueError, KeyError, TypeError) as error:
            fine = False
            statuses[type(error).__name__] += 1
            http.close()
        wrong[kind] += not fine
    http.close()
    return {
        "requests": count, "statuses": dict(statuses), "not refused": {k: n for k, n in wrong.items() if n},
        "MiB before": before, "MiB after": resident(pid),
    }  # fmt: skip
