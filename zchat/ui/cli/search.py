"""`zchat search`: look through what this profile keeps of a room."""

from collections.abc import Iterable, Iterator
from functools import cache, partial

import click

from zchat.errors import Exit, NoMatch, StoreEmpty
from zchat.member.archive import Query, Said, read, search
from zchat.member.names import shown_name
from zchat.member.profile import Opened
from zchat.protocol.keys import Author
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import color_option, data, json_option, screen
from zchat.ui.cli.shells import complete_speakers
from zchat.ui.moments import since_ms
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION, clock_time, day, iso_time


@click.command("search")
@room_argument
@click.argument("words", nargs=-1, required=True)
@click.option("--since", metavar="TIME", help="What was sent since: 2d, 3h, 10m, or a date.")
@click.option(
    "--from",
    "names",
    metavar="NAMES",
    shell_complete=complete_speakers,
    help="Only of these: alice,bob.",
)
@click.option("--regex", is_flag=True, help="WORDS is one regular expression.")
@click.option("-C", "--context", type=click.IntRange(0, 50), default=0, help="Lines around each.")
@json_option
@color_option
@access_options
def search_room(
    room: str,
    words: tuple[str, ...],
    since: str | None,
    names: str | None,
    context: int,
    access: Access,
    *,
    regex: bool,
    as_json: bool,
) -> int:
    """Find messages that hold all WORDS, in any case.

    Looks through what this profile keeps, without asking the server. Ends with 1 if there is none.

    \b
        zchat search ops "disk full" --since 2d
    """
    query = Query(
        words=() if regex else words,
        pattern=" ".join(words) if regex else "",
        since_ms=since_ms(since) if since else 0,
        names=frozenset(name.strip() for name in names.split(",")) if names else frozenset(),
    )
    opened, count = open_room(room, access, only_known=True), 0
    try:
        path = opened.vault.replica_path(opened.keys.tag)
        found = _heard(opened, search(path, opened.keys, query))
        shown = _as_json(opened, found) if as_json else _as_lines(opened, found, context)
        count = sum(shown)
    except StoreEmpty:
        pass  # known, and never read
    if not count:
        raise NoMatch(reason=f"nothing in {opened.record.room!r} matches")
    return Exit.OK


def _heard(opened: Opened, found: Iterable[Said]) -> Iterator[Said]:
    """Without what those say who are muted: nothing else shows it either."""
    is_muted = cache(partial(opened.vault.is_muted, opened.keys.tag))
    return (said for said in found if not is_muted(said.sender))


def _as_lines(opened: Opened, found: Iterable[Said], context: int) -> Iterator[int]:
    """Each with its neighbours; what overlaps is shown once, what is apart is parted."""
    path, last_n = opened.vault.replica_path(opened.keys.tag), 0
    on = screen()
    for said in found:
        around = [said]
        if context:
            first = max(said.n - context, last_n + 1)
            around = list(_heard(opened, read(path, opened.keys, first, said.n + context)))
            if last_n and first > last_n + 1:
                on.line("--")
        for each in around:
            if each.n > last_n:
                on.line(_head(opened, each), safe_line(each.text), each.sender)
        last_n = max(last_n, around[-1].n if around else 0)
        yield 1


def _own_key(opened: Opened) -> bytes:
    return Author(opened.vault.master_seed, opened.keys).public


def _head(opened: Opened, said: Said) -> str:
    own = said.sender == _own_key(opened)
    trusted = own or opened.vault.is_verified(opened.keys.tag, said.sender)
    name = safe_line(shown_name(said.sender, said.name, trusted=trusted))
    when = f"{day(said.sent_at_ms)} {clock_time(said.sent_at_ms)}"
    return f"#{said.n} {when} {name}: "


def _as_json(opened: Opened, found: Iterable[Said]) -> Iterator[int]:
    own, tag = _own_key(opened), opened.keys.tag
    for said in found:
        fields = {
            "v": JSON_VERSION,
            "room": opened.record.room,
            "n": said.n,
            "id": said.id.hex(),
            "sender": said.sender.hex(),
            "name": said.name,
            "own": said.sender == own,
            "verified": opened.vault.is_verified(tag, said.sender),
            "sent_at": iso_time(said.sent_at_ms),
            "kind": "text",
            "text": said.text,
            "reply_to": said.reply_to.hex() if said.reply_to else None,
        }
        data(safe_json(fields))
        yield 1
