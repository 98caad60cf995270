"""Line mode: a prompt at the bottom, the room scrolling above it.

For terminals that can keep a prompt in place (prompt_toolkit); a real prompt line is also what
screen readers follow best. What one says appears when a signed head covers it; until then the
status line counts it.

Rules of this file: everything printed went through show.py or is a literal; what was typed is not
written to any disk but the outbox.
"""

import asyncio
import time
from collections.abc import Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.shortcuts import print_formatted_text
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
from zchat.ui.plain import offline_line
from zchat.ui.safe import safe_line
from zchat.ui.show import clock_time, day, message_lines, other_line
from zchat.ui.visit import History, Visit, is_text

_QUIT_WITHIN_S = 2.0
_NAME_COLOURS = ["ansicyan", "ansigreen", "ansiyellow", "ansimagenta", "ansiblue"]
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


class LineChat:
    """A chat in a terminal."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self._session: PromptSession[str] = PromptSession(
            "> ",
            history=InMemoryHistory(),
            completer=_Names(self),
            complete_while_typing=False,
            bottom_toolbar=self._status_line,
            key_bindings=_key_bindings(),
            erase_when_done=True,
            refresh_interval=1.0,
            style=_STYLE,
        )
        self._last_day = ""
        self._on_the_way: set[bytes] = set()
        self._interrupted_at = -_QUIT_WITHIN_S
        self._checked_ms = 0

    async def run(self, history: History) -> Exit:
        """Chat until the user leaves."""
        with patch_stdout(raw=True):
            self._show_history(history)
            self.note("Enter sends, Alt-Enter breaks the line, /help lists commands.")
            listening = asyncio.create_task(self._listen())
            prompting = asyncio.create_task(self._prompt())
            try:
                done, _ = await asyncio.wait(
                    {listening, prompting}, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
            finally:
                listening.cancel()
                prompting.cancel()
                await asyncio.gather(listening, prompting, return_exceptions=True)
        self.visit.room.mark_read()
        return Exit.SERVER_FAULT if self.visit.room.fault else Exit.OK

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
            self.note("online again" if what.online else offline_line(self.visit)[3:])
        elif isinstance(what, ServerSays):
            self.note(f"server says: {what.code} {what.text}".rstrip())
        elif isinstance(what, Row):
            self._show(what)
        if self.visit.caught_up:
            self._checked_ms = self.visit.clock.wall_ms()

    def _show(self, row: Row) -> None:
        if isinstance(row, Message):
            self._show_message(row)
        elif isinstance(row, Joined):
            pass  # their first message says as much
        elif isinstance(row, Notice) and row.blame is Blame.SERVER:
            self._print("fault", f"!! {safe_line(row.text)}")
            self._print(
                "fault", "!! Posting has stopped; reading goes on. Tell the others by another way."
            )
        else:
            loud = isinstance(row, Notice) and row.state is State.KEY_CHANGED
            self._print("warn" if loud else "note", other_line(row))

    def _show_message(self, message: Message) -> None:
        today = day(message.sent_at_ms)
        if today != self._last_day:
            self._last_day = today
            self._print("note", f"-- {today}")
        colour = "own" if message.own else _NAME_COLOURS[sum(message.sender) % len(_NAME_COLOURS)]
        for line in message_lines(message):
            prefix, separator, text = line.partition(": ")
            style = f"class:{colour}" if message.own else colour
            print_formatted_text(
                FormattedText([(style, prefix + separator), ("", text)]), style=_STYLE
            )

    def note(self, text: str) -> None:
        """A line that nobody said."""
        self._print("note", f"-- {safe_line(text)}")

    @staticmethod
    def _print(kind: str, line: str) -> None:
        print_formatted_text(FormattedText([(f"class:{kind}", line)]), style=_STYLE)

    # ---- what goes out ----

    async def _prompt(self) -> None:
        while True:
            try:
                text = await self._session.prompt_async()
                await self._enter(text)
            except KeyboardInterrupt:
                if time.monotonic() - self._interrupted_at < _QUIT_WITHIN_S:
                    return
                self._interrupted_at = time.monotonic()
                self.note("Ctrl-C again, Ctrl-D or /quit leaves")
            except (EOFError, Quit):
                return
            except ZchatError as error:
                self.note(error.sentence)
                if error.advice:
                    self.note(error.advice)

    async def _enter(self, text: str) -> None:
        if not text.strip():
            return
        if text.startswith("/") and not text.startswith("//"):
            await run_command(self, text)
            return
        text = text.removeprefix("/") if text.startswith("//") else text
        for part in await self._split(text):
            self.visit.client.say(self.visit.room.tag, [part])

    async def _split(self, text: str) -> list[str]:
        """A text of several lines: one message or many? Asked once."""
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) < 2:
            return [text]
        answer = await PromptSession[str]().prompt_async(
            f"{len(lines)} lines: send as [o]ne message, line by [l]ine, or [n]ot at all? "
        )
        choice = answer.strip().lower()[:1]
        return [text] if choice == "o" else lines if choice == "l" else []

    # ---- the status line ----

    def _status_line(self) -> str:
        room = self.visit.room
        status = room.status(self.visit.clock.now())
        if status.state is State.FORKED:
            return f" SERVER FORKED / WENT BACK: {safe_line(status.fault)} · posting stopped"
        parts = ["E2E on"]
        if self.visit.offline_since_ms:
            parts.append(f"offline since {clock_time(self.visit.offline_since_ms)}")
        if self._on_the_way:
            parts.append(f"{len(self._on_the_way)} on the way")
        parts.append(f"{status.verified} of {status.members} verified")
        parts.append(f"checked to {clock_time(self._checked_ms)}")
        if status.missing:
            parts.append(f"gap: {status.missing} missing")
        if status.stale_s:
            parts.append(f"stale {in_words(status.stale_s)}")
        parts += ["server: no faults seen", _LIMIT_NOTE]
        return " " + " · ".join(parts)

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


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
