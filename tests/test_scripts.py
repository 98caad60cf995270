"""The program as other programs use it: a command per message, waiting to be seen, cron.

Rules of this file: a real server and real members; what a command was given is
what it wrote down itself.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.processes import PASSPHRASE, ZCHAT, Running, World, environment, wait_for, world
from tests.test_checked import KEY
from tests.test_docs import all_commands, command_at
from tests.test_hostile_text import OBEYED
from tests.test_hostile_text import _say as say_as
from zchat.member.rows import Here, Kind, Message, Status
from zchat.protocol import evidence
from zchat.protocol.ledger import Contradiction
from zchat.ui.cli import bench
from zchat.ui.cli import tail as tail_command
from zchat.ui.cli.main import cli
from zchat.ui.cli.manual import TOPICS
from zchat.ui.each import Each
from zchat.ui.schema import OBJECTS
from zchat.ui.show import row_json

# ---- a command for each message ----

WRITES_DOWN = """\
#!/bin/sh
# The fields as they are in the environment, null-terminated, then the text.
{ env -0 | grep -z '^MESSAGE_'; printf '\\036'; cat; printf '\\035'; } >> "$OUT"
"""


def script(folder: Path, lines: str, name: str = "script") -> str:
    """An executable with these lines, as a command line."""
    path = folder / name
    path.write_text(lines)
    path.chmod(0o755)
    return shlex.quote(str(path))


def written_down(path: Path) -> list[tuple[dict[str, str], str]]:
    """The fields and the text of every message that a command was run for."""
    found = []
    for record in path.read_bytes().decode().split("\x1d")[:-1]:
        fields, text = record.split("\x1e")
        pairs = (pair.partition("=") for pair in fields.split("\0") if pair)
        found.append(({name: value for name, _, value in pairs}, text))
    return found


def follow(here: World, name: str, *arguments: str, **env: str) -> Running:
    """`tail -f` of a member."""
    running = Running(here.home(name), "tail", "lobby", "-f", *arguments, label="tail", **env)
    here._running.append(running)
    return running


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[World]:
    """A room in which alice and bob have spoken; tests add to it, and look behind what was."""
    with world(tmp_path_factory.mktemp("talk") / "world", template) as made:
        for member in ("alice", "bob"):
            done = made.run(member, "send", made.broker.invite(), f"I am {member}")
            assert done.returncode == 0, done.stderr
        yield made


def add(here: World, inside: Inside, said: list[tuple[str, str]]) -> str:
    """Bob says these texts under these names; the place behind which they stand."""
    last = inside(here.home("bob"), "tail", "lobby", "--last", "1", "--json").stdout
    asyncio.run(say_as(here.home("bob"), "bob", "lobby", said))
    return str(json.loads(last)["n"])


def test_a_command_is_run_for_each_message_with_its_fields_and_its_text(
    talk: World, tmp_path: Path, inside: Inside
) -> None:
    """In order, word for word, the same fields as in JSON; nothing of it can be a command."""
    out = tmp_path / "out"
    texts = [*OBEYED.values(), "$(touch owned) `id` '; exit 3 #", "two\nlines\n", "last"]
    names = ["bob", "() { :;}; echo owned", "-n", "$HOME", "'\"\\", "bob\u202e\u200b"]
    said = [(names[i % len(names)], text) for i, text in enumerate(texts)]
    arguments = ["tail", "lobby", "--after", add(talk, inside, said)]
    command = script(tmp_path, WRITES_DOWN)
    done = inside(talk.home("alice"), *arguments, "--exec", command, OUT=str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    got = written_down(out)
    assert [(fields["MESSAGE_NAME"], text) for fields, text in got] == [
        (name, f"{text}\n") for name, text in said
    ]
    printed = inside(talk.home("alice"), *arguments, "--json").stdout
    for (fields, _), row in zip(got, map(json.loads, printed.splitlines()), strict=True):
        del row["v"], row["text"]
        plain = {True: "1", False: "0", None: ""}
        expected = {f"MESSAGE_{key.upper()}": plain.get(row[key], row[key]) for key in row}
        assert fields == {key: str(value) for key, value in expected.items()}


def test_with_json_the_command_reads_one_object(talk: World, inside: Inside) -> None:
    """What the command prints is all that is printed."""
    after = add(talk, inside, [("bob", "the text")])
    arguments = ["--after", after, "--json", "--others", "--exec", "cat"]
    done = inside(talk.home("alice"), "tail", "lobby", *arguments)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["the text"]


MISHAPS = """\
#!/bin/sh
case "$(cat)" in
  fail) exit 3 ;;
  die) kill -9 $$ ;;
  odd) kill -40 $$ ;;
  hang) sleep 600 & echo $! > "$OUT"; wait ;;
  *) echo "did $MESSAGE_N" ;;
