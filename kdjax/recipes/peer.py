"""PeerAiD: a student and a peer begin together, and the peer learns of the images that attack the student.

This is no expression of a `--method`: there one network learns, and its teachers are fixed; `experiments.robust` takes
it by its name. Here the sum is of the
losses of two networks; since no gradient of one reaches the other, an optimizer that looks at each number by itself
moves them as two optimizers would.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import response
from kdjax.recipes._batch import Augment, augmented, correct, known
from kdjax.recipes.attack_reading import read_attack
from kdjax.recipes.attacked import attacked_images
from kdjax.spec import Call
from kdjax.training.state import need
from kdjax.types import STUDENT, Aux, BadInput, Batch, LossFn, Metrics, Model, Networks, PyTree, Recipe, TrainState

PEER = "peer"

ATTACK = (
    "pgd(8/255, steps=10, start=gaussian(0.001), "
    "objective=response.kl(student=attacked, teacher=peer(clean), temperature=1.0))"
)
"""x' makes KL(p_P(x) || p_S(x')) large."""

HPARAMS: Mapping[str, float] = MappingProxyType(
    {"temperature": 5.0, "labels": 0.0, "peer": 1.0, "own": 1.0, "peer_labels": 1.0, "peer_student": 0.1}
)
"""t, l1, l2, l3, g1 and g2 of the released command for CIFAR-10."""


def peers(student: Model, peer: Model) -> Networks:
    """Both networks, as `create_state` and `fit` take them."""
    return Networks({STUDENT: student.init, PEER: peer.init})


def peer_aid(
    student: Model,
    peer: Model,
    *,
    attack: str | Call = ATTACK,
    form: Literal["paper", "release"] = "paper",
    augment: Augment | None = None,
    steps: int | None = None,
) -> Recipe:
    """The student's loss and the peer's, per example:

    l1 CE(S(x'), y) + l2 t^2 KL(p_P(x') || p_S(x')) + l3 t^2 KL(p_S(x) || p_S(x'))   p at temperature t
    + g1 CE(P(x'), y) + g2 KL(p_S(x') || p_P(x'))

    The student is asked about x' and then about x, the peer about x', both in training mode; the attack asks both in
    evaluation mode. An example without a label has no cross-entropy. The numbers are hyper-parameters (`HPARAMS`), and
    those of the attack by its name, `pgd.epsilon`.

    Args:
        student, peer: the networks, for the same classes.
        attack: as `read_attack` takes it; `peer(clean)` is the peer's answer.
        form: "paper" sums each KL over classes and stops the gradient of its left; the release takes the mean over
            classes, and lets the gradient through p_S(x) and, of the peer's loss, through p_S(x'), so that this one
            trains the student too. Its third pass of the student, x' once more, moves no weight and is left out.
        augment: applied to the images of each step, before the attack.
        steps: of the run; needed where a schedule stands in the attack.

    Returns:
        A recipe with the metrics `accuracy`, `attacked_accuracy` and `peer_accuracy` (both on x'), and each term.

    Raises:
        BadInput: another form, or an attack that cannot be read.

    Reference:
        Jung, Jang, Song, Lee, PeerAiD: Improving Adversarial Distillation from a Specialized Peer Tutor, CVPR 2024,
        and its released code.
    """
    if form not in ("paper", "release"):
        raise BadInput(f"form={form!r}; accepted: paper, release")
    divergence = response.mean_kl if form == "release" else response.kl
    read = read_attack(attack, steps=steps, teachers=(PEER,))
    held = jax.lax.stop_gradient if form == "paper" else lambda x: x

    def ask(network: str, variables: PyTree, image: Array, beside: Array) -> Array:
        return peer.apply(variables, image, train=False, key=None)[0].logits

    def loss_fn(params: PyTree, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        state = state.replace(params=params)
        batch, key = augmented(batch, key, augment, run_key=state.key)
        label, mask = jnp.asarray(batch["label"]), jnp.asarray(batch["mask"])
        own, theirs = ({"params": params[name], **state.model_state[name]} for name in (STUDENT, PEER))
        image, rows = attacked_images(read.attacked, student, ask, {PEER: theirs}, state, batch, key)
        mine, moved = student.apply(own, image, train=True, key=key, mask=mask)
        clean, moved = student.apply(
            {"params": params[STUDENT], **moved}, jnp.asarray(batch["inputs"]), train=True,
            key=jax.random.fold_in(key, 2), mask=mask,
        )  # fmt: skip
        answered, peer_moved = peer.apply(theirs, image, train=True, key=jax.random.fold_in(key, 3), mask=mask)
        s, p, where = mine.logits, answered.logits, mask > 0
        soft = {"temperature": need(state, "temperature"), "where": where}
        terms = {
            "labels": response.cross_entropy(s, label),
            "peer": divergence(s, jax.lax.stop_gradient(p), **soft),
            "own": divergence(s, held(clean.logits), **soft),
            "peer_labels": response.cross_entropy(p, label),
            "peer_student": divergence(p, held(s), temperature=1.0, where=where),
        }
        metrics: Metrics = {
            "accuracy": (correct(clean.logits, label), known(label)),
            "attacked_accuracy": (correct(s, label), known(label) * rows),
            "peer_accuracy": (correct(p, label), known(label) * rows),
            **{name: (x, known(label)) if name.endswith("labels") else x for name, x in terms.items()},
        }
        total = sum((need(state, name) * x for name, x in terms.items()), jnp.zeros(()))
        return total, Aux({STUDENT: moved, PEER: peer_moved}, metrics)

    function: LossFn = loss_fn
    return Recipe(function, {**HPARAMS, **read.hparams})
