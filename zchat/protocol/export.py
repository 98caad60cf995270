"""A room's log as a file that can be checked again offline: its lines, and what needs no key.

Rules of this file: JSON Lines in one encoding (docs/protocol.md, section 5), so that every byte of
a file means something and is checked; what needs a room's keys is checked elsewhere.
"""

import json
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from zchat.errors import Malformed, Unopenable
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.ledger import Genesis, Head, head_holds, link, read_lineage
from zchat.protocol.limits import (
    BIRTH_BYTES,
    HEAD_BYTES,
    ID_BYTES,
    INCARNATION_BYTES,
    KEY_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_LINEAGE,
    MAX_NAME_CHARS,
    MAX_PLACE,
    MAX_ROOM_BYTES,
    MAX_TEXT_BYTES,
    MIB,
    TAG_BYTES,
)

VERSION = 1
MAX_LINE_BYTES = MIB

_Place = Annotated[int, Meta(ge=1, le=MAX_PLACE)]
_Hash = Annotated[str, Meta(pattern="^[0-9a-f]*\\Z", min_length=2 * ID_BYTES, max_length=64)]
_Key = Annotated[str, Meta(pattern="^[0-9a-f]*\\Z", min_length=2 * KEY_BYTES, max_length=64)]
_Tag = Annotated[str, Meta(pattern="^[0-9a-f]*\\Z", min_length=2 * TAG_BYTES, max_length=32)]
_Incarnation = Annotated[
    str, Meta(pattern="^[0-9a-f]*\\Z", min_length=2 * INCARNATION_BYTES, max_length=32)
]
_Birth = Annotated[bytes, Meta(min_length=BIRTH_BYTES, max_length=BIRTH_BYTES)]


class Opening(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The first line: whose log, of which room, from where to where."""

    zchat_export: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION
    room: Annotated[str, Meta(min_length=1, max_length=MAX_ROOM_BYTES)]
    origin: tuple[_Key, _Key]
    tag: _Tag
    log_key: _Key
    lineage: Annotated[tuple[_Birth, ...], Meta(min_length=1, max_length=MAX_LINEAGE)]
    first: _Place
    last: _Place
    before: _Hash


class Line(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An entry: its link of the chain, its envelope, and beside it what the envelope says.

    Without an envelope (a bare id) there is nothing beside it.
    """

    n: _Place
    id: _Hash
    hash: _Hash
    envelope: Annotated[bytes, Meta(max_length=MAX_ENVELOPE_BYTES)] | None
    sender: _Key | None = None
    name: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None = None
    incarnation: _Incarnation | None = None
    seq: _Place | None = None
    sent_ms: Annotated[int, Meta(ge=0)] | None = None
    kind: Annotated[str, Meta(max_length=32)] | None = None
    text: Annotated[str, Meta(max_length=MAX_TEXT_BYTES)] | None = None
    reply_to: _Hash | None = None


class Closing(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The last line: the head that the server signed over all of it."""

    head: Annotated[bytes, Meta(min_length=HEAD_BYTES, max_length=HEAD_BYTES)]


_Part = TypeVar("_Part", Opening, Line, Closing)


class _Version(Struct):
    """What a file of any version begins with."""

    zchat_export: int


def pack(part: Opening | Line | Closing) -> bytes:
    """The one encoding of a line, with its line feed."""
    fields = msgspec.to_builtins(part)
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def unpack(raw: bytes, kind: type[_Part]) -> _Part:
    """A line with its line feed. Raises Malformed where it is none of this kind."""
    try:
        part = msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(reason=f"it is not as such a line is: {error}") from None
    if pack(part) != raw:
        raise Malformed(reason="it is in another form than its own")
    return part


def version_of(raw: bytes) -> int | None:
    """The version of the export that begins with this line; None where none does."""
    try:
        return msgspec.json.decode(raw, type=_Version).zchat_export
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


class Chain:
    """What of an export anybody can check: ids, links, births, the head. Fed line by line.

    Raises Malformed, saying which check failed.
    """

    def __init__(self, opening: Opening) -> None:
        self._room, self._log_key = bytes.fromhex(opening.tag), bytes.fromhex(opening.log_key)
        self.lineage: tuple[Genesis, ...]
        self.lineage = read_lineage(opening.lineage, self._room, self._log_key)
        self.log = self.lineage[0].log
        self.n = opening.first - 1
        self.hash = bytes.fromhex(opening.before)
        self._last = opening.last
        if opening.last < opening.first:
            raise Malformed(reason="it ends before it begins")
        if self.n == 0 and self.hash != self.log:
            raise Malformed(reason="it begins with another hash than its log's")

    @property
    def is_complete(self) -> bool:
        """Whether the entry that was taken last is the last one."""
        return self.n == self._last

    def take(self, line: Line) -> None:
        """The next entry."""
        if line.n != self.n + 1:
            raise Malformed(reason=f"#{self.n + 1} should stand here, and #{line.n} does")
        entry_id = bytes.fromhex(line.id)
        if line.envelope is not None:
            self._check_envelope(line.envelope, entry_id)
        elif line != Line(n=line.n, id=line.id, hash=line.hash, envelope=None):
            raise Malformed(reason="something stands beside an envelope that is not there")
        hash_n = link(self.hash, line.n, entry_id)
        if hash_n != bytes.fromhex(line.hash):
            raise Malformed(reason="its hash does not follow from the one before and its id")
        self.n, self.hash = line.n, hash_n

    @staticmethod
    def _check_envelope(envelope: bytes, entry_id: bytes) -> None:
        if envelope_id(envelope) != entry_id:
            raise Malformed(reason="its id is not that of its envelope")
        try:
            check_outline(envelope, EnvelopeClass.LOG)
        except Unopenable as error:
            raise Malformed(reason=f"its envelope fails check `{error.check}`") from None

    def close(self, closing: Closing) -> Head:
        """The head, behind the last entry."""
        head = Head.unpack(closing.head)
        if (head.log, head.n, head.hash) != (self.log, self.n, self.hash):
            raise Malformed(reason="the head is of another log, place or hash than the last entry")
        if not head_holds(head, self._room, self._log_key):
            raise Malformed(reason="the signature of the head does not hold")
        return head
