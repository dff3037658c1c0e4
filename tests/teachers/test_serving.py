"""The server's side: right answers, exact books, repeats that are free, and reasons for whatever is refused."""

import io
import json
import socket
import sqlite3
import threading
import time

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load

from kdjax import models
from kdjax.teachers.serving import accounts, answering, app, host, ledger, wire
from kdjax.types import BadInput
from tests.teachers.endpoints import MOST, SHAPE, network, pool, served


def npy(array, **how):
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def header(text):
    """An npy file that announces what it does not have."""
    raw = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw


@pytest.fixture
def service(tmp_path):
    with served(tmp_path) as found:
        yield found


def softmax(x):
    e = np.exp(x.astype(np.float64))
    return e / e.sum(-1, keepdims=True)


def test_an_answer_in_every_form_and_what_the_books_say(service):
    images = pool(3)
    first = service.post(npy(images), number="npy")
    told = first.json()
    assert first.status_code == 200
    assert first.headers["model-checksum"] == told["model"] == "one"
    assert (told["request"], told["policy"], told["images"], told["price"]) == ("npy", "soft", "3", "1.5")
    np.testing.assert_allclose(told["answers"]["probabilities"], softmax(network(images)), rtol=1e-5)
    body = json.dumps({"images": images.tolist()}).encode()
    second = service.post(body, number="json", content_type="application/json; charset=utf-8")
    assert second.json()["answers"] == told["answers"]
    third = service.post(npy(images), number="tensors", who="bob", accept=wire.TENSORS)
    np.testing.assert_array_equal(load(third.content)["probabilities"], np.float32(told["answers"]["probabilities"]))
    levels = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)
    fourth = service.post(npy(levels), number="bytes").json()["answers"]["probabilities"]
    np.testing.assert_allclose(fourth, softmax(network(levels / 255)), rtol=1e-5)
    alice, bob = service.answerer.ledger.totals()
    assert alice[:5] == ("alice", "soft", 3, 8, 4.0)
    assert alice.received == 2 * len(npy(images)) - len(npy(images)) + len(body) + len(npy(levels))
    assert bob[:5] == ("bob", "soft", 1, 3, 1.5)
    assert (bob.received, bob.sent) == (len(npy(images)), len(third.content))
    left = service.http.get("/v1/account", headers={"Authorization": f"Bearer {service.keys['alice']}"}).json()
    assert left == {"name": "alice", "budget": 100, "spent": 8, "left": 92, "rate": 0.0, "price": 4.0}
    metrics = service.http.get("/metrics").text
    assert 'kdjax_requests_total{ended="answered"} 4' in metrics
    assert 'kdjax_paid_images{client="alice",policy="soft"} 8' in metrics
    assert service.http.get("/health").json() == {"status": "ok", "model": "one"}


def test_a_repeat_is_the_same_and_free_and_a_client_has_ids_of_its_own(tmp_path):
    images = pool(MOST)
    with served(tmp_path) as service:
        first = service.post(npy(images))
    with served(tmp_path, model="another") as service:  # started again, with another network
        again = service.post(npy(images))
        assert again.content == first.content
        assert again.headers["model-checksum"] == first.headers["model-checksum"] == "one"
        assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
        assert service.charged == MOST
        other = service.post(npy(pool(2, seed=1)))
        assert (other.status_code, other.json()["error"]["reason"]) == (409, "other_request")
        assert service.post(npy(pool(2)), who="bob").json()["model"] == "another"
        assert service.charged == MOST + 2
        refused = service.post(npy(images), number="2", if_match='"one"')
        assert (refused.status_code, refused.json()["error"]["reason"]) == (412, "other_model")
        assert service.charged == MOST + 2


def test_the_price_of_all_is_the_sum_of_what_each_answer_cost_to_the_last_digit(tmp_path):
    def told(service):
        head = {"Authorization": f"Bearer {service.keys['alice']}"}
        return service.http.get("/v1/account", headers=head).json()["price"]

    with served(tmp_path) as service:
        service.post(npy(pool(2)))
        service.answerer.offer = service.answerer.offer._replace(price=1234567.25)  # started again, at another price
        service.post(npy(pool(1)), number="2")
        assert told(service) == 1.0 + 1234567.25
        assert 'kdjax_paid_price{client="alice",policy="soft"} 1234568.25' in service.http.get("/metrics").text


