"""The floor of the house: bounds, hashes, envelopes, bodies, words, the ledger, keys.

The vectors (test_vectors.py) hold single cases; here stands what holds for all of them: nothing has
two encodings, whatever is changed in one byte is refused by the check the page names, an honest
server cannot be convicted and a lying one is, what people type has one form.

Rules of this file: real keys, real signatures; Hypothesis draws the cases and prints what it found;
a test says in its name what holds.
"""

import math
import re
import resource
import sys
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import CAST, DOOMED_BODIES, LOG, WAYS, Draft, cut, joined, packed, spelled_longer
from zchat.errors import BadName, BadPassphrase, BadRoomName, Malformed, Unopenable
from zchat.protocol import body, evidence, ledger, limits, seal, wire, words
from zchat.protocol.body import Beat, Text, Unknown, Void
from zchat.protocol.envelope import (
    BOX_AT,
    EnvelopeClass,
    Header,
    check_outline,
    envelope_id,
    take_apart,
)
from zchat.protocol.keys import Author, RoomKeys, derive_root, room_salt, same
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import NO_LOG, Contradiction, Genesis, Head, LogKey, Proof, chain, judge
from zchat.protocol.limits import MAX_PLACE, padded_length, padme

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"

ROOM, OTHER_ROOM = RoomKeys(b"r" * 32), RoomKeys(b"o" * 32)
ALICE, BOB = Author(b"a" * 32, ROOM), Author(b"b" * 32, ROOM)
LOG_KEY, OTHER_LOG_KEY = LogKey(b"l" * 32), LogKey(b"m" * 32)
GENESIS = Genesis(ROOM.tag, LOG_KEY.public, b"g" * 16)
RANDOMNESS = b"n" * 32

holds_for = settings(deadline=None, max_examples=100)  # how long an example takes proves nothing


def binary(size: int) -> st.SearchStrategy[bytes]:
    """Bytes of one length."""
    return st.binary(min_size=size, max_size=size)


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    """The bytes with one of them changed."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


# --- Bounds and hashes ----------------------------------------------------------------------------


def test_padding_adds_at_most_an_eighth_and_is_stable_and_in_order() -> None:
    """12 % is for lengths that occur; the least ones are rounded by up to an eighth."""
    former = 0
    for length in range(2, 70_000):
        padded = padme(length)
        assert length <= padded == padme(padded)
        assert padded <= length * (1.12 if length >= limits.PADDING_FLOOR_BYTES else 1.125)
        assert padded >= former
        former = padded


@pytest.mark.parametrize(
    ("length", "padded"),
    [(2, 2), (9, 10), (512, 512), (513, 544), (1_025, 1_088), (65_537, 67_584)],
)
def test_padding_goes_in_the_steps_of_purbs(length: int, padded: int) -> None:
    """For L of 2^E, steps of 2^(E - S), S the bits of E."""
    assert padme(length) == padded


def test_the_bounds_are_those_of_the_page() -> None:
    """Every number of its last table, in its order."""
    table = PAGE.read_text("utf-8").partition("### Bounds")[2].partition("\n## ")[0]
    numbers = re.findall(r"\b\d[\d,]*", re.sub("class .", "", table))
    assert [int(number.replace(",", "")) for number in numbers] == [
        limits.MAX_TEXT_BYTES,
        limits.MAX_BODY_BYTES,
        limits.MAX_ENVELOPE_BYTES,
        limits.MAX_CAST_BYTES,
        limits.MAX_WORD_BYTES,
        limits.MAX_BATCH_BYTES,
        limits.MAX_BATCH_ENTRIES,
        limits.MAX_MESSAGE_BYTES,
        limits.MAX_WINDOW_BYTES,
        limits.MAX_ROOMS_PER_CONNECTION,
        limits.MAX_LINEAGE,
        limits.POST_BURST,
        limits.POSTS_PER_S,
        limits.ROOMS_PER_ACCESS_KEY,
        limits.ROOM_BYTES // limits.GIB,
        limits.CONNECTIONS_PER_ADDRESS,
        limits.HANDSHAKE_BURST,
        limits.HANDSHAKES_PER_S,
        limits.KEPT_AWAY_S,
    ]


def test_the_longest_text_and_the_fullest_beat_fit_their_envelopes() -> None:
    """Whatever a member may say can be sent."""
    name, most = "\U0001f41f" * limits.MAX_NAME_CHARS, MAX_PLACE
    text = Text(name, bytes(16), most, bytes(144), "x" * limits.MAX_TEXT_BYTES, bytes(32))
    beat = Beat(name, bytes(16), most, bytes(144), bytes(8), (bytes(8),) * 32, True)
    for said, by in ((text, LOG), (beat, CAST)):
        envelope = seal.seal(ROOM, ALICE, by, body.encode(said), 2**64 - 1, RANDOMNESS)
        check_outline(envelope, by)


def test_the_largest_words_fit_their_frame() -> None:
    """No bound of a field allows a word that the frame's bound forbids."""
    position = wire.Position(bytes(16), bytes(32), MAX_PLACE, MAX_PLACE, bytes(32), 2**20)
    births = (bytes(200),) * limits.MAX_LINEAGE
    places = bytes(16), bytes(32), MAX_PLACE, bytes(32), bytes(144), MAX_PLACE
    refused = "\U0001f41f" * 32, bytes(16), 86_400_000, "\U0001f41f" * 200
    wire.decode_to_broker(wire.encode(wire.Join(MAX_PLACE, (position,) * 64)))
    wire.decode_to_member(wire.encode(wire.Entries(MAX_PLACE, *places, births), b""))
    wire.decode_to_member(wire.encode(wire.Refuse(MAX_PLACE, 0, *refused)))


