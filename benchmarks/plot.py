"""Bars as SVG, readable on light and dark pages, made of nothing but text."""

from xml.sax.saxutils import escape

from benchmarks.harness import Plot, short

_WIDTH, _LABEL, _ROW, _TOP = 760, 270, 26, 40
_OURS, _OTHERS = "#2f7d5b", "#8a93a6"


def svg(plot: Plot) -> str:
    """A bar for each value; ours in another colour."""
    most = max(*plot.bars.values(), 1e-9)
    height = _TOP + _ROW * len(plot.bars) + 8
    room = _WIDTH - _LABEL - 90
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        "<style>text{fill:#333}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
        f'<text x="8" y="22" font-weight="600">{escape(plot.title)} ({escape(plot.unit)})</text>',
    ]
    for i, (name, value) in enumerate(plot.bars.items()):
        y = _TOP + _ROW * i
        width = max(1.0, value / most * room)
        colour = _OURS if name.startswith("zchat") else _OTHERS
        lines += [
            f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{y + 2}" width="{width:.1f}" height="18" fill="{colour}"/>',
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + 15}">{short(value)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
