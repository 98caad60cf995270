"""Members who break the rules: they know the passphrase, and their program is not ours.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import random
import re
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests import fuzz, reference
from tests.processes import World, world, zchat
from tests.test_gate import Peer
from tests.test_hostile_text import (
    CONTROL_NAMES,
    JOINERS,
    MISREAD,
    NAMES,
    OBEYED,
    finished,
    is_seen,
    leaks,
    say,
)
from tests.threats import Bench, Insider, Member, envelopes_of, red
from zchat.lab.worlds import Fork
from zchat.member.names import shown_name
from zchat.member.vault import Vault, member_folder
from zchat.protocol.body import Beat, Text
from zchat.protocol.envelope import EnvelopeClass, Header, envelope_id
from zchat.protocol.ledger import LogKey
from zchat.protocol.limits import HEAD_BYTES, MAX_PLACE
from zchat.protocol.wire import NOT_DECODABLE, Cast, Post, Refuse, encode
from zchat.ui.fold import folded

FAULT = "^!! the server contradicted itself"
MALLORY = "mallory~[0-9a-f]{4}"


def wrote(
    bench: Bench, insider: Insider, text: str, *, name: str = "mallory", seq: int = 1
) -> bytes:
    """An envelope of an insider that is what it seems: members may show it."""
    envelope = insider.text(text, name=name, seq=seq)
    bench.written[envelope_id(envelope)] = (insider.author.public, text)
    return envelope


# ---- M1: look-alikes ----

ALICES = [
    *("Alice", "ALICE", "aLiCe", "a1ice", "aIice", "al1ce", "alίce"),
    *("аlice", "alісе", "αlice", "ａｌｉｃｅ", "ⓐⓛⓘⓒⓔ", "𝐚𝐥𝐢𝐜𝐞", "𝓪𝓵𝓲𝓬𝓮", "ᴀʟɪᴄᴇ"),
    *("alice ", " alice", "a lice", "alice\u00a0", "alice.", "alice-", "al.ice"),
    *("alice\u200b", "a\u200dlice", "alice\ufe0f", "\ufeffalice", "a\u00adlice"),
    *("alice\u3164", "alice\u2800", "alice\U000e0061", "ali\u0307ce", "alic\u0435"),
]


def m1(folder: Path) -> None:
    """Thirty spellings of a name that somebody has: each is marked, and none takes the name."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        alice.say("I am alice")
        for number, name in enumerate(ALICES):
            bench.log_envelope(wrote(bench, Insider(bench, bench.keys()), f"{number}", name=name))
        bench.check()
        known = shown_name(alice.room.own_key, "alice", trusted=False)
        marked = [line for line in bob.lines if line.startswith("!! ") and known in line]
        assert len(marked) == len(ALICES), f"of {len(ALICES)} marked: {marked}"
        names = {message.shown for message in bob.messages}
        assert len(names) == 1 + len(ALICES), "two of them look the same"
        alice.say("I still am")
        assert bob.messages[-1].shown == known


def m1_on_screen(folder: Path, template: Path) -> None:
    """One of them in a terminal: what it is taken for stands there, with both marks."""
    with world(folder / "world", template) as here:
        bob = here.terminal("bob")
        say(here, "alice", [("alice", "hello")])
        bob.expect("alice~[0-9a-f]{4}: hello$")
        say(here, "carol", [("аlice", "it is me")])
        bob.expect("~[0-9a-f]{4}: it is me$")
        assert "looks like" in bob.text, f"nothing is told in:\n{bob.text}"
        bob.expect("^!! аlice~[0-9a-f]{4} looks like alice~[0-9a-f]{4}, and is somebody else$")


def test_M1_who_looks_like_somebody_is_marked(tmp_path: Path) -> None:
    assert len(ALICES) >= 30
    m1(tmp_path)


def test_M1_control_if_a_name_were_whose_it_is(tmp_path: Path) -> None:
    red(lambda: m1(tmp_path), "names", because="marked: ")


