"""`zchat tail`: read a room from a script."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from zchat.errors import CommandTooSlow, Exit, ServerFault, Unreachable, Usage
from zchat.member.profile import Opened
from zchat.member.rows import Connection, Here, Message, Notice, Row, is_fault
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import (
    ReaderGone,
    color_option,
    config_for,
    data,
    json_option,
    note,
    run,
    say,
    screen,
    show_progress,
)
from zchat.ui.each import Each, OutputGone, is_closed
from zchat.ui.moments import since_ms
from zchat.ui.plain import offline_line
from zchat.ui.show import other_line, row_json
from zchat.ui.visit import History, Visit, is_text

_EXEC_TIMEOUT_S = 60.0
_READER_GONE_AFTER_S = 1.0  # in a quiet room: `| grep -m1 done` ends before somebody speaks again
_MOST_WAITING = 10_000  # events, while a command runs: they are held in memory


class _Wish(NamedTuple):
    """What is to be shown, and how."""

    follow: bool
    since: str | None
    after: int | None
    last: int | None
    others: bool
    everything: bool
    as_json: bool
    command: str | None
    exec_timeout: float | None

    @property
    def most(self) -> int | None:
        """How many messages of those that are there already; None: all that are wanted."""
        if self.last is not None:
            return self.last
        if self.since is not None or self.after is not None:
            return None
        # A command that is started again must not do everything again.
        return 0 if self.command is not None and self.follow else config_for().history


@click.command()
@room_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--since", metavar="TIME", help="What was sent since: 2d, 3h, 10m, or a date.")
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="What stands behind #N.")
@click.option(
    "--last", type=click.IntRange(min=0), metavar="N", help="The last N messages (1,000)."
)
@click.option("--others", is_flag=True, help="Only what others said.")
@click.option("--all", "everything", is_flag=True, help="Joins, gaps and notices, too.")
@click.option(
    "--exec", "command", metavar="CMD", help="Run CMD for each message, its text on stdin."
)
@click.option(
    "--exec-timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    metavar="S",
    help="End a CMD that takes longer than S seconds (60).",
)
@json_option
@color_option
@access_options
def tail(room: str, access: Access, **options: Any) -> int:
    """Print a room's messages.

    ROOM is a room known here, or an invite. Prints all it can, then ends with 4 if the server
    contradicted itself, 3 if it could not be reached. `zchat help json` explains the objects of
    --json.

    --exec runs CMD instead of printing, one at a time and in order; see `zchat help scripting`.
    With -f it runs for what comes from now on, unless --after, --since or --last say more.

    \b
        zchat tail ops --since 2d
        zchat tail ops -f --json | jq -r .text
        zchat tail ops -f --others --exec ./answer.sh
    """
    wish = _Wish(**options)
    if wish.exec_timeout is not None and wish.command is None:
        raise Usage(reason="--exec-timeout S goes with --exec CMD")
    oldest_ms = since_ms(wish.since) if wish.since else 0
    opened = open_room(room, access)
    shower = _Runner(opened.record.room, wish) if wish.command else _Shower(opened, wish)
    return run(_tail(opened, wish, _wanted(wish, oldest_ms), shower, new=access.new))


def _wanted(wish: _Wish, oldest_ms: int) -> Callable[[Row], bool]:
    def wanted(row: Row) -> bool:
        if is_fault(row):
            return True
        if isinstance(row, Message) and row.own and wish.others:
            return False
        if not isinstance(row, Here) and 0 < row.n <= (wish.after or 0):
            return False
        if is_text(row):
            assert isinstance(row, Message)
            return row.sent_at_ms >= oldest_ms
        return wish.everything

    return wanted


class _Shower:
    """Prints rows in one of two ways."""

    has_failed = False

    def __init__(self, opened: Opened, wish: _Wish) -> None:
        self._room = opened.record.room
        self._as_json = wish.as_json
        self._screen = screen()

    async def show(self, row: Row, waiting: int) -> None:
        if self._as_json:
            data(row_json(self._room, row))
        elif isinstance(row, Message):
            self._screen.message(row)
        else:
            self._screen.line(other_line(row))


class _Runner:
    """Runs a command for each message; what is none is for people."""

    def __init__(self, room: str, wish: _Wish) -> None:
        assert wish.command is not None
        timeout_s = wish.exec_timeout or _EXEC_TIMEOUT_S
        self._each = Each(wish.command, room, say, timeout_s, as_json=wish.as_json)

    @property
    def has_failed(self) -> bool:
        return self._each.has_failed

    async def show(self, row: Row, waiting: int) -> None:
        """Raises ReaderGone, and CommandTooSlow where too much waits behind this row."""
        if not isinstance(row, Message):
            note(other_line(row))
            return
        try:
            await self._each.run(row, os.environ)
        except OutputGone:
            raise ReaderGone from None
        if waiting > _MOST_WAITING:
            raise CommandTooSlow(command=self._each.command, count=waiting, n=row.n)


async def _tail(
    opened: Opened,
    wish: _Wish,
    wanted: Callable[[Row], bool],
    shower: _Shower | _Runner,
    *,
    new: bool,
) -> int:
    history = History(wish.most, wanted)
    async with Visit(opened, config_for()) as visit:
        await visit.arrive(history, show_progress)
        visit.settle_in(may_be_empty=new, may_be_weak=True)
        if wish.follow:
            visit.client.beat(visit.room.tag)
        for row in history:
            await shower.show(row, visit.client.waiting)
        if wish.follow:
            await _follow(visit, wanted, shower)
        if visit.room.accused:
            raise ServerFault(text=visit.room.accused)
        if not visit.caught_up:
            raise Unreachable(address=visit.address)
    return Exit.FIXABLE if shower.has_failed else Exit.OK


async def _follow(visit: Visit, wanted: Callable[[Row], bool], shower: _Shower | _Runner) -> None:
    """Until somebody interrupts us, or the server's fault ends it."""
    told_offline = False
    while True:
        event = await visit.client.next_event(_READER_GONE_AFTER_S)
        if event is None:
            if is_closed(1):
                raise ReaderGone
            continue
        visit.note(event)
        what = event.what
        if isinstance(what, Message | Notice | Here) and wanted(what):
            await shower.show(what, visit.client.waiting)
        elif isinstance(what, Connection) and what.online is told_offline:
            told_offline = not what.online
            say("-- online again" if what.online else offline_line(visit))
        if visit.room.fault and not visit.client.waiting:
            return
