"""What a member keeps: its secrets, its rooms, its outbox, its judgements of others.

Theory of operation. One SQLite file per member, shared by all of the member's processes in short
transactions. What names people or rooms, and every secret, is sealed under the vault key, a file
beside it that only its owner can read: who copies this folder can read the rooms that are
remembered in it, and speak as this member. Envelopes in the outbox are sealed already.

An envelope is committed here before it is first sent, and stays until a signed head covers it. Its
row belongs to an incarnation and that to a process, which is alive as long as it holds its lock;
what a dead process left, a later one sends: same bytes, same id.

Rules of this file: nothing is sent from here; nothing secret is in clear.
"""

import base64
import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec
import zmq
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from zmq.utils import z85

from zchat.database import Access, Database, Schema
from zchat.errors import Malformed, StoreBusy, StoreTrouble, StoreUnreadable
from zchat.files import (
    Lock,
    lock_file,
    make_once,
    private_folder,
    storage_errors,
    sync_folder,
    take_lock,
    write_private,
)
from zchat.log.sqlite import SqliteLog
from zchat.member.invite import Invite, Origin, Server
from zchat.protocol import evidence
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.ledger import Contradiction, Head
from zchat.protocol.limits import HEAD_BYTES, INCARNATION_BYTES, KEY_BYTES

_SWEEP_AFTER_S = 3_600
_LONGEST_FOLDER = 250  # a file system's 255; 32 letters of some scripts, escaped, are longer

SCHEMA = Schema(
    application_id=0x7A637674,  # "zcvt"
    version=1,
    tables="""
CREATE TABLE secrets (name TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE rooms (
    tag     BLOB PRIMARY KEY,
    sealed  BLOB NOT NULL,       -- a RoomRecord
    witness BLOB NOT NULL,       -- the heads of receipts that the replica has not reached
    used_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE incarnations (
    incarnation BLOB PRIMARY KEY,
    tag         BLOB NOT NULL,
    process     TEXT NOT NULL
) STRICT;
CREATE TABLE outbox (
    number      INTEGER PRIMARY KEY,
    tag         BLOB NOT NULL,
    incarnation BLOB NOT NULL,
    seq         INTEGER NOT NULL,
    id          BLOB NOT NULL UNIQUE,
    envelope    BLOB NOT NULL
) STRICT;
CREATE TABLE judgements (
    tag      BLOB NOT NULL,
    key      BLOB NOT NULL,
    verified INTEGER NOT NULL,   -- up to which place it was compared by voice; 0: it was not
    muted    INTEGER NOT NULL,
    PRIMARY KEY (tag, key)
) STRICT;
""",
)


class RoomRecord(msgspec.Struct, frozen=True):
    """One room of a member. Its root is there only if the user wants it remembered.

    It is `root`, or, where only the system's keyring opens it, `sealed_root` with the `handle` of
    the keyring's entry.
    """

    room: str
    name: str
    server: Server
    origin: Origin
    root: bytes = b""
    fault: str = ""  # the server's first contradiction: what it did, when, the file that proves it
    fault_ms: int = 0
    evidence: str = ""
    is_unsure: bool = False  # it was empty, and nobody has spoken since: mistyped, perhaps
    accepted_n: int = 0  # what accuses the server up to there was accepted; -1: to where we arrive
    kept_n: int = -1  # how much of our log a new log of the server's keeps, if it started one
    read_n: int = 0  # up to where its user has read, and when
    read_ms: int = 0
    handle: str = ""
    sealed_root: bytes = b""
    left: tuple[bytes, ...] = ()  # ids that waited at the last rejoin, and were never confirmed
    offered: tuple[bytes, ...] = ()  # ids that were confirmed, and offered again by a rejoin
    rejoins: int = 0  # how often its user left a history for the one that the server shows

    @property
    def is_remembered(self) -> bool:
        return bool(self.root or self.handle)

    @property
    def invite(self) -> Invite:
        return Invite(self.server, self.room, self.origin)


