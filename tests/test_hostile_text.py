"""Text that attacks a terminal, on every surface of the program: nothing of it gets through.

A corpus of texts that terminals obey or people misread, sent by a member and by a server that the
program was not made for, read through every command in a real terminal. The raw bytes that reach
the terminal are looked at: after the few escape sequences of our own prompt are taken out, there is
nothing left but characters that are seen, and whole lines.

Rules of this file: what is allowed is listed, not what is forbidden; a text counts only if it is
known to have arrived.
"""

import asyncio
import json
import re
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from wcwidth import wcswidth
from zmq.utils import z85

from tests.processes import Running, Terminal, World, wait_for, zchat
from zchat.broker.folder import BrokerKeys, load_keys
from zchat.config import MemberConfig
from zchat.member import outbox as member_outbox
from zchat.member.profile import Place, Profile, find_room
from zchat.member.vault import Vault, member_folder
from zchat.protocol import wire
from zchat.protocol.body import encode as encode_body
from zchat.ui.visit import History, Visit

# ---- the corpus ----

OBEYED = {
    "colour": "\x1b[41mred\x1b[0m",
    "cursor": "\x1b[5;5Hmoved",
    "erase": "\x1b[2J\x1b[3J\x1b[1K",
    "scroll region": "\x1b[3;5r",
    "insert lines": "\x1b[9L\x1b[4h",
    "alternate screen": "\x1b[?1049h",
    "mouse": "\x1b[?1003h\x1b[?1006h",
    "asks for status": "\x1b[5n",
    "asks for identity": "\x1b[c\x1b[>c\x1b[=c",
    "asks for the title": "\x1b[21t",
    "resizes": "\x1b[8;5;5t",
    "title": "\x1b]0;owned\x07",
    "icon": "\x1b]2;owned\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "clipboard asked for": "\x1b]52;c;?\x07",
    "link": "\x1b]8;;https://evil.example\x1b\\bank\x1b]8;;\x1b\\",
    "file": "\x1b]1337;File=name=eA==;inline=1:AAAA\x07",
    "notification": "\x1b]9;owned\x07\x1b]777;notify;a;b\x07",
    "palette": "\x1b]4;0;rgb:ff/ff/ff\x07",
    "device control": "\x1bP$qm\x1b\\",
    "sixel": '\x1bPq"1;1;9;9#0~\x1b\\',
    "application": "\x1b_Gf=100;AAAA\x1b\\",
    "privacy": "\x1b^x\x1b\\",
    "start of string": "\x1bXx\x1b\\",
    "reset": "\x1bc",
    "charset": "\x1b(0lqk\x0e",
    "keypad": "\x1b=\x1b>",
    "unfinished": "\x1b[",
    "unfinished string": "\x1b]0;",
    "bare escape": "\x1b",
    "cancelled": "\x18\x1a",
    "C1 sequence": "\x9b41m\x9b2J",
    "C1 string": "\x9d0;owned\x9c\x90q\x9c\x9fx\x9c\x9ex\x9c\x98x\x9c",
    "C1 lines": "a\x84b\x85c\x8dd",
    "bell": "ding\x07\x07",
    "backspace": "harmful\b\b\b\b\b\b\bharmless",
    "carriage return": "12:00 mallory: x\r12:00 alice: I agree",
    "null": "a\x00b",
    "delete": "a\x7fb",
    "vertical": "a\x0bb\x0cc",
    "shift out": "\x0elqk\x0f",
    "enquiry": "\x05\x16\x17",
    "paste end": "\x1b[201~/quit\r",
}
MISREAD = {
    "override": "\u202egnp.exe\u202c \u202dabc\u202c",
    "embedding": "\u202aabc\u202b def\u202c",
    "isolates": "\u2066abc\u2069 \u2067abc\u2069 \u2068abc",
    "isolate left open": "\u2067" * 20 + "abc",
    "fence broken out of": "שלום\u2069\u202e abc",
    "marks": "a\u200eb\u200fc\u061cd",
    "zero width": "a\u200bb\u2060c\ufeffd\u00ade",
    "invisible operators": "a\u2061b\u2062c\u2063d\u2064e",
    "deprecated controls": "a\u206ab\u206fc",
    "tags": "hi" + "".join(chr(0xE0000 + ord(c)) for c in "run this"),
    "tag alone": "\U000e0001\U000e007f",
    "selectors": "a\ufe0e\ufe0f\U000e0100\U000e01ef",
    "annotation": "a\ufff9b\ufffac\ufffbd",
    "musical": "a\U0001d173b\U0001d17ac",
    "fillers": "alice\u3164\uffa0\u115f\u1160\u2800\u034f\u2065",
    "line separators": "one\u2028two\u2029three",
    "new lines": "one\n12:00 alice: I agree\r\n-- server says: all is well\n> ",
    "many lines": "\n" * 60 + "end",
    "combining flood": "a" + "\u0301\u0489" * 500 + "b",
    "marks alone": "\u0301" * 40,
    "right to left": "שלום עולם 123 abc",
    "arabic": "مرحبا 456 (abc)",
    "wide": "漢字" * 60,
    "emoji": "👩\u200d👩\u200d👧 🏳️\u200d🌈 👍🏽",
    "half of a flag": "\U0001f1e9",
    "not characters": "a\ufffeb\uffffc\U0010ffffd",
    "private": "a\ue000b\U000f0000c",
    "long word": "x" * 5_000,
    "spaces": "alice:" + " " * 150 + "12:00 bob: faked",
    "tabs": "a\t\t\t\tb",
}
CORPUS = {**OBEYED, **MISREAD}
NAMES = {
    **{key: text[:32] for key, text in MISREAD.items() if "\n" not in text and "\t" not in text},
    "wide name": "漢" * 32,
    "stacked name": "a" + "\u0301" * 31,
    "looks like another": "аlice",
    "a prompt": "12:00 bob~0000: x",
    "a notice": "-- server says",
    "a fault": "!! SERVER FORKED",
    "astral": "𒐫" * 32,
    "quotes": "'\"`$(id)%n%s{0}",
    "right to left name": "אליס",
}
CONTROL_NAMES = ["\x1b[41mred", "a\nb", "a\x9b31m", "a\x00b", "\x7f"]

