"""What a log is, and the simplest thing that is one.

A store holds the logs of many rooms (a broker) or of one (a member's replica); both halves use the
same classes. A store never computes or checks a hash: it keeps the places it is given, in order,
without holes, and an id at most once in a room. `MemoryLog` is the executable specification: every
other store passes the same tests (tests/test_log.py).

Rules of this file: `append` is all or nothing and durable when it returns; a store that failed to
write raises StoreTrouble and holds what it held before, as it does when a caller breaks the order.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from zchat.protocol.limits import ITEM_PREFIX_BYTES, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES


class Entry(NamedTuple):
    """An envelope with its place; `envelope` is None where only the id is kept.

    `live` says that whoever wrote this had nothing older to wait for when it came: only then does
    `arrived_ms` (ms since 1970, this machine's clock) say something about the sender's time.
    """

    n: int
    id: bytes
    hash: bytes
    envelope: bytes | None
    arrived_ms: int = 0
    live: bool = True

    @property
    def wire_bytes(self) -> int:
        """What this entry weighs in a batch, were it whole."""
        return ITEM_PREFIX_BYTES + len(self.envelope or self.id)


class Tip(NamedTuple):
    """Where a room's log ends. `births` is its lineage, `head` the last head a replica checked."""

    births: tuple[bytes, ...]
    log: bytes
    n: int
    hash: bytes
    weight: int
    expired: int
    head: bytes = b""


class Addition(NamedTuple):
    """What one turn adds to one room. `births` and `maker` count only where the room is new."""

    room: bytes
    entries: Sequence[Entry]
    log: bytes
    births: tuple[bytes, ...] = ()
    maker: bytes = b""
    head: bytes = b""
    expired: int = 0


class Log(Protocol):
    """A store of logs: what both halves ask of it."""

    def tip(self, room: bytes) -> Tip | None:
        """The end of a room's log; None where the store has no such room."""
        ...

    def append(self, additions: Iterable[Addition]) -> None:
        """Take all of this, durably, or nothing; at most one addition per room.

        Raises StoreFull, StoreTrouble.
        """
        ...

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        """Entries first...last, cut where their wire bytes, as they were appended, pass
        `most_bytes`; the first always.
        """
        ...

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        """The place of an id in a room; 0 where it has none."""
        ...

    def hash_at(self, room: bytes, n: int) -> bytes:
        """h[n] of a room, 0 <= n <= tip.n."""
        ...

    def close(self) -> None:
        """Give back what is held open."""
        ...


class BrokerLog(Log, Protocol):
    """What a broker asks of a store besides: how much, and whose."""

    def reading(self) -> AbstractContextManager[None]:
        """While this lasts many reads cost less, and nothing may be written."""
        ...

    def weight(self, room: bytes, after: int, upto: int) -> int:
        """Wire bytes of the entries after+1...upto, as they were appended."""
        ...

    def first_kept(self, room: bytes, since_ms: int, most_bytes: int) -> int:
        """The first place, not expired yet, that arrived since then and reaches into the last
        `most_bytes` of the room; the place behind its end if there is none.
        """
        ...

    def expire(self, room: bytes, upto: int) -> None:
        """Keep only the ids of places 1...upto, durably; never fewer than before."""
        ...

    def rooms(self) -> Iterator[bytes]:
        """The tags of all rooms, in no order."""
        ...

    def rooms_made_by(self, maker: bytes) -> int:
        """How many rooms were made by this access key."""
        ...

    def count_rooms(self) -> int:
        """How many rooms there are."""
        ...


class _Room:
    """One room in memory."""

    def __init__(self, births: tuple[bytes, ...], log: bytes, maker: bytes) -> None:
        self.births, self.log, self.maker = births, log, maker
        self.entries: list[Entry] = []
        self.ends = [0]  # ends[n] = wire bytes of entries 1...n
        self.places: dict[bytes, int] = {}
        self.expired = 0
        self.head = b""

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.ends.append(self.ends[-1] + entry.wire_bytes)
        self.places[entry.id] = entry.n


class MemoryLog:
    """A log that lives as long as the process. Every method as in `BrokerLog`."""

    def __init__(self) -> None:
        self._rooms: dict[bytes, _Room] = {}

    def tip(self, room: bytes) -> Tip | None:
        held = self._rooms.get(room)
        if held is None:
            return None
        last_hash = held.entries[-1].hash if held.entries else held.log
        return Tip(
            held.births,
            held.log,
            len(held.entries),
            last_hash,
            held.ends[-1],
            held.expired,
            held.head,
        )

    def append(self, additions: Iterable[Addition]) -> None:
        for addition in in_order(self, additions):
            held = self._rooms.get(addition.room)
            if held is None:
                held = _Room(addition.births, addition.log, addition.maker)
                self._rooms[addition.room] = held
            for entry in addition.entries:
                held.add(entry)
            held.head = addition.head
            held.expired = max(held.expired, addition.expired)

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        held = self._rooms[room]
        entries = held.entries[first - 1 : min(last, first + most_entries - 1)]
        weights = (held.ends[entry.n] - held.ends[entry.n - 1] for entry in entries)
        return entries[: fitting(weights, most_bytes)]

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        held = self._rooms.get(room)
        return held.places.get(entry_id, 0) if held else 0

    def hash_at(self, room: bytes, n: int) -> bytes:
        held = self._rooms[room]
        return held.entries[n - 1].hash if n else held.log

    def reading(self) -> AbstractContextManager[None]:
        return nullcontext()

    def weight(self, room: bytes, after: int, upto: int) -> int:
        ends = self._rooms[room].ends
        return ends[upto] - ends[after]

    def first_kept(self, room: bytes, since_ms: int, most_bytes: int) -> int:
        held = self._rooms[room]
        beyond = held.ends[-1] - most_bytes
        return next(
            (
                entry.n
                for entry in held.entries[held.expired :]
                if entry.arrived_ms >= since_ms and held.ends[entry.n] > beyond
            ),
            len(held.entries) + 1,
        )

    def expire(self, room: bytes, upto: int) -> None:
        held = self._rooms[room]
        for at in range(held.expired, upto):
            held.entries[at] = held.entries[at]._replace(envelope=None)
        held.expired = max(held.expired, upto)

    def rooms(self) -> Iterator[bytes]:
        return iter(list(self._rooms))

    def rooms_made_by(self, maker: bytes) -> int:
        return sum(held.maker == maker for held in self._rooms.values())

    def count_rooms(self) -> int:
        return len(self._rooms)

    def close(self) -> None:
        self._rooms.clear()


def in_order(log: Log, additions: Iterable[Addition]) -> list[Addition]:
    """The additions, if each goes on where its room ends and repeats no id; else AssertionError.

    For stores that could not undo the first addition when the second breaks the order.
    """
    listed = list(additions)
    assert len({addition.room for addition in listed}) == len(listed)
    for addition in listed:
        tip = log.tip(addition.room)
        assert tip is None or tip.log == addition.log
        ids = set()
        for n, entry in enumerate(addition.entries, tip.n + 1 if tip else 1):
            assert entry.n == n and entry.id not in ids
            assert not log.place_of(addition.room, entry.id)
            ids.add(entry.id)
    return listed


def fitting(weights: Iterable[int], most_bytes: int) -> int:
    """How many of these, from the first, stay within `most_bytes`; one always fits."""
    total = count = 0
    for weight in weights:
        total += weight
        if count and total > most_bytes:
            break
        count += 1
    return count
