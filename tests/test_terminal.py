"""Line mode and `zchat start` in a real terminal, judged by what its user would see.

Rules of this file: programs run in a pseudo-terminal, and a screen is emulated from the bytes they
wrote; what is looked at is that screen. One test here pays for Argon2id in full.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.processes import ZCHAT, Terminal, World, environment, wait_for
from zchat.ui.commands import COMMANDS

ROW = re.compile(r"^\d\d:\d\d (?P<name>[^:]+): (?P<text>.*)$")
LIMIT_NOTE = "whoever learns the passphrase can read this room's history"


def said(rows: list[str]) -> list[str]:
    """The texts of a room's lines, in the order of the screen."""
    return [found["text"] for row in rows if (found := ROW.match(row))]


def status(terminal: Terminal) -> str:
    """What stands below the prompt, its rows joined."""
    rows = terminal.rows
    ends = max((i for i, row in enumerate(rows) if row.startswith(">")), default=len(rows))
    return " ".join(row.strip() for row in rows[ends + 1 :] if row.startswith(" "))


def ready(terminal: Terminal) -> Terminal:
    """Wait for the prompt and the whole status below it."""
    terminal.until("prompt and status", lambda: LIMIT_NOTE in status(terminal))
    return terminal


# ---- what one sees ----


def test_the_room_scrolls_above_the_prompt(here: World) -> None:
    """Where one is, what others say, what one says; each once, in one order; then the prompt."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    alice.expect(rf"^-- You are alice in lobby at {re.escape(here.broker.address)}\.$")
    bob.type("hello alice\n")
    alice.expect(r"^\d\d:\d\d bob~[0-9a-f]{4}: hello alice$")
    alice.type("hello bob\r")
    alice.expect(r"^\d\d:\d\d alice: hello bob$")
    bob.expect(r"alice~[0-9a-f]{4}: hello bob$")
    ready(alice)
    assert said(alice.rows) == ["hello alice", "hello bob"]
    assert len([row for row in alice.rows if row.startswith(">")]) == 1
    alice.until("the status", lambda: "0 of 1 verified" in status(alice))


def test_who_is_alone_is_told_so_in_words(here: World) -> None:
    """No "0 of 0", no empty answer, no code over nothing."""
    alice = ready(here.terminal("alice"))
    assert "nobody else has spoken yet" in status(alice)
    assert "0 of 0" not in alice.text
    alice.type("/who\r")
    alice.expect(r"^-- nobody has spoken here yet$")
    alice.type("/verify\r")
    alice.expect(r"^-- nobody has spoken here yet: there is nothing to compare")


@pytest.mark.parametrize("columns", [40, 60, 80, 110, 132])
def test_no_part_of_the_status_is_cut_off(here: World, columns: int) -> None:
    """The status takes the rows it needs: its last words are the limit of the promise."""
    alice = ready(here.terminal("alice", columns=columns))
    parts = status(alice)
    for part in ("E2E on", "nobody else has spoken yet", "checked to ", "server: no faults seen"):
        assert part in parts
    assert parts.endswith(LIMIT_NOTE)


def test_messages_typed_while_others_talk_stay_whole(here: World) -> None:
    """Lines arrive between the key presses: neither they nor what is typed are disturbed.

    Where the terminal echoes keys by itself for a moment, they land in the room's lines.
    """
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    bob.expect_note("alice.* is here")
    typed = [f"a sentence of alice, number {i}" for i in range(40)]
    for i, sentence in enumerate(typed):
        for letter in f"{sentence}\r":
            alice.type(letter)
            alice.pump()
            time.sleep(0.001)
            if letter in "aei":
                bob.type(f"bob {i} {letter}\n")
    alice.type("the end")
    alice.expect(r": a sentence of alice, number 39$")
    alice.expect("^> the end$")
    others = [text for text in said(ready(alice).rows) if not text.startswith("bob ")]
    assert others == typed
    strange = [row for row in alice.rows if row and not ROW.match(row) and row[:1] not in "-> "]
    assert strange == []


def test_of_two_with_one_name_each_is_meant_by_the_mark(here: World) -> None:
    """Also the one who is verified, and shown without it."""
    assert here.run("bob", "send", here.broker.invite(), "hello").returncode == 0
    carol = ready(here.terminal("carol"))
    carol.type("/name bob\rhello, too\r")
    alice = here.terminal("alice")
    alice.expect(": hello, too$")
    marked = [row.split()[1].rstrip(":") for row in ready(alice).rows if ": hello" in row]
    alice.type(f"/verify\r/trust {marked[0]}\r")
    alice.expect("^-- bob counts as verified")
    alice.type("/mute bob\r")
    alice.expect(f"^-- several are called 'bob': {marked[0]}, {marked[1]}")
    alice.type(f"/mute {marked[0]}\r")
    alice.expect("^-- bob is muted")


def test_keys_pressed_while_the_program_is_busy_are_not_lost(here: World) -> None:
    """Commands and messages typed ahead of the prompt run in order; Ctrl-C among them is a key."""
    alice = ready(here.terminal("alice"))
    alice.type("first\r")
    alice.expect("alice: first$")
    alice.type("/verify\rsecond\rdraft\x03third\r")
    alice.expect("alice: third$")
    assert said(alice.rows) == ["first", "second", "third"]
    alice.type("/quit\r")
    assert alice.wait() == 0


def test_what_was_missed_is_marked_on_return(here: World) -> None:
    """History first, then a line between what was read and what is new, then the prompt."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    bob.type("seen\n")
    alice.expect(": seen$")
    alice.type("\x04")
    assert alice.wait() == 0
    bob.type("missed\n")
    bob.expect(": missed$")
    again = ready(here.terminal("alice"))
    rows = again.rows
    places = [
        next(i for i, row in enumerate(rows) if re.search(what, row))
        for what in (": seen$", r"^-- new since \d\d:\d\d$", ": missed$", r"^-- You are alice")
    ]
    assert places == sorted(places)


