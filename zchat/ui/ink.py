"""Colours: when there are any, and which.

A name's colour is made of its key, so two people of one name differ where colours do; it proves
nothing, and nothing is told by a colour alone.

Rules of this file: --color goes before NO_COLOR, that before FORCE_COLOR, that before what the
terminal can do; the sixteen colours of the terminal's own theme and no others, so that they can be
read on dark and on light ones.
"""

from collections.abc import Mapping

# As prompt_toolkit calls them, and as terminals do.
_NAMES = {"ansicyan": 36, "ansigreen": 32, "ansiyellow": 33, "ansimagenta": 35, "ansiblue": 34}


def wants_colour(asked: str, environment: Mapping[str, str], *, is_terminal: bool) -> bool:
    """`asked` is auto, always or never; `is_terminal`: colours help there, and somebody sees."""
    if asked != "auto":
        return asked == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return is_terminal and environment.get("TERM", "dumb") != "dumb"


def colour_of(key: bytes) -> str:
    """The colour of a member, as prompt_toolkit calls it."""
    return list(_NAMES)[sum(key) % len(_NAMES)]


def coloured(text: str, key: bytes) -> str:
    """A name in its member's colour."""
    return f"\x1b[0;{_NAMES[colour_of(key)]}m{text}\x1b[0m" if text else text
