"""Every exit code, met by a real command, with the sentence that goes with it.

Rules of this file: a command ends with the code that `zchat --help` promises, says on stderr what
happened and what to do next, and never shows a traceback. One test here pays for Argon2id in full.
"""

import contextlib
import errno
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.processes import PASSPHRASE, ZCHAT, Running, World, environment, wait_for, zchat
from tests.test_server import BOUND
from zchat.broker.folder import log_path
from zchat.database import Access
from zchat.errors import Exit
from zchat.log.sqlite import SqliteLog
from zchat.member.invite import Invite, Origin, Server, parse_invite

Done = subprocess.CompletedProcess[str]


def ended(done: Done, code: Exit, *says: str) -> None:
    """It ended with `code`, said these words on stderr, and showed no traceback."""
    assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    for words in says:
        assert words in done.stderr


def entries(here: World) -> int:
    """How many messages the server holds."""
    return zchat(here.broker.home, "broker", "audit").stdout.count("sealed: ")


def shell(here: World, name: str, script: str) -> Done:
    """A line of bash in which `zchat` is the program and $INVITE the room's invite."""
    program = " ".join(ZCHAT)
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; zchat() {{ {program} "$@"; }}; {script}'],
        env=environment(here.home(name), INVITE=here.broker.invite()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# ---- 0 ----


@pytest.mark.parametrize("arguments", [[], ["--version"], ["--help"], ["-h"], ["rooms"]])
def test_what_only_tells_ends_with_0(tmp_path: Path, arguments: list[str]) -> None:
    """Without a room, a server or a profile."""
    ended(zchat(tmp_path / "home", *arguments), Exit.OK)


def test_help_names_every_exit_code(tmp_path: Path) -> None:
    """What scripts rely on stands where they look."""
    listed = zchat(tmp_path / "home", "--help").stdout.partition("Exit codes:")[2]
    assert max(map(len, listed.splitlines())) <= 80
    by_signal = {Exit.INTERRUPTED, Exit.TERMINATED}
    for code in set(Exit) - by_signal:
        assert re.search(rf"\b{int(code)} [a-z]", listed), code


def test_send_ends_with_0_once_it_is_stored(here: World) -> None:
    """Nothing on stdout, nothing on stderr; the server holds it."""
    done = here.run("alice", "send", here.broker.invite(), "hello", "--name", "alice")
    ended(done, Exit.OK)
    assert (done.stdout, done.stderr) == ("", "")
    assert entries(here) == 1


# ---- 1: what the user can mend ----


@pytest.mark.parametrize(
    ("invite", "reason"),
    [
        ("zchat://", "it is cut off or mixed up"),
        ("zchat://host:1/lobby", "it is cut off or mixed up"),
        ("zchat://host:1/lobby#AAAA", "it is of a newer version of zchat"),
        ("zchat://host:1/lobby#!!!!", "the part after # is mangled"),
        ("zchat://host:1/lobby?pw=x#AAAA", "it carries settings"),
        ("zchat://host:99999/lobby#AAAA", "is not HOST:PORT"),
        ("zchat://host:1/%00#AAAA", "its room name cannot be used"),
        ("zchat:host", "it does not begin with zchat://"),
    ],
)
@pytest.mark.parametrize("command", [["join"], ["tail"], ["send"]])
def test_a_bad_invite_is_refused_with_its_reason(
    tmp_path: Path, command: list[str], invite: str, reason: str
) -> None:
    """Nothing is asked, nothing is connected to."""
    done = zchat(tmp_path / "home", *command, invite)
    ended(done, Exit.FIXABLE, "That invite cannot be used", reason, "paste it whole")


def test_an_invite_with_one_wrong_letter_is_refused(here: World) -> None:
    """The check bytes cover the keys: a slip does not lead to another server."""
    invite = here.broker.invite()
    letter = "A" if invite[-20] != "A" else "B"
    done = here.run("alice", "join", invite[:-20] + letter + invite[-19:])
    ended(done, Exit.FIXABLE, "a letter after # is wrong")


def test_a_message_over_64_kib_is_refused_before_it_is_sent(here: World) -> None:
    """As an argument and as all of stdin: the size, the most, and nothing at the server."""
    invite = here.broker.invite()
    # Linux takes no argument above 128 KiB: two bytes a letter are enough to be too long.
    done = here.run("alice", "send", invite, "é" * 32_769, "--name", "alice")
    ended(done, Exit.FIXABLE, "The message has 65538 bytes; the most is 65536. It was not sent.")
    long = "x" * 200_000
    done = here.run("alice", "send", invite, "--whole", "--name", "alice", stdin=long)
    ended(done, Exit.FIXABLE, "The message has more than 65536 bytes")
    assert entries(here) == 0


@pytest.mark.parametrize("command", ["send", "join"])
def test_a_line_over_64_kib_is_told_and_the_others_go_out(here: World, command: str) -> None:
    """The lines around it arrive, and the code says that not all did."""
    lines = "before\n" + "x" * 300_000 + "\nafter\n"
    where = [here.broker.invite(), "--name", "alice"]
    done = here.run("alice", command, *where, stdin=lines)
    ended(done, Exit.FIXABLE, "The message has more than 65536 bytes; the most is 65536.")
    got = here.run("alice", "tail", "lobby").stdout
    assert [line.split(": ", 1)[1] for line in got.splitlines()] == ["before", "after"]


@pytest.mark.parametrize("command", ["send", "join"])
def test_a_line_that_is_not_utf8_is_told_and_the_others_go_out(here: World, command: str) -> None:
    """Which line, and how to mend it; nothing of it is sent, not even in another form."""
    where = [here.broker.invite(), "--name", "alice"]
    lines = b"before\n\ncaf\xe9\nafter\n\xed\xa0\x80"
    done = here.run("alice", command, *where, stdin=lines)
    ended(done, Exit.FIXABLE, "Not UTF-8, and not sent: line", "iconv -f LATIN1 -t UTF-8")
    assert re.findall(r"lines? ([\d, ]+) of stdin", done.stderr) in (["3, 5"], ["3", "5"])
    got = here.run("alice", "tail", "lobby").stdout
    assert [line.split(": ", 1)[1] for line in got.splitlines()] == ["before", "after"]


def test_a_whole_stdin_that_is_not_utf8_is_not_sent(here: World) -> None:
    """One message, so nothing of it; the line that spoils it is named."""
    where = [here.broker.invite(), "--name", "alice"]
    done = here.run("alice", "send", *where, "--whole", stdin=b"one\ntwo\n\xff\xfe\n")
    ended(done, Exit.FIXABLE, "Not UTF-8, and not sent: all of stdin, for line 3 of it.", "iconv")
    assert entries(here) == 0


@pytest.mark.parametrize("raw", [b"caf\xe9", b"\xed\xa0\x80", b"\xc3"])
def test_an_argument_that_is_not_utf8_is_not_sent(here: World, raw: bytes) -> None:
    """As with stdin: nothing of it, not even in another form."""
    done = here.run("alice", "send", here.broker.invite(), os.fsdecode(raw))
    ended(done, Exit.FIXABLE, "Not UTF-8, and not sent: the text on the command line.", "iconv")
    assert entries(here) == 0


def test_of_many_lines_that_are_not_utf8_the_first_are_named(here: World) -> None:
    """A file in another encoding does not fill the screen."""
    done = here.run("alice", "send", here.broker.invite(), "--name", "alice", stdin=b"\xff\n" * 9)
    ended(done, Exit.FIXABLE, "not sent: lines 1, 2, 3, 4, 5 and 4 more of stdin.")
    assert entries(here) == 0


def test_the_longest_message_goes_out(here: World) -> None:
    """Exactly 64 KiB, by stdin and by argument."""
    text = "x" * 65_536
    ended(here.run("alice", "send", here.broker.invite(), text, "--name", "alice"), Exit.OK)
    ended(here.run("alice", "send", "lobby", stdin=text + "\n"), Exit.OK)
    got = here.run("alice", "tail", "lobby").stdout.splitlines()
    assert [line.split(": ", 1)[1] for line in got] == [text, text]


UNUSABLE = [
    (["send", "lobby", ""], "There is nothing to send."),
    (["send", "lobby", " \t "], "There is nothing to send."),
    (["send", "elsewhere", "x"], "No room 'elsewhere' is known here."),
    (["tail", "elsewhere"], "No room 'elsewhere' is known here."),
    (["export", "elsewhere"], "No room 'elsewhere' is known here."),
    (["evidence", "check", "nowhere.json"], "nowhere.json proves nothing: No such file"),
    (["invite", "elsewhere"], "No room 'elsewhere' is known here."),
    (["tail", "two words"], "The room name 'two words' cannot be used"),
    (["send", "lobby", "x", "--name", "x" * 33], "longer than 32 characters"),
    (["send", "lobby", "x", "--name", "a\u202eb"], "it holds characters that are not shown"),
    (["verify", "lobby", "--at", "99"], "#99 is not in the checked log"),
    (["join", "--room", "elsewhere"], "It is not known which server to go to."),
]


def test_what_cannot_be_used_is_told(here: World) -> None:
    """Exit 1, the sentence, and what to do next."""
    here.run("alice", "send", here.broker.invite(), "one", "--name", "alice")
    for command, says in UNUSABLE:
        ended(here.run("alice", *command), Exit.FIXABLE, says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"advertise = 5577\n", 'advertise must be text, as in "text", not 5577'),
        (b"lisen = '127.0.0.1:0'\n", "there is no setting 'lisen'; did you mean 'listen'."),
        (b"schema = 2\n", "schema must be 1, not 2"),
        (b"listen = \n", "not TOML"),
        (b"\xff\xfe\n", "not TOML"),
        (b"allow = ['zz']\n", "an access key has 64 hexadecimal digits"),
        (b"room_bytes = 1\n", "room_bytes must be a whole number of at least 69,632, not 1"),
    ],
)
def test_a_bad_setting_of_the_broker_is_told(tmp_path: Path, content: bytes, says: str) -> None:
    """Exit 1 before anything listens; in the profile's own file and in one that is named."""
    home, named = tmp_path / "home", tmp_path / "named.toml"
    home.mkdir()
    named.write_bytes(content)
    done = zchat(home, "broker", "--listen", "127.0.0.1:0", "--config", str(named))
    ended(done, Exit.FIXABLE, says)
    named.rename(home / "broker.toml")
    ended(zchat(home, "broker"), Exit.FIXABLE, says)