def test_no_color_is_respected(here: World) -> None:
    """NO_COLOR: names are told apart by their words alone."""
    coloured = ready(here.terminal("alice"))
    plain = ready(here.terminal("carol", NO_COLOR="1"))
    here.run("bob", "send", here.broker.invite(), "hello", "--name", "bob")
    for terminal in (coloured, plain):
        terminal.expect(": hello$")
    colour = re.compile(rb"\x1b\[[0-9;]*\b[349][0-7]m")
    assert colour.search(bytes(coloured.raw))
    assert not colour.search(bytes(plain.raw))


def test_a_dumb_terminal_gets_plain_lines(here: World) -> None:
    """TERM=dumb: the same room without a single escape sequence."""
    alice = here.terminal("alice", TERM="dumb")
    alice.type("hello\n")
    alice.expect(r"^\d\d:\d\d alice: hello$")
    alice.type("\x04")
    assert alice.wait() == 0
    assert b"\x1b" not in alice.raw


# ---- keys ----


def test_ctrl_c_clears_the_line_and_twice_leaves(here: World) -> None:
    """The first throws the draft away and says how to leave; the second leaves."""
    alice = ready(here.terminal("alice"))
    alice.type("a draft\x03")
    alice.expect("^-- Ctrl-C again, Ctrl-D or /quit leaves$")
    alice.type("another draft\x03")
    alice.expect("^-- Ctrl-C again, Ctrl-D or /quit leaves$", count=2)
    alice.type("kept\r")
    alice.expect("alice: kept$")
    alice.type("\x03\x03")
    assert alice.wait() == 0
    assert said(alice.rows) == ["kept"]


def test_ctrl_d_leaves_an_empty_line_only(here: World) -> None:
    """Behind a draft Ctrl-D does nothing; on an empty line it leaves."""
    alice = ready(here.terminal("alice"))
    alice.type("draft\x04 and more\r")
    alice.expect("alice: draft and more$")
    alice.type("\x04")
    assert alice.wait() == 0


def test_tab_completes_commands_and_names(here: World) -> None:
    """/he becomes /help, a name's beginning the name."""
    bob, alice = here.join("bob"), ready(here.terminal("alice"))
    bob.type("hello\n")
    alice.expect(": hello$")
    alice.type("/he\t")
    alice.expect("^> /help$")
    alice.type("\x03hi bo\t")
    alice.expect(r"^> hi bob~[0-9a-f]{4}$")


