"""Words and frames: what a broker and a member say to each other.

Rules of this file: a word has one Struct, whose class name in capitals is its name on the wire,
and one encoding; what is not exactly that is Malformed, and the receiver drops and counts it.
Envelopes and batches are cut here and never looked into.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from zchat.errors import Malformed
from zchat.protocol.ledger import Head
from zchat.protocol.limits import (
    BIRTH_BYTES,
    HEAD_BYTES,
    ID_BYTES,
    ITEM_PREFIX_BYTES,
    KEY_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_CAST_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_LINEAGE,
    MAX_PLACE,
    MAX_ROOMS_PER_CONNECTION,
    MAX_WINDOW_BYTES,
    MAX_WORD_BYTES,
    TAG_BYTES,
)

Request: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PLACE)]
Answering: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_PLACE)]
Place: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_PLACE)]
RealPlace: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PLACE)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=86_400_000)]
Rate: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PLACE)]
Tag: TypeAlias = Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]
Hash: TypeAlias = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
Key: TypeAlias = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
PackedHead: TypeAlias = Annotated[bytes, Meta(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]
Birth: TypeAlias = Annotated[bytes, Meta(min_length=BIRTH_BYTES, max_length=BIRTH_BYTES)]
Lineage: TypeAlias = Annotated[tuple[Birth, ...], Meta(max_length=MAX_LINEAGE)]
Software: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class Word(Struct, tag_field="word", tag=str.upper, forbid_unknown_fields=True, frozen=True):
    """What every word has in common: its name, the first pair of frame 0."""


class Hello(Word, frozen=True):
    """Member: 'this is what I speak'."""

    req: Request
    protocol: Place
    software: Software


class Ready(Word, frozen=True):
    """Broker: 'so do I, and this is the key I sign heads with'."""

    req: Request
    protocol: Place
    software: Software
    log_key: Key
    post_burst: Rate
    post_rate: Rate


class Position(Struct, forbid_unknown_fields=True, frozen=True):
    """Where a member stands in a room, and how many bytes beyond it may be under way."""

    room: Tag
    log: Hash
    sub: Place
    after: Place
    hash: Hash
    window: Annotated[int, Meta(ge=0, le=MAX_WINDOW_BYTES)]


class Join(Word, frozen=True):
    """Member: 'this is where I stand'; subscribes, acknowledges, asks whether all is well."""

    req: Request
    rooms: Annotated[tuple[Position, ...], Meta(min_length=1, max_length=MAX_ROOMS_PER_CONNECTION)]


class Page(Word, frozen=True):
    """Member: 'show me this piece of history'."""

    req: Request
    room: Tag
    log: Hash
    first: RealPlace
    last: RealPlace
    ids_only: bool


class Post(Word, frozen=True):
    """Member: 'store this'; `k` counts posts per connection and room."""

    room: Tag
    k: RealPlace


class Stored(Word, frozen=True):
    """Broker: the receipt; its batch holds the ids from `first` to the head."""

    room: Tag
    k: RealPlace
    log: Hash
    first: RealPlace
    before: Hash
    head: PackedHead


class Cast(Word, frozen=True):
    """Either: 'tell whoever is there now'."""

    room: Tag


class Leave(Word, frozen=True):
    """Member: 'no more of this room'."""

    req: Request
    room: Tag


class Entries(Word, frozen=True):
    """Broker: consecutive entries that end exactly at `head`."""

    req: Answering
    room: Tag
    log: Hash
    first: RealPlace
    before: Hash
    head: Annotated[bytes, Meta(max_length=HEAD_BYTES)]
    tip: Place
    lineage: Lineage


class Refuse(Word, frozen=True):
    """Broker: why a word was refused."""

    req: Answering
    k: Place
    code: Annotated[str, Meta(min_length=1, max_length=32)]
    room: Annotated[bytes, Meta(max_length=TAG_BYTES)]
    retry_after_ms: Milliseconds
    text: Annotated[str, Meta(max_length=200)]


ToBroker: TypeAlias = Hello | Join | Page | Post | Cast | Leave
ToMember: TypeAlias = Ready | Stored | Cast | Entries | Refuse

Frames: TypeAlias = tuple[bytes, ...]
"""A message without its route: the word's frame, and the attachment where there is one."""

# What msgspec raises for bytes from outside: its own errors, bad UTF-8 (ValueError), deep nests.
NOT_DECODABLE = (msgspec.MsgspecError, ValueError, RecursionError)

