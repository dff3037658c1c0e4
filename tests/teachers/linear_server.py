"""A server in a process of its own: the linear network of `endpoints` at a port, its books in a folder."""

import sys
from pathlib import Path

from kdjax.teachers.serving import accounts, answering, app, host, ledger
from kdjax.teachers.serving.policy import policy
from tests.teachers.endpoints import CLASSES, MOST, SHAPE, network


def main(folder: Path, port: int) -> int:
    books = ledger.Ledger(folder / "server.sqlite")
    clients = accounts.clients("alice(budget=100000)", folder / "keys.json")
    offer = answering.Offer("one", "soft", CLASSES, SHAPE, 0.5, MOST)
    answerer = answering.Answerer(network, offer, policy("soft"), accounts.Accounts(clients, books), books)
    stop = host.serve(app.application(answerer), host.bind("127.0.0.1", port))
    books.close()
    return 128 + stop.number


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
