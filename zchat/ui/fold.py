"""Lines folded by us, wherever a terminal would have to fold them.

Theory of operation. A terminal goes on with a long line at the left edge of the next row, where
lines of ours begin: whoever pads a text to the terminal's width could write a row there that looks
like somebody else's. Folded by us, a row that goes on begins where no line does.

Rules of this file: text in, rows out; what comes in was made safe (safe.py), and its fences stay
closed in every row.
"""

from wcwidth import wcwidth

from zchat.ui.safe import FENCE

INDENT = "      "  # as wide as a time: no line of ours begins there
_FEWEST_CELLS = 8


def hanging(head: str, text: str, columns: int) -> list[tuple[str, str]]:
    """The rows of a line that begins with `head`: of each, what belongs to the head, and the rest.

    The head stays whole where that leaves room for some text beside it.
    """
    beside = columns - _cells(head)
    below = max(columns - len(INDENT), _FEWEST_CELLS)
    if beside >= _FEWEST_CELLS:
        first, *more = folded(text, beside, below)
        rows = [(head, first)]
    else:
        first, *rest = folded(head, columns, below)
        rows = [(first, ""), *((INDENT + row, "") for row in rest)]
        more = folded(text, below, below) if text else []
    return [*rows, *(("", INDENT + row) for row in more)]


def folded(text: str, first_cells: int, cells: int) -> list[str]:
    """Rows of at most so many cells, broken at spaces where there are some; at least one."""
    text = text.replace("\t", "    ")
    if text.isascii() and len(text) <= first_cells:
        return [text]
    rows, row, used, most = [], "", 0, first_cells
    for char in text:
        width = _width(char)
        if used + width > most:
            words, _, begun = row.rpartition(" ")
            whole = char == " " or not words.strip(f" {FENCE[0]}{FENCE[1]}")
            whole = whole or _cells(begun) + width > cells  # the row below has less room
            rows.append(row if whole else words)
            row = "" if whole else begun
            used, most = _cells(row), cells
            if char == " ":
                continue
        row, used = row + char, used + width
    return _fenced([*rows, row])


def _fenced(rows: list[str]) -> list[str]:
    """Where a row was broken off inside a fence, the fence is closed there and goes on below."""
    whole, is_open = [], False
    for row in rows:
        begun = FENCE[0] + row if is_open else row
        is_open = begun.rfind(FENCE[0]) > begun.rfind(FENCE[1])
        whole.append(begun + FENCE[1] if is_open else begun)
    return whole


def _cells(text: str) -> int:
    return sum(map(_width, text))


def _width(char: str) -> int:
    """Fences, marks and joiners have none."""
    return 1 if " " <= char <= "~" else max(0, wcwidth(char))
