"""How many flags each experiment has: a number that may only fall."""

import dataclasses

import pytest

from tests.experiments.scripts import SCRIPTS, module

MOST = {"distill": 34, "sweep": 40, "audit": 48}
"""Of those that have the most; all others have fewer than 40."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_do_not_grow(name):
    assert len(dataclasses.fields(module(name).Config)) <= MOST.get(name, 39)
