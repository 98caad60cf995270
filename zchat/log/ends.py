"""How far each room had come: marks in a file beside the store, written after each commit.

Theory of operation. SQLite takes the first frame of its WAL whose checksum fails for the end of it.
A bit that flips in the WAL of a killed broker, or a block that is torn, so takes the last commits
without a word, and members were told that they are stored. Therefore a mark of 64 bytes follows
each commit, for each room it touched; it is not synced, so it costs a system call. A mark is
written when its commit is durable: after a cut of power the disk may hold older marks, torn ones
or none, and all of them say less than what is true. One that is ahead of the store proves a loss.

Rules of this file: a mark whose check bytes are wrong says nothing; a full disk leaves older marks,
and is no failure of the store.
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from zchat.database import Access, Database
from zchat.errors import StoreEmpty, StoreFull
from zchat.files import storage_errors
from zchat.log.sqlite import SCHEMA

_MARK = struct.Struct(">16sQ32s")  # room tag, n, h[n]
_CHECK_BYTES = 8
_BYTES = _MARK.size + _CHECK_BYTES


class Lost(NamedTuple):
    """Places of a room that were durable, and are not there."""

    room: bytes
    first: int
    last: int

    def __str__(self) -> str:
        return f"room {self.room.hex()[:8]} #{self.first}-#{self.last}"


class Ends:
    """The marks of a store; a room's stands where its number says. For the life of a broker."""

    def __init__(self, store: Path, ends: Iterable[tuple[int, bytes, int, bytes]]) -> None:
        self._path = ends_path(store)
        content = bytearray()
        for number, room, n, hash_n in ends:
            content += bytes(max(0, number * _BYTES - len(content)))
            content[(number - 1) * _BYTES : number * _BYTES] = _packed(room, n, hash_n)
        with storage_errors(self._path):
            self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if self._path.read_bytes() != content:
                os.ftruncate(self._descriptor, 0)
                self._write(bytes(content), 0)

    def note(self, number: int, room: bytes, n: int, hash_n: bytes) -> None:
        """A room ends here from now on, and that is durable. Raises StoreTrouble."""
        self._write(_packed(room, n, hash_n), (number - 1) * _BYTES)

    def _write(self, content: bytes, at: int) -> None:
        try:
            os.pwrite(self._descriptor, content, at)
        except OSError:
            with contextlib.suppress(StoreFull), storage_errors(self._path):
                raise

    def close(self) -> None:
        """Give back the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def ends_path(store: Path) -> Path:
    """Where the marks of a store stand."""
    return store.with_name(f"{store.name}.ends")


def _packed(room: bytes, n: int, hash_n: bytes) -> bytes:
    mark = _MARK.pack(room, n, hash_n)
    return mark + blake2b(mark, digest_size=_CHECK_BYTES).digest()


def _marked(store: Path) -> dict[bytes, int]:
    """The place each room had reached, as far as marks say."""
    path = ends_path(store)
    with storage_errors(path):
        content = path.read_bytes() if path.exists() else b""
    marked = {}
    for at in range(0, len(content) - _BYTES + 1, _BYTES):
        room, n, hash_n = _MARK.unpack_from(content, at)
        if content[at : at + _BYTES] == _packed(room, n, hash_n):
            marked[room] = n
    return marked


def lost(store: Path) -> list[Lost]:
    """What marks say was durable and the store does not hold. Raises StoreUnreadable, StoreTrouble.

    Nothing is written, neither to the store nor to its WAL. Marks are read first, so that beside a
    running broker they can only be behind.
    """
    marked = _marked(store)
    if not marked:
        return []
    held = _held(store)
    return [
        Lost(room, held.get(room, 0) + 1, n) for room, n in marked.items() if n > held.get(room, 0)
    ]


def _held(store: Path) -> Mapping[bytes, int]:
    try:
        database = Database(store, SCHEMA, Access.READ_ONLY, older_too=True)
    except StoreEmpty:
        return {}
    try:
        with database.failures():
            return dict(database.execute("SELECT tag, n FROM rooms").fetchall())
    finally:
        database.close()
