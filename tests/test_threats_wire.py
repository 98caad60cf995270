"""A server that reads, measures, guesses and downgrades; and what libraries must not do for it.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import ast
import base64
import random
import re
import secrets
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from nacl import bindings

from tests.processes import World, wait_for, zchat
from tests.threats import Bench, Insider, envelopes_of, red, rogue_world
from zchat.errors import Unopenable
from zchat.member.invite import Origin
from zchat.member.strength import ENOUGH_BITS, bits, price
from zchat.protocol import wire
from zchat.protocol.envelope import EnvelopeClass, Header
from zchat.protocol.keys import Author, RoomKeys, derive_root
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Head, head_holds
from zchat.protocol.limits import HEAD_BYTES, ROOT_MEMORY_BYTES, ROOT_OPS
from zchat.protocol.seal import open_envelope
from zchat.protocol.wire import Cast, decode_to_broker
from zchat.protocol.words import canonical_passphrase, generate_passphrase

PACKAGE = Path(__file__).resolve().parent.parent / "zchat"


# ---- R1: what it can read ----

CANARIES = ("canary-name", "canary-room", "canary the text", "canary-otter-basin-scarf-wick")


def r1(world: World) -> None:
    """A name, a room, a text and a passphrase that nobody else uses: nowhere on the server."""
    name, room, text, passphrase = CANARIES
    (world.home("alice") / "passphrase").write_text(passphrase)
    sent = world.run(
        *("alice", "send", world.broker.invite(room), text, "--new", "--name", name),
        *("--passphrase-file", str(world.home("alice") / "passphrase")),
    )
    assert sent.returncode == 0, sent.stderr
    assert "sealed: " in zchat(world.broker.home, "broker", "audit").stdout
    world.broker.end()
    held = {path: path.read_bytes() for path in world.broker.home.rglob("*") if path.is_file()}
    assert sum(map(len, held.values())) > 20_000
    for path, raw in held.items():
        for canary in CANARIES:
            assert not any(form in raw for form in forms(canary)), f"{canary!r} is in {path}"


def forms(canary: str) -> Iterator[bytes]:
    """The ways in which a text is likely to be written down."""
    raw = canary.encode()
    yield raw
    yield raw.hex().encode()
    yield canary.encode("utf-16-le")
    for shift in range(3):  # base64 at any alignment, without the letters its neighbours decide
        yield base64.b64encode(bytes(shift) + raw)[4:-4]


def test_R1_nothing_of_a_conversation_is_on_the_server(here: World) -> None:
    r1(here)


def test_R1_control_if_boxes_were_open(here: World) -> None:
    red(lambda: r1(here), "sealing", because="'canary-name' is in .*log.db")


# ---- R9: frozen ----


def r9_on_screen(folder: Path, template: Path) -> None:
    """Bob is shown nothing new, and everything else goes on as ever."""
    with rogue_world(folder, template, "freeze=2:after=1", "listen") as world:
        fast: dict[str, Any] = {"ZCHAT_BEAT_MIN_S": "0.3", "ZCHAT_BEAT_MAX_S": "0.3"}
        alice = world.join("alice", **fast)
        world.broker.expect_note("member 1: JOIN")
        bob = world.terminal("bob", **fast)
        bob.expect("alice~.* is here")
        alice.type("one\n")
        bob.expect("alice~.*: one")
        alice.type("two\n")
        alice.expect("two$")
        bob.expect("no proof of freshness for .*: the server may hold things back", patience_s=8)
        bob.expect("stale [0-9]+ s")
        bob.type("is anybody there?\r")
        bob.expect("1 on the way")
        assert ": two" not in bob.text


def r9(folder: Path, lie: str) -> None:
    """Nothing new comes; perhaps old heartbeats, again and again: a name for it, no verdict."""
    with Bench(folder, lie) as bench:
        alice, bob = bench.pair()
        alice.say("one")
        bench.pass_time(100)
        bob.must_show("alice~.* is here")
        bob.must_not_show("freshness")
        alice.say("two")
        bench.pass_time(300)
        bench.check()
        assert bob.texts == ["one"]
        bob.must_show("^-- no proof of freshness for .*: the server may hold things back$")
        bob.must_not_show("!!")
        bob.say("anybody?")
        assert not bob.confirmed


@pytest.mark.parametrize("lie", ["freeze=2:after=1", "freeze=2:after=1:beats=1"])
def test_R9_who_is_frozen_sees_that_proof_is_missing(tmp_path: Path, lie: str) -> None:
    r9(tmp_path, lie)


def test_R9_control_if_silence_were_peace(tmp_path: Path) -> None:
    red(lambda: r9(tmp_path, "freeze=2:after=1"), "freshness", because="does not see")


def test_R9_control_if_old_heartbeats_counted(tmp_path: Path) -> None:
    row = lambda: r9(tmp_path, "freeze=2:after=1:beats=1")  # noqa: E731
    red(row, "echo", because="does not see")


def test_R9_the_screen_says_so(tmp_path: Path, template: Path) -> None:
    r9_on_screen(tmp_path, template)


# ---- R14: silent readers ----


def r14(world: World) -> None:
    """Nobody can see a silent reader who has the passphrase; so it stands where one writes."""
    bob = world.terminal("bob")
    bob.expect("E2E on")
    flat = " ".join(bob.text.split())
    assert "whoever learns the passphrase can read this room's history" in flat, bob.text
    docs = PACKAGE.parent / "docs" / "protocol.md"
    assert re.search("can read the whole history of .*, silently", docs.read_text("utf-8"))


def test_R14_the_screen_says_who_could_be_reading(here: World) -> None:
    r14(here)


def test_R14_planted_a_screen_that_promises_more(here: World) -> None:
    red(lambda: r14(here), "limit note", because="E2E on")


# ---- R16, R17: salts, costs, versions, transports ----


def r16_in_process(folder: Path) -> None:
    """Salt and cost in every word after a proper greeting: no word of it is taken for one."""
    with Bench(folder, "salt:greets=1") as bench:
        alice, bob = bench.pair()
        tag, root = bob.keys.tag, bob.keys.root
        alice.say("one")
        bench.pass_time(5)
        assert not alice.confirmed and bob.texts == [], "a word with a salt was taken"
        assert (bob.keys.tag, bob.keys.root) == (tag, root)


def r16_on_screen(folder: Path, template: Path) -> None:
    """Such a greeting gets nothing, and costs nothing: neither a word nor memory."""
    with rogue_world(folder, template, "salt", "listen") as world:
        bob = world.join("bob", ZCHAT_ANSWER_TIMEOUT_S="1")
        world.broker.expect_note("HELLO", count=1)
        wait_for("it says HELLO again, or goes on", lambda: world.broker.err.count("\n") > 1)
        assert "JOIN" not in world.broker.err, "it went on after a greeting with a salt"
        assert peak_bytes(bob.process.pid) < ROOT_MEMORY_BYTES
        bob.expect_note(r"^-- offline since .* \(no answer\); retrying, what you write is kept")


def peak_bytes(pid: int) -> int:
    """The most memory a running process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("settings", ["?ops=1&mem=67108864", "?salt=00", ";ops=1", "?"])
