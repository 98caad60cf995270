"""Who else has shown to have a message: `zchat send --wait seen`.

Theory of operation. Every beat and every message carries the last head its author had checked
(docs/protocol.md, section 8). Where that head is one of our own chain, at a place or behind it, its
author's program holds the same log up to there. Nobody but a member can say so, and the server
cannot say it for one; that somebody read it is not said by anything.

Rules of this file: a head counts by our own hash of its place, so whose signature it bears does not
matter; the newest of each author is enough, and how many are remembered is bounded.
"""

from zchat.member.checked import CheckedLog
from zchat.protocol.ledger import Head

_MOST_AUTHORS = 10_000  # keys, which anybody who has the passphrase can make up


class SeenBy:
    """The highest head that each other member of a room has shown."""

    def __init__(self, checked: CheckedLog) -> None:
        self._checked = checked
        self._heads: dict[bytes, Head] = {}

    def shown(self, key: bytes, head: Head) -> None:
        """An author showed this head, which perhaps we have not reached."""
        former = self._heads.get(key)
        if former is None and len(self._heads) >= _MOST_AUTHORS:
            return
        if head.log == self._checked.log and (former is None or former.n < head.n):
            self._heads[key] = head

    def keys(self, n: int) -> list[bytes]:
        """Whose log agrees with ours up to place `n` at least."""
        return [key for key, head in self._heads.items() if n <= head.n and self._is_ours(head)]

    def _is_ours(self, head: Head) -> bool:
        return head.n <= self._checked.n and self._checked.hash_at(head.n) == head.hash
