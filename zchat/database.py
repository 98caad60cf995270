"""One way to open a SQLite file: whose it is, which version, how durable, and how it fails.

Rules of this file: what is committed is durable when `transaction` ends; an error of SQLite leaves
as StoreFull (try again later), StoreEmpty (nothing to read yet), StoreUnreadable (not ours, or
damaged) or StoreTrouble (stop).
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from zchat.errors import StoreBusy, StoreEmpty, StoreFull, StoreTrouble, StoreUnreadable
from zchat.files import private_folder, storage_errors, sync_folder, take_lock

_BUSY_TIMEOUT_S = 10.0
_CACHE_KIB = 65_536


class Schema(NamedTuple):
    """What a file of ours holds. `application_id` lets `file` and us recognise it."""

    application_id: int
    version: int
    tables: str


class Access(Enum):
    """How a file is opened: the mode of its log, how durable a commit is, who may write at once.

    WAL with synchronous=FULL costs one fsync per commit. Before 3.51.3, SQLite in WAL mode can lose
    commits where one connection starts a checkpoint while another one commits; so where several
    processes write, a lock of ours lets one at a time commit, checkpoint or close. WAL with NORMAL
    is for what a server has, too: a cut of power may take the last commits, and they are fetched
    again.
    """

    ONE_WRITER = ("WAL", "FULL", "one writer")
    REPLICA = ("WAL", "NORMAL", "one writer")
    SHARED = ("WAL", "FULL", "in turn")
    READ_ONLY = ("", "", "nobody")


class Database:
    """A SQLite file of ours. Made on first use unless opened read-only."""

    def __init__(self, path: Path, schema: Schema, access: Access) -> None:
        self._path = path
        self._in_turn = access is Access.SHARED
        self.read_only = access is Access.READ_ONLY
        with self.failures():
            self._connection = self._connect()
            try:
                self._set_up(schema, access)
            except BaseException:
                self.close()
                raise

    def _set_up(self, schema: Schema, access: Access) -> None:
        self._check_kind(schema)
        if not self.read_only:
            journal, synchronous, _ = access.value
            with self._turn():
                self.execute(f"PRAGMA journal_mode={journal}")
            self.execute(f"PRAGMA synchronous={synchronous}")
            self.execute("PRAGMA secure_delete=ON")
        self.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    def _connect(self) -> sqlite3.Connection:
        with storage_errors(self._path):
            if not self.read_only:
                private_folder(self._path.parent)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            elif not self._path.exists():
                raise StoreEmpty(path=self._path)
        mode = "ro" if self.read_only else "rw"
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)

    def _check_kind(self, schema: Schema) -> None:
        if self._is_empty():
            if self.read_only:
                raise StoreEmpty(path=self._path)
            self._make(schema)
        (version,) = self.execute("PRAGMA user_version").fetchone()
        (application_id,) = self.execute("PRAGMA application_id").fetchone()
        if application_id != schema.application_id:
            raise StoreUnreadable(path=self._path, reason="it is another program's file")
        if version != schema.version:
            reason = f"it has schema {version}, this version reads {schema.version}"
            raise StoreUnreadable(path=self._path, reason=reason)

    def _is_empty(self) -> bool:
        return not self.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _make(self, schema: Schema) -> None:
        with self.transaction():
            if self._is_empty():  # another process may have been faster
                for statement in schema.tables.split(";\n"):
                    self.execute(statement)
                self.execute(f"PRAGMA application_id = {schema.application_id}")
                self.execute(f"PRAGMA user_version = {schema.version}")
        sync_folder(self._path.parent)

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def execute_many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        self._connection.executemany(statement, rows)

    def _turn(self) -> contextlib.AbstractContextManager[object]:
        """While this lasts no other process writes. Raises StoreBusy when that takes too long."""
        if not self._in_turn:
            return contextlib.nullcontext()
        return take_lock(self._path, wait_s=_BUSY_TIMEOUT_S)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it durably, or nothing. Raises StoreBusy, and as `failures`."""
        with self._turn(), self.failures():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.execute("ROLLBACK")
                raise

    def one(self, statement: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row, or None. Raises as `failures`; a block of its own would cost as much."""
        try:
            return self._connection.execute(statement, values).fetchone()
        except (sqlite3.Error, MemoryError):
            with self.failures():
                raise

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Errors of SQLite leave as ours."""
        try:
            yield
        except (sqlite3.Error, MemoryError) as error:  # a mangled length asks for all memory
            name = getattr(error, "sqlite_errorname", "") or type(error).__name__
            reason = f"{' '.join(str(error).split()) or 'no memory'} ({name})"
            # A quota or RLIMIT_FSIZE shows as IOERR_WRITE, a full disk as FULL.
            if name in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise StoreFull(path=self._path, reason=reason) from None
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise StoreUnreadable(path=self._path, reason=reason) from None
            raise StoreTrouble(path=self._path, reason=reason) from None

    def scrub(self) -> None:
        """Leave nothing of what was deleted in the file or beside it, as far as SQLite can."""
        with self._turn(), self.failures():
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def copy_to(self, path: Path) -> None:
        """A whole and consistent copy, durable when this returns; `path` must not exist yet."""
        with storage_errors(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with self.failures(), contextlib.closing(sqlite3.connect(path)) as copy:
                self._connection.backup(copy, pages=1_024, sleep=0.01)
                copy.execute("PRAGMA journal_mode=DELETE")
            with path.open("rb") as written, storage_errors(path):
                os.fsync(written.fileno())
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, StoreFull):  # it is the copy that has no space
                raise StoreFull(path=path, reason=error.facts["reason"]) from None
            raise
        sync_folder(path.parent)

    def close(self) -> None:
        """The last one to close a file checkpoints, so that takes its turn as well."""
        try:
            with self._turn():
                self._connection.close()
        except StoreBusy:  # who holds the lock has the file open: we are not the last
            self._connection.close()
