"""Surrogates of a victim that only answers: what is asked of it, round by round, and the arms that learn from that.

Ways of asking are those of `kdjax.study.asking`. Answers are bought outside of any compiled step, in rounds that end at
the budgets, and kept; at each budget a surrogate is trained from fresh parameters on all that was bought, in as many
steps as at every other. A game's surrogate is its student as it plays, from one budget to the next. No label of the
victim's is read.
"""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.domains import parse, unite
from kdjax.data.load import load
from kdjax.data.source import Source
from kdjax.files import typed_path
from kdjax.losses import response
from kdjax.recipes.distill import distill
from kdjax.recipes.supervised import supervised
from kdjax.study import networks, service
from kdjax.study.asking import Way
from kdjax.study.compare import Arm, Done, Given, Lineage
from kdjax.study.data import Study, overlap
from kdjax.study.games import Match, remembered
from kdjax.study.methods import slug
from kdjax.study.train import predict
from kdjax.teachers import queries
from kdjax.teachers.queries import Known, Surrogate
from kdjax.teachers.serving.policy import Policy
from kdjax.teachers.stored import cached
from kdjax.training.state import variables
from kdjax.types import BadInput, LossFn, Model, PyTree, TrainState

VICTIM = "victim"
LOSS, GAME_LOSS = "response.kl(temperature=1)", "response.logit_l1"


class Bought(NamedTuple):
    """A transfer set: images in the order of asking, their places in the pool, and the answers as logits."""

    images: np.ndarray
    rows: np.ndarray
    answers: np.ndarray


class Paid(NamedTuple):
    """How many questions were asked, and the images of those that are kept, the first ones."""

    queries: int
    images: np.ndarray


class Victim(NamedTuple):
    """Who answers: its arm's name, the network, its variables seed by seed, none if it is to be trained, where it
    comes from; a service's policy, and the price of an answer."""

    name: str
    model: Model
    given: list[PyTree]
    source: str
    says: str = ""
    price: float = 0.0

    def arm(self, config: Any, loss_fn: LossFn | None = None, **facts: Any) -> Arm:
        """As it is given, or trained on labels that nobody else sees, by a recipe of its own if it has one."""
        return Arm(
            self.name,
            self.model,
            loss_fn or supervised(self.model),
            config.victim_epochs,
            {"learning_rate": config.victim_learning_rate},
            Lineage("labels", facts={"from": self.source if self.given else "trained here", **facts}),
            known=(lambda done: self.given[done.seed % len(self.given)]) if self.given else None,
            run=slug(self.name),
        )


def victim(config: Any, study: Study) -> Victim:
    """The victim that `--victim` names: a folder's, one that is trained here, or a service's.

    Raises:
        BadInput: as `networks.teacher_of`.
    """
    if not service.is_service(config.victim):
        model, given, _ = networks.teacher_of(config, study, flag="victim")
        return Victim(VICTIM, model, given, config.victim, price=config.price)
    found = service.connect(config.victim, typed_path(config.workdir), flag="victim")
    described = service.description(found)
    networks.refuse_other_shapes(described, config.victim, study.shape, config.dataset, flag="victim")
    return Victim(VICTIM, *service.teacher(found, study), config.victim, found.policy, found.price)


def pools(config: Any, study: Study) -> dict[str, Source]:
    """What may be asked about, by name: the victim's domain's `--own_split` without its labels, and `--public`.

    Classes of public sets are told apart set by set; those of the own images are all 0.

    Raises:
        BadInput: images of the test split among them, of another shape, or too many for memory.
    """
    if overlap(config, config.own_split, config.test_split):
        raise BadInput(
            f"--own_split={config.own_split} and --test_split={config.test_split} share examples; accepted: disjoint."
        )
    domains = parse(config.public)
    for domain in domains:
        split = domain.split("train", config.public_split)
        if domain.dataset == config.dataset and overlap(config, split, config.test_split):
            raise BadInput(
                f"--public={config.public}: {split} of {domain.name} shares examples with --test_split="
                f"{config.test_split}; accepted: other images."
            )
    height, width, _ = shape = study.test.image_shape()
    if height != width:
        raise BadInput(f"--dataset={config.dataset}: images of {height} x {width}; accepted: square ones.")
    own = load(config.dataset, config.own_split, data_dir=config.data_dir, image_size=config.image_size)
    public = unite(domains, "train", config.public_split, data_dir=config.data_dir, image_size=height).source
    apart = public.labels() + study.test.num_classes * public.arrays["domain"]
    found = {}
    for name, source, label in (("own", own, np.zeros(len(own), np.int32)), ("public", public, apart)):
        if not isinstance(source, Source) or source.image_shape() != shape:
            raise BadInput(f"--{name}: images of {source.image_shape()}; accepted: {shape}, the victim's, in memory.")
        found[name] = Source({"inputs": source.arrays["inputs"], "label": label}, int(label.max()) + 1, name)
    return found


