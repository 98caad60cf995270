"""The log as a ledger: births, the hash chain, signed heads, and proof of contradiction.

Theory of operation. A log starts with a *genesis*; its hash is the log id and h0. Every entry
moves the chain on: h[n] = H(h[n-1], n, id[n]). A *head* signs a place (n, h[n]), and so everything
before it. Two heads that no single chain can hold prove that their signer lied to somebody.

Rules of this file: signing and checking signatures of the *log key* happens here and nowhere else;
everything is a pure function of bytes; a proof is judged by what it carries and by nothing else.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from nacl import bindings
from nacl.exceptions import BadSignatureError

from zchat.errors import Malformed
from zchat.protocol.labels import Label, digest
from zchat.protocol.limits import (
    BIRTH_BYTES,
    GENESIS_BYTES,
    HEAD_BYTES,
    ID_BYTES,
    KEY_BYTES,
    MAX_LINEAGE,
    MAX_PLACE,
    SIGNATURE_BYTES,
    TAG_BYTES,
)

NO_LOG = bytes(ID_BYTES)
NO_HEAD_BYTES = bytes(HEAD_BYTES)

_GENESIS = struct.Struct(">16s32s16s32sQ32s")
_HEAD = struct.Struct(">32sQ32sQ64s")
_LINK = struct.Struct(">32sQ32s")
assert _GENESIS.size == GENESIS_BYTES and _HEAD.size == HEAD_BYTES


class Genesis(NamedTuple):
    """What makes a log: whose it is, which room's, and which log it goes on from."""

    room: bytes
    log_key: bytes
    random: bytes
    parent: bytes = NO_LOG
    parent_n: int = 0
    parent_hash: bytes = NO_LOG

    @property
    def packed(self) -> bytes:
        return _GENESIS.pack(*self)

    @property
    def log(self) -> bytes:
        """The log id, which is also h0."""
        return digest(Label.LOG_ID, ID_BYTES, self.packed)


class Head(NamedTuple):
    """A signed place: "this log has hash `hash` at place `n`; envelopes 1...`expired` are gone"."""

    log: bytes
    n: int
    hash: bytes
    expired: int
    signature: bytes

    @property
    def packed(self) -> bytes:
        return _HEAD.pack(*self)

    @classmethod
    def unpack(cls, packed: bytes) -> "Head":
        """The head in 144 bytes; nothing is checked but the width and the range of places."""
        if len(packed) != HEAD_BYTES:
            raise Malformed(reason="a head has 144 bytes")
        head = cls(*_HEAD.unpack(packed))
        if head.n > MAX_PLACE or head.expired > head.n:
            raise Malformed(reason="a head's place is out of range")
        return head


NO_HEAD = Head.unpack(NO_HEAD_BYTES)
"""What a member who has checked nothing yet has seen: n = 0, which fits every history."""


class LogKey:
    """The broker's signing key for heads and births. Its repr tells nothing."""

    def __init__(self, seed: bytes) -> None:
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"<LogKey {self.public.hex()[:8]}>"

    def _sign(self, message: bytes) -> bytes:
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def sign_head(self, room: bytes, log: bytes, n: int, hash_n: bytes, expired: int) -> Head:
        """Sign a place. The caller vouches that entries 1...n are durable."""
        unsigned = Head(log, n, hash_n, expired, bytes(SIGNATURE_BYTES))
        return unsigned._replace(signature=self._sign(_head_digest(room, unsigned)))

    def sign_birth(self, genesis: Genesis) -> bytes:
        """The birth record of a log: genesis and signature, 200 bytes."""
        return genesis.packed + self._sign(digest(Label.GENESIS, 64, genesis.packed))


def _head_digest(room: bytes, head: Head) -> bytes:
    return digest(Label.HEAD, 64, room + head.packed[:-SIGNATURE_BYTES])


def _signature_holds(signature: bytes, message: bytes, public: bytes) -> bool:
    try:
        bindings.crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


def head_holds(head: Head, room: bytes, log_key: bytes) -> bool:
    """Whether `log_key` signed this head for this room."""
    return _signature_holds(head.signature, _head_digest(room, head), log_key)