def test_M1_the_screen_says_so(tmp_path: Path, template: Path) -> None:
    m1_on_screen(tmp_path, template)


def test_M1_control_on_screen(tmp_path: Path, template: Path) -> None:
    red(lambda: m1_on_screen(tmp_path, template), "names", because="nothing is told")


# ---- M2, M3: texts that terminals obey and people misread ----

SPLIT = ["\x1b]52;c;", "cm0gLXJmIH4=\x07", "\x1b", "[41m", "\x9d0;ow", "ned\x9c"]


def m2(folder: Path, template: Path) -> None:
    """In texts, in names, over two messages: a real terminal shows it, and does nothing of it."""
    with world(folder / "world", template) as here:
        alice = here.terminal("alice", columns=200, rows=50)
        alice.expect("/help lists commands")
        said = [*OBEYED.values(), *SPLIT]
        say(here, "bob", [("bob", text) for text in said])
        named = [(name, "named so") for name in (*NAMES.values(), *CONTROL_NAMES)]
        say(here, "bob", [*named, ("bob", "the end")])
        alice.expect(": the end$")
        alice.type("/quit\r")
        raw = finished(alice)
        found = leaks(raw, prompt=True)
        assert not found, f"a terminal would obey {found[:3]}"
        assert (alice.screen.title, alice.screen.icon_name) == ("", "")
        assert "^[]52;c;cm0gLXJmIH4=^G" in alice.text
        assert alice.text.count("unreadable entry #") == len(CONTROL_NAMES)
        exported = zchat(here.home("alice"), "tail", "lobby", "--all")
        assert leaks(exported.stdout.encode()) == []
        assert ": the end" in exported.stdout


def test_M2_a_terminal_obeys_nothing_of_what_others_write(tmp_path: Path, template: Path) -> None:
    m2(tmp_path, template)


def test_M2_control_without_the_sanitiser(tmp_path: Path, template: Path) -> None:
    red(lambda: m2(tmp_path, template), "sanitiser", because="a terminal would obey|a text waits")


def seen_of(text: str) -> str:
    """The characters of a text that have a place of their own."""
    return "".join(char for char in text if is_seen(char) and char not in JOINERS)


