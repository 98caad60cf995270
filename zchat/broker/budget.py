"""Token buckets: how much an access key or an address may ask of the broker.

Rules of this file: no clock of its own (`now` is seconds on any monotonic clock); what nobody used
for long enough to be full again is forgotten, so memory follows the load and not the history.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

_Who = TypeVar("_Who", bound=Hashable)


class Budget(Generic[_Who]):
    """For each `who`: at most `burst` at once, then `rate` a second."""

    def __init__(self, burst: float, rate: float) -> None:
        self.burst, self.rate = burst, rate
        self._held: dict[_Who, tuple[float, float]] = {}  # who -> (tokens, since)
        self._swept = 0.0

    def tokens(self, who: _Who, now: float) -> float:
        """What `who` has left."""
        tokens, since = self._held.get(who, (self.burst, now))
        return min(self.burst, tokens + (now - since) * self.rate)

    def take(self, who: _Who, now: float) -> bool:
        """Take one token; False where there is none."""
        left = self.tokens(who, now) - 1
        if left < 0:
            return False
        self._held[who] = left, now
        if now - self._swept > self.burst / self.rate:
            self._sweep(now)
        return True

    def _sweep(self, now: float) -> None:
        self._swept = now
        self._held = {who: held for who, held in self._held.items() if self._is_short(who, now)}

    def _is_short(self, who: _Who, now: float) -> bool:
        return self.tokens(who, now) < self.burst
