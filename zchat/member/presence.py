"""Beats: who is here, and whether what we see is fresh.

Theory of operation. A beat carries a random `ask` of its own and echoes the last asks its author
heard. Who hears an echo of an ask it sent at time t knows that the other was alive after t, and, if
the other's checked place is not above one's own, that nothing older is being held back: "fresh as
of t". Recorded or delayed beats prove nothing, and no clock but one's own is used. Whoever is heard
is expected to prove it soon; only a beat that echoes us says that somebody came, or left.

Rules of this file: time in seconds (monotonic) and randomness come in as arguments; a beat from
this very process (echoed by nobody) changes nothing.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from zchat.protocol.body import Beat
from zchat.protocol.limits import MAX_ECHOES

_ROTATE_ABOVE = 300
_ASKS_REMEMBERED = 16
_STALE_INTERVALS = 3
_JITTER = 0.2
_AWAY_INTERVALS = 20
_MOST_HEARD = 10_000


@dataclass(frozen=True)
class Rhythm:
    """The bounds of the interval between beats, in seconds."""

    min_s: float
    max_s: float


class Parts(NamedTuple):
    """What this file gives to a beat."""

    ask: bytes
    echo: tuple[bytes, ...]
    number: int


class _Ask(NamedTuple):
    """What somebody wants echoed, and whether that is a member whose place agrees with ours."""

    ask: bytes
    vouches: bool


class Change(NamedTuple):
    """Somebody came (`here`) or went."""

    key: bytes
    here: bool


class Presence:
    """Who was heard in one room since this process joined it."""

    def __init__(self, rhythm: Rhythm, now: float) -> None:
        self._rhythm = rhythm
        self._heard_at: OrderedDict[bytes, float] = OrderedDict()  # by author, newest last
        self._names: dict[bytes, str] = {}
        self._proved_at: dict[bytes, float] = {}  # of those, who echoed us
        self._counts: OrderedDict[tuple[bytes, bytes], int] = OrderedDict()
        self._asks: OrderedDict[bytes, _Ask] = OrderedDict()  # by author, newest last
        self._own_asks: OrderedDict[bytes, float] = OrderedDict()
        self._count = 0
        self._next_at = now
        self._fresh_at = now
        self._expected_since = now
        self._is_owed = False  # who was missed was forgotten, and nobody proved anything since

    @property
    def interval_s(self) -> float:
        """min(max, max(min, N seconds)), N the members heard of."""
        crowd = len(self._heard_at) + 1
        return min(self._rhythm.max_s, max(self._rhythm.min_s, float(crowd)))

    def here(self, now: float) -> frozenset[bytes]:
        """Whose beats were heard not long ago."""
        recent = now - _STALE_INTERVALS * self.interval_s
        return frozenset(key for key, at in self._proved_at.items() if at >= recent)

    def name_of(self, key: bytes) -> str:
        """What a member heard here calls itself."""
        return self._names.get(key, "somebody")

    # ---- speaking ----

    def begin(self, now: float) -> None:
        """A beat is due at once: whoever does not know us yet answers it soon."""
        self._next_at = min(self._next_at, now)

    def is_due(self, now: float) -> bool:
        return now >= self._next_at

    def beat(self, now: float, ask: bytes, jitter: float) -> Parts:
        """The parts of a beat sent now. `ask` is 8 random bytes, `jitter` in 0...1.

        In a crowd only a share of the beats is sent: the interval grows with the number heard.
        """
        self._own_asks[ask] = now
        while len(self._own_asks) > _ASKS_REMEMBERED:
            self._own_asks.popitem(last=False)
        self._count += 1
        self._plan(now, self.interval_s * (1 - _JITTER + 2 * _JITTER * jitter))
        asks = sorted(self._asks.values(), key=lambda each: each.vouches)  # made-up keys come last
        echo = tuple(each.ask for each in asks[-MAX_ECHOES:])
        return Parts(ask, echo, self._count)

    def spoke(self, now: float, jitter: float) -> None:
        """A message went out: it says as much as a beat, so the next one can wait.

        Not while somebody waits for an echo: only beats carry those.
        """
        if not self._asks:
            self._plan(now, self.interval_s * (1 - _JITTER + 2 * _JITTER * jitter))

    def _plan(self, now: float, wait_s: float) -> None:
        crowd = len(self._heard_at)
        self._next_at = now + wait_s * max(1.0, crowd / _ROTATE_ABOVE)

    # ---- hearing ----

    def heard(
        self, key: bytes, beat: Beat, now: float, *, vouches: bool, jitter: float
    ) -> Change | None:
        """A beat came. `vouches`: by a known key, its place not above ours and on our chain."""
        if not self._is_newer(key, beat):
            return None
        asked_at = [self._own_asks[ask] for ask in beat.echo if ask in self._own_asks]
        if beat.leaving:
            return self._left(key) if asked_at else None
        self._forget(now)
        if key not in self._heard_at:
            self._expect(now, jitter)
        self._heard_at[key] = now
        self._heard_at.move_to_end(key)
        self._names[key] = beat.name
        self._asks[key] = _Ask(beat.ask, vouches)
        self._asks.move_to_end(key)
        if vouches:
            self._is_owed = self._is_owed and max(asked_at, default=0.0) <= self._fresh_at
            self._fresh_at = max([self._fresh_at, *asked_at])
        if not asked_at:
            return None
        is_new = key not in self._proved_at
        self._proved_at[key] = now
        return Change(key, here=True) if is_new else None

    def _is_newer(self, key: bytes, beat: Beat) -> bool:
        """Whether this is no beat that was heard before, or one from before it."""
        name = key, beat.incarnation
        if self._counts.get(name, 0) >= beat.count:
            return False
        self._counts[name] = beat.count
        if len(self._counts) > _MOST_HEARD:
            self._counts.popitem(last=False)
        return True

    def _expect(self, now: float, jitter: float) -> None:
        """Somebody new is there: say soon that we are, too, so that each can echo the other."""
        if not self._heard_at and not self._is_owed:
            self._expected_since = now
        soon = min(self.interval_s, max(2.0, len(self._heard_at) * 0.1))
        self._next_at = min(self._next_at, now + soon * jitter)

    def _forget(self, now: float) -> None:
        """Who was silent for long is away; a crowd of made-up keys must not fill memory."""
        long_ago = now - _AWAY_INTERVALS * self.interval_s
        while self._heard_at:
            key, at = next(iter(self._heard_at.items()))
            if at >= long_ago and len(self._heard_at) < _MOST_HEARD:
                return
            self._is_owed = self._is_owed or bool(self.stale_s(now))
            self._left(key)

    def _left(self, key: bytes) -> Change | None:
        self._asks.pop(key, None)
        self._names.pop(key, None)
        self._heard_at.pop(key, None)
        if self._proved_at.pop(key, None) is None:
            return None
        return Change(key, here=False)

    def stale_s(self, now: float) -> float:
        """Seconds without proof of freshness, once that is worth saying; else 0."""
        silence = now - max(self._fresh_at, self._expected_since)
        expected = bool(self._heard_at)
        return silence if expected and silence > _STALE_INTERVALS * self.interval_s else 0.0
