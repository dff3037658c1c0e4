"""Arms over seeds: what is trained, what it learns from, what is scored, and what is subtracted from what.

    compare(study, workdir, [teacher, alone, distilled], [Pair("distilled", "alone")])

An `Arm` says what it learns from as data, its `Lineage`, which is written to results.json. It is not a comment: while
an arm trains it sees the networks that its lineage names, and no others; a `Row` is scored on those that it names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax.data.checks import require_a_label
from kdjax.data.source import Examples
from kdjax.evaluation.classification import classification
from kdjax.evaluation.paired import paired_difference
from kdjax.models.create import parameter_count
from kdjax.study import figures, report, showing
from kdjax.study.data import Study
from kdjax.study.lineage import Lineage as Lineage
from kdjax.study.lineage import Pair as Pair
from kdjax.study.lineage import as_data, lineages
from kdjax.study.train import Programs, best_of, predict, train
from kdjax.training.state import variables
from kdjax.types import BadInput, LossFn, Model, Networks, PyTree, TrainState

COLUMNS = ("accuracy", "f1", "nll", "ece", "parameters")
Scores = dict[str, Any]
Results = dict[str, list[Scores]]


class Given(NamedTuple):
    """What an arm trains on at one seed: a source, what the step reads and never writes, and how the state begins."""

    source: Examples
    frozen: PyTree = None
    begin: Callable[[TrainState], TrainState] = lambda state: state


@dataclass(frozen=True)
class Arm:
    """One line of a table: a network that is trained once for each seed, all of them by one compiled program.

    Attributes:
        name: in tables, pairs and lineages.
        model: what is trained, a network or several that learn together.
        loss_fn: a recipe's, the same object for every seed; arms that share one share its program.
        epochs: passes.
        hparams: traced scalars, `learning_rate` among them.
        lineage: where it comes from.
        given: what it trains on, from the networks that its seed has so far; the study's training images by default.
        run: its folder among the checkpoints; the name by default.
        places: of an epoch, if more than examples: as many steps from a few as from many.
        answers: the network that answers for it, where that is not what is trained; with `own`.
        own: that network's variables of the trained ones.
        seed: of its initialisation, order and draws, from the number of the run.
        once: one network for all seeds, that of seed 0.
        known: its variables, where something else trained it, from the networks that its seed has so far.
        study: data and flags, where they are not the comparison's.
        watch: examples whose accuracy is written down after every epoch, and chooses nothing.
        choose: how good the variables of the network that answers are after an epoch; the best are kept beside the
            last.
    """

    name: str
    model: Model | Networks
    loss_fn: LossFn
    epochs: int
    hparams: Mapping[str, float]
    lineage: Lineage
    given: "Callable[[Done], Given] | None" = None
    run: str = ""
    places: int = 0
    answers: Model | None = None
    own: Callable[[PyTree], PyTree] = lambda variables: variables
    seed: Callable[[int], int] = lambda number: number
    once: bool = False
    known: "Callable[[Done], PyTree] | None" = None
    study: Study | None = None
    watch: Examples | None = None
    choose: Callable[[PyTree], float] | None = None


@dataclass
class Trained:
    """A network: its arm, its own variables and, if it was trained here, the state without its optimizer.

    `best`: the variables of the epoch that its arm's `choose` preferred, if it has any.
    """

    arm: Arm
    weights: PyTree
    state: TrainState | None = None
    best: PyTree = None


@dataclass
class Done:
    """The networks that one seed has so far. `seen_by` shows those that a lineage or a row names, and no others."""

    study: Study
    seed: int
    trained: dict[str, Trained] = field(default_factory=dict)
    _made: dict[Any, Any] = field(default_factory=dict)

    def seen_by(self, names: Iterable[str]) -> "Done":
        """The same with fewer networks."""
        seen = {name: self.trained[name] for name in names if name in self.trained}
        return Done(self.study, self.seed, seen, self._made)

    def weights(self, name: str) -> PyTree:
        """A network's variables."""
        return self.trained[name].weights

    def state(self, name: str) -> TrainState:
        """The state in which an arm's training ended, for one that begins there."""
        state = self.trained[name].state
        assert state is not None, f"{name} was not trained here"
        return state

    def answers(self, name: str, source: Examples) -> np.ndarray:
        """A network's logits for every example of a source; asked once a seed."""
        arm, weights = self.trained[name].arm, self.weights(name)
        model = arm.answers or arm.model
        assert isinstance(model, Model), f"{name}: networks that are trained together do not answer; one of them does"
        ask = lambda: (source, predict(self.study, model, weights, source))  # noqa: E731
        return self.once((name, id(source)), ask)[1]  # the source is kept, so that no other has its id

    def test(self, name: str) -> np.ndarray:
        """A network's logits for the test images."""
        return self.answers(name, self.study.test)

    def tested(self) -> dict[str, showing.Shown]:
        """The networks that have answered for the test images."""
        found = {}
        for name, trained in self.trained.items():
            model, key = trained.arm.answers or trained.arm.model, (name, id(self.study.test))
            if isinstance(model, Model) and key in self._made:
                found[name] = showing.Shown(model, trained.weights, self._made[key][1], self.seconds(name))
        return found

    def seconds(self, name: str) -> float | None:
        """Of an epoch of a network's training; None where it was trained elsewhere."""
        arm = self.trained[name].arm
        return (arm.study or self.study).recorder.seconds(_folder(arm, self.seed))

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made once a seed."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Row(NamedTuple):
    """A line of the table: the arms whose networks are scored, and the scores of one seed; None for no line there."""

    arms: tuple[str, ...]
    scores: Callable[[Done], Scores | None]


