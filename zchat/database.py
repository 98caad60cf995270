"""One way to open a SQLite file: whose it is, which version, how durable, and how it fails.

Rules of this file: what is committed is durable when `transaction` ends; a file of an older schema
is copied before it is changed, and changed in one transaction; an error of SQLite leaves as
StoreFull (try again later), StoreEmpty (nothing to read yet), StoreOlder (to be brought up first),
StoreUnreadable (not ours, or damaged) or StoreTrouble (stop).
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from zchat.errors import (
    StoreBusy,
    StoreEmpty,
    StoreFull,
    StoreOlder,
    StoreTrouble,
    StoreUnreadable,
)
from zchat.files import private_folder, storage_errors, sync_folder, take_lock

_BUSY_TIMEOUT_S = 10.0
_CACHE_KIB = 65_536
_LEFT_OF_WAL_BYTES = 64 * 1024 * 1024  # what stays of one that grew while somebody read for long
_STEPS = 100_000  # of SQLite's machine, which makes tens of millions a second

logger = logging.getLogger("zchat.store")


class Migration(NamedTuple):
    """From one version of a schema to a newer one: statements, or a function that executes them."""

    older: int
    newer: int
    change: "tuple[str, ...] | Callable[[Database], None]"


class Schema(NamedTuple):
    """What a file of ours holds. `application_id` lets `file` and us recognise it."""

    application_id: int
    version: int
    tables: str
    migrations: tuple[Migration, ...] = ()

    def way_from(self, version: int) -> tuple[Migration, ...]:
        """The migrations from an older version to this one, in order; none if they do not lead."""
        way: list[Migration] = []
        while version < self.version:
            step = next((m for m in self.migrations if m.older == version < m.newer), None)
            if step is None:
                return ()
            way.append(step)
            version = step.newer
        return tuple(way) if version == self.version else ()


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
    """A SQLite file of ours, made on first use and brought up to its schema, unless read-only.

    Read-only an older one is StoreOlder, unless `older_too`: then its tables are not looked at.
    """

    def __init__(
        self, path: Path, schema: Schema, access: Access, *, older_too: bool = False
    ) -> None:
        self._path = path
        self._older_too = older_too
        self._version = 0
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
            self.execute(f"PRAGMA journal_size_limit={_LEFT_OF_WAL_BYTES}")
        if access is Access.SHARED:  # another process, of another version, may bring it further
            self._version = schema.version
        self.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    def _connect(self) -> sqlite3.Connection:
        with storage_errors(self._path):
            if not self.read_only:
                private_folder(self._path.parent)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            elif not self._path.exists():
                raise StoreEmpty(path=self._path)
        return self._connection_of("ro" if self.read_only else "rw")

    def _connection_of(self, mode: str) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S)

    def _check_kind(self, schema: Schema) -> None:
        if self._is_empty():
            if self.read_only:
                raise StoreEmpty(path=self._path)
            self._make(schema)
        (application_id,) = self.execute("PRAGMA application_id").fetchone()
        if application_id != schema.application_id:
            raise StoreUnreadable(path=self._path, reason="it is another program's file")
        if not self.read_only:
            self._bring_up(schema)
        version = self._present_version()
        if version == schema.version:
            return
        if not schema.way_from(version):
            raise self._of_another_version(version, schema.version)
        if not self._older_too:
            raise StoreOlder(path=self._path, version=version, newer=schema.version)

    def _present_version(self) -> int:
        return int(self.execute("PRAGMA user_version").fetchone()[0])

    def _of_another_version(self, version: int, ours: int) -> StoreUnreadable:
        reason = f"it has schema {version}, this version reads {ours}"
        return StoreUnreadable(path=self._path, reason=reason)

    def _bring_up(self, schema: Schema) -> None:
        """Migrate an older file in one transaction, behind a copy: a death leaves old or new.

        The transaction begins before the copy, so nobody writes what the copy would not hold.
        """
        version = self._present_version()
        if not schema.way_from(version):
            return
        kept = self._path.with_name(f"{self._path.name}.v{version}")
        with self.transaction():
            if self._present_version() != version:  # another process was faster
                return
            self._keep_as(kept)
            for migration in schema.way_from(version):
                self._change(migration)
            self.execute(f"PRAGMA user_version = {schema.version}")
        said = "%s was brought from schema %d to %d; as it was, it is kept as %s"
        logger.warning(said, self._path, version, schema.version, kept.name)

    def _keep_as(self, kept: Path) -> None:
        """A copy of what is committed; one of an attempt that was broken off is replaced."""
        draft = kept.with_name(f"{kept.name}.draft")
        with storage_errors(kept), contextlib.closing(self._connection_of("ro")) as committed:
            draft.unlink(missing_ok=True)
            _copy(committed, draft)
            draft.replace(kept)
            sync_folder(kept.parent)

    def _change(self, migration: Migration) -> None:
        if callable(migration.change):
            migration.change(self)
            return
        for statement in migration.change:
            self.execute(statement)

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
                if self._version and self._present_version() != self._version:
                    raise self._of_another_version(self._present_version(), self._version)
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
    def reading(self) -> Iterator[None]:
        """What is read in here is of one moment, under one lock of the file and not one each."""
        with self.failures():
            self.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # an error of the disk may have ended it
                with self.failures():
                    self.execute("COMMIT")

    @contextlib.contextmanager
    def stepping(self, step: Callable[[], None]) -> Iterator[None]:
        """What takes long calls `step` again and again, some hundred times a second."""
        self._connection.set_progress_handler(step, _STEPS)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, _STEPS)

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Errors of SQLite leave as ours."""
        try:
            yield
        except (sqlite3.Error, MemoryError) as error:  # a mangled length asks for all memory
            if _no_space(error):
                raise StoreFull(path=self._path, reason=_no_space(error)) from None
            name, reason = getattr(error, "sqlite_errorname", ""), _reason(error)
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise StoreUnreadable(path=self._path, reason=reason) from None
            if not name and type(error) is sqlite3.OperationalError:  # sqlite3 itself says it
                raise StoreUnreadable(path=self._path, reason="a text in it is none") from None
            raise StoreTrouble(path=self._path, reason=reason) from None

    def scrub(self) -> None:
        """Leave nothing of what was deleted in the file or beside it, as far as SQLite can."""
        with self._turn(), self.failures():
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def gather(self) -> None:
        """Have all of it in the file itself, which can be renamed then: nothing is left beside it.

        Raises StoreBusy while anybody else has it open: what that one reads would be mixed up.
        """
        with self.failures():
            try:
                self.execute("PRAGMA journal_mode=DELETE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY":
                    raise
                raise StoreBusy(path=self._path) from None

    def copy_to(self, path: Path) -> None:
        """A whole and consistent copy, durable when this returns; `path` must not exist yet."""
        with self.failures():
            _copy(self._connection, path)
        sync_folder(path.parent)

    def close(self) -> None:
        """The last one to close a file checkpoints, so that takes its turn as well."""
        try:
            with self._turn():
                self._connection.close()
        except StoreBusy:  # who holds the lock has the file open: we are not the last
            self._connection.close()


def _copy(source: sqlite3.Connection, path: Path) -> None:
    """Copy a database, as it is at one moment, to a file that does not exist yet, and sync it.

    Without a transaction around it, each commit of another process would have it begin anew: beside
    a busy server it would not end. Raises StoreFull where the copy has no space, and errors of
    SQLite as they are.
    """
    with storage_errors(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(path)) as copy, _as_of_now(source):
            source.backup(copy, pages=1_024, sleep=0.01)
            copy.execute("PRAGMA journal_mode=DELETE")
        with path.open("rb") as written, storage_errors(path):
            os.fsync(written.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        reason = _no_space(error)
        if reason:
            raise StoreFull(path=path, reason=reason) from None
        raise


@contextlib.contextmanager
def _as_of_now(source: sqlite3.Connection) -> Iterator[None]:
    """What is read in here is of one moment."""
    source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield
    finally:
        with contextlib.suppress(sqlite3.Error):
            source.execute("ROLLBACK")


def _no_space(error: BaseException) -> str:
    """What SQLite says where there is no space; empty where it says something else."""
    name = getattr(error, "sqlite_errorname", "")
    # A quota or RLIMIT_FSIZE shows as IOERR_WRITE, a full disk as FULL; where the index of a WAL
    # cannot grow, both show as SHMSIZE.
    full = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")
    return _reason(error) if name in full else ""


def _reason(error: BaseException) -> str:
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    return f"{' '.join(str(error).split()) or 'no memory'} ({name})"
