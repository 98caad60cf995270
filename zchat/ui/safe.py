"""The one sanitiser between what others wrote and any screen.

Theory of operation. A terminal obeys what it is shown: escape sequences write to the clipboard,
move the cursor, change titles; bidirectional controls reorder what one reads; invisible characters
make two names look the same. Nothing of that survives here: controls become visible, what cannot be
seen goes, and a text that runs from right to left is fenced in so that it cannot reach its
neighbours. (CVE-2021-42574 "Trojan Source"; CWE-150.)

Rules of this file: every text that is not a literal of this program passes through `safe_line` or
`safe_lines` right before it is written, and nothing else is a defence. JSON goes through
`safe_json`, which leaves plain ASCII.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping

REMOVED_NOTE = " [hidden characters removed]"
LINE_BREAK = "⏎"

_MAX_MARKS = 4
_JOINERS = "\u200c\u200d"  # emoji sequences and several scripts need them
# Letters and marks that are drawn as nothing: fillers, the grapheme joiner, an empty Braille cell.
_BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0"
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
FENCE = ("\u2068", "\u2069")  # first strong isolate, pop isolate


def safe_line(text: str) -> str:
    """One line for one row: line breaks become a visible mark."""
    return _fenced(text.replace("\r\n", "\n").replace("\n", LINE_BREAK))


def safe_lines(text: str) -> list[str]:
    """The rows of a text with line breaks, each safe by itself; at least one."""
    return [_fenced(row) for row in text.replace("\r\n", "\n").split("\n")]


def safe_json(fields: Mapping[str, object]) -> str:
    """One JSON object on one line of ASCII: what a terminal would obey is escaped."""
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":"))


def _fenced(row: str) -> str:
    if row.isascii() and row.isprintable():
        return row
    shown = "".join(_visible(row))
    if _was_hidden(row):
        shown += REMOVED_NOTE
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in shown):
        return shown.join(FENCE)
    return shown


def _visible(row: str) -> Iterator[str]:
    marks = 0
    for char in row:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category == "Cc":
            yield _caret(char)
        elif category in ("Zl", "Zp", "Cs"):
            yield f"<U+{ord(char):04X}>"
        elif not _is_hidden(char, category) and marks <= _MAX_MARKS:
            yield char


def _caret(char: str) -> str:
    """ESC as ^[, DEL as ^?, C1 by its number; a tab is harmless and stays."""
    if char == "\t":
        return char
    if ord(char) < 0x20 or char == "\x7f":
        return "^" + chr(ord(char) ^ 0x40)
    return f"<U+{ord(char):04X}>"


def _is_hidden(char: str, category: str) -> bool:
    """Format characters: bidi controls, tags, zero widths, byte order marks; and blanks."""
    formats = category == "Cf" and char not in _JOINERS
    return formats or char in _BLANKS or 0xE0000 <= ord(char) <= 0xE0FFF


def _was_hidden(row: str) -> bool:
    return any(_is_hidden(char, unicodedata.category(char)) for char in row)
