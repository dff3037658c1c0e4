"""Teachers of different classes and one student of the union of them all.

Teacher t knows the classes L_t; class l of its own numbering is class `maps[t][l]` of the union, written down and never
guessed from names or order. A teacher's answer says how its own classes relate to each other and nothing of the rest,
so a union of answers needs either classes that two teachers share (`kdjax.ensembles.unify`) or a gate (`gated_union`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.sparse.csgraph import connected_components

from kdjax.ensembles.pools import mean_probability
from kdjax.losses._rows import Scalar, clean
from kdjax.types import BadInput

ABSENT = -1e9
"""The logit of a class that a teacher does not know. Finite, so that 0·ABSENT is 0 and no gradient is NaN; its
probability is exactly 0 at every temperature up to 1e6."""


@dataclass(frozen=True)
class LabelSpaces:
    """Which classes of the union each teacher knows.

    Attributes:
        maps: `maps[t][l]`, from 0 to union - 1, is the union's number of teacher t's own class l.
        union: how many classes there are in all; each is known to one teacher at least.

    Raises:
        BadInput: no teachers, a teacher without classes, a number out of range, one twice in a teacher's map, or a
            class that nobody knows.

    >>> LabelSpaces(maps=((0, 1, 2), (2, 3)), union=4).mask.astype(int)
    array([[1, 1, 1, 0],
           [0, 0, 1, 1]])
    """

    maps: tuple[tuple[int, ...], ...]
    union: int

    def __post_init__(self) -> None:
        if not self.maps:
            raise BadInput("maps=(); accepted: one map or more, one per teacher")
        for t, own in enumerate(self.maps):
            wrong = sorted({c for c in own if not 0 <= c < self.union})
            twice = sorted({c for c in own if own.count(c) > 1})
            if not own:
                raise BadInput(f"maps[{t}]=(); accepted: the union's number of each of the teacher's classes")
            if wrong:
                raise BadInput(f"maps[{t}]={own}: {wrong} out of range; accepted: 0 to {self.union - 1}")
            if twice:
                raise BadInput(f"maps[{t}]={own}: {twice} more than once; accepted: each class at most once")
        unknown = np.flatnonzero(~self.mask.any(0)).tolist()
        if unknown:
            raise BadInput(f"union={self.union}: no teacher knows {unknown}; accepted: each class in some map")

    @property
    def mask(self) -> Bool[np.ndarray, "teachers union"]:
        """True where teacher t knows class c."""
        known = np.zeros((len(self.maps), self.union), bool)
        for t, own in enumerate(self.maps):
            known[t, list(own)] = True
        return known


def components(spaces: LabelSpaces) -> tuple[tuple[int, ...], ...]:
    """Teachers that shared classes link, directly or through others: the components of the overlap graph.

    Args:
        spaces: who knows what.

    Returns: the teachers of each component, in order of their first.

    >>> components(LabelSpaces(maps=((0, 1), (2, 3), (1, 4)), union=5))
    ((0, 2), (1,))
    """
    shared = spaces.mask.astype(int) @ spaces.mask.T
    count, component = connected_components(shared, directed=False)
    return tuple(tuple(np.flatnonzero(component == c).tolist()) for c in range(count))


def refuse_unlinked(spaces: LabelSpaces) -> None:
    """Refuse teachers whose answers alone cannot say how likely each class of the union is.

    Teacher t's answer is q(l) / Σ_{k in L_t} q(k). Where no teacher knows classes of two blocks, q may move any
    share of its mass from one block to the other, and every answer stays what it was.

    Args:
        spaces: who knows what.

    Raises:
        BadInput: more than one component; the message names each.
    """
    found = components(spaces)
    if len(found) > 1:
        blocks = "; ".join(
            f"teachers {list(block)} with classes {np.flatnonzero(spaces.mask[list(block)].any(0)).tolist()}"
            for block in found
        )
        raise BadInput(
            f"maps: no shared class links these blocks: {blocks}. How probable one block is against another is then "
            "not identifiable: each teacher speaks of its own classes only, so rescaling a block changes no answer "
            "and no loss. Expected: teachers that share classes, or a gate that says whose example it is (gated_union)"
        )


def embed(logits: Float[Array, "batch classes"], spaces: LabelSpaces, teacher: int) -> Float[Array, "batch union"]:
    """A teacher's logits at their places in the union, `ABSENT` elsewhere.

    softmax(·/T) of the result is the teacher's answer on its classes and exactly 0 on the rest: what losses and pools
    of probabilities need. Those that look at raw logits (`logit_mse`, `mean_logit`) would look at `ABSENT`.

    Args:
        logits: the teacher's, `[batch, classes]`, in its own numbering. Halves become float32.
        spaces: who knows what.
        teacher: its number.

    Returns: `[batch, union]`. The gradient of a class that is there is passed on.

    Raises: BadInput: another number of classes than in its map.

    >>> spaces = LabelSpaces(maps=((0, 1), (2, 1)), union=3)
    >>> embed(jnp.array([[5.0, 7.0]]), spaces, 1)
    Array([[-1.e+09,  7.e+00,  5.e+00]], dtype=float32)
    """
    own = spaces.maps[teacher]
    if logits.shape[1] != len(own):
        raise BadInput(f"logits of teacher {teacher} have shape {logits.shape}; accepted: [batch, {len(own)}], its map")
    logits = clean(logits, None)
    return jnp.full((len(logits), spaces.union), ABSENT, logits.dtype).at[:, np.array(own)].set(logits)


def embed_all(answers: Sequence[Float[Array, "batch _"]], spaces: LabelSpaces) -> Float[Array, "teachers batch union"]:
    """Every teacher's logits in the union, `embed` by `embed`: what pools of `kdjax.ensembles.pools` take.

    Args:
        answers: one `[batch, classes]` per teacher, each with as many classes as its map.
        spaces: who knows what.

    Returns: `[teachers, batch, union]`.

    Raises: BadInput: another number of teachers, of examples, or of classes.
    """
    shapes = [a.shape for a in answers]
    if len(answers) != len(spaces.maps) or len({s[0] for s in shapes}) > 1:
        raise BadInput(f"answers have shapes {shapes}; accepted: {len(spaces.maps)} of [batch, classes], one batch")
    return jnp.stack([embed(a, spaces, t) for t, a in enumerate(answers)])


def gated_union(
    answers: Sequence[Float[Array, "batch _"]],
    weights: Float[Array, "batch teachers"],
    spaces: LabelSpaces,
    *,
    temperature: Scalar = 1.0,
) -> Float[Array, "batch union"]:
    """One answer over the union, from a gate that says whose example each is.

    softmax(·/T)_c = Σ_t π_t·softmax(v_t/T)_c over the teachers that know c

    Args:
        answers: one `[batch, classes]` per teacher, each with as many classes as its map.
        weights: π `[batch, teachers]`, rows that sum to 1: the domain where it is known, or any gate.
        spaces: who knows what; it need not be linked.
        temperature: T > 0, that of the loss that follows.

    Returns: `[batch, union]`, T log probabilities; about `ABSENT`, and not -inf, where the probability is 0.

    Raises: BadInput: shapes that do not fit, or a temperature ≤ 0.

    >>> spaces = LabelSpaces(maps=((0, 1), (2, 3)), union=4)
    >>> answers = jnp.log(jnp.array([[0.9, 0.1]])), jnp.log(jnp.array([[0.5, 0.5]]))
    >>> print(np.exp(gated_union(answers, jnp.array([[0.8, 0.2]]), spaces)).round(5))  # 0.72 = 0.8·0.9
    [[0.72 0.08 0.1  0.1 ]]
    """
    return mean_probability(embed_all(answers, spaces), weights, temperature=temperature)