def m3(folder: Path) -> None:
    """Text that runs backwards, hides or piles up: in the order in which it was written."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        for key, text in MISREAD.items():
            bob.lines.clear()
            alice.say(text)
            line = bob.lines[-1]
            rows = "\n".join(folded(line, 30, 40))
            assert not leaks(f"{line}\n{rows}".encode()), f"{key} gets through: {line!r}"
            opened = line.strip("\u2068\u2069").split(": ", 1)[1]
            written = iter(text.replace("\r\n", "⏎").replace("\n", "⏎"))
            shown = seen_of(re.sub(r"<U\+[0-9A-F]{4}>", "", opened)).strip("\u2068\u2069")
            kept = shown.replace("[hidden characters removed]", "").rstrip(" ")
            assert all(char in written for char in kept), f"{key} in another order: {line!r}"
            assert not re.search("[\u0300-\u036f\u0488\u0489]{5}", line), f"{key} piles up"
            hides = any(not is_seen(char) for char in text.replace("\r", "").replace("\n", ""))
            told = "[hidden characters removed]" in line or "<U+" in line
            assert told == hides, f"{key}: {line!r}"
        bench.check()


def test_M3_text_stands_in_its_own_order_and_hides_nothing(tmp_path: Path) -> None:
    m3(tmp_path)


def test_M3_control_without_the_sanitiser(tmp_path: Path) -> None:
    red(lambda: m3(tmp_path), "sanitiser", because="gets through")


# ---- M4: lines that are not there ----

FAKED = "I think so\n12:00 alice~0000: I agree\n-- server says: all is well\n!! SERVER FORKED\n> \n"
NOT_MALLORYS = r"^(\d\d:\d\d (alice|carol)|-- server says|!! |> .)"


def m4(folder: Path, template: Path) -> None:
    """A text that looks like a row of somebody else, like the prompt, like a note of ours."""
    with world(folder / "world", template) as here:
        bob = here.terminal("bob", columns=100)
        bob.expect("/help lists commands")
        start = len(f"12:00 {'mallory'}~abcd: x")
        padded = "x" + " " * (100 - start) + "12:00 carol~0000: I agree, too"
        letters = "y" * (100 - start + 1) + "12:00 carol~0000: and so do I"
        tabs = "z\t" * 12 + "-- goodnight"
        say(here, "alice", [("mallory", text) for text in (FAKED, padded, letters, tabs)])
        say(here, "alice", [("mallory", "the end")])
        bob.expect(f"{MALLORY}: the end$")
        for said in ("I agree", "I agree, too", "and so do I", "goodnight"):
            bob.expect(said)
        faked = [row for row in bob.rows if re.match(NOT_MALLORYS, row)]
        assert not faked, f"mallory made rows that look like others': {faked}"


def test_M4_nobody_can_make_a_row_that_is_not_theirs(tmp_path: Path, template: Path) -> None:
    m4(tmp_path, template)


@pytest.mark.parametrize("defence", ["gutter", "rows"])
def test_M4_control_if_rows_were_free(tmp_path: Path, template: Path, defence: str) -> None:
    red(lambda: m4(tmp_path, template), defence, because="look like others'")


# ---- M5: one number, two messages ----


def m5(folder: Path) -> None:
    """Both stand in one log: the first counts, the second is told and not shown."""
    with Bench(folder) as bench:
        _, bob = bench.pair()
        insider = Insider(bench, bench.keys())
        for seq in range(1, 17):
            bench.log_envelope(wrote(bench, insider, f"number {seq}", seq=seq))
        bench.log_envelope(wrote(bench, insider, "I owe you 5", seq=17))
        bench.log_envelope(wrote(bench, insider, "I owe you nothing", seq=17))
        bench.check()
        bob.must_show(f"^-- {MALLORY} sent two different messages #17: #17 counts, #18 does not$")
        assert bob.texts[-1] == "I owe you 5"
        bob.must_not_show("I owe you nothing|!!")


def m5_apart(folder: Path) -> None:
    """One for each half of a room that a server keeps apart: the first that crosses proves it."""
    fork = Fork("1/2", after=1, cross=3)
    with Bench(folder, fork) as bench:
        alice, bob = bench.pair()
        alice.say("together")
        insider, tag = Insider(bench, bench.keys()), bench.keys().tag
        for ghost, text in (
            (bench.rogue.ghost, "I owe you 5"),
            (fork._world.ghost, "I owe you nothing"),
        ):
            ghost.post(tag, wrote(bench, insider, text), bench.clock.now(), bytes(16))
            bench.settle()
        assert (alice.texts[-1], bob.texts[-1]) == ("I owe you 5", "I owe you nothing")
        bob.say("apart")
        alice.say("apart, too")
        bench.pass_time(1)
        alice.say("this one crosses")
        bench.check()
        crossed = [member for member in (alice, bob) if len(member.faults) > 0]
        assert crossed, "they never learn of it"
        crossed[0].must_show(FAULT + ": it showed .* another history")


def test_M5_a_second_message_of_one_number_is_told_and_not_shown(tmp_path: Path) -> None:
    m5(tmp_path)


def test_M5_control_if_nobody_counted(tmp_path: Path) -> None:
    red(lambda: m5(tmp_path), "numbers", because="does not see")


def test_M5_one_number_for_each_half_of_a_room_is_found_out(tmp_path: Path) -> None:
    m5_apart(tmp_path)


def test_M5_control_if_nobody_looked_at_what_others_saw(tmp_path: Path) -> None:
    red(lambda: m5_apart(tmp_path), "seen", because="they never learn of it")


# ---- M6: floods ----

SLOW = {"ZCHAT_POST_BURST": "40", "ZCHAT_POSTS_PER_S": "1"}


def room_and_key(here: World, name: str) -> tuple[bytes, bytes]:
    """What everybody can see of a member: the room's tag, and the key they speak with there."""
    vault = Vault(member_folder(here.home(name), name))
    try:
        (known,) = vault.rooms()
        return known.tag, vault.public_key(known.record.root)
    finally:
        vault.close()


