"""A server that lies about what was said: altered, forged, replayed, dropped, split, rolled back.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import itertools
import json
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from tests.processes import PASSPHRASE, Terminal, World, zchat
from tests.threats import Bench, Insider, Member, RogueWorld, envelopes_of, red, rogue_world
from zchat.errors import Malformed, ServerFault, Unopenable
from zchat.lab.logged import Drop
from zchat.lab.rogue import flipped
from zchat.log.contract import Entry, MemoryLog
from zchat.log.ends import ends_path
from zchat.member.checked import CheckedLog, ServerContradiction
from zchat.member.invite import Origin
from zchat.member.profile import Opened
from zchat.member.rejoin import rejoin
from zchat.member.vault import Vault
from zchat.protocol import evidence
from zchat.protocol.body import Beat
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import RoomKeys, derive_root
from zchat.protocol.ledger import Contradiction, Head, LogKey, Proof, chain, judge
from zchat.protocol.limits import HEAD_BYTES
from zchat.protocol.seal import open_envelope
from zchat.protocol.wire import (
    Cast,
    Entries,
    Item,
    Join,
    Leave,
    Position,
    Ready,
    Refuse,
    decode_to_member,
    encode,
    pack_batch,
)

FAULT = "^!! the server contradicted itself"


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
        bob.must_not_show("two different")
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
    red(lambda: r2_before_it_is_logged(tmp_path), "signature", because="two different")


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


# ---- R8: dropped ----

MISSING = r"-- 1 message from alice~[0-9a-f]{4} missing \(#%d\): never sent or not stored$"


def r8_before_it_is_logged(folder: Path, size: int = 20) -> None:
    """Of `size` messages one never gets a place, each in its turn; the last has no successor."""
    drop = Drop(share=0.0)
    with Bench(folder, drop) as bench:
        alice, bob = bench.pair()
        for position in range(1, size + 1):
            restart(alice)
            waiting = len(alice.room.unconfirmed)
            drop.at = drop.posts + position
            bob.lines.clear()
            alice.say(*(f"{position}: {number}" for number in range(1, size + 1)))
            bench.check()
            assert len(alice.room.unconfirmed) == waiting + 1, "its author was told that it is safe"
            if position < size:
                bob.must_show(MISSING % position)
            assert sum("missing" in line for line in bob.lines) == (position < size)
        assert bob.room.transcript.missing_count() == size - 1
        bob.must_not_show("!!")


def r8_after_it_was_logged(folder: Path) -> None:
    """What has its place is left out for one member, each in its turn."""
    for position in range(1, 9):
        with Bench(folder / str(position), f"hide=2:after={position}") as bench:
            alice, bob = bench.pair()
            for number in range(1, 11):
                alice.say(str(number))
            bench.check()
            assert bob.texts == alice.texts[:position], "bob sees more than he can check"
            bob.must_show(FAULT)


def r8_on_screen(folder: Path, template: Path) -> None:
    """The author sees that it is on its way still, the other what is missing."""
    with rogue_world(folder, template, "drop:at=2") as world:
        alice, bob = world.terminal("alice"), world.terminal("bob")
        for terminal in (alice, bob):
            terminal.expect("/help lists commands")
        for number in (1, 2, 3):
            alice.type(f"number {number}\r")
        bob.expect("alice~[0-9a-f]{4}: number 3$")
        alice.expect("number 3$")
        assert "never sent or not stored" in bob.text, f"nothing is told in:\n{bob.text}"
        bob.expect(MISSING % 2)
        bob.expect("gap: 1 missing")
        alice.expect("1 on the way")


def test_R8_what_was_dropped_before_it_was_logged_is_counted(tmp_path: Path) -> None:
    r8_before_it_is_logged(tmp_path)


def test_R8_control_if_nobody_counted(tmp_path: Path) -> None:
    red(lambda: r8_before_it_is_logged(tmp_path, 3), "numbers", because="does not see")


def test_R8_what_was_dropped_after_it_was_logged_breaks_the_chain(tmp_path: Path) -> None:
    r8_after_it_was_logged(tmp_path)


def test_R8_control_if_a_batch_could_end_anywhere(tmp_path: Path) -> None:
    row = partial(r8_after_it_was_logged, tmp_path)
    red(row, "chain", "ends at its head", because="more than he can check")


def test_R8_both_ends_see_it_on_their_screens(tmp_path: Path, template: Path) -> None:
    r8_on_screen(tmp_path, template)


def test_R8_control_on_screen_if_nobody_counted(tmp_path: Path, template: Path) -> None:
    red(lambda: r8_on_screen(tmp_path, template), "numbers", because="nothing is told")


# ---- R10, R11: reordered, delayed ----


def r10_batches_overtake(folder: Path) -> None:
    """Four members get every batch in another order: their transcripts are the same."""
    with Bench(folder, "shuffle:after=2:hold=16:seed=3") as bench:
        members = [bench.member(name) for name in ("alice", "bob", "carol", "dave")]
        for turn in range(12):
            members[turn % 4].say(f"{turn}, first", f"{turn}, second")
        bench.pass_time(60)
        bench.check()
        orders = {tuple((m.n, m.id, m.sender, m.text) for m in who.messages) for who in members}
        assert len(orders) == 1, "they see different orders"
        assert len(members[0].messages) == 24
        for member in members:
            member.must_not_show("!!|missing")


def r10_entries_change_places(folder: Path) -> None:
    """The entries of a batch in another order under the head of the true one."""
    with Bench(folder, "reorder=2") as bench:
        alice, bob = bench.pair()
        alice.say("one", "two", "three")
        bench.check()
        assert bob.texts == alice.texts[: len(bob.texts)], "bob sees another order"
        bob.must_show(FAULT)


def test_R10_everybody_sees_one_order(tmp_path: Path) -> None:
    r10_batches_overtake(tmp_path)


def test_R10_control_if_what_comes_next_were_next(tmp_path: Path) -> None:
    red(lambda: r10_batches_overtake(tmp_path), "known places", because="is missing or mangled")


def test_R10_another_order_under_a_head_is_a_fault(tmp_path: Path) -> None:
    r10_entries_change_places(tmp_path)


def test_R10_control_without_the_chain_the_order_is_the_servers(tmp_path: Path) -> None:
    red(lambda: r10_entries_change_places(tmp_path), "chain", because="another order")


def r11(folder: Path) -> None:
    """Held back for an hour, over midnight: shown where it stands, with both times."""
    with Bench(folder, "delay=0.01:after=1") as bench:
        alice, bob = bench.pair()
        alice.say("in time")
        bench.clock.time += 3_600 - (bench.clock.wall_ms() // 1000) % 3_600
        alice.say("late")
        sent = bench.clock.wall_ms()
        bench.clock.time += 3_600
        time.sleep(0.02)  # the lie counts real seconds
        bench.pass_time(1)
        assert bob.texts == ["in time", "late"]
        assert [message.sent_at_ms for message in bob.messages][1] == sent
        bob.must_not_show(r"in time \[sent")
        bob.must_show(r"late \[sent \d\d:00, arrived \d\d:00\]$")
        late = next(line for line in bob.lines if "late [sent" in line)
        assert re.search(r"sent (.*), arrived (?!\1)", late)
        newcomer = bench.member("carol")
        assert newcomer.texts == ["in time", "late"]
        newcomer.must_not_show(r"\[sent")


def test_R11_what_was_held_back_shows_both_times(tmp_path: Path) -> None:
    r11(tmp_path)


@pytest.mark.parametrize("defence", ["late mark", "two times"])
def test_R11_control_without_the_mark(tmp_path: Path, defence: str) -> None:
    red(lambda: r11(tmp_path), defence, because="does not see")


# ---- R12: two histories ----


def r12(folder: Path) -> None:
    """Two halves of a room live apart for 50 messages; then one message crosses."""
    with Bench(folder, "fork=1,2/3,4:after=4:cross=50") as bench:
        alice, bob, carol, dave = (bench.member(n) for n in ("alice", "bob", "carol", "dave"))
        for number in range(4):
            [alice, bob, carol, dave][number].say(f"together {number}")
        for number in range(24):
            [alice, bob][number % 2].say(f"here {number}")
            [carol, dave][number % 2].say(f"there {number}")
        bench.check()
        assert alice.texts == bob.texts != carol.texts == dave.texts
        n = alice.room.checked.n
        words = {member.name: member.room.verification_code(n) for member in bench.members}
        assert words["alice"] == words["bob"] != words["carol"] == words["dave"]
        assert not any(member.faults for member in bench.members)
        carol.say("apart 48")
        alice.say("apart 49: this one crosses")
        for member in (carol, dave):
            assert member.texts[-1] == "apart 49: this one crosses"
            member.must_show(FAULT + r": it showed alice~.... another history \(from #28 or before")
            assert judge(proof_of(member)) in (Proof.TWO_HASHES, Proof.OTHER_PAST)
            with pytest.raises(ServerFault):
                member.say("and on we go")
        alice.must_not_show(FAULT)


def r12_on_screen(folder: Path, template: Path) -> None:
    """Alice's screen at the first message that crosses; what she can do; what she can prove."""
    with rogue_world(folder, template, "fork=1/2:after=2:cross=5") as world:
        alice, bob = world.terminal("alice"), world.join("bob")
        alice.expect("/help lists commands")
        for number in (1, 2):
            alice.type(f"together {number}\r")
            bob.expect(f"together {number}$")
        for number in (1, 2, 3):
            alice.type(f"here {number}\r")
            alice.expect(f"here {number}$")
        bob.type("there 1\n")
        bob.expect("there 1$")
        bob.type("there 2, and here\n")
        alice.expect("bob~[0-9a-f]{4}: there 2, and here$")
        assert "another history" in alice.text, f"nothing is told in:\n{alice.text}"
        alice.expect(r"^!! the server contradicted itself: it showed bob~.... another history")
        alice.expect("^!! Nothing more is sent here. The proof is in")
        alice.expect("SERVER FORKED / WENT BACK: it showed bob~")
        alice.expect("posting stopped")
        alice.type("hello?\r")
        alice.expect("^-- The server contradicted itself: it showed bob~")
        alice.expect("^> hello[?]$")
        alice.type("\x03")
        alice.expect("Ctrl-C again, Ctrl-D or /quit leaves")
        alice.type("/quit\r")
        assert alice.wait() == 4
        stands_as_after_a_fault(world)
        proves_itself(world)