def test_R16_an_invite_with_settings_is_refused(tmp_path: Path, settings: str) -> None:
    """Before anything is derived or anybody is called."""
    key = base64.urlsafe_b64encode(bytes(69)).rstrip(b"=").decode()
    done = zchat(tmp_path / "home", "join", f"zchat://127.0.0.1:1/room{settings}#{key}")
    assert done.returncode == 1
    assert "That invite cannot be used: it" in done.stderr
    assert "Deriving" not in done.stderr


def test_R16_salt_and_cost_in_every_word_change_nothing(tmp_path: Path) -> None:
    r16_in_process(tmp_path)


def test_R16_a_greeting_with_a_salt_gets_nothing(tmp_path: Path, template: Path) -> None:
    r16_on_screen(tmp_path, template)


def test_R16_control_if_a_word_could_hold_more(tmp_path: Path, template: Path) -> None:
    red(lambda: r16_in_process(tmp_path / "1"), "one encoding", because="a salt was taken")
    row = lambda: r16_on_screen(tmp_path / "2", template)  # noqa: E731
    red(row, "one encoding", because="it went on after a greeting with a salt")


def r17_older_version(folder: Path, template: Path) -> None:
    """It speaks an older protocol: a sentence, and not one word more."""
    with rogue_world(folder, template, "downgrade", "listen") as world:
        done = world.run("alice", "send", world.broker.invite(), "hello", "--name", "alice")
        assert "JOIN" not in world.broker.err, "it went on in an older protocol"
        assert done.returncode == 3
        assert "speaks another version of the protocol" in done.stderr


