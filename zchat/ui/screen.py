"""Lines for people on stdout, one way for every command: folded and coloured in a terminal.

Rules of this file: what is written was made safe by show.py, or is a literal; in a pipe a line is
one line, whatever its length.
"""

from collections.abc import Callable

from zchat.member.rows import Message
from zchat.ui.ink import coloured
from zchat.ui.show import message_parts, message_rows


class Screen:
    """`out` takes lines; `columns` says how wide the terminal is now, None where there is none."""

    def __init__(
        self, out: Callable[[str], None], columns: Callable[[], int | None], *, colours: bool
    ) -> None:
        self._out = out
        self._columns = columns
        self._colours = colours

    def line(self, head: str, text: str = "", key: bytes = b"") -> None:
        """A line that begins with `head`: with a key that is a member's name, in its colour."""
        columns = self._columns()
        rows = [(head, text)]
        if columns is not None:
            from zchat.ui.fold import hanging  # dear to import, and only needed here

            rows = hanging(head, text, columns)
        for begun, rest in rows:
            self._out((coloured(begun, key) if key and self._colours else begun) + rest)

    def message(self, message: Message) -> None:
        """A message on one line."""
        head, text = message_parts(message)
        self.line(head, text, message.sender)

    def message_rows(self, message: Message) -> None:
        """A message with the line breaks of its text."""
        for head, text in message_rows(message):
            self.line(head, text, message.sender)