def stands_as_after_a_fault(world: RogueWorld) -> None:
    """`send` ends with 4 and posts nothing, `tail` prints all it can and ends with 4."""
    before = zchat(world.home("alice"), "rooms")
    assert "SERVER FAULT" in before.stdout
    sent = world.run("alice", "send", "lobby", "nobody gets this", "--name", "alice")
    assert (sent.returncode, sent.stdout) == (4, "")
    assert "The server contradicted itself" in sent.stderr
    read = world.run("alice", "tail", "lobby", "--json")
    texts = [json.loads(line)["text"] for line in read.stdout.splitlines()]
    assert read.returncode == 4
    meant = world.run("alice", "send", "lobby", "I know", "--anyway", "--name", "alice")
    assert meant.returncode == 0, meant.stderr
    assert {"together 1", "together 2", "here 1", "there 2, and here"} <= set(texts)
    assert "nobody gets this" not in texts


def proves_itself(world: RogueWorld) -> None:
    """The file that alice was told of proves the lie to anybody, with nothing but itself."""
    found = list((world.home("alice") / "members" / "alice" / "evidence").glob("*.json"))
    assert len(found) == 1
    done = zchat(world.folder / "a stranger", "evidence", "check", str(found[0]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Proved (P")
    assert "Not proved: " in done.stdout


def test_R12_two_histories_are_proved_by_the_first_message_that_crosses(tmp_path: Path) -> None:
    r12(tmp_path)


def test_R12_control_if_everything_went_on(tmp_path: Path) -> None:
    red(lambda: r12(tmp_path), "stop at a fault", because="DID NOT RAISE")


def test_R12_control_if_nobody_looked_at_what_others_saw(tmp_path: Path) -> None:
    red(lambda: r12(tmp_path), "seen", because="does not see")


def test_R12_the_screen_says_so_and_everything_stops(tmp_path: Path, template: Path) -> None:
    r12_on_screen(tmp_path, template)


def test_R12_control_on_screen(tmp_path: Path, template: Path) -> None:
    red(lambda: r12_on_screen(tmp_path, template), "seen", because="nothing is told")


# ---- R13: announcements ----


def r13(folder: Path) -> None:
    """The server announces, commands and answers whatever it likes, asked or not."""
    with Bench(folder, "forge") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        before = bob.room.members(bench.clock.now())
        tag, said = bench.keys().tag, len(bob.sent)
        words = [
            *(encode(Refuse(0, 0, code, tag, 0, "alice was removed")) for code in CODES),
            encode(Ready(99, 1, "rogue", bytes(32), 1, 1)),
            encode(Join(1, (Position(tag, bytes(32), 1, 0, bytes(32), 0),))),
            encode(Leave(1, tag)),
            *((msgspec.msgpack.encode({"word": word, "room": tag}),) for word in UNKNOWN_WORDS),
            (b"alice was removed",),
            (b"", b"", b""),
        ]
        bench.deliver(bob, *words)
        assert len(bob.sent) == said, "something it said made bob say something"
        alice.say("two")
        bench.check()
        assert bob.texts == ["one", "two"]
        assert [(m.key, m.name) for m in bob.room.members(bench.clock.now())] == [
            (m.key, m.name) for m in before
        ]
        news = [line for line in bob.lines if "was removed" in line]
        assert news and all(line.startswith("-- server says: ") for line in news), news
        bob.must_not_show("!!|left|is now called")


CODES = ["rate", "room-full", "storage", "no-log", "kicked", "banned"]
UNKNOWN_WORDS = ["JOINED", "LEFT", "NICK", "TOPIC", "KICK", "MEMBERS", "KEYS"]


def test_R13_what_a_server_announces_changes_nothing(tmp_path: Path) -> None:
    r13(tmp_path)


def test_R13_control_if_its_words_stood_there_like_our_own(tmp_path: Path) -> None:
    red(lambda: r13(tmp_path), "server says", because="was removed")


# ---- R15: somebody else under a known name ----


def another_alice(world: World, name: str = "alice") -> None:
    """Somebody with the passphrase and a key of their own, who says they are alice."""
    passphrase = world.home("mallory") / "passphrase"
    passphrase.write_text(PASSPHRASE)
    done = world.run(
        *("mallory", "send", world.broker.invite(), "it is me"),
        *("--name", name, "--passphrase-file", str(passphrase)),
    )
    assert done.returncode == 0, done.stderr


def test_a_look_alike_is_marked_and_is_nobodys_fault(here: World) -> None:
    """A name with one letter of another alphabet: it stands beside both, and all ends with 0."""
    send(here, "alice", "hello")
    another_alice(here, "\u0430lice")
    done = here.run("bob", "tail", here.broker.invite(), "--all", "--name", "bob")
    assert done.returncode == 0
    assert re.search("^!! \u0430lice~.... looks like alice~...., and is", done.stdout, re.M)
    send(here, "bob", "I see")


def r15(world: World) -> None:
    """Bob has met alice; another alice comes, before and after he compared keys with the first."""
    invite = world.broker.invite()
    assert world.run("alice", "send", invite, "hello", "--name", "alice").returncode == 0
    bob = world.terminal("bob")
    bob.expect("alice.*: hello$")
    another_alice(world)
    bob.expect("alice.*: it is me$")
    marks = re.findall("alice~([0-9a-f]{4}): ", bob.text)
    assert len(set(marks)) == 2, f"they look the same in:\n{bob.text}"
    other = rf"^!! alice~{marks[1]} is another alice, not alice~{marks[0]}$"
    assert re.search(other, bob.text, re.MULTILINE), f"nothing is told in:\n{bob.text}"
    bob.type("/quit\r")
    assert bob.wait() == 0
    tailed = world.run("bob", "tail", "lobby", "--all")
    assert tailed.returncode == 0, "somebody's name is not the server's fault"
    assert "is another alice, not alice~" in tailed.stdout
    done = world.run("bob", "verify", "lobby", "--matches", "1", "--with", f"alice~{marks[0]}")
    assert done.returncode == 0, done.stderr
    bob = world.terminal("bob")
    bob.expect("^!! alice~[0-9a-f]{4} is not the alice you verified$")
    bob.expect("[0-9] alice: hello$")
    bob.expect("alice~[0-9a-f]{4}: it is me$")


def test_R15_another_key_under_a_known_name_is_marked(here: World) -> None:
    r15(here)


@pytest.mark.parametrize(
    ("defence", "because"), [("names", "nothing is told"), ("key marks", "they look the same")]
)
def test_R15_control_if_a_name_were_enough(here: World, defence: str, because: str) -> None:
    red(lambda: r15(here), defence, because=because)


# ---- R25: who comes late ----


def r25_poisoned(folder: Path, lie: str) -> None:
    """A newcomer is shown a history with a hole, out of order, or with an old message again."""
    with Bench(folder, lie) as bench:
        alice, bob = bench.pair()
        for number in range(1, 6):
            alice.say(f"{number}, alice")
            bob.say(f"{number}, bob")
        bench.restart_server()
        carol = bench.member("carol")
        bench.pass_time(60)
        assert carol.texts == alice.texts[: len(carol.texts)], "she sees another history"
        carol.must_show(FAULT)
        alice.must_not_show(FAULT)


def r25_shortened(folder: Path) -> None:
    """A newcomer is shown less; what the others say they have seen gives it away."""
    with Bench(folder, "shorten=3:end=4") as bench:
        alice, bob = bench.pair()
        for number in range(1, 6):
            alice.say(f"{number}, alice")
            bob.say(f"{number}, bob")
        carol = bench.member("carol")
        assert carol.texts == alice.texts[:4]
        bench.pass_time(120)
        bench.check()
        assert len(alice.texts) == 10
        carol.must_show(FAULT + ": it signed #10 and does not deliver what follows #4$")


LATE_LIES = ["omit", "reorder=3", "twice=3", "alter=3"]


@pytest.mark.parametrize("lie", LATE_LIES)
def test_R25_a_poisoned_history_is_noticed_by_who_comes_late(tmp_path: Path, lie: str) -> None:
    r25_poisoned(tmp_path, lie)


def test_R25_control_without_the_chain(tmp_path: Path) -> None:
    red(lambda: r25_poisoned(tmp_path, "reorder=3"), "chain", because="another history")


def test_R25_a_shortened_history_is_noticed_by_what_others_saw(tmp_path: Path) -> None:
    r25_shortened(tmp_path)


@pytest.mark.parametrize("defence", ["withheld", "witness"])
def test_R25_control_if_promises_were_forgotten(tmp_path: Path, defence: str) -> None:
    red(lambda: r25_shortened(tmp_path), defence, because="does not see")


# ---- R26: rolled back ----

WENT_BACK = r": it went back 2 messages, from #5 to #3"


def r26(folder: Path) -> None:
    """The server loses its last entries and goes on as if nothing had been."""
    with Bench(folder, "rollback=2:after=5") as bench:
        alice, bob = bench.pair()
        for number in range(1, 6):
            alice.say(str(number))
        bench.pass_time(10)
        bench.check()
        for member in (alice, bob):
            assert member.texts == ["1", "2", "3", "4", "5"]
            member.must_show("^-- the server is behind: it shows 3 of 5 messages$")
            member.must_show(FAULT + WENT_BACK)
            with pytest.raises(ServerFault):
                member.say("into the void")


def r26_other_log(folder: Path) -> None:
    """The server lost its store, and somebody began the room anew."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        alice.say("1")
        for member in (alice, bob):
            member.stop()
        bench.log.close()
        for path in folder.glob("log.db*"):
            path.unlink()
        bench.start_server()
        bench.members.clear()
        carol = bench.member("carol")
        carol.say("is anybody here?")
        bench.members += [alice, bob]
        for member in (alice, bob):
            member.start()
        bench.settle()
        for member in (alice, bob):
            assert member.texts == ["1"]
            member.must_show(FAULT + ": it shows another log of this room that does not name ours$")
        carol.must_not_show(FAULT)


def r26_outbox(folder: Path) -> None:
    """What was written offline does not go to a server that went back meanwhile."""
    with Bench(folder) as bench:
        alice = bench.member("alice")
        alice.say("1")
        bench.log.copy_to(folder / "yesterday.db")
        alice.say("2")
        alice.disconnect()
        alice.do(alice.core.post(alice.keys.tag, ["3, written offline"], anyway=False))
        alice.sent.clear()
        bench.log.close()
        for path in folder.glob("log.db*"):
            path.unlink()
        (folder / "yesterday.db").rename(folder / "log.db")
        bench.start_server()
        bench.settle()
        bench.pass_time(10)
        assert envelopes_of(alice) == [], "it went to a server that lost the log"
        alice.must_show(FAULT + ": it went back 1 message, from #2 to #1")


def r26_on_screen(world: World) -> None:
    """Yesterday's store in the place of today's, as any administrator might put it back."""
    alice = world.terminal("alice")
    alice.expect("/help lists commands")
    say_and_see(alice, "1", "2", "3")
    world.broker.end()
    yesterday = world.folder / "yesterday.db"
    shutil.copy(world.broker.store, yesterday)
    world.restart_broker()
    say_and_see(alice, "4", "5")
    world.broker.end()
    shutil.copy(yesterday, world.broker.store)
    ends_path(world.broker.store).unlink()  # else the server would not start
    world.restart_broker()
    alice.expect("online again", count=2)
    alice.expect("^-- the server is behind: it shows 3 of 5 messages")
    alice.expect("^!! the server contradicted itself" + WENT_BACK)
    alice.expect("SERVER FORKED / WENT BACK: it went back 2 messages")
    alice.type("/quit\r")
    assert alice.wait() == 4


def say_and_see(terminal: Terminal, *texts: str) -> None:
    for text in texts:
        terminal.type(f"{text}\r")
        terminal.expect(f": {text}$")


def test_R26_a_server_that_went_back_is_told_so(tmp_path: Path) -> None:
    r26(tmp_path)


def test_R26_control_if_it_were_only_slow(tmp_path: Path) -> None:
    red(lambda: r26(tmp_path), "behind", because="does not see")


def test_R26_a_room_that_was_begun_anew_is_another_log(tmp_path: Path) -> None:
    r26_other_log(tmp_path)


def test_R26_control_if_any_log_were_the_rooms(tmp_path: Path) -> None:
    red(lambda: r26_other_log(tmp_path), "lineage", because="does not see")


def test_R26_nothing_goes_out_before_the_server_shows_our_log(tmp_path: Path) -> None:
    r26_outbox(tmp_path)


def test_R26_control_if_the_outbox_went_first(tmp_path: Path) -> None:
    red(lambda: r26_outbox(tmp_path), "agree first", because="a server that lost the log")


def test_R26_an_old_store_is_seen_on_screen(here: World) -> None:
    r26_on_screen(here)


# ---- R27: receipts for what is thrown away ----


def r27(folder: Path, *, others_speak: bool) -> None:
    """A signed receipt, and nothing behind it: the author is the one to notice."""
    with Bench(folder, "ack:after=1") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        alice.say("lost")
        assert len(alice.confirmed) == 2, "one tick: the server signed for it"
        assert bob.texts == ["one"]
        if others_speak:
            bob.say("two")
        bench.pass_time(60)
        bench.check()
        assert "lost" not in bob.texts
        if others_speak:
            alice.must_show(FAULT + r": it signed another history up to #2$")
            assert judge(proof_of(alice)) is Proof.TWO_HASHES
        else:
            alice.must_show(FAULT + r": it signed #2 and does not deliver what follows #1$")
            alice.must_not_show(": lost$")


@pytest.mark.parametrize("others_speak", [False, True])
def test_R27_a_receipt_for_nothing_is_a_fault(tmp_path: Path, *, others_speak: bool) -> None:
    r27(tmp_path, others_speak=others_speak)


@pytest.mark.parametrize("others_speak", [False, True])
def test_R27_control_if_receipts_were_forgotten(tmp_path: Path, *, others_speak: bool) -> None:
    red(lambda: r27(tmp_path, others_speak=others_speak), "witness", because="does not see")


# ---- an altered byte anywhere in a stored log ----


class Stored100(NamedTuple):
    """A log of a hundred messages as a server stores it, and a newcomer's eyes on it."""

    bench: Bench
    entries: list[Entry]
    births: tuple[bytes, ...]

    @property
    def log(self) -> bytes:
        return self.bench.log.tip(self.bench.keys().tag).log  # type: ignore[union-attr]

    def head(self, n: int) -> Head:
        tag = self.bench.keys().tag
        return self.bench.log_key.sign_head(tag, self.log, n, self.entries[n - 1].hash, 0)

    def word(self, n: int, head: bytes) -> Entries:
        """Entry n by itself, as an answer to who stands right before it."""
        before = self.entries[n - 2].hash if n > 1 else self.log
        births = self.births if n == 1 else ()
        return Entries(0, self.bench.keys().tag, self.log, n, before, head, 100, births)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored100]:
    with Bench(tmp_path) as bench:
        alice = bench.member("alice")
        alice.say(*(f"message {number}" for number in range(100)))
        tag = bench.keys().tag
        tip = bench.log.tip(tag)
        assert tip is not None and tip.n == 100
        yield Stored100(bench, bench.log.read(tag, 1, 100), tip.births)


def newcomer_at(stored: Stored100, n: int, folder: Path) -> CheckedLog:
    """Somebody who has checked all before place n."""
    tag = stored.bench.keys().tag
    checked = CheckedLog(tag, stored.bench.log_key.public, MemoryLog())
    for place in range(1, n):
        entry = stored.entries[place - 1]
        word = stored.word(place, stored.head(place).packed)
        segment = checked.check(word, [Item(entry.id, entry.envelope)], asked_ids=False)
        checked.advance(segment, segment.entries)
    return checked


def test_no_altered_byte_of_a_stored_envelope_is_ever_a_message(
    stored: Stored100, tmp_path: Path
) -> None:
    """Each byte of each of 100 envelopes: it does not open; nor (each eighth) fits its head."""
    keys = stored.bench.keys()
    checked = newcomer_at(stored, 1, tmp_path)
    altered = 0
    for entry in stored.entries:
        word = stored.word(entry.n, stored.head(entry.n).packed)
        assert entry.envelope is not None
        for at in range(len(entry.envelope)):
            envelope = flipped(entry.envelope, at)
            assert not opens(keys, envelope, EnvelopeClass.LOG)
            altered += 1
            if at % 8 == 0:
                with pytest.raises(ServerContradiction):
                    checked.check(word, [Item(b"", envelope)], asked_ids=False)
        segment = checked.check(word, [Item(b"", entry.envelope)], asked_ids=False)
        checked.advance(segment, segment.entries)
    assert altered == 100 * 695


def no_altered_head_lets_an_entry_in(stored: Stored100, tmp_path: Path) -> None:
    """Each byte of the heads of 100 places: refused, and the entry behind it is not taken."""
    checked = newcomer_at(stored, 1, tmp_path)
    for entry in stored.entries:
        items, head = [Item(b"", entry.envelope)], stored.head(entry.n).packed
        for at in range(HEAD_BYTES):
            word = stored.word(entry.n, flipped(head, at))
            with pytest.raises((ServerContradiction, Malformed)):
                decode_to_member(encode(word, pack_batch([(b"", entry.envelope)])))
                checked.check(word, items, asked_ids=False)
        segment = checked.check(stored.word(entry.n, head), items, asked_ids=False)
        checked.advance(segment, segment.entries)
    assert checked.n == 100


def test_no_altered_byte_of_a_head_lets_an_entry_in(stored: Stored100, tmp_path: Path) -> None:
    no_altered_head_lets_an_entry_in(stored, tmp_path)


def test_control_if_nobody_verified_heads(stored: Stored100, tmp_path: Path) -> None:
    row = partial(no_altered_head_lets_an_entry_in, stored, tmp_path)
    red(row, "head signature", because="DID NOT RAISE")


def test_a_store_altered_on_disk_shows_nothing_altered(tmp_path: Path) -> None:
    """One bit of each stored envelope, on disk, under a server that means well."""
    with Bench(tmp_path) as bench:
        alice = bench.member("alice")
        alice.say(*(f"message {number}" for number in range(30)))
        bench.restart_server()
        bench.log.close()
        rng = random.Random(1)
        with closing(sqlite3.connect(tmp_path / "log.db")) as db, db:
            for place, envelope in db.execute("SELECT place, envelope FROM entries").fetchall():
                changed = flipped(envelope, rng.randrange(len(envelope)))
                db.execute("UPDATE entries SET envelope = ? WHERE place = ?", (changed, place))
        bench.start_server()
        alice.route = b""
        bob = bench.member("bob")
        assert bob.texts == []
        bob.must_show(FAULT)


# ---- evidence ----


def proved(folder: Path) -> Contradiction:
    """A real proof of the kind P2, from a fork."""
    with Bench(folder, "fork=1/2:after=2:cross=5") as bench:
        alice, bob = bench.pair()
        for text in ("1", "2"):
            alice.say(text)
        for text in ("3", "4", "5"):
            alice.say(f"here {text}")
        bob.say("there 3")
        bob.say("there 4, and here")
        found = proof_of(alice)
    assert judge(found) is Proof.OTHER_PAST and len(found.ids) > 1
    return found


def variants(found: Contradiction) -> Iterator[Contradiction]:
    """Every field changed in every way that keeps its width, and in some that do not."""
    other = bytes(range(32))
    for earlier in heads_like(found.earlier):
        yield found._replace(earlier=earlier)
    for later in heads_like(found.later):
        yield found._replace(later=later)
    yield found._replace(room=other[:16])
    yield found._replace(log_key=other)
    yield found._replace(log_key=LogKey(other).public)
    yield found._replace(start=other)
    yield found._replace(start=b"")
    yield found._replace(start=found.earlier.hash)
    yield found._replace(ids=found.ids[:-1])
    yield found._replace(ids=(*found.ids, other))
    yield found._replace(ids=found.ids[::-1])
    yield found._replace(ids=(other, *found.ids[1:]))
    yield found._replace(ids=(found.ids[0] + b"\0", *found.ids[1:]))
    yield found._replace(earlier=found.later, later=found.earlier)
    yield found._replace(earlier=found.later)
    yield found._replace(later=found.earlier)


def heads_like(head: Head) -> Iterator[Head]:
    """A head with one of its fields changed."""
    yield head._replace(n=head.n - 1)
    yield head._replace(n=head.n + 1)
    yield head._replace(log=bytes(range(32)))
    yield head._replace(hash=bytes(range(32)))
    yield head._replace(expired=head.expired + 1)
    yield head._replace(signature=flipped(head.signature, 40))
    yield head._replace(signature=bytes(64))


def verifies(raw: bytes) -> bool:
    """Whether a file proves anything, as `zchat evidence check` sees it."""
    try:
        return judge(evidence.unpack(raw)) is not None
    except Malformed:
        return False


def test_evidence_with_any_field_changed_and_encoded_anew_proves_nothing(tmp_path: Path) -> None:
    found = proved(tmp_path)
    assert verifies(evidence.pack(found))
    changed = list(variants(found))
    assert len(changed) == 28 and found not in changed
    for each in changed:
        assert not verifies(evidence.pack(each)), each


def test_evidence_with_a_flipped_bit_proves_nothing(tmp_path: Path) -> None:
    """A thousand files, one bit changed in each."""
    raw = evidence.pack(proved(tmp_path))
    rng = random.Random(7)
    for bit in rng.sample(range(len(raw) * 8), 1_000):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verifies(bytes(changed)), bit


def test_evidence_check_refuses_what_proves_nothing(tmp_path: Path) -> None:
    """The command: 0 and what it proves for a true file, 1 for a changed one, without network."""
    found = proved(tmp_path / "bench")
    for name, contradiction in (("true", found), ("false", next(variants(found)))):
        (tmp_path / name).write_bytes(evidence.pack(contradiction))
    done = zchat(tmp_path / "home", "evidence", "check", str(tmp_path / "true"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Proved (P2): the holder of log key " + found.log_key.hex())
    done = zchat(tmp_path / "home", "evidence", "check", str(tmp_path / "false"))
    assert (done.returncode, done.stdout) == (1, "")


def test_a_member_alone_makes_no_evidence_against_an_honest_broker(tmp_path: Path) -> None:
    """All it has are true heads, true ids, births, and heads that it signs with keys of its own."""
    with Bench(tmp_path) as bench:
        alice, bob = bench.pair()
        for number in range(6):
            alice.say(str(number))
        other = bench.member("alice", room="den")
        other.say("elsewhere")
        tag, log = bench.keys().tag, bob.room.checked.log
        ids = tuple(entry.id for entry in bench.log.read(tag, 1, 6))
        hashes = [log, *chain(log, 1, ids)]
        own = LogKey(bytes(32))
        sign = partial(bench.log_key.sign_head, tag, log, expired=0)
        true = [sign(n=n, hash_n=hashes[n]) for n in range(1, 7)]
        false = [own.sign_head(tag, log, n, hashes[1], 0) for n in range(1, 7)]
        moved = [head._replace(n=head.n % 6 + 1) for head in true]
        foreign = [other.room.checked.head, other.room.checked.head._replace(log=log)]
        start = Head(log, 0, log, 0, bytes(64))
        heads = [start, start._replace(hash=ids[0]), *true, *false, *moved, *foreign]
        tried = 0
        for earlier, later in itertools.product(heads, heads):
            for between in framing_ids(earlier, later, ids):
                for past in (b"", *hashes, ids[0], bytes(32)):
                    framed = Contradiction(tag, bench.log_key.public, earlier, later, between, past)
                    assert judge(framed) is None, framed
                    tried += 1
        assert tried > 10_000


def framing_ids(earlier: Head, later: Head, ids: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    """True ids, too few, too many, one twice, in another order."""
    between = ids[earlier.n : later.n]
    yield between
    yield ids
    yield (*between, *ids[-1:])
    yield between[::-1]
    yield between[:1] * len(between)


# ---- the way on ----


def rejoin_through(world: World, name: str) -> str:
    """What happened, first; then accept it. What the second says."""
    told = world.run(name, "rejoin", "lobby", "--name", name)
    assert told.returncode == 4
    assert "With --accept" in told.stderr
    done = world.run(name, "rejoin", "lobby", "--accept", "--name", name)
    assert done.returncode == 0, done.stderr
    assert "What you had is kept in " in done.stderr
    return done.stderr


def texts_of(world: World, name: str) -> list[str]:
    """What a member reads, from a server that is at peace with it."""
    done = world.run(name, "tail", world.broker.invite(), "--json", "--name", name)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


def send(world: World, name: str, *texts: str) -> None:
    for text in texts:
        done = world.run(name, "send", world.broker.invite(), text, "--name", name)
        assert done.returncode == 0, done.stderr


def fault_of(world: World, name: str) -> str:
    """What a member says when it looks at the server anew."""
    done = world.run(name, "tail", "lobby", "--name", name)
    assert done.returncode == 4, done.stderr
    return done.stderr


def test_rejoin_after_a_rollback(here: World) -> None:
    """The old store is all there is: it is read anew, and one's own lost words are not offered."""
    send(here, "alice", "1")
    here.broker.end()
    shutil.copy(here.broker.store, here.folder / "yesterday.db")
    here.restart_broker()
    send(here, "alice", "2")
    send(here, "bob", "3")
    assert texts_of(here, "alice") == texts_of(here, "bob") == ["1", "2", "3"]
    here.broker.end()
    shutil.copy(here.folder / "yesterday.db", here.broker.store)
    ends_path(here.broker.store).unlink()
    here.restart_broker()
    for name in ("alice", "bob"):
        assert "it went back" in fault_of(here, name)
        assert "go out with" not in rejoin_through(here, name)
        assert texts_of(here, name) == ["1"]
    send(here, "bob", "4")
    assert texts_of(here, "alice") == ["1", "4"]


def test_rejoin_after_an_honest_restore(here: World) -> None:
    """A new log names the former one: what each wrote since the backup goes out again, once.

    Also bob's, of which he has nothing but a receipt.
    """
    send(here, "alice", "1")
    backup = str(here.folder / "backup.db")
    assert zchat(here.broker.home, "broker", "backup", backup).returncode == 0
    send(here, "alice", "2")
    send(here, "bob", "3")
    here.broker.end()
    assert zchat(here.broker.home, "broker", "restore", backup).returncode == 0
    here.restart_broker()
    for name in ("alice", "bob"):
        assert "and started a new log" in fault_of(here, name)
        assert "1 message(s) of yours that it lost go out with" in rejoin_through(here, name)
        send(here, name, f"{name} is back")
    expected = ["1", "2", "alice is back", "3", "bob is back"]
    assert texts_of(here, "alice") == texts_of(here, "bob") == expected


def test_what_waits_when_its_author_rejoins_accuses_nobody_again(
    tmp_path: Path, template: Path
) -> None:
    """It was written over what a server dropped that went back: it is said anew, and once.

    Of bob's, which is dropped too, his replica may hold only the receipt: then it comes behind.
    """
    with rogue_world(tmp_path, template, "rollback=2:after=3") as world:
        send(world, "alice", "1", "2")
        assert texts_of(world, "alice") == ["1", "2"]
        world.broker.kill()
        offline = ("send", "lobby", "written offline", "--timeout", "1", "--name", "alice")
        assert world.run("alice", *offline).returncode == 3
        world.restart_broker()
        send(world, "bob", "3, which is dropped with 2")
        assert "it went back" in fault_of(world, "alice")
        assert "1 message(s) of yours wait" in rejoin_through(world, "alice")
        send(world, "alice", "back")
        expected = ["1", "written offline", "back"]
        assert texts_of(world, "alice") == expected
        assert "it signed another history up to #3" in fault_of(world, "bob")
        rejoin_through(world, "bob")
        assert texts_of(world, "bob")[:3] == expected


def test_tail_ends_with_4_where_signed_entries_are_held_back(
    tmp_path: Path, template: Path
) -> None:
    """It is no contradiction that could be proved, and a fault all the same."""
    with rogue_world(tmp_path, template, "withhold=2:after=1") as world:
        send(world, "alice", "1")
        assert texts_of(world, "bob") == ["1"]
        send(world, "alice", "2")
        done = world.run("bob", "tail", "lobby", "--name", "bob", ZCHAT_WITHHELD_S="1")
        assert done.returncode == 4
        assert "alice~" in done.stdout and ": 1\n" in done.stdout
        assert "it signed #2 and does not deliver what follows #1" in done.stderr


def test_rejoin_after_a_fork(tmp_path: Path, template: Path) -> None:
    """Both sides go on in what the server holds, once it lies no more."""
    with rogue_world(tmp_path, template, "fork=1/2:after=1:cross=4") as world:
        send(world, "alice", "together")
        send(world, "bob", "there 1", "there 2")
        send(world, "alice", "here 1", "here 2")
        assert "another history" in fault_of(world, "bob")
        world.repent()
        rejoin_through(world, "bob")
        send(world, "bob", "back")
        assert texts_of(world, "bob") == texts_of(world, "alice")


def test_rejoin_where_the_message_that_crossed_stays(tmp_path: Path, template: Path) -> None:
    """The log that is gone on with holds what accused it: that is told, and ends nothing again."""
    with rogue_world(tmp_path, template, "fork=1/2:after=1:cross=4") as world:
        send(world, "alice", "together")
        send(world, "bob", "there 1", "there 2")
        send(world, "alice", "here 1")
        send(world, "bob", "there 3, and here")
        assert "another history" in fault_of(world, "alice")
        world.repent()
        rejoin_through(world, "alice")
        assert texts_of(world, "alice") == ["together", "here 1", "there 3, and here"]
        send(world, "alice", "back")
        told = world.run("alice", "tail", "lobby", "--all", "--name", "alice")
        assert told.returncode == 0
        assert "accepted by your rejoin: it showed bob~" in told.stdout
        assert ": back\n" in told.stdout
        assert "shows another log" not in fault_of(world, "bob")
        rejoin_through(world, "bob")
        assert texts_of(world, "bob") == ["together", "here 1", "there 3, and here", "back"]


def test_rejoin_accepts_what_stands_there_and_nothing_later(tmp_path: Path) -> None:
    """A message that counter-signs another history accuses again, if it came after."""
    with Bench(tmp_path) as bench:
        alice = bench.member("alice")
        alice.say("one")
        other = bench.log_key.sign_head(alice.keys.tag, alice.room.checked.log, 1, bytes(32), 0)
        witness = Insider(bench, bench.keys())
        bench.log_envelope(witness.text("I saw something else", seq=1, seen=other.packed))
        alice.must_show(FAULT)
        alice.stop()
        vault = Vault(alice.folder)
        record = vault.room(alice.keys.tag)
        assert record is not None
        rejoin(Opened(vault, alice.keys, record, float("inf")))
        vault.close()
        for _ in range(2):
            alice.start()
            bench.settle()
            alice.must_show("accepted by your rejoin: it showed mallory~")
            alice.must_not_show(FAULT)
            alice.say("and on we go")
            alice.stop()
        alice.start()
        bench.log_envelope(witness.text("again something else", seq=2, seen=other.packed))
        alice.must_show(FAULT + ": it showed mallory~")
        assert alice.room.fault
