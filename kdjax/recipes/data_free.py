"""Extraction without data: a generator makes the images on which the student and a victim that only answers differ.

    dfme(directions=1, step=1e-3, generator_steps=1, student_steps=5, noise=256, width=64, rate=1e-4)

A game goes on in rounds. Each makes its questions, of which a victim is asked outside of any compiled step; its answers
are data of one step, a list of updates: the student's, on images of the generator as it stands, then the generator's.
"""

import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from kdjax.losses import response
from kdjax.models.generator import generator as generating
from kdjax.models.generator import pixels
from kdjax.recipes.distill import distill
from kdjax.spec import Family
from kdjax.teachers.stored import cached
from kdjax.training.state import variables
from kdjax.training.update import Update
from kdjax.types import STUDENT, Aux, BadInput, Batch, Loss, LossFn, Model, Networks, TrainState

GENERATOR = "generator"


class Game(NamedTuple):
    """Who plays, what a round asks, and what it learns.

    Attributes:
        networks: by name, the student among them.
        questions: for each row of a batch, Q, in a round.
        turns: of the questions, the first, each an image of another of the student's updates.
        make: `(state, asked [B, Q]) -> batch`: a round without its answers. `inputs [B, Q, ...]` are its questions, of
            which those count that `asked` marks.
        updates: of a step on that batch with `answers [B, Q, K]`, by the student's optimizer and a factor of the other
            networks' rates, `round -> factor`.
        hparams: that they read, but for the learning rate.
    """

    networks: Networks
    questions: int
    turns: int
    make: Callable[[TrainState, Array], dict[str, Array]]
    updates: Callable[[optax.GradientTransformation, Callable[[Any], Any]], tuple[Update, ...]]
    hparams: dict[str, float]