def test_alt_enter_breaks_the_line_and_asks_nothing(here: World) -> None:
    """Who broke the line on purpose means one message; each of its rows names its sender."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    bob.expect_note("alice.* is here")
    alice.type("one\x1b\rtwo\r")
    alice.expect("alice: two$")
    assert said(alice.rows) == ["one", "two"]
    bob.expect(r": one⏎two$")


@pytest.mark.parametrize(
    ("answer", "arrives"),
    [("o", ["one⏎two⏎⏎three"]), ("l", ["one", "two", "three"]), ("n", []), ("\rxo\rn", [])],
)
def test_pasting_several_lines_asks_once(here: World, answer: str, arrives: list[str]) -> None:
    """As one message, line by line, or not at all, which is said; anything else is asked again."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    bob.expect_note("alice.* is here")
    alice.paste("one\r\ntwo\r\n\r\nthree")
    alice.expect("^three$")
    alice.type("\r")
    alice.expect(r"^3 lines: \[o\]ne message, line by \[l\]ine, or \[n\]ot at all \(and Enter\)\?")
    alice.type(answer + "\r")
    if not arrives:
        alice.expect("^-- not sent$")
    alice.type("the end\r")
    bob.expect(": the end$")
    assert [line.split(": ", 1)[1] for line in bob.lines] == [*arrives, "the end"]
    ready(alice)
    assert "(and Enter)" not in alice.text, "the question stays on the screen"


def test_a_paste_of_many_lines_arrives_whole(here: World) -> None:
    """Four hundred lines, line by line, in order."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    bob.expect_note("alice.* is here")
    lines = [f"pasted line number {i}" for i in range(400)]
    alice.paste("\n".join(lines))
    alice.type("\r")
    alice.expect("^400 lines: ")
    alice.type("l\r")
    alice.expect(": pasted line number 399$")
    bob.expect(": pasted line number 399$")
    assert said(alice.rows) == lines
    assert [line.split(": ", 1)[1] for line in bob.lines] == lines


def test_a_long_line_wraps_and_arrives_whole(here: World) -> None:
    """Three thousand letters in one message, on a narrow screen, too."""
    alice, bob = ready(here.terminal("alice", columns=50)), here.join("bob")
    bob.expect_note("alice.* is here")
    long = "".join(f"word{i:04} " for i in range(330)) + "end"
    alice.type(long + "\r")
    bob.expect("end$")
    assert bob.lines[-1].split(": ", 1)[1] == long
    alice.expect("end$")
    ready(alice)
    assert re.sub(r"\s+", "", long) in re.sub(r"\s+", "", alice.text)


@pytest.mark.parametrize("columns", [40, 80, 100])
def test_no_part_of_a_message_stands_where_a_line_of_ours_begins(here: World, columns: int) -> None:
    """Padded by spaces, tabs, wide or invisible characters: no row looks like another's line."""
    alice = ready(here.terminal("alice", columns=columns))
    faked = ["12:00 alice: I agree", "-- server: all is well", "!! gone", "> typed"]
    pads = [*(" " * n for n in range(10, 200, 7)), "\t" * 12, "漢" * 60, "\u200b" * 90, "x" * 130]
    texts = [pad + fake for pad in pads for fake in faked]
    sent = here.run("bob", "send", here.broker.invite(), "--name", "bob", stdin="\n".join(texts))
    assert sent.returncode == 0
    here.run("bob", "send", "lobby", "the end")
    alice.expect(": the end$")
    begins = re.compile(r"\d\d:\d\d bob~[0-9a-f]{4}:( |$)")
    ours = re.compile(r" {6}|-- You are |-- Enter |-- \w+day,")
    above = alice.rows[: alice.rows.index(">")]
    assert [row for row in above if row and not begins.match(row) and not ours.match(row)] == []
    assert sum(begins.match(row) is not None for row in above) == len(texts) + 1


