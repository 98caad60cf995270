"""Every hash of the protocol is made here; each use has a label, and no label has two uses.

BLAKE2b takes the label as its 16-byte personal parameter (RFC 7693, section 2.1), so hashes of two
uses never meet even over equal data. Inputs are fixed-width, or end in their only variable part.
"""

import hashlib
from enum import Enum, unique


@unique
class Label(bytes, Enum):
    """What a hash is for. The table of docs/protocol.md, section 2."""

    SALT = b"zchat/1 salt"
    ROOM_TAG = b"zchat/1 room tag"
    EPOCH = b"zchat/1 epoch"
    MESSAGE = b"zchat/1 message"
    ROOM_ID = b"zchat/1 room id"
    NONCE = b"zchat/1 nonce"
    SIGN = b"zchat/1 sign"
    ID = b"zchat/1 id"
    LOG_ID = b"zchat/1 log id"
    GENESIS = b"zchat/1 genesis"
    CHAIN = b"zchat/1 chain"
    HEAD = b"zchat/1 head"
    VERIFY = b"zchat/1 verify"
    INVITE = b"zchat/1 invite"
    BACKUP = b"zchat/1 backup"


def digest(label: Label, size: int, data: bytes, key: bytes = b"") -> bytes:
    """BLAKE2b of `data` with `size` bytes (1-64), personal `label`, keyed if `key` is given."""
    return hashlib.blake2b(data, digest_size=size, key=key, person=label).digest()


def begun(label: Label, size: int, data: bytes, key: bytes = b"") -> hashlib.blake2b:
    """What `digest` gives the bytes of, not ended: copies of it take what else is to be hashed."""
    return hashlib.blake2b(data, digest_size=size, key=key, person=label)