# ---- what may reach a terminal ----

OUR_SEQUENCES = re.compile(
    r"\x1b\[(?:\?(?:1|7|12|25|2004)[hl]|6n|[JK]|\d*[ABCD]|0(?:;(?:1|3|3[1-6]|[34]8;5;\d+))*m)"
)
FENCES = re.compile("\u2068([^\u2066-\u2069\n]*)\u2069")
JOINERS = {"\u200c", "\u200d"}


def leaks(raw: bytes, *, prompt: bool = False) -> list[str]:
    """What of these bytes is neither our own sequence nor a character that is seen."""
    text = raw.decode("utf-8")  # bytes that are no UTF-8 would be C1 codes to some terminals
    if prompt:
        text = OUR_SEQUENCES.sub("", text).replace("\b", "").replace("\r", "")
    text = FENCES.sub(r"\1", text.replace("\r\n", "\n"))
    return [
        f"U+{ord(char):04X} in {text[max(0, at - 20) : at + 20]!r}"
        for at, char in enumerate(text)
        if not is_seen(char)
    ]


def is_seen(char: str) -> bool:
    """A character that has a place of its own, or joins two; a tab; the end of a line."""
    if char in "\n\t" or char in JOINERS:
        return True
    if char in "\u034f\u115f\u1160\u2065\u2800\u3164\uffa0" or 0xE0000 <= ord(char) <= 0xE0FFF:
        return False
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize("text", OBEYED.values(), ids=OBEYED)
@pytest.mark.parametrize("prompt", [False, True])
def test_the_measure_finds_what_a_terminal_obeys(text: str, prompt: bool) -> None:
    """Each of these texts, printed as it is, is found."""
    found = leaks(f"12:00 bob: {text}\n".encode(), prompt=prompt)
    movements_of_ours = {"backspace", "carriage return"}
    keys = {key for key, value in OBEYED.items() if value == text}
    assert found or (prompt and keys <= movements_of_ours)