def test_a_bad_setting_of_a_member_is_told(here: World) -> None:
    """The file and the setting; the environment, too."""
    (here.home("alice") / "member.toml").write_text("histroy = 3\n")
    done = here.run("alice", "tail", "lobby")
    ended(done, Exit.FIXABLE, "member.toml", "did you mean 'history'.")
    (here.home("alice") / "member.toml").unlink()
    done = here.run("alice", "tail", "lobby", ZCHAT_HISTORY="many")
    ended(done, Exit.FIXABLE, "environment ZCHAT_HISTORY: history must be a whole number")


NO_PASSPHRASES: list[tuple[bytes, str]] = [
    (b"", "it is empty"),
    (b"  \n", "it is empty"),
    (b"a\x07b\n", "it holds a control character"),
    (b"\xff\n", "it is not UTF-8"),
    (b"x" * 1_025, "it is longer than 1024 bytes"),
]


def test_a_passphrase_that_cannot_be_one_is_told(here: World) -> None:
    """By file, by descriptor, by the environment: before any work, and never shown."""
    path = here.folder / "passphrase"
    where = ["tail", here.broker.invite()]
    by_file = [*where, "--passphrase-file", str(path)]
    ended(here.run("dora", *by_file), Exit.FIXABLE, "No such file or directory")
    for content, says in NO_PASSPHRASES:
        path.write_bytes(content)
        ended(here.run("dora", *by_file), Exit.FIXABLE, says)
        done = here.run("dora", *where, ZCHAT_PASSPHRASE_FILE=str(path))
        ended(done, Exit.FIXABLE, "That passphrase cannot be used", says)
        done = here.run("dora", *where, "--passphrase-fd", "0", stdin=content)
        ended(done, Exit.FIXABLE, says)


