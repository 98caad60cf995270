"""The layout everybody may read: the header in clear, the outline, the id.

Rules of this file: nothing here needs a key, so the broker may use all of it. The layout is drawn
here and in docs/protocol.md section 7, and nowhere else. Checks are numbered as on that page.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from zchat.errors import Unopenable
from zchat.protocol.labels import Label, digest
from zchat.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    MAX_CAST_BYTES,
    MAX_ENVELOPE_BYTES,
    PADDING_FLOOR_BYTES,
    SIGNATURE_BYTES,
    padme,
)

VERSION = 1
SUITE = 1
EPOCH = 0

#   0 version | 1 suite | 2 class | 3 epoch | 7 timestamp | 15 nonce | 39 sender | 71
_HEADER = struct.Struct(">BBBIQ24s32s")
assert _HEADER.size == HEADER_BYTES

_TIMESTAMP_AT, _NONCE_AT, _SENDER_AT = 7, 15, 39
BOX_AT = HEADER_BYTES + 32  # after the key commitment


class EnvelopeClass(IntEnum):
    """Where an envelope may stand: in a log, or only on the air."""

    LOG = 0
    CAST = 1


class Header(NamedTuple):
    """The 71 bytes in clear; `packed` is what is hashed."""

    version: int
    suite: int
    envelope_class: int
    epoch: int
    timestamp_ms: int
    nonce: bytes
    sender: bytes

    @property
    def packed(self) -> bytes:
        return _HEADER.pack(*self)


class Parts(NamedTuple):
    """An envelope cut at its joints. `signed` is everything before the signature."""

    header: Header
    packed_header: bytes
    commitment: bytes
    box: bytes
    signature: bytes
    signed: bytes


def envelope_id(envelope: bytes) -> bytes:
    """The envelope's name everywhere: 32 bytes over all of it, signature included."""
    return digest(Label.ID, ID_BYTES, envelope)


def check_outline(envelope: bytes, expected: EnvelopeClass) -> None:
    """Checks 1-3 of the contract: all that a holder of no key can check.

    Raises Unopenable with check `length`, `version` or `class`.
    """
    most = MAX_ENVELOPE_BYTES if expected is EnvelopeClass.LOG else MAX_CAST_BYTES
    padded = len(envelope) - ENVELOPE_OVERHEAD_BYTES
    if len(envelope) > most or padded < PADDING_FLOOR_BYTES or padme(padded) != padded:
        raise Unopenable("length")
    if envelope[0] != VERSION or envelope[1] != SUITE or envelope[3:7] != b"\0\0\0\0":
        raise Unopenable("version")
    if envelope[2] != expected:
        raise Unopenable("class")


def take_apart(envelope: bytes) -> Parts:
    """Cut an envelope that passed `check_outline`."""
    return Parts(
        header=header_of(envelope),
        packed_header=envelope[:HEADER_BYTES],
        commitment=envelope[HEADER_BYTES:BOX_AT],
        box=envelope[BOX_AT:-SIGNATURE_BYTES],
        signature=envelope[-SIGNATURE_BYTES:],
        signed=envelope[:-SIGNATURE_BYTES],
    )


def header_of(envelope: bytes) -> Header:
    """What an envelope that was checked once says in clear."""
    return Header._make(_HEADER.unpack_from(envelope))


def sent_at_ms(envelope: bytes) -> int:
    """The header's timestamp alone."""
    return int.from_bytes(envelope[_TIMESTAMP_AT:_NONCE_AT], "big")


def to_reopen(envelope: bytes) -> tuple[bytes, bytes, bytes]:
    """The header's bytes, the nonce, and the box; too short, or empty, where bytes were lost."""
    nonce = envelope[_NONCE_AT:_SENDER_AT]
    return envelope[:HEADER_BYTES], nonce, envelope[BOX_AT:-SIGNATURE_BYTES]