def m6(folder: Path, template: Path) -> None:
    """A thousand at once, of junk that bears alice's key: mallory is slowed, alice is not."""
    with world(folder / "world", template) as here:
        here.broker.end()
        here.restart_broker(**SLOW)
        alice, bob = here.join("alice"), here.join("bob")
        alice.type("one\n")
        bob.expect("alice~[0-9a-f]{4}: one$")
        tag, alices_key = room_and_key(here, "alice")
        with Peer(here.broker.stem) as mallory:
            mallory.hello()
            for k in range(1, 1_001):
                mallory.say(Post(room=tag, k=k), junk(alices_key, k))
            while not isinstance(refuse := mallory.receive()[0], Refuse):
                assert getattr(refuse, "k", 0) < 1_000, "nobody slowed mallory down"
            assert refuse.code == "rate" and refuse.retry_after_ms > 0
            for number in range(5):
                alice.type(f"still here {number}\n")
                bob.expect(f"alice~[0-9a-f]{{4}}: still here {number}$")
        assert bob.out.count("unreadable entry #") < 200
        assert "rate" not in alice.err + bob.err


def junk(sender: bytes, number: int) -> bytes:
    """An envelope of nothing that names a sender; no two are the same."""
    header = Header(1, 1, EnvelopeClass.LOG, 0, number, bytes(24), sender)
    return header.packed + bytes(32 + 16 + 512 + 64)


def m6_muted(folder: Path) -> None:
    """Who is muted says nothing any more; numbering and history go on, and it can be undone."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        insider = Insider(bench, bench.keys())
        bench.log_envelope(wrote(bench, insider, "spam 1"))
        assert bob.room.toggle_mute(insider.author.public)
        for seq in range(2, 200):
            bench.log_envelope(wrote(bench, insider, f"spam {seq}", seq=seq))
        alice.say("hello")
        bench.check()
        assert bob.texts == ["spam 1", "hello"], "a muted member is heard"
        assert len(alice.texts) == 200
        bob.must_not_show("missing|!!")


def test_M6_who_floods_is_slowed_and_nobody_else_is(tmp_path: Path, template: Path) -> None:
    m6(tmp_path, template)


def test_M6_control_without_rates(tmp_path: Path, template: Path) -> None:
    red(lambda: m6(tmp_path, template), "rates", because="nobody slowed mallory down")


def test_M6_who_is_muted_is_not_heard(tmp_path: Path) -> None:
    m6_muted(tmp_path)


def test_M6_control_if_nobody_could_be_muted(tmp_path: Path) -> None:
    red(lambda: m6_muted(tmp_path), "mute", because="a muted member is heard")


# ---- M7: clocks ----

TEN_YEARS_MS = 10 * 365 * 86_400_000


def m7(folder: Path) -> None:
    """Any time there is: it decides nothing, and what cannot be is marked."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        insider, now = Insider(bench, bench.keys()), bench.clock.wall_ms()
        early, ahead = (0, now - TEN_YEARS_MS), (now + TEN_YEARS_MS, MAX_PLACE, 2**64 - 1)
        times = [now, *ahead, *early, now]
        said = []
        for seq, at_ms in enumerate(times, 1):
            said.append(f"at {at_ms}, {seq}")
            body = Text("mallory", insider.incarnation, seq, bytes(HEAD_BYTES), said[-1])
            envelope = insider.seal(body, at_ms=at_ms)
            bench.written[envelope_id(envelope)] = (insider.author.public, said[-1])
            bench.log_envelope(envelope)
        alice.say("the end")
        bench.check()
        assert alice.texts == bob.texts == [*said, "the end"], "another order than the log's"
        for at_ms in ahead:
            bob.must_show(rf": at {at_ms}, \d \[clock\?\]$")
        for at_ms in early:
            bob.must_show(rf": at {at_ms}, \d \[sent \d\d:\d\d, arrived \d\d:\d\d\]$")
        bob.must_show(rf": at {now}, {len(times)}$")
        bob.must_not_show("!!|missing|different")
        restart(bob)
        assert bob.texts == alice.texts, "another order than the log's"


