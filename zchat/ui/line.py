"""Line mode: a prompt at the bottom, the room scrolling above it.

For terminals that can keep a prompt in place (prompt_toolkit); a real prompt line is also what
screen readers follow best. What one says appears when a signed head covers it; until then the
status line counts it.

Rules of this file: everything printed went through show.py or is a literal; what was typed is not
written to any disk but the outbox.
"""

import asyncio
import contextlib
import os
import sys
import textwrap
import time
from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.renderer import print_formatted_text
from prompt_toolkit.styles import Style

from zchat.errors import Exit, ZchatError
from zchat.member.room import in_words
from zchat.member.rows import (
    Blame,
    Composed,
    Confirmed,
    Connection,
    Event,
    Joined,
    Message,
    Notice,
    Row,
    ServerSays,
    State,
)
from zchat.ui.commands import COMMANDS, Quit, run_command
from zchat.ui.fold import hanging
from zchat.ui.ink import colour_of
from zchat.ui.input import whole_text
from zchat.ui.plain import not_confirmed, offline_line
from zchat.ui.safe import safe_line
from zchat.ui.show import clock_time, day, message_rows, other_line, refusal_lines
from zchat.ui.visit import History, Visit, is_text

_QUIT_WITHIN_S = 2.0
_FAREWELL_S = 3.0
_STYLE = Style.from_dict(
    {
        "bottom-toolbar": "noreverse",
        "bottom-toolbar.text": "",
        "note": "italic",
        "warn": "bold",
        "fault": "bold ansired",
        "own": "bold",
    }
)
_LIMIT_NOTE = "whoever learns the passphrase can read this room's history"


