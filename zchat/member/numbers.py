"""Which numbers of each author have come: gaps, fillings, repetitions.

Rules of this file: a number costs eight bytes where numbers are consecutive, whatever the numbers
are; nothing is ever allocated for what is missing.
"""

from array import array
from bisect import bisect_right
from typing import NamedTuple


class Missing(NamedTuple):
    """Numbers first...last of one incarnation that never came."""

    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Taken(NamedTuple):
    """What a number turned out to be."""

    repeats: int = 0  # the place where this number already stands
    missing: Missing | None = None  # numbers now known to be missing before it
    fills: bool = False  # it was missing until now


class Incarnation:
    """The numbers of one incarnation: runs of consecutive numbers, each with its places."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._places: list[array[int]] = []
        self._expired = 0  # numbers 1...this may be among what the server no longer keeps

    def begin_behind(self, seq: int) -> None:
        """Numbers up to `seq` are not missed: what held them may have expired."""
        self._expired = seq

    def take(self, seq: int, place: int) -> Taken:
        """Number `seq` (>= 1) stands at `place` of the log."""
        at = bisect_right(self._lows, seq) - 1
        if at >= 0:
            offset = seq - self._lows[at]
            if offset < len(self._places[at]):
                return Taken(repeats=self._places[at][offset])
            if offset == len(self._places[at]):
                self._places[at].append(place)
                self._join_next(at)
                return Taken(fills=at + 1 < len(self._lows))
        self._lows.insert(at + 1, seq)
        self._places.insert(at + 1, array("Q", [place]))
        is_last = at + 2 == len(self._lows)
        self._join_next(at + 1)
        if not is_last:
            return Taken(fills=True)
        end = self._lows[at] + len(self._places[at]) if at >= 0 else 1
        return Taken(missing=Missing(end, seq - 1) if end < seq else None)

    def _join_next(self, at: int) -> None:
        """Make one run of two that touch."""
        following = at + 1
        if following == len(self._lows):
            return
        if self._lows[at] + len(self._places[at]) == self._lows[following]:
            self._places[at].extend(self._places.pop(following))
            del self._lows[following]

    def missing_count(self) -> int:
        """How many numbers below the highest never came."""
        if not self._lows:
            return 0
        highest = self._lows[-1] + len(self._places[-1]) - 1
        runs = zip(self._lows, map(len, self._places), strict=True)
        came_late = (
            min(size, self._expired + 1 - low) for low, size in runs if low <= self._expired
        )
        excused = self._expired - sum(came_late)
        return highest - sum(map(len, self._places)) - excused