def test_a_message_that_is_too_long_comes_back_to_be_mended(here: World) -> None:
    """It is refused before anything is sent, and stands in the prompt again."""
    alice = ready(here.terminal("alice"))
    alice.paste("x" * 65_537)
    alice.type("\r")
    alice.expect("^-- The message has 65537 bytes; the most is 65536. It was not sent.$")
    alice.type("\x7f\r")
    alice.expect("alice: x{50}")
    got = here.run("alice", "tail", "lobby", "--json")
    assert [len(json.loads(line)["text"]) for line in got.stdout.splitlines()] == [65_536]


def test_the_screen_follows_the_window(here: World) -> None:
    """Narrower, lower, wider: the draft and the status stay whole."""
    alice = ready(here.terminal("alice"))
    alice.type("a draft that stays")
    for columns, rows in ((60, 12), (132, 40), (80, 24)):
        alice.resize(columns, rows)
        alice.expect("^> a draft that stays$")
        ready(alice)
    alice.type("\r")
    alice.expect("alice: a draft that stays$")


# ---- commands of a room ----


def test_help_lists_every_command(here: World) -> None:
    """With what it takes and what it does."""
    alice = ready(here.terminal("alice"))
    alice.type("/help\r")
    alice.expect("^-- //text sends a text that begins with a slash$")
    for name, command in COMMANDS.items():
        assert command.help
        row = f"-- /{name} {command.takes}".rstrip() + f": {command.help}"
        assert row in alice.rows
        assert len(row) <= 80, "help that wraps on an ordinary screen"


def test_every_command_does_what_its_help_says(here: World) -> None:
    """One after the other, as a user would try them."""
    bob, alice = here.join("bob"), ready(here.terminal("alice"))
    bob.type("hello\n")
    alice.expect(": hello$")
    alice.type("/who\r")
    alice.expect(r"^-- bob~[0-9a-f]{4}  not verified, last spoke .*, (here|away)$")
    alice.type("/verify\r")
    alice.expect(r"^-- at #1: ([a-z]+ ){7}[a-z]+$")
    alice.type("/trust bob\r")
    alice.expect("^-- bob counts as verified from now on$")
    alice.until("the status follows", lambda: "1 of 1 verified" in status(alice))
    alice.type("/mute bob\r")
    alice.expect("^-- bob is muted$")
    bob.type("not heard\n")
    bob.expect(": not heard$")
    alice.type("/mute bob\r")
    alice.expect("^-- bob is heard again$")
    alice.type("/name Alice II\r")
    alice.expect("^-- you are called Alice II from your next message on$")
    alice.type("//help is a command\r")
    alice.expect(": /help is a command$")
    alice.type("/retry\r")
    alice.expect("^-- online again$")
    bob.expect(r"Alice II~[0-9a-f]{4}: /help is a command$")
    assert "not heard" not in said(alice.rows)
    alice.type("/quit\r")
    assert alice.wait() == 0


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("/nonsense", r"^-- there is no command /nonsense; /help lists what there is\.$"),
        ("/trust", r"^-- what is missing here: /trust NAME\.$"),
        ("/mute nobody", r"^-- nobody here is called 'nobody'; /who lists who is\.$"),
        ("/verify 99", r"^-- '99' is not a place between 1 and 1\.$"),
        ("/verify -1", r"^-- '-1' is not a place between 1 and 1\.$"),
        ("/name", r"^-- what is missing here: /name NAME\.$"),
    ],
)
def test_a_command_typed_wrongly_is_answered(here: World, typed: str, answer: str) -> None:
    """With a sentence that says what would be right; the chat goes on, the prompt is empty."""
    alice = ready(here.terminal("alice"))
    alice.type("hello\r")
    alice.expect("alice: hello$")
    alice.type(typed + "\r")
    alice.expect(answer)
    alice.type("still here\r")
    alice.expect("alice: still here$")


# ---- trouble ----


