"""Names are labels: who had one first, and which look alike.

Rules of this file: the key is the identity. A name never decides anything; it is marked so that a
reader can tell two keys apart. Look-alikes are found by a skeleton in the manner of UTS 39 over the
Unicode confusables table (confusable-homoglyphs), after NFKC and case folding.
"""

import unicodedata
from functools import lru_cache

_INVISIBLE = {"Cf", "Mn", "Me", "Cc"}
_PUNCTUATION = " -_.'()&+@!?"  # that a name may hold; the rest could pass for what stands around it
_COLON_LETTERS = "\u02d0\ua789\uff1a"
_INSTEAD = "\u00b7"
_BLANKS = "\u115f\u1160\u2065\u2800\u3164\uffa0"  # drawn as nothing, and of other categories


def key_mark(key: bytes) -> str:
    """The four letters by which people tell keys apart at a glance; 16 bits, for the eye only."""
    return key[:2].hex()


@lru_cache(maxsize=4096)
def skeleton(name: str) -> str:
    """What is left of a name when everything that looks alike is made the same."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    decomposed = unicodedata.normalize("NFKD", folded)
    visible = [c for c in decomposed if unicodedata.category(c) not in _INVISIBLE | {"Zs"}]
    letters = [c for c in visible if _is_letter(c)]
    plain = "".join(map(_prototype, letters or visible))
    return plain.replace("rn", "m").replace("vv", "w").replace("cl", "d")


def _is_letter(char: str) -> bool:
    """Whether a name is read by it: also a bar, which is read as an l."""
    category = unicodedata.category(char)[0]
    if category == "S":  # some signs are drawn as letters: U+212E, the estimated sign
        return char == "|" or _prototype(char).isalnum()
    return category in "LN" and char not in _BLANKS


@lru_cache(maxsize=4096)
def _prototype(char: str) -> str:
    """The plainest character that this one can be taken for."""
    if char in "il1|":
        return "l"
    if char in "o0":
        return "o"
    if char.isascii():
        return char
    small_capital = unicodedata.name(char, "").removeprefix("LATIN LETTER SMALL CAPITAL ")
    if len(small_capital) == 1:
        return _prototype(small_capital.casefold())
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


@lru_cache(maxsize=256)  # few people say much: 8 µs of each message otherwise
def shown_name(key: bytes, name: str, *, trusted: bool) -> str:
    """A name as a screen shows it: with its key mark unless the key is known to be whose it is.

    Colons, tildes and their like become dots: "alice: ..." as a name must not pass for her line.
    """
    plain = "".join(map(_harmless, name))
    return plain if trusted else f"{plain}~{key_mark(key)}"


def _harmless(char: str) -> str:
    category = unicodedata.category(char)
    is_mark = category[0] in "PS" and category != "So" and char not in _PUNCTUATION
    return _INSTEAD if is_mark or char in _COLON_LETTERS else char