# ---- a member that says anything ----


async def _say(home: Path, name: str, room: str, said: list[tuple[str, str]]) -> None:
    profile = Profile(home)
    vault = profile.vault(name)
    known = find_room(vault, room)
    assert known is not None
    place = Place(known.record.invite, known)
    opened = profile.open(
        vault, name, place, lambda: "", new=False, remember=True, use_remembered=True
    )
    async with Visit(opened, MemberConfig()) as visit:
        await visit.arrive(History(0))
        for as_name, text in said:
            renamed = msgspec.structs.replace(visit.room.record, name=as_name)
            vault.save_room(visit.room.tag, renamed)
            visit.client.say(visit.room.tag, [text])
        while visit.room.unconfirmed:
            event = await visit.client.next_event(1.0)
            if event is not None:
                visit.note(event)
    vault.close()


def say(here: World, name: str, said: list[tuple[str, str]]) -> None:
    """A member says texts under names that the program would never let it use."""
    here.run(name, "tail", here.broker.invite(), "--name", name)  # it knows this server from now on
    asyncio.run(_say(here.home(name), name, "lobby", said))


def say_everything(here: World) -> None:
    """The whole corpus: as text of one member, as names of another, as names with controls."""
    say(here, "bob", [("bob", text) for text in CORPUS.values()])
    say(here, "carol", [(name, f"called {key}") for key, name in NAMES.items()])
    say(here, "carol", [(name, "not readable") for name in CONTROL_NAMES])
    say(here, "carol", [("carol", "the end")])


@pytest.fixture
def hostile(here: World) -> World:
    """A room in which everything was said, known to alice."""
    say_everything(here)
    return here


def texts_of(done_out: str) -> list[str]:
    """The texts of `tail --json`."""
    rows = [json.loads(line) for line in done_out.splitlines()]
    return [row["text"] for row in rows if row["kind"] == "text"]


def finished(terminal: Terminal, code: int = 0) -> bytes:
    """All that a command wrote to its terminal, on both streams."""
    assert terminal.wait() == code, terminal.text
    return bytes(terminal.raw)


# ---- surfaces ----


def test_json_carries_every_text_word_for_word_in_plain_ascii(hostile: World) -> None:
    """What a terminal would obey is escaped; what a script reads is the original."""
    got = hostile.run("alice", "tail", hostile.broker.invite(), "--name", "alice", "--json")
    assert got.returncode == 0, got.stderr
    assert all(line.isascii() and line.isprintable() for line in got.stdout.splitlines())
    expected = [*CORPUS.values(), *(f"called {key}" for key in NAMES), "the end"]
    assert texts_of(got.stdout) == expected
    names = [json.loads(line)["name"] for line in got.stdout.splitlines()]
    assert [name for name in names if name in set(NAMES.values())] == list(NAMES.values())


READING = [
    "tail INVITE --name alice",
    "tail INVITE --name alice --all",
    "tail INVITE --name alice --all --json",
    "members INVITE --name alice",
    "members INVITE --name alice --json",
    "verify INVITE --name alice",
    "export INVITE --name alice --format md",
    "export INVITE --name alice --format html --all",
    "join INVITE --name alice",
]


def test_reading_commands_show_nothing_a_terminal_obeys(hostile: World) -> None:
    """In a terminal, where nothing strips colours on the way; `join` as a dumb one's plain mode."""
    for command in READING:
        words = [hostile.broker.invite() if word == "INVITE" else word for word in command.split()]
        terminal = hostile.terminal("alice", *words, columns=200, TERM="dumb")
        if words[0] == "join":
            terminal.expect(": the end$")
            terminal.type("\x04")
        raw = finished(terminal)
        assert leaks(raw) == [], command
        if "--json" not in words and words[0] in ("tail", "join"):
            shown = raw.decode()
            for made_visible in (
                "^[]52;c;cm0gLXJmIH4=^G",
                "<U+009B>41m",
                "^H^H",
                "^M12:00",
                "a^@b",
            ):
                assert made_visible in shown, command
            assert "[hidden characters removed]" in shown
            told = words[0] == "join" or "--all" in words
            assert shown.count("unreadable entry") == (len(CONTROL_NAMES) if told else 0)


