"""`zchat tail`: read a room from a script."""

from collections.abc import Callable

import click

from zchat.errors import ServerFault, Unreachable
from zchat.member.profile import Opened
from zchat.member.rows import Connection, Here, Message, Notice, Row, is_fault
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import config_for, data, json_option, run, say, show_progress
from zchat.ui.moments import since_ms
from zchat.ui.plain import offline_line
from zchat.ui.show import message_line, other_line, row_json
from zchat.ui.visit import History, Visit, is_text


@click.command()
@room_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--since", metavar="TIME", help="What was sent since: 2d, 3h, 10m, or a date.")
@click.option(
    "--last", type=click.IntRange(min=0), metavar="N", help="The last N messages (1,000)."
)
@click.option("--all", "everything", is_flag=True, help="Joins, gaps and notices, too.")
@json_option
@access_options
def tail(
    room: str,
    since: str | None,
    last: int | None,
    access: Access,
    *,
    follow: bool,
    everything: bool,
    as_json: bool,
) -> int:
    """Print a room's messages.

    ROOM is a room known here, or an invite. Prints all it can, then ends with 4 if the server
    contradicted itself, 3 if it could not be reached.

    With --json every object has v (1), room and kind. Messages: n, id, sender (key), name,
    verified, sent_at, received_at, kind (text, unknown, unreadable), text, reply_to, status
    (stored, late, clock, unreadable). With --all also: notice (n, state, text, blame), join (n,
    sender, name, verified), here and left (sender, name). Fields may be added; none is changed.

    \b
        zchat tail ops --since 2d
        zchat tail ops -f --json | jq -r .text
    """
    oldest_ms = since_ms(since) if since else 0
    opened = open_room(room, access)
    show = _Shower(opened.record.room, as_json=as_json)
    wanted = _wanted(oldest_ms, everything=everything)
    most = last if last is not None else None if since else config_for().history
    history = History(most, wanted)
    return run(_tail(opened, history, wanted, show, follow=follow, new=access.new))


def _wanted(oldest_ms: int, *, everything: bool) -> Callable[[Row], bool]:
    def wanted(row: Row) -> bool:
        if is_text(row):
            assert isinstance(row, Message)
            return row.sent_at_ms >= oldest_ms
        return everything or is_fault(row)

    return wanted


class _Shower:
    """Prints rows in one of two ways."""

    def __init__(self, room: str, *, as_json: bool) -> None:
        self._room = room
        self._as_json = as_json

    def __call__(self, row: Row) -> None:
        if self._as_json:
            data(row_json(self._room, row))
        else:
            data(message_line(row) if isinstance(row, Message) else other_line(row))


async def _tail(
    opened: Opened,
    history: History,
    wanted: Callable[[Row], bool],
    show: Callable[[Row], None],
    *,
    follow: bool,
    new: bool,
) -> int:
    async with Visit(opened, config_for()) as visit:
        await visit.arrive(history, show_progress)
        visit.settle_in(may_be_empty=new, may_be_weak=True)
        for row in history:
            show(row)
        if follow:
            visit.client.beat(visit.room.tag)
            await _follow(visit, wanted, show)
        if visit.room.accused:
            raise ServerFault(text=visit.room.accused)
        if not visit.caught_up:
            raise Unreachable(address=visit.address)
    return 0


async def _follow(visit: Visit, wanted: Callable[[Row], bool], show: Callable[[Row], None]) -> None:
    """Until somebody interrupts us, or the server's fault ends it."""
    told_offline = False
    while True:
        event = await visit.client.next_event()
        if event is None:
            continue
        visit.note(event)
        what = event.what
        if isinstance(what, Message | Notice | Here) and wanted(what):
            show(what)
        elif isinstance(what, Connection) and what.online is told_offline:
            told_offline = not what.online
            say("-- online again" if what.online else offline_line(visit))
        if visit.room.fault:
            return
