"""The way on after the server contradicted itself: its present log is read from the start.

Rules of this file: nothing is deleted, the former history stays beside the new one; where a
restored server named the log it goes on from, one's own messages that it lost are offered again, as
the same bytes; in every other case nothing is, for what they counter-sign would accuse it anew.
What waits in the outbox is marked, and judged by its outbox once the present log is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from zchat.database import Access
from zchat.errors import StoreBusy, StoreEmpty, Unopenable
from zchat.log.sqlite import SqliteLog
from zchat.member.profile import Opened
from zchat.member.vault import Pending
from zchat.protocol.body import decode_logged
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.seal import open_envelope


class Rejoined(NamedTuple):
    """Where the former history is kept, and how many messages wait in the outbox."""

    aside: Path
    waiting: int


def rejoin(opened: Opened) -> Rejoined:
    """Accept the server's present log. Broken off at any point, it can be done again.

    Raises StoreBusy while another process is in the room: it would go on in what is left here.
    """
    vault, keys, record, *_ = opened
    if vault.is_spoken_in(keys.tag):
        raise StoreBusy(path=vault.replica_path(keys.tag))
    waiting, offered = vault.waiting_ids(keys.tag), set(record.offered)
    if record.kept_n >= 0:
        own = Author(vault.master_seed, keys).public
        lost = [
            pending
            for pending in _own_after(vault.replica_path(keys.tag), keys, own, record.kept_n)
            if vault.wrote(pending.incarnation)
        ]
        offered |= {pending.id for pending in lost}
        record = msgspec.structs.replace(record, offered=tuple(offered))
        vault.save_room(keys.tag, record)  # first, or what is offered would look as if it waited
        vault.offer(keys.tag, lost)
    aside = vault.set_replica_aside(keys.tag)
    left = tuple(i for i in waiting if i not in offered)
    cleared = msgspec.structs.replace(
        record,
        fault="",
        fault_ms=0,
        evidence="",
        kept_n=-1,
        accepted_n=-1,
        left=left,
        rejoins=record.rejoins + 1,
    )
    vault.save_room(keys.tag, cleared)
    return Rejoined(aside, vault.waiting(keys.tag))


def _own_after(path: Path, keys: RoomKeys, own: bytes, kept_n: int) -> Iterator[Pending]:
    """One's own envelopes beyond a place of the replica, in their order."""
    try:
        replica = SqliteLog(path, Access.READ_ONLY)
    except StoreEmpty:  # set aside already, by a run that was broken off
        return
    tip = replica.tip(keys.tag)
    n = kept_n
    while tip is not None and n < tip.n:
        entries = replica.read(keys.tag, n + 1, tip.n)
        for entry in entries:
            if entry.envelope is None:
                continue
            try:
                header, raw = open_envelope(keys, entry.envelope, EnvelopeClass.LOG)
                body = decode_logged(raw)
            except Unopenable:
                continue
            if header.sender == own:
                yield Pending(body.incarnation, body.seq, entry.id, entry.envelope)
        n = entries[-1].n
    replica.close()
