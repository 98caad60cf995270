"""What a member's vault says of keys, remembered for the life of a process.

Rules of this file: keys come from the log and anybody can make them up, so what is remembered of
them is bounded.
"""

from collections.abc import Callable

from zchat.member.vault import Vault

_MOST_REMEMBERED = 10_000


class Judgements:
    """The transcript's `Trust`, over a vault."""

    def __init__(self, vault: Vault, tag: bytes) -> None:
        self._vault = vault
        self._tag = tag
        self._verified: dict[bytes, bool] = {}
        self._muted: dict[bytes, bool] = {}

    def is_verified(self, key: bytes) -> bool:
        return self._remembered(self._verified, key, self._vault.is_verified)

    def is_muted(self, key: bytes) -> bool:
        return self._remembered(self._muted, key, self._vault.is_muted)

    def _remembered(
        self, known: dict[bytes, bool], key: bytes, ask: Callable[[bytes, bytes], bool]
    ) -> bool:
        if key not in known:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            known[key] = ask(self._tag, key)
        return known[key]

    def wrote(self, incarnation: bytes) -> bool:
        return self._vault.wrote(incarnation)

    def forget(self) -> None:
        """Ask the vault again: something was judged."""
        self._verified.clear()
        self._muted.clear()
