"""A log in one SQLite file: one writer, one commit per turn.

Theory of operation. The broker's file is in WAL mode with synchronous=FULL, so an append is one
fsync; a replica uses a rollback journal with synchronous=EXTRA, for SQLite before 3.51.3 can lose
commits in WAL mode where several connections write or checkpoint. One process writes (an flock
beside the file says so); others open it read-only and never checkpoint.

A place in the table is `room << 40 | n`: the entries of a room lie side by side, so a page of
history is one range of one B-tree. `weight_end` is the running sum of wire bytes, which makes the
bytes in flight between two cursors a subtraction.

Rules of this file: no method returns before what it wrote is durable; an error of SQLite leaves as
StoreFull (try again later) or StoreTrouble (stop), never as sqlite3.Error.
"""

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from zchat.errors import StoreFull, StoreTrouble, StoreUnreadable
from zchat.files import Lock, private_folder, storage_errors, sync_folder, take_lock
from zchat.log.contract import Addition, Entry, Tip, fitting
from zchat.protocol.limits import BIRTH_BYTES, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES

APPLICATION_ID = 0x7A636874  # "zcht", so that `file` and we recognise our own
SCHEMA_VERSION = 1
_ROOM_SHIFT = 40

_SCHEMA = f"""
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
    place      INTEGER PRIMARY KEY, -- room << {_ROOM_SHIFT} | n
    id         BLOB NOT NULL,
    hash       BLOB NOT NULL,       -- h[n]
    weight_end INTEGER NOT NULL,
    arrived_ms INTEGER NOT NULL,
    live       INTEGER NOT NULL,
    envelope   BLOB                 -- NULL: only the id is kept
) STRICT;
CREATE UNIQUE INDEX entries_id ON entries(id, place >> {_ROOM_SHIFT});
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


class SqliteLog:
    """`Log` in a file. `durable_wal` is the broker's way, otherwise a replica's; see above."""

    def __init__(self, path: Path, *, durable_wal: bool = False, read_only: bool = False) -> None:
        self._path = path
        self._lock: Lock | None = None
        self._read_only = read_only
        self._tips: dict[bytes, tuple[int, Tip]] = {}
        if not read_only:
            private_folder(path.parent)
            self._lock = take_lock(path)
        with self._failures():
            self._db = self._open(read_only)
            self._check_kind(read_only)
            if not read_only:
                self._db.execute("PRAGMA journal_mode=" + ("WAL" if durable_wal else "DELETE"))
                self._db.execute("PRAGMA synchronous=" + ("FULL" if durable_wal else "EXTRA"))
            self._db.execute("PRAGMA cache_size=-65536")

    def _open(self, read_only: bool) -> sqlite3.Connection:
        if not read_only:
            with storage_errors(self._path):
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        mode = "ro" if read_only else "rw"
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)

    def _check_kind(self, read_only: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (kind,) = self._db.execute("PRAGMA application_id").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0 and not read_only:
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
            sync_folder(self._path.parent)
        elif kind != APPLICATION_ID or version != SCHEMA_VERSION:
            reason = f"it has schema {version}, this version reads {SCHEMA_VERSION}"
            raise StoreUnreadable(path=self._path, reason=reason)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._tips.clear()
            code = getattr(error, "sqlite_errorname", "") or ""
            facts = {"path": self._path, "reason": f"{error} ({code})"}
            # RLIMIT_FSIZE and quotas come as IOERR_WRITE, a full disk as FULL.
            if code in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise StoreFull(**facts) from None
            if code in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
                raise StoreUnreadable(**facts) from None
            raise StoreTrouble(**facts) from None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def tip(self, room: bytes) -> Tip | None:
        held = self._held(room)
        return held[1] if held else None

    def _held(self, room: bytes) -> tuple[int, Tip] | None:
        """The room's number and tip. Only the writer may remember them: only it changes them."""
        if room not in self._tips:
            with self._failures():
                row = self._db.execute(
                    "SELECT room, births, log, n, hash, weight, expired, head"
                    " FROM rooms WHERE tag = ?",
                    (room,),
                ).fetchone()
            if row is None:
                return None
            number, births, *rest = row
            held = number, Tip(_cut(births), *rest)
            if self._read_only:
                return held
            self._tips[room] = held
        return self._tips[room]

    def append(self, additions: Iterable[Addition]) -> None:
        tips: dict[bytes, tuple[int, Tip]] = {}
        with self._failures(), self._transaction():
            for addition in additions:
                tips[addition.room] = self._add(addition)
        self._tips.update(tips)

    def _add(self, addition: Addition) -> tuple[int, Tip]:
        number, tip = self._held(addition.room) or self._make_room(addition)
        assert tip.log == addition.log
        rows, weight, n = [], tip.weight, tip.n
        for entry in addition.entries:
            n += 1
            weight += entry.wire_bytes
            assert entry.n == n
            place = number << _ROOM_SHIFT | n
            rows.append(
                (
                    place,
                    entry.id,
                    entry.hash,
                    weight,
                    entry.arrived_ms,
                    entry.live,
                    entry.envelope,
                )
            )
        self._db.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
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
        base = self._base(room)
        last = min(last, first + most_entries - 1)
        with self._failures():
            weights = self._db.execute(
                "SELECT weight_end FROM entries WHERE place BETWEEN ? AND ? ORDER BY place",
                (base | first, base | last),
            ).fetchall()
            before = self._weight_end(base | (first - 1)) if first > 1 else 0
            ends = [before, *(end for (end,) in weights)]
            count = fitting((b - a for a, b in itertools.pairwise(ends)), most_bytes)
            rows = self._db.execute(
                "SELECT place - ?, id, hash, envelope, arrived_ms, live"
                " FROM entries WHERE place BETWEEN ? AND ? ORDER BY place",
                (base, base | first, base | (first + count - 1)),
            )
            return [Entry(*row) for row in rows]

    def _base(self, room: bytes) -> int:
        held = self._held(room)
        assert held is not None
        return held[0] << _ROOM_SHIFT

    def _weight_end(self, place: int) -> int:
        row = self._db.execute("SELECT weight_end FROM entries WHERE place = ?", (place,))
        return int(row.fetchone()[0])

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        held = self._held(room)
        if held is None:
            return 0
        with self._failures():
            row = self._db.execute(
                "SELECT place FROM entries WHERE id = ? AND place >> 40 = ?",
                (entry_id, held[0]),
            ).fetchone()
        return row[0] & ((1 << _ROOM_SHIFT) - 1) if row else 0

    def hash_at(self, room: bytes, n: int) -> bytes:
        base = self._base(room)
        if n == 0:
            return self._tip_of(room).log
        with self._failures():
            row = self._db.execute("SELECT hash FROM entries WHERE place = ?", (base | n,))
            found: bytes = row.fetchone()[0]
        return found

    def _tip_of(self, room: bytes) -> Tip:
        tip = self.tip(room)
        assert tip is not None
        return tip

    def weight(self, room: bytes, after: int, upto: int) -> int:
        base = self._base(room)
        tip = self._tip_of(room)
        with self._failures():
            ends = [
                tip.weight if n == tip.n else self._weight_end(base | n) if n else 0
                for n in (after, upto)
            ]
        return ends[1] - ends[0]

    def rooms(self) -> Iterator[bytes]:
        with self._failures():
            tags = self._db.execute("SELECT tag FROM rooms ORDER BY room").fetchall()
        return (tag for (tag,) in tags)

    def rooms_made_by(self, maker: bytes) -> int:
        with self._failures():
            row = self._db.execute("SELECT count(*) FROM rooms WHERE maker = ?", (maker,))
            return int(row.fetchone()[0])

    def count_rooms(self) -> int:
        with self._failures():
            return int(self._db.execute("SELECT count(*) FROM rooms").fetchone()[0])

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.release()


def _cut(births: bytes) -> tuple[bytes, ...]:

    return tuple(births[at : at + BIRTH_BYTES] for at in range(0, len(births), BIRTH_BYTES))
