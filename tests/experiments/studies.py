"""Every experiment at its smallest, run once in this process while its trainings are watched."""

import contextlib
import dataclasses
import io
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import config as configs
from kdjax.data.source import unit_interval
from kdjax.study import compare, figures, train
from kdjax.training import population, program
from kdjax.training.state import variables
from tests.experiments.scripts import SCRIPTS, module

SEEDS = 2
OTHERS = {"audit"}
"""What has the flag and trains one network only, where none is given."""
TRAINING = sorted(
    name for name in SCRIPTS.keys() - OTHERS
    if not name.startswith("benchmarks") and "seeds" in {f.name for f in dataclasses.fields(module(name).Config)}
)  # fmt: skip
"""Every experiment that trains over seeds."""
SMALLER = {
    "generations": {"generations": 3},
    "assistants": {"chain": (16, 8, 6, 4)},
    "ensemble": {"teachers": "mlp(5), mlp(7), mlp(9)", "arms": "vote", "labels": 100, "teachers_epochs": 6},
    "specialists": {"specialist_epochs": 1},
    "sweep": {"teacher_epochs": 1},
    "methods": {
        "student": "mlp(8)", "teacher": "mlp(16)", "epochs": 2,
        "factors": (0.0, 1.0, 30.0), "learning_rates": (1e-4, 3e-3, 3e-2),
    },
}  # fmt: skip
ATTACKS = {"defensive"}
"""What is measured by attacks is not trained, and would take most of the time."""
DRAWN = {"hinton2015"}
"""Whose figures are drawn: what trains beside those that `test_experiments` runs, and has none of its own."""


@dataclass
class Run:
    """One training: its model, what it was given, and the network's numbers before and after."""

    model: Any
    source: Any
    frozen: Any
    first: Any = None
    last: Any = None


@dataclass
class Watched:
    """What a finished experiment left, and what was seen on the way."""

    config: Any
    workdir: Path
    results: dict[str, Any]
    runs: dict[str, Run] = field(default_factory=dict)
    traced: list[str] = field(default_factory=list)
    printed: str = ""

    def answers(self, run: str, image: np.ndarray) -> np.ndarray:
        """What a trained network says of images."""
        one = self.runs[run]
        return says(one.model, one.last, image)


def says(model: Any, variables: Any, image: np.ndarray) -> np.ndarray:
    """A network's logits for images as they are stored."""
    outputs, _ = model.apply(variables, unit_interval(jnp.asarray(image)), train=False, key=None)
    return np.asarray(outputs.logits)


def smallest(name: str, workdir: Path, **changes: Any) -> Any:
    """The Config of `--smoke`, with two seeds."""
    config = module(name).Config
    smoke = {f.name: f.metadata["smoke"] for f in dataclasses.fields(config)}
    own = {n: value for n, value in smoke.items() if value is not dataclasses.MISSING}
    return config(**{**own, "seeds": SEEDS, **SMALLER.get(name, {}), "workdir": str(workdir), **changes})


def tells_of_its_networks(results: dict[str, Any]) -> None:
    """results.json says of every network what it learned, of whom and from what, what chose, and what is subtracted."""
    arms, rows = results["arms"], results["rows"]
    told = {"run", "loss", "teachers", "source", "split", "start", "chosen_on", "facts"}
    assert arms
    assert rows
    for name, arm in arms.items():
        assert told <= arm.keys(), name
        # The teachers of a network of another run are that run's.
        assert "from" in arm["facts"] or set(arm["teachers"]) <= arms.keys(), name
    named = {arm for own in rows.values() for arm in own if not arm.startswith("specialist-")}
    assert named <= arms.keys()
    assert rows.keys() <= results.keys()
    assert all({"first", "minus", "score", "difference"} <= pair.keys() for pair in results["pairs"])


@cache
def ran(name: str) -> Watched:
    """An experiment's one run of these tests."""
    return run(name)


def run(name: str, **changes: Any) -> Watched:
    """Run an experiment in a folder of its own and watch it."""
    workdir = Path(mkdtemp())
    config = smallest(name, workdir, **changes)
    found, now = Watched(config, workdir, {}), [""]
    real_train, real_fit, real_step = compare.train, train.fit, program.step_of
    real_members, real_member_step = population.Population.train, population.train_step

    def trained(study: Any, folder: Any, run: str, model: Any, *given: Any, **own: Any) -> Any:
        found.runs[run] = Run(model, own["source"], own["frozen"])
        state = real_train(study, folder, run, model, *given, **own)
        found.runs[run].last = jax.device_get(variables(state))
        return state

    def fitted(state: Any, *given: Any, name: str, **own: Any) -> Any:
        now[0] = name
        if name in found.runs and found.runs[name].first is None:
            found.runs[name].first = jax.device_get(state.params)
        return real_fit(state, *given, name=name, **own)

    def members(self: Any, members: Any, **own: Any) -> Any:
        now[0] = f"members/seed-{members[0].seed}"
        return real_members(self, members, **own)

    def watched(loss_fn: Any) -> Any:
        def called(*given: Any) -> Any:
            found.traced.append(now[0])
            return loss_fn(*given)

        return called

    def step(updates: Any, **own: Any) -> Any:
        return real_step([u._replace(loss_fn=watched(u.loss_fn)) for u in updates], **own)

    def member_step(loss_fn: Any, tx: Any, **own: Any) -> Any:
        return real_member_step(watched(loss_fn), tx, **own)

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context
        patch(mock.patch.object(compare, "train", trained))
        patch(mock.patch.object(train, "fit", fitted))
        patch(mock.patch.object(population.Population, "train", members))
        patch(mock.patch.object(program, "step_of", step))
        patch(mock.patch.object(population, "train_step", member_step))
        for drawn in ("curves", "comparison", "by_queries") if name not in DRAWN else ():
            patch(mock.patch.object(figures, drawn))
        if name in ATTACKS:
            entry = module(name)
            measured = dict.fromkeys((*entry.NETWORK, *entry.ROBUST), 0.5)
            patch(mock.patch.object(entry.Attacks, "scores", return_value=measured))
        printed = patch(contextlib.redirect_stdout(io.StringIO()))
        configs.claim(config, workdir)
        module(name).main(config, workdir)
    found.printed = printed.getvalue()
    found.results = json.loads((workdir / "results.json").read_text())
    return found
