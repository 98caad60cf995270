"""What a disk holds after the power fails: a program's writes, played back up to the last sync.

Theory of operation. `shim.c`, preloaded into the real broker, records every write, truncation,
rename and sync of files under a folder, in order. A `Recording` plays them onto files in memory:
what was written after a file's last fsync is lost (or, `torn`, kept in parts of 512 bytes), and a
name made after its folder's last fsync is gone. The same shim makes chosen calls fail.

Rules of this file: SQLite's -shm file is left out, for it holds nothing that must last.
"""

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_SOURCE = Path(__file__).with_name("shim.c")
_SECTOR_BYTES = 512


def build(folder: Path) -> Path | None:
    """The shim as a library; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def preloaded(library: Path, folder: Path, **settings: str | Path | int) -> dict[str, str]:
    """Environment that puts the shim between a program and a folder; settings as in shim.c."""
    more = {f"SHIM_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_PRELOAD": str(library), "SHIM_FOLDER": str(folder), **more}


class _Operation(NamedTuple):
    kind: str
    path: str
    offset: int
    data: bytes
    end: int  # where its record ends


@dataclass
class _File:
    """What is on the disk for certain, and what was done since."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[_Operation] = field(default_factory=list)

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.synced, operation)
        self.pending.clear()

    def after_power_cut(self, rng: random.Random | None) -> bytes:
        """Its bytes without what was not synced; with `rng`, some of that made it."""
        kept = bytearray(self.synced)
        for operation in self.pending if rng else ():
            assert rng is not None
            if operation.kind == "W":
                for sector in _sectors(operation):
                    if rng.random() < 0.5:
                        _apply(kept, sector)
            elif rng.random() < 0.5:
                _apply(kept, operation)
        return bytes(kept)


def _apply(content: bytearray, operation: _Operation) -> None:
    start = operation.offset
    if operation.kind == "T":
        del content[start:]
        content.extend(bytes(start - len(content)))
        return
    content.extend(bytes(max(0, start + len(operation.data) - len(content))))
    content[start : start + len(operation.data)] = operation.data


def _sectors(operation: _Operation) -> Iterator[_Operation]:
    """The parts of a write that a disk writes one by one."""
    at, end = operation.offset, operation.offset + len(operation.data)
    while at < end:
        upto = min(end, (at // _SECTOR_BYTES + 1) * _SECTOR_BYTES)
        data = operation.data[at - operation.offset : upto - operation.offset]
        yield operation._replace(offset=at, data=data)
        at = upto


class Recording:
    """A record as a disk that goes through it; positions only rise."""

    def __init__(self, path: Path) -> None:
        self._operations = list(_read(path.read_bytes()))
        self._next = 0
        self._files: dict[str, _File] = {}
        self._names: dict[str, _File] = {}  # as the program sees them
        self._kept_names: dict[str, _File] = {}  # as they are on the disk

    def play_to(self, end: int) -> None:
        """Do everything up to a position in the record."""
        while self._next < len(self._operations) and self._operations[self._next].end <= end:
            self._do(self._operations[self._next])
            self._next += 1

    def _do(self, operation: _Operation) -> None:
        path = operation.path
        if operation.kind == "S" and path not in self._names:
            self._sync_folder(path)
        elif operation.kind == "S":
            self._names[path].sync()
        elif operation.kind == "U":
            self._names.pop(path, None)
        elif operation.kind == "N":
            if path in self._names:
                self._names[operation.data.decode()] = self._names.pop(path)
        else:
            self._names.setdefault(path, _File()).pending.append(operation)

    def _sync_folder(self, folder: str) -> None:
        def is_here(path: str) -> bool:
            return path.rpartition("/")[0] == folder.rstrip("/")

        kept = {path: file for path, file in self._kept_names.items() if not is_here(path)}
        kept |= {path: file for path, file in self._names.items() if is_here(path)}
        self._kept_names = kept

    def power_cut(self, rng: random.Random | None = None) -> dict[str, bytes]:
        """The files that are there when the power comes back; with `rng`, torn writes."""
        return {path: file.after_power_cut(rng) for path, file in self._kept_names.items()}


def _read(record: bytes) -> Iterator[_Operation]:
    at = 0
    while at < len(record):
        kind = chr(record[at])
        (length,) = struct.unpack_from("=H", record, at + 1)
        at += 3
        path = record[at : at + length].decode()
        offset, size = struct.unpack_from("=QI", record, at + length)
        at += length + 12
        yield _Operation(kind, path, offset, record[at : at + size], at + size)
        at += size