class Compared(NamedTuple):
    """Every row's scores, seed by seed, the arms and rows as data, and the first seed's networks for the page."""

    results: Results
    lineage: dict[str, Any]
    networks: str = ""


Arms = Sequence[Arm] | Callable[[Done], Iterator[Arm]]
"""The arms in the order of training; or made seed by seed, where what is trained depends on what was."""


class Trainer:
    """Trains arms; each has one program for all its seeds."""

    def __init__(self, study: Study, workdir: Path) -> None:
        self.study, self.workdir, self.programs = study, workdir, Programs()

    def train(self, arm: Arm, done: Done) -> Trained:
        """Train an arm at a seed, or take it from its checkpoint; it is then among what the seed has done."""
        study, lineage = arm.study or self.study, arm.lineage
        seen = done.seen_by((*lineage.teachers, *filter(None, (lineage.start,))))
        if arm.known:
            found = Trained(arm, arm.known(seen))
        else:
            given = arm.given(seen) if arm.given else Given(study.train)
            if "labels" in lineage.loss and not lineage.teachers:
                require_a_label(given.source, flag=f"{lineage.split}_split")
            run = _folder(arm, done.seed)
            state = train(
                study,
                self.workdir,
                run,
                arm.model,
                arm.loss_fn,
                seed=arm.seed(done.seed),
                epochs=arm.epochs,
                hparams=arm.hparams,
                source=given.source,
                examples_per_epoch=arm.places or None,
                frozen=given.frozen,
                begin=given.begin,
                watch=arm.watch,
                programs=self.programs,
                answers=arm.answers,
                choose=arm.choose,
            )
            model, best = arm.answers or arm.model, None
            if arm.choose and isinstance(model, Model):
                best = best_of(self.workdir, run, model)
            found = Trained(arm, arm.own(variables(state)), state.replace(opt_state=(), frozen=None), best)
        done.trained[arm.name] = found
        return found


def compare(
    study: Study,
    workdir: Path,
    arms: Arms,
    pairs: Sequence[Pair] = (),
    *,
    title: str,
    rows: Mapping[str, Row] | None = None,
    columns: Sequence[str] = COLUMNS,
    note: str | Callable[[Results], str] = "",
) -> Results:
    """Train every arm at every seed, score the test split, subtract pairs; leave table, figures and results.json.

    Args:
        study: data, devices and flags, the number of seeds among them.
        workdir: of the experiment.
        arms: what is trained, in this order.
        pairs: of rows.
        title: of the figures.
        rows: of the table; one for each arm by default.
        columns: of the table.
        note: below it, perhaps made of the results.

    Raises:
        BadInput: a pair of what is no row.
    """
    compared = scored(study, workdir, arms, rows, pairs)
    text = report.table(compared.results, columns)
    differences = subtracted(compared.results, pairs)
    if differences:
        text += "\n" + "".join(f"\n{report.gain(pair.name, d)}  " for pair, d in differences.items())
    below = note(compared.results) if callable(note) else note
    text += f"\n\n{below}" if below else ""
    draw(study, workdir, compared.results, title=title)
    save(workdir, compared, pairs, text, {pair.name: d for pair, d in differences.items()})
    return compared.results


