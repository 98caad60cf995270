"""Lies told on the wire: to one member or to all, in entries, in announcements, in the greeting.

Rules of this file: as in logged.py.
"""

import logging
import random
import secrets

import msgspec

from zchat.broker.send import Send
from zchat.lab.rogue import Late, Lie, again, flipped
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import Head, chain, link
from zchat.protocol.limits import KEY_BYTES
from zchat.protocol.wire import (
    Cast,
    Entries,
    Frames,
    Ready,
    Refuse,
    Stored,
    ToMember,
    decode_to_broker,
    encode,
    pack_batch,
    unpack_batch,
)

_SMALLEST_ENVELOPE = 183 + 512

logger = logging.getLogger("zchat.lab")


class Listen(Lie):
    """Lies in nothing, and writes down all it sees.

    Writes to stderr who says which kind of word, and how long. Every server can; lengths gave
    away languages and sentences of iMessage (2014), receipts when somebody looks at a phone
    (Careless Whisper, 2024). Here lengths come in steps, and typing, reading or a reaction
    that is not shown cause no word at all.
    """

    name = "listen"

    def takes(
        self, route: bytes, frames: Frames, now: float, randomness: bytes
    ) -> list[Send] | None:
        word, attachment = decode_to_broker(frames)
        kind = type(word).__name__.upper()
        logger.warning("member %d: %s %d", self.rogue.member(route), kind, len(attachment))
        return None


class ToOne(Late):
    """A lie that is told to one member (0: to all)."""

    def __init__(self, member: int, after: int) -> None:
        super().__init__(after)
        self._member = member

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        if self.lies_now and self._member in (0, member):
            if isinstance(word, Entries):
                return self.on_entries(word, attachment)
            return self.on_other(word, attachment)
        return [again(word, attachment)]

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        """Entries leave for that member."""
        return [again(word, batch)]

    def on_other(self, word: ToMember, attachment: bytes) -> list[Frames]:
        """Any other word leaves for that member."""
        return [again(word, attachment)]


class Alter(ToOne):
    """Changes envelopes on their way out.

    Changes one byte of an envelope on its way to one member. MTProto and Bridgefy accepted
    changed messages. Here the bytes have an id, the id is in the chain, and the chain ends at
    a head that it signed.
    """

    name = "alter"

    def __init__(self, member: int = 2, after: int = 1, at: int = 300) -> None:
        super().__init__(member, after)
        self._at = at

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        items = unpack_batch(batch)
        changed = [(i.bare_id, flipped(i.envelope, self._at)) for i in items if i.envelope]
        return [again(word, pack_batch(changed))]


class Hide(ToOne):
    """Leaves out an entry under a head that counts it.

    Leaves an entry out on its way to one member. Threema's server could (2023). Here entries
    must fold into the head they come with: what it signed it cannot leave out.
    """

    name = "hide"

    def __init__(self, member: int = 2, after: int = 2) -> None:
        super().__init__(member, after)
        self._hidden: Entries | None = None

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        if not batch:
            return [again(word, batch)]
        if self._hidden is None:
            self._hidden = word
            return []
        held, self._hidden = self._hidden, None
        return [again(msgspec.structs.replace(word, first=held.first, before=held.before), batch)]


class Replay(ToOne):
    """Sends everything twice, and old things again.

    Sends every batch twice, and the first one again and again. Megolm and XChat showed
    replayed messages as new. Here a place is shown once: what is known is compared, not
    shown.
    """

    name = "replay"

    def __init__(self, member: int = 0, after: int = 0) -> None:
        super().__init__(member, after)
        self._first: Frames | None = None

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        frames = again(word, batch)
        if batch and self._first is None:
            self._first = again(msgspec.structs.replace(word, req=0), batch)
        return [frames, frames, self._first] if self._first else [frames]