# ---- 2: usage ----


MISUSED = [
    ["nonsense"],
    ["tail"],
    ["tail", "lobby", "--nonsense"],
    ["tail", "lobby", "--last", "-1"],
    ["tail", "lobby", "--last", "many"],
    ["tail", "lobby", "--since", "yesterday"],
    ["export", "lobby", "--format", "pdf"],
    ["export", "lobby", "--proof", "--format", "html"],
    ["export", "lobby", "--since", "yesterday"],
    ["send"],
    ["join", "--history", "-5"],
    ["join", "--timeout", "0"],
    ["send", "lobby", "x", "--timeout", "-1"],
    ["verify", "lobby", "--matches", "3"],
    ["verify", "lobby", "--with", "bob"],
    ["forget", "lobby"],
    ["members", "lobby", "too", "many"],
    ["profile"],
    ["profile", "export"],
    ["profile", "import", "--new", "me.zchat"],
]


def test_wrong_usage_ends_with_2(here: World) -> None:
    """With a sentence that names what is wrong; nothing reaches the server."""
    for command in MISUSED:
        done = here.run("alice", *command)
        ended(done, Exit.USAGE)
        assert done.stderr.strip()
    assert entries(here) == 0


@pytest.mark.parametrize("script", ["echo hello | {}", "{} </dev/null", "{} <&-"])
def test_without_a_terminal_no_passphrase_is_asked_for(here: World, script: str) -> None:
    """Exit 2 at once, with the three other ways to give it."""
    for command in ("join", "tail", "send", "members", "verify"):
        done = shell(here, "dora", script.format(f'zchat {command} "$INVITE"'))
        ended(done, Exit.USAGE, "The passphrase cannot be asked for: there is no terminal.")
        for way in ("--passphrase-file", "--passphrase-fd", "ZCHAT_PASSPHRASE_FILE"):
            assert way in done.stderr