_W = TypeVar("_W", bound=Word)
_encoder = msgspec.msgpack.Encoder()
_to_broker = msgspec.msgpack.Decoder(ToBroker)
_to_member = msgspec.msgpack.Decoder(ToMember)

# Which words carry a second frame, and how long it may be.
_ATTACHMENT_BYTES: dict[type[Word], int] = {
    Post: MAX_ENVELOPE_BYTES,
    Cast: MAX_CAST_BYTES,
    Stored: MAX_BATCH_BYTES,
    Entries: MAX_BATCH_BYTES,
}


def encode(word: Word, attachment: bytes | None = None) -> Frames:
    """The frames of a word. The attachment is given exactly for POST, CAST, STORED, ENTRIES."""
    assert (attachment is not None) == (type(word) in _ATTACHMENT_BYTES)
    head = _encoder.encode(word)
    return (head,) if attachment is None else (head, attachment)


def decode_to_broker(frames: Sequence[bytes]) -> tuple[ToBroker, bytes]:
    """A member's word and its attachment (empty where it has none). Raises Malformed."""
    return _decode(frames, _to_broker)


def decode_to_member(frames: Sequence[bytes]) -> tuple[ToMember, bytes]:
    """A broker's word and its attachment (empty where it has none). Raises Malformed."""
    word, attachment = _decode(frames, _to_member)
    if isinstance(word, Stored | Entries) and word.head:  # only that of ENTRIES may be empty
        Head.unpack(word.head)
    if isinstance(word, Refuse) and len(word.room) not in (0, TAG_BYTES):
        raise Malformed(reason="a room tag has 16 bytes")
    if isinstance(word, Refuse) and word.req and word.k:
        raise Malformed(reason="a refusal of a control word and of a post at once")
    return word, attachment


def _decode(frames: Sequence[bytes], decoder: msgspec.msgpack.Decoder[_W]) -> tuple[_W, bytes]:
    if not 1 <= len(frames) <= 2 or len(frames[0]) > MAX_WORD_BYTES:
        raise Malformed(reason="not one or two frames of allowed size")
    try:
        word = decoder.decode(frames[0])
    except NOT_DECODABLE as error:
        raise Malformed(reason=f"not a word: {error}") from None
    if _encoder.encode(word) != frames[0]:
        raise Malformed(reason="a word in another encoding than its own")
    most = _ATTACHMENT_BYTES.get(type(word))
    if (most is None) != (len(frames) == 1):
        raise Malformed(reason="a word with a frame too many or too few")
    attachment = frames[1] if most is not None else b""
    if len(attachment) > (most or 0):
        raise Malformed(reason="an attachment over its bound")
    return word, attachment


class Item(NamedTuple):
    """One entry in a batch: an envelope, or (`envelope` None) only its id."""

    bare_id: bytes
    envelope: bytes | None


_ITEM = struct.Struct(">I")
_BARE = _ITEM.pack(0)


def pack_item(entry_id: bytes, envelope: bytes | None) -> bytes:
    """One item of a batch: the envelope where there is one, else the bare id."""
    return _BARE + entry_id if envelope is None else _ITEM.pack(len(envelope)) + envelope


def pack_batch(items: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    """A batch from (id, envelope or None); the caller keeps it within 512 items, 196,608 bytes."""
    return b"".join(pack_item(entry_id, envelope) for entry_id, envelope in items)


def unpack_batch(batch: bytes) -> list[Item]:
    """Cut a batch into items, at most 512. Raises Malformed."""
    items: list[Item] = []
    at = 0
    while at < len(batch):
        end = at + ITEM_PREFIX_BYTES
        if end > len(batch) or len(items) == MAX_BATCH_ENTRIES:
            raise Malformed(reason="a batch that is cut off or too long")
        (length,) = _ITEM.unpack_from(batch, at)
        at, end = end, end + (length or ID_BYTES)
        if end > len(batch):
            raise Malformed(reason="a batch that is cut off")
        piece = batch[at:end]
        items.append(Item(b"", piece) if length else Item(piece, None))
        at = end
    return items


def unpack_ids(batch: bytes) -> list[bytes]:
    """The ids of a receipt's batch. Raises Malformed where it holds none, or anything else."""
    items = unpack_batch(batch)
    if not items or any(item.envelope is not None for item in items):
        raise Malformed(reason="a receipt holds bare ids, one at least")
    return [item.bare_id for item in items]
