"""Opening envelopes of the log: one, or many on all cores, or again what was opened before.

Rules of this file: what does not open is None, whatever the reason; nothing is remembered.
"""

import functools
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zchat.errors import Unopenable
from zchat.log.contract import Entry
from zchat.member.transcript import Readable
from zchat.protocol.body import decode_logged
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import RoomKeys
from zchat.protocol.seal import open_envelope, reopen_envelope

_SLICE = 16  # envelopes that one core opens at a time


class Opener:
    """Opens what was said in one room."""

    def __init__(self, keys: RoomKeys) -> None:
        self._keys = keys

    def open(self, envelope: bytes | None) -> Readable | None:
        if envelope is None:
            return None
        try:
            header, body = open_envelope(self._keys, envelope, EnvelopeClass.LOG)
            return Readable(header, decode_logged(body))
        except Unopenable:
            return None

    def open_all(self, entries: Sequence[Entry]) -> list[Readable | None]:
        """As `open`, for many: on all cores, for libsodium lets go of the interpreter."""
        if len(entries) < 2 * _SLICE:
            return [self.open(entry.envelope) for entry in entries]
        slices = (entries[at : at + _SLICE] for at in range(0, len(entries), _SLICE))
        opened = _workers().map(lambda some: [self.open(entry.envelope) for entry in some], slices)
        return list(itertools.chain.from_iterable(opened))

    def reopen(self, entry: Entry) -> Readable | None:
        """What the replica keeps: it was opened before it was kept."""
        if entry.envelope is None:
            return None
        try:
            header, body = reopen_envelope(self._keys, entry.envelope, entry.id)
            return Readable(header, decode_logged(body))
        except Unopenable:
            return None


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="open")
