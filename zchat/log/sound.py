"""Whether a log still is what was written: ids against envelopes, the chain against ids.

Rules of this file: it reads and judges nothing else; every place that is wrong is named once.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zchat.errors import StoreUnreadable
from zchat.log.contract import Entry, Log
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import chain, link
from zchat.protocol.limits import MAX_BATCH_ENTRIES


class Damage(NamedTuple):
    """A place of a log that does not hold."""

    n: int
    what: str


def first_damage(before: bytes, entries: Sequence[Entry], expired: int) -> Damage | None:
    """The first of consecutive entries that is not as it was written, from the hash before them."""
    hashes = chain(before, entries[0].n, [entry.id for entry in entries])
    for entry, hash_n in zip(entries, hashes, strict=True):
        if entry.hash != hash_n:
            return Damage(entry.n, "the chain does not hold")
        if entry.envelope is None:
            if entry.n > expired:
                return Damage(entry.n, "the message is missing")
        elif envelope_id(entry.envelope) != entry.id:
            return Damage(entry.n, "the message is not the one that was stored")
    return None


def damages(log: Log, room: bytes, step: Callable[[], None] = lambda: None) -> Iterator[Damage]:
    """Every place of a room that is not as it was written; `step` is called again and again.

    Raises StoreUnreadable where the room itself cannot be found, StoreTrouble.
    """
    tip = log.tip(room)
    assert tip is not None
    n, most = 0, MAX_BATCH_ENTRIES
    previous: bytes | None = tip.log
    while n < tip.n:
        step()
        try:
            entries = log.read(room, n + 1, tip.n, most_entries=most)
        except StoreUnreadable as error:
            if most == 1:
                yield Damage(n + 1, str(error.facts["reason"]))
                n, previous = n + 1, None
            most = max(1, most // 2)
            continue
        most = min(2 * most, MAX_BATCH_ENTRIES)
        for entry in entries:
            if entry.envelope is not None and envelope_id(entry.envelope) != entry.id:
                yield Damage(entry.n, "the message is not the one that was stored")
            if previous is not None and link(previous, entry.n, entry.id) != entry.hash:
                yield Damage(entry.n, "the chain does not hold")
            n, previous = entry.n, entry.hash
    if previous not in (None, tip.hash):
        yield Damage(tip.n, "the end is not the one that was written")