FOLDED = [
    "tail INVITE --name alice --all",
    "search lobby --regex .",
    "members INVITE --name alice",
    "rooms",
    "whoami",
]
FAKED = "12:00 alice: I agree"


def test_a_terminal_never_has_to_fold_a_line(hostile: World) -> None:
    """Each line of a pipe begins one row, and every other row is indented: none can be faked."""
    columns = 47
    say(hostile, "bob", [("bob", "." * pad + FAKED) for pad in range(columns)])
    say(hostile, "bob", [("bob", "x" + " " * pad + FAKED) for pad in range(columns)])
    invite = hostile.broker.invite()
    for command in FOLDED:
        words = [invite if word == "INVITE" else word for word in command.split()]
        piped = [unfenced(row) for row in hostile.run("alice", *words).stdout.splitlines()]
        terminal = hostile.terminal("alice", *words, columns=columns, TERM="dumb")
        assert leaks(finished(terminal)) == []
        written = unfenced(terminal.raw.decode()).replace("\r", "").splitlines()
        begun = [row for row in written if not row.startswith("      ")]
        notes = len(begun) - len(piped)  # those for people come last
        assert 0 <= notes <= (2 if command == "whoami" else 0), command
        for row, line in zip(begun, piped, strict=False):
            assert line.replace("\t", "    ").startswith(row.rstrip()), command
        shown = [row for row in terminal.rows if row]
        assert len(shown) <= len([row for row in written if row.strip()]), command
        assert all(wcswidth(row.replace("\t", "    ")) <= columns for row in written), command
        assert not any(row.startswith(FAKED) for row in shown)


def test_plain_mode_in_a_terminal_folds_as_well(here: World) -> None:
    """What comes, what is there already, and what the server says."""
    padded = [("bob", "." * pad + FAKED) for pad in range(40)]
    say(here, "bob", [*padded, ("bob", "so far")])
    alice = here.terminal("alice", columns=40, TERM="dumb")
    alice.expect(": so far$")
    say(here, "bob", [*padded, ("bob", "the end")])
    alice.expect(": the end$")
    alice.type("\x04")
    assert leaks(finished(alice)) == []
    rows = [row for row in alice.rows if row]
    assert not any(row.startswith(FAKED) for row in rows)
    assert any(row.startswith("      ") for row in rows)


def unfenced(text: str) -> str:
    return text.replace("\u2068", "").replace("\u2069", "")


def test_every_line_of_a_pipe_is_one_message(hostile: World) -> None:
    """No text can make a second line: as many lines as messages, each with its sender."""
    got = hostile.run("alice", "tail", hostile.broker.invite(), "--name", "alice")
    assert leaks(got.stdout.encode()) == []
    lines = got.stdout.removesuffix("\n").split("\n")
    assert len(lines) == len(CORPUS) + len(NAMES) + 1
    assert all(re.match(r"\u2068?\d\d:\d\d ", line) for line in lines)


def test_the_chat_shows_nothing_a_terminal_obeys(here: World) -> None:
    """Line mode: live, and as history; title, modes and every line's sender stand."""
    live = here.terminal("alice", columns=200, rows=50)
    live.expect("^>")
    say_everything(here)
    live.expect(r": the end$")
    live.type("/who\r")
    live.expect(r"^-- .*not verified, last spoke")
    live.type("hello\x03hi bo\t\t\x03\x04")
    again = here.terminal("alice", columns=200, rows=50)
    again.expect(r": the end$")
    again.type("\x04")
    for terminal in (live, again):
        raw = finished(terminal)
        assert leaks(raw, prompt=True) == []
        assert terminal.screen.title == ""
        assert terminal.screen.icon_name == ""
        assert "^[]52;c;cm0gLXJmIH4=^G" in terminal.text
        assert "harmful^H^H" in terminal.text
        assert "12:00 mallory: x^M12:00 alice: I agree" in terminal.text
        faked = [row for row in terminal.rows if re.match(r"12:00 alice|-- server says|> $", row)]
        assert faked == []


