"""What people say: Text and Void in the log, Beat on the air.

Rules of this file: a body has one encoding (decoded, encoded again, compared), so two members never
read one envelope differently. New fields come only as new kinds; a kind this version does not know
is kept and counted, never guessed at.
"""

import unicodedata
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from zchat.errors import BadName, Malformed, Unopenable
from zchat.protocol.ledger import Head
from zchat.protocol.limits import (
    ASK_BYTES,
    HEAD_BYTES,
    ID_BYTES,
    INCARNATION_BYTES,
    MAX_BODY_BYTES,
    MAX_ECHOES,
    MAX_NAME_CHARS,
    MAX_NESTING,
    MAX_PLACE,
    MAX_TEXT_BYTES,
)
from zchat.protocol.wire import NOT_DECODABLE

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Incarnation: TypeAlias = Annotated[
    bytes, Meta(min_length=INCARNATION_BYTES, max_length=INCARNATION_BYTES)
]
Number: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_PLACE)]
PackedHead: TypeAlias = Annotated[bytes, Meta(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]
Id: TypeAlias = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
Ask: TypeAlias = Annotated[bytes, Meta(min_length=ASK_BYTES, max_length=ASK_BYTES)]
Kind: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]


class Text(Struct, tag_field="kind", tag="text", forbid_unknown_fields=True, frozen=True):
    """Somebody says something, perhaps in reply to an entry."""

    name: Name
    incarnation: Incarnation
    seq: Number
    seen: PackedHead
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_BYTES)]
    reply_to: Id | None = None


class Void(Struct, tag_field="kind", tag="void", forbid_unknown_fields=True, frozen=True):
    """A number that had to be given up."""

    name: Name
    incarnation: Incarnation
    seq: Number
    seen: PackedHead


class Beat(Struct, tag_field="kind", tag="beat", forbid_unknown_fields=True, frozen=True):
    """Says "I am here, this is what I have checked, and I heard you". Never stored."""

    name: Name
    incarnation: Incarnation
    count: Number
    seen: PackedHead
    ask: Ask
    echo: Annotated[tuple[Ask, ...], Meta(max_length=MAX_ECHOES)]
    leaving: bool


class Unknown(Struct, frozen=True):
    """A body of a kind this version does not know: only what every logged kind begins with."""

    kind: Kind
    name: Name
    incarnation: Incarnation
    seq: Number
    seen: PackedHead


Logged: TypeAlias = Text | Void | Unknown

_FIRST_PAIRS = ["kind", "name", "incarnation", "seq", "seen"]
_KNOWN_KINDS = {"text", "void", "beat"}

_encoder = msgspec.msgpack.Encoder()
_logged = msgspec.msgpack.Decoder(Text | Void)
_cast = msgspec.msgpack.Decoder(Beat)
_anything = msgspec.msgpack.Decoder(dict[str, Any])


def encode(body: Text | Void | Beat) -> bytes:
    """The one encoding of a body."""
    return _encoder.encode(body)


def decode_logged(raw: bytes) -> Logged:
    """A body of class 0. Raises Unopenable with check `body`."""
    try:
        body: Logged = _logged.decode(raw)
    except NOT_DECODABLE:
        body = _decode_unknown(raw)
    else:
        _require(_encoder.encode(body) == raw)
    if isinstance(body, Text):
        _require(len(body.text) * 4 <= MAX_TEXT_BYTES or len(body.text.encode()) <= MAX_TEXT_BYTES)
    _require(len(raw) <= MAX_BODY_BYTES and name_is_sound(body.name))
    seen_head(body)
    return body


def decode_cast(raw: bytes) -> Beat:
    """A body of class 1. Raises Unopenable with check `body`."""
    try:
        beat = _cast.decode(raw)
    except NOT_DECODABLE:
        raise Unopenable("body") from None
    _require(_encoder.encode(beat) == raw and name_is_sound(beat.name))
    seen_head(beat)
    return beat


def seen_head(body: Logged | Beat) -> Head:
    """The head a body counter-signs. Raises Unopenable where its places are out of range."""
    try:
        return Head.unpack(body.seen)
    except Malformed:
        raise Unopenable("body") from None


def _decode_unknown(raw: bytes) -> Unknown:
    try:
        pairs = _anything.decode(raw)
        body = msgspec.convert(pairs, Unknown, builtin_types=(bytes,))
        canonical = _encoder.encode(pairs) == raw and _is_plain(pairs, MAX_NESTING)
    except (*NOT_DECODABLE, TypeError):
        raise Unopenable("body") from None
    _require(canonical and list(pairs)[:5] == _FIRST_PAIRS and body.kind not in _KNOWN_KINDS)
    return body


def _is_plain(value: object, depth: int) -> bool:
    """Only the types the contract names: floats, extensions and deep nests have many spellings."""
    if isinstance(value, dict):
        deeper = [*value.values()]
        plain = all(isinstance(key, str) for key in value)
    elif isinstance(value, list):
        deeper, plain = value, True
    else:
        return value is None or isinstance(value, bool | int | str | bytes)
    return plain and depth > 0 and all(_is_plain(inner, depth - 1) for inner in deeper)


def _require(holds: bool) -> None:
    if not holds:
        raise Unopenable("body")


def name_is_sound(name: str) -> bool:
    """Whether a name others sent may be taken as a label: 1-32 code points, no controls."""
    return name.isprintable() or not any(unicodedata.category(char) == "Cc" for char in name)


def canonical_name(typed: str) -> str:
    """The form in which one's own name is sent: NFKC, spaces folded. Raises BadName."""
    name = " ".join(unicodedata.normalize("NFKC", typed).split())
    if not 1 <= len(name) <= MAX_NAME_CHARS:
        raise BadName(name=typed, reason="it is empty or longer than 32 characters")
    if not name.isprintable():
        raise BadName(name=typed, reason="it holds characters that are not shown")
    return name