def test_the_labels_are_those_of_the_page() -> None:
    """Each once, and each fits BLAKE2b's personal parameter."""
    of_the_page = re.findall(r"^\| `(zchat/1 [a-z ]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [label.decode() for label in Label] == of_the_page
    assert all(len(label) <= 16 and not label.endswith(b"\0") for label in Label)


@holds_for
@given(st.binary(max_size=99), st.binary(max_size=64), st.integers(1, 64))
def test_hashes_of_two_uses_never_meet(data: bytes, key: bytes, size: int) -> None:
    """Over the same data, each label and each key gives its own."""
    if size >= 8:
        assert len({digest(label, size, data, key) for label in Label}) == len(Label)
    assert len(digest(Label.ID, size, data)) == size


# --- Envelopes ------------------------------------------------------------------------------------


def opened(room: RoomKeys, envelope: bytes, by: EnvelopeClass) -> str:
    """The check that fails; "ok" if none."""
    try:
        _, raw = seal.open_envelope(room, envelope, by)
        (body.decode_logged if by is LOG else body.decode_cast)(raw)
    except Unopenable as failure:
        assert failure.check in str(failure)
        return failure.check
    return "ok"


def a_void(seq: int = 1) -> bytes:
    return body.encode(Void("alice", bytes(16), seq, bytes(144)))


def sealed(raw: bytes, by: EnvelopeClass = LOG) -> bytes:
    return seal.seal(ROOM, ALICE, by, raw, 1_700_000_000_000, RANDOMNESS)


@holds_for
@given(
    st.binary(max_size=3_000), st.sampled_from(EnvelopeClass), st.integers(0, 2**64 - 1), binary(32)
)
def test_what_is_sealed_opens_to_the_same(
    raw: bytes, by: EnvelopeClass, time_ms: int, randomness: bytes
) -> None:
    """And its parts, put together again, are the envelope."""
    envelope = seal.seal(ROOM, ALICE, by, raw, time_ms, randomness)
    parts = take_apart(envelope)
    assert parts.signed + parts.signature == envelope
    assert parts.header.packed + parts.commitment + parts.box + parts.signature == envelope
    assert len(envelope) == 183 + padded_length(len(raw))
    if len(envelope) > limits.MAX_CAST_BYTES:
        by = LOG
        envelope = seal.seal(ROOM, ALICE, by, raw, time_ms, randomness)
    header, found = seal.open_envelope(ROOM, envelope, by)
    assert (header.sender, header.timestamp_ms, found) == (ALICE.public, time_ms, raw)


def test_every_length_of_a_body_around_a_step_of_padding_opens() -> None:
    """No length is lost between body and padding."""
    for length in (*range(40), *range(500, 620), *range(1_000, 1_100), 66_560):
        raw = b"\1" * length
        assert seal.open_envelope(ROOM, sealed(raw), LOG).body == raw


def test_a_length_is_right_exactly_where_its_padding_is() -> None:
    """Check 1 of both classes, for every length up to beyond the bounds of a cast."""
    for by, most in ((LOG, limits.MAX_ENVELOPE_BYTES), (CAST, limits.MAX_CAST_BYTES)):
        start = bytes([1, 1, by, 0, 0, 0, 0])
        for length in (*range(2_000), *range(69_000, 70_500)):
            padded = length - 183
            right = padded >= 512 and padme(padded) == padded and length <= most
            try:
                check_outline(start.ljust(length, b"\0")[:length], by)
                found = "ok"
            except Unopenable as failure:
                found = failure.check
            assert found == ("ok" if right else "length")


@pytest.mark.parametrize("by", EnvelopeClass)
def test_any_flipped_byte_is_refused_by_the_check_of_its_place(by: EnvelopeClass) -> None:
    """Every byte, one after the other; what stands there says which check names it."""
    envelope = sealed(body.encode(Beat("a", bytes(16), 1, bytes(144), bytes(8), (), False)), by)
    places = {"version": [0, 1, *range(3, 7)], "class": [2], "commitment": range(7, BOX_AT)}
    expected = {at: check for check, ats in places.items() for at in ats}
    for at in range(len(envelope)):
        found = opened(ROOM, flip(envelope, at, 0x80), by)
        assert (at, found) == (at, expected.get(at, "signature"))


@holds_for
@given(st.data())
def test_any_change_of_any_byte_is_refused(data: st.DataObject) -> None:
    """Whatever the byte becomes."""
    envelope = sealed(a_void())
    at, mask = data.draw(st.integers(0, len(envelope) - 1)), data.draw(st.integers(1, 255))
    assert opened(ROOM, envelope, LOG) == "ok"
    assert opened(ROOM, flip(envelope, at, mask), LOG) != "ok"


def test_an_envelope_of_another_room_key_tag_or_class_is_refused() -> None:
    """The commitment names what it was sealed for; the class is in clear."""
    envelope = sealed(a_void())
    other_tag, other_key = RoomKeys(ROOM.root), RoomKeys(ROOM.root)
    other_tag.tag = flip(ROOM.tag, 3)
    other_key._epoch_key = flip(ROOM._epoch_key, 3)
    for room in (OTHER_ROOM, other_tag, other_key):
        assert opened(room, envelope, LOG) == "commitment"
    assert opened(ROOM, envelope, CAST) == "class"
    assert opened(ROOM, sealed(b"x" * 1_000), CAST) == "length"
    for other in (envelope[:-1], envelope + b"\0", b"", envelope * 2):
        assert opened(ROOM, other, LOG) == "length"


def test_the_first_check_that_fails_names_the_reason() -> None:
    """Everything is wrong at once, and is mended one by one, in the order of the page."""
    header = Header(2, 1, 7, 0, 5, b"n" * 24, ALICE.public)
    draft = Draft(ROOM, ALICE, header, b"\xff" * 512)
    draft.change("com", lambda com: flip(com, 0))
    draft.change("signature", lambda signature: flip(signature, 0))
    draft.change("box", lambda box: flip(box, 0))
    found = [opened(ROOM, draft.made() + b"\0", LOG)]
    found.append(opened(ROOM, draft.made(), LOG))
    draft.head(version=1)
    found.append(opened(ROOM, draft.made(), LOG))
    draft.head(envelope_class=LOG)
    for mended in ("com", "signature", "box"):
        found.append(opened(ROOM, draft.made(), LOG))
        del draft.changes[mended]
    found.append(opened(ROOM, draft.made(), LOG))
    draft.inner = bytes(512)
    found.append(opened(ROOM, draft.made(), LOG))
    assert found == [*WAYS, "body"]


def test_what_opened_once_is_opened_again_by_its_id_alone() -> None:
    """What was checked then is not checked again, for the id covers every byte."""
    envelope, forged = sealed(a_void()), flip(sealed(a_void()), -1)
    again = seal.reopen_envelope(ROOM, envelope, envelope_id(envelope))
    assert again == seal.open_envelope(ROOM, envelope, LOG)
    for room, kept, check in ((ROOM, forged, "id"), (OTHER_ROOM, envelope, "box")):
        with pytest.raises(Unopenable, match=f"check {check} failed"):
            seal.reopen_envelope(room, kept, envelope_id(envelope))


@given(st.data())
def test_a_body_alone_is_opened_again_only_under_its_header(data: st.DataObject) -> None:
    """Before its id is looked at; whatever else of the envelope was changed, or lost."""
    envelope = sealed(a_void())
    assert seal.reopen_body(ROOM, envelope) == seal.open_envelope(ROOM, envelope, LOG).body
    header_and_box = [
        *range(limits.HEADER_BYTES),
        *range(BOX_AT, len(envelope) - limits.SIGNATURE_BYTES),
    ]
    changed = flip(envelope, data.draw(st.sampled_from(header_and_box)))
    for room, kept in (
        (ROOM, changed),
        (ROOM, envelope[: data.draw(st.integers(0, len(envelope) - 1))]),
        (OTHER_ROOM, envelope),
    ):
        with pytest.raises(Unopenable, match="check box failed"):
            seal.reopen_body(room, kept)


def test_two_bodies_never_share_a_nonce_and_one_body_is_sealed_alike() -> None:
    """On a cloned machine whose randomness repeats, too."""
    one, other = sealed(a_void(1)), sealed(a_void(2))
    assert take_apart(one).header.nonce != take_apart(other).header.nonce
    assert sealed(a_void(1)) == one
    assert BOB.nonce(RANDOMNESS, b"x") != ALICE.nonce(RANDOMNESS, b"x")


# --- Bodies ---------------------------------------------------------------------------------------

_HEADS = st.builds(
    lambda log, n, expired, rest: Head(log, max(n, expired), rest[:32], min(n, expired), rest[32:]),
    *(binary(32), st.integers(0, MAX_PLACE), st.integers(0, MAX_PLACE), binary(96)),
).map(lambda head: head.packed)
_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=32)
_SHARED = {
    "name": _NAMES,
    "incarnation": binary(16),
    "seen": _HEADS,
}
_SEQ = {"seq": st.integers(1, MAX_PLACE)}
_TEXTS = st.builds(
    Text,
    **_SHARED,
    **_SEQ,
    text=st.text(min_size=1, max_size=300),
    reply_to=st.none() | binary(32),
)
_VOIDS = st.builds(Void, **_SHARED, **_SEQ)
_BEATS = st.builds(
    Beat,
    **_SHARED,
    count=st.integers(1, MAX_PLACE),
    ask=binary(8),
    echo=st.lists(binary(8), max_size=32).map(tuple),
    leaving=st.booleans(),
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)

