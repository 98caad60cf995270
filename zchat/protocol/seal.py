"""Seal and open an envelope: commitment, SecretBox, signature, padding.

Theory of operation. The header in clear and the room tag are hashed under the epoch key into a box
key that opens one box only, and a commitment to it. SecretBox alone does not commit to its key (one
ciphertext can open under several: "invisible salamanders"), and a box keyed from a passphrase is
open to partitioning-oracle guessing; so the commitment is compared first, in constant time. The
order of checks is the cheapest first: junk must cost a member less than it costs its sender.

Rules of this file: no check has a reaction that can be seen on the wire; every failure is an
Unopenable that names its check; nothing of a failed envelope is returned.
"""

import struct
from typing import NamedTuple

from nacl import bindings
from nacl.exceptions import CryptoError

from zchat.errors import Unopenable
from zchat.protocol.envelope import (
    EPOCH,
    SUITE,
    VERSION,
    EnvelopeClass,
    Header,
    Parts,
    check_outline,
    envelope_id,
    header_of,
    take_apart,
    to_reopen,
)
from zchat.protocol.keys import Author, RoomKeys, same
from zchat.protocol.labels import Label, digest
from zchat.protocol.limits import ITEM_PREFIX_BYTES, padded_length

_LENGTH = struct.Struct(">I")


class Opened(NamedTuple):
    """An envelope that passed checks 1-8: its header and the bytes of its body."""

    header: Header
    body: bytes


def seal(
    room: RoomKeys,
    author: Author,
    envelope_class: EnvelopeClass,
    body: bytes,
    timestamp_ms: int,
    randomness: bytes,
) -> bytes:
    """The envelope of `body` (at most 66,560 bytes), signed by `author`; 32 bytes of randomness."""
    header = Header(
        VERSION,
        SUITE,
        envelope_class,
        EPOCH,
        timestamp_ms,
        author.nonce(randomness, body),
        author.public,
    )
    packed = header.packed
    box_key, commitment = room.message_keys(packed)
    box = bindings.crypto_secretbox(_pad(body), header.nonce, box_key)
    unsigned = packed + commitment + box
    return unsigned + author.sign(_signed_digest(room, unsigned))


def open_envelope(room: RoomKeys, envelope: bytes, expected: EnvelopeClass) -> Opened:
    """Checks 1-3 and 5-8 of the contract, in its order. Raises Unopenable."""
    check_outline(envelope, expected)
    parts = take_apart(envelope)
    box_key = _box_key(room, parts)
    signed = parts.signature + _signed_digest(room, parts.signed)
    try:
        bindings.crypto_sign_open(signed, parts.header.sender)
    except CryptoError:
        raise Unopenable("signature") from None
    return Opened(parts.header, _unpad(_decrypt(parts.box, parts.header.nonce, box_key)))


def reopen_envelope(room: RoomKeys, envelope: bytes, entry_id: bytes) -> Opened:
    """Open again what `open_envelope` once opened, and what was kept under its id.

    The id covers every byte, so where it is the same, signature, commitment and padding still hold.
    Raises Unopenable where the bytes are no longer those, or another room's.
    """
    return Opened(reopen_header(envelope, entry_id), reopen_body(room, envelope))


def reopen_header(envelope: bytes, entry_id: bytes) -> Header:
    """The half of `reopen_envelope` that looks at every byte, and needs no key."""
    if envelope_id(envelope) != entry_id:
        raise Unopenable("id")
    return header_of(envelope)


def reopen_body(room: RoomKeys, envelope: bytes) -> bytes:
    """The other half: the body, if header and box are still as they were sealed.

    For whoever looks through many; of what is kept of them the header is asked for, too.
    """
    packed, nonce, box = to_reopen(envelope)
    box_key, _ = room.message_keys(packed)
    return _body_of(_decrypt(box, nonce, box_key))


def _box_key(room: RoomKeys, parts: Parts) -> bytes:
    box_key, commitment = room.message_keys(parts.packed_header)
    if not same(commitment, parts.commitment):
        raise Unopenable("commitment")
    return box_key


def _decrypt(box: bytes, nonce: bytes, box_key: bytes) -> bytes:
    try:
        return bindings.crypto_secretbox_open(box, nonce, box_key)
    except CryptoError:
        raise Unopenable("box") from None


def _signed_digest(room: RoomKeys, unsigned: bytes) -> bytes:
    return digest(Label.SIGN, 64, room.tag + unsigned)


def _pad(body: bytes) -> bytes:
    return (_LENGTH.pack(len(body)) + body).ljust(padded_length(len(body)), b"\0")


def _unpad(padded: bytes) -> bytes:
    body = _body_of(padded)
    if padded != _pad(body):  # its first bytes are the length again, so that is compared as well
        raise Unopenable("padding")
    return body


def _body_of(padded: bytes) -> bytes:
    (length,) = _LENGTH.unpack_from(padded)
    return padded[ITEM_PREFIX_BYTES : ITEM_PREFIX_BYTES + length]