class KnownRoom(NamedTuple):
    """A room in the vault."""

    tag: bytes
    record: RoomRecord
    used_ms: int


class HeldRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A room as a vault holds it; `witness` are heads that its log must reach."""

    tag: bytes
    record: RoomRecord
    witness: bytes
    used_ms: int


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a vault holds, in clear: for a backup, which is sealed as a whole."""

    secrets: dict[str, bytes]
    rooms: list[HeldRoom]
    incarnations: list[tuple[bytes, bytes]]  # of a room's tag
    outbox: list[tuple[bytes, bytes, int, bytes, bytes]]  # tag, incarnation, seq, id, envelope
    judgements: list[tuple[bytes, bytes, int, int]]  # tag, key, verified, muted

    def __repr__(self) -> str:
        return f"<Contents of {len(self.rooms)} rooms>"


class Pending(NamedTuple):
    """An outbox row: an envelope that no signed head is known to cover."""

    incarnation: bytes
    seq: int
    id: bytes
    envelope: bytes


class AccessPair(NamedTuple):
    """A member's CURVE pair for one broker, raw; the repr shows the public half."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"<AccessPair {self.public.hex()[:8]}>"


class Vault:
    """One member of a profile, for one process. `folder` is the member's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        private_folder(folder)
        self._box = SecretBox(self._load_key(folder / "vault.key"))
        self._db = Database(folder / "vault.db", SCHEMA, Access.SHARED)
        self._done: list[bytes] = []
        try:
            self.master_seed = self._secret("master seed", os.urandom(KEY_BYTES))
            self._process, self._alive = self._take_process_lock()
        except BaseException:
            self._db.close()
            raise

    def __repr__(self) -> str:
        return f"<Vault {self._folder}>"

    @staticmethod
    def _load_key(path: Path) -> bytes:
        key = make_once(path, os.urandom(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise StoreUnreadable(path=path, reason="it does not hold a key")
        return key

    def _take_process_lock(self) -> tuple[str, Lock]:
        self._sweep()
        process = os.urandom(8).hex()
        return process, take_lock(self._process_path(process))

    def _sweep(self) -> None:
        """Remove the locks of processes that died long ago."""
        long_ago = time.time() - _SWEEP_AFTER_S
        for path in private_folder(self._folder / "processes").glob("*.lock"):
            with contextlib.suppress(OSError):  # another process may sweep as well
                if path.stat().st_mtime < long_ago:
                    self._is_alive(path.stem)

    def _process_path(self, process: str) -> Path:
        return private_folder(self._folder / "processes") / process

    def close(self) -> None:
        """Write what was put off, and end this process's life in the vault."""
        try:
            self._forget_done()
        finally:
            self._db.close()
            lock_file(self._process_path(self._process)).unlink(missing_ok=True)
            self._alive.release()

    # ---- secrets ----

    def _secret(self, name: str, made: bytes) -> bytes:
        """The secret of this name; `made` becomes it where there is none."""
        with self._db.transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, self._seal(made))
            )
            row = self._db.execute("SELECT sealed FROM secrets WHERE name = ?", (name,)).fetchone()
        return self._unseal(row[0])

    def _seal(self, clear: bytes) -> bytes:
        return bytes(self._box.encrypt(clear))

    def _unseal(self, sealed: bytes) -> bytes:
        try:
            return self._box.decrypt(sealed)
        except (CryptoError, TypeError):  # a torn file may hold something else than bytes
            path = self._folder / "vault.db"
            raise StoreUnreadable(path=path, reason="vault.key does not open it") from None

    def access_pair(self, curve_key: bytes) -> AccessPair:
        """The access key for the broker with that CURVE key, made on first use."""
        _, fresh = zmq.curve_keypair()
        secret = self._secret(f"access {curve_key.hex()}", z85.decode(fresh))
        return AccessPair(z85.decode(zmq.curve_public(z85.encode(secret))), secret)

    # ---- rooms ----

    def rooms(self) -> list[KnownRoom]:
        """All rooms, the last used first."""
        with self._db.failures():
            rows = self._db.execute(
                "SELECT tag, sealed, used_ms FROM rooms ORDER BY used_ms DESC"
            ).fetchall()
        return [KnownRoom(tag, self._record(sealed), used_ms) for tag, sealed, used_ms in rows]

    def room(self, tag: bytes) -> RoomRecord | None:
        """What is known of a room."""
        with self._db.failures():
            row = self._db.execute("SELECT sealed FROM rooms WHERE tag = ?", (tag,)).fetchone()
        return self._record(row[0]) if row else None

    def _record(self, sealed: bytes) -> RoomRecord:
        try:
            return msgspec.msgpack.decode(self._unseal(sealed), type=RoomRecord)
        except msgspec.DecodeError as error:
            path = self._folder / "vault.db"
            raise StoreUnreadable(path=path, reason=f"a room in it: {error}") from None

    def public_key(self, root: bytes) -> bytes:
        """The member's own key in the room with this root."""
        return Author(self.master_seed, RoomKeys(root)).public

    def save_room(self, tag: bytes, record: RoomRecord) -> None:
        """Remember a room as it is given, as used just now: whoever may say what its fields are."""
        with self._db.transaction():
            self._write_room(tag, record)

    def _write_room(self, tag: bytes, record: RoomRecord) -> None:
        sealed = self._seal(msgspec.msgpack.encode(record))
        now_ms = time.time_ns() // 1_000_000
        self._db.execute(
            "INSERT INTO rooms VALUES (?, ?, x'', ?)"
            " ON CONFLICT (tag) DO UPDATE SET sealed = excluded.sealed, used_ms = excluded.used_ms",
            (tag, sealed, now_ms),
        )

    def update_room(self, tag: bytes, made: RoomRecord, **changes: object) -> RoomRecord:
        """Change some fields of a room, whatever other processes changed; `made` if it is new here.

        The first fault of the server stays: what accuses it again changes nothing of it. Nor does
        anything that a process says of a history which was left since it began: that is in the
        record returned, and nowhere else.
        """
        with self._db.transaction():
            record = self.room(tag) or made
            if record.rejoins != made.rejoins:
                return msgspec.structs.replace(made, **changes)
            if record.fault and "fault" in changes:
                return record
            changed = msgspec.structs.replace(record, **changes)
            self._write_room(tag, changed)
        return changed

    def scrub(self) -> None:
        """Leave nothing of what was changed or forgotten, as far as SQLite can."""
        self._db.scrub()

    def forget_room(self, tag: bytes) -> None:
        """Forget a room, its outbox and its incarnations, and remove its replica.

        Raises StoreBusy while a process is in the room: it would go on under numbers that nobody
        knows any more, and what it wrote would never be sent.
        """
        replica = self.replica_path(tag)
        with take_lock(replica):
            with self._db.transaction():
                for table in ("rooms", "outbox", "incarnations", "judgements"):
                    self._db.execute(f"DELETE FROM {table} WHERE tag = ?", (tag,))  # noqa: S608
            self._db.scrub()
            for path in replica.parent.glob(f"{tag.hex()}.*"):
                path.unlink(missing_ok=True)

    def replica_path(self, tag: bytes) -> Path:
        """Where the replica of a room's log stands."""
        return private_folder(self._folder / "rooms") / f"{tag.hex()}.db"

    def owed(self, tag: bytes) -> set[Head]:
        """The heads of receipts: the replica must lie on each when it gets there."""
        with self._db.failures():
            row = self._db.execute("SELECT witness FROM rooms WHERE tag = ?", (tag,)).fetchone()
        raw = row[0] if row else b""
        try:
            return {Head.unpack(raw[at : at + HEAD_BYTES]) for at in range(0, len(raw), HEAD_BYTES)}
        except (Malformed, TypeError):  # as with what does not unseal
            path = self._folder / "vault.db"
            raise StoreUnreadable(path=path, reason="a receipt in it is none") from None

    def save_owed(
        self,
        tag: bytes,
        more: Iterable[Head],
        settled: Iterable[Head],
        rejoins: int | None = None,
    ) -> None:
        """Keep these heads beside what is kept, but for those that the replica has reached.

        `rejoins`: as many as there were when they were heard of, or they are of a history left.
        """
        with self._db.transaction():
            record = self.room(tag)
            if rejoins is not None and record is not None and record.rejoins != rejoins:
                return
            held = (self.owed(tag) | set(more)) - set(settled)
            raw = b"".join(head.packed for head in sorted(held, key=lambda head: head.n))
            self._db.execute("UPDATE rooms SET witness = ? WHERE tag = ?", (raw, tag))

    def save_evidence(self, tag: bytes, found: Contradiction) -> Path:
        """Keep a proof against the server as a file that anybody can check."""
        folder = private_folder(self._folder / "evidence")
        path = folder / f"{tag.hex()[:8]}-{found.later.n}.json"
        write_private(path, evidence.pack(found))
        return path

    def set_replica_aside(self, tag: bytes) -> Path:
        """Rename a room's replica, so that a new one begins. Raises StoreBusy while one reads it.

        Its receipts go with it, for they are promises of the former log.
        """
        path = self.replica_path(tag)
        moment = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.urandom(2).hex()}"
        aside = path.with_name(f"{tag.hex()}.before-{moment}.db")
        if path.exists():
            with contextlib.closing(SqliteLog(path, Access.REPLICA)) as replica:
                replica.gather()  # also what a killed process left
        with take_lock(path), storage_errors(path):
            if path.exists():
                path.rename(aside)
                sync_folder(path.parent)
        self.save_owed(tag, (), self.owed(tag))
        return aside

    def replicas_aside(self, tag: bytes) -> list[Path]:
        """What was set aside of a room."""
        return sorted(self.replica_path(tag).parent.glob(f"{tag.hex()}.before-*.db"))

    # ---- incarnations and outbox ----

    def begin(self, tag: bytes) -> bytes:
        """A fresh incarnation of this process in a room, noted before it is ever used."""
        incarnation = os.urandom(INCARNATION_BYTES)
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO incarnations VALUES (?, ?, ?)", (incarnation, tag, self._process)
            )
        return incarnation

    def wrote(self, incarnation: bytes) -> bool:
        """Whether a process of this profile drew this incarnation."""
        with self._db.failures():
            statement = "SELECT 1 FROM incarnations WHERE incarnation = ?"
            return self._db.execute(statement, (incarnation,)).fetchone() is not None

    def put(self, tag: bytes, pending: Iterable[Pending], instead_of: Iterable[bytes] = ()) -> None:
        """Commit envelopes, durably and all together, before any of them is sent.

        They may stand instead of others, which are never sent again.
        """
        rows: list[tuple[object, ...]] = [(tag, *row) for row in pending]
        with self._db.transaction():
            self._db.execute_many("DELETE FROM outbox WHERE id = ?", [(i,) for i in instead_of])
            self._db.execute_many(
                "INSERT INTO outbox (tag, incarnation, seq, id, envelope) VALUES (?, ?, ?, ?, ?)",
                rows,
            )
            self._delete_done()
        self._done.clear()

    def offer(self, tag: bytes, pending: Iterable[Pending]) -> None:
        """Post again what a server lost; what is in the outbox already stays as it is."""
        with self._db.transaction():
            self._db.execute_many(
                "INSERT OR IGNORE INTO outbox (tag, incarnation, seq, id, envelope)"
                " VALUES (?, ?, ?, ?, ?)",
                [(tag, *row) for row in pending],
            )

    def replace(self, entry_id: bytes, pending: Pending) -> None:
        """A number is given up: its row now holds a Void."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE outbox SET id = ?, envelope = ? WHERE id = ?",
                (pending.id, pending.envelope, entry_id),
            )

    def done(self, ids: Iterable[bytes]) -> None:
        """Signed heads cover these. Written with the next commit: posting again is harmless."""
        self._done += ids

    def _forget_done(self) -> None:
        if self._done:
            with self._db.transaction():
                self._delete_done()
            self._done.clear()

    def _delete_done(self) -> None:
        self._db.execute_many("DELETE FROM outbox WHERE id = ?", [(i,) for i in self._done])

    def adopt(self, tag: bytes) -> list[Pending]:
        """The outbox rows of processes that are dead, now this process's; in their order."""
        with self._db.transaction():
            rows = self._db.execute(
                "SELECT DISTINCT process FROM incarnations JOIN outbox USING (incarnation)"
                " WHERE outbox.tag = ? AND process != ?",
                (tag, self._process),
            ).fetchall()
            dead = [process for (process,) in rows if not self._is_alive(process)]
            for process in dead:
                self._db.execute(
                    "UPDATE incarnations SET process = ? WHERE process = ? AND tag = ?",
                    (self._process, process, tag),
                )
        return self.pending(tag)

    def pending(self, tag: bytes) -> list[Pending]:
        """The outbox rows of this process and room, in the order they were put."""
        with self._db.failures():
            rows = self._db.execute(
                "SELECT incarnation, seq, id, envelope FROM outbox JOIN incarnations"
                " USING (incarnation) WHERE outbox.tag = ? AND process = ? ORDER BY number",
                (tag, self._process),
            )
            return [Pending(*row) for row in rows]

    def waiting(self, tag: bytes) -> int:
        """How many envelopes of a room wait in the outbox, whosever."""
        with self._db.failures():
            rows = self._db.execute("SELECT id FROM outbox WHERE tag = ?", (tag,)).fetchall()
        return len(self._unread(tag, {entry_id for (entry_id,) in rows}))

    def _unread(self, tag: bytes, ids: set[bytes]) -> set[bytes]:
        """Those that the replica does not hold: a living process deletes late what it does."""
        with (
            contextlib.suppress(StoreTrouble),
            contextlib.closing(SqliteLog(self.replica_path(tag), Access.READ_ONLY)) as replica,
        ):
            return {entry_id for entry_id in ids if not replica.place_of(tag, entry_id)}
        return ids

    def waiting_ids(self, tag: bytes) -> tuple[bytes, ...]:
        """The ids of what waits in the outbox of a room."""
        with self._db.failures():
            statement = "SELECT id FROM outbox WHERE tag = ? ORDER BY number"
            return tuple(i for (i,) in self._db.execute(statement, (tag,)).fetchall())

    def is_spoken_in(self, tag: bytes) -> bool:
        """Whether another process that lives has drawn an incarnation in a room."""
        with self._db.failures():
            rows = self._db.execute(
                "SELECT DISTINCT process FROM incarnations WHERE tag = ? AND process != ?",
                (tag, self._process),
            ).fetchall()
        return any(self._is_alive(process) for (process,) in rows)

    def _is_alive(self, process: str) -> bool:
        path = self._process_path(process)
        if not lock_file(path).exists():
            return False
        try:
            with take_lock(path):
                lock_file(path).unlink(missing_ok=True)
            return False
        except StoreBusy:
            return True

    # ---- judgements ----

    def is_verified(self, tag: bytes, key: bytes) -> bool:
        """Whether a member of a room was compared by voice."""
        return bool(self._judgement(tag, key)[0])

    def is_muted(self, tag: bytes, key: bytes) -> bool:
        """Whether the user does not want to read a member."""
        return bool(self._judgement(tag, key)[1])

    def _judgement(self, tag: bytes, key: bytes) -> tuple[int, int]:
        with self._db.failures():
            row = self._db.execute(
                "SELECT verified, muted FROM judgements WHERE tag = ? AND key = ?", (tag, key)
            ).fetchone()
        return row or (0, 0)

    def verify(self, tag: bytes, keys: Iterable[bytes], n: int) -> None:
        """These members were compared by voice, up to place n."""
        with self._db.transaction():
            for key in keys:
                self._db.execute(
                    "INSERT INTO judgements VALUES (?, ?, ?, 0)"
                    " ON CONFLICT (tag, key) DO UPDATE SET verified = excluded.verified",
                    (tag, key, n),
                )

    def mute(self, tag: bytes, key: bytes, *, muted: bool) -> None:
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO judgements VALUES (?, ?, 0, ?)"
                " ON CONFLICT (tag, key) DO UPDATE SET muted = excluded.muted",
                (tag, key, muted),
            )

    # ---- the whole ----

    def contents(self) -> Contents:
        """Everything, as of one moment."""
        with self._db.transaction():
            secrets = self._db.execute("SELECT name, sealed FROM secrets").fetchall()
            rooms = self._db.execute("SELECT tag, sealed, witness, used_ms FROM rooms").fetchall()
            incarnations = self._db.execute("SELECT incarnation, tag FROM incarnations").fetchall()
            outbox = self._db.execute(
                "SELECT tag, incarnation, seq, id, envelope FROM outbox ORDER BY number"
            ).fetchall()
            judgements = self._db.execute("SELECT * FROM judgements").fetchall()
        unread: set[bytes] = set()
        for tag in {row[0] for row in outbox}:
            unread |= self._unread(tag, {row[3] for row in outbox if row[0] == tag})
        return Contents(
            secrets={name: self._unseal(sealed) for name, sealed in secrets},
            rooms=[HeldRoom(tag, self._record(sealed), *rest) for tag, sealed, *rest in rooms],
            incarnations=incarnations,
            outbox=[row for row in outbox if row[3] in unread],
            judgements=judgements,
        )

    def fill(self, contents: Contents) -> None:
        """Take all of this; for a vault that was made just now, and is closed after it.

        Its incarnations are those of a dead process: what they left is sent by the next one.
        """
        rooms = [
            (room.tag, self._seal(msgspec.msgpack.encode(room.record)), room.witness, room.used_ms)
            for room in contents.rooms
        ]
        secrets = [(name, self._seal(clear)) for name, clear in contents.secrets.items()]
        rows: dict[str, list[tuple[object, ...]]] = {
            "secrets VALUES (?, ?)": [*secrets],
            "rooms VALUES (?, ?, ?, ?)": [*rooms],
            "incarnations VALUES (?, ?, 'imported')": [*contents.incarnations],
            "outbox (tag, incarnation, seq, id, envelope) VALUES (?, ?, ?, ?, ?)": [
                *contents.outbox
            ],
            "judgements VALUES (?, ?, ?, ?)": [*contents.judgements],
        }
        with self._db.transaction():
            for into, values in rows.items():
                self._db.execute_many(f"INSERT OR REPLACE INTO {into}", values)


def member_folder(home: Path, name: str) -> Path:
    """The folder of the member with this (canonical) name in a profile."""
    folder = quote(name, safe=" ").replace(".", "%2E")
    if len(folder) > _LONGEST_FOLDER:
        folder = "=" + base64.b32encode(name.encode()).decode().rstrip("=")
    return home / "members" / folder


def member_names(home: Path) -> list[str]:
    """The members of a profile."""
    folders = (home / "members").glob("*/vault.key")
    return sorted(_name_of(path.parent.name) for path in folders)


def _name_of(folder: str) -> str:
    if not folder.startswith("="):
        return unquote(folder)
    coded = folder[1:]
    return base64.b32decode(coded + "=" * (-len(coded) % 8)).decode()