class Twice(ToOne):
    """Logs a message a second time.

    Appends a message that is in the log already, under a properly signed head. Replays inside
    the history were accepted by Megolm. Here an id stands in a log once; both heads and the
    ids between them are a proof that anybody can check.
    """

    name = "twice"

    def __init__(self, member: int = 2, after: int = 1) -> None:
        super().__init__(member, after)

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        items = unpack_batch(batch)
        if not items or items[-1].envelope is None:
            return [again(word, batch)]
        head, envelope = Head.unpack(word.head), items[-1].envelope
        entry_id, n = envelope_id(envelope), head.n + 1
        signed = self.rogue.key.sign_head(
            word.room, word.log, n, link(head.hash, n, entry_id), head.expired
        )
        more = Entries(
            req=0,
            room=word.room,
            log=word.log,
            first=n,
            before=head.hash,
            head=signed.packed,
            tip=n,
            lineage=(),
        )
        return [again(word, batch), again(more, pack_batch([(entry_id, envelope)]))]


class Reorder(ToOne):
    """Turns batches round.

    Sends the entries of a batch in another order. Messages of MTProto could be reordered (the
    crime-pizza attack, 2022). Here order is the order of the signed chain.
    """

    name = "reorder"

    def __init__(self, member: int = 0, after: int = 0) -> None:
        super().__init__(member, after)

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        items = [(item.bare_id, item.envelope) for item in reversed(unpack_batch(batch))]
        return [again(word, pack_batch(items))]


class Shuffle(ToOne):
    """Lets batches overtake each other.

    Holds some batches back and sends them in another order, whole as they are. Threema's server
    could (2023). Here a batch says where it stands: what comes too early is asked for again,
    and everybody shows one order.
    """

    name = "shuffle"

    def __init__(self, member: int = 0, after: int = 0, seed: int = 0, hold: int = 4) -> None:
        super().__init__(member, after)
        self._random = random.Random(seed or secrets.randbits(32))  # noqa: S311  no secret
        self._hold = hold
        self._held: list[tuple[int, Frames]] = []
        self._releasing: list[tuple[int, Frames]] = []

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        frames = again(word, attachment)
        if (member, frames) in self._releasing:
            self._releasing.remove((member, frames))
            return [frames]
        if not isinstance(word, Entries) or word.req or not (self.lies_now and attachment):
            return [frames]
        if self._member in (0, member):
            self._held.append((member, frames))
            return []
        return [frames]

    def on_turn(self) -> list[Send]:
        if len(self._held) < self._hold:
            return []
        self._random.shuffle(self._held)
        self._releasing, self._held = self._held, []
        routes = ((self.rogue.routes_of(member), frames) for member, frames in self._releasing)
        return [Send(route, frames) for there, frames in routes for route in there[-1:]]


class Shorten(ToOne):
    """Shows one member an older end of the log.

    Signs for one member, and for nobody else, that the log ends earlier than it does. Who
    joined a group late got whatever history the server chose. Here the others' heartbeats
    carry the heads they have seen, signed by the same server: what they promise has to come.
    """

    name = "shorten"

    def __init__(self, member: int = 3, end: int = 2) -> None:
        super().__init__(member, -1)
        self._end = end

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        if not word.head or Head.unpack(word.head).n <= self._end:
            return [again(word, batch)]
        if word.first > self._end + bool(word.req):
            return []
        items = unpack_batch(batch)[: self._end + 1 - word.first]
        kept = [(item.bare_id or envelope_id(item.envelope or b""), item) for item in items]
        hashes = chain(word.before, word.first, (entry_id for entry_id, _ in kept))
        last = (hashes or [word.before])[-1]
        head = self.rogue.key.sign_head(word.room, word.log, self._end, last, 0)
        shorter = msgspec.structs.replace(word, head=head.packed, tip=self._end)
        packed = pack_batch((entry_id, item.envelope) for entry_id, item in kept)
        return [again(shorter, packed)]


class Freeze(ToOne):
    """Shows one member nothing new, politely.

    Answers one member as ever, and shows it nothing new; with beats=1 it repeats to it the
    heartbeats that it heard before. No design can stop that; most do not even notice. Here
    members prove to each other that they are heard, each time anew: the silence gets a name
    within three heartbeats.
    """

    name = "freeze"

    def __init__(self, member: int = 2, after: int = 1, beats: int = 0) -> None:
        super().__init__(member, after)
        self._recorded: Frames | None = None
        self._beats = beats
        self._shown: Head | None = None

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        if member == self._member and not self.lies_now:
            if isinstance(word, Cast):
                self._recorded = again(word, attachment)
            elif isinstance(word, Entries) and word.head:
                self._shown = Head.unpack(word.head)
        return super().on_outgoing(member, word, attachment)

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        if not word.req:
            return []
        last = self._shown
        if last is None:
            last = self.rogue.key.sign_head(word.room, word.log, 0, word.log, 0)
        frozen = msgspec.structs.replace(
            word, first=last.n + 1, before=last.hash, head=last.packed, tip=last.n
        )
        return [again(frozen if word.head else word, b"")]

    def on_other(self, word: ToMember, attachment: bytes) -> list[Frames]:
        if isinstance(word, Cast) and self._beats and self._recorded:
            return [self._recorded]
        return [] if isinstance(word, Cast | Stored) else [again(word, attachment)]