def dfme(
    student: Model, directions: int = 1, step: float = 1e-3, generator_steps: int = 1, student_steps: int = 5,
    noise: int = 256, width: int = 64, rate: float = 1e-4,
) -> Game:  # fmt: skip
    """The student goes down, and the generator up, ||S(x) - t(x)||_1 / K: t are the victim's logarithmic probabilities
    minus their mean over classes, which is its logits minus theirs.

    A generator's update asks about each image and about each of its neighbours, of which it estimates the slope
    (`forward_differences`) in the generator's outputs before they are squashed; the student is in evaluation mode
    there. Where it has several updates in a round, all slopes are those at the generator that the round began with.

    Args:
        student: the network that extracts.
        directions: m, neighbours of an image.
        step: epsilon, how far they are from it, L2.
        generator_steps, student_steps: updates of each in a round.
        noise: numbers that an image is made of.
        width: of the generator.
        rate: of its Adam.

    Raises:
        BadInput: a number below 1, a step or a rate that is not above 0.

    Reference:
        Truong, Maini, Walls, Papernot, Data-Free Model Extraction, CVPR 2021, algorithm 1, sections 3.2 to 3.5, and the
        code released with it. There the generator moves first; here the student does, so that a round is one request.
    """
    if min(directions, generator_steps, student_steps) < 1 or not (step > 0 and rate > 0):
        raise BadInput(
            f"dfme: directions={directions}, step={step}, generator_steps={generator_steps}, student_steps="
            f"{student_steps}, rate={rate}; accepted: whole numbers from 1, a step and a rate above 0."
        )
    if len(student.input_shape) != 3:
        raise BadInput(f"dfme: a student of inputs {student.input_shape}; accepted: one of images.")
    height, across, channels = student.input_shape
    model = generating((height, across, channels), noise=noise, width=width)
    points = directions + 1

    def make(state: TrainState, asked: Array) -> dict[str, Array]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
        keys, rows, turns = jax.random.split(key), len(asked), student_steps + generator_steps
        mask = jnp.concatenate([asked[:, :student_steps], asked[:, student_steps::points]], 1)

        @partial(jax.vmap, in_axes=1, out_axes=1)  # batch statistics are those of one update's images
        def made(noise: Array, mask: Array) -> Array:
            return model.apply(variables(state, GENERATOR), noise, train=True, key=None, mask=mask)[0].logits

        drawn = jax.random.normal(keys[0], (rows, turns, noise))
        towards = jax.random.normal(keys[1], (rows, generator_steps, directions, *student.input_shape))
        towards /= jnp.sqrt((towards**2).sum((3, 4, 5), keepdims=True))
        images, centre = jnp.split(made(drawn, mask), [student_steps], 1)
        near = jnp.concatenate([centre[:, :, None], centre[:, :, None] + step * towards], 2)
        questions = pixels(jnp.concatenate([images, near.reshape(rows, -1, *student.input_shape)], 1))
        return {
            "inputs": questions, "asked": asked, "mask": asked[:, 0], "noise": drawn[:, student_steps:],
            "directions": towards,
        }  # fmt: skip

    def updates(tx: optax.GradientTransformation, factor: Callable[[Any], Any]) -> tuple[Update, ...]:
        def learns(batch: Batch, time: int) -> Batch:
            one = {"inputs": batch["inputs"][:, time], "mask": batch["asked"][:, time]}
            labels = jnp.full(len(batch["mask"]), -1, jnp.int32)
            return {**one, "label": labels, "teacher_logits": centred(jnp.asarray(batch["answers"][:, time]))}

        def climbs(batch: Batch, time: int) -> Batch:
            at = student_steps + time * points
            asked = {"inputs": batch["inputs"][:, at : at + points], "mask": batch["asked"][:, at]}
            one = {name: batch[name][:, time] for name in ("noise", "directions")}
            return {**asked, **one, "answers": centred(jnp.asarray(batch["answers"][:, at : at + points]))}

        learning = distill(student, cached(), response.logit_l1)
        climbing = climb(student, model, response.logit_l1, step)
        adam = optax.adam(lambda count: rate * factor(jnp.asarray(count) // generator_steps))
        return (
            Update(learning, tx, (STUDENT,), student_steps, STUDENT, learns),
            Update(climbing, adam, (GENERATOR,), generator_steps, GENERATOR, climbs),
        )

    networks = Networks({STUDENT: student.init, GENERATOR: model.init})
    questions = student_steps + generator_steps * points
    return Game(networks, questions, student_steps, make, updates, {"alpha": 1.0, "temperature": 1.0})


def climb(student: Model, generator: Model, loss: Loss, step: float) -> LossFn:
    """How a generator makes the student's loss larger, where only its value is known: its slope in the generator's
    outputs is that of `forward_differences`.

    Args:
        student: who is compared with the victim, in evaluation mode.
        generator: the network that is moved, called `generator`.
        loss: between the two's answers.
        step: of the differences.

    Returns:
        A `LossFn` on batches with `noise [B, D]`, `directions [B, m, ...]`, and at the image and its neighbours
        `inputs [B, 1 + m, ...]` and `answers [B, 1 + m, K]`. It is minus the loss at the image.
    """

    def loss_fn(params: Any, state: TrainState, batch: Batch, key: Array) -> tuple[Array, Aux]:
        state, mask = state.replace(params=params), jnp.asarray(batch["mask"])
        outputs, moved = generator.apply(
            variables(state, GENERATOR), jnp.asarray(batch["noise"]), train=True, key=key, mask=mask
        )
        points, answers = jnp.asarray(batch["inputs"]), jnp.asarray(batch["answers"])
        with jax.default_matmul_precision("highest"):
            flat = points.reshape(-1, *points.shape[2:])
            said = student.apply(variables(state), flat, train=False, key=None)[0].logits
        value = jax.lax.stop_gradient(loss(said, answers.reshape(said.shape)).reshape(points.shape[:2]))
        slope = forward_differences(value, jnp.asarray(batch["directions"]), step)
        # Of the value of the loss, and of the slope of what it was estimated for.
        moves = outputs.logits - jax.lax.stop_gradient(outputs.logits)
        rise = value[:, 0] + (slope * moves).sum(tuple(range(1, slope.ndim)))
        return -rise, Aux({GENERATOR: moved}, {"disagreement": value[:, 0]})

    return loss_fn


def forward_differences(
    value: Float[Array, "batch points"], directions: Float[Array, "batch directions ..."], step: float
) -> Float[Array, "batch ..."]:
    """A slope from values at x and at m neighbours x + step u_k: (d / m) Σ_k u_k (f(x + step u_k) - f(x)) / step.

    Args:
        value: f at x, and at its neighbours, `[B, 1 + m]`.
        directions: u, of length 1, `[B, m, ...]`, in d dimensions.
        step: above 0.

    Returns: `[B, ...]`; over directions drawn from the sphere its mean is the slope of a linear f.

    >>> forward_differences(jnp.array([[1.0, 1.5]]), jnp.array([[[1.0, 0.0]]]), 0.25)  # 2 (1.5 - 1) / 0.25
    Array([[4., 0.]], dtype=float32)

    Reference: Truong, Maini, Walls, Papernot, Data-Free Model Extraction, CVPR 2021, equation 7.
    """
    size = directions[0, 0].size
    rises = (value[:, 1:] - value[:, :1]) / step
    return size * (rises.reshape(*rises.shape, *[1] * (directions.ndim - 2)) * directions).mean(1)


def centred(logits: Float[Array, "... classes"]) -> Float[Array, "... classes"]:
    """Logits minus their mean over classes: of logarithmic probabilities the same as of the logits before softmax."""
    return logits - logits.mean(-1, keepdims=True)


@dataclass(frozen=True)
class Rounds:
    """How a budget is cut: `count` rounds of `questions` for each row, of which the student's are the first `turns`.

    `rows` are spread evenly over the rounds; the `left` questions, fewer than a row has, go to the student's turns of
    the last round. A batch has `height` rows, asked or not.
    """

    count: int
    rows: int
    left: int
    questions: int
    turns: int
    height: int

    def asked(self, number: int) -> Float[np.ndarray, "height questions"]:
        """1 for each question that a round asks, else 0."""
        found = np.zeros((self.height, self.questions), np.float32)
        full = self.before(number + 1) // self.questions - self.before(number) // self.questions
        found[:full] = 1
        if number == self.count - 1:
            more = np.arange(self.left)
            found[full + more // self.turns, more % self.turns] = 1
        return found

    def before(self, number: int) -> int:
        """Questions that were asked before a round."""
        each, more = divmod(self.rows, self.count)
        return self.questions * (each * number + min(number, more))


def rounds(budget: int, batch: int, game: Game, *, multiple_of: int = 1) -> Rounds:
    """As few rounds as ask `budget` questions, to the last one.

    Args:
        budget: questions in all.
        batch: rows of a round, at most; the last round's may be a few more, for what is left.
        game: whose questions they are.
        multiple_of: what the height must be a multiple of.

    Raises:
        BadInput: a budget of less than a row.
    """
    rows, left = divmod(budget, game.questions)
    if not rows:
        raise BadInput(f"{budget} more queries are asked for; accepted: {game.questions} or more, those of one row.")
    height = batch + -(-(game.questions - 1) // game.turns)
    return Rounds(-(-rows // batch), rows, left, game.questions, game.turns, -(-height // multiple_of) * multiple_of)


GAMES = Family(sys.modules[__name__], accepts=lambda function: typing.get_type_hints(function).get("return") is Game)
"""The games by name."""
