"""A server that lies about what was said: altered, forged, replayed, dropped, split, rolled back.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import json
import random
import re
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.processes import PASSPHRASE, Running, Terminal, World, wait_for, zchat
from tests.threats import Bench, Insider, Member, RogueWorld, red, rogue_world
from zchat.errors import Malformed, ServerFault, Unopenable
from zchat.lab.logged import Drop
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
from zchat.protocol.wire import (
    Cast,
    Entries,
    Item,
    Join,
    Leave,
    Position,
    Post,
    Ready,
    Refuse,
    decode_to_broker,
    encode,
    unpack_batch,
)

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
    """Four members get every batch in another order: their transcripts are the same, to the byte."""
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
        alice.expect("^!! Posting has stopped; reading goes on")
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
        refuse = {"req": 0, "k": 0, "room": tag, "retry_after_ms": 0}
        words = [
            *(encode(Refuse(code=code, text="alice was removed", **refuse)) for code in CODES),
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


def another_alice(world: World) -> None:
    """Somebody with the passphrase and a key of their own, who says they are alice."""
    passphrase = world.home("mallory") / "passphrase"
    passphrase.write_text(PASSPHRASE)
    done = world.run(
        *("mallory", "send", world.broker.invite(), "it is me"),
        *("--name", "alice", "--passphrase-file", str(passphrase)),
    )
    assert done.returncode == 0, done.stderr


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
