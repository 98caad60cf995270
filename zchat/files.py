"""Files that are private, written whole or not at all, and locked for as long as a process lives.

Rules of this file: the standard library only; what fails leaves as one of our own errors.
"""

import contextlib
import errno
import fcntl
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zchat.errors import StoreBusy, StoreFull, StoreTrouble

ASKED_S = 1.0  # who only asks whether a lock is held has it for an instant: wait that long
_LOCK_POLL_S = 0.001
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def private_folder(path: Path) -> Path:
    """The folder, durably made if need be, with its parents, for the owner only."""
    with storage_errors(path):
        if not path.is_dir():
            private_folder(path.parent)
            path.mkdir(exist_ok=True, mode=0o700)
            sync_folder(path.parent)
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A private file, written part by part: `path` holds all of it durably, or what it held before.

    It takes the place of `path` when the block ends without an exception.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole: afterwards it holds `content` durably, or what it held before."""
    with whole_file(path) as file:
        file.write(content)


def make_once(path: Path, content: bytes) -> bytes:
    """What `path` holds; `content` if it did not exist. Two processes at once agree."""
    private_folder(path.parent)
    with take_lock(path, wait_s=math.inf), storage_errors(path):
        if not path.exists():
            write_private(path, content)
        return path.read_bytes()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Lock(contextlib.AbstractContextManager["Lock"]):
    """An exclusive lock that dies with its process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __exit__(self, *_: object) -> None:
        self.release()


def take_lock(path: Path, *, wait_s: float = 0.0) -> Lock:
    """Lock `path` by the file `path.lock` beside it.

    Raises StoreBusy where another process holds it for longer than `wait_s` from now.
    """
    until = time.monotonic() + wait_s
    with storage_errors(path):
        descriptor = os.open(lock_file(path), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            while not _locked(descriptor):
                if time.monotonic() >= until:
                    raise StoreBusy(path=path)
                time.sleep(_LOCK_POLL_S)
        except BaseException:
            os.close(descriptor)
            raise
    return Lock(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of `path`; several may ask at once.

    Raises StoreTrouble where that cannot be found out.
    """
    with storage_errors(path):
        if not lock_file(path).exists():
            return False
        descriptor = os.open(lock_file(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return not _locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


def _locked(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    return False


def lock_file(path: Path) -> Path:
    """The file by which `path` is locked."""
    return path.with_name(path.name + ".lock")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """An OSError about `path` leaves as StoreFull or StoreTrouble."""
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in _NO_SPACE else StoreTrouble
        raise kind(path=path, reason=error.strerror or str(error)) from None