def restart(member: Member) -> None:
    """A new process of the same member."""
    member.stop()
    member.start()
    member.bench.settle()


def test_M7_a_senders_clock_decides_nothing(tmp_path: Path) -> None:
    m7(tmp_path)


@pytest.mark.parametrize(
    ("defence", "because"),
    [("late mark", "does not see"), ("log order", "another order than the log's")],
)
def test_M7_control_if_clocks_were_believed(tmp_path: Path, defence: str, because: str) -> None:
    red(lambda: m7(tmp_path), defence, because=because)


# ---- M12: poison ----


def m12(folder: Path, rounds: int = 400) -> None:
    """Bodies with something wrong, well sealed and signed: a row each, also after a restart."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        insider = Insider(bench, bench.keys())
        good = msgspec.msgpack.encode(
            Text("mallory", insider.incarnation, 1, bytes(HEAD_BYTES), "poison", bytes(32))
        )
        rng = random.Random(12)
        spoiled = [fuzz.spoiled_map(rng, good) for _ in range(rounds)]
        spoiled += [rng.randbytes(rng.randrange(1, 600)) for _ in range(rounds // 4)]
        spoiled += [b"\x91" * 60_000, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b""]
        try:
            bench.log_envelope(*(insider.seal(raw) for raw in spoiled))
            restart(bob)
        except NOT_DECODABLE as error:
            raise AssertionError(f"a body brought a member down: {error}") from None
        alice.say("we are alive")
        assert bob.texts[-1] == alice.texts[-1] == "we are alive"
        unreadable = {line for line in bob.lines if "unreadable entry #" in line}
        assert len(unreadable) == sum(not is_a_body(raw) for raw in spoiled) > rounds / 2
        bob.must_show("unreadable entry #1, from a member or the server$")
        bob.must_not_show(FAULT)


def is_a_body(raw: bytes) -> bool:
    """As the page alone decides."""
    try:
        reference.decode_body(raw, EnvelopeClass.LOG)
    except reference.Failure:
        return False
    return True


def m12_fuzzed() -> None:
    """What the fuzzer makes of bodies, words and batches, against broker and member."""
    tally = fuzz.fuzz(1_200, 12)
    assert tally.rounds >= 1_200


def test_M12_a_poisoned_body_is_a_row_and_nothing_more(tmp_path: Path) -> None:
    m12(tmp_path)


def test_M12_control_if_bodies_were_taken_for_sound(tmp_path: Path) -> None:
    red(lambda: m12(tmp_path), "body errors", because="brought a member down")


def test_M12_fuzzed_bodies_bring_nobody_down() -> None:
    m12_fuzzed()


def test_M12_control_fuzzed_bodies_find_the_hole() -> None:
    red(m12_fuzzed, "body errors", because="seed 12, world")


# ---- M13: an honest server, framed ----


def framed(bench: Bench, alice: Member) -> list[tuple[str, bytes]]:
    """Heads that the server of this room never signed for it, and what each claims."""
    tag, log, n = bench.keys().tag, alice.room.checked.log, alice.room.checked.n
    own, server = LogKey(bytes(32)), bench.log_key
    elsewhere = server.sign_head(bytes(16), bytes(32), 3, bytes(32), 0)
    return [
        ("another past", own.sign_head(tag, log, n, bytes(32), 0).packed),
        ("a future", own.sign_head(tag, log, MAX_PLACE, bytes(32), 0).packed),
        ("another log", own.sign_head(tag, bytes([7]) * 32, n, bytes(32), 0).packed),
        ("another room's head", elsewhere.packed),
        ("a signature of zeros", log + n.to_bytes(8, "big") + bytes(104)),
    ]


def m13(folder: Path) -> None:
    """False heads in messages and on the air, a number left out, a changed copy: no accusation."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        for number in range(3):
            alice.say(f"{number}")
        insider, tag = Insider(bench, bench.keys()), bench.keys().tag
        for number, (_, seen) in enumerate(framed(bench, alice)):
            said, seq = f"claim {number}", 2 * number + 2  # every other number is never sent
            envelope = insider.text(said, seq=seq, seen=seen)
            bench.written[envelope_id(envelope)] = (insider.author.public, said)
            bench.log_envelope(envelope)
            liar = Insider(bench, bench.keys())
            beat = Beat("mallory", bytes(16), 1, seen, bytes(8), (), leaving=False)
            cast = liar.seal(beat, envelope_class=EnvelopeClass.CAST)
            bench.deliver(bob, encode(Cast(room=tag), cast))
        real = envelopes_of(alice)[0]
        bench.log_envelope(real[:-1] + bytes([real[-1] ^ 1]))
        bench.pass_time(120)
        bench.check()
        for member in (alice, bob):
            member.must_not_show("!!")
            assert not member.faults, "an honest server is accused"
        alice.say("and on we go")
        assert bob.texts[-1] == "and on we go"
        assert bob.shows(f"^-- {MALLORY} claims a history the server never signed \\(#4\\)$")
        claims = [line for line in bob.lines if "claims a history" in line]
        assert len(claims) >= 5
        bob.must_show(rf"^-- 1 message from {MALLORY} missing \(#1\): never sent or not stored$")
        bob.must_show("unreadable entry #[0-9]+, from a member or the server$")


