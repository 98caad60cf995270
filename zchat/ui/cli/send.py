"""`zchat send`: say something from a script."""

import sys
from collections.abc import AsyncIterator

import click

from zchat.config import MemberConfig
from zchat.errors import Exit, NothingToSay, NotSeen, ServerFault, TextTooLong
from zchat.member.profile import Opened
from zchat.member.room import Room
from zchat.member.rows import Confirmed, Event, Notice, ServerSays
from zchat.protocol.limits import MAX_TEXT_BYTES
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import complain, config_for, has_terminal, run, say, timeout_option
from zchat.ui.input import LineInput, refusals, whole_argument, whole_input
from zchat.ui.plain import not_confirmed
from zchat.ui.visit import History, Visit

_MOST_UNCONFIRMED = 4_000
_MOST_NAMED = 5
_COMES_BACK_S = 1.0
_MOST_REASONS = 10
_PASSING = ("rate", "stopping", "hello-first")  # nothing that a person has to do anything about


@click.command()
@room_argument
@click.argument("text", required=False)
@click.option("--whole", is_flag=True, help="All of stdin is one message.")
@click.option("--anyway", is_flag=True, help="Send even though the server contradicted itself.")
@click.option(
    "--wait",
    type=click.Choice(["stored", "seen"]),
    default="stored",
    help="For what: the server's signature (stored), or another member's program (seen).",
)
@timeout_option("Give up after S seconds without (30).")
@click.option("--weak-passphrase", is_flag=True, help="Accept a new room that is cheap to break.")
@access_options
def send(
    room: str,
    text: str | None,
    wait: str,
    timeout: float | None,
    access: Access,
    *,
    whole: bool,
    anyway: bool,
    weak_passphrase: bool,
) -> int:
    """Send TEXT, or stdin line by line, to a room.

    ROOM is a room known here, or an invite. TEXT "-" is stdin, and so is none where stdin is no
    terminal. Ends with 0 only once a signed head covers everything. A line that is too long or not
    UTF-8 is told and left out; the others go out, and it ends with 1.

    With --wait seen also only once the program of another member has shown that it holds all of it
    (not that anybody read it). Who is there answers within seconds, unless your own chat is open in
    that room, too: then with its next heartbeat.

    \b
        make 2>&1 | zchat send ops
        zchat send ops "leaving now" --wait seen --timeout 10
    """
    if text is None and has_terminal():
        raise NothingToSay
    given = None if text is None or text == "-" else whole_argument(text)
    opened = open_room(room, access)
    job = _Sending(opened, given, whole=whole, anyway=anyway, to_be_seen=wait == "seen")
    config = config_for(timeout_s=timeout)
    return run(job.run(config, may_be_empty=access.new, may_be_weak=weak_passphrase))