SAMPLES: list[Text | Void | Beat] = [
    Text("alice", b"i" * 16, 300, bytes(144), "x" * 40, b"r" * 32),
    Void("alice", b"i" * 16, 300, bytes(144)),
    Beat("alice", b"i" * 16, 300, bytes(144), b"a" * 8, (b"e" * 8,), True),
]


def decode(raw: bytes, said: Text | Void | Beat) -> object:
    """As the class of this kind is decoded."""
    return body.decode_cast(raw) if isinstance(said, Beat) else body.decode_logged(raw)


def refused(raw: bytes, said: Text | Void | Beat) -> str:
    """The check by which a body of this kind's class is refused."""
    with pytest.raises(Unopenable) as caught:
        decode(raw, said)
    return caught.value.check


@holds_for
@given(_TEXTS | _VOIDS | _BEATS)
def test_what_is_said_comes_back(said: Text | Void | Beat) -> None:
    """Decoded and encoded again it is the same bytes."""
    raw = body.encode(said)
    again = decode(raw, said)
    assert again == said
    assert packed(again) == raw


@holds_for
@given(_TEXTS | _VOIDS | _BEATS, st.data())
def test_a_body_that_is_taken_has_no_second_encoding(
    said: Text | Void | Beat, data: st.DataObject
) -> None:
    """Any byte may be changed, put in or taken out: what is still taken is encoded as it came."""
    raw = body.encode(said)
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + data.draw(st.binary(max_size=2)) + raw[at + data.draw(st.integers(0, 2)) :]
    try:
        again = decode(changed, said)
    except Unopenable as failure:
        assert failure.check == "body"
        return
    if not isinstance(again, Unknown):
        assert packed(again) == changed


@pytest.mark.parametrize("said", SAMPLES)
def test_a_body_is_refused_in_every_other_encoding(said: Text | Void | Beat) -> None:
    """Longer forms, another order, a pair twice, missing or more, something behind it."""
    raw = body.encode(said)
    pairs = cut(raw)
    others = [raw + b"\0", raw[:-1], b"\xde\0" + bytes([len(pairs)]) + raw[1:], b""]
    others.append(joined(pairs[1:] + pairs[:1]))
    for at, (key, value) in enumerate(pairs):
        before, after = pairs[:at], pairs[at + 1 :]
        changes = [[(spelled_longer(key), value)], [], [(key, value), (key, value)]]
        changes.append([(key, value), (packed("more"), value)])
        if spelled_longer(value) != value:
            changes.append([(key, spelled_longer(value))])
        others += [joined(before + change + after) for change in changes]
    for other in others:
        assert refused(other, said) == "body"


@pytest.mark.parametrize("kind", DOOMED_BODIES)
def test_a_body_that_breaks_one_rule_is_refused(kind: str) -> None:
    """A name that is none, a number out of range, a head that cannot be, a nest too deep ..."""
    said = {"text": SAMPLES[0], "void": SAMPLES[1], "react": SAMPLES[1], "beat": SAMPLES[2]}[kind]
    pairs = {**msgspec.msgpack.decode(body.encode(said)), "kind": kind}
    decode(packed(pairs), said)
    for spoil in DOOMED_BODIES[kind]:
        assert refused(spoil(pairs), said) == "body"


def test_a_text_is_bounded_in_bytes_and_not_in_letters() -> None:
    """65,536 bytes of UTF-8, however many letters these are."""
    for letter in ("x", "ä", "世", "\U0001f41f"):
        most = limits.MAX_TEXT_BYTES // len(letter.encode())
        fits = msgspec.structs.replace(SAMPLES[0], text=letter * most)
        body.decode_logged(body.encode(fits))
        longer = body.encode(msgspec.structs.replace(SAMPLES[0], text=letter * most + "xxxx"))
        assert refused(longer, SAMPLES[0]) == "body"


@holds_for
@given(_VOIDS, _NAMES, st.dictionaries(st.text(min_size=1), _VALUES, max_size=3))
def test_a_kind_not_known_yet_is_kept(said: Void, kind: str, more: dict[str, Any]) -> None:
    """With whatever stands behind its first five pairs; a kind of the table is not one of these."""
    pairs = {**msgspec.msgpack.decode(body.encode(said)), "kind": kind}
    raw = packed({**pairs, **{key: value for key, value in more.items() if key not in pairs}})
    if kind in ("text", "beat") or (kind == "void" and len(cut(raw)) > 5):
        assert refused(raw, SAMPLES[1]) == "body"
    elif kind != "void":
        places = said.name, said.incarnation, said.seq, said.seen
        assert body.decode_logged(raw) == Unknown(kind, *places)
    assert refused(raw, SAMPLES[2]) == "body"


def test_a_kind_not_known_yet_has_one_encoding_too() -> None:
    """Its first five pairs have an order; no form of any is longer, and none comes twice."""
    raw = packed({**msgspec.msgpack.decode(body.encode(SAMPLES[1])), "kind": "react", "to": 300})
    pairs = cut(raw)
    body.decode_logged(raw)
    others = [raw + b"\0", raw[:-1], b"\xde\0\6" + raw[1:], joined(pairs[::-1])]
    for at, (key, value) in enumerate(pairs):
        changes = [[(spelled_longer(key), value)], [(key, value), (key, value)]]
        if spelled_longer(value) != value:
            changes.append([(key, spelled_longer(value))])
        others += [joined(pairs[:at] + change + pairs[at + 1 :]) for change in changes]
    for other in others:
        assert refused(other, SAMPLES[1]) == "body"


@pytest.mark.parametrize("inner", [b"\x91", b"\x81\xa1a"], ids=["arrays", "maps"])
def test_sixteen_maps_and_arrays_may_stand_inside_one_another(inner: bytes) -> None:
    """The body itself counted."""
    said = {**msgspec.msgpack.decode(body.encode(SAMPLES[1])), "kind": "react"}
    start = b"\x86" + packed(said)[1:] + packed("to")
    body.decode_logged(start + inner * 15 + b"\xc0")
    assert refused(start + inner * 16 + b"\xc0", SAMPLES[1]) == "body"


def test_a_body_may_be_as_long_as_its_bound() -> None:
    """66,560 bytes, and not one more."""
    pairs = {**msgspec.msgpack.decode(body.encode(SAMPLES[1])), "kind": "file"}
    spare = limits.MAX_BODY_BYTES - len(packed({**pairs, "data": bytes(66_000)})) + 66_000
    body.decode_logged(packed({**pairs, "data": bytes(spare)}))
    longer = packed({**pairs, "data": bytes(spare + 1)})
    assert refused(longer, SAMPLES[1]) == "body"


