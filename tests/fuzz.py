"""Junk under a seed: frames, words, batches, envelopes and bodies that are wrong in one thing.

Goal: whatever comes in, a parser takes it or refuses it by the name the page gives, both cores go
on, nothing grows, and nobody is accused who did nothing. Method: most junk starts as something
good, made with the keys of a member (or of the server), has ONE thing changed, and is hashed and
signed anew from there on; so it gets as far as the check that is meant for it. It is given to the
program's parsers, to the reference's, and then to the real core of a broker or a member, and what
they say is compared.

    .venv/bin/python -m tests.fuzz --rounds 100000 --seed 7

Rules of this file: two worlds take turns. In `Honest` members send junk by way of a real broker to
a real member, who must never accuse the server. In `Rogue` the server has the true log key and lies
in one thing at a time; each lie is noticed. The seed decides everything, and every failure names
it. Tables say what is changed and as what it must fail; a check that nothing failed is a failure.
"""

import argparse
import contextlib
import dataclasses
import gc
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
from nacl import bindings

from tests import reference
from tests.simulation import SimulatedClock
from zchat.broker.core import Core as BrokerCore
from zchat.broker.core import Limits, Peer
from zchat.broker.send import Send
from zchat.errors import Incompatible, Malformed, Unopenable, WrongLogKey
from zchat.log.contract import MemoryLog
from zchat.log.sqlite import SqliteLog
from zchat.member.core import Core as MemberCore
from zchat.member.core import Do
from zchat.member.invite import Origin, Server
from zchat.member.presence import Rhythm
from zchat.member.room import Room
from zchat.member.rows import Blame, Kind, Message, Notice
from zchat.member.session import Phase, Reopen, Say, Session, Timing
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol import body as bodies
from zchat.protocol.body import Beat, Text, Void
from zchat.protocol.envelope import EnvelopeClass, Header, envelope_id
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import NO_HEAD, NO_LOG, Genesis, Head, LogKey, chain
from zchat.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_CAST_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_PLACE,
    MAX_WORD_BYTES,
    TIP,
    padded_length,
    padme,
)
from zchat.protocol.seal import open_envelope
from zchat.protocol.wire import (
    Cast,
    Entries,
    Frames,
    Hello,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    Word,
    decode_to_broker,
    decode_to_member,
    encode,
    pack_batch,
    unpack_batch,
    unpack_ids,
)

LOG, CAST = EnvelopeClass.LOG, EnvelopeClass.CAST
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
CONTAINERS = (dict, list, tuple, set, frozenset, deque)
MOST_HELD = 2_000  # things in a core's containers at the end of a world
MOST_GROWTH_KIB = 32 * 1024


class Broken(AssertionError):
    """Something that must hold does not."""


class Tally:
    """What came of the rounds."""

    def __init__(self) -> None:
        self.refused: Counter[tuple[str, str]] = Counter()
        self.taken: Counter[str] = Counter()
        self.rounds = 0
        self.signed_rounds = 0  # with an envelope by a member's key that was changed in one thing
        self.growth_kib = 0

    def idle_checks(self) -> list[str]:
        """Checks that refused nothing: then the junk is not good enough."""
        return [
            f"{group}: {check}"
            for group, checks in CHECKS.items()
            for check in checks
            if not self.refused[group, check]
        ]

    def report(self) -> str:
        """The counts, one to a line."""
        counts = [(n, ": ".join(what)) for what, n in sorted(self.refused.items())]
        counts += [(n, what) for what, n in sorted(self.taken.items())]
        counts.append((self.signed_rounds, "rounds with an envelope changed and signed anew"))
        counts.append((self.growth_kib, "KiB of growth"))
        return "\n".join(f"{n:>9}  {what}" for n, what in counts)


# --- MessagePack with one thing changed -----------------------------------------------------------


def packed(value: object) -> bytes:
    """MessagePack, for what no word and no body holds."""
    return msgspec.msgpack.encode(value)


