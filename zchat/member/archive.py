"""A room's replica as something to look through: without a connection, on all cores.

Theory of operation. What the replica keeps was checked before it was kept, so reading it again
costs one opening per entry (no signature). Ranges of places go to processes of their own, because
opening and matching holds the interpreter; a pattern that explodes is stopped by ending them.

Rules of this file: nothing is written; what it gives is in log order.
"""

import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotInTimeError
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from zchat.database import Access
from zchat.errors import BadPattern, Unopenable
from zchat.log.contract import Entry
from zchat.log.sqlite import SqliteLog
from zchat.protocol.envelope import sent_at_ms
from zchat.protocol.keys import RoomKeys
from zchat.protocol.seal import reopen_body, reopen_header

_SLICE = 4_000
_SMALL = 2 * _SLICE
_LONGEST_SLICE_S = 10.0


class Said(NamedTuple):
    """A message of people, as the replica holds it."""

    n: int
    id: bytes
    sender: bytes
    name: str
    sent_at_ms: int
    text: str
    reply_to: bytes | None


class Query(NamedTuple):
    """What is looked for: all words, or a pattern; since when; from whom (empty: anybody)."""

    words: tuple[str, ...] = ()
    pattern: str = ""
    since_ms: int = 0
    names: frozenset[str] = frozenset()


class _Wanted:
    """A query, ready to be held against many messages."""

    def __init__(self, query: Query) -> None:
        self._since_ms, self._names = query.since_ms, query.names
        self._words = [word.casefold() for word in query.words]
        self._pattern = re.compile(query.pattern, re.IGNORECASE) if query.pattern else None

    def may_hold(self, envelope: bytes) -> bool:
        """Whether it is late enough, which is seen without opening it."""
        return not self._since_ms or sent_at_ms(envelope) >= self._since_ms

    def holds(self, name: str, text: str) -> bool:
        """Whether this message is meant, of those that may be."""
        if self._names and name not in self._names:
            return False
        if self._words:
            folded = text.casefold()
            for word in self._words:
                if word not in folded:
                    return False
        return not self._pattern or bool(self._pattern.search(text))


class _Text(msgspec.Struct, tag_field="kind", tag="text"):
    """What of a text is looked at; the rest was checked before it was kept."""

    name: str
    text: str
    reply_to: bytes | None = None


_decode = msgspec.msgpack.Decoder(_Text).decode


def read(
    path: Path, keys: RoomKeys, first: int, last: int, wanted: "_Wanted | None" = None
) -> Iterator[Said]:
    """The messages at these places, or those of them that are wanted.

    Raises StoreEmpty, StoreUnreadable, StoreTrouble.
    """
    replica = SqliteLog(path, Access.READ_ONLY)
    try:
        tip = replica.tip(keys.tag)
        last = min(last, tip.n if tip else 0)
        while first <= last:
            entries = replica.read(keys.tag, first, last)
            for entry in entries:
                said = _said(keys, entry, wanted)
                if said is not None:
                    yield said
            first = entries[-1].n + 1
    finally:
        replica.close()


def end_of(path: Path, keys: RoomKeys) -> int:
    """The place where a replica ends; 0 where there is none."""
    replica = SqliteLog(path, Access.READ_ONLY)
    try:
        tip = replica.tip(keys.tag)
        return tip.n if tip else 0
    finally:
        replica.close()


def _said(keys: RoomKeys, entry: Entry, wanted: "_Wanted | None") -> Said | None:
    if entry.envelope is None or (wanted is not None and not wanted.may_hold(entry.envelope)):
        return None
    try:
        body = _decode(reopen_body(keys, entry.envelope))
        if not (wanted is None or wanted.holds(body.name, body.text)):
            return None
        header = reopen_header(entry.envelope, entry.id)
    except (Unopenable, msgspec.ValidationError):  # or of another kind, with pairs of any type
        return None
    sent = header.timestamp_ms
    return Said(entry.n, entry.id, header.sender, body.name, sent, body.text, body.reply_to)


def search(path: Path, keys: RoomKeys, query: Query) -> Iterator[Said]:
    """The messages that a query means, in log order. Raises BadPattern, and as `read`."""
    try:
        re.compile(query.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPattern(pattern=query.pattern, reason=str(error)) from None
    end = end_of(path, keys)
    if end <= _SMALL and not query.pattern:
        yield from _matching(path, keys.root, query, (1, end))
        return
    slices = [(at, min(at + _SLICE - 1, end)) for at in range(1, end + 1, _SLICE)]
    processes = ProcessPoolExecutor(os.cpu_count(), mp_context=_context())
    try:
        matching = partial(_matching, path, keys.root, query)
        for future in [processes.submit(matching, part) for part in slices]:
            yield from future.result(_LONGEST_SLICE_S)
    except NotInTimeError:
        raise BadPattern(pattern=query.pattern, reason="it takes for ever to match") from None
    finally:
        for process in list(processes._processes.values()):
            process.kill()  # one that is still at it would never end by itself
        processes.shutdown(wait=False, cancel_futures=True)


def _context() -> multiprocessing.context.BaseContext:
    """Fork where the system has it: a worker is there at once, and this command has no threads."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    return multiprocessing.get_context(method)


def _matching(path: Path, root: bytes, query: Query, part: tuple[int, int]) -> list[Said]:
    return list(read(path, RoomKeys(root), *part, _Wanted(query)))
