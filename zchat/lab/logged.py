"""Lies about what is said: what never reaches the log, or reaches it changed, or rots in it.

Rules of this file: as in rogue.py; each docstring says what the lie does, whom it has worked
against, and what stops it here.
"""

import random
import secrets
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from nacl import bindings

from zchat.broker.send import Send
from zchat.lab.rogue import Late, Lie, Rogue, again, flipped
from zchat.log.contract import Entry
from zchat.protocol.envelope import envelope_id
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import link
from zchat.protocol.limits import SIGNATURE_BYTES
from zchat.protocol.wire import Frames, Post, Stored, ToMember, encode, pack_batch

_SMALLEST_ENVELOPE = 183 + 512
_GROUP_ORDER = (1 << 252) + 27742317777372353535851937790883648493  # RFC 8032, section 5.1


class Drop(Late):
    """Forgets posts before they are logged.

    Forgets a share of the posts before they are in the log, or only the one that comes
    at-th. Threema's server could hold messages back unseen (2023). Here the author sees no
    tick, and the author's next message, numbered by its author, shows the others that one is
    missing.
    """

    name = "drop"

    def __init__(self, share: float = 0.1, after: int = 0, seed: int = 0, at: int = 0) -> None:
        super().__init__(after)
        self._share = share
        self.at = at
        self._random = random.Random(seed or secrets.randbits(32))  # noqa: S311  no secret
        self._dropped: set[bytes] = set()
        self._skipped: dict[tuple[bytes, bytes], int] = {}

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        key, entry_id = (route, word.room), envelope_id(envelope)
        if entry_id in self._dropped or self._forgets():
            self._dropped.add(entry_id)
            self._skipped[key] = self._skipped.get(key, 0) + 1
            return []
        return [(Post(room=word.room, k=max(1, word.k - self._skipped.get(key, 0))), envelope)]

    def _forgets(self) -> bool:
        if self.at:
            return self.posts == self.at
        return self.lies_now and self._random.random() < self._share

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        if isinstance(word, Stored):
            most = max((self._skipped.get(k, 0) for k in self._keys(member, word.room)), default=0)
            word = msgspec.structs.replace(word, k=word.k + most)
        return [again(word, attachment)]

    def _keys(self, member: int, room: bytes) -> list[tuple[bytes, bytes]]:
        return [(route, room) for route in self.rogue.routes_of(member)]


class Smudge(Late):
    """Changes posts before they are logged.

    Changes one byte of a post before it is in the log. Bridgefy's messages could be changed
    unseen (2021). Here the signature covers the whole envelope: the entry is unreadable, and
    its author's next number shows that one is missing.
    """

    name = "smudge"

    def __init__(self, after: int = 0, at: int = 300) -> None:
        super().__init__(after)
        self._at = at

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        return [(word, flipped(envelope, self._at) if self.lies_now else envelope)]


class Malleable(Late):
    """Writes a signature in another way.

    Adds the group order to the second half of a signature: mathematically it still fits.
    Transactions of early currencies were renamed in this way. libsodium refuses every form
    but one; the entry is unreadable.
    """

    name = "malleable"

    def __init__(self, after: int = 0) -> None:
        super().__init__(after)

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        if not self.lies_now:
            return [(word, envelope)]
        s = int.from_bytes(envelope[-32:], "little") + _GROUP_ORDER
        return [(word, envelope[:-32] + s.to_bytes(32, "little"))]


class Inject(Late):
    """Writes an envelope of its own into the log.

    Puts an envelope into the log that it made itself, properly signed by a fresh key. Group
    chats of WhatsApp and Threema took messages of strangers (More is Less, 2018). Here it
    does not have the passphrase, so the key commitment cannot fit; nobody joins.
    """

    name = "inject"

    def __init__(self, after: int = 0) -> None:
        super().__init__(after)

    def begin(self, rogue: Rogue) -> None:
        super().begin(rogue)
        self._public, self._secret = bindings.crypto_sign_seed_keypair(secrets.token_bytes(32))

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        if self.lies_now:
            self.rogue.ghost.post(word.room, self._forged(word.room, envelope), 0.0, bytes(16))
        return [(word, envelope)]

    def _forged(self, room: bytes, real: bytes) -> bytes:
        header = real[:39] + self._public
        noise = secrets.token_bytes(_SMALLEST_ENVELOPE - len(header) - SIGNATURE_BYTES)
        return self._signed(room, header + noise)

    def _signed(self, room: bytes, unsigned: bytes) -> bytes:
        covered = digest(Label.SIGN, 64, room + unsigned)
        return unsigned + bindings.crypto_sign(covered, self._secret)[:SIGNATURE_BYTES]


