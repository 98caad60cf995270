"""From a passphrase to a room's keys, from a member's master seed to its key in that room.

Rules of this file: Argon2id runs here and nowhere else, with parameters that are constants of the
protocol version; nothing a server or an invite says can change salt or cost except the public keys
the salt is made of. A seed is never used itself, only through a label. No repr shows a secret.
"""

import functools
import hashlib
import hmac
from collections.abc import Iterable

from nacl import bindings, pwhash
from nacl.exceptions import RuntimeError as SodiumRuntimeError

from zchat.errors import BadPassphrase
from zchat.protocol.envelope import EPOCH
from zchat.protocol.labels import Label, begun, digest
from zchat.protocol.ledger import Head
from zchat.protocol.limits import (
    KEY_BYTES,
    NONCE_BYTES,
    ROOT_MEMORY_BYTES,
    ROOT_OPS,
    SIGNATURE_BYTES,
    TAG_BYTES,
    VERIFY_MEMORY_BYTES,
    VERIFY_OPS,
)
from zchat.protocol.words import code_words


def room_salt(curve_key: bytes, log_key: bytes, room_name: str) -> bytes:
    """The public Argon2id salt (16 bytes): unique per origin broker and canonical room name."""
    return digest(Label.SALT, TAG_BYTES, curve_key + log_key + room_name.encode())


def derive_root(passphrase: bytes, salt: bytes) -> bytes:
    """Argon2id(canonical passphrase, salt): the room's root, 32 bytes. Half a second, 256 MiB.

    Raises BadPassphrase when the machine has not the memory. RFC 9106.
    """
    try:
        return pwhash.argon2id.kdf(
            KEY_BYTES, passphrase, salt, opslimit=ROOT_OPS, memlimit=ROOT_MEMORY_BYTES
        )
    except SodiumRuntimeError:
        raise BadPassphrase(reason="deriving its key needs 256 MiB of memory") from None


class RoomKeys:
    """Everything a room's root gives. `tag` is public; the rest opens messages."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.tag = digest(Label.ROOM_TAG, TAG_BYTES, b"", root)
        self._epoch_key = digest(Label.EPOCH, KEY_BYTES, EPOCH.to_bytes(4, "big"), root)

    def __repr__(self) -> str:
        return f"<RoomKeys {self.tag.hex()[:8]}>"

    def message_keys(self, packed_header: bytes) -> tuple[bytes, bytes]:
        """(ek, com) of the one envelope with this header: its box key and its public commitment."""
        rest = self._all_messages.copy()
        rest.update(packed_header)
        both = rest.digest()
        return both[:KEY_BYTES], both[KEY_BYTES:]

    @functools.cached_property
    def _all_messages(self) -> hashlib.blake2b:
        """What the hashes of all messages begin with, the key and the tag: half of the work."""
        return begun(Label.MESSAGE, 2 * KEY_BYTES, self.tag, self._epoch_key)

    def verification_password(self, head: Head, members: Iterable[tuple[bytes, str]]) -> bytes:
        """The digest of the log up to `head` and its members (key, name); section 10.

        Keyed from the root, else a server could grind two views to one code.
        """
        counted = sorted((key, name.encode()) for key, name in members)
        data = head.log + head.n.to_bytes(8, "big") + head.hash + head.expired.to_bytes(8, "big")
        data += len(counted).to_bytes(4, "big")
        for key, name in counted:
            data += key + bytes([len(name)]) + name
        return digest(Label.VERIFY, KEY_BYTES, data, self.root)

    def verification_code(self, head: Head, members: Iterable[tuple[bytes, str]]) -> list[str]:
        """Eight words over the log up to `head` and its members (key, name)."""
        password = self.verification_password(head, members)
        code = pwhash.argon2id.kdf(
            16, password, self.tag, opslimit=VERIFY_OPS, memlimit=VERIFY_MEMORY_BYTES
        )
        return code_words(code)


class Author:
    """A member's signing key in one room. It differs in every room."""

    def __init__(self, master_seed: bytes, room: RoomKeys) -> None:
        self._seed = digest(Label.ROOM_ID, KEY_BYTES, room.tag, master_seed)
        self.public, self._secret = bindings.crypto_sign_seed_keypair(self._seed)

    def __repr__(self) -> str:
        return f"<Author {self.public.hex()[:8]}>"

    def nonce(self, randomness: bytes, body: bytes) -> bytes:
        """A nonce that differs for two bodies even where `randomness` (32 bytes) repeats."""
        return digest(Label.NONCE, NONCE_BYTES, randomness + body, self._seed)

    def sign(self, message: bytes) -> bytes:
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def same(one: bytes, other: bytes) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(one, other)
