"""What is kept no longer: envelopes that are too old, or more than a room may keep.

Theory of operation. The envelope goes, the id stays, so the chain is never broken: heads say up to
which place envelopes are gone, and bare ids are sent in their stead. Rooms are looked at in turn, a
few at a time, so that no turn of the broker is long.

Rules of this file: nothing goes unless a setting says so; time comes in as an argument.
"""

from collections.abc import Iterator
from typing import NamedTuple

from zchat.log.contract import BrokerLog

_ROOMS_AT_A_TIME = 16
_PLACES_AT_A_TIME = 10_000
_DAY_MS = 86_400_000


class Keep(NamedTuple):
    """For how many days, and how many bytes of each room; 0 is for ever, and all."""

    days: int = 0
    room_bytes: int = 0


class Retention:
    """The rooms of a store, and whose turn it is."""

    def __init__(self, log: BrokerLog, keep: Keep) -> None:
        self._log = log
        self._keep = keep
        self._waiting: Iterator[bytes] = iter(())

    def step(self, now_ms: int) -> int:
        """Look at the next rooms; how many envelopes went. Raises StoreTrouble."""
        if not any(self._keep):
            return 0
        return sum(self._look_at(room, now_ms) for room in self._next_rooms())

    def _next_rooms(self) -> Iterator[bytes]:
        for _ in range(_ROOMS_AT_A_TIME):
            room = next(self._waiting, None)
            if room is None:
                self._waiting = self._log.rooms()
                return
            yield room

    def _look_at(self, room: bytes, now_ms: int) -> int:
        tip = self._log.tip(room)
        assert tip is not None
        since_ms = now_ms - self._keep.days * _DAY_MS if self._keep.days else 0
        first = self._log.first_kept(room, since_ms, self._keep.room_bytes or tip.weight)
        upto = min(first - 1, tip.expired + _PLACES_AT_A_TIME)
        self._log.expire(room, upto)
        return max(0, upto - tip.expired)
