"""The whole walk with real processes: what issue of a chat a user would notice first."""

import json
import re

from tests.processes import PASSPHRASE, World, wait_for, zchat


def test_two_members_see_each_other(here: World) -> None:
    """Each sees the other's lines and their own, once, in one order."""
    alice, bob = here.join("alice"), here.join("bob")
    alice.type("hello from alice\n")
    bob.expect(r"^\d\d:\d\d alice~[0-9a-f]{4}: hello from alice$")
    bob.type("hello from bob\n")
    alice.expect(r"^\d\d:\d\d bob~[0-9a-f]{4}: hello from bob$")
    alice.end_input()
    bob.end_input()
    assert (alice.wait(), bob.wait()) == (0, 0)
    texts = [[line.split(": ", 1)[1] for line in member.lines] for member in (alice, bob)]
    assert texts[0] == texts[1] == ["hello from alice", "hello from bob"]


def test_who_joins_later_sees_the_history(here: World) -> None:
    """Carol was not there and reads everything; all three compute the same words."""
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    assert here.run("bob", "send", here.broker.invite(), "two").returncode == 0
    carol = here.run("carol", "join", here.broker.invite(), "--name", "carol")
    assert [line.split(": ", 1)[1] for line in carol.stdout.splitlines()] == ["one", "two"]
    words = {here.run(name, "verify", "lobby", "--at", "2").stdout for name in ("alice", "bob")}
    words.add(here.run("carol", "verify", "lobby").stdout)
    assert len(words) == 1
    assert len(words.pop().split()) == 8


def test_a_mistyped_passphrase_is_not_taken_for_the_right_one(here: World) -> None:
    """It leads to an empty room; the right one is believed afterwards, the wrong one no more."""
    assert here.run("bob", "send", here.broker.invite(), "one").returncode == 0
    typed = here.folder / "typed"
    arguments = ("join", here.broker.invite(), "--name", "dave", "--passphrase-file", str(typed))
    typed.write_text(PASSPHRASE.replace("wick", "wicked"))
    mistyped = here.run("dave", *arguments)
    assert (mistyped.returncode, mistyped.stdout) == (0, "")
    assert "Nobody has spoken" in mistyped.stderr
    typed.write_text(PASSPHRASE)
    right = here.run("dave", *arguments)
    assert right.returncode == 0, right.stderr
    assert right.stdout.endswith(": one\n")
    typed.write_text(PASSPHRASE.replace("wick", "wicked"))
    assert here.run("dave", *arguments).returncode == 7
    assert len(here.run("dave", "rooms").stdout.splitlines()) == 1


def test_the_words_verify_only_whom_they_cover(here: World) -> None:
    """Who spoke first after #N was no part of the words at #N: not verified by them."""
    for name in ("alice", "carol"):
        assert here.run(name, "send", here.broker.invite(), "hello").returncode == 0
    early = here.run("alice", "verify", "lobby", "--matches", "1", "--with", "carol")
    assert early.returncode == 1
    assert "first spoke at #2; the words at #1 do not cover that" in early.stderr
    bob, alice = here.join("bob"), here.terminal("alice")
    alice.expect("bob~[0-9a-f]{4} is here")
    for typed, answer in [
        ("/trust carol", "compare first: /verify shows the words to read to each other"),
        ("/verify 1", "at #1: ([a-z]+ ){7}[a-z]+"),
        ("/trust carol", "carol~.* first spoke at #2; the words at #1 do not cover that"),
        ("/trust bob", "'bob' has not spoken here yet"),
        ("/verify", "at #2: ([a-z]+ ){7}[a-z]+"),
        ("/trust carol", "carol counts as verified"),
    ]:
        alice.type(f"{typed}\r")
        alice.expect(f"^-- {answer}")
    bob.end_input()
    assert bob.wait() == 0


def test_a_thousand_lines(here: World) -> None:
    """`seq 1000 | zchat send lobby -`, and tail gives them back in order, all stored."""
    lines = "".join(f"{i}\n" for i in range(1, 1001))
    sent = here.run("alice", "send", here.broker.invite(), "-", stdin=lines)
    assert sent.returncode == 0, sent.stderr
    got = here.run("alice", "tail", "lobby", "--last", "1000", "--json")
    rows = [json.loads(line) for line in got.stdout.splitlines()]
    assert [row["text"] for row in rows] == [str(i) for i in range(1, 1001)]
    assert {row["status"] for row in rows} == {"stored"}


def test_broker_killed_in_the_middle(here: World) -> None:
    """Kill -9 while alice types; after the restart every line arrives once, in order."""
    alice, bob = here.join("alice"), here.join("bob")
    bob.expect_note("alice.* is here")
    for i in range(20):
        alice.type(f"line {i}\n")
        if i == 10:
            alice.expect("line 5$")
            here.broker.kill()
    alice.expect_note("offline since")
    here.restart_broker()
    bob.expect("line 19$")
    alice.end_input()
    assert alice.wait() == 0
    expected = [f"line {i}" for i in range(20)]
    assert [line.split(": ", 1)[1] for line in bob.lines] == expected
    assert [line.split(": ", 1)[1] for line in alice.lines] == expected


def test_two_processes_of_one_member(here: World) -> None:
    """While alice's chat is open, a pipe of hers sends, too: both arrive, no alarm."""
    bob, alice = here.join("bob"), here.join("alice")
    alice.type("from the chat\n")
    bob.expect("from the chat")
    lines = "".join(f"{i}\n" for i in range(100))
    sent = here.run("alice", "send", "lobby", "-", "--name", "alice", stdin=lines)
    assert sent.returncode == 0, sent.stderr
    alice.type("and again\n")
    bob.expect("and again")
    numbers = [int(m[1]) for m in re.finditer(r": (\d+)$", bob.out, re.MULTILINE)]
    assert numbers == list(range(100))
    alice.expect("and again")
    assert alice.out.count(": ") == 102
    for member in (alice, bob):
        assert "!!" not in member.err
        assert "missing" not in member.err


def test_audit_shows_no_name_room_or_text(here: World) -> None:
    """After a conversation the broker holds nothing of it that can be read."""
    alice = here.join("alice")
    alice.type("a-unique-text\n")
    alice.expect("a-unique-text")
    done = zchat(here.folder / "host", "broker", "audit")
    assert done.returncode == 0
    assert "sealed: " in done.stdout
    for word in ("alice", "lobby", "a-unique-text"):
        assert word not in done.stdout
        assert word.encode().hex() not in done.stdout
    wait_for("alice is still there", lambda: alice.process.poll() is None)
