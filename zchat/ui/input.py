"""Lines from a file descriptor, whatever it is: a pipe, a file, /dev/null, closed.

asyncio's own pipe reader fails on plain files and /dev/null, so a thread reads. It reads raw: a
thread that waits inside a buffered reader cannot be left behind when the interpreter ends.

Rules of this file: a line longer than a message can be is reported, not stored; what is read and
not yet taken is bounded.
"""

import asyncio
import os
import threading

from zchat.protocol.limits import MAX_TEXT_BYTES

_CHUNK = 65_536
_WAITING_CHUNKS = 4


def whole_text(text: str) -> str:
    """A text that was typed or given as an argument: what was not UTF-8 is replaced, as here."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class TooLong:
    """Stands for a line longer than any message."""


class LineInput:
    """Lines of a descriptor, a list at a time. CR dropped, bad UTF-8 replaced, blanks skipped."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING_CHUNKS)
        self._rest = b""
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

    async def next_lines(self) -> list[str | TooLong] | None:
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

    def _decoded(self, raw: list[bytes]) -> list[str | TooLong]:
        lines: list[str | TooLong] = []
        for line in raw:
            if self._skipping:
                self._skipping = False
                continue
            text = line.decode("utf-8", "replace").replace("\r", "")
            if len(line) > MAX_TEXT_BYTES + 1:
                lines.append(TooLong())
            elif text.strip():
                lines.append(text)
        return lines
