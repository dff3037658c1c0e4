"""Real processes: a client and a server are killed at random moments, and both books end at every image once."""

import json
import socket
import sys

import numpy as np

from experiments.benchmarks.service_kills import Server, survive
from kdjax.teachers.serving import accounts, host
from tests.teachers.endpoints import network, pool


def test_through_kills_of_client_server_and_both_every_image_is_paid_once(tmp_path):
    images = pool(6000)
    np.save(tmp_path / "pool.npy", images)
    accounts.clients("alice(budget=6000)", tmp_path / "keys.json")  # not one image more than there are
    with host.bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
        # Or an answer of two packets takes 40 ms.
        assert free.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.teachers.linear_server", str(tmp_path), str(port)]
    server = Server(command, url, tmp_path / "server.log")
    server.start()
    spec = {
        "url": url, "key": json.loads((tmp_path / "keys.json").read_text())["alice"],
        "ledger": str(tmp_path / "client.sqlite"), "pool": str(tmp_path / "pool.npy"), "out": str(tmp_path / "out.npy"),
        "batch": 16, "concurrency": 3, "attempts": 30,
    }  # fmt: skip
    books = survive(server, tmp_path / "server.sqlite", spec, 3, np.random.default_rng(0))
    assert server.stop() == 143
    assert books == (6000, 6000, 375, 375, ("client", "server", "both"))
    said = network(images).astype(np.float64)
    wanted = said - np.log(np.exp(said).sum(-1, keepdims=True))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=1e-5)
