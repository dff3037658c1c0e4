"""Ways of asking a victim that only answers, as they are typed.

    random(pool=own), jacobian(pool=own), random, adaptive, uncertainty, k_centre, noise(grain=4), random(answers=hard)
    dfme(directions=1)

A way is a strategy of `kdjax.teachers.queries`, a pool and what the victim answers; or a game of
`kdjax.recipes.data_free`.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

from kdjax import spec
from kdjax.recipes import data_free
from kdjax.recipes.data_free import GAMES
from kdjax.spec import Family
from kdjax.teachers import queries
from kdjax.teachers.queries import STRATEGIES
from kdjax.teachers.serving.policy import POLICIES, Policy

SAID = "soft"
GIVEN = ("known", "count", "rng", "student")
WAYS = Family(
    queries, data_free, accepts=lambda f: f in {*STRATEGIES.functions.values(), *GAMES.functions.values()},
    parts={"answers": POLICIES},
)  # fmt: skip
MADE = {"noise": "noise", **dict.fromkeys(GAMES.names(), "generator")}
"""Ways that ask about no pool's images, and what theirs come from."""
HELP = (
    "ways of asking, STRATEGY(pool=own or public, answers=POLICY), each with the strategy's own settings; strategies, "
    f"and games: {', '.join(WAYS.names())}; policies: {', '.join(POLICIES.names())}"
)
"""The manual of a flag of ways."""


class Way(NamedTuple):
    """How somebody asks: the text, its strategy or its game, the pool's name, or what makes the images, and
    the policy of the answers with its text."""

    text: str
    strategy: partial[Any]
    pool: str
    answers: Policy
    said: str

    @property
    def made(self) -> bool:
        """Whether it makes its images."""
        return self.strategy.func.__name__ in MADE

    @property
    def plays(self) -> bool:
        """Whether it is a game, whose student is the surrogate."""
        return self.strategy.func.__name__ in GAMES.functions

    @property
    def images(self) -> str:
        """What decides which images are asked, whatever is answered."""
        return f"{self.strategy.func.__name__} {sorted(self.strategy.keywords.items())} {self.pool}"


def ways(text: str, *, flag: str, says: str = "") -> list[Way]:
    """Read ways with commas between them.

    Args:
        text: as typed.
        flag: that it was typed for.
        says: the policy of a service, which answers by no other.

    Raises:
        BadInput: an unknown strategy, setting, pool or policy, one way twice, a pool for images that are made.
    """
    found = list[Way]()
    for call in spec.calls(text, flag=flag):
        typed = call.keywords
        made = call.name in MADE
        if made and "pool" in typed:
            raise call.error(f"read pool={typed['pool']!r}; accepted: none, for {call.name} makes its images")
        own = WAYS.bind(call, given=GIVEN, beside=_shared, varying=False)
        pool, answers = str(own.pop("pool", "public")), own.pop("answers", None)
        said = str(typed.get("answers", says or SAID))
        if says and said != says:
            raise call.error(f"read answers={said}: the service answers by {says}; accepted: that, or nothing")
        strategy = partial(WAYS.find(call), **own)
        policy = answers if isinstance(answers, Policy) else POLICIES.resolve(spec.call(said))()
        way = Way(str(call), strategy, MADE.get(call.name, pool), policy, said)
        if any((way.images, way.said) == (other.images, other.said) for other in found):
            raise call.error(f"read {call!r} twice; accepted: each way once")
        found.append(way)
    return found


def _shared(pool: Literal["own", "public"] = "public", answers: str = "") -> None:
    """What can be typed of every way."""