def refuse_small_pools(
    chosen: Sequence[Way], pool: Mapping[str, Source], budgets: Sequence[int], batch_size: int = 1
) -> None:
    """Refuse, before anything is paid, what would end in the middle: budgets that do not grow, a pool that is short, a
    batch of more images than are bought.

    Raises:
        BadInput: such.
    """
    if list(budgets) != sorted(set(budgets)):
        raise BadInput(f"--budgets={','.join(map(str, budgets))}; accepted: numbers that grow.")
    if batch_size > budgets[-1]:
        raise BadInput(f"--batch_size={batch_size}; accepted: 1 to {budgets[-1]}, the last of --budgets.")
    for way in chosen:
        made = way.made or way.strategy.func is queries.jacobian
        wanted = budgets[0] if made else budgets[-1]
        if way.pool in pool and len(pool[way.pool]) < wanted:
            raise BadInput(
                f"--budgets: {wanted} images, and {way.text} has {len(pool[way.pool])}; accepted: as many or fewer."
            )
        if way.strategy.func is queries.jacobian and any(b > 2 * a for a, b in pairwise(budgets)):
            raise BadInput(f"--budgets: {way.text} makes one image of each; accepted: budgets that at most double.")


@dataclass(frozen=True)
class Extractor:
    """Who extracts: the surrogate's network and recipe, the pools, the budgets, and how the victim is asked.

    Attributes:
        study: data and flags; `epochs`, `learning_rate` among them.
        model: the surrogate's.
        victim: who answers, in process or over HTTP.
        pools: by name.
        budgets: queries at the end of each round.
    """

    study: Study
    model: Model
    victim: Victim
    pools: Mapping[str, Source]
    budgets: Sequence[int]
    loss_fn: Any

    def arms(self, way: Way, *, prefix: str = "") -> list[Arm]:
        """One arm for each budget.

        Args:
            way: how it asks.
            prefix: before its name, where several networks extract in this way.
        """
        names = [f"{prefix}{way.text}, {budget} queries" for budget in self.budgets]
        rates = {"learning_rate": self.study.config.learning_rate, "temperature": 1.0, "alpha": 1.0}
        source = way.pool if way.made else f"{way.pool} images, no labels"
        match = Match(self.study, way.strategy(self.model), self.budgets) if way.plays else None
        found = []
        for number, (name, budget) in enumerate(zip(names, self.budgets, strict=True)):
            before = names[number - 1] if number else ""
            lineage = Lineage(
                GAME_LOSS if match else LOSS,
                (self.victim.name, *filter(None, (before,))),
                source,
                "" if way.made else way.pool,
                facts={"asked": way.text, "answers": way.said, "queries": budget},
            )
            arm = Arm(
                name,
                self.model,
                self.loss_fn,
                match.rounds[number] if match else self.study.config.epochs,
                rates,
                lineage,
                partial(self._given, way, number, names),
                run=slug(name),
                places=self.budgets[-1],
                known=partial(self._student, match, way, number, names) if match else None,
            )
            found.append(arm)
        return found

    def _given(self, way: Way, number: int, names: Sequence[str], done: Done) -> Given:
        bought = self.bought(way, number, names, done)
        label = np.full(len(bought.images), -1, np.int32)
        columns = {"inputs": bought.images, "label": label, "teacher_logits": bought.answers}
        return Given(Source(columns, self.study.test.num_classes, way.text))

    def bought(self, way: Way, number: int, names: Sequence[str], done: Done) -> Bought:
        """What is paid at the end of a round; every round once a seed."""

        def buy() -> Bought:
            pool = self.pools["public" if way.made else way.pool]
            if not number:
                shape, classes = pool.arrays["inputs"].shape[1:], self.study.test.num_classes
                none = np.empty((0, *shape), pool.arrays["inputs"].dtype)
                have, surrogate = Bought(none, np.empty(0, np.int64), np.empty((0, classes), np.float32)), None
            else:
                have = self.bought(way, number - 1, names, done)
                surrogate = self.surrogate(done.weights(names[number - 1]))
            known = Known(pool.arrays["inputs"], pool.labels(), *have, surrogate)
            count = self.budgets[number] - len(have.images)
            rng = np.random.default_rng([done.seed, number, zlib.crc32(way.images.encode())])
            chosen = way.strategy(known, count, rng)
            if len(chosen.images) != count or len(chosen.rows) != count:
                raise BadInput(f"{way.text}: {len(chosen.images)} images; accepted: {count}, what the budget leaves.")
            said = self.ask(way, chosen.images, done.weights(self.victim.name), done.seed)
            parts = zip(have, (*chosen, said), strict=True)
            return Bought(*(np.concatenate(both) for both in parts))

        return done.once(("bought", names[0], number), buy)

    def _played(self, match: Match, way: Way, number: int, names: Sequence[str], done: Done) -> TrainState:
        """A game's end at a budget; each once a seed."""

        def play() -> TrainState:
            before = self._played(match, way, number - 1, names, done) if number else None
            weights = done.weights(self.victim.name)
            ask = lambda images: self.ask(way, images, weights, done.seed)  # noqa: E731
            runs, folder = [slug(name) for name in names], self.study.recorder.workdir
            return match.play(folder, runs, number, ask, seed=done.seed, before=before)

        return done.once(("played", names[0], number), play)

    def _student(self, match: Match, way: Way, number: int, names: Sequence[str], done: Done) -> PyTree:
        return variables(self._played(match, way, number, names, done))

    def paid(self, way: Way, number: int, names: Sequence[str], done: Done) -> Paid:
        """What was asked by the end of a round."""
        if not way.plays:
            images = self.bought(way, number, names, done).images
            return Paid(len(images), images)
        kept = np.load(remembered(self.study.recorder.workdir, slug(names[-1]), done.seed), mmap_mode="r")
        return Paid(self.budgets[number], kept[: self.budgets[number]])

    def ask(self, way: Way, images: np.ndarray, weights: PyTree, seed: int) -> np.ndarray:
        """The victim's answers as the way's policy leaves them, as logits `[N, K]`."""
        said = predict(self.study, self.victim.model, weights, asked(images, self.study.test.num_classes))
        return said if self.victim.says else through(way.answers, said, images, seed)

    @functools.cached_property
    def _slope(self) -> Callable[..., jax.Array]:
        # One program for all rounds and seeds.
        return slope_of(self.model)

    def surrogate(self, weights: PyTree) -> Surrogate:
        """A trained surrogate, as strategies look at it."""
        classes = self.study.test.num_classes
        return Surrogate(
            lambda images: predict(self.study, self.model, weights, asked(images, classes)),
            partial(slopes, self._slope, weights),
        )


