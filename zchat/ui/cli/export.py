"""`zchat export`: a room's messages as a file to keep, or as one that can be checked again."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from zchat.errors import NoMatch, ServerFault, Unreachable, Usage
from zchat.member.export import Proof
from zchat.member.profile import Opened
from zchat.member.rows import Here, Message, Row, is_fault
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import (
    NewFile,
    config_for,
    count_up,
    data,
    free_path,
    note_whole,
    run,
    say,
    show_progress,
    writing,
)
from zchat.ui.moments import since_ms
from zchat.ui.pages import Html, Lines, Markdown
from zchat.ui.safe import safe_line
from zchat.ui.visit import History, Visit, is_text

_SLICE = 256
_KINDS: dict[str, type[Lines | Markdown | Html]] = {"jsonl": Lines, "md": Markdown, "html": Html}


class _Wish(NamedTuple):
    """What is exported, and where to."""

    kind: str | None
    since: str | None
    output: Path | None
    proof: bool
    everything: bool
    offline: bool
    force: bool


class _Ending(NamedTuple):
    """How the room stood: what its server is accused of, and where it did not answer."""

    fault: str
    silent: str

    @classmethod
    def of(cls, visit: Visit, *, offline: bool) -> "_Ending":
        is_silent = not visit.caught_up and not offline
        return cls(visit.room.accused, visit.address if is_silent else "")


@click.command("export")
@room_argument
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_KINDS)),
    help="What to make. Default: what FILE's name ends in, else jsonl.",
)
@click.option("--since", metavar="TIME", help="What was sent since: 2d, 3h, 10m, or a date.")
@click.option(
    "-o",
    "--output",
    type=NewFile(),
    metavar="FILE",
    help="Write FILE, not stdout.",
)
@click.option("--proof", is_flag=True, help="With all it takes to check every message again.")
@click.option("--all", "everything", is_flag=True, help="Joins, gaps and notices, too.")
@click.option("--offline", is_flag=True, help="What this profile keeps; do not ask the server.")
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@access_options
def export_room(room: str, access: Access, **options: Any) -> int:
    """Write a room's messages to a file: JSON Lines, Markdown or HTML.

    With --proof the signed envelopes and the chain stand beside the texts: whoever has the room's
    passphrase can check every message again, offline, with `zchat evidence check FILE`.

    FILE is for your eyes only, and appears once it is whole. All that can be had is written; then
    it ends with 4 if the server contradicted itself, 3 if it could not be reached.

    \b
        zchat export ops --since 7d --format md -o week.md
        zchat export ops --proof -o ops.jsonl
    """
    wish = _Wish(**options)
    kind = _kind_of(wish)
    oldest_ms = since_ms(wish.since) if wish.since else 0
    output = None if wish.output == Path("-") else wish.output
    path = output and free_path(output, force=wish.force)
    opened = open_room(room, access, only_known=wish.offline)
    with _sink(path) as write:
        # Where the lines themselves are seen, they show how far it is.
        count = _ignore if path is None and sys.stdout.isatty() else _count
        if wish.proof:
            ending = run(_export_proof(opened, wish, oldest_ms, write, count, new=access.new))
        else:
            page = _KINDS[kind](opened.record.room)
            writer = _Writer(page, write, _wanted(wish, oldest_ms), count)
            ending = run(_export_page(opened, wish, writer, new=access.new))
    if path is not None:
        say(f"The room {opened.record.room} is in {output}.")
    if wish.proof:
        note_whole(safe_line(f"To check it: zchat evidence check {output or 'FILE'}"))
    if ending.fault:
        raise ServerFault(text=ending.fault)
    if ending.silent:
        raise Unreachable(address=ending.silent)
    return 0


def _kind_of(wish: _Wish) -> str:
    suffix = wish.output.suffix.removeprefix(".").lower() if wish.output else ""
    kind = wish.kind or (suffix if suffix in _KINDS else "jsonl")
    if wish.proof and kind != "jsonl":
        raise Usage(reason=f"--proof goes with --format jsonl; {kind} has no place for envelopes")
    return kind


@contextmanager
def _sink(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Takes lines; a file is there once all of them are."""
    if path is None:
        yield data
        return
    with writing(path) as file:
        yield lambda line: file.writelines((line.encode(), b"\n"))