esac
"""


def test_a_command_that_fails_or_hangs_is_told_and_the_next_message_has_its_turn(
    talk: World, tmp_path: Path, inside: Inside
) -> None:
    """Every message has its turn once; who hangs is ended, with what it started; exit 1."""
    out = tmp_path / "pid"
    texts = ("one", "fail", "two", "die", "odd", "hang", "last")
    after = add(talk, inside, [("bob", text) for text in texts])
    n = [int(after) + number for number in range(8)]
    command = script(tmp_path, MISHAPS)
    arguments = ["--after", after, "--exec", command, "--exec-timeout", "2"]
    done = inside(talk.home("alice"), "tail", "lobby", *arguments, OUT=str(out))
    assert done.stdout.splitlines() == [f"did {n[1]}", f"did {n[3]}", f"did {n[7]}"]
    name = shlex.split(command)[0]
    assert done.stderr.splitlines() == [
        f"zchat: {name} ended with 3 for #{n[2]}",
        f"zchat: {name} was ended by SIGKILL for #{n[4]}",
        f"zchat: {name} was ended by signal 40 for #{n[5]}",
        f"zchat: {name} took longer than 2 s for #{n[6]}, and was ended",
    ]
    assert done.returncode == 1
    assert not is_running(int(out.read_text()))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # one that is dead, and whose parent does not look, is there
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_end_that_comes_while_a_command_is_started_ends_it(tmp_path: Path) -> None:
    """It is waited for, and not for ever; nothing of it goes on, not what it started either."""
    out = tmp_path / "pid"
    lingers = script(tmp_path, '#!/bin/sh\nsleep 600 & echo $! > "$OUT"; wait\n')
    each = Each(lingers, "lobby", print, 60, as_json=False)
    message = Message(
        *(1, b"id", b"key", "bob", "bob", False, False, Kind.TEXT, "text", None, 0, 0),
        Status.STORED,
    )

    def gets_going() -> None:
        """What was started goes on while our own part of starting it has no turn."""
        with contextlib.suppress(AssertionError):
            wait_for("it runs", lambda: out.exists() and bool(out.read_text()), 0.3)

    async def broken_off(turns: int) -> None:
        running = asyncio.create_task(each.run(message, {**os.environ, "OUT": str(out)}))
        for _ in range(turns):
            await asyncio.sleep(0)
        gets_going()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    pids: list[int] = []
    for turns in range(1, 6):
        out.unlink(missing_ok=True)
        asyncio.run(asyncio.wait_for(broken_off(turns), 30))
        if out.exists():
            pids.append(int(out.read_text()))
            wait_for("what it started has ended", lambda: not is_running(pids[-1]))
    assert pids
    assert not each.has_failed


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/no/such/command", "cannot be started for #1: No such file or directory"),
        ("/etc/passwd", "cannot be started for #1: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_started_is_told(
    talk: World, inside: Inside, command: str, says: str
) -> None:
    """For each message, and the code says that not all was done."""
    done = inside(talk.home("alice"), "tail", "lobby", "--exec", command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"zchat: {command} {says}\n")


@pytest.mark.parametrize(
    "arguments", [["--exec", "'unclosed"], ["--exec", " "], ["--exec-timeout", "3"]]
)
def test_a_command_line_that_is_none_is_refused(
    talk: World, inside: Inside, arguments: list[str]
) -> None:
    """Before anything is read."""
    done = inside(talk.home("alice"), "tail", "lobby", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("zchat: ")


def test_a_command_that_does_not_read_gets_the_next_message_all_the_same(
    talk: World, inside: Inside
) -> None:
    """64 KiB that nobody reads fill no pipe that anybody waits for."""
    after = add(talk, inside, [("bob", "x" * 65_536)] * 2)
    arguments = ["--after", after, "--exec", "echo did it"]
    done = inside(talk.home("alice"), "tail", "lobby", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "did it\ndid it\n", "")


def test_more_than_a_command_keeps_up_with_ends_the_tail(
    talk: World, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says behind which message to go on; here the bound is lower than it is."""
    after = add(talk, inside, [("bob", "one"), ("bob", "two")])
    monkeypatch.setattr(tail_command, "_MOST_WAITING", -1)
    done = inside(talk.home("alice"), "tail", "lobby", "--after", after, "--exec", "true")
    n = int(after) + 1
    assert done.returncode == 1
    assert re.search(
        rf"^zchat: More comes in than 'true' keeps up with: .* behind #{n}\.$", done.stderr, re.M
    )
    assert f"--after {n}" in done.stderr