def test_a_draft_that_was_pasted_shows_nothing_a_terminal_obeys(here: World) -> None:
    """What others wrote comes back by copy and paste, into the prompt and behind a slash."""
    alice = here.terminal("alice", columns=200)
    alice.expect("^>")
    # A terminal takes the end of a paste out of what it pastes: that is its own part.
    pasted = [text for key, text in OBEYED.items() if key != "paste end"]
    for text in pasted:
        alice.paste(text.replace("\r", ""))
        alice.paste(" end")
        alice.expect("^> .* end$")
        alice.type("\x03")
        alice.until("the draft is gone", lambda: not re.search("^> .* end$", alice.text, re.M))
    for command in ("/mute ", "/trust ", "/name ", "/verify ", "/"):
        for text in pasted[:8]:
            alice.paste(command + text)
            alice.type("\r")
    alice.type("still here\r")
    alice.expect("alice: still here$")
    alice.type("/quit\r")
    assert leaks(finished(alice), prompt=True) == []
    assert alice.screen.title == ""


def test_bytes_that_are_no_utf8_become_a_visible_mark(here: World) -> None:
    """C1 codes as bytes: typed into the prompt; from a pipe they are not taken at all."""
    raw = [b"\x9b41mred", b"\x9d0;owned\x9c", b"a\xc2", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]
    invite = here.broker.invite()
    done = here.run("alice", "send", invite, "--name", "alice", stdin=b"\n".join(raw))
    assert done.returncode == 1, done.stderr
    alice = here.terminal("alice", columns=120)
    alice.expect("^>")
    for text in raw:
        alice.type(text + b" typed\r")
    alice.type("the end\r")
    alice.expect("alice: the end$")
    alice.type("/quit\r")
    assert leaks(finished(alice), prompt=True) == []
    got = here.run("alice", "tail", "lobby", "--json")
    texts = texts_of(got.stdout)
    assert len(texts) == len(raw) + 1
    assert all("\ufffd" in text and text.endswith(" typed") for text in texts[:-1])