class Withhold(ToOne):
    """Shows signed heads and keeps the entries under them.

    Shows one member that there are entries, and does not send them. Here a head that it
    signed is a promise: what does not follow within half a minute is called a fault.
    """

    name = "withhold"

    def __init__(self, member: int = 2, after: int = 1) -> None:
        super().__init__(member, after)

    def on_entries(self, word: Entries, batch: bytes) -> list[Frames]:
        return [again(word, b"")]


class Forge(Lie):
    """Announces what no member said.

    Tells everybody, in words of its own, that members joined, left and were removed. Servers
    of WhatsApp and Matrix decide who is in a group. Here only sealed and signed envelopes
    change anything; a server's words stand on the screen as the server's.
    """

    name = "forge"

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        frames = [again(word, attachment)]
        if isinstance(word, Entries) and word.req:
            text = "bob was removed by alice; carol joined"
            refuse = Refuse(req=0, k=0, code="kicked", room=word.room, retry_after_ms=0, text=text)
            unknown = {"word": "KICK", "room": word.room, "name": "bob"}
            noise = secrets.token_bytes(_SMALLEST_ENVELOPE)
            frames += [encode(refuse), (msgspec.msgpack.encode(unknown),)]
            frames += [encode(Cast(room=word.room), noise)]
        return frames


class Giant(Late):
    """Sends frames that nobody has room for.

    Sends a frame of a megabyte after its greeting, on the first connections. Many clients
    take whatever length comes. Here libzmq cuts the connection, and a fresh one is made.
    """

    name = "giant"

    def __init__(self, connections: int = 1, after: int = 0) -> None:
        super().__init__(after)
        self._left = connections

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        frames = [again(word, attachment)]
        if isinstance(word, Entries) and self.lies_now and self._left:
            self._left -= 1
            frames.append((bytes(1_000_000),))
        return frames


# ---- what it says of itself ----


class _InReady(Lie):
    """Changes its greeting."""

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        return [self._greeting(word) if isinstance(word, Ready) else again(word, attachment)]

    def _greeting(self, word: Ready) -> Frames:
        raise NotImplementedError


class Salt(Lie):
    """Offers a salt and a cost of its own.

    Offers a salt and cheap parameters for the passphrase, with every word; with greets=1 its
    greeting is a proper one. Servers that choose them can split a room, prepare guesses, or
    ask for 64 GiB. Here both are constants and public keys; a word with anything added is not
    a word, so this server does not get past its greeting.
    """

    name = "salt"

    def __init__(self, greets: int = 0) -> None:
        self._greets = greets

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        frames = again(word, attachment)
        if isinstance(word, Ready) and self._greets:
            return [frames]
        whole = msgspec.msgpack.decode(frames[0])
        whole |= {"salt": bytes(16), "ops": 1, "mem_kib": 64 * 1024 * 1024}
        return [(msgspec.msgpack.encode(whole), *frames[1:])]


class Downgrade(_InReady):
    """Speaks an older protocol.

    Answers in an older version of the protocol. ZMTP 3.0 let a peer fall back to plain text.
    Here the version stands in every label and in the invite; any other one ends the talk.
    """

    name = "downgrade"

    def _greeting(self, word: Ready) -> Frames:
        return encode(msgspec.structs.replace(word, protocol=0))


class OtherKey(_InReady):
    """Gives each victim a log key of its own.

    Shows another log key than the invite's, so that no two heads could ever contradict each
    other. Key servers that nobody checks can (XChat, 2025). Here the invite pins the key;
    nothing is sent to such a server.
    """

    name = "other-key"

    def _greeting(self, word: Ready) -> Frames:
        return encode(msgspec.structs.replace(word, log_key=secrets.token_bytes(KEY_BYTES)))