@holds_for
@given(st.text(max_size=40))
@example("  alice \t bob  ")
@example("\ud800")
@example("a\u0301" * 32)
@example("x" * 32)
def test_ones_own_name_has_one_form_that_others_take(typed: str) -> None:
    """Canonical again is the same; and a canonical name is one that a body may carry."""
    try:
        name = body.canonical_name(typed)
    except BadName as error:
        assert repr(typed) in str(error)
        return
    assert body.canonical_name(name) == name
    said = msgspec.structs.replace(SAMPLES[1], name=name)
    assert body.decode_logged(body.encode(said)) == said


def test_ones_own_name_may_have_1_to_32_characters() -> None:
    """However many were typed: what counts is the form that is sent."""
    for typed, name in (("x", "x"), ("x" * 32, "x" * 32), ("e\u0301" * 32, "é" * 32)):
        assert body.canonical_name(f" {typed} ") == name


@pytest.mark.parametrize("typed", ["", " ", "x" * 33, "a\u200bb", "\ufeff", "a\ue000"])
def test_a_name_that_is_empty_long_or_not_shown_is_refused(typed: str) -> None:
    with pytest.raises(BadName):
        body.canonical_name(typed)


@holds_for
@given(st.text(min_size=1, max_size=32))
@example("a\x85")
@example("a\u200b")
def test_a_name_of_others_is_sound_unless_it_holds_a_control(name: str) -> None:
    """What is merely not shown is for the screen to handle."""
    controls = any(unicodedata.category(char) == "Cc" for char in name)
    assert body.name_is_sound(name) is not controls


# --- Words and frames -----------------------------------------------------------------------------

_PLACES, _REAL = st.integers(0, MAX_PLACE), st.integers(1, MAX_PLACE)
_TAGS, _HASHES = binary(16), binary(32)
_POSITIONS = st.builds(
    wire.Position, _TAGS, _HASHES, _PLACES, _PLACES, _HASHES, st.integers(0, 2**20)
)
_SOFTWARE = st.text(min_size=1, max_size=64)
_BY_MEMBER: st.SearchStrategy[wire.Word] = st.one_of(
    st.builds(wire.Hello, _REAL, _PLACES, _SOFTWARE),
    st.builds(wire.Join, _REAL, st.lists(_POSITIONS, min_size=1, max_size=9).map(tuple)),
    st.builds(wire.Page, _REAL, _TAGS, _HASHES, _REAL, _REAL, st.booleans()),
    st.builds(wire.Post, _TAGS, _REAL),
    st.builds(wire.Cast, _TAGS),
    st.builds(wire.Leave, _REAL, _TAGS),
)
_BY_BROKER: st.SearchStrategy[wire.Word] = st.one_of(
    st.builds(wire.Ready, _REAL, _PLACES, _SOFTWARE, _HASHES, _REAL, _REAL),
    st.builds(wire.Stored, _TAGS, _REAL, _HASHES, _REAL, _HASHES, _HEADS),
    st.builds(wire.Cast, _TAGS),
    st.builds(
        wire.Entries,
        *(_PLACES, _TAGS, _HASHES, _REAL, _HASHES, st.just(b"") | _HEADS, _PLACES),
        st.lists(binary(200), max_size=16).map(tuple),
    ),
    st.builds(
        lambda which, number, *rest: wire.Refuse(number * which, number * (not which), *rest),
        *(st.booleans(), _PLACES, st.text(min_size=1, max_size=32), st.just(b"") | _TAGS),
        *(st.integers(0, 86_400_000), st.text(max_size=200)),
    ),
)
_ATTACHED = wire.Post | wire.Cast | wire.Stored | wire.Entries

WORDS: list[wire.Word] = [
    wire.Hello(300, 1, "s" * 40),
    wire.Join(300, (wire.Position(bytes(16), bytes(32), 1, 300, bytes(32), 70_000),)),
    wire.Page(300, bytes(16), bytes(32), 1, 300, True),
    wire.Post(bytes(16), 300),
    wire.Cast(bytes(16)),
    wire.Leave(300, bytes(16)),
    wire.Ready(300, 1, "s" * 40, bytes(32), 2_000, 50),
    wire.Stored(bytes(16), 300, bytes(32), 1, bytes(32), bytes(144)),
    wire.Entries(0, bytes(16), bytes(32), 1, bytes(32), bytes(144), 1, (bytes(200),)),
    wire.Refuse(300, 0, "rate", bytes(16), 70_000, "t" * 40),
]
LEAST_WORDS = [
    wire.Entries(1, bytes(16), bytes(32), 1, bytes(32), b"", 0, ()),
    wire.Refuse(0, 1, "x", b"", 0, ""),
    wire.Refuse(0, 0, "x", b"", 0, ""),
]


def framed(word: wire.Word) -> wire.Frames:
    """The word with the least that may be attached to it."""
    return wire.encode(word, b"" if isinstance(word, _ATTACHED) else None)


def decoder_of(word: wire.Word) -> Callable[[wire.Frames], tuple[wire.Word, bytes]]:
    """Where this word goes to."""
    is_by_member = isinstance(word, wire.ToBroker)
    return wire.decode_to_broker if is_by_member else wire.decode_to_member


@holds_for
@given(_BY_MEMBER | _BY_BROKER)
@example(LEAST_WORDS[0])
@example(LEAST_WORDS[1])
@example(LEAST_WORDS[2])
def test_a_word_comes_back_from_its_frames(word: wire.Word) -> None:
    """And encoded again it is the same frames."""
    frames = framed(word)
    again, attachment = decoder_of(word)(frames)
    assert (again, attachment, framed(again)) == (word, b"", frames)


@holds_for
@given(_BY_MEMBER | _BY_BROKER, st.data())
def test_a_word_that_is_taken_has_no_second_encoding(word: wire.Word, data: st.DataObject) -> None:
    """Any byte may be changed, put in or taken out: what is still taken is encoded as it came."""
    frame, *rest = framed(word)
    at = data.draw(st.integers(0, len(frame) - 1))
    more, less = data.draw(st.binary(max_size=2)), data.draw(st.integers(0, 2))
    changed = frame[:at] + more + frame[at + less :]
    try:
        again, _ = decoder_of(word)((changed, *rest))
    except Malformed:
        return
    assert framed(again)[0] == changed


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_a_word_is_refused_in_every_other_encoding(word: wire.Word) -> None:
    """Longer forms, another order, a pair twice, missing or more, something behind it."""
    frame, *rest = framed(word)
    pairs = cut(frame)
    others = [frame + b"\0", frame[:-1], b"\xde\0" + bytes([len(pairs)]) + frame[1:], b""]
    others.append(joined(pairs[1:] + pairs[:1]))
    for at, (key, value) in enumerate(pairs):
        changes = [[(spelled_longer(key), value)], [], [(key, value), (key, value)]]
        changes.append([(key, value), (packed("more"), value)])
        if spelled_longer(value) != value:
            changes.append([(key, spelled_longer(value))])
        others += [joined([*pairs[:at], *change, *pairs[at + 1 :]]) for change in changes]
    for other in others:
        with pytest.raises(Malformed):
            decoder_of(word)((other, *rest))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_a_word_goes_one_way_and_with_its_own_frames(word: wire.Word) -> None:
    """CAST goes both ways; a word has a second frame or it has none."""
    frames = framed(word)
    other_way = {wire.decode_to_broker, wire.decode_to_member} - {decoder_of(word)}
    for other in other_way if not isinstance(word, wire.Cast) else ():
        with pytest.raises(Malformed, match="not a word"):
            other(frames)
    other_frames = frames[:1] if len(frames) == 2 else (*frames, b"")
    with pytest.raises(Malformed, match="a frame too many or too few"):
        decoder_of(word)(other_frames)
    for wrong in ((), (*frames, b"", b""), (frames[0] + bytes(limits.MAX_WORD_BYTES), *frames[1:])):
        with pytest.raises(Malformed, match="one or two frames"):
            decoder_of(word)(wrong)