def test_an_invite_to_one_room_and_the_name_of_another_do_not_go_together(here: World) -> None:
    """Exit 2, both names in the sentence."""
    done = here.run("alice", "join", here.broker.invite(), "--room", "kitchen")
    ended(done, Exit.USAGE, "the invite is to 'lobby', and --room says 'kitchen'")


# ---- 3: the network and this machine ----


def test_an_unreachable_server_is_named(here: World) -> None:
    """send, tail and join: exit 3 with the address; what is known here is shown all the same."""
    ended(
        here.run("alice", "join", here.broker.invite(), "--name", "alice", stdin="one\n"), Exit.OK
    )
    here.broker.end()
    address = here.broker.address
    done = here.run("alice", "tail", "lobby", ZCHAT_TIMEOUT_S="1")
    ended(done, Exit.NETWORK, f"The server at {address} does not answer.", "Is it running")
    assert done.stdout.endswith(": one\n")
    done = here.run("alice", "send", "lobby", "two", "--timeout", "1")
    ended(done, Exit.NETWORK, "1 message(s) not confirmed", address, "kept in the outbox")
    done = here.run("alice", "join", "--timeout", "1", stdin="three\n")
    ended(done, Exit.NETWORK, "2 message(s) not confirmed", address)
    done = here.run("alice", "members", "lobby", ZCHAT_TIMEOUT_S="1")
    ended(done, Exit.OK, f"The server at {address} does not answer; this is what is known here.")
    here.restart_broker()
    ended(here.run("alice", "join", "lobby"), Exit.OK)
    got = here.run("alice", "tail", "lobby").stdout
    assert [line.split(": ", 1)[1] for line in got.splitlines()] == ["one", "two", "three"]