class _Sending:
    """One `zchat send`."""

    def __init__(
        self, opened: Opened, text: str | None, *, whole: bool, anyway: bool, to_be_seen: bool
    ) -> None:
        self._opened = opened
        self._text = text
        self._whole = whole
        self._anyway = anyway
        self._to_be_seen = to_be_seen
        self._last_n = 0
        self._left_out = False
        self._told: set[ServerSays] = set()

    async def run(self, config: MemberConfig, *, may_be_empty: bool, may_be_weak: bool) -> int:
        """Connect, check, send, wait. Raises ServerFault, NotStored, NoAnswer, ..."""
        opened = self._opened
        async with Visit(opened, config) as visit:
            await self._arrive(visit)
            visit.settle_in(may_be_empty=may_be_empty, may_be_weak=may_be_weak)
            async for texts in self._texts():
                visit.client.say(visit.room.tag, texts, anyway=self._anyway)
                await self._confirmed(visit, _MOST_UNCONFIRMED, config.timeout_s)
            await self._confirmed(visit, 0, config.timeout_s)
            await self._come_back(visit)
            if self._to_be_seen:
                await self._seen(visit, config.timeout_s)
        return Exit.FIXABLE if self._left_out else Exit.OK

    async def _arrive(self, visit: Visit) -> None:
        """Hear at least one answer about the room, so that a known fault stops us in time.

        Entries that come meanwhile are checked and kept, but not waited for in a room known here.
        """
        if visit.is_new_here or self._to_be_seen:
            await visit.arrive(History(0))
        else:
            await visit.look_in()
        if visit.room.fault and not self._anyway:
            raise ServerFault(text=visit.room.fault)

    async def _texts(self) -> AsyncIterator[list[str]]:
        if self._text is not None:
            if not self._text.strip():
                raise NothingToSay
            yield [self._text]
        elif self._whole:
            yield [self._whole_stdin()]
        else:
            lines = LineInput(0)
            while (some := await lines.next_lines()) is not None:
                for refusal in refusals(some):
                    self._left_out = True
                    complain(refusal)
                texts = [line for line in some if isinstance(line, str)]
                if texts:
                    yield texts

    @staticmethod
    def _whole_stdin() -> str:
        raw = sys.stdin.buffer.read(MAX_TEXT_BYTES + 2)
        if len(raw) > MAX_TEXT_BYTES + 1:
            raise TextTooLong(size=f"more than {MAX_TEXT_BYTES}", most=MAX_TEXT_BYTES)
        text = whole_input(raw)
        if not text.strip():
            raise NothingToSay
        return text

    async def _confirmed(self, visit: Visit, most: int, timeout_s: float) -> None:
        """Wait until no more than `most` of our messages are on the way."""
        waited_since, reached = visit.clock.now(), visit.room.checked.n
        while len(visit.room.unconfirmed) > most:
            event = await visit.client.next_event(0.1)
            if event is not None:
                self._take(visit, event)
                reads_on = not visit.caught_up and visit.room.checked.n > reached
                if reads_on or isinstance(event.what, Confirmed):
                    reached = visit.room.checked.n
                    waited_since = visit.clock.now()
                elif isinstance(event.what, ServerSays):
                    self._tell(event.what)
                elif isinstance(event.what, Notice) and visit.room.fault and not self._anyway:
                    raise ServerFault(text=visit.room.fault)
            waited_s = visit.clock.now() - waited_since
            if waited_s > timeout_s or not (visit.client.online or visit.was_online):
                raise not_confirmed(visit, timeout_s)

    def _tell(self, what: ServerSays) -> None:
        """Why nothing is confirmed, each reason once; a server can make up as many as it likes."""
        is_new = what not in self._told and len(self._told) < _MOST_REASONS
        if is_new and what.code not in _PASSING:
            self._told.add(what)
            say(f"-- server says: {what.code} {what.text}".rstrip())

    def _take(self, visit: Visit, event: Event) -> None:
        visit.note(event)
        if isinstance(event.what, Confirmed):
            self._last_n = max(self._last_n, event.what.n)

    async def _come_back(self, visit: Visit) -> None:
        """What was confirmed leaves the outbox as it comes back: where that is now, wait for it."""
        until = visit.clock.now() + _COMES_BACK_S
        while visit.clock.now() < until:
            comes = visit.caught_up and visit.room.checked.n < self._last_n
            if not visit.client.waiting and (not comes or visit.room.fault):
                return
            event = await visit.client.next_event(0.05)
            if event is not None:
                self._take(visit, event)

    async def _seen(self, visit: Visit, timeout_s: float) -> None:
        """Wait until somebody else shows to hold our last message. Raises NotSeen, ServerFault."""
        while visit.client.waiting:  # where the last one stands may not have been told yet
            event = await visit.client.next_event(0)
            if event is not None:
                self._take(visit, event)
        if not self._last_n:
            return
        room, since = visit.room, visit.clock.now()
        visit.client.beat(room.tag)
        while not (seen := room.seen_by(self._last_n)):
            event = await visit.client.next_event(0.1)
            if event is not None:
                self._take(visit, event)
            if room.fault and not self._anyway:
                raise ServerFault(text=room.fault)
            if visit.clock.now() - since > timeout_s:
                raise NotSeen(n=self._last_n, seconds=f"{timeout_s:g}", whom=_not_seen_by(room))
        if sys.stderr.isatty():
            say(f"Seen by the program of {_listed(seen)}.")


def _not_seen_by(room: Room) -> str:
    others = [member.shown for member in room.members(0.0) if not member.own]
    return f"not {_listed(others)}" if others else "nobody else has spoken here yet"


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
