"""Whether a log still is what was written: ids against envelopes, the chain against ids.

Rules of this file: it reads and judges nothing else; every place that is wrong is named once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zchat.log.contract import Entry, Log
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import chain, link


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


def damages(log: Log, room: bytes) -> Iterator[Damage]:
    """Every place of a room that is not as it was written. Raises StoreUnreadable, StoreTrouble."""
    tip = log.tip(room)
    assert tip is not None
    n, previous = 0, tip.log
    while n < tip.n:
        for entry in log.read(room, n + 1, tip.n):
            if entry.envelope is not None and envelope_id(entry.envelope) != entry.id:
                yield Damage(entry.n, "the message is not the one that was stored")
            if link(previous, entry.n, entry.id) != entry.hash:
                yield Damage(entry.n, "the chain does not hold")
            n, previous = entry.n, entry.hash
    if previous != tip.hash:
        yield Damage(tip.n, "the end is not the one that was written")
