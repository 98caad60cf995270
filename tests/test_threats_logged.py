"""A server that lies about what was said: altered, forged, replayed, dropped, split, rolled back.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.processes import Running, Terminal, wait_for, zchat
from tests.threats import Bench, Insider, Member, RogueWorld, red, rogue_world
from zchat.errors import Malformed, ServerFault, Unopenable
from zchat.lab.rogue import flipped
from zchat.lab.sent import Forge
from zchat.log.contract import Addition, Entry
from zchat.member.checked import CheckedLog, ServerContradiction
from zchat.member.invite import Origin
from zchat.member.profile import Opened
from zchat.member.rejoin import rejoin
from zchat.member.rows import Kind, Message
from zchat.protocol import evidence
from zchat.protocol.body import Beat, Text
from zchat.protocol.envelope import EnvelopeClass, Header, envelope_id
from zchat.protocol.keys import RoomKeys, derive_root
from zchat.protocol.ledger import Contradiction, Genesis, Head, LogKey, Proof, chain, judge
from zchat.protocol.limits import HEAD_BYTES
from zchat.protocol.seal import open_envelope
from zchat.protocol.wire import Cast, Entries, Item, Post, decode_to_broker, encode, unpack_batch

FAULT = "^!! the server contradicted itself"


def envelopes_of(member: Member) -> list[bytes]:
    """Every envelope a member has posted, as it went out."""
    words = (decode_to_broker(frames) for frames in member.sent)
    return [envelope for word, envelope in words if isinstance(word, Post)]


# ---- R2: altered ----


def r2_before_it_is_logged(folder: Path) -> None:
    """Each byte of an envelope, changed before it gets its place: never shown, always told."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        alice.say("the true text")
        envelope = envelopes_of(alice)[0]
        bench.log_envelope(*(flipped(envelope, at) for at in range(len(envelope))))
        bench.check()
        assert bob.texts == alice.texts == ["the true text"]
        told = [line for line in bob.lines if "unreadable entry #" in line]
        refused_at_the_door = 7  # version, suite, class and epoch: an honest core takes no such
        assert len(told) == len(envelope) - refused_at_the_door
        bob.must_show("unreadable entry #2, from a member or the server$")


def r2_under_a_signed_head(folder: Path) -> None:
    """Changed on the way to one member: what it was signed as does not fit."""
    with Bench(folder, "alter=2:after=1") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        alice.say("two")
        bench.check()
        assert (alice.texts, bob.texts) == (["one", "two"], ["one"])
        bob.must_show(FAULT + ": entries up to #2 do not fit the head it signed")
        alice.must_not_show(FAULT)


def test_R2_a_changed_message_is_never_shown(tmp_path: Path) -> None:
    r2_before_it_is_logged(tmp_path)


def test_R2_control_without_signatures_a_changed_signature_passes(tmp_path: Path) -> None:
    red(lambda: r2_before_it_is_logged(tmp_path), "signature", because="what nobody wrote")


def test_R2_a_change_under_a_signed_head_breaks_the_chain(tmp_path: Path) -> None:
    r2_under_a_signed_head(tmp_path)


def test_R2_control_without_the_chain_nobody_is_told(tmp_path: Path) -> None:
    red(lambda: r2_under_a_signed_head(tmp_path), "chain", because="does not see")


# ---- R3, R4: forged ----


def r3(folder: Path) -> None:
    """Noise and well-formed envelopes of somebody without the passphrase, logged and cast."""
    with Bench(folder, "inject") as bench:
        alice, bob = bench.pair()
        stranger = Insider(bench, RoomKeys(bench.clock.random(32)))
        stranger.keys.tag = bench.keys().tag
        bench.log_envelope(stranger.text("let me in"))
        bench.log_envelope(stranger.text("let me in")[:135] + bench.clock.random(560))
        beat = Beat("mallory", bytes(16), 1, bytes(HEAD_BYTES), bytes(8), (), leaving=False)
        cast = stranger.seal(beat, envelope_class=EnvelopeClass.CAST)
        bench.deliver(bob, encode(Cast(room=bench.keys().tag), cast))
        alice.say("hello")
        bench.check()
        assert bob.texts == ["hello"]
        bob.must_show("unreadable entry #1, from a member or the server$")
        bob.must_not_show("mallory")
        assert [view.name for view in bob.room.members(bench.clock.now())] == ["alice"]