class _Keyboard(Vt100Input):
    """The terminal's input, raw for as long as the chat lasts.

    While a line is printed above the prompt, prompt_toolkit lends the terminal its old mode: what
    is typed in that moment would be echoed into the room's lines, and Ctrl-C would end the program.
    """

    def cooked_mode(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class LineChat:
    """A chat in a terminal."""

    def __init__(self, visit: Visit, *, colours: bool) -> None:
        self.visit = visit
        self._depth = _depth(colours=colours)
        self.compared_n = 0
        self._keyboard = _Keyboard(sys.stdin)
        self._session: PromptSession[str] = PromptSession(
            "> ",
            input=self._keyboard,
            history=InMemoryHistory(),
            completer=_Names(self),
            complete_while_typing=False,
            bottom_toolbar=self._status_line,
            key_bindings=self._key_bindings(),
            erase_when_done=True,
            refresh_interval=1.0,
            style=_STYLE,
            color_depth=self._depth,
        )
        self._last_day = ""
        self._on_the_way: set[bytes] = set()
        self._interrupted_at = -_QUIT_WITHIN_S
        self._checked_ms = 0
        self._offline_told = False
        self._pasted_lines = False
        self._unwritten = FormattedText()
        self._has_unwritten = asyncio.Event()

    async def run(self, history: History) -> Exit:
        """Chat until the user leaves. Raises NotStored, NoAnswer for what did not go out."""
        with patch_stdout(raw=True), self._keyboard.raw_mode():
            self._show_history(history)
            self._greet()
            tasks = [
                asyncio.create_task(part)
                for part in (self._listen(), self._prompt(), self._write())
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._flush()
        try:
            await self._see_off()
        finally:
            self._flush()
            self.visit.room.mark_read()
        return Exit.SERVER_FAULT if self.visit.room.accused else Exit.OK

    def _greet(self) -> None:
        """Who one is, and where; what can be typed."""
        record = self.visit.room.record
        self.note(f"You are {record.name} in {record.room} at {self.visit.address}.")
        if self.visit.offline_since_ms:
            self._tell_connection(online=False)
        self.note("Enter sends, Alt-Enter breaks the line, /help lists commands.")

    async def _see_off(self) -> None:
        """What was typed last may be on its way still: wait a moment for its receipt."""
        room, ends = self.visit.room, time.monotonic() + _FAREWELL_S
        while room.unconfirmed and not room.fault:
            if not self.visit.client.online or time.monotonic() > ends:
                raise not_confirmed(self.visit, _FAREWELL_S)
            event = await self.visit.client.next_event(0.1)
            if event is not None:
                self._take(event)

    # ---- what comes in ----

    def _show_history(self, history: History) -> None:
        read_n, read_ms = self.visit.room.record.read_n, self.visit.room.record.read_ms
        marked = read_n == 0
        for row in history:
            if not marked and is_text(row) and isinstance(row, Message) and row.n > read_n:
                self.note(f"new since {clock_time(read_ms)}")
                marked = True
            self._show(row)
        self._checked_ms = self.visit.clock.wall_ms()

    async def _listen(self) -> None:
        while True:
            event = await self.visit.client.next_event()
            if event is not None:
                self._take(event)

    def _take(self, event: Event) -> None:
        self.visit.note(event)
        what = event.what
        if isinstance(what, Composed):
            self._on_the_way.add(what.id)
        elif isinstance(what, Confirmed):
            self._on_the_way.discard(what.id)
        elif isinstance(what, Connection):
            self._tell_connection(online=what.online)
        elif isinstance(what, ServerSays):
            for line in refusal_lines(what):
                self.note(line)
        elif isinstance(what, Row):
            self._show(what)
        if self.visit.caught_up:
            self._checked_ms = self.visit.clock.wall_ms()

    def _tell_connection(self, *, online: bool) -> None:
        """Once for each time it is lost: retries fail, too."""
        if online is self._offline_told:
            self._offline_told = not online
            self.note("online again" if online else offline_line(self.visit)[3:])

    def _show(self, row: Row) -> None:
        if isinstance(row, Message):
            self._show_message(row)
        elif isinstance(row, Joined):
            pass  # their first message says as much
        elif isinstance(row, Notice) and row.blame is Blame.SERVER:
            self._print("fault", f"!! {safe_line(row.text)}")
        else:
            loud = isinstance(row, Notice) and row.state is State.KEY_CHANGED
            self._print("warn" if loud else "note", other_line(row))

    def _show_message(self, message: Message) -> None:
        today = day(message.sent_at_ms)
        if today != self._last_day:
            self._last_day = today
            self._print("note", f"-- {today}")
        style = "class:own" if message.own else colour_of(message.sender)
        for head, text in message_rows(message):
            self._put(style, head, "", text)

    def note(self, text: str) -> None:
        """A line that nobody said."""
        self._print("note", f"-- {safe_line(text)}")

    def _print(self, kind: str, line: str) -> None:
        self._put(f"class:{kind}", line[:3], f"class:{kind}", line[3:])

    def _put(self, prefix_style: str, prefix: str, style: str, text: str) -> None:
        """A line, folded by us: one folded by the terminal could go on like a line of its own."""
        columns = self._session.app.output.get_size().columns
        for head, rest in hanging(prefix, text, columns):
            self._unwritten += [(prefix_style, head), (style, f"{rest}\n")]
        self._has_unwritten.set()

    async def _write(self) -> None:
        """Put above the prompt what came, all that is there at once: each time is a redraw."""
        while True:
            await self._has_unwritten.wait()
            async with in_terminal():
                self._flush()

    def _flush(self) -> None:
        lines, self._unwritten = self._unwritten, FormattedText()
        self._has_unwritten.clear()
        if lines:
            print_formatted_text(self._session.app.output, lines, _STYLE, color_depth=self._depth)

    # ---- what goes out ----

    async def _prompt(self) -> None:
        text = kept = ""
        while True:
            try:
                self._pasted_lines = False
                text = await self._session.prompt_async(default=kept)
                kept = ""
                await self._enter(text)
            except KeyboardInterrupt:
                kept = ""
                is_second = time.monotonic() - self._interrupted_at < _QUIT_WITHIN_S
                if is_second and not self._session.default_buffer.text:
                    return
                self._interrupted_at = time.monotonic()
                self.note("Ctrl-C again, Ctrl-D or /quit leaves")
            except (EOFError, Quit):
                return
            except ZchatError as error:
                kept = "" if _is_command(text) else text  # to be mended, not typed again
                self.note(error.sentence)
                if error.advice:
                    self.note(error.advice)

    async def _enter(self, text: str) -> None:
        if not text.strip():
            return
        if _is_command(text):
            await run_command(self, text)
            return
        text = whole_text(text.removeprefix("/") if text.startswith("//") else text)
        parts = await self._split(text)
        if parts:
            self.visit.client.say(self.visit.room.tag, parts)

    async def _split(self, text: str) -> list[str]:
        """Several lines that were pasted: one message or many? Asked once."""
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) < 2 or not self._pasted_lines:
            return [text]
        asking = PromptSession[str](input=self._keyboard, erase_when_done=True)
        choice = ""
        while choice not in ("o", "l", "n"):
            answer = await asking.prompt_async(
                f"{len(lines)} lines: [o]ne message, line by [l]ine, or [n]ot at all (and Enter)? "
            )
            choice = answer.strip().lower()
        if choice == "n":
            self.note("not sent")
            return []
        return [text] if choice == "o" else lines

    def _key_bindings(self) -> KeyBindings:
        bindings = KeyBindings()

        @bindings.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @bindings.add(Keys.BracketedPaste)
        def _(event: KeyPressEvent) -> None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            self._pasted_lines = self._pasted_lines or "\n" in text
            event.current_buffer.insert_text(text)

        return bindings

    # ---- the status line ----

    def _status_line(self) -> str:
        room = self.visit.room
        status = room.status(self.visit.clock.now())
        columns = get_app().output.get_size().columns
        if status.state is State.FORKED:
            fault = f"SERVER FORKED / WENT BACK: {safe_line(status.fault)}"
            return _wrapped([fault, "posting stopped"] if room.fault else [fault], columns)
        parts = ["E2E on"]
        if self.visit.offline_since_ms:
            parts.append(f"offline since {clock_time(self.visit.offline_since_ms)}")
        if self._on_the_way:
            parts.append(f"{len(self._on_the_way)} on the way")
        if status.members:
            parts.append(f"{status.verified} of {status.members} verified")
        else:
            parts.append("nobody else has spoken yet")
        parts.append(f"checked to {clock_time(self._checked_ms)}")
        if status.missing:
            parts.append(f"gap: {status.missing} missing")
        if status.behind:
            parts.append(f"{status.behind} behind")
        if status.stale_s:
            parts.append(f"stale {in_words(status.stale_s)}")
        parts += ["server: no faults seen", _LIMIT_NOTE]
        return _wrapped(parts, columns)

    def names(self) -> Iterable[str]:
        """Names that can be completed."""
        return (safe_line(m.shown) for m in self.visit.room.members(self.visit.clock.now()))


class _Names(Completer):
    """Commands at the start of a line, names anywhere."""

    def __init__(self, chat: LineChat) -> None:
        self._chat = chat

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        word = text.rsplit(" ", 1)[-1]
        known = [f"/{name}" for name in COMMANDS] if word == text else []
        for candidate in [*known, *self._chat.names()]:
            if word and candidate.lower().startswith(word.lower()):
                yield Completion(candidate + " ", start_position=-len(word))


def _depth(*, colours: bool) -> ColorDepth | None:
    """None: as the terminal can. prompt_toolkit looks at NO_COLOR, too; --color goes before it."""
    if not colours:
        return ColorDepth.MONOCHROME
    return ColorDepth.ANSI_COLORS_ONLY if os.environ.get("NO_COLOR") else None


def _is_command(text: str) -> bool:
    return text.startswith("/") and not text.startswith("//")


def _wrapped(parts: Iterable[str], columns: int) -> str:
    """Parts in as many rows as they need: a status that is cut off says too little."""
    rows: list[str] = []
    for part in parts:
        if rows and len(rows[-1]) + len(part) + 4 <= columns:
            rows[-1] += f" · {part}"
        else:
            rows += textwrap.wrap(part, max(columns - 1, 1))
    return "\n".join(f" {row}" for row in rows)