def test_a_lone_surrogate_in_a_body_is_unreadable(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a character, in a text and in a name: it is a row of its own, on every surface."""
    planted, half = "\u1234", b"\xed\xa0\x80"
    with monkeypatch.context() as patched:
        patched.setattr(
            member_outbox,
            "encode",
            lambda body: encode_body(body).replace(planted.encode(), half),
        )
        say(here, "bob", [("bob", f"a{planted}b"), (f"b{planted}b", "text")])
    say(here, "bob", [("bob", "the end")])
    got = here.run("alice", "tail", here.broker.invite(), "--name", "alice", "--all", "--json")
    kinds = [json.loads(line)["kind"] for line in got.stdout.splitlines()]
    assert kinds.count("unreadable") == 2
    assert texts_of(got.stdout) == ["the end"]
    assert here.run("alice", "tail", "lobby").stdout.endswith(": the end\n")


def test_names_that_look_alike_are_marked(here: World) -> None:
    """Blanks, zero widths and letters of other scripts do not make a second alice."""
    assert here.run("alice", "send", here.broker.invite(), "x", "--name", "alice").returncode == 0
    lookalikes = ["alice\u3164", "alice\u200b", "аlice", "alice\u2800", "ALICE", "alice\U000e0061"]
    say(here, "bob", [(name, "me, too") for name in lookalikes])
    got = here.run("carol", "tail", here.broker.invite(), "--name", "carol", "--all", "--json")
    notices = [row for row in map(json.loads, got.stdout.splitlines()) if row["kind"] == "notice"]
    changed = [row["text"] for row in notices if row["state"] == "key-changed"]
    for name in lookalikes:
        assert any(text.startswith(name) and "looks like alice" in text for text in changed), name


def test_what_a_vault_holds_is_shown_safely(here: World) -> None:
    """A room and a name that no check of today lets in: rooms, whoami, invite, forget."""
    home = here.home("alice")
    vault = Vault(member_folder(home, "alice"))
    (known,) = vault.rooms()
    hostile_record = msgspec.structs.replace(
        known.record, room=OBEYED["clipboard"], name="\x1b[41m\u202ered", fault="\x1b]0;owned\x07"
    )
    vault.save_room(known.tag, hostile_record)
    vault.close()
    for command in (["rooms"], ["rooms", "--json"], ["whoami"], ["whoami", "--json"]):
        raw = finished(here.terminal("alice", *command, columns=200))
        assert leaks(raw) == []
        assert b"52;c" in raw
    here.run("alice", "tail", here.broker.invite())
    assert here.terminal("alice", "forget", "lobby").wait() == 1


HOSTILE_ARGUMENT = "\x1b]52;c;eA==\x07\x9b41m\u202eabc\u2066"
BAD_INPUT = [
    ["tail", "X"],
    ["send", "X", "text"],
    ["send", "lobby", "text", "--name", "X"],
    ["join", "zchat://X"],
    ["join", "zchat://host:1/X#AAAA"],
    ["join", "--room", "X"],
    ["join", "--server", "X"],
    ["tail", "lobby", "--since", "X"],
    ["tail", "lobby", "--last", "X"],
    ["tail", "lobby", "--X"],
    ["tail", "lobby", "X"],
    ["X"],
    ["verify", "lobby", "--matches", "1", "--with", "X"],
    ["whoami", "--name", "X"],
    ["invite", "X"],
    ["forget", "X"],
    ["broker", "--listen", "X"],
    ["broker", "--config", "X"],
    ["tail", "INVITE", "--passphrase-file", "X", "--new"],
    ["evidence", "check", "X"],
    ["export", "lobby", "--format", "X"],
    ["export", "lobby", "-o", "X/X"],
    ["profile", "import", "X"],
    ["profile", "export", "X/X"],
    ["rejoin", "X"],
    ["lab", "demo", "X"],
    ["lab", "rogue", "--lie", "X"],
    ["start", "--room", "X"],
]


def test_error_sentences_show_what_was_given_safely(here: World) -> None:
    """Arguments are pasted from what others wrote: every sentence that repeats one."""
    here.run("alice", "send", here.broker.invite(), "one", "--name", "alice")
    repeated = 0
    for words in BAD_INPUT:
        command = [
            word.replace("X", HOSTILE_ARGUMENT).replace("INVITE", here.broker.invite())
            for word in words
        ]
        terminal = here.terminal("alice", *command, columns=200)
        code = terminal.wait()
        assert leaks(bytes(terminal.raw)) == [], words
        assert code in (0, 1, 2), (words, terminal.text)
        assert "Traceback" not in terminal.text
        repeated += "52;c;eA==" in terminal.text
    assert repeated > len(BAD_INPUT) / 2, "most sentences name what was given"


def test_settings_are_shown_safely_where_they_are_wrong(here: World) -> None:
    """A file's path, a setting's name, a value, the environment."""
    home = here.home("alice")
    file = home / f"{HOSTILE_ARGUMENT}.toml"
    file.write_text(f"{json.dumps(HOSTILE_ARGUMENT)} = 1\n")
    terminal = here.terminal("alice", "broker", "--config", str(file), columns=200)
    assert leaks(finished(terminal, 1)) == []
    assert "there is no setting" in terminal.text
    terminal = here.terminal("alice", "tail", "lobby", columns=200, ZCHAT_HISTORY=HOSTILE_ARGUMENT)
    assert leaks(finished(terminal, 1)) == []
    terminal = here.terminal(
        "alice", "whoami", columns=200, ZCHAT_HOME=str(home / HOSTILE_ARGUMENT)
    )
    assert leaks(finished(terminal)) == []
    assert "52;c" in terminal.text


# ---- a server that says anything ----


class RefusingServer:
    """Speaks the protocol with the broker's own keys, and refuses with any words it likes."""

    def __init__(self, keys: BrokerKeys, address: str, code: str, text: str, refuses: str) -> None:
        self._code, self._text, self._refuses = code, text, refuses
        self._public = keys.log_key.public
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.CURVE_SERVER, 1)
        self._router.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(keys.curve_secret))
        self._router.linger = 0
        self._router.bind(f"tcp://{address}")
        self._ends = threading.Event()
        self.refused = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ends.is_set():
            if self._router.poll(50):
                route, *frames = self._router.recv_multipart()
                word, _ = wire.decode_to_broker(frames)
                for answer in self._answers(word):
                    self._router.send_multipart([route, *answer])
        self._router.close()
        self._context.term()

    def _answers(self, word: wire.ToBroker) -> Iterator[wire.Frames]:
        kind = type(word).__name__.upper()
        if isinstance(word, wire.Hello) and kind != self._refuses:
            software = self._text[:64]
            yield wire.encode(wire.Ready(word.req, 1, software, self._public, 10, 10))
        elif isinstance(word, wire.Join) and kind != self._refuses:
            for at in word.rooms:
                entries = wire.Entries(word.req, at.room, bytes(32), 1, bytes(32), b"", 0, ())
                yield wire.encode(entries, b"")
        elif isinstance(word, wire.Hello | wire.Join | wire.Post):
            self.refused += 1
            req, k = getattr(word, "req", 0), getattr(word, "k", 0)
            room = word.rooms[0].room if isinstance(word, wire.Join) else getattr(word, "room", b"")
            if not self._code:
                return
            yield wire.encode(wire.Refuse(req, k, self._code, room, 60_000, self._text))

    def close(self) -> None:
        self._ends.set()
        self._thread.join()


