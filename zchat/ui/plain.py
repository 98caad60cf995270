"""Plain mode: a chat as two streams of lines, for pipes, files and simple terminals.

Rules of this file: stdout has one line per message, `HH:MM NAME: TEXT`, one's own too, each once,
in log order, when a signed head covers it; everything else goes to stderr. Every line of stdin is a
message word for word, or told and left out. At its end we wait for what is on its way, no longer
than the time-out.
"""

import asyncio
from collections.abc import Callable

from zchat.errors import (
    Exit,
    NoAnswer,
    NotStored,
    Refused,
    ServerFault,
    ZchatError,
)
from zchat.member.rows import (
    Confirmed,
    Connection,
    Event,
    Here,
    Joined,
    Message,
    Notice,
    Row,
    ServerSays,
)
from zchat.ui.input import LineInput, refusals
from zchat.ui.screen import Screen
from zchat.ui.show import clock_time, other_line, refusal_lines
from zchat.ui.visit import Visit

_MOST_UNSEEN = 2_000


class PlainChat:
    """`screen` takes messages, `note` lines for people (made safe by their maker)."""

    def __init__(self, visit: Visit, screen: Screen, note: Callable[[str], None]) -> None:
        self._visit = visit
        self._screen = screen
        self._note = note
        self._unseen: set[bytes] = set()  # own messages not shown yet
        self._moved = asyncio.Event()
        self._offline_told = False
        self._left_out = False

    async def run(self, stdin: int, timeout_s: float) -> Exit:
        """Chat until stdin ends. Raises what ends a chat badly: see `_end`."""
        listening = asyncio.create_task(self._listen())
        speaking = asyncio.create_task(self._speak(LineInput(stdin), timeout_s))
        try:
            done, _ = await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            listening.cancel()
            speaking.cancel()
        return Exit.FIXABLE if self._left_out else Exit.OK

    def show(self, row: Row) -> None:
        """One row to where it belongs."""
        if isinstance(row, Message):
            self._unseen.discard(row.id)
            self._screen.message(row)
        elif not isinstance(row, Joined):
            self._note(other_line(row))

    # ---- what comes in ----

    async def _listen(self) -> None:
        while True:
            event = await self._visit.client.next_event()
            if event is not None:
                self._take(event)

    def _take(self, event: Event) -> None:
        self._visit.note(event)
        what = event.what
        is_ours = isinstance(what, Message) and what.id in self._unseen
        if is_ours or isinstance(what, Confirmed) or self._visit.room.fault:
            self._moved.set()  # what others say is no answer to us
        if isinstance(what, Message | Notice | Here):
            self.show(what)
        elif isinstance(what, ServerSays) and (what.code != "stopping" or what.text):
            for line in refusal_lines(what):
                self._note(f"-- {line}")
        elif isinstance(what, Connection):
            self._tell_connection(what)

    def _tell_connection(self, what: Connection) -> None:
        if what.online and self._offline_told:
            self._offline_told = False
            self._note("-- online again")
        elif not what.online and not self._offline_told:
            self._offline_told = True
            self._note(offline_line(self._visit))

    # ---- what goes out ----

    async def _speak(self, lines: LineInput, timeout_s: float) -> None:
        while (some := await lines.next_lines()) is not None:
            texts = [line for line in some if isinstance(line, str)]
            for refusal in refusals(some):
                self._left_out = True
                self._note(f"-- {refusal.sentence}")
                self._note(f"-- {refusal.advice}")
            if texts:
                self._unseen.update(self._visit.client.say(self._visit.room.tag, texts))
            while len(self._unseen) > _MOST_UNSEEN:
                await self._next_move(None)
        await self._end(timeout_s)

    async def _next_move(self, patience_s: float | None) -> None:
        """Wait until something of ours was confirmed or shown. Raises TimeoutError."""
        self._moved.clear()
        async with asyncio.timeout(patience_s):
            await self._moved.wait()

    async def _end(self, timeout_s: float) -> None:
        """Wait for our own messages to come back under a signed head.

        Raises ServerFault, NotStored, NoAnswer: the exit codes 4, 3 and 6.
        """
        room = self._visit.room
        while (self._unseen or room.unconfirmed) and not room.fault:
            try:
                await self._next_move(timeout_s)
            except TimeoutError:
                raise not_confirmed(self._visit, timeout_s) from None
        if room.accused:
            raise ServerFault(text=room.accused)


def offline_line(visit: Visit) -> str:
    """Since when and why there is no connection."""
    since = clock_time(visit.offline_since_ms)
    return f"-- offline since {since} ({visit.offline_reason}); retrying, what you write is kept"


def not_confirmed(visit: Visit, timeout_s: float) -> ZchatError:
    """What stays in the outbox, and why: no connection, or no answer."""
    left = sorted(i.hex()[:12] for i in visit.room.unconfirmed)
    ids = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    if visit.refusal:
        code, text = visit.refusal
        kept = {"count": len(left), "ids": ids}
        return Refused(address=visit.address, code=code, text=text, **kept)
    if not visit.client.online:
        return NotStored(count=len(left), address=visit.address, ids=ids)
    return NoAnswer(address=visit.address, seconds=f"{timeout_s:g}", count=len(left), ids=ids)
