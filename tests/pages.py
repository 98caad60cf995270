"""A page of documentation, played: what it says is typed is typed, what it shows must appear.

Rules of a page. A block that opens with ```console NAME belongs to NAME's terminal, which is one
shell from the page's first block to its last. In it

    $ COMMAND, or NAME$ COMMAND   is typed to the shell, once it waits for a command
    > TEXT                        is typed into the chat, or answers a question
    > (Enter)                     is that key alone
    ^C                            is that key, and what the terminal shows of it
    > _                           the chat waits here; the lines below it are the screen's last
    ...                           (that sign alone, as one character) rows that are left out
    anything else                 is the next row on the screen

Blank rows do not count. What differs each time is known by its form: times, dates, addresses,
invites, passphrases, spoken words, key marks, hexadecimal keys; the same on the page must be the
same on the screen, and what is typed has it, too. The sign for "..." inside a row stands for
anything. Who comes and goes is told when it is noticed: such rows may stand elsewhere in a block.
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import PATIENCE_S, Terminal

LEFT_OUT = "…"
COLUMNS = 100

# How what differs each time looks; where it is bound, one thing on the page is one on the screen.
_BOUND = {
    "invite": r"zchat://[^\s'\"]+",
    "address": r"\d+\.\d+\.\d+\.\d+:\d+",
    "passphrase": r"[a-z]+(?:-[a-z]+){5}(?![a-z-])",
    "words": r"(?<=: )[a-z]+(?: [a-z]+){7}$",
    "mark": r"~[0-9a-f]{4}\b",
    "key": r"\b[0-9a-f]{16,64}\b",
}
_FREE = {
    "date": r"[A-Z][a-z]+day, \d\d? [A-Z][a-z]+ \d{4}",
    "time": r"\b\d\d:\d\d\b",
    "left_out": LEFT_OUT,
}
_FORMS = re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in (_BOUND | _FREE).items()))
_TYPED = re.compile(r"(?P<prompt>(?:\w+)?\$|>) (?P<text>.*)")
_PRESENCE = re.compile(r"-- \S+ (is here|left)")
_OF_NO_NOTE = re.compile(r"(\w*\$|>| .*|-- \S+ (is here|left))?")  # prompts, the status
_CTRL_C = "\x03"


class Block(NamedTuple):
    """What happens in one terminal."""

    who: str
    lines: list[str]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page that are played."""
    for who, body in re.findall(r"^```console (\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(who, body.splitlines())


class Shell(Terminal):
    """A shell in a terminal, where nothing but the page's commands is to be found."""

    program = ("/bin/sh", "-c", 'cd "$ZCHAT_HOME" && exec bash --norc --noprofile')

    def __init__(self, home: Path, prompt: str, **more: str) -> None:
        super().__init__(home, columns=COLUMNS, rows=40, PS1=f"{prompt} ", HISTFILE="", **more)
        self.read = 0  # rows that were compared
        self.rest_left_out = False

    @property
    def joined(self) -> list[str]:
        """The rows, those that the terminal had to fold in one."""
        rows: list[str] = []
        goes_on = False
        for row in self.rows:
            rows[-1:] = [rows[-1] + row] if goes_on else [*rows[-1:], row]
            goes_on = len(row) == COLUMNS
        return rows


class Player:
    """Plays a page; `known` is what the things on the page are this time."""

    def __init__(self, homes: dict[str, Path], **more: str) -> None:
        self._homes, self._more = homes, more
        self._shells: dict[str, Shell] = {}
        self.known: dict[str, str] = {}
        self.patience_s = PATIENCE_S

    def play(self, text: str, *early: str) -> int:
        """All blocks in their order; how many there were.

        What takes long and needs nothing of the others can begin `early`: its first command.
        """
        played = 0
        for block in blocks(text):
            if block.who in early and block.who not in self._shells:
                self._command(self._shell(block), *_typed(block.lines[0]))
        for block in blocks(text):
            self._play(block)
            played += 1
        self._check_that_all_was_told()
        return played

    def _check_that_all_was_told(self) -> None:
        for who, shell in self._shells.items():
            rows = shell.joined[shell.read :] if not shell.rest_left_out else []
            untold = [row for row in rows if not _OF_NO_NOTE.fullmatch(row)]
            assert not untold, f"the page does not tell what {who} sees: {untold}"

    def close(self) -> None:
        for shell in self._shells.values():
            shell.end()

    def _shell(self, block: Block) -> Shell:
        if block.who not in self._shells:
            prompt, _ = _typed(block.lines[0])
            home = self._homes.get(block.who, self._homes[""])
            self._shells[block.who] = Shell(home, prompt, **self._more)
        return self._shells[block.who]

    def _play(self, block: Block) -> None:
        shell = self._shell(block)
        began, skips = shell.read, False
        for line in block.lines:
            typed = _TYPED.fullmatch(line)
            if line == LEFT_OUT:
                skips = True
                continue
            if line == "> _":
                self._compare_foot(shell, block.lines[block.lines.index(line) + 1 :])
                return
            if typed and typed["prompt"] == ">":
                self._enter(shell, typed["text"])
                continue
            if line.startswith("^C"):
                shell.type(_CTRL_C)
            elif typed and shell.joined[shell.read :][:1] != [line]:  # unless it was early
                self._command(shell, typed["prompt"], typed["text"])
            if _PRESENCE.match(line):
                self._await(shell, line, began, anywhere=True)
            else:
                shell.read = self._await(shell, line, shell.read, anywhere=skips) + 1
            skips = False
        shell.rest_left_out = skips

    def _enter(self, shell: Shell, text: str) -> None:
        """Into a chat, which waits with its prompt, or as the answer to a question."""
        shell.until("somebody asks", lambda: bool(re.search(r"(^>|: ?)$", _last_asked(shell))))
        shell.type("\r" if text == "(Enter)" else f"{self.filled(text)}\r")

    def _command(self, shell: Shell, prompt: str, text: str) -> None:
        shell.until("the shell waits", lambda: shell.text.rpartition("\n")[2] == prompt)
        shell.type(f"{self.filled(text)}\r")

    def _compare_foot(self, shell: Shell, lines: list[str]) -> None:
        """The prompt and all that stands below it, at one moment: it moves down with each row."""
        ends = time.monotonic() + self.patience_s
        while True:
            rows = [row for row in shell.joined[shell.read :] if row and not _PRESENCE.match(row)]
            found = [
                self.pattern(line).fullmatch(row)
                for line, row in zip([">", *lines], rows, strict=False)
            ]
            if len(rows) == len(lines) + 1 and all(found):
                return
            _look_again(ends, "\n".join([">", *lines]), rows)

    def _await(self, shell: Shell, line: str, start: int, *, anywhere: bool = False) -> int:
        """The row that is this line: the next one, or one further down. Binds what is in it."""
        ends = time.monotonic() + self.patience_s
        while True:
            seen = shell.joined
            for at in range(start, len(seen)):
                row = seen[at]
                if not row or (_PRESENCE.match(row) and not _PRESENCE.match(line)):
                    continue
                found = self.pattern(line).fullmatch(row)
                if found:
                    self._bind(line, found)
                    return at
                if not anywhere:
                    break
            _look_again(ends, line, seen[start:])

    def filled(self, text: str) -> str:
        """What is typed, with what the things on the page are this time."""
        for token, actual in sorted(self.known.items(), key=lambda item: -len(item[0])):
            text = text.replace(token, actual)
        return text

    def pattern(self, line: str) -> re.Pattern[str]:
        """What a row looks like that is this line."""
        return re.compile("".join(self._parts(line)))

    def _parts(self, line: str) -> Iterator[str]:
        at, bound = 0, 0
        for token in _FORMS.finditer(line):
            yield re.escape(line[at : token.start()])
            kind = str(token.lastgroup)
            if kind in _FREE:
                yield ".*" if kind == "left_out" else _FREE[kind]
            elif token[0] in self.known:
                yield re.escape(self.known[token[0]])
            else:
                bound += 1
                yield f"(?P<b{bound}>{_BOUND[kind]})"
            at = token.end()
        yield re.escape(line[at:])

    def _bind(self, line: str, found: re.Match[str]) -> None:
        tokens = [
            token[0]
            for token in _FORMS.finditer(line)
            if token.lastgroup not in _FREE and token[0] not in self.known
        ]
        for number, token in enumerate(tokens, 1):
            self.known[token] = found[f"b{number}"]


def _look_again(ends: float, line: str, rows: list[str]) -> None:
    """In a moment; when the time is over, fail with what is there instead."""
    if time.monotonic() > ends:
        there = "\n".join(rows).strip("\n")
        raise AssertionError(f"the page says\n{line}\nand the screen from there on\n{there}")
    time.sleep(0.02)


def _typed(line: str) -> tuple[str, str]:
    """The prompt, and what is typed there."""
    typed = _TYPED.fullmatch(line)
    assert typed and typed["prompt"] != ">", f"{line!r} should be a command"
    return typed["prompt"], typed["text"]


def _last_asked(shell: Shell) -> str:
    """The row with the cursor, up to the cursor."""
    shell.pump()
    return shell.screen.display[shell.screen.cursor.y][: shell.screen.cursor.x].rstrip()