FOREIGN = [
    *map(packed, (None, True, -1, 0, 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"))),
    *map(packed, (b"", b"x" * 33, "", "x" * 65, "\x1b[2J", "{x}", [], [0], {}, {"a": [b"b"]})),
    packed(msgspec.msgpack.Ext(5, b"x")),
    packed(datetime(2026, 1, 1, tzinfo=UTC)),
    b"\xc7\x0c\xff" + b"\xff" * 12,  # a time out of all range
    b"\xa2\xff\xfe",  # a str that is not UTF-8
    b"\xa3\xed\xa0\x80",  # a surrogate
    b"\xc1",  # the byte that is never used
    b"\xdd\xff\xff\xff\xff",  # an array of four billion items that are not there
    b"\xc6\xff\xff\xff\xff",
    b"\x81\x01\x02",  # a map with a key that is an int
    b"\x81\x80\x01",  # ... or a map
    *(b"\x91" * depth + b"\xc0" for depth in (3, 15, 16, 17, 600, 3_000)),
    *(b"\x81\xa1a" * depth + b"\xc0" for depth in (15, 16, 17, 600)),
]

Packed: TypeAlias = list[tuple[bytes, bytes]]


def cut(map_bytes: bytes) -> Packed:
    """The pairs of a map, packed."""
    pairs = msgspec.msgpack.decode(map_bytes)
    return [(packed(key), packed(value)) for key, value in pairs.items()]


def joined(pairs: Packed) -> bytes:
    """A map of packed pairs, whatever they are."""
    size = len(pairs)
    head = bytes([0x80 | size]) if size < 16 else b"\xde" + size.to_bytes(2, "big")
    return head + b"".join(key + value for key, value in pairs)


def spelled_longer(value: bytes) -> bytes:
    """A packed value in a longer form; an int, str, bin or array says the same in it."""
    first, rest = value[0], value[1:]
    if first < 0x80:
        return bytes([0xCC, first]) + rest
    if 0x90 <= first < 0xA0:
        return bytes([0xDC, 0, first & 0x0F]) + rest
    if 0xA0 <= first < 0xC0:
        return bytes([0xD9, first & 0x1F]) + rest
    if 0xCC <= first < 0xCF:
        return bytes([first + 1]) + bytes(len(rest)) + rest
    if first in (0xC4, 0xD9):
        return bytes([first + 1, 0]) + rest
    if first in (0xC5, 0xDA, 0xDC):
        return bytes([first + 1, 0, 0]) + rest
    return value


def near(rng: random.Random, value: bytes) -> bytes:
    """A packed value like this one, but not this one."""
    was = msgspec.msgpack.decode(value)
    if isinstance(was, bool) or was is None:
        return packed(not was)
    if isinstance(was, int):
        return packed(max(0, was + rng.choice([-1, 1, 2**32, 2**62])))
    if isinstance(was, str):
        return packed(rng.choice([was[:-1], was + "x", was * 40, "\x07" + was]))
    if isinstance(was, bytes):
        others = [flipped(rng, was), was[:-1], was + b"x", was[: len(was) // 2], bytes(len(was))]
        return packed(rng.choice([*others, b"\xff" * len(was)]))
    return packed(rng.choice([was[:-1], was + was[:1], was * 70]))


def flipped(rng: random.Random, data: bytes, first: int = 0, last: int = 0) -> bytes:
    """The bytes with one of them changed, from `first` up to before `last` (0: the end)."""
    if not data:
        return b"x"
    at = rng.randrange(first, last or len(data))
    return data[:at] + bytes([data[at] ^ rng.randint(1, 255)]) + data[at + 1 :]


def spoiled_map(rng: random.Random, map_bytes: bytes) -> bytes:
    """A map with one thing changed; it may still be a good one."""
    pairs = cut(map_bytes)
    at = rng.randrange(len(pairs))
    key, value = pairs[at]
    match rng.randrange(12):
        case 0 | 1 | 2 | 3:
            pairs[at] = key, near(rng, value)
        case 4 | 5:
            pairs[at] = key, rng.choice(FOREIGN)
        case 6:
            pairs[at] = key, spelled_longer(value)
        case 7:
            pairs[at] = spelled_longer(key), value
        case 8:
            del pairs[at]
        case 9:
            pairs.insert(at, rng.choice([pairs[at], (packed("extra"), rng.choice(FOREIGN))]))
        case 10:
            rng.shuffle(pairs)
        case 11:
            whole = joined(pairs)
            return rng.choice([whole + b"\0", whole[: rng.randrange(len(whole))]])
    return joined(pairs)


def spoiled_frames(rng: random.Random, frames: Frames) -> Frames:
    """A message with one thing changed; it may still be a good one."""
    word, rest = frames[0], frames[1:]
    match rng.randrange(12):
        case 0:
            return rng.choice([(), (*frames, b""), (*frames, b"", b""), (word,), (b"",)])
        case 1:
            return word + bytes(MAX_WORD_BYTES), *rest
        case 2 if rest:
            bound = rng.choice([MAX_CAST_BYTES, MAX_ENVELOPE_BYTES, MAX_BATCH_BYTES])
            return word, bytes(bound + 1)
        case 3:
            return tuple(noise(rng) for _ in range(rng.randint(1, 3)))
    return spoiled_map(rng, word), *rest


def noise(rng: random.Random) -> bytes:
    """Bytes that mean nothing."""
    return rng.randbytes(rng.choice([0, 1, 4, 5, 36, 71, 144, 200, 695, 2_000]))


# --- Messages that are refused, by the check that refuses them ------------------------------------

Attached: TypeAlias = tuple[Word, bytes | None]
Change: TypeAlias = Callable[[random.Random, Word, bytes | None], Frames]

ALL_WORDS = (Hello, Ready, Join, Page, Post, Stored, Cast, Leave, Entries, Refuse)
WITH_ATTACHMENT = (Post, Cast, Stored, Entries)
WITHOUT = tuple(word for word in ALL_WORDS if word not in WITH_ATTACHMENT)
FORBIDDEN = [packed(1.5), packed(None), b"\xc1", b"\xa2\xff\xfe", b"\x91" * 3_000 + b"\xc0"]


def head_of(n: int, expired: int) -> bytes:
    """A packed head that nobody signed."""
    return Head(bytes(32), n, bytes(32), expired, bytes(64)).packed


def _pairs_changed(how: Callable[[random.Random, Packed], object]) -> Change:
    """Change the pairs of the word."""

    def change(rng: random.Random, word: Word, attachment: bytes | None) -> Frames:
        frame, *rest = encode(word, attachment)
        pairs = cut(frame)
        how(rng, pairs)
        return joined(pairs), *rest

    return change


def _fields_changed(**values: Callable[[random.Random], object]) -> Change:
    """Give fields of the word other values."""

    def change(rng: random.Random, word: Word, attachment: bytes | None) -> Frames:
        drawn = {name: draw(rng) for name, draw in values.items()}
        return encode(msgspec.structs.replace(word, **drawn), attachment)

    return change


def _attached(how: Callable[[random.Random, bytes], bytes]) -> Change:
    """Change what is attached."""
    return lambda rng, word, attachment: (encode(word, b"")[0], how(rng, attachment or b""))


def _foreign_value(rng: random.Random, pairs: Packed) -> None:
    at = rng.randrange(len(pairs))
    pairs[at] = pairs[at][0], rng.choice(FORBIDDEN)


def _longer_key(rng: random.Random, pairs: Packed) -> None:
    at = rng.randrange(len(pairs))
    pairs[at] = spelled_longer(pairs[at][0]), pairs[at][1]


def _frame(word: Word) -> bytes:
    return encode(word, b"" if isinstance(word, WITH_ATTACHMENT) else None)[0]


WIRE_WAYS: dict[str, list[tuple[tuple[type[Word], ...], Change]]] = {
    "not one or two frames of allowed size": [
        (ALL_WORDS, lambda rng, word, attachment: ()),
        (ALL_WORDS, lambda rng, word, attachment: (_frame(word), b"", b"")),
        (ALL_WORDS, lambda rng, word, attachment: (_frame(word).ljust(MAX_WORD_BYTES + 1),)),
    ],
    "not a word": [
        (ALL_WORDS, _pairs_changed(_foreign_value)),
        (ALL_WORDS, _pairs_changed(lambda rng, pairs: pairs.pop(rng.randrange(len(pairs))))),
        (ALL_WORDS, _pairs_changed(lambda rng, pairs: pairs.append((packed("more"), b"\1")))),
        (ALL_WORDS, _pairs_changed(lambda rng, pairs: pairs.append((b"\1", b"\1")))),
        (ALL_WORDS, lambda rng, word, attachment: (_frame(word)[: rng.randint(0, 20)],)),
        (ALL_WORDS, lambda rng, word, attachment: (_frame(word) + b"\0",)),
    ],
    "a word in another encoding than its own": [
        (ALL_WORDS, _pairs_changed(_longer_key)),
        (ALL_WORDS, _pairs_changed(lambda rng, pairs: pairs.reverse())),
        (ALL_WORDS, _pairs_changed(lambda rng, pairs: pairs.append(rng.choice(pairs)))),
    ],
    "a word with a frame too many or too few": [
        (WITH_ATTACHMENT, lambda rng, word, attachment: (_frame(word),)),
        (WITHOUT, lambda rng, word, attachment: (_frame(word), b"")),
    ],
    "an attachment over its bound": [
        ((Cast,), _attached(lambda rng, it: bytes(MAX_CAST_BYTES + 1))),
        ((Post,), _attached(lambda rng, it: bytes(MAX_ENVELOPE_BYTES + 1))),
        ((Stored, Entries), _attached(lambda rng, it: bytes(MAX_BATCH_BYTES + 1))),
    ],
    "a head has 144 bytes": [
        ((Entries,), _fields_changed(head=lambda rng: bytes(rng.randint(1, 143)))),
    ],
    "a head's place is out of range": [
        ((Stored, Entries), _fields_changed(head=lambda rng: head_of(2**63, 0))),
        ((Stored, Entries), _fields_changed(head=lambda rng: head_of(4, 5))),
    ],
    "a room tag has 16 bytes": [
        ((Refuse,), _fields_changed(room=lambda rng: bytes(rng.randint(1, 15)))),
    ],
    "a batch that is cut off or too long": [
        ((Stored, Entries), _attached(lambda rng, it: it + bytes(rng.randint(1, 3)))),
        ((Stored, Entries), _attached(lambda rng, it: bytes(36 * (MAX_BATCH_ENTRIES + 1)))),
    ],
    "a batch that is cut off": [
        ((Stored, Entries), _attached(lambda rng, it: it + bytes(rng.randint(4, 35)))),
        ((Stored, Entries), _attached(lambda rng, it: it + b"\xff" * rng.randint(4, 99))),
    ],
    "a refusal of a control word and of a post at once": [
        ((Refuse,), _fields_changed(req=lambda rng: 1, k=lambda rng: rng.randint(1, 9))),
    ],
    "a receipt holds bare ids, one at least": [
        ((Stored,), _attached(lambda rng, it: it + b"\0\0\0\1x")),
        ((Stored,), _attached(lambda rng, it: b"")),
    ],
}


def doomed_message(
    rng: random.Random, words: dict[type[Word], Callable[[], Attached]]
) -> tuple[Frames, str]:
    """One of these words in a message that must be refused, and as what."""
    able = [
        (check, kind, change)
        for check, ways in WIRE_WAYS.items()
        for kinds, change in ways
        for kind in kinds
        if kind in words
    ]
    checks = sorted({check for check, _, _ in able})
    check = rng.choice(checks)
    _, kind, change = rng.choice([way for way in able if way[0] == check])
    frames = change(rng, *words[kind]())
    if frames and len(frames[0]) > MAX_WORD_BYTES:  # all rooms of a long JOIN once more
        check = "not one or two frames of allowed size"
    return frames, check


# --- Bodies with one thing changed ----------------------------------------------------------------

Pairs: TypeAlias = dict[str, Any]


def _with(**changes: object) -> Callable[[Pairs], bytes]:
    return lambda pairs: packed({**pairs, **changes})


def _nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


# Bodies of each kind that are refused, and no two for one reason.
_ANY_BODY: list[Callable[[Pairs], bytes]] = [
    _with(name=""),
    _with(name="x" * 33),
    _with(name="a\x85b"),
    _with(incarnation=bytes(15)),
    _with(incarnation="x" * 16),
    _with(seen=bytes(143)),
    _with(seen=head_of(2**63, 0)),
    _with(seen=head_of(4, 5)),
    lambda pairs: b"",
    lambda pairs: packed([pairs]),
    lambda pairs: packed(pairs) + b"\0",
    lambda pairs: packed(dict(reversed(pairs.items()))),
]
_LOGGED_BODY = [
    *_ANY_BODY,
    _with(seq=0),
    _with(seq=2**63),
    _with(kind=""),
    _with(kind="k" * 33),
    _with(kind="beat"),
]
DOOMED_BODIES: dict[str, list[Callable[[Pairs], bytes]]] = {
    "text": [
        *_LOGGED_BODY,
        _with(text=""),
        _with(text="x" * 65_537),
        _with(text="ä" * 32_769),
        _with(reply_to=bytes(31)),
        _with(kind="void"),
        _with(extra=1),
    ],
    "void": [*_LOGGED_BODY, _with(kind="text"), _with(extra=1)],
    "react": [
        *_LOGGED_BODY,
        _with(to=1.5),
        _with(to={1: 2}),
        _with(to=_nested(16)),
        _with(to=bytes(66_561)),
        _with(to=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
    "beat": [
        *_ANY_BODY,
        _with(count=0),
        _with(count=2**63),
        _with(ask=bytes(7)),
        _with(echo=[bytes(8)] * 33),
        _with(leaving=None),
        _with(kind="text"),
        _with(kind="react"),
    ],
}


# --- Envelopes with one thing changed -------------------------------------------------------------


@dataclass
class Draft:
    """An envelope in the making: `made` hashes and signs all that comes after what was changed."""

    room: RoomKeys
    author: Author
    header: Header
    inner: bytes
    changes: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)

    def made(self) -> bytes:
        """The envelope."""
        header = self.header.packed
        key, com = self.room.message_keys(header)
        key, com = self._changed("key", key), self._changed("com", com)
        box = bindings.crypto_secretbox(self.inner, self.header.nonce, key)
        unsigned = self._changed("unsigned", header + com + self._changed("box", box))
        tag = self._changed("tag", self.room.tag)
        signature = self.author.sign(digest(Label.SIGN, 64, tag + unsigned))
        return unsigned + self._changed("signature", signature)

    def _changed(self, what: str, made: bytes) -> bytes:
        return self.changes.get(what, bytes)(made)

    def change(self, what: str, how: Callable[[bytes], bytes]) -> None:
        """Change what is made, before it is gone on from."""
        self.changes[what] = how

    def head(self, **changes: Any) -> None:
        """Change the header."""
        self.header = self.header._replace(**changes)


NONE = NO_HEAD.packed
Way: TypeAlias = Callable[[Draft, random.Random], None]


def _too_long(draft: Draft, rng: random.Random) -> None:
    is_log = draft.header.envelope_class == LOG
    most = MAX_ENVELOPE_BYTES if is_log else MAX_CAST_BYTES
    draft.inner = bytes(padme(most - ENVELOPE_OVERHEAD_BYTES + 1))


def _said_length(draft: Draft, rng: random.Random) -> None:
    said = int.from_bytes(draft.inner[:4], "big")
    length = rng.choice([min(said, 20), len(draft.inner) - 3, 2**32 - 1])
    draft.inner = length.to_bytes(4, "big") + draft.inner[4:]


def _padding_byte(draft: Draft, rng: random.Random) -> None:
    end = 4 + int.from_bytes(draft.inner[:4], "big")
    if end == len(draft.inner):
        _longer_padding(draft, rng)
        return
    draft.inner = flipped(rng, draft.inner, end)


def _longer_padding(draft: Draft, rng: random.Random) -> None:
    draft.inner = draft.inner.ljust(padme(len(draft.inner) + 1), b"\0")


def _high_s(signature: bytes) -> bytes:
    """The same signature with an S that is not canonical: other libraries would take it."""
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    return signature[:32] + s.to_bytes(32, "little")


def _another_author(draft: Draft, rng: random.Random) -> None:
    draft.author = Author(rng.randbytes(32), draft.room)


def _another_sender(draft: Draft, rng: random.Random) -> None:
    another = Author(rng.randbytes(32), draft.room).public
    small_orders = [bytes(32), b"\1" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
    draft.head(sender=rng.choice([another, *small_orders, rng.randbytes(32)]))


def _another_room(draft: Draft, rng: random.Random) -> None:
    draft.room = RoomKeys(rng.randbytes(32))


# As what an envelope fails, and what is done to it; all but that fits, and is signed by its sender.
WAYS: dict[str, list[Way]] = {
    "length": [
        lambda draft, rng: setattr(draft, "inner", draft.inner[: rng.choice([0, 4, 480, 511])]),
        lambda draft, rng: setattr(draft, "inner", draft.inner + bytes(rng.randint(1, 31))),
        _too_long,
    ],
    "version": [
        lambda draft, rng: draft.head(version=rng.choice([0, 2, 255])),
        lambda draft, rng: draft.head(suite=rng.choice([0, 2, 255])),
        lambda draft, rng: draft.head(epoch=rng.choice([1, 2**24, 2**32 - 1])),
    ],
    "class": [
        lambda draft, rng: draft.head(envelope_class=1 - draft.header.envelope_class),
        lambda draft, rng: draft.head(envelope_class=rng.choice([2, 255])),
    ],
    "commitment": [
        lambda draft, rng: draft.change("com", lambda com: flipped(rng, com)),
        lambda draft, rng: draft.change("unsigned", lambda it: flipped(rng, it, 7, 71)),
        _another_room,
    ],
    "signature": [
        lambda draft, rng: draft.change("signature", lambda it: flipped(rng, it)),
        lambda draft, rng: draft.change("signature", _high_s),
        lambda draft, rng: draft.change("tag", lambda tag: flipped(rng, tag)),
        _another_author,
        _another_sender,
    ],
    "box": [
        lambda draft, rng: draft.change("box", lambda box: flipped(rng, box)),
        lambda draft, rng: draft.change("key", lambda key: flipped(rng, key)),
    ],
    "padding": [_said_length, _padding_byte, _longer_padding],
}


class Junk(NamedTuple):
    """An envelope, the class of the word it goes by, and as what it must fail (None: who knows)."""

    envelope: bytes
    by: EnvelopeClass
    expected: str | None
    text: str = ""  # what it says, if it is a good text


def outcome(room: RoomKeys, envelope: bytes, by: EnvelopeClass) -> str:
    """The check that the program's parsers name, "ok" if none; the reference must say the same."""
    found = expected = "ok"
    try:
        _, raw = open_envelope(room, envelope, by)
        (bodies.decode_logged if by is LOG else bodies.decode_cast)(raw)
    except Unopenable as failure:
        found = failure.check
    try:
        reference.open_envelope(envelope, room.tag, reference.epoch_key(room.root), by)
    except reference.Failure as failure:
        expected = str(failure)
    if found != expected:
        raise Broken(f"{found}, and the reference says {expected}: {envelope.hex()}")
    return found


def refusal(frames: Frames, *, by_member: bool) -> str:
    """Why the program's parsers refuse a message, "" if they do not; and so for the reference."""
    found = expected = ""
    try:
        word, attachment = (decode_to_broker if by_member else decode_to_member)(frames)
        if isinstance(word, Stored):
            unpack_ids(attachment)
        elif isinstance(word, Entries):
            unpack_batch(attachment)
    except Malformed as error:
        found = str(error.facts["reason"]).partition(":")[0]
    try:
        reference.decode_message(frames, reference.TO_BROKER if by_member else reference.TO_MEMBER)
    except reference.Failure as failure:
        expected = str(failure)
    if bool(found) != bool(expected):
        raise Broken(f"{found or 'ok'}, and the reference says {expected or 'ok'}: {frames!r}")
    return found


# --- What both worlds have ------------------------------------------------------------------------


class Crowd:
    """The members who make junk: their keys, and what they have said of themselves."""

    def __init__(self, rng: random.Random, room: RoomKeys, clock: SimulatedClock) -> None:
        self.rng = rng
        self.room = room
        self.clock = clock
        self.authors = [Author(rng.randbytes(32), room) for _ in range(6)]
        self.incarnations = [rng.randbytes(16) for _ in range(8)]
        self.seq = 0

    def body(self, kind: str, seen: bytes) -> Pairs:
        """A good body of a kind; `react` is one that this version does not know."""
        rng = self.rng
        self.seq += rng.choice([0, 1, 1, 1, 1, 1, 1, 5])
        name = rng.choice(["alice", "Alice", "bob", "аlice", "🐟" * 32, f"m{self.seq}"])
        incarnation = rng.choice(self.incarnations)
        if kind == "beat":
            echo = tuple(rng.randbytes(8) for _ in range(rng.choice([0, 1, 32])))
            ask, leaving = rng.randbytes(8), rng.random() < 0.1
            made: Text | Void | Beat = Beat(
                name, incarnation, 1 + self.seq, seen, ask, echo, leaving
            )
        elif kind == "void":
            made = Void(name, incarnation, 1 + self.seq, seen)
        else:
            text = f"text {self.seq} " + "x" * rng.choice([0, 0, 0, 0, 300, 2_000])
            reply_to = rng.choice([None, rng.randbytes(32)])
            made = Text(name, incarnation, 1 + self.seq, seen, text, reply_to)
        pairs: Pairs = msgspec.msgpack.decode(bodies.encode(made))
        if kind == "react":
            shared = {name: pairs[name] for name in ("kind", "name", "incarnation", "seq", "seen")}
            return {**shared, "kind": "react", "to": _nested(rng.choice([0, 1, 15]))}
        return pairs

    def junk(self, by: EnvelopeClass, seen: bytes) -> Junk:
        """An envelope by a member's key with one thing changed, or none."""
        rng = self.rng
        kind = rng.choice(["text", "text", "void", "react"]) if by is LOG else "beat"
        pairs = self.body(kind, seen)
        good = packed(pairs)
        expected = rng.choice(["ok", "ok", "body", "body", None, *WAYS])
        if expected == "body":
            good = rng.choice(DOOMED_BODIES[kind])(pairs)
        elif expected is None:
            good = spoiled_map(rng, good)
        draft = self.draft(by, good)
        if expected in WAYS:
            rng.choice(WAYS[expected])(draft, rng)
        elif len(draft.inner) > padded_length(66_560):
            expected = "length"
        text = str(pairs["text"]) if kind == "text" and expected == "ok" else ""
        return Junk(draft.made(), by, expected, text)

    def draft(self, by: EnvelopeClass, raw: bytes) -> Draft:
        """A body on its way to an envelope."""
        rng, author = self.rng, self.rng.choice(self.authors)
        times = [self.clock.wall_ms(), self.clock.wall_ms(), 0, 2**64 - 1]
        nonce = author.nonce(rng.randbytes(32), raw)
        header = Header(1, 1, by, 0, rng.choice(times), nonce, author.public)
        inner = (len(raw).to_bytes(4, "big") + raw).ljust(padded_length(len(raw)), b"\0")
        return Draft(self.room, author, header, inner)


class Member:
    """A real member without a socket: what it says lies in `said`, what it shows is counted."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.vault = Vault(world.folder)
        self.vault.master_seed = world.rng.randbytes(32)
        log_key = world.log_key.public
        timing = Timing(answer_timeout_s=10, idle_join_s=60, window_bytes=200_000)
        self.session = Session(log_key, timing, "fuzz", "nowhere")
        self.core = MemberCore(self.session, world.clock)
        server = Server("nowhere", 1, Origin(bytes(32), log_key))
        record = RoomRecord("room", "fuzzed", server, server.keys)
        self.vault.save_room(world.keys.tag, record)
        self.room = Room(world.keys, record, self.vault, world.clock, Rhythm(20, 60), 30)
        self.said: deque[Frames] = deque()
        self.do(self.core.add(self.room))
        self.do(self.core.follow(world.keys.tag))
        self.core.beat(world.keys.tag)
        self.do(self.core.opened())

    def do(self, actions: Iterable[Do]) -> None:
        """What the program around a core would do."""
        reopens = False
        for action in actions:
            if isinstance(action, Say):
                self.said.append(action.frames)
            elif isinstance(action, Reopen):
                reopens = True
            else:
                self.world.shown(action.what)
        if reopens:
            self.world.tally.taken["member opened a new socket"] += 1
            self.reopen()

    def reopen(self) -> None:
        """The connection is lost, and there is another."""
        self.said.clear()
        self.world.cut()
        self.do(self.core.closed("cut"))
        self.do(self.core.opened())

    def hear(self, frames: Frames) -> None:
        """A message from the server; what ends a connection ends it."""
        try:
            self.do(self.core.receive(frames))
        except (WrongLogKey, Incompatible) as error:
            self.world.tally.taken[type(error).__name__] += 1
            self.reopen()

    def close(self) -> None:
        """Give back its files."""
        self.room.close()
        self.vault.close()


class World:
    """What the worlds share: a clock, keys, a crowd, a member, and the tally."""

    def __init__(self, rng: random.Random, folder: Path, tally: Tally) -> None:
        self.rng = rng
        self.folder = folder
        self.tally = tally
        self.clock = SimulatedClock(rng)
        self.log_key = LogKey(rng.randbytes(32))
        self.keys = RoomKeys(rng.randbytes(32))
        self.crowd = Crowd(rng, self.keys, self.clock)
        self.changed = False  # whether this round had an envelope with one thing changed
        self.member: Member
        self.made: dict[bytes, tuple[Junk, str]] = {}  # by id, and what the parsers said

    def shown(self, what: object) -> None:
        """Something for the screen: it must say what was sent, and only that."""
        if isinstance(what, Message) and what.id in self.made:
            junk, found = self.made[what.id]
            refused = what.kind is Kind.UNREADABLE
            if refused != (found != "ok"):
                raise Broken(f"shown as {what.kind}, and the parsers say {found}")
            if junk.text and not refused and what.text != junk.text:
                raise Broken(f"shown as {what.text!r}, said {junk.text!r}")
        if isinstance(what, Notice):
            self.tally.taken[f"notices that blame {what.blame.value}"] += 1
        elif isinstance(what, Message):
            self.tally.taken[f"messages shown as {what.kind.value}"] += 1

    def cut(self) -> None:
        """The member's connection is lost."""

    def round(self) -> None:
        """One thing happens."""
        raise NotImplementedError  # each world has its own

    def end(self) -> None:
        """What must hold at the end: what a member holds besides its log is bounded."""
        if (left := held(self.member.core)) > MOST_HELD:
            raise Broken(f"the member holds {left} things")

    def make(self, by: EnvelopeClass, seen: bytes) -> Junk:
        """Junk that the parsers have been asked about."""
        junk = self.crowd.junk(by, seen)
        self.changed = self.changed or junk.expected != "ok"
        found = outcome(self.keys, junk.envelope, by)
        if junk.expected is not None and found != junk.expected:
            raise Broken(f"expected to fail as {junk.expected}, fails as {found}")
        if found == "ok":
            self.tally.taken["envelopes opened"] += 1
        else:
            self.tally.refused["envelope", found] += 1
        self.made[envelope_id(junk.envelope)] = junk, found
        return junk

    def parses(self, frames: Frames, *, by_member: bool, expected: str | None = None) -> bool:
        """Whether the parsers take a message; what they refuse is counted."""
        found = refusal(frames, by_member=by_member)
        if expected is not None and found != expected:
            raise Broken(f"expected {expected!r}, found {found!r}: {frames!r}")
        if found:
            self.tally.refused["wire", found] += 1
        else:
            self.tally.taken["words by a member" if by_member else "words by a broker"] += 1
        return not found


# --- Members who send junk through an honest broker -----------------------------------------------

ROUTES = 5
_WEIGHTS = {"log": 52, "cast": 14, "known": 3, "word": 20, "noise": 6, "lost": 2, "say": 3}


class Honest(World):
    """A real broker and a real member; others send junk. The server must never be accused."""

    def __init__(self, rng: random.Random, folder: Path, tally: Tally) -> None:
        super().__init__(rng, folder, tally)
        self.log = MemoryLog()
        limits = Limits(
            control_burst=24,
            controls_per_s=4,
            cast_burst=6,
            casts_per_s=1,
            rooms_per_access_key=1,
            rooms_per_broker=3,
            keep_room_bytes=rng.choice([0, 0, 20_000, 80_000]),
        )
        self.broker = BrokerCore(self.log, self.log_key, limits, "fuzz")
        self.routes_made = 0
        self.all_routes: set[object] = set()
        self.greeted: set[bytes] = set()
        self.routes = [self.new_route() for _ in range(ROUTES)]
        self.rooms = [*[self.keys.tag] * 6, bytes(16), *[rng.randbytes(16) for _ in range(3)]]
        self.to_member: deque[Frames] = deque()
        self.members_route = self.new_route()
        self.member = Member(self)

    def new_route(self) -> bytes:
        self.routes_made += 1
        route = self.routes_made.to_bytes(5, "big")
        self.broker.connected(route, Peer(route * 6, f"address {self.routes_made % 3}"))
        self.all_routes.add(route)
        return route

    def cut(self) -> None:
        self.broker.closed(self.members_route)
        self.to_member.clear()
        self.members_route = self.new_route()

    def shown(self, what: object) -> None:
        super().shown(what)
        if isinstance(what, Notice) and what.blame is Blame.SERVER:
            raise Broken(f"an honest server is accused: {what.text}")

    # ---- a round ----

    def round(self) -> None:
        """Something comes in at the broker; then, perhaps, everybody has a turn."""
        rng = self.rng
        self.clock.time += rng.expovariate(10)
        match rng.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]:
            case "log":
                self.post(self.make(LOG, self.a_seen()))
            case "cast":
                self.cast(self.make(CAST, self.a_seen()))
            case "known":
                self.post_again()
            case "word":
                self.word()
            case "noise":
                self.tell(self.a_route(), tuple(noise(rng) for _ in range(rng.randint(0, 3))))
            case "lost":
                self.lose_a_route()
            case "say":
                self.member.do(self.member.core.post(self.keys.tag, ["said"], anyway=False))
        if self.broker.full or rng.random() < 0.3:
            self.turn()

    def post(self, junk: Junk) -> None:
        """An envelope as a POST: what the broker can check it must name."""
        route = self.a_greeted_route()
        k = self.broker._intake._expected(route, self.keys.tag)
        sends = self.tell(route, encode(Post(self.keys.tag, k), junk.envelope))
        answers = [decode_to_member(send.frames)[0] for send in sends]
        found = self.made[envelope_id(junk.envelope)][1]
        expected = []
        if found in ("length", "version", "class") and len(junk.envelope) <= MAX_ENVELOPE_BYTES:
            text = f"check {found}"
            expected.append(Refuse(0, k, "bad-envelope", self.keys.tag, 0, text))
        no_place = [Refuse(0, k, "too-many-rooms", self.keys.tag, 60_000, "")]
        if self.log.tip(self.keys.tag) is None and answers == no_place and not expected:
            return  # strangers' rooms were there before this one
        if answers != expected:
            raise Broken(f"a POST that fails as {found} is answered by {answers}")

    def cast(self, junk: Junk) -> None:
        """An envelope as a CAST: to the others here, if its outline is one; nobody answers it."""
        route, frames = self.a_greeted_route(), encode(Cast(self.keys.tag), junk.envelope)
        sends = self.tell(route, frames)
        found = self.made[envelope_id(junk.envelope)][1]
        if any(send.frames != frames or send.route == route for send in sends):
            raise Broken("a CAST is answered, or changed on its way")
        if sends and found in ("length", "version", "class"):
            raise Broken(f"a CAST that fails as {found} is relayed")

    def post_again(self) -> None:
        """An envelope that stands in the log already (check 4) keeps its one place."""
        self.turn()
        tip = self.log.tip(self.keys.tag)
        if tip is None:
            return
        entry = self.log.read(self.keys.tag, n := self.rng.randint(1, tip.n), n)[0]
        if entry.id not in self.made:  # the member's own
            return
        route = self.a_greeted_route()
        k = self.broker._intake._expected(route, self.keys.tag)
        self.tell(route, encode(Post(self.keys.tag, k), self.made[entry.id][0].envelope))
        self.commit()
        if self.log.tip(self.keys.tag) != tip:
            raise Broken(f"#{n} was posted again, and something was stored")
        self.tally.refused["envelope", "known"] += 1

    def lose_a_route(self) -> None:
        """A connection ends, and another one comes."""
        route = self.a_route()
        self.routes.remove(route)
        self.broker.closed(route)
        self.routes.append(self.new_route())

    def a_route(self) -> bytes:
        return self.rng.choice(self.routes)

    def a_greeted_route(self) -> bytes:
        """A connection that has said HELLO."""
        route = self.a_route()
        if route not in self.greeted:
            self.greeted.add(route)
            self.tell(route, encode(Hello(1, 1, "fuzz")))
        return route

    def a_seen(self) -> bytes:
        """A head to counter-sign: often one that the server signed, else one that it did not."""
        rng, tag, tip = self.rng, self.keys.tag, self.log.tip(self.keys.tag)
        if tip is None or rng.random() < 0.2:
            return NO_HEAD.packed
        n = rng.randint(0, tip.n)
        head = self.log_key.sign_head(tag, tip.log, n, self.log.hash_at(tag, n), 0)
        if rng.random() < 0.6:
            return head.packed
        other = self.log_key.sign_head(bytes(16), tip.log, n, rng.randbytes(32), 0)
        changes: list[dict[str, Any]] = [{"n": n + 1}, {"n": MAX_PLACE}, {"log": bytes(32)}]
        changes += [{"hash": rng.randbytes(32)}, {"signature": other.signature}]
        return rng.choice([other, head._replace(**rng.choice(changes))]).packed

    def words(self) -> dict[type[Word], Callable[[], Attached]]:
        """Well-formed words to the broker, with what stands in them at its bounds and beyond."""
        rng, room, place = self.rng, self.rng.choice(self.rooms), self.a_place
        req = rng.choice([1, 2, MAX_PLACE])
        few = range(rng.choice([1, 1, 1, 3, 64]))
        page = max(1, place()), max(1, place()), rng.random() < 0.5
        junk = self.crowd.junk
        return {
            Hello: lambda: (Hello(req, rng.choice([1, 1, 0, 2, MAX_PLACE]), "x" * 64), None),
            Join: lambda: (Join(req, tuple(self.a_position() for _ in few)), None),
            Page: lambda: (Page(req, room, self.a_log(), *page), None),
            Post: lambda: (Post(room, rng.choice([1, 2, MAX_PLACE])), junk(LOG, NONE).envelope),
            Cast: lambda: (Cast(room), junk(CAST, NONE).envelope),
            Leave: lambda: (Leave(req, room), None),
        }

    def word(self) -> None:
        """A word of a stranger: good, spoiled, or doomed."""
        rng, words = self.rng, self.words()
        kind = rng.choices([*words], [3, 9, 6, 2, 2, 2])[0]
        frames, expected = encode(*words[kind]()), None
        match rng.randrange(3):
            case 0:
                frames = spoiled_frames(rng, frames)
            case 1:
                frames, expected = doomed_message(rng, words)
        self.tell(self.a_route(), frames, expected)

    def a_position(self) -> Position:
        """A place in a JOIN: right, or not."""
        rng, room = self.rng, self.rng.choice(self.rooms)
        sub, after = rng.choice([0, 1, 2, 3, MAX_PLACE]), self.a_place()
        tip = self.log.tip(room)
        real = self.log.hash_at(room, min(after, tip.n)) if tip else NO_LOG
        hash_n = rng.choice([real, real, real, rng.randbytes(32)])
        window = rng.choice([0, 1, 700, 10_000, 1_048_576])
        return Position(room, self.a_log(), sub, after, hash_n, window)

    def a_log(self) -> bytes:
        rng, tip = self.rng, self.log.tip(self.keys.tag)
        logs = [NO_LOG, rng.randbytes(32)]
        if tip is not None:
            logs += [tip.log] * 4
        return rng.choice(logs)

    def a_place(self) -> int:
        rng, tip = self.rng, self.log.tip(self.keys.tag)
        n = tip.n if tip else 0
        return rng.choice([0, 1, rng.randint(0, n), rng.randint(0, n), n, n + 1, TIP - 1, TIP])

    # ---- the broker's shell, as server.py does it ----

    def tell(self, route: bytes, frames: Frames, expected: str | None = None) -> list[Send]:
        """A message to the broker: it must drop what its parser refuses, and only that."""
        if self.broker.full:
            self.commit()
        before = self.broker.counts["malformed"]
        good = self.parses(frames, by_member=True, expected=expected)
        sends = self.broker.receive(route, frames, self.clock.now(), self.clock.random(16))
        if not good and (sends or self.broker.counts["malformed"] == before):
            raise Broken("the broker took what its parser refuses")
        self.send(sends)
        return sends

    def commit(self) -> None:
        """What was posted is stored, or sometimes the disk is full."""
        batch = self.broker.batch(self.clock.wall_ms())
        if batch and self.rng.random() < 0.02:
            self.send(self.broker.failed())
            return
        if batch:
            self.log.append(batch)
        self.send(self.broker.committed())

    def send(self, sends: Iterable[Send]) -> None:
        """What the broker says is well-formed; sometimes a pipe is full."""
        full: set[bytes] = set()
        for send in sends:
            if send.route in full or self.rng.random() < 0.01:
                full.add(send.route)
                self.broker.unsent(send)
                continue
            if not self.parses(send.frames, by_member=False):
                raise Broken("the broker says what no member takes")
            if send.route == self.members_route:
                self.to_member.append(send.frames)

    def turn(self) -> None:
        """What the member said, a commit, what is kept no longer, what the broker answers."""
        while self.member.said:
            frames = self.member.said.popleft()
            if not self.parses(frames, by_member=True):
                raise Broken("the member says what no broker takes")
            now, randomness = self.clock.now(), self.clock.random(16)
            self.send(self.broker.receive(self.members_route, frames, now, randomness))
            if self.broker.full:
                self.commit()
        self.commit()
        if self.rng.random() < 0.05:
            self.broker.expire(self.clock.wall_ms())
        self.broker.retry_stuck()
        self.send(self.broker.serve())
        while self.to_member:
            self.member.hear(self.to_member.popleft())
        self.member.do(self.member.core.tick())

    def end(self) -> None:
        """The member has the whole log; when all connections end, the broker forgets them."""
        super().end()
        for _ in range(200):
            self.clock.time += 0.5
            self.turn()
        tip, checked = self.log.tip(self.keys.tag), self.member.room.checked
        if tip is not None and (checked.n, checked.hash) != (tip.n, tip.hash):
            raise Broken(f"the member has {checked.n} entries of {tip.n}")
        self.tally.taken["envelopes the broker let go"] += self.broker.counts["expired"]
        for route in [*self.routes, self.members_route]:
            self.broker.closed(route)
        self.broker.retry_stuck()
        if list(self.broker.serve()) or held(self.broker) > MOST_HELD:
            raise Broken("the broker has something for nobody")
        if any(isinstance(it, bytes) and it in self.all_routes for it in reachable(self.broker)):
            raise Broken("the broker remembers a connection that is gone")


# --- A server that lies ---------------------------------------------------------------------------

Item: TypeAlias = tuple[bytes, bytes | None]


@dataclass
class Show:
    """An ENTRIES or a STORED in the making: its head is folded and signed over what was changed."""

    key: LogKey
    room: bytes
    log: bytes
    first: int
    before: bytes
    items: list[Item]
    lineage: tuple[bytes, ...] = ()
    expired: int = 0
    says: dict[str, Any] = field(default_factory=dict)  # what the head says instead
    head_bytes: bytes = b""  # the head instead

    def hashes(self) -> list[bytes]:
        """The chain over the items, from before the first."""
        return [self.before, *chain(self.before, self.first, (i for i, _ in self.items))]

    def head(self) -> bytes:
        """The head over the items."""
        place: dict[str, Any] = {"n": self.first + len(self.items) - 1, "hash_n": self.hashes()[-1]}
        said = {"room": self.room, "log": self.log} | place | self.says
        signed = self.key.sign_head(**said, expired=min(self.expired, said["n"]))
        return self.head_bytes or signed.packed

    def replace_one(self, item: Item) -> None:
        """Another entry in the place of one."""
        self.items[len(self.items) // 2] = item

    def entries(self, req: int = 0, tip: int = 0) -> tuple[Word, bytes]:
        """As ENTRIES."""
        places = self.log, self.first, self.before, self.head(), tip
        return Entries(req, self.room, *places, self.lineage), pack_batch(self.items)

    def stored(self, k: int = 1) -> tuple[Word, bytes]:
        """As STORED."""
        word = Stored(self.room, k, self.log, self.first, self.before, self.head())
        return word, pack_batch((entry_id, None) for entry_id, _ in self.items)


class Rogue(World):
    """A server that holds the true log key, and a member who must notice each lie."""

    def __init__(self, rng: random.Random, folder: Path, tally: Tally) -> None:
        super().__init__(rng, folder, tally)
        self.accused: set[str] = set()
        self.called_past = False  # whether the lie was noticed that the log itself tells
        self.former: list[bytes] = []  # the hashes of the former log that this one goes on from
        self.opening = [self.an_item() for _ in range(2)]
        self.births, self.lies_of_its_past = self.a_lineage()
        self.log = Genesis(*struct.unpack(">16s32s16s32sQ32s", self.births[0][:136])).log
        self.ids: list[bytes] = []
        self.hashes = [self.log]
        self.posts: deque[tuple[int, bytes]] = deque(maxlen=8)
        self.member = Member(self)

    def a_lineage(self) -> tuple[tuple[bytes, ...], bool]:
        """The births of this log, and whether what it claims of a parent's past is a lie."""
        rng, key, tag = self.rng, self.log_key, self.keys.tag
        first = Genesis(tag, key.public, rng.randbytes(16))
        kind = rng.choice(["no parent", "empty parent", "parent", "lie", "lie"])
        if kind == "no parent":
            return (key.sign_birth(first),), False
        n = 0 if kind == "empty parent" else 2
        self.former = [first.log, *chain(first.log, 1, (i for i, _ in self.opening[:n]))]
        hash_n = self.former[n]
        if kind == "lie":
            hash_n = flipped(rng, hash_n)
        child = Genesis(tag, key.public, rng.randbytes(16), first.log, n, hash_n)
        return (key.sign_birth(child), key.sign_birth(first)), kind == "lie"

    def an_item(self) -> Item:
        """An envelope with one thing changed, as an entry."""
        envelope = self.make(LOG, self.a_seen()).envelope
        return envelope_id(envelope), envelope

    def a_seen(self) -> bytes:
        """A head to counter-sign that accuses nobody: none, one that nobody signed, one of the
        former log that fits, or that a restore lost.
        """
        rng = self.rng
        n = rng.choice([0, 0, 1, 5, MAX_PLACE])
        if n and self.former and self.n >= len(self.opening) and rng.random() < 0.5:
            n = rng.randint(0, 9)
            hash_n = self.former[n] if n < len(self.former) else rng.randbytes(32)
            return self.log_key.sign_head(self.keys.tag, self.former[0], n, hash_n, 0).packed
        return NO_HEAD._replace(n=n, hash=rng.randbytes(32)).packed if n else NO_HEAD.packed

    def shown(self, what: object) -> None:
        super().shown(what)
        if isinstance(what, Notice) and what.blame is Blame.SERVER:
            self.accused.add(what.text)
            self.called_past |= PAST in what.text

    @property
    def n(self) -> int:
        """Where the log ends that the member has checked."""
        return len(self.ids)

    @property
    def is_new(self) -> bool:
        """Whether the member holds no log yet."""
        return self.member.room.checked.log == NO_LOG

    def end(self) -> None:
        """What a log says of the one before it is compared once the member holds all of that."""
        super().end()
        if self.called_past != (self.lies_of_its_past and self.n >= len(self.opening)):
            raise Broken(f"a lie went by, or was none: {PAST}")
        self.tally.refused["server", PAST] += self.called_past

    # ---- a round ----

    def round(self) -> None:
        """The server says something, true or not."""
        rng = self.rng
        self.clock.time += rng.choice([0.05, 0.05, 0.05, 0.5])
        self.listen(silent=rng.random() < 0.1)
        if self.member.session.phase is Phase.READY:
            self.accused.clear()
            getattr(self, rng.choices([*_SPEECHES], [*_SPEECHES.values()])[0])()
        self.member.do(self.member.core.tick())

    def listen(self, *, silent: bool = False) -> None:
        """Answer what the member said, in truth; or not at all."""
        core = self.member.core
        if self.keys.tag not in core._followed:
            self.member.do(core.follow(self.keys.tag))
        while self.member.said:
            frames = self.member.said.popleft()
            if not self.parses(frames, by_member=True):
                raise Broken("the member says what no broker takes")
            word, attachment = decode_to_broker(frames)
            if isinstance(word, Hello):
                self.greet(word.req)
            elif isinstance(word, Join) and not silent:
                self.hear(self.in_step(word.req))
            elif isinstance(word, Page):
                show = self.a_show(1)
                show.items = [self.bare(show.items[0])]
                self.believe(show, None, encode(*show.entries(word.req)))
            elif isinstance(word, Post):
                self.posts.append((word.k, attachment))

    def greet(self, req: int) -> None:
        """READY, or what must end the connection."""
        key, protocol = self.log_key.public, 1
        match self.rng.randrange(30):
            case 0:
                key = flipped(self.rng, key)
            case 1:
                protocol = self.rng.choice([0, 2, MAX_PLACE])
            case 2:
                req += 1
        self.hear(encode(Ready(req, protocol, "rogue", key, 1, MAX_PLACE)))

    def in_step(self, req: int) -> Frames:
        """The true answer to a JOIN that names the member's own end."""
        if self.n:
            return encode(*self.a_show(0).entries(req, self.n))
        return encode(Entries(req, self.keys.tag, NO_LOG, 1, NO_LOG, b"", 0, ()), b"")

    # ---- true speech ----

    def a_show(self, most: int = 4) -> Show:
        """The next entries of the log, as they are; sometimes one that the member itself posted."""
        rng, checked = self.rng, self.member.room.checked
        some = rng.randint(1, most) if most else 0
        items = self.opening[self.n :][:some] or [self.an_item() for _ in range(some)]
        own = [envelope for _, envelope in self.posts if envelope_id(envelope) not in self.ids]
        if some and own and self.n >= len(self.opening):
            items[0] = envelope_id(own[0]), own[0]
        while len(items) > 1 and sum(len(envelope or b"") for _, envelope in items) > 60_000:
            items.pop()  # two more of the largest still fit the batch
        places = self.log, self.n + 1, self.hashes[self.n]
        lineage = self.births if self.is_new else ()
        return Show(self.log_key, self.keys.tag, *places, items, lineage, checked.expired)

    def bare(self, item: Item) -> Item:
        """Only its id: it is shown as unreadable, whatever it was."""
        self.made.pop(item[0], None)
        return item[0], None

    def truth(self) -> None:
        """The next entries; sometimes with envelopes that are kept no longer; or a receipt."""
        rng, show = self.rng, self.a_show()
        if self.n and rng.random() < 0.2:
            self.hear(encode(*self.a_receipt().stored(rng.choice([1, 2, MAX_PLACE]))))
            self.expect(None)
            return
        if rng.random() < 0.2:
            show.expired = rng.randint(show.expired, self.n + len(show.items))
            kept = max(0, show.expired - self.n)
            show.items[:kept] = map(self.bare, show.items[:kept])
        self.believe(show, None)

    def a_receipt(self) -> Show:
        """A piece of the checked log, as ids."""
        first = self.rng.randint(1, self.n)
        items: list[Item] = [(i, None) for i in self.ids[first - 1 :][: self.rng.randint(1, 600)]]
        places = self.log, first, self.hashes[first - 1]
        return Show(self.log_key, self.keys.tag, *places, items, (), 0)

    # ---- other speech ----

    def cast(self) -> None:
        """A beat with one thing changed, past every broker."""
        self.hear(encode(Cast(self.keys.tag), self.make(CAST, self.a_seen()).envelope))

    def refuse(self) -> None:
        """A refusal of something, or of nothing."""
        self.hear(encode(self.a_refusal()))

    def a_refusal(self) -> Refuse:
        rng = self.rng
        code = rng.choice([*("version", "hello-first", "x" * 32), *["rate", "bad-envelope"] * 4])
        last = self.member.session._request
        req, k = rng.choice([(0, 0), (1, 0), (last, 0), (last, 0), (0, 1), (0, 2), (0, MAX_PLACE)])
        room = rng.choice([self.keys.tag, self.keys.tag, b"", bytes(16)])
        return Refuse(req, k, code, room, rng.choice([0, 1_000, 86_400_000]), "x" * 200)

    def spoiled(self) -> None:
        """A good message with one thing changed that needs no key."""
        rng, show = self.rng, self.a_show()
        word, batch = self.a_receipt().stored() if self.n and rng.random() < 0.2 else show.entries()
        frames = encode(word, batch)
        match rng.randrange(4):
            case 0:
                frames = frames[0], spoiled_batch(rng, batch)
            case 1:
                frames = spoiled_frames(rng, encode(self.a_refusal()))
            case _:
                frames = spoiled_frames(rng, frames)
        self.hear(frames)
        self.keep(show)

    def doomed(self) -> None:
        """A message that any member's parser refuses."""
        room, log_key = self.keys.tag, self.log_key.public
        receipt = self.a_receipt() if self.n else self.a_show(0)
        words: dict[type[Word], Callable[[], Attached]] = {
            Ready: lambda: (Ready(1, 1, "rogue", log_key, 1, 1), None),
            Stored: lambda: receipt.stored(),
            Entries: lambda: self.a_show().entries(),
            Cast: lambda: (Cast(room), self.make(CAST, self.a_seen()).envelope),
            Refuse: lambda: (self.a_refusal(), None),
        }
        frames, expected = doomed_message(self.rng, words)
        self.hear(frames, expected)

    def nonsense(self) -> None:
        """What means nothing."""
        self.hear(tuple(noise(self.rng) for _ in range(self.rng.randint(0, 3))))

    def say(self) -> None:
        """The member speaks, whatever it thinks of the server."""
        self.member.do(self.member.core.post(self.keys.tag, ["said"], anyway=True))

    def gap(self) -> None:
        """An entry is lost on the way, which is nobody's fault; asked again, all of them come."""
        if self.n < len(self.opening):
            return
        whole = self.a_show()
        whole.items.append(self.an_item())
        later = dataclasses.replace(whole, first=whole.first + 1, before=whole.hashes()[1])
        later.items = whole.items[1:]
        self.believe(later, None)
        self.deliver(whole)

    def lose(self) -> None:
        """The connection is lost before a JOIN is answered, again and again."""
        for _ in range(self.rng.choice([1, 2, 6])):
            self.member.reopen()
            self.listen(silent=True)

    def wait(self) -> None:
        """Nothing comes, for longer than a member waits."""
        for _ in range(12):
            self.clock.time += 1
            self.member.do(self.member.core.tick())

    # ---- what the member makes of it ----

    def hear(self, frames: Frames, expected: str | None = None) -> None:
        """A message to the member, who must not believe what its parser refuses."""
        good = self.parses(frames, by_member=False, expected=expected)
        before = self.member.room.checked.n
        self.member.hear(frames)
        if not good and self.member.room.checked.n != before:
            raise Broken("the member believed what its parser refuses")

    def believe(self, show: Show, lie: str | None, frames: Frames = ()) -> None:
        """Show it: a lie must be called by its name, and the truth must be kept."""
        self.accused.clear()
        tip = self.rng.choice([0, self.n, MAX_PLACE])
        self.hear(frames or encode(*show.entries(tip=tip)))
        self.keep(show)
        self.expect(lie)

    def deliver(self, promised: Show) -> None:
        """Show what a signed head spoke of, as soon as the member listens again."""
        while self.member.session.phase is not Phase.READY:
            self.listen()
        self.believe(promised, None)

    def keep(self, show: Show) -> None:
        """What the member has kept of this is the log from now on; it must be what was shown."""
        checked = self.member.room.checked
        if checked.n > self.n:
            fresh = self.n + 1 - show.first
            self.ids += [entry_id for entry_id, _ in show.items[fresh:]]
            self.hashes += show.hashes()[fresh + 1 :]
        if checked.n != self.n or (checked.n and checked.hash != self.hashes[self.n]):
            raise Broken("the member believes what it was not shown")

    def expect(self, lie: str | None) -> None:
        """The member accuses the server of this, and of nothing else."""
        known = self.lies_of_its_past
        accused = {text for text in self.accused if not (known and PAST in text)}
        if lie is None and accused:
            raise Broken(f"the truth was told, and the server is accused: {accused}")
        if lie is not None and not any(lie in text for text in accused):
            raise Broken(f"a lie went by: {lie}; accused: {accused}")
        if lie is not None:
            self.tally.refused["server", lie] += 1

    def lie(self) -> None:
        """One lie of those that can be told now, about the next entries or about the log."""
        able = [lie for lie in LIES if lie.when(self)]
        if self.is_new:
            able += [lie for lie in able if lie.when is _new] * 20
        lie = self.rng.choice(able)
        lie.tell(self, lie.name)


PAST = "its log claims a past that it does not hold"
_SPEECHES = {"truth": 20, "lie": 40, "cast": 8, "refuse": 6, "spoiled": 12, "doomed": 8}
_SPEECHES |= {"nonsense": 3, "say": 3, "gap": 2, "lose": 1, "wait": 1}


def spoiled_batch(rng: random.Random, batch: bytes) -> bytes:
    """A batch with one thing changed."""
    match rng.randrange(5):
        case 0:
            return batch[: rng.randrange(len(batch))]
        case 1:
            return batch + rng.choice([b"\0", bytes(4), bytes(36), b"\xff" * 4, bytes(35)])
        case 2:
            return bytes(36) * (MAX_BATCH_ENTRIES + 1)
        case 3:
            return flipped(rng, batch, 0, 4)
    return flipped(rng, batch)


# --- The lies: what the member must call each, when it can be told, and how -----------------------

Telling: TypeAlias = Callable[[Rogue, Show], object]
When: TypeAlias = Callable[[Rogue], bool]


class Lie(NamedTuple):
    """A row of the table below."""

    name: str
    when: When
    tell: Callable[[Rogue, str], None]


def about_entries(change: Telling) -> Callable[[Rogue, str], None]:
    """A lie about the next entries."""

    def tell(world: Rogue, name: str) -> None:
        show = world.a_show()
        change(world, show)
        world.believe(show, name)

    return tell


def about_a_receipt(change: Telling) -> Callable[[Rogue, str], None]:
    """A lie about a piece of the log."""

    def tell(world: Rogue, name: str) -> None:
        receipt = world.a_receipt()
        change(world, receipt)
        world.hear(encode(*receipt.stored()))
        world.expect(name)

    return tell


def sets(**values: Callable[[Rogue, Show], object]) -> Telling:
    """Show other values; the head is signed over them."""

    def change(world: Rogue, show: Show) -> None:
        for name, value in {name: value(world, show) for name, value in values.items()}.items():
            setattr(show, name, value)

    return change


def says(**values: Callable[[Rogue, Show], object]) -> Telling:
    """Sign a head that says something else than what is shown."""

    def change(world: Rogue, show: Show) -> None:
        show.says |= {name: value(world, show) for name, value in values.items()}

    return change


def after_signing(change: Telling) -> Telling:
    """Change what is shown when the head over it is signed already."""

    def both(world: Rogue, show: Show) -> None:
        show.head_bytes = show.head()
        change(world, show)

    return both


def _random(size: int) -> Callable[[Rogue, Show], bytes]:
    return lambda world, show: world.rng.randbytes(size)


def _breach_of_lineage(world: Rogue, show: Show) -> tuple[bytes, ...]:
    """A lineage that is none: each of these breaks one rule of its own."""
    rng, key, tag = world.rng, world.log_key, world.keys.tag
    other, first = LogKey(rng.randbytes(32)), Genesis(tag, key.public, rng.randbytes(16))
    orphan = first._replace(parent=rng.randbytes(32), parent_n=7, parent_hash=rng.randbytes(32))
    breaches = [
        (),
        world.births + world.births[:1],
        (flipped(rng, world.births[0], 136),),
        (other.sign_birth(first._replace(log_key=other.public)),),
        (key.sign_birth(first._replace(room=bytes(16))),),
        (key.sign_birth(first._replace(parent_n=1)),),
        (key.sign_birth(orphan._replace(parent_n=0)),),
        (key.sign_birth(orphan._replace(parent_n=2**63)),),
        (key.sign_birth(orphan),),
        tuple(key.sign_birth(orphan) for _ in range(16)),
    ]
    return rng.choice(breaches)


def _another_log(parent: bool, truth: bool = True) -> Telling:
    """Show a new log: that does not name ours, or that does, with our hash there or not."""

    def change(world: Rogue, show: Show) -> None:
        genesis = Genesis(world.keys.tag, world.log_key.public, world.rng.randbytes(16))
        if parent:
            n = world.rng.randint(1, world.n)
            hash_n = world.hashes[n] if truth else flipped(world.rng, world.hashes[n])
            genesis = genesis._replace(parent=world.log, parent_n=n, parent_hash=hash_n)
        show.lineage = (world.log_key.sign_birth(genesis), *(world.births if parent else ()))
        show.log = show.before = genesis.log
        show.first, show.expired = 1, 0

    return change


def _not_as_born(world: Rogue, show: Show) -> None:
    show.log = show.before = world.rng.randbytes(32)
    show.first, show.lineage = 1, world.births


def _known_replaced(world: Rogue, show: Show) -> None:
    show.first = world.rng.randint(1, world.n)
    show.before = world.hashes[show.first - 1]


def _one_dropped(world: Rogue, show: Show) -> None:
    if len(show.items) > 1:  # without any it would be a promise, and no lie
        show.items.pop()
    else:
        show.items.append(world.an_item())


def _other_past(world: Rogue, show: Show) -> None:
    show.items = []
    show.says = {"n": world.rng.randint(1, world.n), "hash_n": world.rng.randbytes(32)}


def go_back(world: Rogue, name: str) -> None:
    """A lower end on the same chain, and the same when asked again."""
    show, n = world.a_show(0), world.rng.randint(1, world.n - 1)
    show.says = {"n": n, "hash_n": world.hashes[n]}
    world.hear(encode(*show.entries()))
    world.believe(show, name)


def withhold(world: Rogue, name: str) -> None:
    """A head of what comes next, and then nothing; at last what was held back."""
    show, future = world.a_show(0), world.a_show()
    show.head_bytes = future.head()
    world.believe(show, None)
    for _ in range(120):
        world.clock.time += 1
        world.member.do(world.member.core.tick())
        world.listen()
        if world.accused:
            break
    world.expect(name)
    world.deliver(future)


def counter_signed(world: Rogue, name: str) -> None:
    """A message or a beat over a head that the server signed for nobody but its author."""
    rng = world.rng
    log, n = world.log, rng.randint(1, world.n)
    if "another log" in name:
        log = rng.randbytes(32)
    elif len(world.former) > 1 and rng.random() < 0.5:
        log, n = world.former[0], rng.randrange(1, len(world.former))
    place = log, n, rng.randbytes(32), 0
    seen = world.log_key.sign_head(world.keys.tag, *place).packed
    by, kind = rng.choice([(LOG, "text"), (CAST, "beat")])
    draft = world.crowd.draft(by, packed(world.crowd.body(kind, seen)))
    if by is LOG:
        show, envelope = world.a_show(1), draft.made()
        show.items = [(envelope_id(envelope), envelope)]
        world.believe(show, name)
        return
    _another_author(draft, rng)  # what a beat shows is told once for each of its authors
    draft.head(sender=draft.author.public)
    world.hear(encode(Cast(world.keys.tag), draft.made()))
    world.expect(name)


def _always(world: Rogue) -> bool:
    return True


def _known(world: Rogue) -> bool:
    return world.n >= 2


def _new(world: Rogue) -> bool:
    return world.is_new


def _expired(world: Rogue) -> bool:
    return world.member.room.checked.expired > 0


def _quiet(world: Rogue) -> bool:
    """Nothing the member waits for: else it reconnects, and what is withheld counts anew."""
    return world.n >= 2 and not world.member.session.unanswered(world.keys.tag)


_NOT_SIGNED = "it sent a head that it did not sign for this log"
_NO_ORIGIN = "it cannot say where its log comes from"
_NO_END = "it sent entries that do not end at their head"
_NO_FIT = "do not fit the head it signed"
_TWICE = "it stored a message twice"
_NO_RECEIPT = "it sent a receipt that does not hold"
_OTHER_RECEIPT = "its receipt names another history up to #"

_ENTRY_LIES: list[tuple[str, When, Telling]] = [
    (_NOT_SIGNED, _always, sets(key=lambda world, show: LogKey(world.rng.randbytes(32)))),
    (_NOT_SIGNED, _always, says(room=_random(16))),
    (_NOT_SIGNED, _always, says(log=_random(32))),
    (
        _NOT_SIGNED,
        _always,
        sets(head_bytes=lambda world, show: flipped(world.rng, show.head(), 80)),
    ),
    (
        "it claims to keep messages again that it had dropped",
        _expired,
        sets(expired=lambda world, show: world.rng.randrange(show.expired)),
    ),
    (_NO_ORIGIN, _new, sets(lineage=_breach_of_lineage)),
    ("its log is not the one it was born as", _always, _not_as_born),
    ("another log of this room that does not name ours", _known, _another_log(parent=False)),
    ("its new log claims a past that ours never had", _known, _another_log(True, truth=False)),
    ("and started a new log", _known, _another_log(parent=True)),
    (_NO_END, _always, says(n=lambda world, show: world.n + len(show.items) - 1)),
    (_NO_END, _always, says(n=lambda world, show: world.n + len(show.items) + 1)),
    (_NO_END, _always, after_signing(lambda world, show: show.items.append(world.an_item()))),
    (_NO_END, _always, after_signing(_one_dropped)),
    (
        "is not the one it showed us",
        _always,
        sets(before=lambda world, show: flipped(world.rng, show.before)),
    ),
    (_NO_FIT, _always, after_signing(lambda world, show: show.replace_one(world.an_item()))),
    ("it shows another #", _known, _known_replaced),
    (_TWICE, _known, lambda world, show: show.items.append(show.items[0])),
    (_TWICE, _known, lambda world, show: show.items.append((world.rng.choice(world.ids), None))),
    (
        "it holds back messages that it has not dropped",
        _always,
        lambda world, show: show.items.append((world.rng.randbytes(32), None)),
    ),
    ("it signed another history up to #", _known, _other_past),
]
_RECEIPT_LIES: list[tuple[str, Telling]] = [
    (_NO_RECEIPT, sets(key=lambda world, show: LogKey(world.rng.randbytes(32)))),
    (_NO_RECEIPT, says(room=_random(16))),
    (_NO_RECEIPT, after_signing(sets(before=_random(32)))),
    (_NO_RECEIPT, after_signing(sets(first=lambda world, show: show.first + 1))),
    (_NO_RECEIPT, after_signing(lambda world, show: show.items.append((bytes(32), None)))),
    (_OTHER_RECEIPT, sets(before=_random(32))),
    (_OTHER_RECEIPT, sets(log=_random(32))),
]
LIES = [
    *(Lie(name, when, about_entries(change)) for name, when, change in _ENTRY_LIES),
    *(Lie(name, _known, about_a_receipt(change)) for name, change in _RECEIPT_LIES),
    Lie("it went back", _known, go_back),
    Lie("and does not deliver what follows", _quiet, withhold),
    Lie("another history (from #", _known, counter_signed),
    Lie("another log of this room, unknown to ours", _known, counter_signed),
]

CHECKS = {
    "envelope": (*WAYS, "known", "body"),
    "wire": tuple(WIRE_WAYS),
    "server": (PAST, *dict.fromkeys(lie.name for lie in LIES)),
}


# --- Many rounds ----------------------------------------------------------------------------------


def reachable(root: object) -> Iterator[object]:
    """What an object of ours holds, and what that holds, and so on; logs and stores left out."""
    todo, seen = [root], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, MemoryLog | SqliteLog | type):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, CONTAINERS):
            todo += thing
        elif type(thing).__module__.startswith("zchat."):
            names = [*getattr(thing, "__dict__", ()), *getattr(thing, "__slots__", ())]
            todo += [getattr(thing, name) for name in names]


def held(root: object) -> int:
    """How many things stand in all its containers."""
    return sum(len(thing) for thing in reachable(root) if isinstance(thing, CONTAINERS))


WORLDS: list[tuple[type[World], int]] = [(Honest, 250), (Rogue, 80)]


def fuzz(rounds: int, seed: int, first_world: int = 0) -> Tally:
    """Worlds one after the other, until there were so many rounds. Raises Broken, with the seed."""
    tally, number, warm_kib = Tally(), first_world, 0
    while tally.rounds < rounds:
        kind, rounds_each = WORLDS[number % len(WORLDS)]
        play(kind, rounds_each, tally, seed, number)
        number += 1
        if not warm_kib and tally.rounds >= rounds // 5:
            warm_kib = resident_kib()
    tally.growth_kib = resident_kib() - warm_kib
    if tally.growth_kib > MOST_GROWTH_KIB:
        raise Broken(f"seed {seed}: memory grew by {tally.growth_kib} KiB")
    return tally


def play(kind: type[World], rounds: int, tally: Tally, seed: int, number: int) -> None:
    """One world, from its beginning to its end."""
    first = tally.rounds
    try:
        with world_of(kind, f"{seed}/{number}", tally) as world:
            while tally.rounds < first + rounds:
                tally.rounds += 1
                world.changed = False
                world.round()
                tally.signed_rounds += world.changed
            world.end()
    except Exception as error:
        where = f"seed {seed}, world {number} ({kind.__name__}), round {tally.rounds - first}"
        raise Broken(f"{where}: {error!r}") from error


@contextlib.contextmanager
def world_of(kind: type[World], seed: str, tally: Tally) -> Iterator[World]:
    """A world, whose files are in memory where that can be, and gone with it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        world = kind(random.Random(seed), Path(folder), tally)
        with contextlib.closing(world.member):
            yield world


def resident_kib() -> int:
    """What this process holds in memory; where the system does not say, the most it ever held."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() // 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == "darwin" else most


def main() -> None:
    """Run, count, and say what held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--first-world", type=int, default=0, help="go straight to this one")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        tally = fuzz(options.rounds, options.seed, options.first_world)
    except Broken as broken:
        print(f"BROKEN  {broken}")
        sys.exit(1)
    print(tally.report())
    idle = tally.idle_checks()
    if idle:
        print(f"BROKEN  seed {options.seed}: nothing was refused as {idle}")
        sys.exit(1)
    took = time.monotonic() - started
    print(f"held  seed {options.seed}  rounds {tally.rounds}  in {took:.0f} s")


if __name__ == "__main__":
    main()