def r17_plain_text(world: World) -> None:
    """Somebody without the server's key answers at its address, and takes plain text."""
    world.broker.end()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as listener:
        listener.linger = 0
        listener.bind(f"tcp://{world.broker.address}")
        alice = world.join("alice")
        noticed = "something else than this server answers there"
        wait_for("it notices", lambda: noticed in alice.err or bool(listener.poll(0)))
        assert not listener.poll(0), f"it speaks in the clear: {listener.recv_multipart()[1:]}"
        alice.expect_note("^-- offline since .*; retrying, what you write is kept")


def r17_other_log_key(folder: Path, template: Path) -> None:
    """The right transport key and another log key: then no two heads could ever contradict."""
    with rogue_world(folder, template, "other-key", "listen") as world:
        done = world.run("alice", "send", world.broker.invite(), "hello", "--name", "alice")
        assert "JOIN" not in world.broker.err, "it went on with another log key"
        assert done.returncode == 4
        assert "Nothing was sent" in done.stderr


def test_R17_an_older_version_is_left_at_once(tmp_path: Path, template: Path) -> None:
    r17_older_version(tmp_path, template)


def test_R17_control_if_any_version_would_do(tmp_path: Path, template: Path) -> None:
    row = lambda: r17_older_version(tmp_path, template)  # noqa: E731
    red(row, "protocol version", because="in an older protocol")


def test_R17_nothing_is_said_in_plain_text(here: World) -> None:
    r17_plain_text(here)


def test_R17_control_if_plain_text_would_do(here: World) -> None:
    red(lambda: r17_plain_text(here), "curve", because="it speaks in the clear")


def test_R17_another_log_key_is_left_at_once(tmp_path: Path, template: Path) -> None:
    r17_other_log_key(tmp_path, template)


def test_R17_control_if_any_log_key_would_do(tmp_path: Path, template: Path) -> None:
    row = lambda: r17_other_log_key(tmp_path, template)  # noqa: E731
    red(row, "log key pin", because="with another log key")


# ---- R18, R19, R20: guessing, two-faced boxes, reactions ----

P1305 = (1 << 130) - 5  # RFC 8439, section 2.5: the field of Poly1305


def opens_under(keys: Sequence[bytes], nonce: bytes, length: int, rng: random.Random) -> bytes:
    """A box of `length` bytes of text that every one of these keys opens, to some text or other.

    Poly1305 of a ciphertext is a polynomial over its blocks; as many blocks as there are keys are
    chosen so that all keys give one tag (Len, Grubbs and Ristenpart, 2021; Dodis et al., 2018).
    """
    streams = [xsalsa20_start(key, nonce) for key in keys]
    clamp = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    r = [int.from_bytes(stream[:16], "little") & clamp for stream in streams]
    s = [int.from_bytes(stream[16:], "little") for stream in streams]
    count = length // 16
    assert length % 16 == 0 and count > len(keys)
    while True:
        tag = rng.getrandbits(128)
        blocks = [rng.getrandbits(128) | 1 << 128 for _ in range(count - len(keys))]
        fixed = [horner(blocks, each, count) for each in r]
        rows = [
            [pow(each, len(keys) - i, P1305) for i in range(len(keys))]
            + [((tag - pad) % (1 << 128) + (rng.randrange(3) << 128) - known) % P1305]
            for each, pad, known in zip(r, s, fixed, strict=True)
        ]
        solved = solve(rows)
        if solved is not None and all(block >> 128 == 1 for block in solved):
            text = b"".join((b & (1 << 128) - 1).to_bytes(16, "little") for b in blocks + solved)
            return tag.to_bytes(16, "little") + text


SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def salsa20(key: bytes, block: bytes) -> tuple[list[int], list[int]]:
    """The 20 rounds of Salsa20 over a key and 16 bytes: what went in, and what comes out."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", block)
    start = [SIGMA[0], *k[:4], SIGMA[1], *n, SIGMA[2], *k[4:], SIGMA[3]]
    x = list(start)
    columns = [(0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)]
    rows = [(0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)]
    for a, b, c, d in (columns + rows) * 10:
        for to, one, two, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
            total = (x[one] + x[two]) & 0xFFFFFFFF
            x[to] ^= (total << turn | total >> 32 - turn) & 0xFFFFFFFF
    return start, x


def xsalsa20_start(key: bytes, nonce: bytes) -> bytes:
    """The first 32 bytes of XSalsa20's stream: what secretbox takes as Poly1305's key."""
    _, x = salsa20(key, nonce[:16])
    subkey = struct.pack("<8I", *(x[i] for i in (0, 5, 10, 15, 6, 7, 8, 9)))
    start, x = salsa20(subkey, nonce[16:] + bytes(8))
    words = ((one + two) & 0xFFFFFFFF for one, two in zip(start, x, strict=True))
    return struct.pack("<16I", *words)[:32]


def horner(blocks: Sequence[int], r: int, count: int) -> int:
    """What the leading blocks add to the polynomial of `count` blocks."""
    value = 0
    for block in blocks:
        value = (value + block) * r % P1305
    return value * pow(r, count - len(blocks), P1305) % P1305


def solve(rows: list[list[int]]) -> list[int] | None:
    """Gauss over the field of Poly1305; None where there is no single solution."""
    size = len(rows)
    for i in range(size):
        pivot = next((j for j in range(i, size) if rows[j][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        inverse = pow(rows[i][i], -1, P1305)
        rows[i] = [value * inverse % P1305 for value in rows[i]]
        for j in range(size):
            if j != i:
                factor = rows[j][i]
                rows[j] = [(a - factor * b) % P1305 for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[size] for row in rows]


def two_faced(
    author: Author, rooms: Sequence[RoomKeys], committed: RoomKeys, rng: random.Random
) -> bytes:
    """An envelope whose box opens in all these rooms of one tag, with the commitment of one."""
    header = Header(1, 1, EnvelopeClass.LOG, 0, 0, rng.randbytes(24), author.public)
    keys = [room.message_keys(header.packed)[0] for room in rooms]
    box = opens_under(keys, header.nonce, 512, rng)
    for key in keys:
        assert len(bindings.crypto_secretbox_open(box, header.nonce, key)) == 512
    unsigned = header.packed + committed.message_keys(header.packed)[1] + box
    return unsigned + author.sign(digest(Label.SIGN, 64, rooms[0].tag + unsigned))


def guesses(true: RoomKeys, count: int, rng: random.Random) -> list[RoomKeys]:
    """The true key of a room among guesses at it; the tag is public, so all have it."""
    others = [RoomKeys(rng.randbytes(32)) for _ in range(count - 1)]
    for other in others:
        other.tag = true.tag
    return [true, *others]


def why_not(room: RoomKeys, envelope: bytes) -> str:
    """The check at which an envelope fails; empty if it opens."""
    try:
        open_envelope(room, envelope, EnvelopeClass.LOG)
    except Unopenable as error:
        return error.check
    return ""


def r18(folder: Path) -> None:
    """Boxes that open under 2 to 6 guesses, the true one among them: the victim does nothing."""
    rng = random.Random(18)
    with Bench(folder / "a") as bench, Bench(folder / "b") as other:
        (alice, bob), (_, untouched) = bench.pair(), other.pair()
        for count in range(2, 7):
            stranger = Insider(bench, bench.keys(), seed=bytes(32))
            tried = guesses(bench.keys(), count, rng)
            envelope = two_faced(stranger.author, tried, tried[1], rng)
            assert why_not(bench.keys(), envelope) == "commitment", "the box itself was tried"
            bench.deliver(bob, wire.encode(Cast(room=bench.keys().tag), envelope))
            bench.log_envelope(envelope)
        assert bob.texts == alice.texts == []
        assert shapes(bob.sent) == shapes(untouched.sent), "it reacted to a guess"


def shapes(sent: Iterable[tuple[bytes, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    """What a server sees of messages: their kinds and lengths."""
    seen = []
    for frames in sent:
        word, _ = decode_to_broker(frames)
        seen.append((type(word).__name__, tuple(map(len, frames))))
    return seen


def test_R18_boxes_for_many_guesses_tell_nothing(tmp_path: Path) -> None:
    r18(tmp_path)


def test_R18_control_without_commitments_the_box_is_tried(tmp_path: Path) -> None:
    red(lambda: r18(tmp_path), "commitment", because="the box itself was tried")


def r19() -> None:
    """One ciphertext for two rooms' keys: whatever is committed to, only one of them gets to it."""
    rng = random.Random(19)
    for _ in range(20):
        one, other = guesses(RoomKeys(rng.randbytes(32)), 2, rng)
        author = Author(rng.randbytes(32), one)
        envelope = two_faced(author, [one, other], one, rng)
        failed = [why_not(room, envelope) for room in (one, other)]
        assert failed[1] == "commitment", f"both opened the box: {failed}"


