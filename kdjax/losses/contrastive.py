"""Distillation losses that tell an example's own embedding from other examples', and the memories they need.

    crd(student, teacher, *, memory, index, negatives, ...) -> [batch]      against a bank of every example
    queue(student, teacher, *, queue, ...) -> [batch]                       against the last examples of a stream

- `student`, `teacher`: embeddings `[batch, dims]` of one width, brought to length 1 here (zeros stay zeros, with
  gradient 0). Halves are computed in float32. Gradients flow to both sides: where the teacher's embedding is a trained
  layer on a frozen teacher, as in CRD, it needs them; elsewhere the recipe stops them.
- `where`: `[batch]`, True or non-zero for the rows to keep. It does not weigh. A row left out gives exactly 0, sends no
  gradient and leaves no trace in a memory, whatever it holds: a padded batch means what it would without.

A memory is a pytree of the train state: it is saved with it, and no gradient enters it. One step with a bank is

    memory = set_normalisers(memory, s, t, index=i, negatives=j, where=where)
    loss   = crd(s, t, memory=memory, index=i, negatives=j, where=where)
    memory = update_memory(memory, s, t, i, where=where)

and with a queue the loss, then `push`. All of it is a function of the global batch: under pmap, gather first.

A flag's `contrastive.NAME` is the loss `NAME` here, and `remember_NAME(examples, ...)` says how a train step keeps its
memory: a loss with another memory is those two functions, and nothing elsewhere.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from kdjax.losses import _maps, _scores
from kdjax.losses._rows import Mask, Scalar, blank, check_shapes, clean, pair, require_fraction, require_positive
from kdjax.types import BadInput, PyTree

Embeddings: TypeAlias = Float[Array, "batch dims"]
Index: TypeAlias = Int[Array, " batch"]
Negatives: TypeAlias = Int[Array, "batch negatives"]
PerExample: TypeAlias = Float[Array, " batch"]

_CRD_EPS = 1e-7


class Memory(NamedTuple):
    """Both sides' embeddings of every example, `[examples, dims]`, and their constants Z, 0 until they are set."""

    student: Array
    teacher: Array
    z_student: Array
    z_teacher: Array


class Blocks(NamedTuple):
    """Examples sorted by class, `order [examples]`, and where each one's class begins and how large it is."""

    order: Array
    first: Array
    size: Array


class Queue(NamedTuple):
    """The last embeddings pushed: `keys [slots, dims]`; `head []`, the slot that is next; how many are `filled []`."""

    keys: Array
    head: Array
    filled: Array


class Remembering(NamedTuple):
    """A loss and its memory as a train step uses them.

    `dims`: the width of the embeddings that it wants. `init(key) -> memory`. `step(student, teacher, *, memory, facts,
    key, index, where) -> ([batch], memory)`: `index [batch]`, the examples' places in the data set; `key`, the same on
    every device. `about(labels [examples]) -> facts`: what a step must know of the data set, found once on the host;
    None where that is nothing: then nobody asks for the labels.
    """

    dims: int
    init: Callable[[Array], PyTree]
    step: Callable[..., tuple[PerExample, PyTree]]
    about: Callable[[np.ndarray], PyTree] | None = None


def init_memory(key: Array, examples: int, dims: int) -> Memory:
    """A bank of random embeddings, uniform on ±√(3/dims) so that the mean square length is 1; Z not set.

    It takes 8·examples·dims bytes: 51 MB for 50,000 examples of 128 dims.

    >>> init_memory(jax.random.key(0), 10, 4).teacher.shape
    (10, 4)
    """
    for name, value in (("examples", examples), ("dims", dims)):
        if value < 1:
            raise BadInput(f"{name}={value}; accepted: at least 1")
    reach = math.sqrt(3 / dims)
    student, teacher = jax.random.uniform(key, (2, examples, dims), minval=-reach, maxval=reach)
    return Memory(student, teacher, jnp.zeros(()), jnp.zeros(()))


