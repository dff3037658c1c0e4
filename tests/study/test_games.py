"""A game within a study: every question is paid and counted, a killed run ends alike, and the student learns."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import extract
from kdjax.data.load import load
from kdjax.models.create import create
from kdjax.recipes.data_free import dfme
from kdjax.study.data import open_study
from kdjax.study.games import REMEMBERED, Match, remembered
from kdjax.teachers.service import Service
from kdjax.training.state import variables
from tests.teachers.endpoints import URL, served
from tests.training.conftest import same

TRAIN = load("digits", "train")
MEANS = np.stack([TRAIN.arrays["inputs"][TRAIN.labels() == k].reshape(-1, 64).mean(0) for k in range(10)])
BUDGETS, NAMES = (200, 3000, 11000), ["first", "middle", "last"]


def victim(images):
    """The nearest class mean of the digits: linear, and the same for an image in any batch."""
    squares = ((images.reshape(-1, 1, 64) - MEANS) ** 2).sum(-1)
    return (-squares).astype(np.float32)


@pytest.fixture(scope="module")
def match(tmp_path_factory):
    folder = tmp_path_factory.mktemp("games")
    config = extract.Config(
        workdir=str(folder), train_split="train[:100]", validation_split="", test_split="test[:200]",
        batch_size=32, learning_rate=1e-2, checkpoint_every=5,
    )  # fmt: skip
    study = open_study(config, folder)
    student = create("mlp", hidden=(32,), like=study.test)
    return Match(study, dfme(student, student_steps=3, noise=16, width=8, rate=1e-3), BUDGETS), student, study


def play(match, folder, ask, budgets=3):
    ends = [None]
    for number in range(budgets):
        ends.append(match.play(folder, NAMES, number, ask, seed=1, before=ends[-1]))
    return ends[1:]


@pytest.fixture(scope="module")
def whole(match, tmp_path_factory):
    """A run that nobody killed: its folder, the ends of its budgets, and what it asked, round by round."""
    folder, asked = tmp_path_factory.mktemp("whole"), []

    def ask(images):
        asked.append(np.array(images))
        return victim(images)

    return folder, play(match[0], folder, ask), asked


def agreement(student, state, images):
    said = student.apply(variables(state), jnp.asarray(images), train=False, key=None)[0].logits
    return float((np.asarray(said).argmax(-1) == victim(images).argmax(-1)).mean())


def test_a_student_comes_to_agree_and_budgets_are_asked_to_the_last_image(match, whole):
    match, student, study = match
    folder, ends, asked = whole
    assert len(asked) == sum(match.rounds)
    for number, budget in enumerate(BUDGETS):
        assert sum(map(len, asked[: sum(match.rounds[: number + 1])])) == budget
    assert min(one.min() for one in asked) >= 0
    assert max(one.max() for one in asked) <= 1
    assert np.abs(asked[0][:3] - asked[match.rounds[0]][:3]).mean() > 0.1  # each budget draws noise of its own
    kept = np.load(remembered(folder, NAMES[-1], 1))
    np.testing.assert_array_equal(kept, np.concatenate(asked)[:REMEMBERED])
    digits = np.float32(study.test.arrays["inputs"])
    assert agreement(student, ends[0], digits) < 0.4
    assert agreement(student, ends[-1], digits) > 0.75


def test_a_run_that_is_killed_ends_alike_and_a_service_is_paid_for_each_image_once(match, whole, tmp_path):
    match, left = match[0], [9]
    clients = f"alice(budget={BUDGETS[1]})"
    how = {"said": "logits", "clients": clients, "ask": victim, "shape": (8, 8, 1), "classes": 10, "most": 512}
    with (
        served(tmp_path / "server", **how) as service,
        Service(URL, tmp_path / "paid.sqlite", key=service.keys["alice"], batch=512, http=service.http) as client,
    ):

        def ask(images):
            said = client.logits(images)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt  # paid, and not learned from
            return said

        with pytest.raises(KeyboardInterrupt):
            play(match, tmp_path, ask, 2)
        found = play(match, tmp_path, ask, 2)[1]
        assert client.paid.totals()[1] == service.charged == BUDGETS[1]
        count = left[0]
        again = play(match, tmp_path, ask, 2)[1]  # finished: nobody is asked
        assert left[0] == count
    assert same(found.params, whole[1][1].params)
    assert same(again.params, found.params)
    np.testing.assert_array_equal(
        np.load(remembered(tmp_path, NAMES[-1], 1))[: BUDGETS[1]], np.concatenate(whole[2])[: BUDGETS[1]]
    )