def read_lineage(births: Sequence[bytes], room: bytes, log_key: bytes) -> tuple[Genesis, ...]:
    """The logs a room went through, newest first, from their birth records.

    Every birth must be signed by `log_key`, for `room`, and name the next one as its parent; the
    last has no parent, unless the lineage is as long as one may be. Raises Malformed otherwise.
    """
    if not 1 <= len(births) <= MAX_LINEAGE:
        raise Malformed(reason="a lineage has 1 to 16 births")
    logs = tuple(_read_birth(birth, room, log_key) for birth in births)
    parents = [log.log for log in logs[1:]] + [NO_LOG]
    if len(births) == MAX_LINEAGE:
        parents[-1] = logs[-1].parent
    if [log.parent for log in logs] != parents:
        raise Malformed(reason="a lineage whose births do not follow each other")
    return logs


def _read_birth(birth: bytes, room: bytes, log_key: bytes) -> Genesis:
    if len(birth) != BIRTH_BYTES:
        raise Malformed(reason="a birth has 200 bytes")
    packed, signature = birth[:GENESIS_BYTES], birth[GENESIS_BYTES:]
    genesis = Genesis(*_GENESIS.unpack(packed))
    if (genesis.room, genesis.log_key) != (room, log_key):
        raise Malformed(reason="a birth of another room or another server")
    if not _names_a_parent_soundly(genesis):
        raise Malformed(reason="a birth whose parent's place makes no sense")
    if not _signature_holds(signature, digest(Label.GENESIS, 64, packed), log_key):
        raise Malformed(reason="a birth whose signature does not hold")
    return genesis


def _names_a_parent_soundly(genesis: Genesis) -> bool:
    """No parent has no place; a parent's place 0 has the parent's own id as its hash."""
    if genesis.parent == NO_LOG:
        return (genesis.parent_n, genesis.parent_hash) == (0, NO_LOG)
    return genesis.parent_n <= MAX_PLACE and (
        genesis.parent_n > 0 or genesis.parent_hash == genesis.parent
    )


def link(previous: bytes, n: int, entry_id: bytes) -> bytes:
    """h[n] from h[n-1] and the id at place n."""
    return digest(Label.CHAIN, ID_BYTES, _LINK.pack(previous, n, entry_id))


def chain(previous: bytes, first: int, ids: Iterable[bytes]) -> list[bytes]:
    """h[first], h[first+1] ... for consecutive ids, from h[first-1]."""
    hashes = []
    for n, entry_id in enumerate(ids, first):
        previous = link(previous, n, entry_id)
        hashes.append(previous)
    return hashes


class Proof(Enum):
    """How a log key contradicted itself (docs/protocol.md, section 5)."""

    TWO_HASHES = "P1"
    OTHER_PAST = "P2"
    REPEATED_ID = "P3"


class Contradiction(NamedTuple):
    """Evidence: two heads, the ids between them, and where their fold starts (P2 only)."""

    room: bytes
    log_key: bytes
    earlier: Head
    later: Head
    ids: tuple[bytes, ...] = ()
    start: bytes = b""


def judge(evidence: Contradiction) -> Proof | None:
    """What the evidence proves about the holder of its log key; None if it proves nothing.

    The number of ids must be exactly n' - n, and h[n'] covers every place: with a looser rule an
    accuser could choose ids that frame an honest broker. So could one who may choose widths: a
    hash of 33 bytes would be packed like its first 32, and yet differ from them; and libsodium
    reads 32 bytes of a key, whatever lies behind a shorter one.
    """
    earlier, later = evidence.earlier, evidence.later
    hashes = (*evidence.ids, evidence.start or later.hash, earlier.hash, later.hash)
    if any(len(a_hash) != ID_BYTES for a_hash in hashes):
        return None
    if (len(evidence.room), len(evidence.log_key)) != (TAG_BYTES, KEY_BYTES):
        return None
    for head in (earlier, later):
        is_start = head.n == 0 and head.hash == head.log  # h0 is the log id: nobody need sign it
        if not is_start and not head_holds(head, evidence.room, evidence.log_key):
            return None
    if earlier.log != later.log:
        return None
    if earlier.n == later.n:
        return Proof.TWO_HASHES if earlier.hash != later.hash else None
    if len(evidence.ids) != later.n - earlier.n:  # nor could there be fewer than none
        return None
    start = evidence.start or earlier.hash
    if [later.hash] != chain(start, earlier.n + 1, evidence.ids)[-1:]:
        return None
    if start != earlier.hash:
        return Proof.OTHER_PAST
    return Proof.REPEATED_ID if len(set(evidence.ids)) < len(evidence.ids) else None