def test_R19_one_ciphertext_never_opens_for_two(tmp_path: Path) -> None:
    r19()


def test_R19_control_without_commitments_both_open_it(tmp_path: Path) -> None:
    red(r19, "commitment", because="both opened the box")


def broken(envelope: bytes, how: int, insider: Insider) -> bytes:
    """The same length, and it fails at one check or another."""
    if how == 0:
        return envelope[:80] + bytes([envelope[80] ^ 1]) + envelope[81:]  # commitment
    if how == 1:
        return envelope[:-1] + bytes([envelope[-1] ^ 1])  # signature
    if how == 2:
        unsigned = envelope[:200] + bytes([envelope[200] ^ 1]) + envelope[201:-64]  # box
        covered = digest(Label.SIGN, 64, insider.keys.tag + unsigned)
        return unsigned + insider.author.sign(covered)
    return insider.seal(b"\xc1" * 300)  # body


def r20(folder: Path, pairs: int) -> None:
    """What opens and what does not, one by one: a server sees no difference in what comes back."""
    with Bench(folder / "good") as good, Bench(folder / "bad") as bad:
        sides = []
        for bench in (good, bad):
            bob = bench.member("bob")
            sides.append((bench, bob, Insider(bench, bench.keys(), seed=bytes(32))))
        for first in range(0, pairs, 10):
            for bench, bob, insider in sides:
                numbers = range(first, min(first + 10, pairs))
                envelopes = [insider.text(f"{number}", seq=number + 1) for number in numbers]
                if bench is bad:
                    envelopes = [broken(e, n % 4, insider) for n, e in enumerate(envelopes)]
                bench.log_envelope(*envelopes)
                casts = (envelope[:2] + b"\x01" + envelope[3:] for envelope in envelopes)
                bench.deliver(bob, *(wire.encode(Cast(bench.keys().tag), each) for each in casts))
                bench.pass_time(2, step=2)
        (_, reader, _), (_, other, _) = sides
        assert len(reader.texts) == pairs and other.texts == []
        assert shapes(reader.sent) == shapes(other.sent), "what does not open is answered otherwise"


def test_R20_nothing_answers_what_does_not_open(tmp_path: Path) -> None:
    r20(tmp_path, 1_000)


def test_R20_control_if_it_asked_again(tmp_path: Path) -> None:
    red(lambda: r20(tmp_path, 4), "silence", because="is answered otherwise")


# ---- R21, R22, R23: lengths, times, links ----


def r21(folder: Path) -> None:
    """Sizes of all texts of 1 to 300 bytes, and of many up to 20,000, as they go out."""
    with Bench(folder) as bench:
        alice = bench.member("alice")
        lengths = [*range(1, 301), *range(301, 20_000, 97)]
        for at in range(0, len(lengths), 100):
            alice.say(*("x" * length for length in lengths[at : at + 100]))
        sizes = [len(envelope) for envelope in envelopes_of(alice)]
        assert len(sizes) == len(lengths)
        assert len(set(sizes[:200])) == 1, "lengths of short texts are visible"
        for length, size in zip(lengths, sizes, strict=True):
            assert size <= max(695, (length + 700) * 1.12)
        assert len(set(sizes)) < 80


