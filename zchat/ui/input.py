"""Lines from a file descriptor, whatever it is: a pipe, a file, /dev/null, closed.

asyncio's own pipe reader fails on plain files and /dev/null, so a thread reads. It reads raw: a
thread that waits inside a buffered reader cannot be left behind when the interpreter ends.

Rules of this file: a line longer than a message can be is reported, not stored, and so is one that
is not UTF-8: who reads it could not tell what it said. What is read and not yet taken is bounded.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from zchat.errors import BadInput, LineTooLong, NotUtf8
from zchat.protocol.limits import MAX_TEXT_BYTES

_CHUNK = 65_536
_WAITING_CHUNKS = 4
_MOST_NAMED = 5


def whole_text(text: str) -> str:
    """A text that was typed at a terminal: what was not UTF-8 is replaced, in sight."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def whole_argument(text: str) -> str:
    """A text of the command line, as it is. Raises NotUtf8."""
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as halves of surrogates
        raise NotUtf8(what="the text on the command line") from None
    return text


class TooLong:
    """Stands for a line longer than any message."""


class NoText(NamedTuple):
    """Stands for a line that is not UTF-8, the `n`th of its input."""

    n: int


Line = str | TooLong | NoText


def refusals(lines: list[Line]) -> Iterator[BadInput]:
    """What there is to tell of lines that cannot be said; of many one thing."""
    if any(isinstance(line, TooLong) for line in lines):
        yield LineTooLong(size=f"more than {MAX_TEXT_BYTES}", most=MAX_TEXT_BYTES)
    numbers = [str(line.n) for line in lines if isinstance(line, NoText)]
    if numbers:
        more = f" and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
        named = ", ".join(numbers[:_MOST_NAMED]) + more
        yield NotUtf8(what=f"line{'s' if len(numbers) > 1 else ''} {named} of stdin")


def whole_input(raw: bytes) -> str:
    """All of an input as one text. Raises NotUtf8."""
    try:
        return raw.decode().replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        n = raw.count(b"\n", 0, error.start) + 1
        raise NotUtf8(what=f"all of stdin, for line {n} of it") from None


class LineInput:
    """Lines of a descriptor, a list at a time. CR dropped, blanks skipped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING_CHUNKS)
        self._rest = b""
        self._n = 0
        self._skipping = False
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        chunk = b"first"
        while chunk:
            self._room.acquire()
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except OSError:  # closed
                chunk = b""
            try:
                self._loop.call_soon_threadsafe(self._chunks.put_nowait, chunk)
            except RuntimeError:  # the loop has ended
                return

    async def next_lines(self) -> list[Line] | None:
        """The next lines, perhaps none of them worth sending; None at the end, once."""
        if self._ended:
            return None
        chunk = await self._chunks.get()
        self._room.release()
        if not chunk:
            self._ended = True
            return self._decoded([self._rest])
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        lines = self._decoded(whole)
        if len(self._rest) > MAX_TEXT_BYTES + 1:
            # The line goes on and on: say so once, and skip to its end.
            lines += [] if self._skipping else [TooLong()]
            self._rest, self._skipping = b"", True
        return lines

    def _decoded(self, raw: list[bytes]) -> list[Line]:
        lines: list[Line] = []
        for line in raw:
            self._n += 1
            if self._skipping:
                self._skipping = False
            elif len(line) > MAX_TEXT_BYTES + 1:
                lines.append(TooLong())
            elif (text := self._text_of(line)) is None:
                lines.append(NoText(self._n))
            elif text.strip():
                lines.append(text)
        return lines

    @staticmethod
    def _text_of(line: bytes) -> str | None:
        try:
            return line.decode().replace("\r", "")
        except UnicodeDecodeError:
            return None