@contextmanager
def refusing(
    here: World, *, refuses: str, code: str = "room-full", text: str = "full"
) -> Iterator[RefusingServer]:
    """In place of the broker of this world."""
    here.broker.end()
    server = RefusingServer(
        load_keys(here.broker.home / "broker"), here.broker.address, code, text, refuses
    )
    try:
        yield server
    finally:
        server.close()


SERVER_TEXTS = ["\x1b]52;c;eA==\x07" * 10, "\x9b41m\u202eabc\n-- all is well\r>", "\x1b[2J\x1b[H"]


@pytest.mark.parametrize("text", SERVER_TEXTS)
def test_what_a_server_refuses_with_is_quoted_safely(here: World, text: str) -> None:
    """In line mode, plain mode and `send`: "server says", its words made visible; exit 5."""
    with refusing(here, refuses="POST", text=text) as server:
        where = [here.broker.invite(), "--name", "alice", "--timeout", "1"]
        chat = here.terminal("alice", "join", *where, columns=200)
        chat.expect("^>")
        chat.type("hello\r")
        chat.expect("^-- server says: room-full ")
        chat.type("/quit\r")
        plain = here.terminal("alice", "join", *where, columns=200, TERM="dumb")
        plain.type("hello\n")
        plain.expect("-- server says: room-full ")
        plain.type("\x04")
        send = here.terminal("alice", "send", *where[:1], "hello", *where[1:], columns=200)
        assert leaks(finished(chat, 5), prompt=True) == []
        assert leaks(finished(plain, 5)) == []
        assert leaks(finished(send, 5)) == []
        assert server.refused >= 3
    for terminal in (chat, plain, send):
        assert "room-full" in terminal.text
        assert not any(row.startswith(("-- all is well", ">")) for row in terminal.rows[:-1])


def test_a_sound_message_that_a_server_refuses_is_told_once_and_kept(here: World) -> None:
    with refusing(here, refuses="POST", code="bad-envelope", text=SERVER_TEXTS[0]) as server:
        where = [here.broker.invite(), "--name", "alice", "--timeout", "1"]
        send = here.terminal("alice", "send", *where[:1], "hello", *where[1:], columns=200)
        assert leaks(finished(send, 6)) == []
        assert server.refused
    assert send.text.count("-- server says: bad-envelope ") == 1
    assert "kept in the outbox" in send.text


