"""What a broker looks at before it serves: is all there that was confirmed, was it found damaged.

Theory of operation. Two things only the former life of a broker knows: how far each room had come
(log/ends.py), and that it stopped because of damage in what all rooms share. The first is compared
with the store; after the second the whole store is looked through, which takes its time. Whoever
starts again and again on a damaged store would else confirm, stop, and confirm again.

Rules of this file: a store in which something is missing is not written; StoreShortened and
StoreDamaged say what is lost, and the ways on.
"""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from zchat.broker.upkeep import go_on_without
from zchat.database import Access
from zchat.errors import StoreDamaged, StoreShortened, StoreTrouble
from zchat.files import storage_errors, write_private
from zchat.log.ends import Lost, ends_path, lost
from zchat.log.guarded import GuardedLog
from zchat.log.sqlite import SqliteLog
from zchat.protocol.ledger import LogKey

_MOST_NAMED = 5

logger = logging.getLogger("zchat.broker")


def open_log(store: Path, key: Callable[[], LogKey], *, accept_loss: bool) -> GuardedLog:
    """The log of a broker that is about to serve, a new one if there is no store.

    Raises StoreShortened, StoreDamaged, StoreUnreadable, StoreBusy, StoreTrouble.
    """
    if store.is_file() and store.stat().st_size:
        _look_through(store)
        missing = lost(store)
        if missing and not accept_loss:
            raise StoreShortened(path=store, reason=_named(missing))
        if missing:
            gone_on = go_on_without(store, {each.room for each in missing}, key(), os.urandom)
            said = "what was lost is accepted (%s); the store as it was is kept as %s"
            logger.warning(said, _named(missing), gone_on.aside)
    elif store.parent.is_dir():
        with storage_errors(store):
            for path in (ends_path(store), _doubt_path(store)):
                path.unlink(missing_ok=True)
    return GuardedLog(store)


def _named(missing: list[Lost]) -> str:
    more = f", and of {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
    return ", ".join(map(str, missing[:_MOST_NAMED])) + more


def doubt(store: Path, error: StoreDamaged) -> None:
    """A broker stops because of damage that is not one room's: the next start looks at it all."""
    with contextlib.suppress(StoreTrouble):  # what it stops for is the sentence to say
        write_private(_doubt_path(store), f"{error}\n".encode())


def _doubt_path(store: Path) -> Path:
    return store.with_name(f"{store.name}.doubt")


def _look_through(store: Path) -> None:
    if not _doubt_path(store).exists():
        return
    logger.warning("%s: looking through all of it, for the last life ended by damage", store)
    log = SqliteLog(store, Access.READ_ONLY)
    try:
        wrong = log.wrong_in()
    finally:
        log.close()
    if wrong:
        raise StoreDamaged(path=store, reason=wrong)
    _doubt_path(store).unlink(missing_ok=True)
