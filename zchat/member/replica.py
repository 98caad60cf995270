"""Which log a process of a member reads and writes: the shared file, or one laid over it.

Rules of this file: one process writes a file; whoever comes second goes on from its end in memory.
"""

from pathlib import Path

from zchat.database import Access
from zchat.errors import StoreBusy, StoreEmpty
from zchat.log.contract import Log, MemoryLog
from zchat.log.overlay import Overlay
from zchat.log.sqlite import SqliteLog


def open_replica(path: Path, tag: bytes) -> Log:
    """The replica of a room: written by the first process that opens it, overlaid by others."""
    try:
        return SqliteLog(path, Access.REPLICA)
    except StoreBusy:
        return Overlay(_beside_writer(path), tag)


def _beside_writer(path: Path) -> Log:
    """What another process has kept so far: it may only just be making the file."""
    try:
        return SqliteLog(path, Access.READ_ONLY)
    except StoreEmpty:
        return MemoryLog()