def test_an_address_that_is_taken_is_named(here: World) -> None:
    """A second broker on the port of the first."""
    done = zchat(here.folder / "other", "broker", "--listen", here.broker.address)
    ended(done, Exit.NETWORK, f"Cannot listen on {here.broker.address}", "--listen HOST:0")


NO_PLACES = [
    (["--listen", "127.0.0.1:99999"], "'127.0.0.1:99999' is not HOST:PORT."),
    (["--listen", "127.0.0.1:-1"], "'127.0.0.1:-1' is not HOST:PORT."),
    (["--listen", "5577"], "'5577' is a port without a host."),
    (["--advertise", "example.net:65536"], "'example.net:65536' is not HOST:PORT."),
    (["--advertise", "example.net:0"], "'example.net:0' names no port that members could go to."),
]


@pytest.mark.parametrize(("where", "says"), NO_PLACES, ids=lambda value: str(value)[:30])
def test_an_address_that_can_be_none_is_refused_before_anything_is_made(
    tmp_path: Path, inside: Inside, where: list[str], says: str
) -> None:
    """No port is tried, no key is made; `start` says what its server would have said."""
    listen = [] if "--listen" in where else ["--listen", "127.0.0.1:0"]
    done = inside(tmp_path / "home", "broker", *where, *listen)
    ended(done, Exit.FIXABLE, f"That address cannot be used: {says}", "the highest port is 65535")
    assert not (tmp_path / "home").exists()
    done = inside(tmp_path / "home", "start", "--name", "alice", *where, *listen)
    ended(done, Exit.FIXABLE, f"That address cannot be used: {says}")
    assert not (tmp_path / "home" / "broker" / "keys").exists()


def test_a_host_that_can_be_none_is_named(here: World) -> None:
    done = zchat(here.folder / "other", "broker", "--listen", f"{'a' * 70}.example:1")
    ended(done, Exit.NETWORK, "no name of a host is like that")


def test_a_home_whose_path_is_too_long_is_named(here: World) -> None:
    for command in ("rooms", "doctor"):
        done = zchat(here.folder / ("a" * 300), command)
        ended(done, Exit.NETWORK, "File name too long")


def a_file(home: Path) -> None:
    home.write_text("")


def a_closed_home(home: Path) -> None:
    home.mkdir(mode=0o000)


def a_store(home: Path) -> None:
    SqliteLog(log_path(home / "broker"), Access.ONE_WRITER).close()


def a_closed_store(home: Path) -> None:
    a_store(home)
    log_path(home / "broker").chmod(0o000)


def a_folder_as_store(home: Path) -> None:
    log_path(home / "broker").mkdir(parents=True)


IN_THE_WAY: list[tuple[Callable[[Path], None], str, str]] = [
    (a_file, "broker", "a folder belongs in its place"),
    (a_file, "config init member", "a folder belongs in its place"),
    (a_closed_home, "rooms", "May you read and write there?"),
    (a_closed_home, "config init broker", "May you read and write there?"),
    (a_closed_home, "broker", "may you read it?"),
    (a_closed_store, "broker audit", "May you read and write there?"),
    (a_folder_as_store, "broker", "a file belongs in its place"),
    (a_store, "broker backup /nowhere/at/all", "A folder on the way to it is missing."),
    (a_store, "broker backup HOME/broker/log.db", "replaces nothing.\n  Give it another name"),
]