def test_a_repeat_that_comes_before_the_answer_waits_for_it(tmp_path):
    entered, go = threading.Event(), threading.Event()
    asked = []

    def slow(images):
        asked.append(len(images))
        entered.set()
        assert go.wait(10)
        return network(images)

    with served(tmp_path, ask=slow) as service:
        found = []
        post = lambda: found.append(service.post(npy(pool(4))).content)  # noqa: E731
        threads = [threading.Thread(target=post) for _ in range(3)]
        threads[0].start()
        assert entered.wait(10)
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.3)  # they have come by now, or come later and find the answer
        go.set()
        for thread in threads:
            thread.join()
        assert asked == [4]
        assert len(set(found)) == 1
        assert service.charged == 4


def test_a_budget_is_not_exceeded_by_one_image_by_many_at_once(tmp_path):
    barrier = threading.Barrier(4, timeout=10)

    def together(images):
        barrier.wait()
        return network(images)

    with served(tmp_path, ask=together) as service:  # bob has 10 images
        statuses = []

        def post(number):
            statuses.append(service.post(npy(pool(2)), who="bob", number=str(number)).status_code)

        threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (statuses, service.charged) == ([200] * 4, 8)
        spent = service.post(npy(pool(3)), who="bob", number="three")
        assert (spent.status_code, spent.json()["error"]["reason"]) == (402, "spent_budget")
        assert "3 images asked; 2 of 10 are left" in spent.json()["error"]["message"]
        assert service.charged == 8
    with served(tmp_path) as service:  # the books are read again
        assert service.post(npy(pool(3)), who="bob", number="three").status_code == 402
        assert service.post(npy(pool(2)), who="bob", number="two").status_code == 200
        assert service.post(npy(pool(1)), who="bob", number="one").status_code == 402
        assert service.charged == 10


def test_what_is_held_counts_and_what_fails_is_let_go(tmp_path):
    books = ledger.Ledger(tmp_path / "books")
    account = accounts.Account("ann", 10)
    answerer = accounts.Accounts({"key": account}, books)
    with (
        answerer.hold(account, 6),
        pytest.raises(wire.Refused, match="5 images asked; 4 of 10"),
        answerer.hold(account, 5),
    ):
        pass
    with pytest.raises(ZeroDivisionError), answerer.hold(account, 4):
        _ = 1 / 0
    assert (account.spent, account.held) == (6, 0)
    books.close()


def test_a_rate_says_how_long_to_wait(tmp_path):
    now = [100.0]
    with served(tmp_path, clients="alice(budget=100, rate=4)", clock=lambda: now[0]) as service:
        assert service.post(npy(pool(10)), number="a").status_code == 200  # 4 of them on credit, 6 in debt
        refused = service.post(npy(pool(1)), number="b")
        assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "rate")
        assert refused.headers["retry-after"] == "2"  # 6 / 4, in whole seconds
        assert service.post(npy(pool(10)), number="a").status_code == 200  # a repeat is free of the rate too
        now[0] += 1.4
        assert service.post(npy(pool(1)), number="b").status_code == 429
        now[0] += 0.2
        assert service.post(npy(pool(1)), number="b").status_code == 200
        assert service.charged == 11