def test_R3_without_the_passphrase_nobody_speaks_or_joins(tmp_path: Path) -> None:
    r3(tmp_path)


def test_R3_control_if_message_keys_were_public_anybody_could(tmp_path: Path) -> None:
    red(lambda: r3(tmp_path), "room key", because="what nobody wrote")


def r4(folder: Path) -> None:
    """A message re-signed by somebody else; one with bob's key put on it."""
    with Bench(folder, "impersonate") as bench:
        alice, bob = bench.pair()
        bob.say("I am bob")
        alice.say("pay mallory")
        real = envelopes_of(alice)[0]
        bench.log_envelope(real[:39] + bob.room.own_key + real[71:])
        bench.check()
        for member in (alice, bob):
            assert member.texts == ["I am bob", "pay mallory"]
            assert {message.name for message in member.messages} == {"alice", "bob"}
            unreadable = [line for line in member.lines if "unreadable entry #" in line]
            assert len(unreadable) == 3


def test_R4_nobody_speaks_as_somebody_else(tmp_path: Path) -> None:
    r4(tmp_path)


def test_R4_control_a_sender_outside_the_key_can_be_exchanged(tmp_path: Path) -> None:
    red(lambda: r4(tmp_path), "sender in key", because="what nobody wrote")


# ---- R5, R6: replayed, here and elsewhere ----


def r5_on_the_way(folder: Path) -> None:
    """Everything twice: at once, after a restart, after a month, after a restore of one's files."""
    with Bench(folder, "replay") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        bob.say("two")
        shutil.copytree(bob.folder, folder / "copy")
        alice.say("three")
        for _ in range(2):
            bench.check()
            assert bob.texts == alice.texts == ["one", "two", "three"]
            bob.must_not_show("!!|missing|different")
            restart(bob)
            bench.clock.time += 30 * 86_400
            bench.pass_time(5)
        bob.stop()
        shutil.rmtree(bob.folder)
        shutil.copytree(folder / "copy", bob.folder)
        bob.start()
        bench.settle()
        bench.check()
        assert bob.texts == ["one", "two", "three"]
        bob.must_not_show("!!|missing|different")


def restart(member: Member) -> None:
    """A new process of the same member."""
    member.stop()
    member.start()
    member.bench.settle()


def r5_in_the_log(folder: Path) -> None:
    """The same message a second time under a properly signed head: a proof."""
    with Bench(folder, "twice=2:after=1") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        alice.say("two")
        bench.check()
        assert bob.texts == ["one", "two"]
        bob.must_show(FAULT + r": it stored a message twice \(up to #3\)")
        bob.must_not_show("alice.* sent two different")
        assert judge(proof_of(bob)) is Proof.REPEATED_ID


def proof_of(member: Member) -> Contradiction:
    """What the evidence file that a member was told of claims."""
    assert member.room.record.evidence, f"{member.name} has no proof of: {member.room.fault}"
    return evidence.unpack(Path(member.room.record.evidence).read_bytes())


def test_R5_what_is_sent_again_is_shown_once(tmp_path: Path) -> None:
    r5_on_the_way(tmp_path)


def test_R5_control_if_known_places_were_taken_again(tmp_path: Path) -> None:
    red(lambda: r5_on_the_way(tmp_path), "known places", because="different|shows twice")


def test_R5_what_is_logged_again_is_proved(tmp_path: Path) -> None:
    r5_in_the_log(tmp_path)


def test_R5_control_if_an_id_could_stand_twice(tmp_path: Path) -> None:
    red(lambda: r5_in_the_log(tmp_path), "ids once", because="does not see")


