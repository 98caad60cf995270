"""Backup and restore of a broker's store.

Theory of operation. A store that comes back from a backup lacks what was signed since. Served as it
is, every member would rightly see a server that went back. A restore by the book opens a new log
for every room: its genesis names the former log and how much of it survived, so members can tell an
honest loss from a lie, and offer again what was lost (docs/protocol.md, section 5, rule 4).

Rules of this file: the store in use is never changed in place; what is replaced is kept beside it.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from zchat.database import Access, Database
from zchat.errors import BackupInTheWay
from zchat.files import ASKED_S, storage_errors, sync_folder, take_lock
from zchat.log.sqlite import SCHEMA, SqliteLog
from zchat.protocol.ledger import Genesis, LogKey, chain
from zchat.protocol.limits import MAX_LINEAGE


class Restored(NamedTuple):
    """What a restore did, and where the replaced store is kept, if there was one."""

    rooms: int
    entries: int
    aside: Path | None


def backup(store: Path, target: Path) -> None:
    """Copy a store to a file that does not exist, beside a running broker. Raises StoreTrouble."""
    if target.exists():
        raise BackupInTheWay(path=target)
    database = Database(store, SCHEMA, Access.READ_ONLY, older_too=True)
    try:
        database.copy_to(target)
    finally:
        database.close()


def restore(store: Path, source: Path, key: LogKey, randomness: Callable[[int], bytes]) -> Restored:
    """Put a backup in the place of the store, every room as a new log that names its former one.

    Raises StoreBusy while a broker runs, StoreUnreadable where the backup is none.
    """
    return _replace(store, source, None, key, randomness)


def go_on_without(
    store: Path, rooms: Collection[bytes], key: LogKey, randomness: Callable[[int], bytes]
) -> Restored:
    """The store as it is, but these rooms, which lost something, as new logs. Raises as `restore`.

    A room that lost all of it is not there, so it has nothing to begin anew with.
    """
    return _replace(store, store, rooms, key, randomness)


def _replace(
    store: Path,
    source: Path,
    anew: Collection[bytes] | None,
    key: LogKey,
    randomness: Callable[[int], bytes],
) -> Restored:
    draft = store.with_name(f"{store.name}.restoring")
    with take_lock(store, wait_s=ASKED_S):
        draft.unlink(missing_ok=True)
        backup(source, draft)
        rooms, entries = _begin_anew(draft, anew, key, randomness)
        aside = _set_aside(store)
        with storage_errors(store):
            draft.rename(store)
            sync_folder(store.parent)
        for beside in draft.parent.glob(f"{draft.name}.*"):  # its lock; of an older one, a copy
            beside.unlink()
    return Restored(rooms, entries, aside)


def _begin_anew(
    draft: Path,
    anew: Collection[bytes] | None,
    key: LogKey,
    randomness: Callable[[int], bytes],
) -> tuple[int, int]:
    """The rooms named, or all of them: how many, and how many entries they have."""
    log = SqliteLog(draft, Access.ONE_WRITER)
    rooms = entries = 0
    try:
        for room in log.rooms():
            if anew is not None and room not in anew:
                continue
            tip = log.tip(room)
            assert tip is not None
            genesis = Genesis(room, key.public, randomness(16), tip.log, tip.n, tip.hash)
            births = (key.sign_birth(genesis), *tip.births)[:MAX_LINEAGE]
            log.begin_anew(room, genesis.log, births, _hashes(log, room, genesis.log, tip.n))
            rooms, entries = rooms + 1, entries + tip.n
    finally:
        log.close()
    return rooms, entries


def _hashes(log: SqliteLog, room: bytes, start: bytes, end: int) -> Iterator[bytes]:
    """The chain of the same ids from another beginning."""
    n = 0
    while n < end:
        page = log.read(room, n + 1, end)
        hashes = chain(start, n + 1, [entry.id for entry in page])
        yield from hashes
        start, n = hashes[-1], n + len(page)


def _set_aside(store: Path) -> Path | None:
    """Rename the store with what a killed broker left beside it, or only that if it is gone.

    What stayed would be taken for the new store's: SQLite would mix its WAL into it.
    """
    store.with_name(f"{store.name}.doubt").unlink(missing_ok=True)
    was_there = store.exists()
    name = f"{store.stem}.before-{time.strftime('%Y-%m-%d-%H%M%S')}"
    aside = store.with_name(f"{name}.db")
    for number in itertools.count(2):
        if not aside.exists():
            break
        aside = store.with_name(f"{name}-{number}.db")
    for suffix in ("-wal", ".ends", ""):
        part = store.with_name(store.name + suffix)
        if part.exists():
            with storage_errors(part):
                part.rename(aside.with_name(aside.name + suffix))
    store.with_name(f"{store.name}-shm").unlink(missing_ok=True)
    return aside if was_there else None