def test_a_bot_answers_others_and_never_itself(talk: World, inside: Inside) -> None:
    """The echo bot of `zchat help scripting`; what was said before it came is left alone."""
    program = " ".join(map(shlex.quote, ZCHAT))
    after = add(talk, inside, [("bob", "before")])
    bot = follow(talk, "alice", "--others", "--exec", f"{program} send lobby --whole -")
    bob = talk.join("bob", "--history", "0")
    bob.expect_note("alice.* is here")
    for text in ("one", "two"):
        bob.type(f"{text}\n")
    bob.expect("alice.*: two$")
    bob.end_input()
    assert bob.wait() == 0
    assert bot.end() == 143
    assert (bot.out, bot.err) == ("", "")
    got = inside(talk.home("alice"), "tail", "lobby", "--json", "--after", after).stdout
    rows = [json.loads(line) for line in got.splitlines()][1:]
    said = sorted((row["name"], row["text"]) for row in rows)
    assert said == [(name, text) for name in ("alice", "bob") for text in ("one", "two")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_ends_the_tail_and_its_command(
    talk: World, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Also a command that does not mind being asked to end."""
    out = tmp_path / "pid"
    deaf = script(tmp_path, '#!/bin/sh\ntrap "" TERM INT\necho $$ > "$OUT"\nsleep 600\n')
    tail = follow(talk, "alice", "--last", "1", "--exec", deaf, OUT=str(out))
    wait_for("the command runs", lambda: out.exists() and out.read_text().endswith("\n"))
    tail.process.send_signal(number)
    assert tail.wait() == code
    assert tail.err.strip() == ""
    assert not is_running(int(out.read_text()))


def test_a_reader_that_has_enough_of_what_a_command_prints_ends_the_tail(
    talk: World, inside: Inside
) -> None:
    """As if the tail had printed it."""
    after = add(talk, inside, [("bob", f"line {number}") for number in range(50)])
    program = " ".join(ZCHAT)
    line = f"{program} tail lobby --after {after} --exec cat | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line],
        env=environment(talk.home("alice")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["line 0", "0"]
    assert done.stderr == ""


def test_a_tail_ends_with_its_reader_in_a_quiet_room_too(talk: World, inside: Inside) -> None:
    """`| head -1` waits for nobody to speak again."""
    after = add(talk, inside, [("bob", "the last word")])
    program = " ".join(ZCHAT)
    done = subprocess.run(
        ["bash", "-c", f"{program} tail lobby -f --after {after} | head -1"],
        env=environment(talk.home("alice")),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.endswith(": the last word\n")
    assert done.stderr == ""


# ---- waiting to be seen ----


def test_a_message_is_seen_once_another_members_program_holds_it(
    talk: World, inside: Inside
) -> None:
    """Not by the server's receipt, not by one's own other programs; twice in a row, too."""
    here, home = talk, talk.home("alice")
    n = int(add(talk, inside, [("bob", "here I am")])) + 2
    seen = ["send", "lobby", "--wait", "seen", "--timeout"]
    alone = inside(home, *seen, "0.5", "one")
    assert alone.returncode == 6
    assert alone.stderr.startswith(f"zchat: Stored as #{n}, and nobody else's program has shown")
    assert re.search(r"within 0.5 s to have it: not bob~[0-9a-f]{4}\.$", alone.stderr, re.M)
    own = here.join("alice")
    own.expect(": one$")
    assert inside(home, *seen, "1", "two").returncode == 6
    own.end_input()
    assert own.wait() == 0
    bob = here.join("bob")
    bob.expect(": two$")
    done = inside(home, *seen, "20", "three")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = here.run("alice", *seen, "20", "-", stdin="four\nand five\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bob.expect(": and five$")
    bob.end_input()
    assert bob.wait() == 0
    done = here.run("alice", *seen, "20", "-", stdin="x" * 70_000)
    assert done.returncode == 1
    assert "The message has more than 65536 bytes" in done.stderr


def test_a_reply_shows_as_well_that_a_message_was_seen(here: World, inside: Inside) -> None:
    """A message counter-signs the log like a beat; nobody has spoken: that is said."""
    invite = here.broker.invite()
    arguments = ["send", invite, "--wait", "seen", "--name", "alice", "--timeout"]
    alone = inside(here.home("alice"), *arguments, "0.5", "hello?")
    assert alone.returncode == 6
    assert "to have it: nobody else has spoken here yet." in alone.stderr
    waits = Running(here.home("alice"), *arguments, "30", "anybody?", label="waits")
    waits.end_input()
    wait_for("it is stored", lambda: "anybody" in inside(here.home("bob"), "tail", invite).stdout)
    assert inside(here.home("bob"), "send", invite, "yes").returncode == 0
    assert waits.wait() == 0


# ---- beside other programs, and from cron ----

BUILD = """\
all:
\t@echo compiling
\t@echo "warning: é \\$$(id) 'quoted'" >&2
\t@echo done
"""


def sh(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A line as cron runs it: by sh, with next to no environment, without a terminal."""
    return subprocess.run(
        ["/bin/sh", "-c", line],
        env={"PATH": env.pop("PATH", "/usr/bin:/bin"), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("jq")), reason="needs make and jq")
def test_a_build_is_sent_to_a_room_while_another_program_reads_it(here: World) -> None:
    """`make 2>&1 | zchat send ops` beside `zchat tail ops -f --json | jq`, without any set-up but
    one `--remember`: no terminal, no configuration, HOME alone.
    """
    bins = here.folder / "bin"
    bins.mkdir()
    script(bins, f'#!/bin/sh\nexec {" ".join(map(shlex.quote, ZCHAT))} "$@"\n', "zchat")
    (here.folder / "Makefile").write_text(BUILD)
    (here.folder / "words").write_text(PASSPHRASE)
    root = str(Path(__file__).parent.parent)
    cron = {"PATH": f"{bins}:/usr/bin:/bin", "HOME": str(here.folder / "user"), "PYTHONPATH": root}
    invite = here.broker.invite("ops")
    once = f"zchat tail '{invite}' --new --remember --passphrase-file {here.folder}/words"
    assert sh(once, **cron).returncode == 0
    reading = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            f"zchat tail ops -f --json | jq --unbuffered -r .text > {here.folder}/read",
        ],
        env=cron,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        sent = sh(f"make -s -C {here.folder} 2>&1 | zchat send ops; exit $?", **cron)
        assert (sent.returncode, sent.stdout, sent.stderr) == (0, "", "")
        expected = "compiling\nwarning: é $(id) 'quoted'\ndone\n"
        read = here.folder / "read"
        wait_for("all of it is read", lambda: read.exists() and read.read_text() == expected)
    finally:
        os.killpg(reading.pid, signal.SIGTERM)
        told = reading.communicate(timeout=30)[1]
    assert told == b""
    nothing = sh("zchat send elsewhere 'is this on?' || exit $?", **cron)
    assert nothing.returncode == 1
    assert "No room 'elsewhere' is known here." in nothing.stderr


# ---- objects for scripts ----

TYPES: dict[str, Callable[[object], bool]] = {
    "int": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "bool": lambda value: type(value) is bool,
    "text": lambda value: type(value) is str,
    "hex": lambda value: (
        isinstance(value, str) and re.fullmatch("([0-9a-f]{2})*", value) is not None
    ),
    "time": lambda value: (
        isinstance(value, str)
        and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value) is not None
    ),
    "object": lambda value: isinstance(value, dict),
    "[text]": lambda value: isinstance(value, list) and all(type(part) is str for part in value),
    "[object]": lambda value: isinstance(value, list) and all(isinstance(o, dict) for o in value),
    "any": lambda value: True,
}