class Impersonate(Inject):
    """Passes a member's message off as somebody else's.

    Takes a message, puts another sender on it, and signs it anew, properly. Matrix attributed
    forwarded messages to others (CVE-2022-39249). Here the sender's key is part of what the
    message's own key is derived from: the commitment fails, and the row is never shown.
    """

    name = "impersonate"

    def _forged(self, room: bytes, real: bytes) -> bytes:
        return self._signed(room, real[:39] + self._public + real[71:-SIGNATURE_BYTES])


class Transplant(Late):
    """Moves messages from one room to another.

    Copies what is said in one room into every other one. Olm and Megolm could be confused in
    this way (2022). Here the room stands in the key, the commitment and the signature.
    """

    name = "transplant"

    def __init__(self, after: int = 0) -> None:
        super().__init__(after)
        self._rooms: set[bytes] = set()

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        for room in self._rooms - {word.room} if self.lies_now else ():
            self.rogue.ghost.post(room, envelope, 0.0, secrets.token_bytes(16))
        self._rooms.add(word.room)
        return [(word, envelope)]


class Delay(Late):
    """Keeps posts back for a while.

    Keeps every post back for some seconds. Delivery times of group chats could be forged
    (More is Less, 2018). Here the sender's time is signed: what comes more than five minutes
    late is marked with both times.
    """

    name = "delay"

    def __init__(self, seconds: float = 20.0, after: int = 0) -> None:
        super().__init__(after)
        self._seconds = seconds
        self._held: deque[tuple[float, bytes, bytes]] = deque()

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        if not self.lies_now:
            return [(word, envelope)]
        self._held.append((time.monotonic() + self._seconds, word.room, envelope))
        return []

    def on_turn(self) -> list[Send]:
        while self._held and self._held[0][0] <= time.monotonic():
            _, room, envelope = self._held.popleft()
            self.rogue.ghost.post(room, envelope, 0.0, secrets.token_bytes(16))
        return []


class Ack(Late):
    """Gives receipts for what it throws away.

    Signs a receipt for a post and throws the post away. Servers that acknowledge before they
    write lose what they promised (Jepsen on NATS, 2025). Here the receipt is a signed place:
    whatever comes to stand there instead contradicts it, and the receipt is the proof.
    """

    name = "ack"

    def __init__(self, after: int = 1) -> None:
        super().__init__(after)
        self._due: list[Send] = []
        self._lied = False

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        super().on_post(route, word, envelope)
        tip = self.rogue.log.tip(word.room)
        if not self.lies_now or self._lied or tip is None:
            return [(word, envelope)]
        self._lied = True
        entry_id, n = envelope_id(envelope), tip.n + 1
        head = self.rogue.key.sign_head(word.room, tip.log, n, link(tip.hash, n, entry_id), 0)
        stored = Stored(
            room=word.room, k=word.k, log=tip.log, first=n, before=tip.hash, head=head.packed
        )
        self._due.append(Send(route, encode(stored, pack_batch([(entry_id, None)]))))
        return []

    def on_turn(self) -> list[Send]:
        due, self._due = self._due, []
        return due


# ---- what is stored and read ----


class Rot(Late):
    """Changes envelopes on its disk.

    Changes one byte of each envelope on its disk, below the ids it has already signed.
    Backups of Matrix keys could be changed like this (2022). Here ids are folded into the
    head that it signed: who reads it later sees that they do not fit.
    """

    name = "rot"

    def __init__(self, after: int = 0, at: int = 300) -> None:
        super().__init__(after)
        self._at = at

    def on_store(self, room: bytes, entries: Sequence[Entry]) -> Sequence[Entry]:
        if not self.lies_now:
            return entries
        return [e._replace(envelope=flipped(e.envelope or b"", self._at)) for e in entries]


class Omit(Lie):
    """Leaves entries out of history.

    Leaves entries out when somebody reads history. Who joined a group late got whatever the
    server chose to show. Here every page ends at a signed head, and the ids must fold into
    it.
    """

    name = "omit"

    def on_read(self, room: bytes, entries: list[Entry]) -> list[Entry]:
        return entries if len(entries) < 3 else [*entries[:1], *entries[2:]]
