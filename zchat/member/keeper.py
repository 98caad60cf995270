"""Where the key of a room is kept: in the vault, or so that only the system's keyring opens it.

Theory of operation. Where the extra `keyring` is installed and the operating system's keyring
works, the vault holds a room's root sealed under a key of its own, and the keyring holds that key,
under a random handle: neither opens the room without the other, and the keyring names no room.
Elsewhere the vault holds the root as it holds everything, and its folder alone opens the room. Once
the vault gives up what it holds, the entry of a keyring that cannot be reached opens nothing.

A keyring is another program's: there may be none, it may be locked, ask somebody who is not there,
or say yes and keep nothing. All of that ends within a time, as a KeyringTrouble.

Rules of this file: `keyring` is imported only here, and only when it is asked; it is asked in a
thread, for some wait for a dialog for ever; one that failed is not asked again by this process.
"""

import logging
import queue
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from zchat.errors import KeyringTrouble
from zchat.member.vault import RoomRecord
from zchat.protocol.limits import KEY_BYTES

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

_T = TypeVar("_T")
_SERVICE = "zchat"
_HANDLE_BYTES = 16
_WORDS = {
    "NoKeyringError": "there is none on this machine",
    "KeyringLocked": "it is locked",
}


class Keeper:
    """Keeps, finds and forgets the keys of rooms; tells a person what it cannot do."""

    def __init__(self, patience_s: float, tell: Callable[[str], None]) -> None:
        self._patience_s = patience_s
        self._tell = tell
        self._unsaid: list[str] = []  # where a key is kept, until it is
        self._trouble: KeyringTrouble | None = None

    def keep(self, record: RoomRecord, root: bytes) -> RoomRecord:
        """The record with the room's root in it, where it is safest.

        Once somebody has saved it, `tell_kept` tells where that is.
        """
        try:
            if not self._is_kept(record):
                self.forget(record)
                record = self._put_in_keyring(record, root)
            name = self._ask(lambda keyring: keyring.name)
            self._unsaid = [f"Remembered: the room's key opens with the OS keyring ({name})."]
        except KeyringTrouble as trouble:
            record = msgspec.structs.replace(record, root=root, handle="", sealed_root=b"")
            self._unsaid = ["Remembered: the room's key lies in this profile, for you only."]
            if self._patience_s and find_spec("keyring"):
                self._unsaid.append(f"  {trouble.sentence}")
        return record

    def tell_kept(self) -> None:
        """The record that `keep` made is saved: tell where its key is, once."""
        for line in self._unsaid:
            self._tell(line)
        self._unsaid = []

    def _is_kept(self, record: RoomRecord) -> bool:
        with suppress(KeyringTrouble):
            return bool(record.handle and self.find(record))
        return False

    def _put_in_keyring(self, record: RoomRecord, root: bytes) -> RoomRecord:
        handle, key = secrets.token_hex(_HANDLE_BYTES), secrets.token_bytes(KEY_BYTES)
        self._ask(lambda keyring: keyring.set_password(_SERVICE, handle, key.hex()))
        if self._ask(lambda keyring: keyring.get_password(_SERVICE, handle)) != key.hex():
            raise KeyringTrouble(reason="it does not keep what it is given")
        sealed = bytes(SecretBox(key).encrypt(root))
        return msgspec.structs.replace(record, root=b"", handle=handle, sealed_root=sealed)

    def find(self, record: RoomRecord) -> bytes:
        """The room's root; empty if it is not kept. Raises KeyringTrouble."""
        if not record.handle:
            return record.root
        key = self._ask(lambda keyring: keyring.get_password(_SERVICE, record.handle))
        if key is None:
            raise KeyringTrouble(reason="it has lost the entry")
        try:
            return SecretBox(bytes.fromhex(key)).decrypt(record.sealed_root)
        except (CryptoError, ValueError, TypeError):
            raise KeyringTrouble(
                reason="it holds another entry than the one it was given"
            ) from None

    def find_or_tell(self, record: RoomRecord) -> bytes:
        """The room's root; empty, and told why, if it cannot be had."""
        try:
            return self.find(record)
        except KeyringTrouble as trouble:
            self._tell(f"The key of {record.room!r} is not to be had. {trouble.sentence}")
            return b""

    def forget(self, record: RoomRecord) -> None:
        """Remove the keyring's entry. If that fails, it opens nothing without the vault's half."""
        if record.handle:
            with suppress(KeyringTrouble):
                self._ask(lambda keyring: _delete(keyring, record.handle))

    def _ask(self, question: "Callable[[KeyringBackend], _T]") -> _T:
        """The keyring's answer, if it comes in time. Raises KeyringTrouble."""
        if self._trouble is None and not self._patience_s:
            self._trouble = KeyringTrouble(reason="the setting keyring_s turns it off")
        if self._trouble is not None:
            raise self._trouble
        answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(question, answers), daemon=True).start()
        try:
            answer, error = answers.get(timeout=self._patience_s)
        except queue.Empty:
            answer, error = None, TimeoutError(f"no answer in {self._patience_s:g} s")
        if error is not None:
            self._trouble = KeyringTrouble(reason=_reason(error))
            raise self._trouble
        return answer  # type: ignore[no-any-return]


def _answer(
    question: "Callable[[KeyringBackend], object]",
    answers: "queue.SimpleQueue[tuple[Any, Exception | None]]",
) -> None:
    # What it logs of keyrings that it could not load is nothing that a user of ours can mend.
    logging.getLogger("keyring").addHandler(logging.NullHandler())
    try:
        import keyring

        answers.put((question(keyring.get_keyring()), None))
    except Exception as error:  # a keyring is any program, and may raise anything
        answers.put((None, error))


def _delete(keyring: "KeyringBackend", handle: str) -> None:
    if keyring.get_password(_SERVICE, handle) is not None:
        keyring.delete_password(_SERVICE, handle)


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "keyring":
        return "the package keyring is not installed"
    known = _WORDS.get(type(error).__name__)
    first_line = (str(error).splitlines() or [""])[0]
    return known or first_line or type(error).__name__
