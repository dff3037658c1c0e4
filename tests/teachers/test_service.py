"""The client's side: what is paid is kept, nothing is paid twice, and both sides' books say the same."""

import json
import signal
import threading
import time

import httpx
import numpy as np
import pytest

from kdjax.attacks import boundary, named, victims
from kdjax.attacks.run import run
from kdjax.teachers.paid import Paid
from kdjax.teachers.service import Service
from kdjax.teachers.serving import wire
from kdjax.types import BadInput
from tests.teachers.endpoints import CLASSES, SHAPE, URL, network, pool, served


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The seconds that clients would have waited."""
    found = []
    monkeypatch.setattr("kdjax.teachers.service._sleep", lambda given_up, seconds: found.append(seconds))
    return found


def client(service, folder, who="alice", **how):
    return Service(URL, folder / "client.sqlite", key=service.keys[who], http=service.http, **{"batch": 8, **how})


def log_softmax(images):
    said = network(images).astype(np.float64)
    return said - np.log(np.exp(said).sum(-1, keepdims=True))


def test_an_attack_that_asks_about_one_image_again_and_again_looks_it_up_once(tmp_path):
    """Finite differences of a black pixel, cut to the box, are the image itself: hundreds in one step of ZOO."""

    def looks(one, images):
        found = []
        one.paid._db.set_trace_callback(found.append)
        one.ask(images)
        one.paid._db.set_trace_callback(None)
        return sum(text.startswith("SELECT") for text in found)

    with served(tmp_path) as service, client(service, tmp_path) as one:
        one.ask(pool(1, seed=2))  # the first writes down what answers look like
        assert looks(one, np.repeat(pool(1), 20, 0)) == looks(one, pool(20, seed=1))


def test_a_pool_is_paid_once_however_it_is_asked_and_grows(tmp_path):
    with served(tmp_path) as service:
        with client(service, tmp_path) as one:
            said = one.logits(pool(20))
            np.testing.assert_allclose(said, log_softmax(pool(20)), atol=1e-5)
            assert one.paid.totals() == (3, 20, 10.0)  # 8 + 8 + 4
            np.testing.assert_array_equal(one.logits(pool(20)[::-1]), said[::-1])
            twice = np.concatenate([pool(30), pool(30)])
            assert one.logits(twice).shape == (60, CLASSES)
            assert (one.paid.totals()[1], service.charged) == (30, 30)
            assert one.logits(pool(0)).shape == (0, CLASSES)
        with client(service, tmp_path, batch=3) as another:
            np.testing.assert_array_equal(another.logits(pool(20)), said)
            assert (another.paid.totals()[1:], service.charged) == ((30, 15.0), 30)


def test_an_attacks_every_question_counts_and_a_repeated_run_pays_nothing(tmp_path):
    with served(tmp_path) as service:
        for _ in range(2):
            with client(service, tmp_path) as one:
                first, second = one.ask(pool(10)), one.ask(pool(10)[:4])
                np.testing.assert_array_equal(first[:4], second)
                assert (one.paid.totals()[1], service.charged) == (14, 14)
        with client(service, tmp_path) as one:
            one.logits(pool(12))  # two of them are new
            assert (one.paid.totals()[1], service.charged) == (16, 16)


def test_attacks_count_what_the_service_counts(tmp_path):
    images, labels = pool(6), network(pool(6)).argmax(-1)
    attacks = {
        "zoo": named.zoo(steps=2, coordinates=4, search_steps=1),
        "nes": named.nes(0.1, steps=2, samples=4),
        "square": named.square(0.1, queries=8),
        "hop_skip_jump": boundary.hop_skip_jump(iterations=1, probes=4, tries=5),
    }
    with served(tmp_path, clients="alice(budget=100000)", said="top_k(3)") as service:
        for name, attack in attacks.items():
            before = service.charged
            with client(service, tmp_path / name) as one:
                found = run(attack, victims.black_box(one.ask, num_classes=CLASSES), images, labels, chunk=4)
                asked = service.charged - before
                assert asked == one.paid.totals()[1] == found.queries.sum() > 6, name


def lost(times, kind=httpx.ReadError):
    """A network that loses so many answers after the service gave them."""
    left = [times]

    def meddle(request, response):
        if request.method == "POST" and left[0] > 0:
            left[0] -= 1
            raise kind("lost", request=request) if issubclass(kind, httpx.HTTPError) else kind
        return response

    return meddle


def test_a_lost_answer_is_asked_again_and_paid_once(tmp_path, waits):
    with served(tmp_path) as service, client(service, tmp_path) as one:
        service.transport.meddle = lost(3)
        np.testing.assert_allclose(one.logits(pool(8)), log_softmax(pool(8)), atol=1e-5)
        assert (one.paid.totals()[1], service.charged, len(waits)) == (8, 8, 3)
        assert service.answerer.counts["replayed"] == 3


@pytest.mark.parametrize("stage", ["before", "after"])
def test_a_client_that_dies_leaves_what_the_next_one_settles(tmp_path, stage):
    """Before the service has the request, or after it has answered: either way both books end alike."""

    class Killed(BaseException):
        pass

    with served(tmp_path) as service:
        one = client(service, tmp_path, concurrency=1)
        one.logits(pool(8))
        if stage == "before":
            real, one._post = one._post, None
            assert callable(real)
            with pytest.raises(TypeError):
                one.logits(pool(24))
        else:
            service.transport.meddle = lost(1, Killed)
            with pytest.raises(Killed):
                one.logits(pool(24))
            service.transport.meddle = lambda request, response: response
        assert one.paid.totals()[1] == 8
        assert service.charged == {"before": 8, "after": 16}[stage]
        one.close()
        # The next one begins with what was open, also if it wants something else and in other batches.
        with client(service, tmp_path, batch=5) as two:
            assert (two.paid.totals()[1], service.charged) == (16, 16)
            assert two.paid.waiting() == []
            np.testing.assert_allclose(two.logits(pool(24)), log_softmax(pool(24)), atol=1e-5)
            assert (two.paid.totals()[1], service.charged) == (24, 24)


def test_a_clients_budget_is_not_exceeded_by_one_image(tmp_path):
    with served(tmp_path) as service, client(service, tmp_path, budget=20, concurrency=1) as one:
        with pytest.raises(BadInput, match="budget=20: 16 images are paid, and 8 more are needed"):
            one.logits(pool(30))
        one.ask(pool(4, seed=1))
        with pytest.raises(BadInput, match="20 images are paid, and 1 more"):
            one.ask(pool(1, seed=2))
        assert (one.paid.totals()[1], service.charged) == (20, 20)
        one.logits(pool(16))  # known


def test_several_at_once_stay_in_the_budget_and_keep_what_they_paid(tmp_path):
    with served(tmp_path) as service, client(service, tmp_path, budget=70, concurrency=4) as one:
        with pytest.raises(BadInput, match="budget=70: 64 images are paid, and 8 more"):
            one.logits(pool(96))
        assert (one.paid.totals()[1], service.charged, one.paid.waiting()) == (64, 64, [])


def test_requests_are_on_their_way_together(tmp_path):
    barrier = threading.Barrier(3, timeout=10)

    def together(images):
        barrier.wait()
        return network(images)

    with served(tmp_path, ask=together) as service, client(service, tmp_path, concurrency=3) as one:
        one.logits(pool(48))
        assert service.charged == 48


def test_the_servers_budget_and_wrong_keys_are_said_and_cost_nothing(tmp_path):
    with served(tmp_path) as service:
        with client(service, tmp_path, who="bob", concurrency=1) as one:
            with pytest.raises(BadInput, match=r"refuses \(402\): 8 images asked; 2 of 10 are left"):
                one.logits(pool(24))
            assert (one.paid.totals()[1], service.charged, one.paid.waiting()) == (8, 8, [])
        with pytest.raises(BadInput, match=r"refuses \(401\): no client has this key"):
            Service(URL, tmp_path / "other.sqlite", key="wrong", http=service.http)


def test_a_service_that_is_busy_is_waited_for_as_long_as_it_says(tmp_path, waits):
    now = [0.0]
    with served(tmp_path, clients="alice(budget=100, rate=4)", clock=lambda: now[0]) as service:
        with client(service, tmp_path, concurrency=1) as one:
            one.logits(pool(8))  # 4 on credit, 4 in debt
            service.transport.meddle = lambda request, response: now.__setitem__(0, now[0] + 1.5) or response
            one.logits(pool(10))
        assert service.answerer.counts["rate"] == 1
        assert len(waits) == 1
        assert waits[0] >= 1.0


@pytest.mark.parametrize("key", ["ключ", "secret\r", "se cret", ""])
def test_a_key_that_fits_in_no_header_is_refused_unsent_and_unsaid(tmp_path, key):
    with served(tmp_path) as service:
        with pytest.raises(BadInput, match="accepted: visible ASCII") as refused:
            Service(URL, tmp_path / "client.sqlite", key=key, http=service.http)
        assert "cret" not in str(refused.value)
        assert not service.answerer.counts


@pytest.mark.parametrize("url", ["http://127.0.0.1:door", "http://"])
def test_an_address_that_is_none_is_said_at_once(tmp_path, waits, url):
    with pytest.raises(BadInput, match=r"accepted: http://HOST:PORT"):
        Service(url, tmp_path / "client.sqlite", key="k")
    assert not waits


@pytest.mark.parametrize("how", ["hangs", "fails", "is gone"])
def test_a_service_that_does_not_answer_ends_in_one_error(tmp_path, waits, how):
    kinds = {"hangs": httpx.ReadTimeout, "is gone": httpx.ConnectError}

    def meddle(request, response):
        if how == "fails":
            return httpx.Response(503, json={"error": {"message": "later"}})
        raise kinds[how]("no", request=request)

    with served(tmp_path) as service, client(service, tmp_path, attempts=3, concurrency=1) as one:
        one.logits(pool(8))
        good, service.transport.meddle = service.transport.meddle, meddle
        with pytest.raises(BadInput, match=r"http://service: no answer after 3 attempts .*What is paid is kept"):
            one.logits(pool(16))
        assert len(waits) == 2
        service.transport.meddle = good
        one.logits(pool(16))
        assert (one.paid.totals()[1], service.charged) == (16, 16)


def test_ctrl_c_does_not_wait_for_attempts_to_come(tmp_path, waits):
    def hang(request, response):
        time.sleep(0.02)
        if not waits:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        raise httpx.ReadTimeout("no", request=request)

    with served(tmp_path) as service, client(service, tmp_path, attempts=200, concurrency=2) as one:
        service.transport.meddle = hang
        with pytest.raises(KeyboardInterrupt):
            one.logits(pool(32))
        assert len(waits) < 20
        service.transport.meddle = lambda request, response: response
        one.logits(pool(32))  # what was on its way then is settled first, by its id
        assert (one.paid.totals()[1], service.charged) == (32, 32)


def test_another_model_ends_the_client_and_nothing_is_mixed_or_charged(tmp_path):
    with served(tmp_path) as service, client(service, tmp_path) as one:
        one.logits(pool(8))
        service.answerer.offer = service.answerer.offer._replace(model="two")
        with pytest.raises(BadInput, match=r"refuses \(412\): the model is two, not one"):
            one.logits(pool(16))
        assert (one.paid.totals()[1], service.charged) == (8, 8)
    with served(tmp_path, model="two") as service, pytest.raises(BadInput, match='model "one" there, "two" now'):
        client(service, tmp_path)
    with served(tmp_path, said="hard") as service, pytest.raises(BadInput, match='policy "soft" there, "hard" now'):
        client(service, tmp_path)


def changed(change, **facts):
    """A service that answers something else than it should."""

    def meddle(request, response):
        if request.method != "POST":
            return response
        columns, said = wire.unpack_answer(response.content)
        return httpx.Response(200, content=wire.pack_answer(change(columns), {**said, **facts}))

    return meddle


@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (changed(lambda c: {n: x[1:] for n, x in c.items()}), r"answers probabilities float32 \(7, 5\)"),
        (changed(lambda c: {n: x * np.float32("nan") for n, x in c.items()}), "do not sum to 1"),
        (changed(lambda c: {n: x / 2 for n, x in c.items()}), "do not sum to 1"),
        (changed(lambda c: c, model="two"), "the model is two, and was one"),
        (changed(lambda c: c, price="nan"), "price='nan'; accepted: a number from 0"),
        (changed(lambda c: c, price="-1"), "price='-1'; accepted: a number from 0"),
        (lambda request, response: httpx.Response(200, content=b"hello"), "no safetensors file"),
    ],
)
def test_answers_that_cannot_be_are_refused_paid_and_never_asked_again(tmp_path, meddle, message):
    with served(tmp_path) as service:
        with client(service, tmp_path) as one:
            service.transport.meddle = meddle
            with pytest.raises(BadInput, match=message):
                one.logits(pool(8))
            service.transport.meddle = lambda request, response: response
        with client(service, tmp_path) as one:
            with pytest.raises(BadInput, match=message):
                one.logits(pool(8))
            assert (one.paid.totals()[1], service.charged, service.answerer.counts["replayed"]) == (8, 8, 0)


def test_one_client_holds_a_ledger(tmp_path):
    with served(tmp_path) as service, client(service, tmp_path) as one:
        one.logits(pool(3))
        with pytest.raises(BadInput, match=r"client\.sqlite: database is locked; accepted: a file .* no other client"):
            client(service, tmp_path)


def test_what_does_not_fit_is_refused(tmp_path):
    with served(tmp_path) as service:
        for wrong in ({"batch": 0}, {"concurrency": 0}, {"budget": -1}, {"timeout": 0.0}, {"attempts": 0}):
            with pytest.raises(BadInput, match="accepted: numbers from 1"):
                client(service, tmp_path, **wrong)
        offer = {**service.answerer.offer._asdict(), "num_classes": 3}
        odd = [("most", 0), ("most", -1), ("num_classes", 1e999), ("image_shape", [4.5, 4, 1])]
        odd += [("price", "free"), ("price", -1.0), ("price", 1e999)]
        for told in ({"model": "one"}, *({**offer, name: value} for name, value in odd)):
            service.transport.meddle = lambda *_, told=told: httpx.Response(200, content=json.dumps(told))
            with pytest.raises(BadInput, match=r"answers what is no offer|answers price="):
                client(service, tmp_path)
        service.transport.meddle = lambda request, response: response
        with client(service, tmp_path) as one, pytest.raises(BadInput, match=r"accepted by the service: \(4, 4, 1\)"):
            one.logits(np.zeros((2, 4, 1, 1), np.float32))


def test_images_in_255ths_travel_as_bytes():
    levels = np.arange(32, dtype=np.uint8).reshape(2, *SHAPE)
    small, whole = wire.pack(levels * np.float32(1 / 255)), wire.pack(pool(2))
    assert (len(small) - 128, len(whole) - 128) == (32, 128)
    np.testing.assert_array_equal(wire.unpack(small, wire.NPY, SHAPE, 2), levels * np.float32(1 / 255))
    np.testing.assert_array_equal(wire.unpack(whole, wire.NPY, SHAPE, 2), pool(2))


def test_a_ledger_says_what_was_asked_and_when(tmp_path):
    with served(tmp_path) as service, client(service, tmp_path) as one:
        before = time.time()
        one.logits(pool(8))
        with one.paid._whole() as db:
            rows = db.execute("SELECT images, sent, answered, price, body FROM requests").fetchall()
        ((images, sent, answered, price, body),) = rows
        assert (images, price, body) == (8, 4.0, None)
        assert before <= sent <= answered <= time.time()
    books = Paid(tmp_path / "client.sqlite")
    assert json.loads(json.dumps(books.fact("policy"))) == "soft"
    books.close()