def _count(n: int, end: int) -> None:
    count_up("Writing", n, end)


def _ignore(n: int, end: int) -> None:
    pass


async def _listen(at: int) -> None:
    """Whoever wants to end this is heard in between."""
    if at % _SLICE == 0:
        await asyncio.sleep(0)


# ---- pages ----


def _wanted(wish: _Wish, oldest_ms: int) -> Callable[[Row], bool]:
    """As `zchat tail` chooses."""

    def wanted(row: Row) -> bool:
        if is_text(row):
            assert isinstance(row, Message)
            return row.sent_at_ms >= oldest_ms
        return wish.everything or is_fault(row)

    return wanted


class _Writer(History):
    """Rows on their way out, each as soon as it is there: none is kept."""

    def __init__(
        self,
        page: Lines | Markdown | Html,
        write: Callable[[str], None],
        wanted: Callable[[Row], bool],
        count: Callable[[int, int], None],
    ) -> None:
        super().__init__(0)
        self._page = page
        self._write = write
        self._is_wanted = wanted
        self._count = count
        self._has_begun = False
        self.end = 0  # of what the replica holds, for the line that counts up

    def add(self, row: Row) -> None:
        if self._is_wanted(row):
            self._begin()
            self._put(self._page.row(row))
        if not isinstance(row, Here) and row.n <= self.end:
            self._count(row.n, self.end)

    def close(self) -> None:
        """Nothing comes any more."""
        self._begin()
        self._put(self._page.closing())

    def _begin(self) -> None:
        """Not before it is known that there is a room."""
        if not self._has_begun:
            self._has_begun = True
            self._put(self._page.opening())

    def _put(self, lines: list[str]) -> None:
        for line in lines:
            self._write(line)


async def _export_page(opened: Opened, wish: _Wish, writer: _Writer, *, new: bool) -> _Ending:
    async with _reading(opened, wish, writer, new=new) as visit:
        writer.close()
        return _Ending.of(visit, offline=wish.offline)


@asynccontextmanager
async def _reading(
    opened: Opened, wish: _Wish, history: History, *, new: bool
) -> AsyncIterator[Visit]:
    """The room, once it has caught up, or as this profile keeps it."""
    visit = Visit(opened, config_for())
    if isinstance(history, _Writer):
        history.end = visit.room.checked.n
    if wish.offline:
        try:
            if isinstance(history, _Writer):
                for at, row in enumerate(visit.room.replay()):
                    history.add(row)
                    await _listen(at)
            yield visit
        finally:
            await visit.client.close()
        return
    async with visit:
        await visit.arrive(history, show_progress)
        visit.settle_in(may_be_empty=new, may_be_weak=True)
        yield visit


# ---- with proof ----


async def _export_proof(
    opened: Opened,
    wish: _Wish,
    oldest_ms: int,
    write: Callable[[str], None],
    count: Callable[[int, int], None],
    *,
    new: bool,
) -> _Ending:
    async with _reading(opened, wish, History(0), new=new) as visit:
        proof = Proof(opened, visit.room.checked.replica, oldest_ms)
        if proof.is_empty:
            since = f" since {wish.since}" if wish.since else ""
            raise NoMatch(reason=f"nothing was sent in {opened.record.room!r}{since}")
        for n, line in enumerate(proof.lines(), proof.first - 1):  # the first line is no entry
            write(line[:-1].decode())
            await _listen(n)
            if n <= proof.last:
                count(n, proof.last)
        if proof.first > 1:
            say(f"It proves #{proof.first} to #{proof.last}; of what came before it has one hash.")
        return _Ending.of(visit, offline=wish.offline)