def test_M13_no_member_can_make_a_server_look_guilty(tmp_path: Path) -> None:
    m13(tmp_path)


def test_M13_control_if_a_head_needed_no_signature(tmp_path: Path) -> None:
    red(lambda: m13(tmp_path), "head signature", because="sees '!!'")


# ---- M14: the wrong way round ----


def m14(folder: Path) -> None:
    """A heartbeat in the log, a text on the air for one alone: neither is anything."""
    with Bench(folder) as bench:
        alice, bob = bench.pair()
        insider, tag = Insider(bench, bench.keys()), bench.keys().tag
        alice.say("one")
        beat = Beat("mallory", insider.incarnation, 1, bytes(HEAD_BYTES), bytes(8), (), False)
        bench.log_envelope(insider.seal(beat))
        aloud = insider.seal(beat, envelope_class=EnvelopeClass.CAST)
        bench.log_envelope(aloud[:2] + b"\0" + aloud[3:])
        whisper = insider.seal(
            Text("mallory", insider.incarnation, 1, bytes(HEAD_BYTES), "for you alone"),
            envelope_class=EnvelopeClass.CAST,
        )
        stored = insider.text("for you alone")
        for envelope in (whisper, stored, stored[:2] + b"\x01" + stored[3:]):
            bench.deliver(bob, encode(Cast(room=tag), envelope))
        bench.pass_time(5)
        bench.check()
        for member in (alice, bob):
            assert member.texts == ["one"]
            member.must_not_show("for you alone|mallory|!!")
            assert len([line for line in member.lines if "unreadable entry #" in line]) == 2


def test_M14_a_beat_is_no_message_and_a_whisper_is_nothing(tmp_path: Path) -> None:
    m14(tmp_path)


def test_M14_control_if_a_body_were_what_it_says(tmp_path: Path) -> None:
    red(partial(m14, tmp_path), "body class", because="what nobody wrote")