@pytest.mark.parametrize(("made", "command", "says"), IN_THE_WAY)
def test_the_advice_fits_what_is_in_the_way(
    tmp_path: Path, made: Callable[[Path], None], command: str, says: str
) -> None:
    """Where a disk is neither full nor read-only, nobody is asked whether it is."""
    home = tmp_path / "home"
    made(home)
    done = subprocess.run(
        [*BOUND, *ZCHAT, *command.replace("HOME", str(home)).split()],
        env=environment(home, ZCHAT_LISTEN="127.0.0.1:0"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if home.is_dir():
        home.chmod(0o700)
    assert done.returncode in (Exit.FIXABLE, Exit.NETWORK), done.stderr
    ended(done, Exit(done.returncode), says)
    assert "disk" not in done.stderr


def test_two_servers_do_not_share_a_store(here: World) -> None:
    """The second ends with 3, the first goes on."""
    done = zchat(here.broker.home, "broker", "--listen", "127.0.0.1:0")
    ended(done, Exit.NETWORK, "is in use by another process")
    ended(here.run("alice", "send", here.broker.invite(), "x", "--name", "alice"), Exit.OK)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's own")
def test_a_full_disk_under_stdout_is_told(here: World) -> None:
    """Exit 3 and a sentence, as for any other store."""
    here.run("alice", "send", here.broker.invite(), "one", "--name", "alice")
    for command in ("tail lobby", "export lobby --offline", "rooms", "whoami --json"):
        done = shell(here, "alice", f"zchat {command} >/dev/full")
        ended(done, Exit.NETWORK, "No space to write standard output", os.strerror(errno.ENOSPC))


# ---- 4: the server contradicted itself ----


def with_other_log_key(line: str) -> str:
    """The same invite, but for the log key that the server must show."""
    invite = parse_invite(line)
    keys = Origin(invite.server.keys.curve_key, bytes(32))
    return str(Invite(Server(invite.server.host, invite.server.port, keys), "lobby", invite.origin))


@pytest.mark.parametrize("command", ["send", "tail", "join", "members"])
def test_another_log_key_than_the_invites_ends_with_4(here: World, command: str) -> None:
    """Both keys of the server are pinned; nothing is sent to one that shows another."""
    invite = with_other_log_key(here.broker.invite())
    done = here.run("alice", command, invite, "--name", "alice", stdin="secret plan\n")
    ended(done, Exit.SERVER_FAULT, "shows another log key than the invite. Nothing was sent.")
    assert here.broker.address in done.stderr
    assert entries(here) == 0


# ---- 5 and 6: limits and silence ----


@pytest.mark.parametrize("command", ["send", "join"])
def test_a_full_room_ends_with_5(here: World, command: str) -> None:
    """What the server says about it, how much did not go out, and that it is kept."""
    here.broker.end()
    here.restart_broker(ZCHAT_ROOM_BYTES="70000")
    lines = "".join(f"line {i}\n" for i in range(150))
    where = [here.broker.invite(), "--name", "alice", "--timeout", "2"]
    done = here.run("alice", command, *where, stdin=lines)
    ended(done, Exit.REFUSED, "room-full", here.broker.address, "kept in the outbox")
    stored = entries(here)
    assert 90 <= stored < 150
    assert f"{150 - stored} message(s)" in done.stderr
    here.broker.end()
    here.restart_broker()
    ended(here.run("alice", "join", "lobby"), Exit.OK)
    assert entries(here) == 150


def test_a_server_that_falls_silent_ends_with_6(here: World) -> None:
    """Connected, and no receipt in time: exit 6, the message kept; it goes out later."""
    alice = here.join("alice", "--timeout", "1")
    alice.type("one\n")
    alice.expect(": one$")
    here.broker.process.send_signal(signal.SIGSTOP)
    try:
        alice.type("two\n")
        alice.end_input()
        assert alice.wait() == Exit.TIMEOUT
    finally:
        here.broker.process.send_signal(signal.SIGCONT)
    assert "did not confirm within 1 s. 1 message(s) kept in the outbox" in alice.err
    assert "Traceback" not in alice.err
    ended(here.run("alice", "join", "lobby"), Exit.OK)
    assert entries(here) == 2


# ---- 7: secrets ----


def test_a_passphrase_by_file_opens_the_room_and_another_does_not(here: World) -> None:
    """In the order in which a newcomer may go wrong; the last try is right."""
    ended(here.run("alice", "send", here.broker.invite(), "hello", "--name", "alice"), Exit.OK)
    path = here.folder / "passphrase"
    path.write_text("otter basin scarf pencil dig wick\n")
    by_file = [here.broker.invite(), "--name", "dora", "--passphrase-file", str(path)]
    for command in (["tail", *by_file], ["send", *by_file, "to nobody"]):
        done = here.run("dora", *command)
        ended(done, Exit.WRONG_SECRET, "Wrong passphrase, or nobody has spoken in 'lobby' yet.")
        assert "say --new" in done.stderr
    path.write_text("hunter2")
    done = here.run("dora", "join", *by_file, stdin="to nobody\n")
    ended(done, Exit.FIXABLE, "too weak for a new room: about $", " to break.")
    assert entries(here) == 1
    path.write_text(f"  {PASSPHRASE}  \r\n")
    done = here.run("dora", "join", *by_file, stdin="hello from dora\n")
    ended(done, Exit.OK, "Deriving the room's key")
    texts = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    assert texts == ["hello", "hello from dora"]
    here.broker.end()
    path.write_text("hunter2")
    known = ["--name", "alice", "--passphrase-file", str(path)]
    done = here.run("alice", "tail", "lobby", *known)
    ended(done, Exit.WRONG_SECRET, "Not the passphrase of 'lobby'", "--new")
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("spoilt", ["vault.key", "vault.db"])
def test_a_store_that_does_not_open_ends_with_7(here: World, spoilt: str) -> None:
    """The path, the reason, and no word of a passphrase."""
    path = here.home("alice") / "members" / "alice" / spoilt
    path.write_bytes(os.urandom(32) if spoilt == "vault.key" else b"not a database" * 400)
    ended(here.run("alice", "tail", "lobby"), Exit.WRONG_SECRET, "vault.db", "Keep a copy")


def test_a_broker_with_spoilt_keys_ends_with_7(here: World) -> None:
    """It does not make new ones: every invite would be void."""
    here.broker.end()
    (here.broker.home / "broker" / "keys").write_bytes(b"short")
    done = zchat(here.broker.home, "broker", "--listen", "127.0.0.1:0")
    ended(done, Exit.WRONG_SECRET, "it does not hold two keys")
    assert (here.broker.home / "broker" / "keys").read_bytes() == b"short"


# ---- 70: a bug ----


def test_a_bug_leaves_a_report_and_no_traceback(here: World) -> None:
    """A fault planted from outside: one sentence, a report only its owner can read, exit 70."""
    planted = here.folder / "planted"
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(
        "import zchat.member.profile as profile\n"
        "def members(self): raise RuntimeError('planted')\n"
        "profile.Profile.members = members\n"
    )
    done = here.run("alice", "rooms", PYTHONPATH=str(planted), TMPDIR=str(planted))
    ended(done, Exit.BUG, "that should not have happened")
    found = re.search(r"a report is in (\S+)\.$", done.stderr, re.MULTILINE)
    assert found
    report = Path(found[1])
    assert report.stat().st_mode & 0o777 == 0o600
    assert "RuntimeError: planted" in report.read_text()


# ---- signals ----


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)]
)
@pytest.mark.parametrize("command", [["tail", "lobby", "-f"], ["join", "lobby"]])
def test_a_signal_ends_a_command_in_order(
    here: World, command: list[str], number: signal.Signals, code: Exit
) -> None:
    """Its code, no traceback, and what was said before is stored."""
    ended(here.run("alice", "send", here.broker.invite(), "one", "--name", "alice"), Exit.OK)
    running = Running(here.home("alice"), *command, label="signalled")
    try:
        running.expect(": one$")
        running.process.send_signal(number)
        assert running.wait() == code
    finally:
        running.kill()
        running.end_input()
    assert running.err.strip() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_broker_in_order(here: World, number: signal.Signals) -> None:
    """That is how one stops it: exit 0, the invite withdrawn, the store whole."""
    ended(here.run("alice", "send", here.broker.invite(), "one", "--name", "alice"), Exit.OK)
    here.broker.process.send_signal(number)
    assert here.broker.wait() == Exit.OK
    assert "Traceback" not in here.broker.err
    assert not (here.broker.home / "broker" / "invite").exists()
    assert entries(here) == 1