def test_an_attachment_is_as_long_as_its_bound_and_no_longer() -> None:
    bounds = {
        wire.Post: limits.MAX_ENVELOPE_BYTES,
        wire.Cast: limits.MAX_CAST_BYTES,
        wire.Stored: limits.MAX_BATCH_BYTES,
        wire.Entries: limits.MAX_BATCH_BYTES,
    }
    for word in WORDS:
        most = bounds.get(type(word))
        if most is not None:
            assert decoder_of(word)(wire.encode(word, bytes(most)))[1] == bytes(most)
            with pytest.raises(Malformed, match="over its bound"):
                decoder_of(word)(wire.encode(word, bytes(most + 1)))


def test_a_word_is_encoded_only_with_what_belongs_to_it() -> None:
    """A mistake of our own, and no peer's."""
    with pytest.raises(AssertionError):
        wire.encode(wire.Cast(bytes(16)))
    with pytest.raises(AssertionError):
        wire.encode(wire.Leave(1, bytes(16)), b"")


_OUT_OF_RANGE = Head(bytes(32), 4, bytes(32), 5, bytes(64)).packed


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("Stored", {"head": _OUT_OF_RANGE}, "out of range"),
        ("Entries", {"head": _OUT_OF_RANGE}, "out of range"),
        ("Entries", {"head": bytes(143)}, "a head has 144 bytes"),
        ("Refuse", {"room": bytes(8)}, "a room tag has 16 bytes"),
        ("Refuse", {"k": 1}, "at once"),
    ],
)
def test_a_field_is_refused_that_no_type_can_describe(
    name: str, changes: dict[str, Any], reason: str
) -> None:
    word = next(word for word in WORDS if type(word).__name__ == name)
    with pytest.raises(Malformed, match=reason):
        wire.decode_to_member(framed(msgspec.structs.replace(word, **changes)))


_ITEMS = st.lists(
    st.tuples(binary(32), st.none()) | st.tuples(st.just(b""), st.binary(min_size=1, max_size=99)),
    max_size=9,
)


@holds_for
@given(_ITEMS)
def test_a_batch_comes_back_and_is_cut_only_between_its_items(
    items: list[tuple[bytes, bytes | None]],
) -> None:
    """A batch that ends early is refused, unless it ends where an item does."""
    batch = wire.pack_batch(items)
    assert wire.unpack_batch(batch) == items
    ends = [len(wire.pack_batch(items[:count])) for count in range(len(items) + 1)]
    for length in range(len(batch)):
        if length in ends:
            assert wire.unpack_batch(batch[:length]) == items[: ends.index(length)]
        else:
            with pytest.raises(Malformed, match="cut off"):
                wire.unpack_batch(batch[:length])


@holds_for
@given(st.binary(max_size=200))
def test_any_bytes_are_one_batch_or_none(batch: bytes) -> None:
    """What is taken packs to the same bytes."""
    try:
        items = wire.unpack_batch(batch)
    except Malformed:
        return
    assert wire.pack_batch(items) == batch


def test_a_batch_has_at_most_512_items() -> None:
    most = wire.pack_batch([(bytes(32), None)] * limits.MAX_BATCH_ENTRIES)
    assert len(wire.unpack_batch(most)) == limits.MAX_BATCH_ENTRIES
    with pytest.raises(Malformed, match="too long"):
        wire.unpack_batch(most + bytes(36))


def test_the_batch_of_a_receipt_holds_ids_and_nothing_else() -> None:
    ids = [bytes([i]) * 32 for i in range(3)]
    assert wire.unpack_ids(wire.pack_batch((i, None) for i in ids)) == ids
    for wrong in (b"", wire.pack_batch([(ids[0], None), (b"", b"envelope")])):
        with pytest.raises(Malformed, match="bare ids"):
            wire.unpack_ids(wrong)


# --- The ledger -----------------------------------------------------------------------------------


class Books:
    """A log as a broker holds it: ids, hashes, heads. An honest one never signs two."""

    def __init__(self, ids: list[bytes], genesis: Genesis = GENESIS) -> None:
        self.genesis, self.ids = genesis, ids
        self.hashes = [genesis.log, *chain(genesis.log, 1, ids)]

    def head(self, n: int, expired: int = 0) -> Head:
        """The signed head at a place; nobody needs to sign the start."""
        if n == 0:
            return Head(self.genesis.log, 0, self.genesis.log, 0, bytes(64))
        return LOG_KEY.sign_head(ROOM.tag, self.genesis.log, n, self.hashes[n], expired)

    def evidence(self, low: Head, n: int, start: bytes = b"") -> Contradiction:
        """A lower head against ours at n, with our ids between."""
        ids = tuple(self.ids[low.n : n])
        return Contradiction(ROOM.tag, LOG_KEY.public, low, self.head(n), ids, start)


IDS = [bytes([i]) * 32 for i in range(1, 9)]
BOOKS = Books(IDS)
FORK = Books([*IDS[:2], b"f" * 32, *IDS[3:]])
REPEATED = Books([*IDS[:5], IDS[1]])
PROOFS = {
    Proof.TWO_HASHES: Contradiction(ROOM.tag, LOG_KEY.public, FORK.head(5), BOOKS.head(5)),
    Proof.OTHER_PAST: BOOKS.evidence(FORK.head(5), 8, BOOKS.hashes[5]),
    Proof.REPEATED_ID: REPEATED.evidence(REPEATED.head(1), 6),
}


@holds_for
@given(binary(32), st.lists(binary(32), max_size=9), st.integers(0, 9), st.integers(1, 2**63))
def test_a_chain_may_be_folded_in_parts(
    before: bytes, ids: list[bytes], cut_at: int, first: int
) -> None:
    """From any hash on, with the ids behind it, it ends at the same hash."""
    whole = chain(before, first, ids)
    head = chain(before, first, ids[:cut_at])
    rest = chain([before, *head][-1], first + len(head), ids[cut_at:])
    assert whole == head + rest


def test_a_hash_covers_its_place_its_id_and_all_before() -> None:
    one = ledger.link(b"h" * 32, 1, b"i" * 32)
    others = [(b"g" * 32, 1, b"i" * 32), (b"h" * 32, 2, b"i" * 32), (b"h" * 32, 1, b"j" * 32)]
    assert one not in [ledger.link(*other) for other in others]


@holds_for
@given(binary(32), _PLACES, binary(32), _PLACES, binary(64))
def test_a_head_comes_back_if_its_places_make_sense(
    log: bytes, n: int, hash_n: bytes, expired: int, signature: bytes
) -> None:
    head = Head(log, n, hash_n, expired, signature)
    if expired <= n:
        assert Head.unpack(head.packed) == head
    else:
        with pytest.raises(Malformed):
            Head.unpack(head.packed)