def crd(
    student: Embeddings,
    teacher: Embeddings,
    *,
    memory: Memory,
    index: Index,
    negatives: Negatives,
    temperature: Scalar = 0.07,
    where: Mask = None,
) -> PerExample:
    """Contrastive representation distillation, as its authors released it: both sides' noise-contrastive loss.

    With N examples, K negatives j of example i, x a side's embedding, m the *other* side's bank and P_j =
    exp(x·m_j / T) / Z, a side's loss is -log(P_i / (P_i + K/N + ε)) - Σ_j log((K/N) / (P_j + K/N + ε)), ε = 1e-7.
    Where the memory has no Z yet, it is what `set_normalisers` would set.

    The scores of a bank of up to 8·K examples are one product with all of it, each counted as often as it was drawn,
    so that nothing is gathered and a bank split over devices stays where it lies; those of a larger one are gathered,
    64 negatives at a time, and again for the gradient. So memory is a small multiple of batch·K beside the bank's.

    Args:
        student, teacher: `[batch, dims]`. where: rows to keep.
        memory: of both sides, from before this batch; a constant.
        index: `[batch]`, the examples' places in the bank. One beyond it: NaN, so that it is seen.
        negatives: `[batch, K]`, places of other examples, as `draw_negatives` gives them.
        temperature: T > 0; exp(1/T)·N must be a float32, so not below 0.014.

    Returns: `[batch]`, nats; (K + 1)·log(K + 1) - K·log(K), twice, where nothing is told apart.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> blind = Memory(jnp.zeros((5, 3)), jnp.zeros((5, 3)), jnp.zeros(()), jnp.zeros(()))
    >>> crd(jnp.ones((1, 3)), jnp.ones((1, 3)), memory=blind, index=jnp.array([0]), negatives=jnp.array([[4]])).round(4)
    Array([2.7726], dtype=float32)

    Reference: Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020.
    """
    sides = _scores.both_scores(student, teacher, memory[:2], index, negatives, temperature, where)
    examples, count = len(memory.student), negatives.shape[1]
    noise = math.log(count / examples + _CRD_EPS)

    rows: dict[str, Any] = dict(index=index, negatives=negatives, temperature=temperature, where=where)
    constants = set_normalisers(memory, student, teacher, **rows)[2:]

    total = jnp.zeros(len(student), sides[0].own.dtype)
    for (own, others, times), z in zip(sides, constants, strict=True):
        # A batch without a row to keep sets none.
        log_z = jnp.log(jnp.where(z > 0, z, examples)).astype(own.dtype)
        total += jax.nn.softplus(noise + log_z - own)
        total += (times * jax.nn.softplus(others - (log_z + noise))).sum(1)
    return blank(total + 2 * count * math.log1p(_CRD_EPS * examples / count), where)


def set_normalisers(
    memory: Memory,
    student: Embeddings,
    teacher: Embeddings,
    *,
    index: Index,
    negatives: Negatives,
    temperature: Scalar = 0.07,
    where: Mask = None,
) -> Memory:
    """The memory with Z = N·mean exp(x·m_j / T) of this batch, negatives and own, if it had none; else as it was.

    The first batch decides for the whole run. A batch without a row to keep decides nothing. Once Z is set this costs
    nothing (under `vmap`, where both branches run, as much as the scores of `crd`).

    Args:
        memory, student, teacher, index, negatives, temperature, where: as for `crd`.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.
    """

    def measured() -> tuple[Array, Array]:
        sides = _scores.both_scores(student, teacher, memory[:2], index, negatives, temperature, where)
        anything = jnp.any(_maps.kept(student, where))
        first, second = (jnp.where(anything, jnp.exp(_scores.log_z(s, len(memory.student), where)), 0) for s in sides)
        return first.astype(memory.z_student.dtype), second.astype(memory.z_teacher.dtype)

    def known() -> tuple[Array, Array]:
        return memory.z_student, memory.z_teacher

    z_student, z_teacher = jax.lax.stop_gradient(jax.lax.cond(memory.z_student > 0, known, measured))
    return memory._replace(z_student=z_student, z_teacher=z_teacher)


def update_memory(
    memory: Memory,
    student: Embeddings,
    teacher: Embeddings,
    index: Index,
    *,
    momentum: Scalar = 0.5,
    where: Mask = None,
) -> Memory:
    """The memory with this batch's rows replaced by normalise(momentum·old + (1 - momentum)·new); no gradient.

    Where an example comes twice, its last row that is kept counts, alone.

    Args:
        memory, student, teacher, index, where: as for `crd`.
        momentum: from 0 to 1.

    Raises: BadInput: shapes that do not fit, or a momentum outside [0, 1].
    """
    require_fraction("momentum", momentum)
    _scores.check(student, teacher, memory[:2], index, where)
    keep = _maps.kept(student, where)
    again = jnp.triu(index[:, None] == index[None, :], 1) & keep[None, :]
    place = jnp.where(keep & ~again.any(1), index, len(memory.student))  # beyond the end: dropped

    def updated(bank: Array, new: Array) -> Array:
        old = bank.at[blank(index, where)].get(mode="fill", fill_value=0)
        mixed = _scores.unit(momentum * old + (1 - momentum) * _scores.unit(clean(new, where)))
        return jax.lax.stop_gradient(bank.at[place].set(mixed.astype(bank.dtype), mode="drop"))

    return memory._replace(student=updated(memory.student, student), teacher=updated(memory.teacher, teacher))


