"""A room's messages as a page to keep: Markdown, or HTML that needs nothing else.

Theory of operation. What others wrote is made safe for screens first (safe.py), for a page is shown
in terminals, too; then it is escaped, so that it stays text where the page is rendered. In Markdown
whatever could mean something has a backslash before it; in HTML the page also forbids itself
scripts and everything remote.

Rules of this file: text out, nothing printed; no line of it depends on how long a room is.
"""

import html
import re
import time
from abc import ABC, abstractmethod

from zchat.member.rows import Message, Row, Status
from zchat.ui.safe import safe_lines
from zchat.ui.show import clock_time, day, iso_time, other_line, row_json

_STYLE = """\
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.4;
  font-family: system-ui, sans-serif; color: #222; background: #fff; }
article, aside { margin: .5rem 0; }
article p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
time, aside, footer, a { color: #666; }
h2 { font-size: 1rem; border-bottom: 1px solid #ccc; margin-top: 2rem; }
footer { border-top: 1px solid #ccc; margin-top: 2rem; font-size: .9rem; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #111; } time, aside, footer, a { color: #999; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# What can mean something in Markdown: anywhere, doubled, between letters, at the start of a row.
_MARKS = re.compile(r"[\\`*_{}\[\]<|~^$&@]|([=+-])(?=\1)|:(?=\S)|(?<=\w)\.(?=\w)")
_AT_START = re.compile(r"^([#>=+:-])|^(\d+)([.)])")


class Lines:
    """`--format jsonl`: the objects of `tail --json`, one a line."""

    def __init__(self, room: str) -> None:
        self._room = room

    def opening(self) -> list[str]:
        return []

    def row(self, row: Row) -> list[str]:
        return [row_json(self._room, row)]

    def closing(self) -> list[str]:
        return []


class _Page(ABC):
    """What both kinds of pages share: days, counting, and what is said at the end."""

    def __init__(self, room: str) -> None:
        self._room = room
        self._day = ""
        self._count = 0

    def row(self, row: Row) -> list[str]:
        """The lines of one row, under its day."""
        lines = []
        if isinstance(row, Message):
            if day(row.sent_at_ms) != self._day:
                self._day = day(row.sent_at_ms)
                lines += self._new_day(self._day)
            self._count += 1
            return lines + self._message(row)
        return lines + self._other(other_line(row))

    @abstractmethod
    def _new_day(self, name: str) -> list[str]: ...

    @abstractmethod
    def _message(self, message: Message) -> list[str]: ...

    @abstractmethod
    def _other(self, line: str) -> list[str]: ...

    def _about(self, room: str) -> tuple[str, str]:
        """What this is, and what it is not; the room's name as it is to stand there."""
        count = "1 message" if self._count == 1 else f"{self._count:,} messages"
        now_ms = time.time_ns() // 1_000_000
        when = f"{day(now_ms)} {clock_time(now_ms)} ({time.strftime('UTC%z')})"
        return (
            f"{count} of the room {room}, exported on {when}.",
            "This page proves nothing: whoever had it could have changed it. "
            "With proof: zchat export ROOM --proof",
        )


def _marks(message: Message) -> str:
    if message.status is Status.LATE:
        return f" [arrived {clock_time(message.arrived_ms)}]"
    return " [clock?]" if message.status is Status.CLOCK else ""


class Markdown(_Page):
    """`--format md`: a paragraph for each message."""

    def opening(self) -> list[str]:
        return [f"# {_one_row(self._room)}", ""]

    def _new_day(self, name: str) -> list[str]:
        return [f"## {name}", ""]

    def _message(self, message: Message) -> list[str]:
        time_and_name = clock_time(message.sent_at_ms)
        if message.shown:
            time_and_name += f" {_one_row(message.shown)}"
        rows = [_escaped(row) or "&nbsp;" for row in safe_lines(message.text)]
        rows[0] = f"**{time_and_name}:** {rows[0]}"
        rows[-1] += _escaped(_marks(message))
        return [*(f"{row}\\" for row in rows[:-1]), rows[-1], ""]

    def _other(self, line: str) -> list[str]:
        return [_escaped(line), ""]

    def closing(self) -> list[str]:
        what, proves = self._about(_one_row(self._room))
        return ["---", "", what, "", proves]


def _escaped(row: str) -> str:
    """A row that is safe on a screen, as Markdown that shows it as it is."""
    inner = row.lstrip(" \t")
    indent = "&nbsp;" * len(row[: len(row) - len(inner)].expandtabs(4))
    text = _MARKS.sub(r"\\\g<0>", inner)
    return indent + _AT_START.sub(r"\2\\\1\3", text)


def _one_row(text: str) -> str:
    return " ".join(_escaped(row) for row in safe_lines(text)).strip()


class Html(_Page):
    """`--format html`: one file, without scripts and without anything from elsewhere."""

    def opening(self) -> list[str]:
        room = _quoted(self._room)
        return [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">',
            '<meta name="referrer" content="no-referrer">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{room}</title>",
            f"<style>\n{_STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{room}</h1>",
        ]

    def _new_day(self, name: str) -> list[str]:
        return [f"<h2>{name}</h2>"]

    def _message(self, message: Message) -> list[str]:
        sent = message.sent_at_ms
        head = f'<time datetime="{iso_time(sent)}">{clock_time(sent)}</time>'
        if message.shown:
            head += f" <b><bdi>{_quoted(message.shown)}</bdi></b>"
        head += html.escape(_marks(message))
        if message.reply_to:
            head += f' <a href="#m-{message.reply_to.hex()}">in reply to</a>'
        text = _quoted(message.text)
        return [f'<article id="m-{message.id.hex()}">{head}<p dir="auto">{text}</p></article>']

    def _other(self, line: str) -> list[str]:
        return [f"<aside>{html.escape(line)}</aside>"]

    def closing(self) -> list[str]:
        told = "".join(f"<p>{_quoted(text)}</p>" for text in self._about(self._room))
        return [f"<footer>{told}</footer>", "</body>", "</html>"]


def _quoted(text: str) -> str:
    """A text of any number of rows, safe on a screen and in a page."""
    return html.escape("\n".join(safe_lines(text)))