def test_a_head_holds_for_its_room_its_key_and_every_byte() -> None:
    """Any byte changed: it is no head, or the signature does not hold."""
    head = BOOKS.head(5, 2)
    assert ledger.head_holds(head, ROOM.tag, LOG_KEY.public)
    assert not ledger.head_holds(head, OTHER_ROOM.tag, LOG_KEY.public)
    assert not ledger.head_holds(head, ROOM.tag, OTHER_LOG_KEY.public)
    for at in range(limits.HEAD_BYTES):
        try:
            changed = Head.unpack(flip(head.packed, at))
        except Malformed:
            continue
        assert not ledger.head_holds(changed, ROOM.tag, LOG_KEY.public)


def lineage_of(length: int, parent: bytes = NO_LOG) -> list[Genesis]:
    """So many logs, newest first, the oldest from `parent`."""
    logs: list[Genesis] = []
    for number in range(length):
        n, hash_n = (number, b"p" * 32) if number else (0, parent)
        logs.append(GENESIS._replace(parent=parent, parent_n=n, parent_hash=hash_n))
        parent = logs[-1].log
    return logs[::-1]


def births_of(logs: list[Genesis], key: LogKey = LOG_KEY) -> list[bytes]:
    return [key.sign_birth(log) for log in logs]


@pytest.mark.parametrize("length", range(1, limits.MAX_LINEAGE + 1))
def test_a_lineage_is_read_back(length: int) -> None:
    logs = lineage_of(length)
    assert ledger.read_lineage(births_of(logs), ROOM.tag, LOG_KEY.public) == tuple(logs)


def test_a_parent_may_end_at_the_last_place_there_is() -> None:
    child = GENESIS._replace(parent=GENESIS.log, parent_n=MAX_PLACE, parent_hash=b"h" * 32)
    births = births_of([child, GENESIS])
    assert ledger.read_lineage(births, ROOM.tag, LOG_KEY.public) == (child, GENESIS)


def test_only_a_lineage_of_16_may_end_with_a_log_that_has_a_parent() -> None:
    """Older ones are not carried along."""
    older = lineage_of(16, parent=b"o" * 32)
    assert ledger.read_lineage(births_of(older), ROOM.tag, LOG_KEY.public) == tuple(older)
    with pytest.raises(Malformed, match="do not follow"):
        ledger.read_lineage(births_of(older[:15]), ROOM.tag, LOG_KEY.public)


CHILD = GENESIS._replace(parent=b"p" * 32, parent_n=1, parent_hash=b"h" * 32)


@pytest.mark.parametrize(
    ("births", "reason"),
    [
        ([], "1 to 16"),
        (births_of(lineage_of(17)), "1 to 16"),
        ([births_of([GENESIS])[0] + b"\0"], "200 bytes"),
        (births_of([GENESIS._replace(room=OTHER_ROOM.tag)]), "another room"),
        (births_of([GENESIS._replace(log_key=OTHER_LOG_KEY.public)]), "another server"),
        (births_of([GENESIS], OTHER_LOG_KEY), "signature"),
        (births_of([GENESIS._replace(parent_n=1)]), "no sense"),
        (births_of([GENESIS._replace(parent_hash=b"h" * 32)]), "no sense"),
        (births_of([CHILD._replace(parent_n=0)]), "no sense"),
        (births_of([CHILD._replace(parent_n=2**63)]), "no sense"),
        (births_of([CHILD]), "do not follow"),
        (births_of(lineage_of(3)[::2]), "do not follow"),
        (births_of(lineage_of(3)[::-1]), "do not follow"),
        (births_of([GENESIS, GENESIS]), "do not follow"),
    ],
)
def test_a_lineage_that_breaks_a_rule_is_refused(births: list[bytes], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        ledger.read_lineage(births, ROOM.tag, LOG_KEY.public)


@pytest.mark.parametrize("at", range(0, limits.BIRTH_BYTES, 3))
def test_a_birth_with_a_changed_byte_is_refused(at: int) -> None:
    with pytest.raises(Malformed):
        ledger.read_lineage([flip(births_of([GENESIS])[0], at)], ROOM.tag, LOG_KEY.public)


@holds_for
@given(st.data())
def test_nobody_can_convict_an_honest_server(data: st.DataObject) -> None:
    """With any two of its heads, one of them changed or none, any ids, and any start."""
    ids = data.draw(st.lists(st.sampled_from(IDS), unique=True, min_size=1))
    books = Books(ids)
    low, high = (data.draw(st.integers(0, len(ids))) for _ in "ab")
    known = st.sampled_from([*ids, *books.hashes, b"x" * 32])
    claimed = list(ids[low:high])
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(claimed)))
        put = data.draw(st.lists(known | known.map(lambda it: it + b"\0"), max_size=2))
        claimed[at : at + data.draw(st.integers(0, 2))] = put
    start = data.draw(st.just(b"") | known | known.map(lambda it: it + b"\0") | st.just(b"x"))
    heads = [books.head(low), books.head(high)]
    if data.draw(st.booleans()):
        at, n = data.draw(st.integers(0, 1)), data.draw(st.integers(0, len(ids)))
        heads[at] = heads[at]._replace(n=n, hash=data.draw(known))
    found = Contradiction(ROOM.tag, LOG_KEY.public, heads[0], heads[1], tuple(claimed), start)
    assert judge(found) is None


def test_only_the_log_id_at_place_0_needs_no_signature() -> None:
    """With any other hash there, or with that hash at another place, an honest server is framed."""
    log, unsigned = GENESIS.log, bytes(64)
    start = BOOKS.evidence(Head(log, 0, b"x" * 32, 0, unsigned), 5, log)
    later = Contradiction(ROOM.tag, LOG_KEY.public, Head(log, 3, log, 0, unsigned), BOOKS.head(3))
    assert (judge(start), judge(later)) == (None, None)


@holds_for
@given(st.integers(3, 8), st.integers(3, 8))
def test_a_server_that_shows_two_histories_is_convicted_by_any_two_heads(n: int, m: int) -> None:
    """Beyond the place where they part, whoever asks."""
    low, high = min(n, m), max(n, m)
    found = BOOKS.evidence(FORK.head(low), high, BOOKS.hashes[low] if low < high else b"")
    assert judge(found) is (Proof.OTHER_PAST if low < high else Proof.TWO_HASHES)


@pytest.mark.parametrize("low", [0, 1])
def test_a_server_that_stores_an_id_twice_is_convicted(low: int) -> None:
    """By the heads around both; the log id stands for a head at its start."""
    assert judge(REPEATED.evidence(REPEATED.head(low), 6)) is Proof.REPEATED_ID
    assert judge(REPEATED.evidence(REPEATED.head(2), 6)) is None