def test_offline_is_told_once_and_what_is_typed_meanwhile_arrives(here: World) -> None:
    """Broker killed: one line, a count in the status; back: delivered, once, in order."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    alice.type("before\r")
    bob.expect(": before$")
    here.broker.kill()
    alice.expect(r"^-- offline since \d\d:\d\d \(.+\); retrying, what you write is kept$")
    alice.type("meanwhile one\rmeanwhile two\rdraft")
    alice.until("they wait", lambda: "2 on the way" in status(alice))
    assert re.search(r"offline since \d\d:\d\d", status(alice))
    bob.expect_note("offline since")
    here.restart_broker()
    alice.expect("^-- online again$")
    bob.expect(": meanwhile two$")
    alice.expect("alice: meanwhile two$")
    alice.until("nothing waits", lambda: "on the way" not in status(alice))
    alice.expect("^> draft$")
    assert said(alice.rows) == ["before", "meanwhile one", "meanwhile two"]
    assert len([row for row in alice.rows if row.startswith("-- offline since")]) == 1


def test_leaving_offline_says_what_stays_here(here: World) -> None:
    """Exit 3, the count and what becomes of it; the next visit delivers it."""
    alice = ready(here.terminal("alice"))
    here.broker.kill()
    alice.expect("^-- offline since")
    alice.type("not lost\r")
    alice.until("it waits", lambda: "1 on the way" in status(alice))
    alice.type("\x04")
    assert alice.wait() == 3
    assert "1 message(s) not confirmed" in alice.text
    assert "They go out with the next" in alice.text
    here.restart_broker()
    again = ready(here.terminal("alice"))
    again.expect("alice: not lost$")


def test_leaving_right_behind_a_message_delivers_it(here: World) -> None:
    """Enter and Ctrl-D in one breath."""
    alice, bob = ready(here.terminal("alice")), here.join("bob")
    alice.type("last words\r\x04")
    assert alice.wait() == 0
    bob.expect(": last words$")


def test_a_room_known_here_opens_without_its_server(here: World) -> None:
    """History is read, being offline is said at once, and the chat waits for the server."""
    here.run("alice", "join", here.broker.invite(), "--name", "alice", stdin="kept here\n")
    here.broker.end()
    alice = here.terminal("alice")
    alice.expect(": kept here$")
    alice.expect("^-- offline since")
    here.restart_broker()
    alice.expect("^-- online again$")


@pytest.mark.parametrize("leaving", ["/quit\r", "\x04", "\x03\x03", "SIGTERM"])
def test_the_terminal_is_given_back_as_it_was(here: World, leaving: str) -> None:
    """Echo, line editing, no bracketed paste, a cursor: however the chat ends."""
    alice = here.terminal("alice")
    before = termios.tcgetattr(alice.process.child_fd)
    ready(alice)
    assert termios.tcgetattr(alice.process.child_fd) != before
    if leaving == "SIGTERM":
        alice.process.kill(signal.SIGTERM)
    else:
        alice.type(leaving)
    alice.until("it ends", lambda: not alice.pump())
    assert b"".join(re.findall(rb"\x1b\[\?2004[hl]", alice.raw)).endswith(b"\x1b[?2004l")
    assert b"".join(re.findall(rb"\x1b\[\?25[hl]", alice.raw)).endswith(b"\x1b[?25h")
    assert termios.tcgetattr(alice.process.child_fd) == before
    assert alice.wait() == (143 if leaving == "SIGTERM" else 0)
    assert "Traceback" not in alice.text


def test_a_passphrase_is_asked_for_without_echo(here: World) -> None:
    """A misspelt word is pointed out before half a second of work; exit 7 for an empty room."""
    dora = here.terminal("dora", "tail", here.broker.invite(), "--name", "dora")
    dora.expect("^Passphrase of lobby: $|^Passphrase of lobby:$")
    dora.type("otter-basin-scarf-pencil-dug-wik\r")
    dora.expect("'wik' is not on the word list; did you mean 'wi")
    dora.expect("Type it again, or press Enter")
    dora.type("\r")
    dora.expect("^Deriving the room's key")
    assert dora.wait() == 7
    assert "Wrong passphrase, or nobody has spoken in 'lobby' yet." in dora.text
    assert "otter" not in dora.text


# ---- zchat start ----


def give_server(here: World, name: str) -> Path:
    """Make the server of the template this member's own, so that `start` finds room and key."""
    here.broker.end()
    home = here.home(name)
    shutil.copytree(here.broker.home / "broker", home / "broker")
    return home


