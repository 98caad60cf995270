"""A log in one SQLite file: one writer, one commit per turn.

Theory of operation. A place in the table is `room << 40 | n`: the entries of a room lie side by
side, so a page of history is one range of one B-tree. `weight_end` is the running sum of wire
bytes, which makes the bytes in flight between two cursors a subtraction. One process writes (a lock
beside the file says so); others open it read-only and never checkpoint.

Rules of this file: no method returns before what it wrote is durable; only the writer remembers
where a room ends, for only it changes that. SQLite cannot know our order: what is read is held
against it, so that a file that lost a part says so (StoreUnreadable).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from zchat.database import Access, Database, Schema
from zchat.errors import StoreUnreadable
from zchat.files import ASKED_S, Lock, private_folder, take_lock
from zchat.log.contract import Addition, Entry, Tip
from zchat.protocol.limits import BIRTH_BYTES, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES

_T = TypeVar("_T")
_KINDS = {(bytes, bytes, bytes), (bytes, bytes, type(None))}  # of an entry's id, hash, envelope
ROOM_SHIFT = 40
PLACE_MASK = (1 << ROOM_SHIFT) - 1

SCHEMA = Schema(
    application_id=0x7A636C67,  # "zclg"
    version=1,
    tables="""
CREATE TABLE rooms (
    room    INTEGER PRIMARY KEY,
    tag     BLOB NOT NULL UNIQUE,   -- 16 bytes, the broker's only name for the room
    log     BLOB NOT NULL,          -- log id = h0
    births  BLOB NOT NULL,          -- lineage, newest first, 200 bytes each
    maker   BLOB NOT NULL,          -- access key that made the room (empty in a replica)
    n       INTEGER NOT NULL,
    hash    BLOB NOT NULL,          -- h[n]
    weight  INTEGER NOT NULL,       -- wire bytes of entries 1...n
    expired INTEGER NOT NULL,       -- envelopes 1...expired are no longer kept
    head    BLOB NOT NULL           -- the last head checked (empty in a broker: it can sign anew)
) STRICT;
CREATE INDEX rooms_maker ON rooms(maker);
CREATE TABLE entries (
    place      INTEGER PRIMARY KEY, -- room << 40 | n
    id         BLOB NOT NULL,
    hash       BLOB NOT NULL,       -- h[n]
    weight_end INTEGER NOT NULL,    -- wire bytes of entries 1...n
    arrived_ms INTEGER NOT NULL,
    live       INTEGER NOT NULL,
    envelope   BLOB                 -- NULL: only the id is kept
) STRICT;
CREATE UNIQUE INDEX entries_id ON entries(id, place >> 40);
""",
)


class SqliteLog:
    """A `BrokerLog` in a file; `access` as in database.py. StoreBusy where another one writes."""

    def __init__(self, path: Path, access: Access) -> None:
        self._path = path
        self._lock: Lock | None = None
        if access is not Access.READ_ONLY:
            private_folder(path.parent)
            wait_s = ASKED_S if access is Access.ONE_WRITER else 0.0
            self._lock = take_lock(path, wait_s=wait_s)
        try:
            self._db = Database(path, SCHEMA, access)
        except BaseException:
            self._let_go()
            raise
        self._tips: dict[bytes, tuple[int, Tip]] = {}

    def tip(self, room: bytes) -> Tip | None:
        held = self._held(room)
        return held[1] if held else None

    def _held(self, room: bytes) -> tuple[int, Tip] | None:
        """The room's number and tip."""
        remembered = self._tips.get(room)
        if remembered is not None:
            return remembered
        held = self._load(room)
        if held is not None and not self._db.read_only:
            self._tips[room] = held
        return held

    def _load(self, room: bytes) -> tuple[int, Tip] | None:
        with self._db.failures():
            row = self._db.execute(
                "SELECT room, births, log, n, hash, weight, expired, head FROM rooms WHERE tag = ?",
                (room,),
            ).fetchone()
        if row is None:
            return None
        self._hold([*map(type, row)] == [int, bytes, bytes, int, bytes, int, int, bytes])
        number, births, *rest = row
        return number, Tip(_cut(births), *rest)

    def append(self, additions: Iterable[Addition]) -> None:
        tips: dict[bytes, tuple[int, Tip]] = {}
        with self._db.transaction():
            for addition in additions:
                assert addition.room not in tips
                tips[addition.room] = self._add(addition)
        self._tips.update(tips)

    def _add(self, addition: Addition) -> tuple[int, Tip]:
        number, tip = self._held(addition.room) or self._make_room(addition)
        assert tip.log == addition.log
        rows: list[tuple[object, ...]] = []
        weight, n = tip.weight, tip.n
        for entry in addition.entries:
            n += 1
            weight += entry.wire_bytes
            assert entry.n == n
            kept = (entry.id, entry.hash, weight, entry.arrived_ms, entry.live, entry.envelope)
            rows.append((number << ROOM_SHIFT | n, *kept))
        self._db.execute_many("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        last_hash = addition.entries[-1].hash if addition.entries else tip.hash
        expired = max(tip.expired, addition.expired)
        tip = Tip(tip.births, tip.log, n, last_hash, weight, expired, addition.head)
        self._db.execute(
            "UPDATE rooms SET n = ?, hash = ?, weight = ?, expired = ?, head = ? WHERE room = ?",
            (tip.n, tip.hash, tip.weight, tip.expired, tip.head, number),
        )
        return number, tip

    def _make_room(self, addition: Addition) -> tuple[int, Tip]:
        log, births = addition.log, addition.births
        cursor = self._db.execute(
            "INSERT INTO rooms (tag, log, births, maker, n, hash, weight, expired, head)"
            " VALUES (?, ?, ?, ?, 0, ?, 0, 0, x'')",
            (addition.room, log, b"".join(births), addition.maker, log),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid, Tip(births, log, 0, log, 0, 0)

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        number, tip = self._room(room)
        base = number << ROOM_SHIFT
        last = min(last, tip.n, first + most_entries - 1)
        if last < first:
            return []
        before = self._weight_upto(room, first - 1)
        if last > first:  # the first is read however long it is
            too_much = self._db.one(
                "SELECT place - ? FROM entries WHERE place BETWEEN ? AND ? AND weight_end - ? > ?"
                " ORDER BY place LIMIT 1",
                (base, base | first + 1, base | last, before, most_bytes),
            )
            last = too_much[0] - 1 if too_much else last
        with self._db.failures():
            rows = self._db.execute(
                "SELECT place - ?, id, hash, envelope, arrived_ms, live"
                " FROM entries WHERE place BETWEEN ? AND ? ORDER BY place",
                (base, base | first, base | last),
            )
            entries = [*map(Entry._make, rows)]
        self._hold([entry.n for entry in entries] == [*range(first, last + 1)])
        self._hold({(type(e.id), type(e.hash), type(e.envelope)) for e in entries} <= _KINDS)
        return entries

    def _room(self, room: bytes) -> tuple[int, Tip]:
        held = self._held(room)
        assert held is not None
        return held

    def _hold(self, sound: bool) -> None:
        """Raises StoreUnreadable unless what was read is as it was written."""
        if not sound:
            raise StoreUnreadable(path=self._path, reason="a part of it is missing or mangled")

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        held = self._held(room)
        if held is None:
            return 0
        row = self._db.one(
            "SELECT place FROM entries WHERE id = ? AND place >> 40 = ?", (entry_id, held[0])
        )
        return row[0] & PLACE_MASK if row else 0

    def hash_at(self, room: bytes, n: int) -> bytes:
        number, tip = self._room(room)
        if n in (0, tip.n):
            return tip.hash if n else tip.log
        place = number << ROOM_SHIFT | n
        return self._one(bytes, "SELECT hash FROM entries WHERE place = ?", (place,))

    def weight(self, room: bytes, after: int, upto: int) -> int:
        return self._weight_upto(room, upto) - self._weight_upto(room, after)

    def _weight_upto(self, room: bytes, n: int) -> int:
        number, tip = self._room(room)
        if n in (0, tip.n):
            return tip.weight if n else 0
        place = number << ROOM_SHIFT | n
        return self._one(int, "SELECT weight_end FROM entries WHERE place = ?", (place,))

    def _one(self, kind: type[_T], statement: str, values: tuple[object, ...] = ()) -> _T:
        row = self._db.one(statement, values)
        self._hold(row is not None and type(row[0]) is kind)
        found: _T = row[0]
        return found

    def begin_anew(
        self, room: bytes, log: bytes, births: tuple[bytes, ...], hashes: Iterable[bytes]
    ) -> None:
        """The same entries, from now on as another log with these h[1], h[2] ... in order."""
        base = self._room(room)[0] << ROOM_SHIFT
        with self._db.transaction():
            last = log
            for n, last in enumerate(hashes, 1):
                self._db.execute("UPDATE entries SET hash = ? WHERE place = ?", (last, base | n))
            self._db.execute(
                "UPDATE rooms SET log = ?, births = ?, hash = ? WHERE tag = ?",
                (log, b"".join(births), last, room),
            )
        self._tips.pop(room, None)

    def first_kept(self, room: bytes, since_ms: int, most_bytes: int) -> int:
        number, tip = self._room(room)
        base = number << ROOM_SHIFT
        with self._db.failures():
            row = self._db.execute(
                "SELECT place FROM entries WHERE place BETWEEN ? AND ?"
                " AND arrived_ms >= ? AND weight_end > ? ORDER BY place LIMIT 1",
                (base | tip.expired + 1, base | tip.n, since_ms, tip.weight - most_bytes),
            ).fetchone()
        return row[0] & PLACE_MASK if row else tip.n + 1

    def expire(self, room: bytes, upto: int) -> None:
        number, tip = self._room(room)
        base = number << ROOM_SHIFT
        if upto <= tip.expired:
            return
        with self._db.transaction():
            self._db.execute(
                "UPDATE entries SET envelope = NULL WHERE place BETWEEN ? AND ?",
                (base | tip.expired + 1, base | upto),
            )
            self._db.execute("UPDATE rooms SET expired = ? WHERE room = ?", (upto, number))
        self._tips[room] = number, tip._replace(expired=upto)

    def reading(self) -> AbstractContextManager[None]:
        return self._db.reading()

    def copy_to(self, path: Path) -> None:
        """A whole copy as of now, while others read and write. Raises StoreFull, StoreTrouble."""
        self._db.copy_to(path)

    def rooms(self) -> Iterator[bytes]:
        with self._db.failures():
            tags = self._db.execute("SELECT tag FROM rooms ORDER BY room").fetchall()
        return (tag for (tag,) in tags)

    def rooms_made_by(self, maker: bytes) -> int:
        return self._one(int, "SELECT count(*) FROM rooms WHERE maker = ?", (maker,))

    def count_rooms(self) -> int:
        return self._one(int, "SELECT count(*) FROM rooms")

    def ends(self) -> Iterator[tuple[int, bytes, int, bytes]]:
        """Where each room ends: its number, tag, n and h[n]."""
        with self._db.failures():
            found = self._db.execute("SELECT room, tag, n, hash FROM rooms").fetchall()
        return iter(found)

    def wrong_in(self, table: str = "", step: Callable[[], None] = lambda: None) -> str:
        """What SQLite finds wrong in a table and its indices, or in all; empty if nothing."""
        of = f"({table})" if table else ""
        try:
            with self._db.stepping(step):
                found = self._one(str, f"PRAGMA integrity_check{of}")
        except StoreUnreadable as error:
            found = str(error.facts["reason"])
        return "" if found == "ok" else " ".join(found.split())

    def gather(self) -> None:
        """Have all of it in the one file. Raises StoreBusy while anybody else reads it."""
        self._db.gather()

    def close(self) -> None:
        self._db.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()


def _cut(births: bytes) -> tuple[bytes, ...]:
    return tuple(births[at : at + BIRTH_BYTES] for at in range(0, len(births), BIRTH_BYTES))