def recipe(model: Model) -> LossFn:
    """How a surrogate learns from what was bought; made once for all arms and seeds of a network."""
    return distill(model, cached(), response.kl)


def through(policy: Policy, logits: np.ndarray, images: np.ndarray, seed: int) -> np.ndarray:
    """What a client reads of logits behind a policy; `seed` is the secret of the service."""
    return policy.read(policy.answer(logits, images, b"%d" % seed), *logits.shape)


def asked(images: np.ndarray, classes: int) -> Source:
    """Images without labels."""
    return Source({"inputs": images, "label": np.full(len(images), -1, np.int32)}, classes, "images asked")


def slopes(
    program: Callable[..., jax.Array], weights: PyTree, images: np.ndarray, classes: np.ndarray, *, chunk: int = 256
) -> np.ndarray:
    """d log q_y(x) / dx for the class y of each image, `[N, ...]`, by the program of a network, `slope_of`."""
    size = min(chunk, len(images))
    parts = []
    for at in range(0, len(images), size):
        rows = np.minimum(np.arange(at, at + size), len(images) - 1)  # one shape for all chunks
        parts.append(np.asarray(program(weights, images[rows], classes[rows]))[: len(images) - at])
    return np.concatenate(parts)


def slope_of(model: Model) -> Callable[..., jax.Array]:
    """`(variables, images, classes) -> slopes`, compiled."""

    def total(images: Any, weights: Any, classes: Any) -> jax.Array:
        said = jax.nn.log_softmax(model.apply(weights, images, train=False, key=None)[0].logits)
        return jnp.take_along_axis(said, classes[:, None], axis=-1).sum()

    slope = jax.grad(total)
    return jax.jit(lambda weights, images, classes: slope(images, weights, classes))