def class_blocks(labels: Integer[np.ndarray, " examples"]) -> Blocks:
    """What `draw_negatives` needs to know about a data set, computed once on the host; 12 bytes per example.

    Args:
        labels: `[examples]`; negative where not known: such an example is a class of its own. `np.arange(examples)`
            lets all others be negatives.

    Raises: BadInput: no example has a negative.

    >>> class_blocks(np.array([1, 0, 1])).order
    Array([1, 0, 2], dtype=int32)
    """
    own = labels.max(initial=0) + 1 + np.arange(len(labels))
    classes = np.where(labels < 0, own, labels)
    _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise BadInput(f"labels of {len(labels)} examples in {len(counts)} class; accepted: two classes at least")
    columns = (np.argsort(classes, kind="stable"), (np.cumsum(counts) - counts)[inverse], counts[inverse])
    return Blocks(*(jnp.asarray(column, jnp.int32) for column in columns))


def draw_negatives(key: Array, index: Index, *, blocks: Blocks, count: int) -> Negatives:
    """For each example `count` examples of other classes, uniform and independent: one may come twice.

    The released code draws without replacement where a data set is large enough. The estimator is built for
    independent draws, and those need neither a sort nor a table of classes × examples.

    Args:
        key: PRNG key.
        index: `[batch]`, places in the data set.
        blocks: of the data set; handed to a compiled step as data.
        count: K, at least 1.

    Returns: `[batch, count]`, places in the data set.

    Raises: BadInput: `count` below 1.
    """
    if count < 1:
        raise BadInput(f"count={count}; accepted: at least 1")
    first, size = blocks.first[index][:, None], blocks.size[index][:, None]
    place = jax.random.randint(key, (len(index), count), 0, len(blocks.order) - size)
    return blocks.order[jnp.where(place < first, place, place + size)]


