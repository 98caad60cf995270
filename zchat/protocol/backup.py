"""A person's backup as a file: sealed under a passphrase of its own.

Rules of this file: what the content is, is not known here; the head in clear is bound into the key,
so that no byte of a file can be another (docs/operations.md, "A person's backup").
"""

import struct
from typing import NamedTuple

from nacl import bindings
from nacl.exceptions import CryptoError

from zchat.errors import Malformed, Unopenable
from zchat.protocol.keys import same
from zchat.protocol.labels import Label, digest
from zchat.protocol.limits import (
    ITEM_PREFIX_BYTES,
    KEY_BYTES,
    MIB,
    NONCE_BYTES,
    SECRETBOX_TAG_BYTES,
    TAG_BYTES,
    padded_length,
)

VERSION = 1
MAX_CONTENT_BYTES = 224 * MIB
MAX_FILE_BYTES = 256 * MIB  # padded, the longest content fits
_MAGIC = b"zchat backup"
#   0 magic | 12 version | 16 salt | 32 nonce | 56 size of the box | 64
_HEADER = struct.Struct(f">{len(_MAGIC)}sI{TAG_BYTES}s{NONCE_BYTES}sQ")
_BOX_AT = _HEADER.size + KEY_BYTES  # behind the commitment
_LENGTH = struct.Struct(">I")


class Header(NamedTuple):
    """What of a backup is in clear."""

    magic: bytes
    version: int
    salt: bytes
    nonce: bytes
    size: int

    @property
    def packed(self) -> bytes:
        return _HEADER.pack(*self)


def seal_backup(content: bytes, root: bytes, salt: bytes, nonce: bytes) -> bytes:
    """The file of a content; `root` comes from the passphrase and the 16 random bytes of `salt`."""
    padded = _padded(content)
    header = Header(_MAGIC, VERSION, salt, nonce, len(padded) + SECRETBOX_TAG_BYTES)
    key, commitment = _keys(header, root)
    return header.packed + commitment + bindings.crypto_secretbox(padded, nonce, key)


def read_header(raw: bytes) -> Header:
    """The head of a file that may be a whole backup. Raises Malformed."""
    if not raw.startswith(_MAGIC):
        raise Malformed(reason="it does not begin as one")
    if len(raw) < _BOX_AT:
        raise Malformed(reason="it is cut short")
    header = Header(*_HEADER.unpack_from(raw))
    if header.version != VERSION:
        reason = f"it is of version {header.version}, and this zchat reads {VERSION}"
        raise Malformed(reason=reason)
    if len(raw) != _BOX_AT + header.size:
        is_short = len(raw) < _BOX_AT + header.size
        raise Malformed(reason="it is cut short" if is_short else "something stands behind its end")
    return header


def open_backup(raw: bytes, root: bytes) -> bytes:
    """The content. Raises Malformed, and Unopenable with check `commitment`, `box` or `padding`."""
    header = read_header(raw)
    key, commitment = _keys(header, root)
    if not same(commitment, raw[_HEADER.size : _BOX_AT]):
        raise Unopenable("commitment")
    try:
        padded = bindings.crypto_secretbox_open(raw[_BOX_AT:], header.nonce, key)
    except (CryptoError, ValueError):
        raise Unopenable("box") from None
    (length,) = _LENGTH.unpack_from(padded)
    content = padded[ITEM_PREFIX_BYTES : ITEM_PREFIX_BYTES + length]
    if padded != _padded(content):
        raise Unopenable("padding")
    return content


def _keys(header: Header, root: bytes) -> tuple[bytes, bytes]:
    """(box key, commitment) of the one backup with this head."""
    both = digest(Label.BACKUP, 2 * KEY_BYTES, header.packed, root)
    return both[:KEY_BYTES], both[KEY_BYTES:]


def _padded(content: bytes) -> bytes:
    return (_LENGTH.pack(len(content)) + content).ljust(padded_length(len(content)), b"\0")