def scored(
    study: Study, workdir: Path, arms: Arms, rows: Mapping[str, Row] | None = None, pairs: Sequence[Pair] = ()
) -> Compared:
    """Train every arm at every seed, and score every row: what `compare` reports."""
    if rows is None:
        assert not callable(arms)
        rows = {arm.name: tested(arm.name) for arm in arms}
    for name in (name for pair in pairs for name in pair[:2]):
        if name not in rows:
            raise BadInput(f"a pair names {name!r}; accepted: {', '.join(rows)}.")
    trainer, results = Trainer(study, workdir), {name: [] for name in rows}
    shared: dict[str, Trained] = {}
    by_name: dict[str, Any] = {}
    networks = ""
    for number in range(study.config.seeds):
        done = Done(study, number, dict(shared))
        for arm in arms(done) if callable(arms) else arms:
            if arm.name not in shared:
                found = trainer.train(arm, done)
                shared |= {arm.name: found} if arm.once else {}
            by_name.setdefault(arm.name, described(arm, study))
        for name, row in rows.items():
            scores = row.scores(done.seen_by(row.arms))
            results[name] += [scores] if scores is not None else []
        networks = networks or showing.shown(done.tested(), study.test)
    return Compared(results, {"arms": by_name, "rows": {name: list(row.arms) for name, row in rows.items()}}, networks)


def scores(study: Study, logits: np.ndarray, *weights: PyTree) -> Scores:
    """What logits on the test images are worth, and how many parameters gave them."""
    parameters = sum(parameter_count(w["params"]) for w in weights)
    known = {"parameters": parameters} if parameters else {}  # a service does not say
    return {**classification(logits, study.test.labels()), **known}


def tested(name: str) -> Row:
    """The row of one arm's network."""
    return Row((name,), lambda done: score(done, name))


def score(done: Done, name: str) -> Scores:
    """One network's scores on the test images."""
    return scores(done.study, done.test(name), done.weights(name))


def _folder(arm: Arm, seed: int) -> str:
    """Where a training lies among the checkpoints, and what its rows are called."""
    return f"{arm.run or arm.name}/seed-{seed}"


def described(arm: Arm, study: Study) -> dict[str, Any]:
    """An arm as data."""
    config, lineage = study.config, arm.lineage
    split = getattr(config, f"{lineage.split}_split") if lineage.split else "none"
    seeds = [arm.seed(0)] if arm.once else [arm.seed(number) for number in range(config.seeds)]
    how = {"epochs": arm.epochs, "hparams": dict(arm.hparams), "seeds": seeds}
    return as_data(lineage, run=arm.run or arm.name, split=split, **how)


def subtracted(results: Results, pairs: Sequence[Pair]) -> dict[Pair, dict[str, float]]:
    """Each pair's paired difference, with its interval; none from a single seed."""

    def column(row: str, score: str) -> list[float]:
        return [float(s[score]) for s in results[row]]

    return {
        pair: paired_difference(column(pair.first, pair.score), column(pair.minus, pair.score))
        for pair in pairs
        if len(results[pair.first]) > 1
    }


def draw(study: Study, workdir: Path, results: Results, *, title: str) -> None:
    """Learning curves, and the rows' accuracy beside each other."""
    figures.curves(study.recorder.rows(), workdir / "curves.png", title=title)
    accuracy = {name: [s["accuracy"] for s in found] for name, found in results.items()}
    figures.comparison(accuracy, workdir / "comparison.png", title=title)


def save(workdir: Path, compared: Compared, pairs: Sequence[Pair], text: str, more: Mapping[str, Any]) -> None:
    """results.json: rows, differences as the experiment names them, and what was trained and subtracted; table.md."""
    differences = dict.fromkeys(pairs) | subtracted(compared.results, pairs)
    lineage = lineages(compared.lineage["arms"], compared.lineage["rows"], differences)
    results = {**compared.results, **more, **lineage}
    report.save_results(workdir, results, text, compared.networks)
