"""Which numbers of each author have come: gaps, fillings, repetitions.

Rules of this file: a number costs eight bytes where numbers are consecutive, whatever the numbers
are; nothing is ever allocated for what is missing.
"""

from array import array
from bisect import bisect_right
from typing import NamedTuple


class Missing(NamedTuple):
    """Numbers first...last of one incarnation that never came; `after` is where the one before is.

    Place 0 says that none came before.
    """

    first: int
    last: int
    after: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


class Taken(NamedTuple):
    """What a number turned out to be."""

    repeats: int = 0  # the place where this number already stands
    missing: Missing | None = None  # numbers now known to be missing before it


class Incarnation:
    """The numbers of one incarnation: runs of consecutive numbers, each with its places."""

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._places: list[array[int]] = []
        self._excused: list[Missing] = []

    def excuse(self, missing: Missing) -> None:
        """Do not miss these: what held them may have expired."""
        self._excused.append(missing)

    def take(self, seq: int, place: int) -> Taken:
        """Number `seq` (>= 1) stands at `place` of the log."""
        at = bisect_right(self._lows, seq) - 1
        end, after = 1, 0
        if at >= 0:
            low, places = self._lows[at], self._places[at]
            end, after = low + len(places), places[-1]
            if seq < end:
                return Taken(repeats=places[seq - low])
            if seq == end:
                places.append(place)
                self._join_next(at)
                return Taken()
        self._lows.insert(at + 1, seq)
        self._places.insert(at + 1, array("Q", [place]))
        is_last = at + 2 == len(self._lows)
        self._join_next(at + 1)
        return Taken(missing=Missing(end, seq - 1, after) if is_last and end < seq else None)

    def _join_next(self, at: int) -> None:
        """Make one run of two that touch."""
        following = at + 1
        if following == len(self._lows):
            return
        if self._lows[at] + len(self._places[at]) == self._lows[following]:
            self._places[at].extend(self._places.pop(following))
            del self._lows[following]

    def missing_count(self) -> int:
        """How many numbers below the highest never came, and are not excused."""
        end, count = 1, 0
        for low, places in zip(self._lows, self._places, strict=True):
            excused = (min(low - 1, e.last) - max(end, e.first) + 1 for e in self._excused)
            count += low - end - sum(max(0, size) for size in excused)
            end = low + len(places)
        return count
