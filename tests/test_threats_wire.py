"""A server that reads, measures, guesses and downgrades; and what libraries must not do for it.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence.
"""

import ast
import base64
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import nacl
import pytest
import zmq
from nacl import bindings

from tests.processes import PASSPHRASE, World, wait_for, zchat
from tests.threats import Bench, Insider, Member, red, rogue_world
from zchat.errors import Unopenable
from zchat.member.strength import ENOUGH_BITS, bits, price
from zchat.protocol.body import Text, encode
from zchat.protocol.envelope import EnvelopeClass, Header, take_apart
from zchat.protocol.keys import Author, RoomKeys, derive_root, room_salt
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Head, LogKey, head_holds
from zchat.protocol.limits import HEAD_BYTES, ROOT_MEMORY_BYTES, ROOT_OPS
from zchat.protocol.seal import open_envelope
from zchat.protocol.words import canonical_passphrase, generate_passphrase
from zchat.protocol.wire import Entries, decode_to_broker

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
        fast = {"ZCHAT_BEAT_MIN_S": "0.3", "ZCHAT_BEAT_MAX_S": "0.3"}
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
    """Nothing new comes; perhaps old heartbeats, again and again. It gets a name, and no verdict."""
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
