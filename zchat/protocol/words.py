"""Passphrases, room names and spoken words: what people say, brought to one form.

Rules of this file: two people who say the same thing get the same bytes, on every machine and every
Unicode version; what could differ between versions is refused rather than guessed.
"""

import math
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import resources

from zchat.errors import BadPassphrase, BadRoomName
from zchat.protocol.limits import MAX_PASSPHRASE_BYTES, MAX_ROOM_BYTES

LEFT_OUT = frozenset({"drop-down", "felt-tip", "t-shirt", "yo-yo"})
GENERATED_WORDS = 6
CODE_WORDS = 8

_UNSTABLE = frozenset({"Cc", "Cs", "Cn"})
_NOT_IN_ROOM_NAMES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"})


@cache
def word_list() -> tuple[str, ...]:
    """The EFF's long list without its four hyphenated words: 7,772 words, in its own order."""
    listed = (resources.files("xkcdpass") / "static" / "eff-long").read_text("ascii").split()
    return tuple(word for word in listed if word not in LEFT_OUT)


@cache
def _known_words() -> frozenset[str]:
    return frozenset(word_list())


def _parts(text: str) -> list[str]:
    return [part.lower() for part in re.split("[ -]+", text)]


def canonical_passphrase(typed: str) -> bytes:
    """The bytes that go into Argon2id, from what a person typed or a file holds.

    Words of the list may be joined by spaces or hyphens and written in any case; any other text
    counts letter by letter after NFKC. Raises BadPassphrase.
    """
    line = typed.removesuffix("\r\n") if typed.endswith("\r\n") else typed.removesuffix("\n")
    text = unicodedata.normalize("NFKC", line).strip(" ")
    if any(unicodedata.category(char) in _UNSTABLE for char in text):
        raise BadPassphrase(reason="it holds a control character or one without a settled form")
    if not text:
        raise BadPassphrase(reason="it is empty")
    if len(text.encode()) > MAX_PASSPHRASE_BYTES:
        raise BadPassphrase(reason=f"it is longer than {MAX_PASSPHRASE_BYTES} bytes")
    parts = _parts(text)
    is_listed = all(part in _known_words() for part in parts)
    return ("-".join(parts) if is_listed else text).encode()


def passphrase_entropy_bits(typed: str) -> float | None:
    """Bits of a passphrase made only of listed words; None for any other, which needs a guesser."""
    parts = _parts(typed.strip())
    if not all(part in _known_words() for part in parts):
        return None
    return len(set(parts)) * math.log2(len(word_list()))


def near_misses(typed: str) -> list[tuple[str, str]]:
    """Pairs (typed part, listed word) where a part is one letter off the list.

    Only where most parts are listed: for other passphrases a hint would be noise.
    """
    parts = _parts(typed.strip())
    unknown = [part for part in parts if part not in _known_words() and len(part) <= 12]
    if not unknown or len(unknown) * 2 > len(parts):
        return []
    return [(part, word) for part in unknown for word in _one_letter_off(part)[:1]]


def _one_letter_off(part: str) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    cuts = [(part[:i], part[i:]) for i in range(len(part) + 1)]
    dropped = {a + b[1:] for a, b in cuts if b}
    changed = {a + c + b[1:] for a, b in cuts if b for c in letters}
    added = {a + c + b for a, b in cuts for c in letters}
    swapped = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    return sorted((dropped | changed | added | swapped) & _known_words())


def generate_passphrase(choose: Callable[[int], int]) -> str:
    """Six words, about 77 bits. `choose(k)` draws evenly below k (secrets.randbelow)."""
    words = word_list()
    return "-".join(words[choose(len(words))] for _ in range(GENERATED_WORDS))


def code_words(code: bytes) -> list[str]:
    """Eight words for 16 bytes: digits in base 7772, most significant first (section 10)."""
    words = word_list()
    rest = int.from_bytes(code, "big") % len(words) ** CODE_WORDS
    spoken = []
    for _ in range(CODE_WORDS):
        rest, index = divmod(rest, len(words))
        spoken.append(words[index])
    return spoken[::-1]


def canonical_room_name(typed: str) -> str:
    """NFKC, case-folded, NFKC again; 1-64 bytes. Raises BadRoomName."""
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", typed).casefold())
    if not 1 <= len(name.encode("utf-8", "replace")) <= MAX_ROOM_BYTES:
        raise BadRoomName(room=typed, reason="it is empty or longer than 64 bytes")
    if any(unicodedata.category(char) in _NOT_IN_ROOM_NAMES for char in name):
        raise BadRoomName(room=typed, reason="it holds a space or a character that is not shown")
    return name
