"""A service that watches: what it flags is counted by client, once, kept, and too much of it refused."""

import io
import re
import sqlite3

import numpy as np
import pytest

from kdjax.teachers.service import Service
from kdjax.teachers.serving import ledger
from kdjax.teachers.serving.watch import RULES, Monitor, rule
from kdjax.types import BadInput
from tests.teachers.endpoints import MOST, SHAPE, URL, pool, served

CLIENTS = "alice(budget=1000), bob(budget=1000)"


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def searched(count, seed=0):
    """Images around one, as a search asks them."""
    steps = 1e-3 * np.random.default_rng(seed).normal(size=(count, *SHAPE))
    return np.clip(pool(1, seed=5) + steps, 0, 1).astype(np.float32)


def flags(service):
    """By client, as the metrics say."""
    found = re.findall(r'kdjax_flagged_images{client="(\w+)",policy="soft"} (\d+)', service.http.get("/metrics").text)
    assert {who: int(n) for who, n in found} == service.answerer.ledger.flagged()
    return {who: int(n) for who, n in found}


def test_what_is_near_is_counted_by_client_once_and_outlives_the_process(tmp_path):
    with served(tmp_path, clients=CLIENTS, detect="nearby(neighbours=3)") as service:
        for number in range(3):
            honest = pool(MOST, seed=number)
            assert service.post(npy(honest), number=f"{number}").status_code == 200
        assert flags(service) == {"alice": 0}
        # Nothing is flagged before as many as are averaged were asked; who asks first is none of bob's business.
        service.post(npy(searched(MOST)), who="bob", number="1")
        assert flags(service) == {"alice": 0, "bob": MOST - 3}
        again = service.post(npy(searched(MOST)), who="bob", number="1")
        assert again.headers["idempotency-replayed"] == "true"
        assert service.post(npy(2 + searched(1)), who="bob", number="2").status_code == 422
        assert flags(service) == {"alice": 0, "bob": MOST - 3}
        service.post(npy(searched(1, seed=1)), who="bob", number="3")
        assert flags(service)["bob"] == MOST - 2
        assert [(t.who, t.images, t.flagged) for t in service.answerer.ledger.totals()] == [
            ("alice", 3 * MOST, 0), ("bob", MOST + 1, MOST - 2),
        ]  # fmt: skip
    with served(tmp_path, clients=CLIENTS, detect="nearby(neighbours=3)") as service:
        assert flags(service)["bob"] == MOST - 2
        service.post(npy(searched(4, seed=2)), who="bob", number="4")  # the memory begins anew, the counts do not
        assert flags(service)["bob"] == MOST - 1


def test_a_client_with_too_many_flags_is_refused_keeps_what_it_paid_and_harms_nobody(tmp_path):
    how = {"clients": CLIENTS, "detect": "nearby(neighbours=3, most=10)"}
    with served(tmp_path / "server", **how) as service:
        with Service(URL, tmp_path / "paid.sqlite", key=service.keys["bob"], http=service.http) as client:
            client.ask(searched(12))  # 9 flags: one fewer than is too much
            client.ask(searched(1, seed=1))  # and is answered
            charged = service.charged
            assert charged == 12 + 1
            with pytest.raises(BadInput, match=r"refuses \(403\): 10 images asked were near earlier ones; .* than 10"):
                client.ask(pool(1))
            assert client.paid.waiting() == []
            assert client.paid.totals()[1] == service.charged == charged
        assert service.answerer.ledger.flagged() == {"bob": 10}
        assert service.post(npy(pool(2)), who="alice").status_code == 200
    with served(tmp_path / "server", **how) as service:
        refused = service.post(npy(pool(1)), who="bob", number="new")
        assert (refused.status_code, refused.json()["error"]["reason"]) == (403, "near_duplicates")
        assert service.charged == charged + 2
        with Service(URL, tmp_path / "paid.sqlite", key=service.keys["bob"], http=service.http) as client:
            client.ask(searched(12))  # from its own books
        assert service.post(npy(pool(2)), who="alice").headers["idempotency-replayed"] == "true"


def test_honest_images_are_flagged_as_seldom_as_the_rule_says(tmp_path):
    books = ledger.Ledger(tmp_path / "books")
    watch = Monitor(rule("nearby(share=0.05)"), pool(1000, seed=1), books)
    assert 0.02 < watch.look("ann", pool(1000, seed=2)) / 1000 < 0.09
    assert watch.fresh().asked == 0
    books.close()


def test_books_of_before_there_were_flags_go_on(tmp_path):
    with sqlite3.connect(tmp_path / "books") as old:
        old.executescript(ledger.SCHEMA.replace("flagged INTEGER NOT NULL DEFAULT 0, ", ""))
        old.execute("INSERT INTO answers VALUES ('ann', '1', 0.0, 5, 'soft', 'one', 2.5, 80, 6, x'00', x'01')")
    old.close()
    books = ledger.Ledger(tmp_path / "books")
    assert books.flagged() == {"ann": 0}
    books.add(ledger.Entry("ann", "2", 5, "soft", "one", 2.5, 80, b"d", b"answer", 3))
    assert books.flagged() == {"ann": 3}
    books.close()


@pytest.mark.parametrize("wrong", ["nearbi", "nearby(share=1.0)", "nearby(most=-1)", "nearby(neighbours=20, last=10)"])
def test_rules_that_cannot_be_are_refused_where_they_stand(wrong):
    with pytest.raises(BadInput, match="detect, column 1"):
        rule(wrong)
    assert RULES.names() == ["nearby"]
