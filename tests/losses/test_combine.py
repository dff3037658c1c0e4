"""Names that can be typed, and what is said about those that cannot."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import combine, response
from kdjax.types import BadInput

STUDENT, TEACHER = jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[0.0, 3.0, 1.0]])


def test_the_names():
    """Spelled out: whoever types a name relies on it. `cross_entropy` and `standardize` have no teacher."""
    losses = [
        "centred_logit_mse",
        "dist",
        "dkd",
        "hard_label",
        "jensen_shannon",
        "kl",
        "logit_mse",
        "reverse_kl",
        "soft_cross_entropy",
        "standardized_kl",
    ]
    assert combine.names("response") == [f"response.{loss}" for loss in losses]


def test_a_family_that_is_not_there_is_refused():
    with pytest.raises(BadInput, match=r"family='respons': expected one of .*did you mean response\?"):
        combine.names("respons")


def test_a_name_gives_the_function_of_that_name():
    for name in combine.names("response"):
        assert combine.resolve(name).func is getattr(response, name.removeprefix("response."))


def test_hyper_parameters_are_bound_and_the_rest_stays_free():
    labels = jnp.array([1])
    bound = combine.resolve("response.dkd", alpha=0.5, beta=2.0)
    expected = response.dkd(STUDENT, TEACHER, labels=labels, temperature=2.0, alpha=0.5, beta=2.0)
    np.testing.assert_array_equal(bound(STUDENT, TEACHER, labels=labels, temperature=2.0), expected)
    assert not np.allclose(expected, response.dkd(STUDENT, TEACHER, labels=labels, temperature=2.0))


def test_an_unknown_name_lists_the_names_and_guesses():
    with pytest.raises(BadInput, match=r"'response\.kld'.*response\.dist.*did you mean response\.kl\?"):
        combine.resolve("response.kld")


@pytest.mark.parametrize("name", ["response.standardize", "response.cross_entropy", "response.clean", "regression.mse"])
def test_what_is_no_distillation_loss_of_a_family_has_no_name(name):
    with pytest.raises(BadInput, match="expected one of"):
        combine.resolve(name)


def test_an_unknown_keyword_lists_the_keywords_and_guesses():
    with pytest.raises(
        BadInput, match=r"gama=2\.0: not a keyword of response\.dist; .*beta, gamma; did you mean gamma\?"
    ):
        combine.resolve("response.dist", gama=2.0)
    with pytest.raises(BadInput, match=r"alpha=1: not a keyword of response\.kl; it has no keywords of its own"):
        combine.resolve("response.kl", alpha=1)


def test_a_loss_with_a_memory_has_its_own_temperature():
    assert combine.resolve("contrastive.queue", temperature=0.2).keywords == {"temperature": 0.2}
    with pytest.raises(BadInput, match=r"slots=1: not a keyword of contrastive.crd; .*dims, negatives, temperature"):
        combine.resolve("contrastive.crd", slots=1)


@pytest.mark.parametrize("keyword", ["labels", "temperature", "where"])
def test_what_each_call_gives_cannot_be_bound(keyword):
    with pytest.raises(BadInput, match=f"{keyword}=1: response.kl takes it at each call"):
        combine.resolve("response.kl", **{keyword: 1})
