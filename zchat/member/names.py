"""Names are labels: who had one first, and which look alike.

Rules of this file: the key is the identity. A name never decides anything; it is marked so that a
reader can tell two keys apart. Look-alikes are found by a skeleton in the manner of UTS 39 over the
Unicode confusables table (confusable-homoglyphs), after NFKC and case folding.
"""

import unicodedata
from functools import lru_cache

_INVISIBLE = {"Cf", "Mn", "Me", "Cc", "Zs"}


def key_mark(key: bytes) -> str:
    """The four letters by which people tell keys apart at a glance; 16 bits, for the eye only."""
    return key[:2].hex()


@lru_cache(maxsize=4096)
def skeleton(name: str) -> str:
    """What is left of a name when everything that looks alike is made the same."""
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    letters = [char for char in decomposed if unicodedata.category(char) not in _INVISIBLE]
    return "".join(map(_prototype, letters)).replace("rn", "m").replace("vv", "w")


@lru_cache(maxsize=4096)
def _prototype(char: str) -> str:
    """The plainest character that this one can be taken for."""
    if char in "il1|":
        return "l"
    if char in "o0":
        return "o"
    if char.isascii():
        return char
    from confusable_homoglyphs import confusables

    found = confusables.is_confusable(char, greedy=True, preferred_aliases=[])
    if not found:
        return char
    plain = [h["c"] for h in found[0]["homoglyphs"] if h["c"].isascii() and h["c"].isalnum()]
    return _prototype(plain[0].casefold()) if plain else char


class NameBook:
    """Who claimed which name first in one room."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[bytes, str]] = {}

    def claim(self, key: bytes, name: str) -> tuple[bytes, str]:
        """The key and name that this name, or one that looks like it, belongs to since first said.

        The caller claims in log order, so the lowest place wins.
        """
        return self._first.setdefault(skeleton(name), (key, name))


def shown_name(key: bytes, name: str, *, trusted: bool) -> str:
    """A name as a screen shows it: with its key mark unless the key is known to be whose it is."""
    return name if trusted else f"{name}~{key_mark(key)}"