@pytest.mark.parametrize("proof", Proof)
def test_a_proof_binds_one_key_one_room_one_log_and_exact_widths(proof: Proof) -> None:
    """Whatever is changed in it, it proves nothing any more."""
    found = PROOFS[proof]
    assert judge(found) is proof
    others = [
        found._replace(room=OTHER_ROOM.tag),
        found._replace(log_key=OTHER_LOG_KEY.public),
        found._replace(earlier=found.later),
        found._replace(earlier=found.earlier._replace(log=b"x" * 32)),
        found._replace(later=found.later._replace(signature=bytes(64))),
        found._replace(start=b"x" * 31),
    ]
    if proof is not Proof.TWO_HASHES:  # where ids count, and the order of the heads
        others += [
            found._replace(earlier=found.later, later=found.earlier),
            found._replace(ids=(*found.ids, IDS[0])),
            found._replace(ids=found.ids[1:]),
            found._replace(ids=(*found.ids[:-1], found.ids[-1] + b"\0")),
            found._replace(start=found.earlier.hash + b"\0"),
        ]
    assert [judge(other) for other in others] == [None] * len(others)


def test_heads_of_two_logs_of_a_room_prove_nothing() -> None:
    other = Books(IDS, GENESIS._replace(random=bytes(16)))
    assert judge(BOOKS.evidence(other.head(3), 3)) is None
    assert judge(BOOKS.evidence(other.head(3), 8, BOOKS.hashes[3])) is None


def test_a_key_or_a_room_of_another_width_proves_nothing() -> None:
    """A key that is cut short would be read on into whatever lies behind it in memory."""
    seeds = (bytes([i // 256, i % 256]) * 16 for i in range(65_536))
    key = next(key for key in map(LogKey, seeds) if key.public[-1] == 0)

    def two_heads(room: bytes, log_key: bytes) -> Contradiction:
        one, other = (key.sign_head(room, GENESIS.log, 3, h * 32, 0) for h in (b"a", b"b"))
        return Contradiction(room, log_key, one, other)

    assert judge(two_heads(ROOM.tag, key.public)) is Proof.TWO_HASHES
    assert judge(two_heads(ROOM.tag + b"x", key.public)) is None
    for log_key in (key.public[:-1], key.public + b"\0", b""):
        assert judge(two_heads(ROOM.tag, log_key)) is None


# --- Evidence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("proof", Proof)
def test_evidence_comes_back_from_its_file(proof: Proof) -> None:
    assert judge(evidence.unpack(evidence.pack(PROOFS[proof]))) is proof
    from_the_start = REPEATED.evidence(REPEATED.head(0), 6)
    assert evidence.unpack(evidence.pack(from_the_start)) == from_the_start


@pytest.mark.parametrize("proof", Proof)
def test_a_changed_file_is_no_evidence(proof: Proof) -> None:
    """Any byte of it."""
    raw = evidence.pack(PROOFS[proof])
    for at in range(len(raw)):
        try:
            found = evidence.unpack(flip(raw, at))
        except Malformed:
            continue
        assert judge(found) is None


_FIRST_BYTE = PROOFS[Proof.OTHER_PAST].earlier.packed.hex()[:2].encode()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"zchat_evidence": 1', b'"zchat_evidence": 2', "of version 2"),
        (b'"zchat_evidence": 1', b'"zchat_evidence": "1"', "not an evidence file"),
        (b'"ids"', b'"more": 1,\n "ids"', "not an evidence file"),
        (b"\n}", b"\n} ", "another form"),
        (b'"start": "', b'"start": "AB', "not an evidence file"),
        (b'"room": "', b'"room": "a', "not an evidence file"),
        (b'"room": "', b'"room": "' + b"ab" * 129, "not an evidence file"),
        (b'"earlier": "' + _FIRST_BYTE, b'"earlier": "', "144 bytes"),
        (b'"earlier": "', b'"earlier": "00', "not an evidence file"),
        (b"{", b"\xff{", "not an evidence file"),
        (b"{", b"[" * 5_000, "not an evidence file"),
    ],
)
def test_a_file_of_another_form_is_refused(old: bytes, new: bytes, reason: str) -> None:
    raw = evidence.pack(PROOFS[Proof.OTHER_PAST])
    assert raw.count(old) >= 1
    with pytest.raises(Malformed, match=reason):
        evidence.unpack(raw.replace(old, new, 1))


def test_a_long_field_of_a_file_takes_no_memory() -> None:
    """Anybody may hand such a file to anybody: ten megabytes of it stay about that."""
    raw = evidence.pack(PROOFS[Proof.TWO_HASHES]).replace(
        b'"start": "', b'"start": "' + b"a" * 10**7
    )
    tracemalloc.start()
    with pytest.raises(Malformed, match="not an evidence file"):
        evidence.unpack(raw)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3 * len(raw)


@pytest.mark.parametrize(
    "found",
    [
        PROOFS[Proof.TWO_HASHES]._replace(ids=(IDS[0],)),
        PROOFS[Proof.TWO_HASHES]._replace(start=b"x" * 32),
        PROOFS[Proof.REPEATED_ID]._replace(start=REPEATED.hashes[1]),
        REPEATED.evidence(REPEATED.head(0)._replace(signature=b"s" * 64), 6),
    ],
)
def test_what_no_verdict_rests_on_may_not_stand_in_a_file(found: Contradiction) -> None:
    """It could be anything, and the same evidence would have many files."""
    with pytest.raises(Malformed, match="another form"):
        evidence.unpack(evidence.pack(found))


# --- What people type -----------------------------------------------------------------------------

_LISTED = st.lists(st.sampled_from(words.word_list()), min_size=1, max_size=8)
_ODD_LETTERS = st.sampled_from(
    "aZ -\u00a0\u00b4\u0130\u0131\u0308\u0345\u1e9e\u2126\u212a\ufb01ßΣς"
)
_TYPED = st.text(max_size=30) | st.text(_ODD_LETTERS, max_size=12)


@holds_for
@given(_TYPED)
def test_a_canonical_passphrase_is_canonical(typed: str) -> None:
    """Or it is refused, and the reason shows nothing of it."""
    try:
        canonical = words.canonical_passphrase(typed)
    except BadPassphrase as error:
        assert len(typed) < 4 or typed not in str(error)
        return
    assert words.canonical_passphrase(canonical.decode()) == canonical
    assert words.canonical_passphrase(f" {canonical.decode()} \r\n") == canonical


@holds_for
@given(_LISTED, st.sampled_from([" ", "-", "  ", " - ", "--"]), st.booleans())
def test_words_are_the_same_however_they_are_joined(
    listed: list[str], between: str, capitals: bool
) -> None:
    typed = between.join(listed)
    canonical = words.canonical_passphrase(typed.upper() if capitals else typed)
    assert canonical == "-".join(listed).encode()


def test_one_word_off_the_list_makes_every_letter_count() -> None:
    """Then spaces, hyphens and capitals are part of the secret."""
    typed = ["Abacus zoom xyzzy", "abacus zoom xyzzy", "abacus-zoom-xyzzy", "abacus  zoom xyzzy"]
    assert len({words.canonical_passphrase(one) for one in typed}) == len(typed)


def test_a_passphrase_may_have_1024_bytes() -> None:
    """As it stands when its line feed is off."""
    assert words.canonical_passphrase("ä" * 512 + "\n") == ("ä" * 512).encode()


@pytest.mark.parametrize("typed", ["", " \n", "a\tb", "a\n\n", "a\ud800", "a\u0378", "x" * 1_025])
def test_a_passphrase_that_may_differ_elsewhere_is_refused(typed: str) -> None:
    with pytest.raises(BadPassphrase):
        words.canonical_passphrase(typed)


@holds_for
@given(_TYPED)
def test_a_canonical_room_name_is_canonical(typed: str) -> None:
    """Or it is refused."""
    try:
        name = words.canonical_room_name(typed)
    except BadRoomName as error:
        assert error.facts["room"] == typed
        return
    assert words.canonical_room_name(name) == name
    assert name == unicodedata.normalize("NFKC", name)
    assert 1 <= len(name.encode()) <= limits.MAX_ROOM_BYTES


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("x", "x"),
        ("Lobby", "lobby"),
        ("Straße", "strasse"),
        ("Ｌobby", "lobby"),
        ("r" * 64, "r" * 64),
    ],
)
def test_a_room_name_is_folded_and_has_1_to_64_bytes(typed: str, name: str) -> None:
    assert words.canonical_room_name(typed) == name