def test_R21_a_short_text_is_as_long_as_any_other(tmp_path: Path) -> None:
    r21(tmp_path)


def test_R21_control_without_padding(tmp_path: Path) -> None:
    red(lambda: r21(tmp_path), "padding", because="lengths of short texts are visible")


def r22(folder: Path, template: Path) -> None:
    """Typing, reading, a hidden reaction, an edit of nothing: the server hears nothing of it."""
    with rogue_world(folder, template, "listen") as world:
        calm: dict[str, Any] = {"ZCHAT_BEAT_MIN_S": "3000", "ZCHAT_BEAT_MAX_S": "3000"}
        bob = world.terminal("bob", **calm)
        bob.expect("/help lists commands")
        world.broker.expect_note("member 1: CAST")
        alice = world.join("alice", **calm)
        alice.type("one\n")
        bob.expect("alice~[0-9a-f]{4}: one$")
        alice.expect("one$")
        bob.type("I begin to wri")
        bob.expect("^> I begin to wri$")
        alice.type("two\n")
        bob.expect("alice~[0-9a-f]{4}: two$")
        bob.type("te this\r")
        bob.expect("bob: I begin to write this$")
        said = re.findall(r"member 1: ([A-Z]+)", world.broker.err)
        heard = said[said.index("CAST") + 1 :]
        assert heard.count("POST") == 1
        assert heard.count("CAST") <= 1, f"typing was heard: {said}"


def r22_hidden(folder: Path) -> None:
    """Bodies of kinds to come, that nobody is shown anything of or that name no entry."""
    with Bench(folder) as bench:
        _, bob = bench.pair()
        insider = Insider(bench, bench.keys())
        said = len(bob.sent)
        for seq, kind in enumerate(("react", "edit", "redact", "profile"), 1):
            first = {"kind": kind, "name": "m", "incarnation": insider.incarnation, "seq": seq}
            body = {**first, "seen": bytes(HEAD_BYTES), "of": bytes(32)}
            bench.log_envelope(insider.seal(msgspec.msgpack.encode(body)))
        bob.must_show("a message this version cannot show \\(react\\)")
        assert len(bob.sent) == said, "a hidden reaction was answered"


def test_R22_typing_and_reading_are_not_heard(tmp_path: Path, template: Path) -> None:
    r22(tmp_path, template)


def test_R22_control_if_typing_were_told(tmp_path: Path, template: Path) -> None:
    red(lambda: r22(tmp_path, template), "quiet typing", because="typing was heard")


def test_R22_hidden_reactions_are_not_answered(tmp_path: Path) -> None:
    r22_hidden(tmp_path)


def test_R22_control_if_everything_were_answered(tmp_path: Path) -> None:
    red(lambda: r22_hidden(tmp_path), "quiet reading", because="was answered")


def r23(folder: Path) -> None:
    """One person in two rooms: what the server stores of one has no 16 bytes in common with it."""
    with Bench(folder) as bench:
        for room in ("lobby", "den"):
            alice = bench.member("alice", room=room)
            alice.say(*(f"{number} in the {room}" for number in range(10)))
            bench.clock.time += 60
        stored = [windows(bench, room) for room in ("lobby", "den")]
        assert min(map(len, stored)) > 5_000
        common = stored[0] & stored[1]
        assert not common, f"{len(common)} pieces in common"


def windows(bench: Bench, room: str) -> set[bytes]:
    """All runs of 16 bytes in what members posted to a room."""
    tag = bench.keys(room).tag
    found: set[bytes] = set()
    for entry in bench.log.read(tag, 1, 10):
        raw = entry.envelope or b""
        found.update(raw[at : at + 16] for at in range(len(raw) - 15))
    return found


def test_R23_rooms_of_one_person_have_nothing_in_common(tmp_path: Path) -> None:
    r23(tmp_path)


