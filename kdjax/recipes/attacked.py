"""The attacked view of a batch: how it is made, and what an attack makes large that looks at more than one network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.attacks import objectives, victims
from kdjax.attacks.victims import require_classes
from kdjax.recipes._batch import spread_rows
from kdjax.recipes.terms import LABELS, Side, Term, numbers_of, value_of
from kdjax.types import (
    ATTACKED,
    CLEAN,
    LINEARIZED,
    STUDENT,
    Attack,
    BadInput,
    Batch,
    Model,
    Objective,
    PyTree,
    TrainState,
)

Ask = Callable[[str, PyTree, Array, Array], Array]
"""`(network, its variables, images, the student's logits to them) -> logits [B, K]`: what a teacher says."""


class Attacked(NamedTuple):
    """How the attacked view is made.

    The attack runs inside the step against the student as it is deployed: in evaluation mode, its weights constants. No
    gradient passes through it.

    Attributes:
        attack: any of the algebra; or, with `settings`, what makes one.
        objective: what it makes small, `(victim, labels) -> Objective`; or terms, of whose weighted sum it climbs up.
            Terms look at the attacked view as it is tried, and at clean answers; a gradient passes to both sides where
            a term does not `stop` it, through a teacher too. Only rows whose label is known are attacked, unless terms
            look at no label.
        share: of each batch's rows, in [0, 1]; padding never is attacked.
        settings: the attack's settings that are traced, by keyword.
    """

    attack: Attack | Callable[..., Attack]
    objective: Callable[..., Objective] | Sequence[Term] = objectives.cross_entropy
    share: float = 1.0
    settings: Callable[[TrainState], Mapping[str, Any]] | None = None

    @property
    def terms(self) -> Sequence[Term]:
        """Those of the objective, if it has any."""
        return () if callable(self.objective) else self.objective

    @property
    def needs_labels(self) -> bool:
        """Whether an image without a label cannot be attacked."""
        return callable(self.objective) or any(t.teacher.network == LABELS for t in self.terms)

    def asked(self) -> list[tuple[str, str]]:
        """The networks that it asks, and about which views."""
        sides = [side for t in self.terms for side in t.sides if side.network != LABELS]
        return list(dict.fromkeys((side.network, view) for side in sides for view in side.views))


def check(attacked: Attacked) -> None:
    """Refuse what cannot be climbed.

    Raises:
        BadInput: a share that is none, terms that look at no attacked image, at layers, or at a whole batch.
    """
    if not 0 <= attacked.share <= 1:
        raise BadInput(f"attacked={attacked.share}: accepted are shares of a batch, from 0 to 1.")
    for term in attacked.terms:
        if term.on_layers or term.remembers or term.row.couples or term.shared or term.times:
            raise BadInput(f"the attack climbs {term.name}; accepted: losses on answers, example by example")
    views = {view for _, view in attacked.asked()}
    if attacked.terms and (ATTACKED not in views or views - {CLEAN, ATTACKED, LINEARIZED}):
        accepted = f"{ATTACKED}, with {CLEAN} or {LINEARIZED} beside it"
        raise BadInput(f"the attack climbs views {sorted(views)}; accepted: {accepted}")


def attacked_images(
    attacked: Attacked,
    student: Model,
    ask: Ask,
    teachers: Mapping[str, PyTree],
    state: TrainState,
    batch: Batch,
    key: Array,
    temperatures: Mapping[str, Array] = MappingProxyType({}),
) -> tuple[Array, Array]:
    """The attacked images, and which rows they are.

    Args:
        attacked: how they are made.
        student: the network under attack.
        ask: asks teachers.
        teachers: their variables, by name.
        state, batch: of the step.
        key: of the step.
        temperatures: of teachers' answers where they are fitted, `[terms, B]` by group.
    """
    image, label = jnp.asarray(batch["inputs"]), jnp.asarray(batch["label"])
    rows = (jnp.asarray(batch["mask"]) > 0) & spread_rows(attacked.share, len(label))
    if attacked.needs_labels:
        rows = rows & (label >= 0)
    if attacked.share == 0:
        return image, rows
    # Attacked images are constants to who learns from them. Stopped before the attack, no slope is traced through it.
    own = {"params": state.params[STUDENT], **state.model_state[STUDENT]}
    networks = jax.lax.stop_gradient({**teachers, STUDENT: own})
    if callable(attacked.objective):
        objective = attacked.objective(victims.white_box(student.apply, networks[STUDENT]), label)
    else:
        objective = _climbed(attacked, student, ask, networks, state, image, label, temperatures)
    # Folded and not split, so that the model draws what it would draw without an attack.
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, 1), jnp.arange(len(label)))
    attack: Any = attacked.attack if attacked.settings is None else attacked.attack(**attacked.settings(state))
    return attack(objective, keys, image, where=rows).image, rows


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Climbed:
    """An `Objective` that asks several networks: minus a weighted sum of terms.

    Attributes:
        variables: by network.
        data: `label [B]`, and the answers to clean images by network, each `[B, K]`.
        numbers: of each term.
        say: `(variables, data, numbers, image) -> (the student's logits, the sum)`.
    """

    variables: Any
    data: dict[str, Any]
    numbers: Any
    say: Callable[..., tuple[Array, Array]] = dataclasses.field(metadata={"static": True})

    white_box = True

    def __call__(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> tuple[Array, Array]:
        logits, total = self.say(self.variables, self.data, self.numbers, image)
        label = self.data["label"]
        # Of an image without a label nobody knows whether it fools, so that no attack stops at it.
        fooled = (jnp.argmax(logits, -1) != label) & (label >= 0)
        return -total, fooled & ~jnp.isnan(total)

    def logits(self, image: Array, *, key: Array | None = None, where: Array | None = None) -> Array:
        """The student's answer."""
        return self.say(self.variables, self.data, self.numbers, image)[0]


