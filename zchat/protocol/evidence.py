"""A contradiction of a server as a file that anybody can check offline, without any key of a room.

Rules of this file: JSON in one encoding (docs/protocol.md, section 5), so that a file that was
changed anywhere is no file of this kind, or proves nothing.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from zchat.errors import Malformed
from zchat.protocol.ledger import Contradiction, Head
from zchat.protocol.limits import HEAD_BYTES, SIGNATURE_BYTES

VERSION = 1
MAX_FILE_BYTES = 256 * 1024 * 1024
# The bound is looked at first: matched against the pattern, a long field takes 80 times its memory.
_Hex = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$", max_length=2 * HEAD_BYTES)]


class _File(Struct, forbid_unknown_fields=True, frozen=True):
    """The fields in their order."""

    zchat_evidence: int
    log_key: _Hex
    room: _Hex
    earlier: _Hex
    later: _Hex
    start: _Hex
    ids: tuple[_Hex, ...]


def pack(found: Contradiction) -> bytes:
    """The file's bytes: one JSON object and a line feed."""
    file = _File(
        zchat_evidence=VERSION,
        log_key=found.log_key.hex(),
        room=found.room.hex(),
        earlier=found.earlier.packed.hex(),
        later=found.later.packed.hex(),
        start=found.start.hex(),
        ids=tuple(i.hex() for i in found.ids),
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def unpack(raw: bytes) -> Contradiction:
    """What a file claims; `ledger.judge` says what that proves. Raises Malformed."""
    try:
        file = msgspec.json.decode(raw, type=_File)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Malformed(reason=f"not an evidence file: {error}") from None
    if file.zchat_evidence != VERSION:
        raise Malformed(reason=f"an evidence file of version {file.zchat_evidence}")
    found = Contradiction(
        room=bytes.fromhex(file.room),
        log_key=bytes.fromhex(file.log_key),
        earlier=Head.unpack(bytes.fromhex(file.earlier)),
        later=Head.unpack(bytes.fromhex(file.later)),
        ids=tuple(bytes.fromhex(i) for i in file.ids),
        start=bytes.fromhex(file.start),
    )
    if pack(found) != raw or not _is_plain(found):
        raise Malformed(reason="an evidence file in another form than its own")
    return found


def _is_plain(found: Contradiction) -> bool:
    """Nothing in it that the verdict does not rest on: what is not checked could be anything."""
    one_place = found.earlier.n == found.later.n
    padded = one_place and (found.ids or found.start)
    unsigned = [head for head in (found.earlier, found.later) if head.n == 0]
    return not (
        padded
        or found.start == found.earlier.hash
        or any(head.signature != bytes(SIGNATURE_BYTES) for head in unsigned)
    )
