"""What this process says in one room: numbers, seals, and what is not in the log yet.

Theory of operation. A text gets the next number of this process's incarnation, is sealed over the
last checked head, and is in the vault before anybody hears of it. It stays there until the replica
holds it. What dead processes left is taken over as it is: the same bytes, the same id. But what was
said before a rejoin waits until the accepted log is read to its end: what that log neither holds
nor fits would accuse the server again, so its text is said anew, as a new message of this process.
Never what a server had confirmed: it could take that out, and then show both.

Rules of this file: nothing is sealed twice; a number is given up only for an envelope that the
broker could really not take, or that counter-signs a history its user has left.
"""

from collections.abc import Container, Iterable, Sequence

from zchat.clock import Clock
from zchat.errors import TextTooLong, Unopenable
from zchat.member.checked import CheckedLog, Seen
from zchat.member.opening import Opener
from zchat.member.presence import Parts
from zchat.member.rows import Composed, Confirmed
from zchat.member.session import Outgoing
from zchat.member.vault import Pending, Vault
from zchat.protocol.body import Beat, Logged, Text, Unknown, Void, encode, seen_head
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.limits import MAX_TEXT_BYTES
from zchat.protocol.seal import seal


class Outbox:
    """The writing half of a room. `checked` is its log, whose head goes into what is said."""

    def __init__(self, keys: RoomKeys, vault: Vault, clock: Clock, checked: CheckedLog) -> None:
        self._keys = keys
        self._opener = Opener(keys)
        self._vault = vault
        self._clock = clock
        self._checked = checked
        self._author = Author(vault.master_seed, keys)
        self._incarnation = b""
        self._next_seq = 1
        self._unconfirmed: set[bytes] = set()
        self._unkept: set[bytes] = set()  # what the replica does not hold yet
        self._held: list[Pending] = []  # said before a rejoin, and not judged yet

    @property
    def own_key(self) -> bytes:
        """The key that signs what is said here."""
        return self._author.public

    @property
    def unconfirmed(self) -> frozenset[bytes]:
        """Ids of envelopes that no signed head covers yet."""
        return frozenset(self._unconfirmed)

    def compose(
        self, name: str, texts: Sequence[str], reply_to: bytes | None
    ) -> tuple[list[Outgoing], list[Composed]]:
        """Seal texts and commit them, all or none. Raises TextTooLong, StoreTrouble."""
        for text in texts:
            size = len(text.encode())
            if size > MAX_TEXT_BYTES:
                raise TextTooLong(size=size, most=MAX_TEXT_BYTES)
        return self._say(name, [(text, reply_to) for text in texts])

    def _say(
        self, name: str, said: Sequence[tuple[str, bytes | None]], instead_of: Iterable[bytes] = ()
    ) -> tuple[list[Outgoing], list[Composed]]:
        incarnation, seen = self._own_incarnation(), self._checked.head.packed
        pending = []
        for seq, (text, reply_to) in enumerate(said, self._next_seq):
            body = Text(name, incarnation, seq, seen, text, reply_to)
            envelope = self._seal(EnvelopeClass.LOG, body)
            pending.append(Pending(incarnation, seq, envelope_id(envelope), envelope))
        self._vault.put(self._keys.tag, pending, instead_of)
        self._next_seq += len(pending)
        composed = [Composed(r.id, name, text) for r, (text, _) in zip(pending, said, strict=True)]
        return self._outgoing(pending), composed

    def beat(self, name: str, parts: Parts, *, leaving: bool) -> bytes:
        """The envelope of a beat."""
        body = Beat(
            name=name,
            incarnation=self._own_incarnation(),
            count=parts.number,
            seen=self._checked.head.packed,
            ask=parts.ask,
            echo=parts.echo,
            leaving=leaving,
        )
        return self._seal(EnvelopeClass.CAST, body)

    def _own_incarnation(self) -> bytes:
        if not self._incarnation:
            self._incarnation = self._vault.begin(self._keys.tag)
        return self._incarnation

    def _seal(self, envelope_class: EnvelopeClass, body: Text | Void | Beat) -> bytes:
        return seal(
            self._keys,
            self._author,
            envelope_class,
            encode(body),
            self._clock.wall_ms(),
            self._clock.random(32),
        )

    def _outgoing(self, pending: Iterable[Pending]) -> list[Outgoing]:
        outgoing = [Outgoing(row.id, row.envelope) for row in pending]
        ids = {out.id for out in outgoing}
        self._unconfirmed |= ids
        self._unkept |= ids
        return outgoing

    def resume(self, left: Container[bytes] = ()) -> list[Outgoing]:
        """What processes that are dead left, and is not in the log.

        What was said before a rejoin (`left`: its ids) is kept for `say_anew`.
        """
        tag, replica = self._keys.tag, self._checked.replica
        pending = self._vault.adopt(tag)
        stored = {row.id for row in pending if replica.place_of(tag, row.id)}
        self._vault.done(stored)
        missing = [row for row in pending if row.id not in stored]
        self._held = [row for row in missing if row.id in left]
        self._outgoing(self._held)  # it is not in the log either, and who sends waits for it
        return self._outgoing(row for row in missing if row.id not in left)

    def say_anew(self, name: str) -> tuple[list[Outgoing], list[Composed]]:
        """The accepted log is read to its end: what becomes of what was said before the rejoin.

        What stands there is stored. What fits goes out as the same bytes. The text of the rest is
        said anew, and its numbers are given up together: all of an incarnation from one on, for
        whoever left a history counter-signed nothing but that history from there on.
        """
        held, self._held = self._held, []
        tag, replica = self._keys.tag, self._checked.replica
        missing = [row for row in held if not replica.place_of(tag, row.id)]
        bodies = {row.id: self._over_left_history(row) for row in missing}
        given_up = {i: body for i, body in bodies.items() if body is not None}
        self._unconfirmed -= given_up.keys()
        self._unkept -= given_up.keys()
        outgoing = self._outgoing(row for row in missing if row.id not in given_up)
        gone = [i for i, body in given_up.items() if not isinstance(body, Unknown)]
        if not gone:  # what a newer version wrote waits for one that can say it
            return outgoing, []
        texts = [(b.text, b.reply_to) for b in given_up.values() if isinstance(b, Text)]
        anew, composed = self._say(name, texts, gone)
        return [*outgoing, *anew], composed

    def _over_left_history(self, row: Pending) -> Logged | None:
        """What an envelope says, if it would accuse the server whose log was accepted."""
        opened = self._opener.open(row.envelope)
        if opened is None:
            return None
        verdict = self._checked.judge(seen_head(opened.body), self._checked.n + 1)
        return opened.body if verdict in (Seen.FORK, Seen.OTHER_LOG) else None

    def refused(self, entry_id: bytes, name: str) -> tuple[list[Outgoing], bool]:
        """The broker says that it will never take this envelope; True if it is sound.

        If it is not, its number is filled with a Void. If it is, it waits: a server must not be
        able to have its author take a message back.
        """
        tag = self._keys.tag
        row = next((row for row in self._vault.pending(tag) if row.id == entry_id), None)
        if row is None:
            return [], False
        try:
            check_outline(row.envelope, EnvelopeClass.LOG)
        except Unopenable:
            return self._fill(row, name), False
        return [], True

    def _fill(self, row: Pending, name: str) -> list[Outgoing]:
        body = Void(name, row.incarnation, row.seq, self._checked.head.packed)
        envelope = self._seal(EnvelopeClass.LOG, body)
        filled = row._replace(id=envelope_id(envelope), envelope=envelope)
        self._vault.replace(row.id, filled)
        self._unconfirmed.discard(row.id)
        self._unkept.discard(row.id)
        return self._outgoing([filled])

    def confirm(self, places: Iterable[tuple[int, bytes]]) -> list[Confirmed]:
        """Places and ids that a signed head covers: which of them are ours."""
        confirmed = [Confirmed(i, n) for n, i in places if i in self._unconfirmed]
        self._unconfirmed.difference_update(row.id for row in confirmed)
        return confirmed

    def let_go(self, kept: set[bytes]) -> None:
        """Ours that the replica holds leave the vault.

        Not before: after an honest restore of the server only we could offer them again. (A power
        cut can still take them from the replica; then the server has them.)
        """
        self._vault.done(kept & self._unkept)
        self._unkept -= kept
