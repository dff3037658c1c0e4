"""Peers that learn together, each from the labels and from the others.

A cohort is one `Model`: its answer is the peers' mean probability, and what each peer says is the feature "peers"
`[B, P, K]`. So whatever trains, tests or saves a model does it to a cohort.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.ensembles.pools import mean_probability
from kdjax.losses import response
from kdjax.recipes._batch import Augment, agreement, augmented, correct, known
from kdjax.training.state import need
from kdjax.types import STUDENT, Aux, BadInput, Batch, LossFn, Metrics, Model, Outputs, PyTree, TrainState


class Cohort(NamedTuple):
    """Peers as one model, and `peer(variables, p)`: the variables of peer number p alone."""

    model: Model
    peer: Callable[[PyTree, int], PyTree]


def alike(model: Model, peers: int) -> Cohort:
    """Peers of one architecture, run as one program: every array has a leading axis of peers.

    Args:
        model: one peer's. Each peer has its own initial parameters and its own dropout.
        peers: how many, at least 2.

    Raises:
        BadInput: fewer than two.
    """
    if peers < 2:
        raise BadInput(f"peers={peers}: accepted are 2 or more, who can learn from each other")

    def init(key: Array) -> tuple[PyTree, PyTree]:
        return jax.vmap(model.init)(jax.random.split(key, peers))

    def apply(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        keys = None if key is None else jax.random.split(key, peers)

        def one(v: PyTree, k: Array | None) -> tuple[Array, PyTree]:
            outputs, model_state = model.apply(v, image, train=train, key=k, mask=mask)
            return outputs.logits, model_state

        answers, model_state = jax.vmap(one, in_axes=(0, None if keys is None else 0))(variables, keys)
        return _together(answers), model_state

    return Cohort(Model(init, apply), lambda variables, p: jax.tree.map(lambda x: x[p], variables))


def mixed(models: Mapping[str, Model]) -> Cohort:
    """Peers of any architectures; parameters and model state hold those of each under its name.

    Args:
        models: by name, two or more, for the same classes. Peer number p is the p-th.

    Raises:
        BadInput: fewer than two.
    """
    if len(models) < 2:
        raise BadInput(f"models={list(models)}: accepted are 2 or more, who can learn from each other")
    names = list(models)

    def init(key: Array) -> tuple[PyTree, PyTree]:
        made = {n: models[n].init(k) for n, k in zip(names, jax.random.split(key, len(names)), strict=True)}
        return {n: params for n, (params, _) in made.items()}, _by_collection(
            {n: state for n, (_, state) in made.items()}
        )

    def own(variables: PyTree, p: int) -> PyTree:
        return {collection: tree[names[p]] for collection, tree in variables.items() if names[p] in tree}

    def apply(
        variables: PyTree, image: Array, *, train: bool, key: Array | None, mask: Array | None = None
    ) -> tuple[Outputs, PyTree]:
        keys = [None] * len(names) if key is None else list(jax.random.split(key, len(names)))
        answers = [
            models[n].apply(own(variables, p), image, train=train, key=k, mask=mask)
            for p, (n, k) in enumerate(zip(names, keys, strict=True))
        ]
        model_state = _by_collection({n: state for n, (_, state) in zip(names, answers, strict=True)})
        return _together(jnp.stack([outputs.logits for outputs, _ in answers])), model_state

    return Cohort(Model(init, apply), own)


def mutual(cohort: Model, *, augment: Augment | None = None) -> LossFn:
    """Deep mutual learning: every peer learns from the labels, and from each of the others' answers as they stand.

    l = Σ_p [ cross_entropy(z_p, label) + weight · mean_{r ≠ p} KL(z_r ‖ z_p) ]

    per example, the KL at a temperature and with its T². No gradient passes to the peer that is followed. An example
    whose label is -1 has no first term. The sum over peers, and not the mean, gives each peer the gradient it would
    have alone: with `weight` 0 they train as they would train apart (with an optimizer that looks at each number by
    itself; a clipped gradient norm is that of the whole cohort). `weight` (1 in the paper) and `temperature` (1 in the
    paper) are read from `state.hparams`, so they are traced. All peers are updated at once on the same batch, where the
    paper's algorithm 1 updates them in turn.

    Args:
        cohort: the `model` of `alike` or `mixed`.
        augment: applied to the images of each step, the same for every peer.

    Returns:
        A `LossFn` with the metrics `cross_entropy` and `mimicry` (means over peers), `accuracy` (of the ensemble) and
        `agreement` (share of peers that say what the ensemble says).

    Reference:
        Zhang, Xiang, Hospedales, Lu, Deep Mutual Learning, CVPR 2018, equations 8 and 9.
    """

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        batch, key = augmented(batch, key, augment, run_key=state.key)
        mask = jnp.asarray(batch["mask"])
        variables = {"params": params[STUDENT], **state.model_state[STUDENT]}
        outputs, model_state = cohort.apply(variables, jnp.asarray(batch["inputs"]), train=True, key=key, mask=mask)
        answers, label = jnp.moveaxis(outputs.features["peers"], 1, 0), jnp.asarray(batch["label"])
        follow = partial(response.kl, temperature=need(state, "temperature"), where=mask > 0)
        # [P, P, B]: what peer p pays for not saying what peer r says; nothing for r = p.
        pairs = jax.vmap(lambda p: jax.vmap(lambda r: follow(p, r))(jax.lax.stop_gradient(answers)))(answers)
        mimicry = pairs.sum(1) / (len(answers) - 1)
        hard = jax.vmap(lambda z: response.cross_entropy(z, label))(answers)
        metrics: Metrics = {
            "cross_entropy": (hard.mean(0), known(label)),
            "mimicry": mimicry.mean(0),
            "accuracy": (correct(outputs.logits, label), known(label)),
            "agreement": jax.vmap(lambda z: agreement(z, outputs.logits))(answers).mean(0),
        }
        return jnp.sum(hard + need(state, "weight") * mimicry, axis=0), Aux({STUDENT: model_state}, metrics)

    return loss_fn


def _together(answers: Array) -> Outputs:
    """The peers' answers `[P, B, K]` as the cohort's."""
    peers, batch, _ = answers.shape
    return Outputs(
        mean_probability(answers, jnp.full((batch, peers), 1 / peers)), {"peers": jnp.moveaxis(answers, 0, 1)}
    )


def _by_collection(states: Mapping[str, PyTree]) -> PyTree:
    """Model states by peer as model states by collection, which is how `{"params": ..., **model_state}` is cut."""
    collections = dict.fromkeys(c for state in states.values() for c in state)
    return {c: {name: state[c] for name, state in states.items() if c in state} for c in collections}