def test_R23_control_with_one_key_for_all_rooms(tmp_path: Path) -> None:
    red(lambda: r23(tmp_path), "key per room", because="pieces in common")


# ---- R24: guessing passphrases ----


def r24(world: World) -> None:
    """A passphrase that is cheap to break makes no new room unless its maker insists."""
    (world.home("alice") / "weak").write_text("hunter2")
    wanted = ("alice", "send", world.broker.invite("den"), "hello", "--new", "--name", "dora")
    file = ("--passphrase-file", str(world.home("alice") / "weak"))
    done = world.run(*wanted, *file)
    assert done.returncode == 1, "a weak passphrase made a room"
    assert re.search(r"too weak for a new room: about \$.* to break", done.stderr)
    assert "sealed: " not in zchat(world.broker.home, "broker", "audit").stdout
    assert world.run(*wanted, *file, "--weak-passphrase").returncode == 0
    assert "sealed: " in zchat(world.broker.home, "broker", "audit").stdout


def test_R24_a_weak_passphrase_is_refused_with_its_price(here: World) -> None:
    r24(here)


def test_R24_control_if_any_passphrase_would_do(here: World) -> None:
    red(lambda: r24(here), "strength", because="a weak passphrase made a room")


def test_R24_what_a_server_can_guess_costs_what_is_said() -> None:
    """An attacker with the store: a known weak passphrase is found, at 256 MiB for each guess."""
    origin = Origin(bytes(32), bytes(32))
    tag = RoomKeys(derive_root(canonical_passphrase("hunter2"), origin.salt("den"))).tag
    began = time.monotonic()
    found = [
        guess
        for guess in ("password", "letmein", "hunter2")
        if RoomKeys(derive_root(canonical_passphrase(guess), origin.salt("den"))).tag == tag
    ]
    each_s = (time.monotonic() - began) / 3
    print(f"one guess: {each_s:.2f} s; 10,000 guesses: {each_s * 10_000 / 60:.0f} min")
    assert found == ["hunter2"]
    assert (ROOT_MEMORY_BYTES, ROOT_OPS) == (256 * 1024 * 1024, 3)
    assert bits("hunter2") < ENOUGH_BITS < 60 < bits(generate_passphrase(secrets.randbelow))
    assert float(price(60).replace(",", "")) > 1e11


# ---- R28: giants ----


def r28(folder: Path, template: Path) -> None:
    """A frame of a megabyte: cut off by libzmq, a fresh connection, and on it goes."""
    with rogue_world(folder, template, "giant:after=1") as world:
        alice = world.join("alice", ZCHAT_ANSWER_TIMEOUT_S="1")
        alice.type("one\n")
        alice.expect("one$")
        bob = world.join("bob", ZCHAT_ANSWER_TIMEOUT_S="1")
        bob.expect("alice~.*: one$")
        alice.type("two\n")
        bob.expect("alice~.*: two$")
        alice.expect("two$")
        alice.type("three\n")  # what comes after the giant comes by a fresh connection
        bob.expect("alice~.*: three$")
        alice.expect("three$")
        assert "offline since" in alice.err + bob.err, "a frame of a megabyte was taken"
        for member in (alice, bob):
            assert peak_bytes(member.process.pid) < 150 * 1024 * 1024