# ---- streams that are not what one expects ----


def test_a_reader_that_has_enough_ends_a_command_quietly(here: World) -> None:
    """`| head -1` and the like: nothing on stderr, and no failure in a pipeline."""
    lines = "".join(f"line {i} {'x' * 500}\n" for i in range(1_000))
    where = [here.broker.invite(), "--name", "alice"]
    ended(here.run("alice", "send", *where, stdin=lines), Exit.OK)
    for script in (
        "zchat tail lobby --last 1000 | head -1",
        "zchat tail lobby --last 1000 --json | head -1",
        "zchat tail lobby -f | head -1",
        "zchat export lobby | head -1",
        "zchat export lobby --proof 2>/dev/null | head -1",
        "zchat join lobby --history 1000 </dev/null | head -1",
    ):
        done = shell(here, "alice", script)
        ended(done, Exit.OK)
        assert done.stdout.count("\n") == 1
        assert done.stderr == ""


@pytest.mark.parametrize("command", ["send", "join"])
@pytest.mark.parametrize("stdin", ["file", "null", "closed", "pipe", "fifo"])
def test_stdin_may_be_anything(here: World, command: str, stdin: str) -> None:
    """A plain file, /dev/null, nothing at all: what is in it is sent, then the command ends."""
    path = here.folder / "lines"
    path.write_text("one\n\ntwo\r\nthree without an end")
    script = {
        "file": f"zchat {command} lobby < {path}",
        "null": f"zchat {command} lobby < /dev/null",
        "closed": f"zchat {command} lobby <&-",
        "pipe": f"cat {path} | zchat {command} lobby",
        "fifo": f"mkfifo {path}.f; cat {path} > {path}.f & zchat {command} lobby < {path}.f",
    }[stdin]
    ended(here.run("alice", "tail", here.broker.invite(), "--name", "alice"), Exit.OK)
    done = shell(here, "alice", script)
    ended(done, Exit.OK)
    got = here.run("alice", "tail", "lobby").stdout
    texts = [line.split(": ", 1)[1] for line in got.splitlines()]
    assert texts == ([] if stdin in ("null", "closed") else ["one", "two", "three without an end"])


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(here: World, closed: str) -> None:
    """Messages and stores are as they would be; nothing of a store is taken for input."""
    script = f'zchat send "$INVITE" hello --name alice {closed} && zchat tail lobby {closed}'
    ended(shell(here, "alice", script), Exit.OK)
    got = here.run("alice", "tail", "lobby")
    ended(got, Exit.OK)
    assert [line.split(": ", 1)[1] for line in got.stdout.splitlines()] == ["hello"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux shows open files so")
def test_no_file_takes_the_place_of_a_closed_stream(here: World) -> None:
    """Descriptors 0 to 2 of a running command are /dev/null, never its store or its socket."""
    here.run("alice", "send", here.broker.invite(), "hello", "--name", "alice")
    pid_file = here.folder / "pid"
    script = f"echo $$ > {pid_file}; exec {' '.join(ZCHAT)} tail lobby -f <&- >&- 2>&-"
    running = subprocess.Popen(["bash", "-c", script], env=environment(here.home("alice")))
    try:
        replica = here.home("alice") / "members" / "alice" / "rooms"

        def open_files() -> dict[str, str]:
            folder = Path(f"/proc/{running.pid}/fd")
            found = {}
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed just now
                    found[path.name] = str(path.readlink())
            return found

        wait_for("it has its store open", lambda: str(replica) in str(open_files().values()))
        assert {open_files()[number] for number in "012"} == {"/dev/null"}
    finally:
        running.kill()
        running.wait()
