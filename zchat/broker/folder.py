"""What a broker keeps on disk: its two secret keys, its log, and where it listens just now.

Rules of this file: the keys are made once, readable by their owner only, and never overwritten:
whoever loses them voids every invite, whoever copies them can pose as this server.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zchat.errors import StoreTrouble, StoreUnreadable
from zchat.files import is_locked, make_once, write_private
from zchat.protocol.ledger import LogKey
from zchat.protocol.limits import KEY_BYTES


class BrokerKeys(NamedTuple):
    """The broker's identity. Public halves stand in the invite; the repr shows only those."""

    curve_public: bytes
    curve_secret: bytes
    log_key: LogKey

    def __repr__(self) -> str:
        return f"<BrokerKeys {self.curve_public.hex()[:8]} {self.log_key!r}>"


def log_path(folder: Path) -> Path:
    """The broker's log."""
    return folder / "log.db"


def has_keys(folder: Path) -> bool:
    """Whether a broker has been here before."""
    return (folder / "keys").exists()


def load_keys(folder: Path) -> BrokerKeys:
    """The keys in `folder`, made on the first call. Raises StoreTrouble, StoreUnreadable."""
    path = folder / "keys"
    _, secret = zmq.curve_keypair()
    held = make_once(path, z85.decode(secret) + os.urandom(KEY_BYTES))
    if len(held) != 2 * KEY_BYTES:
        raise StoreUnreadable(path=path, reason="it does not hold two keys")
    curve_secret, seed = held[:KEY_BYTES], held[KEY_BYTES:]
    curve_public = z85.decode(zmq.curve_public(z85.encode(curve_secret)))
    return BrokerKeys(curve_public, curve_secret, LogKey(seed))


def announce(folder: Path, stem: str) -> None:
    """Leave the invite stem where members of this profile find it."""
    write_private(folder / "invite", stem.encode() + b"\n")


def announced(folder: Path) -> str | None:
    """The invite stem of the broker that runs in this profile, if one does.

    One that was killed left it behind: at that address nobody is, or somebody else by now.
    """
    with contextlib.suppress(OSError):
        stem = (folder / "invite").read_text("utf-8").strip()
        with contextlib.suppress(StoreTrouble):  # who may not lock it believes what stands there
            return stem if is_running(folder) else None
        return stem
    return None


def is_running(folder: Path) -> bool:
    """Whether a broker holds the store. Raises StoreTrouble where that cannot be found out."""
    return is_locked(log_path(folder))


def retract(folder: Path) -> None:
    """The broker ends: nobody should look for it here."""
    with contextlib.suppress(OSError):  # the end goes on, also on a disk that is read-only by now
        (folder / "invite").unlink(missing_ok=True)