def address_space(pid: int) -> str:
    """How much address space a process may have at most."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"Max address space\s+(\S+)", limits)
    assert found is not None
    return found[1]


def r28_endless(world: World) -> None:
    """A message of endless frames is held whole before anybody sees it: the process has a bound."""
    bob = world.join("bob")
    bob.type("hello\n")
    bob.expect("hello$")
    assert address_space(bob.process.pid) == str(4 * 1024**3), "it could take the machine"


def test_R28_a_giant_frame_costs_a_connection(tmp_path: Path, template: Path) -> None:
    r28(tmp_path, template)


def test_R28_control_if_any_size_would_do(tmp_path: Path, template: Path) -> None:
    red(lambda: r28(tmp_path, template), "message size", because="of a megabyte was taken")


def test_R28_an_endless_message_has_an_end(here: World) -> None:
    r28_endless(here)


def test_R28_control_if_a_process_had_no_bound(here: World) -> None:
    red(lambda: r28_endless(here), "address space", because="could take the machine")


# ---- R32, R33: what libraries must not do ----

GROUP_ORDER = (1 << 252) + 27742317777372353535851937790883648493
SMALL_ORDER = [
    bytes([1]) + bytes(31),
    bytes(32),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


def r32(folder: Path) -> None:
    """Signatures in another form, and keys for which anything is a signature: none passes."""
    with Bench(folder, "malleable:after=1") as bench:
        alice, bob = bench.pair()
        alice.say("one")
        alice.say("two")
        insider = Insider(bench, bench.keys())
        whole = insider.text("signed by nobody")
        for key in SMALL_ORDER:
            for r in SMALL_ORDER:
                forged = resealed(bench.keys(), whole, key) + r + bytes(32)
                bench.log_envelope(forged)
                assert not head_holds(
                    Head(bytes(32), 1, bytes(32), 0, r + bytes(32)), bytes(16), key
                )
        bench.check()
        assert bob.texts == ["one"]
        bob.must_show("unreadable entry #2")
        assert (
            len([line for line in bob.lines if "unreadable" in line]) == 1 + len(SMALL_ORDER) ** 2
        )


def resealed(room: RoomKeys, envelope: bytes, sender: bytes) -> bytes:
    """The same text from another sender, sealed properly, up to its signature."""
    header = Header(1, 1, EnvelopeClass.LOG, 0, 0, bytes(24), sender)
    key, commitment = room.message_keys(header.packed)
    opened = open_envelope(room, envelope, EnvelopeClass.LOG)
    text = struct.pack(">I", len(opened.body)) + opened.body
    box = bindings.crypto_secretbox(text.ljust(512, b"\0"), header.nonce, key)
    return header.packed + commitment + box


def test_R32_no_other_form_of_a_signature_passes(tmp_path: Path) -> None:
    r32(tmp_path)


def test_R32_control_without_signatures(tmp_path: Path) -> None:
    red(lambda: r32(tmp_path), "signature", because="what nobody wrote|assert")


def names_in(source: str) -> set[str]:
    """Every name, attribute and import of a source."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def uses(banned: set[str], sources: dict[str, str]) -> list[str]:
    """Where a source has a name that it must not have."""
    return [
        f"{at}: {sorted(names_in(s) & banned)}" for at, s in sources.items() if names_in(s) & banned
    ]


def package() -> dict[str, str]:
    found = {str(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert len(found) > 60
    return found


# CVE-2025-69277: it takes points that are not in the main group for valid.
POINT_CHECK = {"crypto_core_ed25519_is_valid_point"}
DECODERS = {
    *("zlib", "gzip", "bz2", "lzma", "zipfile", "tarfile", "zstd", "zstandard", "compression"),
    *("brotli", "lz4", "snappy", "blosc", "decompress", "decompressobj"),
}


def test_R32_the_point_check_that_was_wrong_is_not_used() -> None:
    assert uses(POINT_CHECK, package()) == []
    pinned = (PACKAGE.parent / "pyproject.toml").read_text("utf-8")
    assert '"pynacl>=1.6.2"' in pinned
    assert tuple(map(int, version("pynacl").split("."))) >= (1, 6, 2)


def test_R32_planted_a_use_of_it() -> None:
    planted = "from nacl import bindings\nbindings.crypto_core_ed25519_is_valid_point(b'')\n"
    assert uses(POINT_CHECK, {"planted": planted})


def test_R33_nothing_is_ever_decompressed(tmp_path: Path) -> None:
    """No decoder in the program; a bomb that somebody says is the bytes that it is."""
    assert uses(DECODERS, package()) == []
    with Bench(tmp_path) as bench:
        alice, bob = bench.pair()
        bomb = base64.b64encode(zlib.compress(bytes(30_000_000))).decode()
        alice.say(bomb)
        bench.check()
        assert bob.texts == [bomb]


@pytest.mark.parametrize(
    "planted", ["import zlib", "from gzip import open as o", "codec.decompress(b'')"]
)
def test_R33_planted_a_decoder(planted: str) -> None:
    assert uses(DECODERS, {"planted": planted})
