"""A line as a QR code in a terminal.

Theory of operation. Half blocks carry two modules in a character, so that modules are square. Dark
on light is what a camera expects and what a terminal may not be: where there are colours, black and
white are set outright, whatever the theme. Where there are none the light modules are drawn, which
is right on a dark background (and inverted on a light one, which most readers take as well).

Rules of this file: text in, rows out. Error correction at its lowest: a screen has no stains.
"""

import segno

_QUIET = 2  # modules around it; with these a code of an invite fits 24 rows
_BLOCKS = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}  # by the dark ones: above, below


def qr_rows(line: str, *, colours: bool) -> list[str]:
    """The rows of characters, all of one width."""
    modules = [list(row) for row in segno.make_qr(line, error="l").matrix_iter(border=_QUIET)]
    modules.append([0] * len(modules[0]))  # a code has an odd number of rows
    pairs = zip(modules[::2], modules[1::2], strict=True)
    rows = ["".join(map(_block, above, below)) for above, below in pairs]
    return [f"\x1b[38;5;231;48;5;16m{row}\x1b[0m" for row in rows] if colours else rows


def _block(above: int, below: int) -> str:
    return _BLOCKS[bool(above), bool(below)]
