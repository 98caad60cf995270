"""A log over another that may only be read: what is appended stays in memory.

For a second process of one member: the first writes the replica, this one goes on from its end for
as long as it lives. One room. Every method as in `Log`.
"""

from collections.abc import Iterable

from zchat.log.contract import Addition, Entry, Log, Tip, fitting, in_order
from zchat.protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_ENTRIES


class Overlay:
    """Entries of `room` up to where `base` ended when this was made, then one's own."""

    def __init__(self, base: Log, room: bytes) -> None:
        self._base = base
        self._room = room
        self._tip = base.tip(room)
        self._base_n = self._tip.n if self._tip else 0
        self._own: list[Entry] = []
        self._places: dict[bytes, int] = {}

    def tip(self, room: bytes) -> Tip | None:
        return self._tip if room == self._room else None

    def append(self, additions: Iterable[Addition]) -> None:
        for addition in in_order(self, additions):
            assert addition.room == self._room
            tip = self._tip or Tip(addition.births, addition.log, 0, addition.log, 0, 0)
            weight = tip.weight
            for entry in addition.entries:
                self._own.append(entry)
                self._places[entry.id] = entry.n
                weight += entry.wire_bytes
            last = addition.entries[-1] if addition.entries else tip
            expired = max(tip.expired, addition.expired)
            self._tip = Tip(tip.births, tip.log, last.n, last.hash, weight, expired, addition.head)

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        last = min(last, first + most_entries - 1)
        entries: list[Entry] = []
        if first <= min(last, self._base_n):
            upto = min(last, self._base_n)
            entries = self._base.read(room, first, upto, most_bytes, most_entries)
            first = entries[-1].n + 1
        if self._base_n < first <= last:
            entries += self._own[first - self._base_n - 1 : last - self._base_n]
        return entries[: fitting((entry.wire_bytes for entry in entries), most_bytes)]

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        if room != self._room:
            return 0
        own = self._places.get(entry_id)
        if own is not None:
            return own
        n = self._base.place_of(room, entry_id)
        # The base may have grown since: what it holds beyond its former end is not ours.
        return n if n <= self._base_n else 0

    def hash_at(self, room: bytes, n: int) -> bytes:
        if n <= self._base_n and self._base_n:
            return self._base.hash_at(room, n)
        if n == 0:
            assert self._tip is not None
            return self._tip.log
        return self._own[n - self._base_n - 1].hash

    def close(self) -> None:
        self._base.close()