def check_object(name: str, line: str) -> dict[str, object]:
    """A line is one object of this name: its fields, no others, in order, each of its type."""
    assert line.isascii()
    found: dict[str, object] = json.loads(line)
    assert list(found) == list(OBJECTS[name]), name
    assert found["v"] == 1
    for field, kind in OBJECTS[name].items():
        fits = TYPES[kind.removesuffix("?")](found[field])
        assert fits or (kind.endswith("?") and found[field] is None), (name, field, found[field])
    return found


TWO_HASHES = Contradiction(
    bytes(16),
    KEY.public,
    KEY.sign_head(bytes(16), bytes(32), 7, bytes(32), 0),
    KEY.sign_head(bytes(16), bytes(32), 7, bytes(range(32)), 0),
)

PRINTED = {
    "tail": "tail lobby --json",
    "search": "search lobby hello --json",
    "members": "members lobby --json",
    "verify": "verify lobby --json",
    "rooms": "rooms --json",
    "whoami": "whoami --json",
    "invite": "invite lobby --json",
    "config show": "config show broker --json",
    "doctor": "doctor --json",
    "broker status": "broker status --json",
    "broker audit": "broker audit --json",
    "lab list": "lab list --json",
}


def test_every_object_is_as_the_help_says(talk: World, inside: Inside) -> None:
    """Each reading command prints at least one, of nothing but such objects."""
    here = talk
    add(here, inside, [("bob", "hello")])
    for name, command in PRINTED.items():
        home = here.broker.home if name.startswith("broker") else here.home("alice")
        done = inside(home, *command.split())
        assert done.returncode == 0, done.stderr
        assert done.stdout, name
        for line in done.stdout.splitlines():
            check_object(name, line)
    tail = follow(here, "alice", "--all", "--json")
    bob = here.join("bob")
    tail.expect('"kind":"here"')
    bob.end_input()
    assert bob.wait() == 0
    assert tail.end() == 143
    check_object("tail: here", row_json("lobby", Here(bytes(32), "bob", here=False)))
    others = {"notice": "tail: notice", "join": "tail: join", "here": "tail: here"}
    kinds = []
    for line in tail.lines:
        kinds.append(json.loads(line)["kind"])
        check_object(others.get(kinds[-1].replace("left", "here"), "tail"), line)
    assert {"text", "join", "here"} <= set(kinds)