class Opened:
    """What unpickling would run."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


GOOD = npy(pool(2))
FLOAT = np.zeros((1, *SHAPE), np.float32)
BAD = {
    "nothing": (b"", 400, "malformed"),
    "noise": (b"\x00" * 100, 400, "malformed"),
    "magic alone": (GOOD[:6], 400, "malformed"),
    "half a header": (GOOD[:40], 400, "malformed"),
    "truncated": (GOOD[:-1], 400, "malformed"),
    "more than it says": (GOOD + b"\x00", 400, "malformed"),
    "another version": (GOOD[:6] + b"\x09" + GOOD[7:], 400, "malformed"),
    "pickled": (npy(np.array([Opened()], object), allow_pickle=True), 422, "dtype"),
    "two gigabytes": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (33554432, 4, 4, 1)}"), 422, "shape"),
    "a truth for one": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4, 4, 1)}"), 422, "shape"),
    "a truth for a side": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 4, True)}"), 422, "shape"),
    "below nothing": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4, 4, 1)}"), 422, "shape"),
    "a program": (
        header("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': ()}"),
        400,
        "malformed",
    ),
    "deep": (header("(" * 400 + ")" * 400), 400, "malformed"),
    "float64": (npy(FLOAT.astype(np.float64)), 422, "dtype"),
    "big endian": (npy(FLOAT.astype(">f4")), 422, "dtype"),
    "text": (npy(np.full((1, *SHAPE), "a")), 422, "dtype"),
    "structured": (npy(np.zeros((1, *SHAPE), [("a", "<f4")])), 422, "dtype"),
    "Fortran": (npy(np.asfortranarray(pool(2))), 422, "order"),
    "no images": (npy(FLOAT[:0]), 422, "shape"),
    "too many": (npy(np.zeros((MOST + 1, *SHAPE), np.uint8)), 422, "shape"),
    "one image": (npy(FLOAT[0]), 422, "shape"),
    "transposed": (npy(FLOAT.reshape(1, 1, 4, 4)), 422, "shape"),
    "NaN": (npy(np.full_like(FLOAT, np.nan)), 422, "range"),
    "infinite": (npy(np.full_like(FLOAT, np.inf)), 422, "range"),
    "negative": (npy(FLOAT - 1e-6), 422, "range"),
    "above one": (npy(FLOAT + 1.01), 422, "range"),
}
BAD_JSON = {
    "no JSON": ("{", 400, "malformed"),
    "no object": ("[]", 400, "malformed"),
    "no images": ('{"image": []}', 400, "malformed"),
    "more": ('{"images": [], "a": 1}', 400, "malformed"),
    "ragged": ('{"images": [[1], [1, 2]]}', 400, "malformed"),
    "NaN": ('{"images": NaN}', 400, "malformed"),
    "deep": ('{"images": ' + "[" * 2000 + "]" * 2000 + "}", 400, "malformed"),
    "huge number": ('{"images": [[[[1' + "0" * 400 + "]]]]}", 422, "dtype"),
    "text": ('{"images": "a"}', 422, "dtype"),
    "texts": ('{"images": [[[["a"]]]]}', 422, "dtype"),
    "truths": ('{"images": [[[[true]]]]}', 422, "dtype"),
    "nothing": ('{"images": null}', 400, "malformed"),
    "empty": ('{"images": []}', 422, "shape"),
    "one pixel": ('{"images": [[[[0]]]]}', 422, "shape"),
    "above one": (json.dumps({"images": (FLOAT + 2).tolist()}), 422, "range"),
    "no UTF-8": (b"\xff\xfe{", 400, "malformed"),
}


def test_malformed_images_are_refused_with_a_reason_and_cost_nothing(service):
    found = {name: service.post(body) for name, (body, _, _) in BAD.items()}
    for name, (text, _, _) in BAD_JSON.items():
        found[f"JSON {name}"] = service.post(
            text if isinstance(text, bytes) else text.encode(), content_type="application/json"
        )
    wanted = {**BAD, **{f"JSON {name}": one for name, one in BAD_JSON.items()}}
    told = {name: (r.status_code, r.json()["error"]["reason"]) for name, r in found.items()}
    assert told == {name: one[1:] for name, one in wanted.items()}
    assert all(response.json()["error"]["message"] for response in found.values())
    assert (service.charged, service.answerer.counts["failed"]) == (0, 0)
    assert service.post(GOOD).status_code == 200  # their id is as free as before


def test_requests_without_what_they_need_are_refused_unread(service):
    def status(response):
        return response.status_code, response.json()["error"]["reason"]

    assert status(service.post(GOOD, authorization="")) == (401, "no_key")
    assert status(service.post(GOOD, authorization="Bearer wrong")) == (401, "wrong_key")
    assert status(service.post(GOOD, authorization=f"Basic {service.keys['alice']}")) == (401, "no_key")
    assert status(service.post(GOOD, number="")) == (400, "no_request_id")
    assert status(service.post(GOOD, number="a" * 201)) == (400, "no_request_id")
    assert status(service.post(GOOD, number="a b")) == (400, "no_request_id")
    assert status(service.post(GOOD, content_type="image/png")) == (415, "media_type")
    assert status(service.post(b"a" * (wire.longest(wire.NPY, SHAPE, MOST) + 1))) == (413, "too_large")
    own = {"Authorization": f"Bearer {service.keys['alice']}", "Idempotency-Key": "1", "Content-Type": wire.NPY}
    for length, wanted in (("x", 411), ("-1", 411), ("9" * 5000, 413), ("1", 400), (str(len(GOOD) + 1), 400)):
        told = service.http.post("/v1/answers", content=GOOD, headers={**own, "Content-Length": length})
        assert told.status_code == wanted, length
    assert status(service.http.post("/v1/answers", content=iter([GOOD]), headers=own)) == (411, "no_length")
    assert status(service.http.get("/v1/answers")) == (405, "no_such_page")
    assert status(service.http.get("/v2")) == (404, "no_such_page")
    assert [service.http.get(page).status_code for page in ("/v1/model", "/v1/account")] == [401, 401]
    assert (service.charged, service.answerer.counts["failed"]) == (0, 0)


def test_a_network_that_says_no_number_is_not_paid(tmp_path):
    with served(tmp_path, ask=lambda images: network(images) * np.nan) as service:
        told = service.post(GOOD)
        assert (told.status_code, told.json()["error"]["reason"], service.charged) == (422, "no_number", 0)


def test_the_description_names_every_page_and_every_refusal(service):
    told = service.http.get("/openapi.json").json()
    assert told["openapi"].startswith("3.1")
    assert told["paths"].keys() == {route.path for route in service.transport._asgi.app.routes}
    statuses = {str(status) for _, status, _ in (*BAD.values(), *BAD_JSON.values())}
    posted = told["paths"]["/v1/answers"]["post"]
    others = {"200", "401", "402", "403", "408", "409", "411", "412", "413", "415", "429"}
    assert statuses | others == set(posted["responses"])
    image = posted["requestBody"]["content"][wire.JSON]["schema"]["properties"]["images"]
    assert (image["maxItems"], image["items"]["minItems"]) == (MOST, SHAPE[0])


def test_a_request_that_is_being_answered_is_finished_when_the_service_ends(tmp_path):
    at = host.bind("127.0.0.1", 0)
    at.listen()
    place, found = at.getsockname(), []

    def slow(images):
        end = time.monotonic() + 20
        while time.monotonic() < end:  # until the service takes no more connections
            try:
                socket.create_connection(place).close()
            except OSError:
                break
            time.sleep(0.01)
        return network(images)

    with served(tmp_path, ask=slow) as service:
        sent = {"Authorization": f"Bearer {service.keys['alice']}", "Idempotency-Key": "1", "Content-Type": wire.NPY}
        url = f"http://127.0.0.1:{place[1]}/v1/answers"
        client = threading.Thread(target=lambda: found.append(httpx.post(url, content=GOOD, headers=sent, timeout=60)))
        client.start()
        assert not host.serve(app.application(service.answerer), at, seconds=0.5)
        client.join()
        assert [response.status_code for response in found] == [200]
        assert service.charged == 2


def test_an_answer_is_added_once(tmp_path):
    books = ledger.Ledger(tmp_path / "books")
    entry = ledger.Entry("ann", "1", 5, "soft", "one", 2.5, 80, b"d", b"answer")
    books.add(entry)
    with pytest.raises(sqlite3.IntegrityError):
        books.add(entry._replace(images=7))
    assert books.find("ann", "1") == (b"d", b"answer")
    assert (books.find("bob", "1"), books.spent("ann"), books.spent("bob")) == (None, 5, 0)
    books.close()
    again = ledger.Ledger(tmp_path / "books")
    assert len(again.secret) == 32
    assert again.secret == books.secret
    assert again.totals() == [("ann", "soft", 1, 5, 2.5, 80, 6, 0)]
    again.close()


def test_what_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "books").write_text("no ledger, and long enough to be looked at")
    with pytest.raises(BadInput, match="books: file is not a database; accepted: a service's ledger"):
        ledger.Ledger(tmp_path / "books")


def test_keys_are_drawn_once_kept_secret_and_do_not_stand_in_flags(tmp_path):
    file = tmp_path / "keys.json"
    first = accounts.clients("ann(budget=5), ben(budget=1, rate=2)", file)
    assert file.stat().st_mode & 0o077 == 0
    second = accounts.clients("ben(budget=7), cid(budget=0)", file)
    key = {account.name: key for key, account in (first | second).items()}
    assert second[key["ben"]].budget == 7
    assert set(json.loads(file.read_text())) == {"ann", "ben", "cid"}
    assert len({*first, *second}) == 3
    for wrong in (
        "ann",
        "ann(5)",
        "ann(budget=-1)",
        "ann(budget=1.5)",
        "ann(budget=1), ann(budget=2)",
        "a(budget=1, b=2)",
    ):
        with pytest.raises(BadInput, match=r"keys, column \d+: .*accepted: a(nn)?\(budget=IMAGES"):
            accounts.clients(wrong, file)
    for damaged in ("[", '{"ann": "a", "ben": "a"}', '{"ann": ""}', '{"ann": "ключ"}'):
        file.write_text(damaged)
        with pytest.raises(BadInput, match="is damaged"):
            accounts.clients("ann(budget=5), ben(budget=5)", file)


def test_few_programs_answer_any_number_of_images_alike():
    model = models.create("mlp", num_classes=3, image_shape=SHAPE, hidden=(4,))
    params, state = model.init(jax.random.key(0))
    net = answering.Network(model.apply, {"params": params, **state}, 12)
    images = pool(12)
    whole = net(images)
    np.testing.assert_allclose(
        whole, model.apply({"params": params, **state}, jnp.asarray(images), train=False, key=None)[0].logits, rtol=1e-6
    )
    for count in (1, 3, 5, 9):
        np.testing.assert_allclose(net(images[:count]), whole[:count], rtol=1e-6)
    assert net._step._cache_size() == 4  # 12, 1, 4 and 8: nine are filled up to twelve