def _climbed(
    attacked: Attacked,
    student: Model,
    ask: Ask,
    networks: Mapping[str, PyTree],
    state: TrainState,
    image: Array,
    label: Array,
    temperatures: Mapping[str, Array],
) -> Climbed:
    terms = attacked.terms

    def own(variables: PyTree, image: Array) -> Array:
        logits = student.apply(variables[STUDENT], image, train=False, key=None)[0].logits
        require_classes(logits.shape[-1])
        return logits

    def say(variables: PyTree, data: Mapping[str, Array], numbers: Any, image: Array) -> tuple[Array, Array]:
        mine = own(variables, image)
        logits = {STUDENT: mine}

        def answer(side: Side) -> Array:
            if side.view == CLEAN:
                return data[side.network]
            if side.view == LINEARIZED:
                change = jnp.sum((image - data["origin"]) * data[f"{side.network}/slope"], axis=range(1, image.ndim))
                return data[side.network] + change[:, None] * data[f"{side.network}/label"]
            if side.network not in logits:
                logits[side.network] = ask(side.network, variables[side.network], image, mine)
            return logits[side.network]

        total = jnp.zeros(())
        for term, own_numbers in zip(terms, numbers, strict=True):
            total += own_numbers["weight"] * value_of(term, own_numbers, answer, data["label"], None)
        return mine, total

    fixed = sorted({network for network, view in attacked.asked() if view != ATTACKED})
    linearized = sorted({network for network, view in attacked.asked() if view == LINEARIZED})
    mine = own(networks, image) if fixed else image
    data = {"label": label} | {n: mine if n == STUDENT else ask(n, networks[n], image, mine) for n in fixed}
    for n in linearized:
        top = jnp.where(label < 0, jnp.argmax(data[n], -1), label)
        chosen = jax.nn.one_hot(top, data[n].shape[-1], dtype=data[n].dtype)
        logit = lambda x, n=n, chosen=chosen: jnp.sum(chosen * ask(n, networks[n], x, mine))  # noqa: E731
        data |= {"origin": image, f"{n}/label": chosen, f"{n}/slope": jax.grad(logit)(image)}
    needed = {network for network, _ in attacked.asked()} | {STUDENT}
    variables = {name: tree for name, tree in networks.items() if name in needed}
    return Climbed(variables, data, [numbers_of(term, state, temperatures) for term in terms], say)