def init_queue(slots: int, dims: int) -> Queue:
    """An empty queue.

    >>> init_queue(8, 4).filled
    Array(0, dtype=int32)
    """
    for name, value in (("slots", slots), ("dims", dims)):
        if value < 1:
            raise BadInput(f"{name}={value}; accepted: at least 1")
    return Queue(jnp.zeros((slots, dims)), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def queue(
    student: Embeddings, teacher: Embeddings, *, queue: Queue, temperature: Scalar = 0.07, where: Mask = None
) -> PerExample:
    """InfoNCE for data sets too large for a bank: which of the teacher's embeddings is this example's?

    -log(exp(s·t / T) / (exp(s·t / T) + Σ_q exp(s·q / T))) over the filled slots q. Memory is batch·slots.

    SEED's loss tends to this one as the teacher's temperature there tends to 0, since nothing is nearer to the
    teacher's embedding than itself. An example's own embedding of an epoch ago is a negative like others as long as the
    queue holds it: take fewer slots than examples.

    Args:
        student, teacher: `[batch, dims]`. where: rows to keep.
        queue: the teacher's embeddings of earlier batches; a constant.
        temperature: T > 0.

    Returns: `[batch]`, nats; 0 while the queue is empty.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> one = Queue(jnp.array([[0.0, 1], [9, 9]]), jnp.array(1), jnp.array(1))
    >>> loss = queue(jnp.array([[3.0, 0]]), jnp.array([[1.0, 0]]), queue=one, temperature=1.0)
    >>> loss.round(5)  # ln(1 + 1/e)
    Array([0.31326], dtype=float32)

    Reference: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, equation 1;
    Fang et al., "SEED: Self-supervised Distillation for Visual Representation", ICLR 2021.
    """
    require_positive("temperature", temperature)
    student, teacher = (_scores.unit(x) for x in pair(student, teacher, where))
    _scores.check_width(student, queue.keys, "the queue's keys")
    keys = jax.lax.stop_gradient(queue.keys).astype(student.dtype)
    own = jnp.sum(student * teacher, 1) / temperature
    others = jnp.matmul(student, keys.T, precision=_maps.EXACT) / temperature
    filled = (jnp.arange(len(keys)) < queue.filled).astype(own.dtype)
    return blank(_scores.log_totals(_scores.Scores(own, others, jnp.broadcast_to(filled, others.shape))) - own, where)


def push(queue: Queue, embeddings: Embeddings, *, where: Mask = None) -> Queue:
    """The queue with the rows to keep at its end, in their order and of length 1; the oldest make room. No gradient.

    Args:
        queue: as before.
        embeddings: `[batch, dims]` of the teacher, not more rows than slots. where: rows to keep.

    Raises: BadInput: shapes that do not fit, more rows than slots.
    """
    check_shapes(embeddings, where=where)
    _scores.check_width(embeddings, queue.keys, "the queue's keys")
    slots = len(queue.keys)
    if len(embeddings) > slots:
        raise BadInput(f"{len(embeddings)} rows for a queue of {slots} slots; accepted: not more rows than slots")
    keep = _maps.kept(embeddings, where).astype(jnp.int32)
    place = jnp.where(keep > 0, (queue.head + jnp.cumsum(keep) - 1) % slots, slots)  # beyond the end: dropped
    new = jax.lax.stop_gradient(_scores.unit(clean(embeddings, where))).astype(queue.keys.dtype)
    keys = queue.keys.at[place].set(new, mode="drop")
    added = keep.sum(dtype=queue.head.dtype)  # in float64 mode a sum of int32 is int64
    return Queue(keys, (queue.head + added) % slots, jnp.minimum(queue.filled + added, slots))


def remember_crd(
    examples: int | None,
    *,
    dims: float | int = 128,
    negatives: float | int | None = None,
    temperature: Scalar = 0.07,
    momentum: Scalar = 0.5,
) -> Remembering:
    """CRD as a train step uses it: new negatives of other classes in every step, a bank of every example.

    Args:
        examples: of the data set.
        dims: width of the embeddings, a whole number.
        negatives: K, a whole number up to `examples` - 1; None is 16,384, or all that there are where they are fewer.
        temperature, momentum: as for `crd` and `update_memory`.

    Raises: BadInput: a number that is not whole or out of range, or a data set whose size is not known.
    """
    if examples is None or examples < 2:
        raise BadInput(
            f"examples={examples}: contrastive.crd has a bank of every example; accepted: their number, from 2"
        )
    negatives = min(16384, examples - 1) if negatives is None else negatives
    count = _whole("contrastive.crd: negatives", negatives, examples - 1)
    width = _whole("contrastive.crd: dims", dims)

    def step(
        student: Array, teacher: Array, *, memory: Memory, facts: Any, key: Array, index: Any, where: Mask = None
    ) -> tuple[Array, Memory]:
        if index is None or facts is None:
            raise BadInput(f"index={index}, facts={facts}: contrastive.crd needs the examples' places and class_blocks")
        drawn = draw_negatives(key, index, blocks=facts, count=count)
        rows: dict[str, Any] = dict(index=index, negatives=drawn, temperature=temperature, where=where)
        memory = set_normalisers(memory, student, teacher, **rows)
        loss = crd(student, teacher, memory=memory, **rows)
        return loss, update_memory(memory, student, teacher, index, momentum=momentum, where=where)

    return Remembering(width, lambda key: init_memory(key, examples, width), step, class_blocks)


def remember_queue(
    examples: int | None, *, dims: float | int = 128, slots: float | int | None = None, temperature: Scalar = 0.07
) -> Remembering:
    """InfoNCE as a train step uses it: against a queue of the teacher's embeddings, which then join it.

    Args:
        examples: of the data set, or None.
        dims: width of the embeddings, a whole number.
        slots: of the queue, a whole number from the batch size up; None is 16,384, or half of `examples` where that is
            less, so that few examples are compared with their own embedding of the epoch before.
        temperature: as for `queue`.

    Raises: BadInput: a number that is not whole or out of range.
    """
    slots = slots if slots is not None else 16384 if examples is None else min(16384, examples // 2)
    held, width = _whole("contrastive.queue: slots", slots), _whole("contrastive.queue: dims", dims)

    def step(student: Array, teacher: Array, *, memory: Queue, where: Mask = None, **_: Any) -> tuple[Array, Queue]:
        loss = queue(student, teacher, queue=memory, temperature=temperature, where=where)
        return loss, push(memory, teacher, where=where)

    return Remembering(width, lambda key: init_queue(held, width), step)


def _whole(name: str, value: float | int, most: float | int = math.inf) -> int:
    if value != round(value) or not 1 <= value <= most:
        raise BadInput(
            f"{name}={value:g}; accepted: a whole number from 1" + (f" to {most}" if most < math.inf else "")
        )
    return int(value)