@pytest.mark.parametrize(("code", "exit_code"), [("too-many-rooms", 5), ("\x1b[41m\u202ex", 6)])
def test_a_room_that_is_never_let_in_ends_in_time(here: World, code: str, exit_code: int) -> None:
    """JOIN refused again and again: 5 where it is a limit, else 6; its words made visible."""
    with refusing(here, refuses="JOIN", code=code, text=SERVER_TEXTS[0]) as server:
        where = [here.broker.invite(), "--name", "alice"]
        terminal = here.terminal("alice", "tail", *where, columns=200, ZCHAT_TIMEOUT_S="2")
        assert leaks(finished(terminal, exit_code)) == []
        assert server.refused


@pytest.mark.parametrize("command", [["tail", "lobby"], ["send", "lobby", "two"]])
def test_a_command_ends_where_a_server_greets_and_then_falls_silent(
    here: World, command: list[str]
) -> None:
    """It connects again and again meanwhile, and ends in the middle of that all the same: with a
    connection (6) or just without one (3).
    """
    here.run("alice", "send", here.broker.invite(), "one", "--name", "alice")
    with refusing(here, refuses="JOIN", code="") as server:
        done = here.run("alice", *command, ZCHAT_ANSWER_TIMEOUT_S="0.3", ZCHAT_TIMEOUT_S="2")
        assert done.returncode in (3, 6), done.stderr
        assert server.refused > 1


def test_a_server_of_another_version_is_quoted_safely(here: World) -> None:
    """HELLO refused: exit 3, and what it says."""
    with refusing(here, refuses="HELLO", code="version", text=SERVER_TEXTS[0]):
        where = [here.broker.invite(), "--name", "alice"]
        for command in (["tail", *where], ["join", *where], ["send", *where, "text"]):
            terminal = here.terminal("alice", *command, columns=200)
            assert leaks(finished(terminal, 3)) == []
            shown = " ".join(terminal.text.split())
            assert "speaks another version of the protocol; server says: ^[]52" in shown


# ---- the broker's own words ----


def test_what_peers_say_does_not_reach_the_brokers_log(here: World) -> None:
    """A peer's software name, unknown words and codes: the log lines stay ours."""
    keys = load_keys(here.broker.home / "broker")
    context = zmq.Context()
    peer = context.socket(zmq.DEALER)
    public, secret = zmq.curve_keypair()
    peer.curve_publickey, peer.curve_secretkey = public, secret
    peer.curve_serverkey = z85.encode(keys.curve_public)
    peer.linger = 0
    peer.connect(f"tcp://{here.broker.address}")
    try:
        for text in CORPUS.values():
            peer.send_multipart(wire.encode(wire.Hello(1, 1, text[:64])))
            peer.send(msgspec.msgpack.encode({"word": text, text: text}))
            peer.send(text.encode())
        peer.send_multipart(wire.encode(wire.Hello(77, 1, "the end")))
        while wire.decode_to_member(peer.recv_multipart())[0].req != 77:  # type: ignore[union-attr]
            pass
    finally:
        peer.close()
        context.term()
    assert here.broker.end() == 0
    assert leaks(here.broker.err.encode()) == []
    assert "ended: " in here.broker.err
    assert here.broker.err.count("\n") == len(here.broker.err.splitlines())


def test_audit_is_plain_ascii_whatever_was_said(hostile: World) -> None:
    """Every field of every row, in a terminal."""
    raw = zchat(hostile.broker.home, "broker", "audit").stdout
    assert raw.isascii()
    assert leaks(raw.encode()) == []
    assert raw.count("sealed: ") == len(CORPUS) + len(NAMES) + len(CONTROL_NAMES) + 1


def test_a_second_reader_sees_the_same_lines(hostile: World) -> None:
    """Live in plain mode or read later: the same lines, so no text changes what follows it."""
    follower = Running(
        hostile.home("alice"), "tail", hostile.broker.invite(), "-f", "--name", "alice"
    )
    try:
        follower.expect(": the end$")
        got = hostile.run("bob", "tail", "lobby", "--name", "bob")
        mine = [line.split(": ", 1)[-1] for line in follower.lines]
        wait_for("all lines", lambda: len(follower.lines) == len(got.stdout.splitlines()))
        assert mine == [line.split(": ", 1)[-1] for line in got.stdout.splitlines()]
    finally:
        follower.kill()
        follower.end_input()