def r6_other_room(folder: Path) -> None:
    """Two rooms of one server share a passphrase; all of one is copied into the other."""
    with Bench(folder, "transplant") as bench:
        server = Origin(bytes(32), bench.log_key.public)
        passphrase = b"otter-basin-scarf-pencil"
        lobby, den = (RoomKeys(derive_root(passphrase, server.salt(r))) for r in ("lobby", "den"))
        alice, bob = bench.member("alice", keys=lobby), bench.member("bob", keys=lobby)
        elsewhere = bench.member("carol", keys=den)
        elsewhere.say("in the den")
        alice.say("in the lobby")
        elsewhere.say("again in the den")
        bench.check()
        assert elsewhere.texts == ["in the den", "again in the den"], "the rooms are one"
        assert bob.texts == ["in the lobby"]
        bob.must_show("unreadable entry #")
        for member in (alice, bob, elsewhere):
            member.must_not_show(FAULT)


def test_R6_what_is_said_in_one_room_is_nothing_in_another(tmp_path: Path) -> None:
    r6_other_room(tmp_path)


def test_R6_control_rooms_that_share_a_salt_are_one_room(tmp_path: Path) -> None:
    red(lambda: r6_other_room(tmp_path), "salt per room", because="the rooms are one")


def _stored_text_as_beat(envelope: bytes) -> bytes:
    return envelope[:2] + b"\x01" + envelope[3:]


CONTEXTS: dict[str, Callable[[bytes], bytes]] = {
    "version": lambda e: b"\x02" + e[1:],
    "suite": lambda e: e[:1] + b"\x02" + e[2:],
    "class": _stored_text_as_beat,
    "epoch": lambda e: e[:6] + b"\x01" + e[7:],
    "timestamp": lambda e: e[:7] + bytes(8) + e[15:],
    "nonce": lambda e: e[:15] + bytes(24) + e[39:],
    "sender": lambda e: e[:39] + bytes(32) + e[71:],
}


def opens(keys: RoomKeys, envelope: bytes, where: EnvelopeClass) -> bool:
    """Whether a member could take it for something."""
    try:
        open_envelope(keys, envelope, where)
    except Unopenable:
        return False
    return True


def r6_other_context(folder: Path, field: str) -> None:
    """A message with one field of its context changed, put in the log and on the air."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        alice.say("one")
        moved = CONTEXTS[field](envelopes_of(alice)[0])
        assert not any(opens(bench.keys(), moved, where) for where in EnvelopeClass)
        bench.log_envelope(moved)
        bench.deliver(bob, encode(Cast(room=bench.keys().tag), moved))
        bench.check()
        assert bob.texts == ["one"]
        bob.must_not_show(FAULT)


@pytest.mark.parametrize("field", CONTEXTS)
def test_R6_a_message_in_another_context_does_not_open(tmp_path: Path, field: str) -> None:
    r6_other_context(tmp_path, field)


def test_R6_control_a_header_bound_to_nothing_can_be_changed(tmp_path: Path) -> None:
    row = partial(r6_other_context, tmp_path, "timestamp")
    red(row, "header in key", "signature", because="assert not True")


# ---- R7: one's own key ----


def r7(folder: Path) -> None:
    """Somebody copied alice's profile, and speaks with her key; her own words come back, too."""
    with Bench(folder, "replay") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        alice.must_not_show("your key|this profile")
        shutil.copytree(alice.folder, folder / "thief")
        thief = bench.member("thief")
        thief.say("lend me money")
        bench.check()
        assert alice.texts == bob.texts == ["one", "lend me money"]
        alice.must_show(
            "^!! your key sent a message this device did not write: somebody has your keys$"
        )
        restart(alice)
        alice.must_show("^!! this profile was used elsewhere, or restored from a copy$")
        alice.must_not_show("somebody has your keys")


def test_R7_a_message_by_my_key_that_i_did_not_write_is_told(tmp_path: Path) -> None:
    r7(tmp_path)


def test_R7_control_if_ones_own_key_were_always_oneself(tmp_path: Path) -> None:
    red(lambda: r7(tmp_path), "own key", because="does not see '.!! your key")