def announced(home: Path) -> str:
    """The invite stem of the server that runs in a profile."""
    path = home / "broker" / "invite"
    wait_for("the server runs", path.exists)
    return path.read_text().strip()


START = ("start", "--name", "alice", "--listen", "127.0.0.1:0")


def test_start_shows_where_it_is_and_how_others_join(here: World) -> None:
    """In a terminal: the server's address, the line for the others, the prompt."""
    home = give_server(here, "alice")
    alice = ready(here.terminal("alice", *START))
    address = announced(home).removeprefix("zchat://").partition("/")[0]
    assert f"Server at {address}." in alice.rows
    assert f"  On the other computer:  zchat join zchat://{address}/lobby#" in alice.text
    alice.type("hello\r")
    alice.expect("alice: hello$")
    alice.type("\x04")
    assert alice.wait() == 0
    assert not (home / "broker" / "invite").exists(), "the server ends with the chat"


def test_start_with_piped_input_says_it_and_ends(here: World) -> None:
    """`printf 'hello\\n' | zchat start`: the message on stdout, all else on stderr, exit 0."""
    give_server(here, "alice")
    done = here.run("alice", *START, stdin="hello\n")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\d:\d\d alice: hello\n", done.stdout)
    assert "zchat join zchat://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_start_joins_the_first_ones_server(here: World) -> None:
    """It says so, chats there, and leaves the server running when it goes."""
    home = give_server(here, "alice")
    first = ready(here.terminal("alice", *START))
    done = here.run("alice", *START, stdin="from the second\n")
    assert done.returncode == 0, done.stderr
    assert "A server of this profile is running already; using it." in done.stderr
    first.expect("alice: from the second$")
    assert (home / "broker" / "invite").exists()
    first.type("still served\r")
    first.expect("alice: still served$")
    assert "your key" not in first.text


def test_who_stays_behind_is_told_of(here: World) -> None:
    """The host leaves while others are there: one line says how to keep the server."""
    home = give_server(here, "alice")
    alice = ready(here.terminal("alice", *START))
    invite = announced(home).replace("/#", "/lobby#")
    bob = here.join("bob", invite=invite)
    alice.expect("^-- bob~[0-9a-f]{4} is here$")
    alice.type("/who\r")
    alice.expect("^-- bob~[0-9a-f]{4}  has not spoken yet, here$")
    alice.type("\x04")
    assert alice.wait() == 0
    again = f"zchat broker --listen {invite.removeprefix('zchat://').partition('/')[0]}"
    assert f"1 other is still here. To go on without you: {again}" in alice.text
    bob.expect_note("offline since")


def test_a_killed_start_leaves_no_server_behind(here: World) -> None:
    """Kill -9: its server sees the end of its stdin and ends as well."""
    home = give_server(here, "alice")
    alice = ready(here.terminal("alice", *START))
    announced(home)
    alice.process.kill(signal.SIGKILL)
    assert alice.wait() == 128 + signal.SIGKILL
    wait_for("its server ends", lambda: not (home / "broker" / "invite").exists())


def test_a_terminal_that_is_closed_ends_the_chat(here: World) -> None:
    """SIGHUP: nothing of the program is left, and the replica is whole."""
    alice = ready(here.terminal("alice"))
    alice.type("before the end\r")
    alice.expect("alice: before the end$")
    pid = alice.process.pid
    assert pid is not None
    alice.end()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    got = here.run("alice", "tail", "lobby")
    assert got.stdout.endswith(": before the end\n")


def test_output_into_a_pipe_is_plain_even_from_a_terminal(here: World) -> None:
    """Somebody types, and stdout goes to a file: lines, and no prompt of ours in it."""
    out = here.folder / "out"
    command = " ".join(ZCHAT) + f" join '{here.broker.invite()}' --name alice > {out}"
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        input=b"typed\n\x04",
        env=environment(here.home("alice"), TERM="xterm"),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"\d\d:\d\d alice: typed\n", out.read_text())
