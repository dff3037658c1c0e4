"""The table of losses: names that can be typed, what each needs, and what is said about those that cannot be typed."""

import ast
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.losses import contrastive, emphasis, feature, relation, response, shares, temperatures
from kdjax.recipes.comparisons import (
    BY_LABELS,
    COMPARISONS,
    EMPHASES,
    LOSSES,
    SHARES,
    TEMPERATURES,
    comparison,
    default_of,
    loss_of,
    memory_of,
    names,
    remembers,
)
from kdjax.spec import Call, call
from kdjax.types import BadInput

STUDENT, TEACHER = jnp.array([[1.0, 2.0, 0.0]]), jnp.array([[0.0, 3.0, 1.0]])


# Whoever types a name relies on it: none of these is renamed or lost.
KEPT = {
    "response": {
        "centred_logit_mse", "dist", "dkd", "hard_label", "jensen_shannon", "kl", "logit_l1", "logit_mse", "mean_kl",
        "reverse_kl", "soft_cross_entropy", "standardized_kl",
    },
    "feature": {
        "ab", "attention", "attention_paper", "cosine", "fsp", "ft", "ft_crd", "hint", "nst", "ofd", "pkd", "review",
        "vid",
    },
    "labels": {"response.boosted_cross_entropy"},
    "emphasis": {"confidence", "doubt", "certainty", "uncertainty"},
    "shares": {"progress"},
    "temperatures": {"class_risk", "entropy_balance"},
}  # fmt: skip


def written(module, fits):
    """The public functions in a module's text that fit, by what their definition says."""
    body = ast.parse(inspect.getsource(module)).body
    return {f.name for f in body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_") and fits(f)}


def begins(*first):
    return lambda f: tuple(a.arg for a in f.args.args[: len(first)]) == first


def test_what_can_be_typed_is_what_is_written():
    """A function is found where it stands, and nothing else is. `standardize` compares nothing."""
    compared = begins("student", "teacher")
    for module in (response, feature, relation):
        family = module.__name__.rpartition(".")[2]
        assert set(names(family)) == {f"{family}.{name}" for name in written(module, compared)}
    remembered = written(contrastive, lambda f: f.name.startswith("remember_"))
    assert names("contrastive") == sorted(f"contrastive.{name.removeprefix('remember_')}" for name in remembered)
    assert names() == names("contrastive") + names("feature") + names("relation") + names("response")
    by_labels = written(response, begins("student", "labels")) - {"cross_entropy"}
    fitted = written(temperatures, lambda f: isinstance(f.returns, ast.Name) and f.returns.id == "Fitted")
    found = {
        "response": {name.removeprefix("response.") for name in names("response")},
        "feature": {name.removeprefix("feature.") for name in names("feature")},
        "labels": {f"response.{name}" for name in by_labels},
        "emphasis": written(emphasis, begins("logits", "labels")),
        "shares": written(shares, begins("memory", "losses")),
        "temperatures": fitted,
    }
    typed = {"labels": BY_LABELS, "emphasis": EMPHASES, "shares": SHARES, "temperatures": TEMPERATURES}
    assert {kind: set(family.names()) for kind, family in typed.items()} == {kind: found[kind] for kind in typed}
    assert all(kept <= found[kind] for kind, kept in KEPT.items())
    assert "standardize" not in found["response"]


def test_a_name_gives_the_function_of_that_name():
    for module in (response, feature, relation):
        family = module.__name__.rpartition(".")[2]
        for name in names(family):
            assert LOSSES.functions[name] is getattr(module, name.partition(".")[2])


def test_every_row_is_of_a_loss_that_can_be_typed():
    assert COMPARISONS.keys() <= set(names())


def test_every_loss_has_a_row_that_says_what_it_needs():
    """Answers need no connector, layers and relations one; whatever lies between examples couples them."""
    for name in names():
        row, family = comparison(name), name.partition(".")[0]
        assert (row.connector is None) == (family == "response"), name
        assert row.couples == (family in ("relation", "contrastive") or name == "response.dist"), name
        assert (row.least > 1) == (row.couples and not remembers(name)), name
        assert remembers(name) == (family == "contrastive"), name
        assert row.before_relu == (name in ("feature.ab", "feature.ofd", "feature.review")), name
    assert comparison("relation.rkd_angle").least == 3
    assert comparison("feature.fsp").layers == (2, 2)


def test_numbers_are_traced_and_words_are_bound():
    labels = jnp.array([1])
    loss, traced = loss_of(call("response.dkd(alpha=0.5, beta=2.0)"))
    assert traced == {"alpha": 0.5, "beta": 2.0}
    expected = response.dkd(STUDENT, TEACHER, labels=labels, temperature=2.0, alpha=0.5, beta=2.0)
    np.testing.assert_array_equal(loss(STUDENT, TEACHER, labels=labels, temperature=2.0, **traced), expected)
    assert not np.allclose(expected, response.dkd(STUDENT, TEACHER, labels=labels, temperature=2.0))


def test_a_default_is_the_losses_own():
    assert default_of(Call("response.kl"), "temperature", 7.0) == 4.0 or default_of(
        Call("response.kl"), "temperature", 7.0
    ) == pytest.approx(response.kl.__kwdefaults__["temperature"])
    assert default_of(Call("response.dist"), "nothing", 7.0) == 7.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "response.kld",
            r"read the name response\.kld; accepted: labels, .*response\.dist.*did you mean response\.kl\?",
        ),
        ("kl", r"did you mean response\.kl\?"),
        ("respons.kl", r"did you mean response\.kl\?"),
        ("contrastive.crb", r"did you mean contrastive\.crd\?"),
        ("response.standardize", "read the name response.standardize"),
        ("response.cross_entropy", "read the name response.cross_entropy"),
        ("response.clean", "read the name response.clean"),
        ("regression.mse", "read the name regression.mse"),
        ("response.dist(gama=2.0)", r"read gama=2\.0; accepted: response\.dist takes .*did you mean gamma\?"),
        ("response.kl(alpha=1)", r"read alpha=1; accepted: response\.kl takes temperature"),
        ("response.kl(labels=1)", "read labels=1, which is given with each call"),
        ("response.kl(where=1)", "read where=1, which is given with each call"),
        ("feature.vid(variance=2)", "read variance=2, which is given with each call"),
        ("feature.ofd(margin=-1)", "read margin=-1, which is given with each call"),
    ],
)
def test_what_cannot_be_typed_is_refused(text, said):
    with pytest.raises(BadInput, match=said) as error:
        loss_of(call(text, flag="loss"))
    assert str(error.value).startswith("loss, column 1:")


def test_a_loss_with_a_memory_has_its_own_numbers():
    assert memory_of(call("contrastive.queue(slots=3, dims=5)"), None).dims == 5
    assert memory_of(call("contrastive.crd"), 9).dims == 128
    assert contrastive.remember_crd(9).about is not None
    for text, said in (
        ("contrastive.crd(slots=1)", r"read slots=1; accepted: .* takes dims, negatives, temperature"),
        ("contrastive.crd(examples=1)", "read examples=1, which is given"),
    ):
        with pytest.raises(BadInput, match=said):
            memory_of(call(text), 9)