def test_every_command_that_prints_objects_is_explained() -> None:
    """Those with --json, and no others; each field stands in the help."""
    with_json = {
        " ".join(path)
        for path in all_commands(cli)
        if any("--json" in option.opts for option in command_at(path).params)
    }
    commands = {name.partition(":")[0] for name in OBJECTS}
    assert commands == with_json | {"check"}, "evidence check: export is too long for the table"
    assert set(PRINTED) | {"bench", "evidence check"} == with_json
    for name, fields in OBJECTS.items():
        row = re.search(rf"^{name} .*(\n {{15}}.*)*", TOPICS["json"], re.M)
        assert row is not None
        said = re.findall(r"(\w+) ([a-z\[\]]+\??)(?:,|$)", " ".join(row[0][15:].split()))
        assert dict(said) == fields


def test_what_evidence_check_prints_is_as_the_help_says(
    talk: World, tmp_path: Path, inside: Inside
) -> None:
    """A file of each kind: what it is, whose, and how far. What proves nothing is no object."""
    home, export, proof = talk.home("alice"), tmp_path / "ops.jsonl", tmp_path / "proof.json"
    assert inside(home, "export", "lobby", "--proof", "-o", str(export)).returncode == 0
    proof.write_bytes(evidence.pack(TWO_HASHES))
    said = {}
    for path, name in [(export, "check: export"), (proof, "evidence check")]:
        done = inside(home, "evidence", "check", str(path), "--json")
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = done.stdout.splitlines()
        said[name] = check_object(name, line)
    about = said["check: export"]
    opening, *_, last, _ = map(json.loads, export.read_text().splitlines())
    assert (about["kind"], about["signer"], about["texts"]) == ("export", "invite", True)
    assert (about["first"], about["last"], about["members"]) == (1, last["n"], 2)
    assert about["words"] == inside(home, "verify", "lobby").stdout.split()
    own = {"member": "alice", "verdict": "same", "n": last["n"], "proof": None}
    assert (about["log_key"], about["compared"]) == (opening["log_key"], [own])
    about = said["evidence check"]
    assert (about["kind"], about["proof"], about["rooms"]) == ("contradiction", "P1", [])
    assert (about["earlier"], about["later"], about["log_key"]) == (7, 7, KEY.public.hex())
    export.write_text(export.read_text().replace('"first":1', '"first":2'))
    proof.write_bytes(evidence.pack(TWO_HASHES._replace(later=TWO_HASHES.earlier)))
    for path in (export, proof):
        done = inside(home, "evidence", "check", str(path), "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{path} proves nothing: " in done.stderr


def test_what_bench_prints_is_as_the_help_says(capsys: pytest.CaptureFixture[str]) -> None:
    """One crowd that was served, and one of which nothing came."""
    for late in (3.5, float("inf")):
        bench._tell(bench.Step(50, 5.0, 250.0, late, late, 0.5), as_json=True)
        check_object("bench", capsys.readouterr().out.strip())


# ---- a reader that has enough ----

PRINTS = {
    "": [[], ["--help"], ["--version"]],
    "start": [["start", "--help"]],  # its chat is that of join
    "join": [["join", "lobby"]],
    "send": [["send", "--help"]],
    "tail": [["tail", "lobby"], ["tail", "lobby", "--json"], ["tail", "lobby", "-f"]],
    "search": [["search", "lobby", "I"], ["search", "lobby", "I", "--json"]],
    "export": [["export", "lobby", "--format", kind] for kind in ("jsonl", "md", "html")],
    "verify": [["verify", "lobby"], ["verify", "lobby", "--json"]],
    "members": [["members", "lobby"], ["members", "lobby", "--json"]],
    "whoami": [["whoami"], ["whoami", "--json"]],
    "evidence": [["evidence", "--help"]],
    "evidence check": [["evidence", "check", "PROOF"], ["evidence", "check", "PROOF", "--json"]],
    "rejoin": [["rejoin", "--help"]],
    "rooms": [["rooms"], ["rooms", "--json"]],
    "invite": [["invite", "lobby"], ["invite", "lobby", "--qr"], ["invite", "lobby", "--json"]],
    "forget": [["forget", "--help"]],
    "broker": [["broker", "--listen", "127.0.0.1:0"]],
    "broker status": [["broker", "status", "--help"]],  # ends with 3, for here it does not run
    "broker audit": [["broker", "audit"], ["broker", "audit", "--json"]],
    "broker backup": [["broker", "backup", "--help"]],
    "broker restore": [["broker", "restore", "--help"]],
    "lab": [["lab", "--help"]],
    "lab list": [["lab", "list"], ["lab", "list", "--json"]],
    "lab rogue": [["lab", "rogue", "--lie", "drop=0.1"]],
    "lab demo": [["lab", "demo", "fork"]],
    "doctor": [["doctor"], ["doctor", "--json"]],
    "bench": [["bench", "--help"]],  # its first line takes seconds
    "profile": [["profile", "--help"]],
    "profile export": [["profile", "export", "--help"]],
    "profile import": [["profile", "import", "--help"]],
    "config": [["config", "--help"]],
    "config show": [["config", "show", "member"], ["config", "show", "broker", "--json"]],
    "config check": [["config", "check", "--help"]],
    "config init": [["config", "init", "--help"]],
    "config path": [["config", "path", "member"]],
    "completion": [["completion", "bash"]],
    "man": [["man", "--help"]],
    "help": [["help"], ["help", "json"]],
}

# Each command in a process of its own that has everything imported already; who would read its
# stdout is gone before it begins.
IN_CHILDREN = """import json, os, sys, traceback
from zchat.ui.cli import main
list(main._OnDemand().values())
for number, words in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        reads, writes = os.pipe()
        os.close(reads)
        os.dup2(writes, 1)
        os.dup2(os.open(f"{sys.argv[2]}.{number}", os.O_CREAT | os.O_WRONLY), 2)
        sys.argv[1:] = words
        try:
            main.main()
        except SystemExit as ended:
            sys.stdout = sys.stderr = None
            os._exit(ended.code)
        except BaseException:
            traceback.print_exc()
            os._exit(99)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_every_command_is_quiet_where_nobody_reads_on(
    talk: World, tmp_path: Path, inside: Inside
) -> None:
    """Exit 0, nothing on stderr but what is for people: as `| head -1` needs it."""
    assert set(PRINTS) == {" ".join(path) for path in all_commands(cli)}
    home, told, proof = talk.home("alice"), tmp_path / "told", tmp_path / "ops.jsonl"
    assert inside(home, "export", "lobby", "--proof", "-o", str(proof)).returncode == 0
    lines = [[str(proof) if word == "PROOF" else word for word in line] for line in printing()]
    done = subprocess.run(
        [sys.executable, "-c", IN_CHILDREN, json.dumps(lines), str(told)],
        env=environment(home),
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = done.stdout.split()
    assert len(codes) == len(lines)
    for number, (line, code) in enumerate(zip(lines, codes, strict=True)):
        said = Path(f"{told}.{number}").read_text()
        assert code == "0", (line, said)
        assert not re.search("Traceback|Exception|rror|zchat:|pipe", said), (line, said)


def printing() -> list[list[str]]:
    return [line for lines in PRINTS.values() for line in lines]