@pytest.mark.parametrize(
    "typed", ["", "r" * 65, "a b", "a\u200db", "a\ud800", "a\ue000", "a\u2028"]
)
def test_a_room_name_that_does_not_show_whole_is_refused(typed: str) -> None:
    with pytest.raises(BadRoomName):
        words.canonical_room_name(typed)


def test_the_list_has_its_words_in_its_order() -> None:
    """7,772, each once, none with a hyphen."""
    listed = words.word_list()
    assert len(listed) == len(set(listed)) == 7_772
    assert not any("-" in word for word in listed)


def test_a_made_passphrase_is_drawn_evenly_from_the_whole_list() -> None:
    """Each word by one draw below the length of the list, the ends of which it reaches."""
    listed, asked = words.word_list(), []

    def choose(below: int) -> int:
        asked.append(below)
        return [0, below - 1][len(asked) % 2]

    made = words.generate_passphrase(choose)
    assert asked == [len(listed)] * 6
    assert made.split("-") == [listed[-1], listed[0]] * 3
    assert words.passphrase_entropy_bits(made) == 2 * math.log2(7_772)


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        ("abacus zoom yippee", 3),
        ("Abacus-ZOOM\n", 2),
        ("abacus abacus abacus", 1),
        ("abacus xyzzy", None),
        ("", None),
    ],
)
def test_only_listed_words_are_counted_and_each_once(typed: str, count: int | None) -> None:
    bits = words.passphrase_entropy_bits(typed)
    assert bits == (None if count is None else count * math.log2(7_772))


@pytest.mark.parametrize(
    ("typed", "hints"),
    [
        ("abacus zoom yippe", [("yippe", "yippee")]),  # one left out
        ("abacus zoom yippeee", [("yippeee", "yippee")]),  # one too many
        ("abacus zoom yippea", [("yippea", "yippee")]),  # one changed
        ("abacus zoom yipepe", [("yipepe", "yippee")]),  # two swapped
        ("abacus zoom qqqqqqqq", []),  # nothing is near
        ("abacus qoom", [("qoom", "zoom")]),  # half of them are listed
        ("abacus qoom qoom", []),  # not half
        ("abacus zoom " + "q" * 13, []),  # no word is so long
        ("abacus zoom yippee", []),  # all are listed
        ("my own long sentence", []),  # nobody meant the list
    ],
)
def test_a_word_one_letter_off_gets_a_hint_where_most_are_listed(
    typed: str, hints: list[tuple[str, str]]
) -> None:
    assert words.near_misses(typed) == hints


@holds_for
@given(binary(16))
def test_spoken_words_are_the_digits_of_the_code(code: bytes) -> None:
    """Base 7772, most significant first: the words give the number back."""
    listed, number = words.word_list(), 0
    spoken = words.code_words(code)
    for word in spoken:
        number = number * len(listed) + listed.index(word)
    assert len(spoken) == 8
    assert number == int.from_bytes(code, "big") % 7_772**8


# --- Keys -----------------------------------------------------------------------------------------


def test_no_repr_shows_a_secret() -> None:
    """Neither as it is nor as hex; what it shows is public."""
    seed = b"secretsecretsecretsecretsecret!!"
    room = RoomKeys(seed)
    shown = repr([room, Author(seed, room), LogKey(seed)])
    secrets = [seed, room._epoch_key, digest(Label.ROOM_ID, 32, room.tag, seed)]
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex()[:8] not in shown
    public = room.tag, Author(seed, room).public, LogKey(seed).public
    assert all(key.hex()[:8] in shown for key in public)


@holds_for
@given(binary(32), binary(32), st.text(min_size=1, max_size=9), st.integers(0, 71))
def test_a_salt_belongs_to_two_keys_and_a_name(
    curve_key: bytes, log_key: bytes, room: str, at: int
) -> None:
    """No other broker and no other room has it."""
    salt = room_salt(curve_key, log_key, room)
    assert len(salt) == 16
    assert salt != room_salt(log_key + b"x", curve_key, room)
    assert salt != room_salt(curve_key, log_key, room + "x")
    both = flip(curve_key + log_key, at % 64)
    assert salt != room_salt(both[:32], both[32:], room)


def test_a_member_has_another_key_in_every_room_and_every_header_its_own_box_key() -> None:
    """Nothing links the rooms of a member but the connection."""
    assert Author(b"a" * 32, ROOM).public == ALICE.public
    assert Author(b"a" * 32, OTHER_ROOM).public != ALICE.public
    header = Header(1, 1, 0, 0, 5, b"n" * 24, ALICE.public)
    keys = [ROOM.message_keys(h.packed) for h in (header, header._replace(timestamp_ms=6))]
    keys.append(OTHER_ROOM.message_keys(header.packed))
    assert len({key for pair in keys for key in pair}) == 6


def test_a_verification_code_names_everything_it_is_over() -> None:
    """The order in which members are counted does not matter; all else does."""
    head = BOOKS.head(5, 2)
    members = [(ALICE.public, "alice"), (BOB.public, "bob")]
    password = ROOM.verification_password(head, members)
    assert password == ROOM.verification_password(head, members[::-1])
    changed = [head._replace(log=b"x" * 32), head._replace(n=6), head._replace(hash=b"x" * 32)]
    changed.append(head._replace(expired=1))
    others = {ROOM.verification_password(other, members) for other in changed}
    others |= {ROOM.verification_password(head, other) for other in (members[:1], members[1:], [])}
    others.add(ROOM.verification_password(head, [(ALICE.public, "bob"), (BOB.public, "alice")]))
    others.add(OTHER_ROOM.verification_password(head, members))
    assert len(others | {password}) == len(changed) + 6
    spoken = ROOM.verification_code(head, members)
    assert len(spoken) == 8
    assert set(spoken) <= set(words.word_list())


@pytest.fixture
def little_memory() -> Iterator[None]:
    """64 MiB more than this process has now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 64 * limits.MIB
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce RLIMIT_AS")
@pytest.mark.usefixtures("little_memory")
def test_a_machine_without_the_memory_is_told_so() -> None:
    """256 MiB are part of what makes guessing dear; there is no way around them."""
    with pytest.raises(BadPassphrase, match="256 MiB"):
        derive_root(b"abacus-zoom", bytes(16))


@holds_for
@given(st.binary(max_size=9), st.binary(max_size=9))
def test_the_same_are_equal_and_others_are_not(one: bytes, other: bytes) -> None:
    assert same(one, other) is (one == other)
    assert same(one, bytes(one))
