"""Looking through what a profile keeps: with real processes, and in replicas written here."""

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.processes import World
from tests.test_protocol import flip
from zchat.database import Access
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog
from zchat.member import archive
from zchat.member.archive import Query, search
from zchat.member.profile import Profile
from zchat.protocol.body import Text, Unknown, decode_logged, encode
from zchat.protocol.envelope import EnvelopeClass, envelope_id
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.limits import HEAD_BYTES
from zchat.protocol.seal import seal

ROOM = RoomKeys(bytes(range(32)))


@pytest.fixture
def talked(here: World) -> World:
    """A room in which alice and bob have spoken, and that bob has read."""
    invite = here.broker.invite()
    lines = "".join(f"Line {i}\n" for i in range(1, 11))
    assert here.run("alice", "send", invite, "-", stdin=lines).returncode == 0
    assert here.run("bob", "send", invite, "the DISK is full").returncode == 0
    assert here.run("bob", "tail", invite).returncode == 0
    here.broker.end()
    return here


def test_words_are_found_in_any_case_without_the_server(talked: World) -> None:
    """All words, in one message; from whom and since when narrow it."""
    found = talked.run("bob", "search", "lobby", "disk", "Full")
    assert (found.returncode, found.stdout.count("\n")) == (0, 1)
    assert "the DISK is full" in found.stdout
    assert talked.run("bob", "search", "lobby", "line", "--from", "bob").returncode == 1
    assert talked.run("bob", "search", "lobby", "line", "--since", "2100-01-01").returncode == 1
    assert talked.run("bob", "search", "lobby", "line", "--since", "soon").returncode == 2
    asked = talked.run("bob", "search", "lobby", "line", "--from", "alice", "--json")
    rows = [json.loads(row) for row in asked.stdout.splitlines()]
    assert [row["text"] for row in rows] == [f"Line {i}" for i in range(1, 11)]


def test_neighbours_are_shown_once_and_gaps_are_parted(talked: World) -> None:
    """What overlaps is one block."""
    found = talked.run("bob", "search", "lobby", "--regex", "Line (2|3|8)$", "-C", "1")
    shown = [line.split(" ")[0] for line in found.stdout.splitlines()]
    assert shown == ["#1", "#2", "#3", "#4", "--", "#7", "#8", "#9"]


def test_who_is_muted_is_not_found(talked: World) -> None:
    """Neither as a match nor as the neighbour of one, as in tail and in the chat."""
    row = json.loads(talked.run("bob", "search", "lobby", "Line 10", "--json").stdout)
    vault = Profile(talked.home("bob")).vault("bob")
    (known,) = vault.rooms()
    vault.mute(known.tag, bytes.fromhex(row["sender"]), muted=True)
    vault.close()
    assert talked.run("bob", "search", "lobby", "line").returncode == 1
    found = talked.run("bob", "search", "lobby", "disk", "-C", "5")
    assert (found.returncode, found.stdout.count("\n")) == (0, 1)


def test_a_pattern_that_is_none_or_explodes_ends_with_a_sentence(talked: World) -> None:
    """Nothing is found, nothing hangs, nothing crashes."""
    wrong = talked.run("bob", "search", "lobby", "--regex", "(")
    assert wrong.returncode == 1
    assert "cannot be used" in wrong.stderr
    talked.restart_broker()
    poison = "a" * 60 + "!"
    assert talked.run("alice", "send", "lobby", poison).returncode == 0
    assert talked.run("bob", "tail", "lobby").returncode == 0
    slow = talked.run("bob", "search", "lobby", "--regex", "(a|aa)+$")
    assert slow.returncode == 1
    assert "takes for ever" in slow.stderr


def test_a_room_that_was_never_read_holds_nothing(here: World) -> None:
    """A known room without a replica is empty; an unknown one is named."""
    assert here.run("bob", "search", "lobby", "x").returncode == 1
    unknown = here.run("bob", "search", "attic", "x")
    assert unknown.returncode == 1
    assert "No room 'attic' is known" in unknown.stderr


# ---- replicas written here ----


def said(seq: int, text: str) -> bytes:
    """The body of a text."""
    return encode(Text("alice", bytes(16), seq, bytes(HEAD_BYTES), text))


def sealed(body: bytes, sent_at_ms: int = 1) -> bytes:
    author = Author(bytes(32), ROOM)
    return seal(ROOM, author, EnvelopeClass.LOG, body, sent_at_ms, bytes(32))


def replica(folder: Path, envelopes: Iterable[bytes]) -> Path:
    """One that holds these."""
    path = folder / "replica.db"
    entries = [Entry(n, envelope_id(each), bytes(32), each) for n, each in enumerate(envelopes, 1)]
    log = SqliteLog(path, Access.REPLICA)
    log.append([Addition(ROOM.tag, entries, bytes(32))])
    log.close()
    return path


def places(path: Path, query: Query) -> list[int]:
    """Where it is found."""
    return [found.n for found in search(path, ROOM, query)]


def test_what_is_no_text_is_passed_over_whatever_it_holds(tmp_path: Path) -> None:
    """A kind of a later version may use the same names for something else."""
    first_pairs = {"name": "bob", "incarnation": bytes(16), "seq": 1, "seen": bytes(HEAD_BYTES)}
    odd = msgspec.msgpack.encode({"kind": "poll", **first_pairs, "text": 5, "reply_to": "disk"})
    assert isinstance(decode_logged(odd), Unknown)  # so a member keeps it
    path = replica(tmp_path, [sealed(odd), sealed(said(2, "the disk"))])
    assert places(path, Query(words=("disk",))) == [2]


def test_what_was_damaged_is_not_found(tmp_path: Path) -> None:
    """In what stands in clear, in the box, in the signature or the id; nor what lost its end."""
    sound = sealed(said(1, "the disk"))
    path = replica(tmp_path, [sealed(said(seq, "the disk")) for seq in range(1, 10)])
    damaged = [flip(sound, at) for at in (10, 40, 80, 200, -1)] + [sound[:-1], sound[:20], b""]
    with closing(sqlite3.connect(path)) as file, file:
        for n, envelope in enumerate(damaged, 1):
            file.execute("UPDATE entries SET envelope = ? WHERE place & 255 = ?", (envelope, n))
    assert places(path, Query(words=("disk",))) == [9]
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE entries SET id = zeroblob(32) WHERE place & 255 = 9")
    assert places(path, Query(words=("disk",))) == []


def test_what_is_too_old_is_not_held_against_a_pattern(tmp_path: Path) -> None:
    """So a pattern that explodes over what was said before that time harms nobody."""
    poison, fine = said(1, "a" * 60 + "!"), said(2, "aaa")
    path = replica(tmp_path, [sealed(poison, 1_000), sealed(fine, 2_000), sealed(fine, 3_000)])
    assert places(path, Query(pattern="(a|aa)+$", since_ms=2_000)) == [2, 3]
    assert places(path, Query(words=("a",), since_ms=2_001)) == [3]


def test_what_several_processes_find_is_in_log_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices shorter than a room in a test: each message is looked at once."""
    monkeypatch.setattr(archive, "_SLICE", 3)
    path = replica(tmp_path, [sealed(said(n, "odd" if n % 2 else "even")) for n in range(1, 15)])
    assert places(path, Query(pattern="odd")) == [*range(1, 15, 2)]
    assert places(path, Query(pattern=".")) == [*range(1, 15)]
