"""The broker without its socket: section 4 of docs/protocol.md, row by row.

Rules of this file: the core is driven as its server drives it, over a log in memory, and nothing of
it is looked into; whatever it sends is read by the protocol's own reader and checked as a member
checks it; bytes in flight are counted as the page counts them, from the envelopes that were posted.
"""

import hashlib
import random
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from zchat.broker.budget import Budget
from zchat.broker.core import Core, Limits, Peer
from zchat.broker.heads import Heads
from zchat.broker.send import Send
from zchat.errors import RoomDamaged
from zchat.log.contract import Addition, BrokerLog, Entry, MemoryLog
from zchat.log.guarded import GuardedLog
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import (
    NO_LOG,
    Genesis,
    Head,
    LogKey,
    chain,
    head_holds,
    read_lineage,
)
from zchat.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_ENVELOPE_BYTES,
    MAX_PAGES_WAITING,
    MAX_ROOMS_PER_CONNECTION,
    MAX_WINDOW_BYTES,
    TIP,
)
from zchat.protocol.wire import (
    Cast,
    Entries,
    Hello,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    ToBroker,
    ToMember,
    decode_to_member,
    encode,
    unpack_batch,
    unpack_ids,
)

KEY = LogKey(bytes(range(32)))
ROOM = b"the room's tag.."
OTHER = b"another room's.."
OTHER_LOG = b"\1" * 32
PADDED = 512
WEIGHT = 4 + ENVELOPE_OVERHEAD_BYTES + PADDED  # of an envelope of `envelope`, in flight
DAY_MS = 86_400_000
BIG = 65_536  # a padmé length: 3 of these are more than a batch
FREE = Limits(post_burst=1 << 30, control_burst=1 << 30, cast_burst=1 << 30)


def envelope(number: int, padded: int = PADDED, **header: int) -> bytes:
    """What passes for an envelope with whoever holds no key; no two numbers give the same."""
    fields = {"version": 1, "suite": 1, "envelope_class": 0, "epoch": 0, **header}
    clear = struct.pack(">BBBIQ", *fields.values(), number)
    return clear + random.Random(number).randbytes(ENVELOPE_OVERHEAD_BYTES - len(clear) + padded)


def cast(number: int) -> bytes:
    """An envelope of class 1."""
    return envelope(number, envelope_class=1)


def place(
    after: int = 0,
    log: bytes = NO_LOG,
    hash_n: bytes = NO_LOG,
    *,
    sub: int = 1,
    window: int = MAX_WINDOW_BYTES,
    room: bytes = ROOM,
) -> Position:
    """One room of a JOIN."""
    return Position(room, log, sub, after, hash_n, window)


def expired(count: int, births: int = 1) -> Addition:
    """A log whose entries were all let go of: only their ids are kept. It is the newest of some."""
    lineage: list[bytes] = []
    log = NO_LOG
    for number in range(births):
        genesis = Genesis(ROOM, KEY.public, b"%16d" % number, log, 0, log)
        lineage.insert(0, KEY.sign_birth(genesis))
        log = genesis.log
    ids = [hashlib.blake2b(b"%d" % n, digest_size=32).digest() for n in range(1, count + 1)]
    hashes = chain(log, 1, ids)
    entries = [Entry(n, ids[n - 1], hashes[n - 1], None) for n in range(1, count + 1)]
    return Addition(ROOM, entries, log, tuple(lineage), expired=count)


def expire_all(desk: "Desk") -> None:
    """As many steps as it takes to look at the few rooms of a test."""
    for _ in range(3):
        desk.send(desk.core.expire(desk.wall_ms))


class Got(NamedTuple):
    """One message as a member gets it."""

    word: ToMember
    attachment: bytes

    @property
    def entries(self) -> Entries:
        assert isinstance(self.word, Entries), self.word
        return self.word

    @property
    def stored(self) -> Stored:
        assert isinstance(self.word, Stored), self.word
        return self.word

    @property
    def refuse(self) -> Refuse:
        assert isinstance(self.word, Refuse), self.word
        return self.word

    @property
    def head(self) -> Head:
        assert isinstance(self.word, Entries | Stored)
        return Head.unpack(self.word.head)

    @property
    def ids(self) -> list[bytes]:
        """The ids of its batch."""
        items = unpack_batch(self.attachment)
        return [envelope_id(i.envelope) if i.envelope else i.bare_id for i in items]

    @property
    def envelopes(self) -> list[bytes]:
        items = unpack_batch(self.attachment)
        return [item.envelope for item in items if item.envelope is not None]


class Member:
    """A connection to the desk, and what came by it."""

    def __init__(self, desk: "Desk", route: bytes) -> None:
        self.desk = desk
        self.route = route
        self.inbox: list[Got] = []
        self.pipe_full = False
        self.req = 1_000 * int.from_bytes(route, "big")

    def say(self, word: ToBroker, attachment: bytes | None = None) -> None:
        """A message comes in by this route."""
        desk = self.desk
        frames = encode(word, attachment)
        desk.send(desk.core.receive(self.route, frames, desk.now, desk.draw()))

    def next_req(self) -> int:
        self.req += 1
        return self.req

    def join(self, *places: Position) -> int:
        """JOIN; its number."""
        req = self.next_req()
        self.say(Join(req, places))
        return req

    def page(
        self,
        first: int,
        last: int,
        *,
        room: bytes = ROOM,
        log: bytes = b"",
        ids_only: bool = False,
    ) -> int:
        """PAGE, of the log there is if none is named; its number."""
        req = self.next_req()
        self.say(Page(req, room, log or self.desk.log_id(room), first, last, ids_only))
        return req

    def post(self, k: int, an_envelope: bytes, room: bytes = ROOM) -> None:
        self.say(Post(room, k), an_envelope)

    def take(self) -> list[Got]:
        """What came since this was asked last."""
        taken, self.inbox = self.inbox, []
        return taken

    def only(self) -> Got:
        """What came, and nothing else did."""
        (got,) = self.take()
        return got


class Desk:
    """A broker's core, as its server drives it."""

    def __init__(self, allowed: Limits = FREE, log: BrokerLog | None = None) -> None:
        self.log: BrokerLog = log or MemoryLog()
        self.core = Core(self.log, KEY, allowed, "a server")
        self.members: dict[bytes, Member] = {}
        self.now = 1_000.0
        self.wall_ms = 1_700_000_000_000
        self.disk_full = False
        self._drawn = 0

    def draw(self) -> bytes:
        """16 bytes, never the same."""
        self._drawn += 1
        return hashlib.blake2b(b"%d" % self._drawn, digest_size=16).digest()

    def connect(
        self, access_key: bytes | None = None, address: str = "192.0.2.1", *, hello: bool = True
    ) -> Member:
        """A new connection; each has an access key of its own unless one is given."""
        route = (len(self.members) + 1).to_bytes(5, "big")
        assert not self.core.knows(route)
        self.core.connected(route, Peer(access_key or route, address))
        member = self.members[route] = Member(self, route)
        if hello:
            member.say(Hello(1, 1, "a member"))
            assert isinstance(member.only().word, Ready)
        return member

    def send(self, sends: Iterable[Send]) -> None:
        """As server.py does: nothing passes what could not be sent."""
        full: set[bytes] = set()
        for send in sends:
            member = self.members[send.route]
            if send.route in full or member.pipe_full:
                full.add(send.route)
                self.core.unsent(send)
                continue
            got = Got(*decode_to_member(send.frames))
            self.check(got)
            member.inbox.append(got)

    def check(self, got: Got) -> None:
        """What holds for every word: heads are signed, batches fold into them from our log."""
        word = got.word
        if isinstance(word, Stored):
            assert unpack_ids(got.attachment) == got.ids
        if not isinstance(word, Entries | Stored) or not word.head:
            return
        head = got.head
        assert head_holds(head, word.room, KEY.public)
        assert head.log == word.log == self.log_id(word.room)
        assert head.hash == self.log.hash_at(word.room, head.n)
        assert len(got.ids) <= MAX_BATCH_ENTRIES
        assert len(got.attachment) <= MAX_BATCH_BYTES
        if got.ids:
            assert word.before == self.log.hash_at(word.room, word.first - 1)
            assert head.n == word.first + len(got.ids) - 1
            assert chain(word.before, word.first, got.ids)[-1] == head.hash
        if isinstance(word, Entries):
            assert word.tip == self.end(word.room)
            assert not word.lineage or read_lineage(word.lineage, word.room, KEY.public)

    def commit(self) -> None:
        batch = self.core.batch(self.wall_ms)
        if batch and self.disk_full:
            self.send(self.core.failed())
            return
        try:
            if batch:
                self.log.append(batch)
        except RoomDamaged as damage:
            self.send(self.core.failed(damage))
            return
        self.send(self.core.committed())

    def turn(self) -> None:
        """What follows the messages that waited."""
        self.commit()
        self.core.retry_stuck()
        self.send(self.core.serve())

    def settle(self) -> None:
        """Turns, until nothing is left to do but for pipes that are full."""
        self.turn()
        self.turn()  # what was tried by one entry goes on
        while self.core.has_work:
            self.turn()

    def is_full(self) -> bool:
        """Whether this turn must end before more is received."""
        return self.core.full

    def is_stuck(self) -> bool:
        """Whether some pipe was full."""
        return self.core.has_stuck

    # ---- what the log holds ----

    def log_id(self, room: bytes = ROOM) -> bytes:
        tip = self.log.tip(room)
        assert tip is not None
        return tip.log

    def end(self, room: bytes = ROOM) -> int:
        tip = self.log.tip(room)
        return tip.n if tip else 0

    def at(self, n: int, **more: int) -> Position:
        """A place that this log has."""
        return place(n, self.log_id(), self.log.hash_at(ROOM, n), **more)  # type: ignore[arg-type]

    def write(self, count: int, padded: int = PADDED, room: bytes = ROOM) -> list[bytes]:
        """So many new entries in a room; their envelopes."""
        author = self.connect()
        start = 1_000_000 * len(self.members)
        written = [envelope(start + i, padded) for i in range(count)]
        for k, an_envelope in enumerate(written, 1):
            author.post(k, an_envelope, room)
            if self.is_full():
                self.settle()
        self.settle()
        self.core.closed(author.route)
        return written


# ---- HELLO, READY, and what comes before ----


def test_hello_is_answered_by_ready_with_the_log_key_and_the_rates() -> None:
    desk = Desk(Limits(post_burst=77, posts_per_s=7))
    alice = desk.connect(hello=False)
    alice.say(Hello(5, 1, "whatever"))
    assert alice.only().word == Ready(5, 1, "a server", KEY.public, 77, 7)


def test_hello_may_be_said_again() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.say(Hello(9, 1, "again"))
    assert isinstance(alice.only().word, Ready)


@pytest.mark.parametrize("protocol", [0, 2, 2**63 - 1])
def test_a_protocol_that_is_not_spoken_is_refused_and_opens_nothing(protocol: int) -> None:
    desk = Desk()
    alice = desk.connect(hello=False)
    alice.say(Hello(5, protocol, "of another time"))
    refuse = alice.only().refuse
    assert (refuse.req, refuse.k, refuse.code, refuse.room) == (5, 0, "version", b"")
    assert "version 1" in refuse.text
    alice.join(place())
    assert alice.only().refuse.code == "hello-first"


def test_hello_is_never_refused_for_its_rate() -> None:
    """The page answers HELLO by READY or `version`; a refusal would cost as much as READY."""
    desk = Desk(Limits(control_burst=1, controls_per_s=1))
    alice = desk.connect(hello=False)
    for req in range(1, 10):
        alice.say(Hello(req, 1, "insistent"))
    assert [got.word.req for got in alice.take() if isinstance(got.word, Ready)] == [*range(1, 10)]


@pytest.mark.parametrize(
    ("word", "attachment", "req", "k"),
    [
        (Join(3, (place(),)), None, 3, 0),
        (Page(4, ROOM, NO_LOG, 1, 1, False), None, 4, 0),
        (Post(ROOM, 1), envelope(1), 0, 1),
    ],
    ids=["JOIN", "PAGE", "POST"],
)
def test_what_has_an_answer_is_refused_before_hello(
    word: ToBroker, attachment: bytes | None, req: int, k: int
) -> None:
    desk = Desk()
    alice = desk.connect(hello=False)
    alice.say(word, attachment)
    refuse = alice.only().refuse
    assert (refuse.code, refuse.req, refuse.k) == ("hello-first", req, k)
    desk.settle()
    assert not alice.take()
    assert desk.end() == 0


@pytest.mark.parametrize(
    ("word", "attachment"),
    [(Cast(ROOM), cast(1)), (Leave(3, ROOM), None)],
    ids=["CAST", "LEAVE"],
)
def test_what_has_no_answer_is_dropped_before_hello(
    word: ToBroker, attachment: bytes | None
) -> None:
    desk = Desk()
    bob, alice = desk.connect(), desk.connect(hello=False)
    bob.join(place())
    desk.settle()
    bob.take()
    alice.say(word, attachment)
    desk.settle()
    assert not alice.take()
    assert not bob.take()
    assert desk.core.counts["before hello"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        (),
        (b"",),
        (b"\x81\xa4word\xa5SHOUT",),
        encode(Ready(1, 1, "a server", bytes(32), 1, 1)),
        (*encode(Leave(1, ROOM)), b""),
        encode(Post(ROOM, 1), b"")[:1],
        (*encode(Post(ROOM, 1), envelope(1)), b"a third"),
        encode(Post(ROOM, 1), bytes(MAX_ENVELOPE_BYTES + 1)),
        encode(Cast(ROOM), bytes(1_025)),
        (encode(Leave(1, ROOM))[0] + b"\xc0",),
        (bytes(16_385),),
    ],
    ids=[
        "no frame",
        "an empty frame",
        "an unknown word",
        "a word of the other side",
        "a frame too many",
        "a frame too few",
        "three frames",
        "an envelope over its bound",
        "a cast over its bound",
        "something behind the word",
        "a word over its bound",
    ],
)
def test_a_message_of_another_shape_is_dropped_and_counted(frames: tuple[bytes, ...]) -> None:
    desk = Desk()
    alice = desk.connect()
    assert desk.core.receive(alice.route, frames, desk.now, desk.draw()) == []
    desk.settle()
    assert not alice.take()
    assert desk.core.counts["malformed"] == 1


# ---- JOIN: the table ----


def test_a_room_that_does_not_exist_is_answered_with_nothing() -> None:
    desk = Desk()
    alice = desk.connect()
    req = alice.join(place())
    desk.settle()
    got = alice.only()
    assert got.word == Entries(req, ROOM, NO_LOG, 1, NO_LOG, b"", 0, ())
    assert got.attachment == b""


def test_who_waits_in_a_room_that_does_not_exist_gets_its_first_entry_with_the_lineage() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.join(place(TIP))
    desk.settle()
    alice.take()
    written = desk.write(1)
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.envelopes) == (0, 1, written)
    (genesis,) = read_lineage(got.entries.lineage, ROOM, KEY.public)
    assert genesis.log == got.entries.log == got.entries.before
    desk.write(1)
    assert alice.only().entries.lineage == ()


def test_a_log_named_in_a_room_that_does_not_exist_is_answered_with_nothing() -> None:
    desk = Desk()
    alice = desk.connect()
    req = alice.join(place(3, OTHER_LOG, OTHER_LOG))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.log, got.entries.head) == (req, NO_LOG, b"")
    assert (got.entries.tip, got.attachment) == (0, b"")


def test_a_room_made_in_the_turn_of_a_join_is_answered_as_the_log_it_is() -> None:
    """Whoever is answered sees the log there is when it is answered, and whose it is."""
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    req = alice.join(place(3, OTHER_LOG, OTHER_LOG))
    bob.post(1, envelope(1))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.attachment, got.head.n) == (req, b"", 1)
    assert got.entries.lineage


@pytest.mark.parametrize("after", [0, 1, 7], ids=["0", "1", "7, beyond the end"])
def test_no_log_means_from_the_first_entry_on_with_the_lineage(after: int) -> None:
    """Anything else than 0 or TIP is taken for 0; `hash` is not looked at."""
    desk = Desk()
    written = desk.write(3)
    alice = desk.connect()
    req = alice.join(place(after, NO_LOG, b"\7" * 32))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.envelopes) == (req, 1, written)
    assert got.entries.before == desk.log_id()
    assert len(got.entries.lineage) == 1


def test_no_log_at_tip_means_from_the_end_on_with_the_lineage() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    req = alice.join(place(TIP, NO_LOG, b"\7" * 32))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.attachment) == (req, 4, b"")
    assert got.entries.before == desk.log.hash_at(ROOM, 3)
    assert (got.head.n, got.entries.tip, len(got.entries.lineage)) == (3, 3, 1)
    written = desk.write(1)
    assert alice.only().envelopes == written


def test_this_log_at_tip_means_from_the_end_on() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    alice.join(place(TIP, desk.log_id(), b"\7" * 32))
    desk.settle()
    assert (alice.only().entries.first, desk.end()) == (4, 3)
    written = desk.write(1)
    assert alice.only().envelopes == written


def test_another_log_at_tip_means_from_the_end_on_with_the_lineage() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    alice.join(place(TIP, OTHER_LOG))
    desk.settle()
    got = alice.only()
    assert (got.entries.first, len(got.entries.lineage)) == (4, 1)


class _Contradiction(NamedTuple):
    """A JOIN that no entry may answer, and the place of the head that does."""

    place: Callable[[Desk], Position]
    head_at: int
    births: int


_CONTRADICTIONS = {
    "another log": _Contradiction(lambda desk: place(2, OTHER_LOG), 4, 1),
    "not the chain hash": _Contradiction(lambda desk: place(2, desk.log_id(), OTHER_LOG), 2, 0),
    "not the chain hash at 0": _Contradiction(lambda desk: place(0, desk.log_id()), 0, 0),
    "beyond the end": _Contradiction(lambda desk: place(5, desk.log_id(), OTHER_LOG), 4, 0),
}


@pytest.mark.parametrize("case", _CONTRADICTIONS)
def test_a_place_that_is_not_ours_is_answered_by_the_head_that_shows_it(case: str) -> None:
    """`first` is 1, `before` the log id, the batch empty; and nothing flows from then on."""
    wanted, head_at, births = _CONTRADICTIONS[case]
    desk = Desk()
    desk.write(4)
    alice = desk.connect()
    req = alice.join(wanted(desk))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.attachment, got.entries.tip) == (req, b"", 4)
    assert (got.entries.first, got.entries.before) == (1, desk.log_id())
    assert (got.head.n, len(got.entries.lineage)) == (head_at, births)
    desk.write(1)
    assert not alice.take()


@pytest.mark.parametrize("case", _CONTRADICTIONS)
def test_a_contradiction_ends_the_subscription_there_was_until_a_new_sub_names_our_log(
    case: str,
) -> None:
    desk = Desk()
    desk.write(4)
    alice = desk.connect()
    alice.join(desk.at(4))
    desk.settle()
    alice.join(msgspec.structs.replace(_CONTRADICTIONS[case].place(desk), sub=2))
    desk.settle()
    alice.take()
    written = desk.write(1)
    assert not alice.take()
    alice.join(desk.at(4, sub=3))
    desk.settle()
    assert alice.only().envelopes == written


def test_entries_that_are_due_come_with_the_answer() -> None:
    desk = Desk()
    written = desk.write(5)
    alice = desk.connect()
    req = alice.join(desk.at(2))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.envelopes) == (req, 3, written[2:])
    assert got.entries.lineage == ()


def test_where_nothing_is_due_the_answer_is_the_present_head() -> None:
    desk = Desk()
    desk.write(5)
    alice = desk.connect()
    req = alice.join(desk.at(5))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.attachment) == (req, 6, b"")
    assert (got.entries.before, got.head.n) == (desk.log.hash_at(ROOM, 5), 5)


def test_where_the_window_is_full_the_answer_is_the_present_head() -> None:
    desk = Desk()
    desk.write(5)
    alice = desk.connect()
    alice.join(desk.at(0, window=2 * WEIGHT))
    desk.settle()
    assert alice.only().head.n == 2
    req = alice.join(desk.at(0, window=2 * WEIGHT))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.attachment) == (req, 3, b"")
    assert (got.entries.before, got.head.n) == (desk.log.hash_at(ROOM, 2), 5)


def test_a_join_in_the_turn_of_a_post_is_answered_and_misses_nothing() -> None:
    """The author's entry goes out with the answer, not instead of it."""
    desk = Desk()
    desk.write(2)
    alice, bob = desk.connect(), desk.connect()
    req = alice.join(desk.at(2))
    bob.post(1, envelope(1))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.envelopes) == (req, [envelope(1)])


def test_an_acknowledgement_in_the_turn_of_a_post_is_answered_too() -> None:
    desk = Desk()
    desk.write(2)
    alice, bob = desk.connect(), desk.connect()
    alice.join(desk.at(0))
    desk.settle()
    alice.take()
    req = alice.join(desk.at(2))
    bob.post(1, envelope(1))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.envelopes) == (req, [envelope(1)])


@pytest.mark.parametrize("sub", [1, 2], ids=["the same sub", "a new sub"])
@pytest.mark.parametrize("exists", [True, False], ids=["a room", "no room"])
def test_every_join_of_a_turn_is_answered(sub: int, *, exists: bool) -> None:
    desk = Desk()
    if exists:
        desk.write(3)
    alice = desk.connect()
    wanted = [alice.join(place()), alice.join(place(sub=sub)), alice.join(place(sub=sub))]
    desk.settle()
    taken = alice.take()
    assert [got.entries.req for got in taken] == wanted
    assert [len(got.ids) for got in taken] == ([3, 0, 0] if exists else [0, 0, 0])


def test_a_join_that_a_contradiction_follows_in_its_turn_is_answered() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    wanted = [alice.join(desk.at(3)), alice.join(place(3, OTHER_LOG, sub=2))]
    desk.settle()
    assert [got.entries.req for got in alice.take()] == wanted


def test_every_room_of_a_join_is_answered_once() -> None:
    desk = Desk()
    desk.write(1)
    desk.write(2, room=OTHER)
    alice = desk.connect()
    req = alice.join(place(), place(room=OTHER), place(room=b"no such room at.."[:16]))
    desk.settle()
    answers = {got.entries.room: (got.entries.req, len(got.ids)) for got in alice.take()}
    assert answers == {ROOM: (req, 1), OTHER: (req, 2), b"no such room at.": (req, 0)}


def test_a_room_that_stands_twice_in_a_join_is_taken_twice_in_order() -> None:
    """First a subscription at the start, then its acknowledgement: the window is the second's."""
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    req = alice.join(place(window=0), place(window=2 * WEIGHT))
    desk.settle()
    answers = alice.take()
    assert [got.entries.req for got in answers] == [req, req]
    assert [len(got.ids) for got in answers] == [2, 0]


# ---- JOIN: acknowledgements and new subscriptions ----


def test_the_same_sub_acknowledges_and_never_moves_the_cursor() -> None:
    desk = Desk()
    written = desk.write(6)
    alice = desk.connect()
    alice.join(desk.at(0, window=4 * WEIGHT))
    desk.settle()
    assert alice.only().envelopes == written[:4]
    alice.join(desk.at(3, window=4 * WEIGHT))
    desk.settle()
    got = alice.only()
    assert (got.entries.first, got.envelopes) == (5, written[4:])


def test_an_acknowledgement_names_no_log_that_is_looked_at() -> None:
    desk = Desk()
    written = desk.write(3)
    alice = desk.connect()
    alice.join(desk.at(0, window=2 * WEIGHT))
    desk.settle()
    alice.take()
    alice.join(place(2, OTHER_LOG, OTHER_LOG, window=2 * WEIGHT))
    desk.settle()
    assert alice.only().envelopes == written[2:]


@pytest.mark.parametrize("after", [0, 1, 3, TIP], ids=["back", "as it was", "beyond", "TIP"])
def test_an_acknowledgement_beyond_the_cursor_or_behind_the_former_one_frees_nothing(
    after: int,
) -> None:
    desk = Desk()
    desk.write(6)
    alice = desk.connect()
    alice.join(desk.at(1, window=WEIGHT))
    desk.settle()
    assert alice.only().head.n == 2
    req = alice.join(place(after, desk.log_id(), window=WEIGHT))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.attachment) == (req, 3, b"")


def test_an_acknowledgement_sets_the_window_wider_or_narrower() -> None:
    desk = Desk()
    written = desk.write(6)
    alice = desk.connect()
    alice.join(desk.at(0, window=WEIGHT))
    desk.settle()
    alice.take()
    alice.join(desk.at(0, window=3 * WEIGHT))
    desk.settle()
    assert alice.only().envelopes == written[1:3]
    alice.join(desk.at(2, window=WEIGHT))
    desk.settle()
    assert alice.only().attachment == b""
    alice.join(desk.at(3, window=WEIGHT))
    desk.settle()
    assert alice.only().envelopes == written[3:4]


def test_a_new_sub_sets_the_cursor() -> None:
    desk = Desk()
    written = desk.write(4)
    alice = desk.connect()
    alice.join(desk.at(0))
    desk.settle()
    alice.take()
    req = alice.join(desk.at(1, sub=2))
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.envelopes) == (req, written[1:])


def test_the_65th_room_of_a_connection_is_refused_and_the_others_are_not() -> None:
    desk = Desk()
    alice = desk.connect()
    tags = [b"%16d" % number for number in range(MAX_ROOMS_PER_CONNECTION + 1)]
    alice.join(*(place(room=tag) for tag in tags[:-1]))
    desk.settle()
    assert len(alice.take()) == MAX_ROOMS_PER_CONNECTION
    req = alice.join(place(room=tags[-1]), place(room=tags[0], sub=2))
    refuse = alice.only().refuse
    assert (refuse.code, refuse.req, refuse.k) == ("too-many-rooms", req, 0)
    assert (refuse.room, refuse.retry_after_ms > 0) == (tags[-1], True)
    desk.settle()
    assert alice.only().entries.room == tags[0]
    alice.say(Leave(alice.next_req(), tags[0]))
    alice.join(place(room=tags[-1]))
    desk.settle()
    assert alice.only().entries.room == tags[-1]


def test_joins_that_come_too_fast_are_refused_room_by_room() -> None:
    desk = Desk(Limits(control_burst=1, controls_per_s=1))
    alice = desk.connect()
    alice.join(place())
    desk.settle()
    alice.take()
    req = alice.join(place(), place(room=OTHER))
    refusals = [got.refuse for got in alice.take()]
    assert [(r.code, r.req, r.room) for r in refusals] == [
        ("rate", req, ROOM),
        ("rate", req, OTHER),
    ]
    desk.now += refusals[0].retry_after_ms / 1_000
    alice.join(place(room=OTHER))
    desk.settle()
    assert alice.only().entries.room == OTHER


def test_an_acknowledgement_that_frees_something_is_never_too_fast() -> None:
    """The window has paid for it; one that frees nothing is a control word like any other."""
    desk = Desk(Limits(control_burst=1, controls_per_s=1, post_burst=100))
    written = desk.write(6)
    alice = desk.connect()
    alice.join(desk.at(0, window=WEIGHT))
    for n in range(1, 6):
        desk.settle()
        assert alice.only().envelopes == written[n - 1 : n]
        alice.join(desk.at(n, window=WEIGHT))
    desk.settle()
    assert alice.only().envelopes == written[5:]
    alice.join(desk.at(5, window=WEIGHT))
    assert alice.only().refuse.code == "rate"


# ---- the window ----


def test_bytes_in_flight_are_4_and_the_length_of_each_envelope() -> None:
    """Exactly as many go as fit; one byte less, and it is one less."""
    for window, fit in ((3 * WEIGHT, 3), (3 * WEIGHT - 1, 2), (2 * WEIGHT, 2), (WEIGHT, 1)):
        desk = Desk()
        desk.write(6)
        alice = desk.connect()
        alice.join(desk.at(1, window=window))
        desk.settle()
        assert sum(len(got.ids) for got in alice.take()) == fit


@pytest.mark.parametrize("window", [0, 1, WEIGHT - 1])
def test_where_nothing_is_in_flight_one_entry_may_always_go(window: int) -> None:
    desk = Desk()
    written = desk.write(3)
    alice = desk.connect()
    alice.join(desk.at(0, window=window))
    for n in range(1, 4):
        desk.settle()
        assert alice.only().envelopes == written[n - 1 : n]
        alice.join(desk.at(n, window=window))
    desk.settle()
    assert alice.only().attachment == b""


def test_what_was_posted_under_way_counts_as_what_was_read() -> None:
    """Live entries fill the window like a backlog; what does not fit waits."""
    desk = Desk()
    desk.write(1)
    alice, bob = desk.connect(), desk.connect()
    alice.join(desk.at(1, window=3 * WEIGHT))
    desk.settle()
    alice.take()
    for k in range(1, 6):
        bob.post(k, envelope(k))
        desk.settle()
    assert [len(got.ids) for got in alice.take()] == [1, 1, 1]
    alice.join(desk.at(2, window=3 * WEIGHT))
    desk.settle()
    assert [got.entries.first for got in alice.take()] == [5]


def test_a_window_that_is_nearly_full_waits_for_its_acknowledgement() -> None:
    """Less than a quarter is left: nothing small is squeezed in."""
    desk = Desk()
    desk.write(5)
    alice = desk.connect()
    alice.join(desk.at(0, window=5 * WEIGHT - 1))
    desk.settle()
    assert alice.only().head.n == 4
    small_window = 4 * WEIGHT + WEIGHT // 2
    alice.join(desk.at(0, window=small_window))
    desk.settle()
    assert alice.only().attachment == b""


def test_an_entry_that_does_not_fit_what_is_left_waits() -> None:
    """More than a quarter is left, and the next envelope is longer than that."""
    desk = Desk()
    desk.write(2)
    desk.write(1, padded=4_096)
    alice = desk.connect()
    alice.join(desk.at(0, window=4 * WEIGHT))
    desk.settle()
    assert [got.head.n for got in alice.take()] == [2]
    alice.join(desk.at(2, window=4 * WEIGHT))
    desk.settle()
    assert alice.only().head.n == 3


class Reader:
    """A member that follows the room through anything, and counts as the page counts."""

    def __init__(self, desk: Desk, rng: random.Random) -> None:
        self.desk, self.rng = desk, rng
        self.member = desk.connect()
        self.seen: list[bytes] = []
        self.sub = self.acknowledged = 0
        self.subscribe()

    def subscribe(self) -> None:
        """Begin anew, from any place already seen."""
        self.sub += 1
        self.seen = self.seen[: self.rng.randint(0, len(self.seen))]
        self.acknowledge(len(self.seen))

    def acknowledge(self, upto: int | None = None) -> None:
        """JOIN, with any window: up to a place, else up to some of what was seen."""
        if upto is None:
            upto = self.rng.randint(self.acknowledged, len(self.seen))
        self.acknowledged = upto
        self.window = self.rng.choice([0, WEIGHT, 5_000, 50_000, MAX_WINDOW_BYTES])
        known = self.desk.at(upto) if self.desk.end() else place()
        self.member.join(msgspec.structs.replace(known, sub=self.sub, window=self.window))

    def take(self) -> None:
        """Entries come in order, none missing, none twice, and never more than the window."""
        for got in self.member.take():
            if isinstance(got.word, Refuse) or not got.ids:
                continue
            assert got.entries.first == len(self.seen) + 1
            self.seen += got.envelopes
            in_flight = self.seen[self.acknowledged :]
            weight = sum(4 + len(an_envelope) for an_envelope in in_flight)
            assert weight <= self.window or len(in_flight) == 1

    def leave(self) -> None:
        self.member.say(Leave(self.member.next_req(), ROOM))
        self.subscribe()


@pytest.mark.parametrize("seed", range(12))
def test_in_any_order_of_words_the_window_holds_and_nothing_is_lost(seed: int) -> None:
    """Readers acknowledge, begin anew, leave, and have full pipes, while others post."""
    rng = random.Random(seed)
    desk = Desk()
    author = desk.connect()
    readers = [Reader(desk, rng) for _ in range(4)]
    posted: list[bytes] = []
    for _ in range(600):
        reader = rng.choice(readers)
        step = rng.choice(["post", "post", "turn", "turn", "join", "again", "leave", "pipe"])
        if step == "post":
            posted.append(envelope(len(posted), rng.choice([PADDED, PADDED, 1_024, 32_768])))
            author.post(len(posted), posted[-1])
        elif step == "pipe":
            reader.member.pipe_full = rng.random() < 0.3
        elif step == "turn":
            desk.turn()
        else:
            {"join": reader.acknowledge, "again": reader.subscribe, "leave": reader.leave}[step]()
        for each in readers:
            each.take()
    for reader in readers:
        reader.member.pipe_full = False
    while any(reader.seen != posted for reader in readers):
        before = [len(reader.seen) for reader in readers]
        desk.settle()
        for reader in readers:
            reader.take()
            reader.acknowledge(len(reader.seen))
        desk.settle()
        for reader in readers:
            reader.take()
        assert before != [len(reader.seen) for reader in readers], "nothing flows any more"


# ---- PAGE ----


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1, 5, (1, 5)), (2, 3, (2, 3)), (4, 4, (4, 4)), (3, 99, (3, 5)), (5, TIP, (5, 5))],
)
def test_a_page_is_what_was_asked_for_up_to_the_end(
    first: int, last: int, expected: tuple[int, int]
) -> None:
    desk = Desk()
    written = desk.write(5)
    alice = desk.connect()
    req = alice.page(first, last)
    desk.settle()
    got = alice.only()
    assert (got.entries.req, got.entries.first, got.head.n) == (req, *expected)
    assert got.envelopes == written[expected[0] - 1 : expected[1]]
    assert got.entries.lineage == ()


def test_a_page_of_ids_holds_no_envelope() -> None:
    desk = Desk()
    written = desk.write(3)
    alice = desk.connect()
    alice.page(2, 3, ids_only=True)
    desk.settle()
    got = alice.only()
    assert (got.envelopes, got.ids) == ([], [envelope_id(each) for each in written[1:]])


def test_a_page_is_cut_where_a_batch_is_full_of_items() -> None:
    desk = Desk()
    desk.log.append([expired(MAX_BATCH_ENTRIES + 1)])
    alice = desk.connect()
    alice.page(1, TIP)
    desk.settle()
    got = alice.only()
    assert (len(got.ids), got.head.n, got.entries.tip) == (512, 512, 513)


def test_a_page_is_cut_where_a_batch_is_full_of_bytes() -> None:
    desk = Desk()
    desk.write(4, padded=BIG)
    alice = desk.connect()
    alice.page(1, 4)
    desk.settle()
    got = alice.only()
    assert (got.head.n, got.entries.tip) == (2, 4)


@pytest.mark.parametrize(
    ("room", "log", "first", "last"),
    [
        (OTHER, OTHER_LOG, 1, 1),
        (ROOM, OTHER_LOG, 1, 1),
        (ROOM, NO_LOG, 1, 1),
        (ROOM, b"", 4, 9),
        (ROOM, b"", 3, 2),
    ],
    ids=["unknown room", "other log", "no log", "beyond the end", "beyond last"],
)
def test_a_page_that_there_is_not_is_refused_no_log(
    room: bytes, log: bytes, first: int, last: int
) -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    req = alice.page(first, last, room=room, log=log)
    refuse = alice.only().refuse
    assert (refuse.code, refuse.req, refuse.room) == ("no-log", req, room)
    assert (refuse.k, refuse.retry_after_ms) == (0, 0)


def test_a_page_touches_no_cursor() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    alice.join(desk.at(3))
    alice.page(1, 2)
    desk.settle()
    alice.take()
    written = desk.write(1)
    assert (alice.only().envelopes, desk.end()) == (written, 4)


def test_the_ninth_page_that_waits_is_refused_and_the_eight_are_served() -> None:
    desk = Desk()
    desk.write(3)
    alice, bob = desk.connect(), desk.connect()
    wanted = [alice.page(1, 1) for _ in range(MAX_PAGES_WAITING)]
    ninth = alice.page(1, 1)
    refuse = alice.only().refuse
    assert (refuse.code, refuse.req, refuse.retry_after_ms > 0) == ("rate", ninth, True)
    bob.page(1, 1)
    desk.settle()
    assert [got.entries.req for got in alice.take()] == wanted
    assert bob.only().entries.first == 1
    alice.page(1, 1)
    desk.settle()
    assert alice.only().entries.first == 1


def test_pages_that_come_too_fast_are_refused() -> None:
    desk = Desk(Limits(control_burst=1, controls_per_s=1))
    desk.write(1)
    alice = desk.connect()
    alice.page(1, 1)
    req = alice.page(1, 1)
    refuse = alice.only().refuse
    assert (refuse.code, refuse.req, refuse.room) == ("rate", req, ROOM)


def test_connections_take_turns_however_many_pages_one_has_asked_for() -> None:
    desk = Desk()
    desk.write(2, padded=BIG)
    greedy, modest = desk.connect(), desk.connect()
    for _ in range(MAX_PAGES_WAITING):
        greedy.page(1, 2)
    modest.page(1, 2)
    order = _order_of_service(desk)
    assert order[:3] == [greedy.route, modest.route, greedy.route]
    assert len(order) == MAX_PAGES_WAITING + 1


def test_connections_take_turns_however_long_the_backlog_of_one_is() -> None:
    desk = Desk()
    desk.write(24, padded=BIG)
    long, others = desk.connect(), [desk.connect() for _ in range(2)]
    long.join(desk.at(0))
    for _ in range(4):
        for other in others:
            other.page(1, 1)
    order = _order_of_service(desk)
    for start in range(0, 12, 3):
        assert sorted(order[start : start + 3]) == sorted(
            [long.route, *(other.route for other in others)]
        )


def _order_of_service(desk: Desk) -> list[bytes]:
    """Who is served, until nobody waits."""
    order = []
    while desk.core.has_work:
        sends = list(desk.core.serve())
        order += [send.route for send in sends]
        desk.send(sends)
    return order


def test_one_turn_serves_a_bounded_number_of_bytes() -> None:
    desk = Desk()
    desk.write(2, padded=BIG)
    readers = [desk.connect() for _ in range(4)]
    for reader in readers:
        for _ in range(MAX_PAGES_WAITING):
            reader.page(1, 2)
    turns = []
    while desk.core.has_work:
        sends = list(desk.core.serve())
        desk.send(sends)
        turns.append(sum(len(frame) for send in sends for frame in send.frames))
    assert len(turns) > 1
    assert max(turns) < 9 * MAX_BATCH_BYTES


def test_one_turn_reads_a_bounded_number_of_entries() -> None:
    """Of those who are behind at different places; who stands where another stood costs no read."""
    desk = Desk()
    desk.write(900)
    for _ in range(5):
        desk.connect().join(desk.at(0))
    assert len(list(desk.core.serve())) > 5, "all were served from one reading"
    desk = Desk()
    desk.write(900)
    for after in range(0, 500, 100):
        desk.connect().join(desk.at(after))
    (first, second) = desk.core.serve()
    assert first.route != second.route


def test_one_turn_serves_a_bounded_number_of_readers() -> None:
    """However little each is to get: who posts meanwhile waits for the turn's end."""
    desk = Desk()
    desk.write(1)
    readers = [desk.connect() for _ in range(1_200)]
    for reader in readers:
        reader.join(desk.at(0))
    turns = []
    while desk.core.has_work:
        sends = list(desk.core.serve())
        desk.send(sends)
        turns.append(len(sends))
    assert sum(turns) == 1_200
    assert max(turns) <= 512


def test_what_a_full_pipe_shows_counts_within_the_turn() -> None:
    """Nothing more is made for it: else a turn could be spent on one pipe alone."""
    made = []
    for full in (False, True):
        desk = Desk()
        desk.write(2)
        alice = desk.connect()
        for _ in range(5):
            alice.join(desk.at(0))
        alice.pipe_full = full
        made.append(0)
        for send in desk.core.serve():
            made[-1] += 1
            desk.send([send])
    assert made == [5, 1]


def test_what_came_for_nothing_is_counted_until_the_turn_ends() -> None:
    """By that number a turn ends in time, whatever it is flooded with."""
    desk = Desk(Limits(cast_burst=1, casts_per_s=1))
    desk.write(1)
    alice, known, join = desk.connect(), envelope(9), Join(1, (desk.at(0),))
    words: list[tuple[ToBroker, bytes | None, int]] = [
        (join, None, 0),
        (Post(ROOM, 1), known, 0),
        (Post(ROOM, 3), envelope(10), 1),
        (Post(ROOM, 1), known, 2),
        (Post(ROOM, 1), envelope(11), 3),
        (Post(ROOM, 2), bytes(9), 4),
        (Cast(ROOM), cast(1), 4),
        (Cast(ROOM), cast(2), 5),
        (Cast(ROOM), bytes(9), 6),
        (Hello(2, 1, "again"), None, 7),
        (join, None, 7),
    ]
    for word, attachment, counted in words:
        alice.say(word, attachment)
        assert desk.core.fruitless == counted, word
    desk.commit()
    assert desk.core.fruitless == 0


# ---- POST and STORED ----


def test_a_post_is_answered_by_a_receipt_that_folds_into_a_signed_head() -> None:
    desk = Desk()
    desk.write(2)
    alice = desk.connect()
    alice.post(1, envelope(1))
    assert not alice.take(), "nothing is said before it is durable"
    desk.settle()
    got = alice.only()
    assert got.stored.k == 1
    assert (got.stored.first, got.head.n) == (3, 3)
    assert got.stored.before == desk.log.hash_at(ROOM, 2)
    assert unpack_ids(got.attachment) == [envelope_id(envelope(1))]
    (entry,) = desk.log.read(ROOM, 3, 3)
    assert (entry.envelope, entry.arrived_ms) == (envelope(1), desk.wall_ms)


def test_a_room_exists_from_its_first_post_on() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.join(place())
    desk.settle()
    assert desk.log.tip(ROOM) is None
    alice.post(1, envelope(1))
    desk.settle()
    tip = desk.log.tip(ROOM)
    assert tip is not None
    (genesis,) = read_lineage(tip.births, ROOM, KEY.public)
    assert (genesis.parent, genesis.parent_n, genesis.log) == (NO_LOG, 0, tip.log)


def test_posts_of_a_turn_share_a_receipt_and_authors_get_one_each() -> None:
    """From an author's first entry to the end of the turn: whose entries stand between is seen."""
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    alice.post(1, envelope(1))
    bob.post(1, envelope(2))
    alice.post(2, envelope(3))
    desk.settle()
    mine, his = alice.only(), bob.only()
    ids = [envelope_id(envelope(n)) for n in (1, 2, 3)]
    assert (mine.stored.k, mine.stored.first, unpack_ids(mine.attachment)) == (2, 1, ids)
    assert (his.stored.k, his.stored.first, unpack_ids(his.attachment)) == (1, 2, ids[1:])


def test_numbers_count_per_connection_and_room() -> None:
    desk = Desk()
    alice, bob = desk.connect(b"one access key"), desk.connect(b"one access key")
    alice.post(1, envelope(1))
    alice.post(1, envelope(2), OTHER)
    bob.post(1, envelope(3))
    alice.post(2, envelope(4), OTHER)
    desk.settle()
    assert {got.stored.room: got.stored.k for got in alice.take()} == {ROOM: 1, OTHER: 2}
    assert bob.only().stored.k == 1


def test_numbers_begin_anew_on_a_new_connection() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.post(1, envelope(1))
    desk.settle()
    desk.core.closed(alice.route)
    again = desk.connect()
    again.post(1, envelope(2))
    desk.settle()
    assert (again.only().stored.k, desk.end()) == (1, 2)


def test_a_number_beyond_the_next_is_dropped_without_a_word() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.post(2, envelope(2))
    alice.post(1, envelope(1))
    alice.post(3, envelope(3))
    desk.settle()
    got = alice.only()
    assert (got.stored.k, desk.end()) == (1, 1)
    assert desk.core.counts["post out of turn"] == 2


def test_nothing_overtakes_a_post_that_was_refused() -> None:
    """Go-back-N: the number stays, later ones are dropped, and from it on they are taken again."""
    desk = Desk()
    alice = desk.connect()
    alice.post(1, envelope(1))
    alice.post(2, envelope(2, version=2))
    alice.post(3, envelope(3))
    refuse = alice.only().refuse
    assert (refuse.code, refuse.k, refuse.req, refuse.room) == ("bad-envelope", 2, 0, ROOM)
    desk.settle()
    assert (alice.only().stored.k, desk.end()) == (1, 1)
    alice.post(2, envelope(4))
    alice.post(3, envelope(3))
    desk.settle()
    assert alice.only().stored.k == 3
    kept = [entry.envelope for entry in desk.log.read(ROOM, 1, 3)]
    assert kept == [envelope(1), envelope(4), envelope(3)]


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (envelope(1)[:-1], "length"),
        (envelope(1, 511), "length"),
        (b"", "length"),
        (envelope(1, 513), "length"),
        (envelope(1, version=2), "version"),
        (envelope(1, suite=0), "version"),
        (envelope(1, epoch=1), "version"),
        (cast(1), "class"),
    ],
    ids=["a byte less", "short", "nothing", "not padmé", "version", "suite", "epoch", "class"],
)
def test_a_post_that_is_no_envelope_is_refused_for_good(bad: bytes, check: str) -> None:
    desk = Desk()
    alice = desk.connect()
    alice.post(1, bad)
    refuse = alice.only().refuse
    assert (refuse.code, refuse.k, refuse.retry_after_ms) == ("bad-envelope", 1, 0)
    assert check in refuse.text
    desk.settle()
    assert desk.end() == 0


def test_the_longest_envelope_is_taken() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.post(1, envelope(1, 67_584))
    desk.settle()
    assert alice.only().stored.k == 1


def test_an_envelope_already_known_gets_a_receipt_of_its_own_place() -> None:
    desk = Desk()
    written = desk.write(3)
    alice = desk.connect()
    alice.post(1, written[1])
    alice.post(2, envelope(1))
    alice.post(3, written[0])
    alice.post(4, written[1])
    desk.settle()
    receipts = [(got.stored.first, got.head.n, got.stored.k) for got in alice.take()]
    assert receipts == [(4, 4, 4), (2, 2, 4), (1, 1, 4)]
    assert desk.end() == 4


@pytest.mark.parametrize("known_first", [True, False])
def test_the_last_envelope_of_the_log_posted_again_is_known_and_not_new(
    *, known_first: bool
) -> None:
    desk = Desk()
    written = desk.write(2)
    alice, bob = desk.connect(), desk.connect()
    bob.post(1, written[1])
    desk.settle()
    assert (bob.only().stored.first, desk.end()) == (2, 2)
    posts = [written[1], envelope(1)] if known_first else [envelope(1), written[1]]
    for k, an_envelope in enumerate(posts, 1):
        alice.post(k, an_envelope)
    desk.settle()
    assert [(got.stored.first, got.head.n) for got in alice.take()] == [(3, 3), (2, 2)]


def test_one_envelope_posted_by_two_in_a_turn_has_one_place() -> None:
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    alice.post(1, envelope(1))
    bob.post(1, envelope(1))
    desk.settle()
    assert (alice.only().head, desk.end()) == (bob.only().head, 1)


def test_a_lower_number_is_answered_like_a_first_one_if_its_envelope_is_in_the_log() -> None:
    desk = Desk()
    alice = desk.connect()
    for k in (1, 2, 3):
        alice.post(k, envelope(k))
    desk.settle()
    alice.take()
    alice.post(2, envelope(2))
    desk.settle()
    got = alice.only()
    assert (got.stored.first, got.head.n, got.stored.k) == (2, 2, 3)
    alice.post(4, envelope(4))
    desk.settle()
    assert (alice.only().stored.k, desk.end()) == (4, 4)


@pytest.mark.parametrize("other", [envelope(9), b"no envelope"], ids=["new", "no envelope"])
def test_a_lower_number_is_else_dropped(other: bytes) -> None:
    desk = Desk()
    alice = desk.connect()
    alice.post(1, envelope(1))
    desk.settle()
    alice.take()
    alice.post(1, other)
    desk.settle()
    assert not alice.take()
    assert desk.end() == 1


def test_posts_that_come_too_fast_are_refused_until_later() -> None:
    desk = Desk(Limits(post_burst=3, posts_per_s=2))
    alice, bob = desk.connect(), desk.connect()
    for k in range(1, 6):
        alice.post(k, envelope(k))
    refuse = alice.only().refuse
    assert (refuse.code, refuse.k, refuse.room) == ("rate", 4, ROOM)
    bob.post(1, envelope(11))
    desk.now += refuse.retry_after_ms / 1_000
    alice.post(4, envelope(4))
    alice.post(5, envelope(5))
    desk.settle()
    assert (alice.only().stored.k, bob.only().stored.k) == (5, 1)


def test_posts_are_counted_per_access_key_whatever_the_connection() -> None:
    desk = Desk(Limits(post_burst=3, posts_per_s=1))
    first, second = desk.connect(b"one access key"), desk.connect(b"one access key")
    first.post(1, envelope(1))
    first.post(2, envelope(2))
    second.post(1, envelope(3))
    second.post(2, envelope(4))
    assert second.only().refuse.code == "rate"


def test_one_address_may_use_four_times_as_much() -> None:
    desk = Desk(Limits(post_burst=2, posts_per_s=1))
    crowd = [desk.connect(address="198.51.100.7") for _ in range(5)]
    stranger = desk.connect(address="198.51.100.8")
    for member in (*crowd, stranger):
        member.post(1, envelope(2 * int.from_bytes(member.route, "big")))
        member.post(2, envelope(2 * int.from_bytes(member.route, "big") + 1))
    desk.settle()
    assert all(isinstance(member.only().word, Stored) for member in (*crowd[:4], stranger))
    assert [got.refuse.code for got in crowd[4].take()] == ["rate"]


@pytest.mark.parametrize(("room_bytes", "fit"), [(9 * WEIGHT, 9), (9 * WEIGHT - 1, 8)])
@pytest.mark.parametrize("turns", [True, False], ids=["turn by turn", "in one turn"])
def test_a_room_that_is_full_takes_no_more(room_bytes: int, fit: int, *, turns: bool) -> None:
    """To the byte, as they travel; what is known needs no room, and other rooms have theirs."""
    desk = Desk(Limits(room_bytes=room_bytes))
    alice = desk.connect()
    for k in range(1, fit + 2):
        alice.post(k, envelope(k))
        if turns:
            desk.settle()
    desk.settle()
    (refuse,) = (got.refuse for got in alice.take() if isinstance(got.word, Refuse))
    assert (refuse.code, refuse.k, refuse.room) == ("room-full", fit + 1, ROOM)
    assert refuse.retry_after_ms > 0
    assert desk.end() == fit
    alice.post(fit + 1, envelope(1))
    alice.post(1, envelope(0), OTHER)
    desk.settle()
    assert [got.head.n for got in alice.take()] == [1, 1]


def test_a_full_room_has_room_again_for_what_it_no_longer_keeps() -> None:
    desk = Desk(Limits(room_bytes=3 * WEIGHT, keep_days=1))
    desk.write(3)
    alice = desk.connect()
    alice.post(1, envelope(1))
    assert alice.only().refuse.code == "room-full"
    desk.wall_ms += 2 * DAY_MS
    expire_all(desk)
    for k in range(1, 5):
        alice.post(k, envelope(k))
    assert alice.only().refuse.k == 4
    desk.settle()
    assert (alice.only().stored.k, desk.end()) == (3, 6)


def test_an_access_key_makes_only_so_many_rooms() -> None:
    """Those of this turn count; rooms of others do not, and may be spoken in."""
    desk = Desk(Limits(rooms_per_access_key=3))
    alice, bob = desk.connect(), desk.connect()
    rooms = [b"%16d" % number for number in range(6)]
    alice.post(1, envelope(1), rooms[0])
    desk.settle()
    bob.post(1, envelope(2), rooms[1])
    alice.take()
    for room in rooms[2:4]:
        alice.post(1, envelope(3), room)
    alice.post(1, envelope(4), rooms[4])
    refuse = alice.only().refuse
    assert (refuse.code, refuse.k, refuse.room) == ("too-many-rooms", 1, rooms[4])
    assert refuse.retry_after_ms > 0
    alice.post(1, envelope(5), rooms[1])
    desk.settle()
    bob.take()
    assert sorted(got.stored.room for got in alice.take()) == rooms[1:4]
    bob.post(1, envelope(6), rooms[5])
    desk.settle()
    assert bob.only().stored.room == rooms[5]


def test_a_broker_has_only_so_many_rooms_also_those_it_had_at_its_start() -> None:
    desk = Desk(Limits(rooms_per_broker=3))
    rooms = [b"%16d" % number for number in range(4)]
    desk.write(1, room=rooms[0])
    again = Desk(Limits(rooms_per_broker=3), desk.log)
    people = [again.connect() for _ in range(3)]
    for person, room in zip(people, rooms[1:], strict=True):
        person.post(1, envelope(1), room)
    assert people[2].only().refuse.code == "too-many-rooms"
    again.settle()
    people[1].take()
    people[1].post(1, envelope(2), rooms[3])
    assert people[1].only().refuse.code == "too-many-rooms"


def test_a_damaged_room_is_told_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else of it turns out to be damaged later."""
    desk = Desk()
    for n in (1, 2):
        assert (
            desk.core.failed(RoomDamaged(ROOM, n, path="log.db", reason="it does not hold")) == []
        )
    assert len(caplog.records) == 1
    assert desk.core.gauges()["damaged_rooms"] == 1


def test_what_the_store_cannot_take_is_refused_and_taken_later() -> None:
    """Each author goes back to its first number of the turn; nobody has heard of the entries."""
    desk = Desk()
    desk.write(1)
    alice, bob, reader = desk.connect(), desk.connect(), desk.connect()
    reader.join(desk.at(1))
    alice.post(1, envelope(1))
    desk.settle()
    alice.take()
    reader.take()
    desk.disk_full = True
    alice.post(2, envelope(2))
    alice.post(3, envelope(3))
    bob.post(1, envelope(4), OTHER)
    desk.settle()
    refusals = [alice.only().refuse, bob.only().refuse]
    assert [(r.code, r.k, r.room) for r in refusals] == [
        ("storage", 2, ROOM),
        ("storage", 1, OTHER),
    ]
    assert all(refuse.retry_after_ms > 0 for refuse in refusals)
    assert not reader.take()
    assert not desk.is_full()
    desk.disk_full = False
    alice.post(3, envelope(3))
    desk.settle()
    assert not alice.take()
    alice.post(2, envelope(2))
    alice.post(3, envelope(3))
    bob.post(1, envelope(4), OTHER)
    desk.settle()
    assert (alice.only().stored.k, bob.only().stored.k) == (3, 1)
    assert reader.only().envelopes == [envelope(2), envelope(3)]


def test_a_lower_number_in_a_turn_that_was_not_stored_moves_nothing_back() -> None:
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    for k in (1, 2, 3):
        alice.post(k, envelope(k))
    desk.settle()
    alice.take()
    desk.disk_full = True
    alice.post(1, envelope(1))
    bob.post(1, envelope(9))
    desk.settle()
    assert alice.only().refuse.k == 1
    desk.disk_full = False
    alice.post(4, envelope(4))
    desk.settle()
    assert (alice.only().stored.k, desk.end()) == (4, 4)


def test_who_is_gone_when_the_turn_ends_is_told_nothing() -> None:
    """What it posted is stored all the same, or not, if the store could not take it."""
    desk = Desk()
    for disk_full, stored in ((True, 0), (False, 1)):
        desk.disk_full = disk_full
        alice = desk.connect()
        alice.post(1, envelope(1))
        desk.core.closed(alice.route)
        desk.settle()
        assert not alice.take()
        assert desk.end() == stored


def test_a_turn_is_full_before_its_entries_are_more_than_a_batch() -> None:
    desk = Desk()
    alice, reader = desk.connect(), desk.connect()
    reader.join(place())
    desk.settle()
    reader.take()
    assert not desk.is_full()
    for k in range(1, MAX_BATCH_ENTRIES + 1):
        alice.post(k, envelope(k, 512))
        if desk.is_full():
            break
    assert desk.is_full()
    desk.settle()
    assert not desk.is_full()
    assert len(reader.only().attachment) > MAX_BATCH_BYTES - 2 * MAX_ENVELOPE_BYTES


# ---- CAST and LEAVE ----


def test_a_cast_goes_to_every_other_connection_of_the_room_and_nowhere_else() -> None:
    desk = Desk()
    desk.write(1)
    alice, bob, carol, outsider, elsewhere = (desk.connect() for _ in range(5))
    for member in (alice, bob, carol):
        member.join(desk.at(1))
    elsewhere.join(place(room=OTHER))
    desk.settle()
    for member in (alice, bob, carol, elsewhere):
        member.take()
    alice.say(Cast(ROOM), cast(1))
    for member in (bob, carol):
        assert member.only() == (Cast(ROOM), cast(1))
    assert not alice.take()
    outsider.say(Cast(ROOM), cast(2))
    for member in (alice, bob, carol):
        assert member.only().attachment == cast(2)
    outsider.say(Cast(b"nobody's room..."), cast(3))
    desk.settle()
    assert not any(member.take() for member in (alice, bob, carol, outsider, elsewhere))
    assert desk.end() == 1


@pytest.mark.parametrize(
    "bad",
    [cast(1)[:-1], envelope(1), envelope(1, envelope_class=1, version=2), b""],
    ids=["length", "class 0", "version", "nothing"],
)
def test_a_cast_that_is_no_envelope_of_class_1_is_dropped(bad: bytes) -> None:
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    bob.join(place())
    desk.settle()
    bob.take()
    alice.say(Cast(ROOM), bad)
    desk.settle()
    assert not alice.take()
    assert not bob.take()
    assert desk.core.counts["malformed"] == 1


def test_casts_that_come_too_fast_are_dropped_and_never_refused() -> None:
    desk = Desk(Limits(cast_burst=2, casts_per_s=1))
    alice, bob = desk.connect(), desk.connect()
    bob.join(place())
    desk.settle()
    bob.take()
    for number in range(5):
        alice.say(Cast(ROOM), cast(number))
    assert [got.attachment for got in bob.take()] == [cast(0), cast(1)]
    desk.now += 1
    alice.say(Cast(ROOM), cast(5))
    assert bob.only().attachment == cast(5)
    assert not alice.take()


def test_a_cast_is_dropped_where_the_pipe_is_not_free() -> None:
    desk = Desk()
    alice, bob, carol = desk.connect(), desk.connect(), desk.connect()
    for member in (bob, carol):
        member.join(place())
    desk.settle()
    bob.take()
    carol.take()
    bob.pipe_full = True
    alice.say(Cast(ROOM), cast(1))
    bob.pipe_full = False
    desk.settle()
    assert not bob.take()
    assert carol.only().attachment == cast(1)


def test_leave_ends_a_subscription_and_is_not_answered() -> None:
    desk = Desk()
    desk.write(1)
    alice, bob = desk.connect(), desk.connect()
    for member in (alice, bob):
        member.join(desk.at(1))
    desk.settle()
    alice.take()
    bob.take()
    alice.say(Leave(7, ROOM))
    written = desk.write(1)
    bob.say(Cast(ROOM), cast(1))
    assert not alice.take()
    assert bob.only().envelopes == written
    bob.say(Leave(8, ROOM))
    desk.write(1)
    assert not bob.take()


def test_leave_before_an_answer_lets_no_entry_go() -> None:
    desk = Desk()
    desk.write(3)
    alice = desk.connect()
    alice.join(desk.at(0))
    alice.say(Leave(7, ROOM))
    desk.settle()
    assert not any(got.ids for got in alice.take())


def test_leaving_a_room_one_is_not_in_does_nothing() -> None:
    desk = Desk()
    alice = desk.connect()
    alice.say(Leave(7, ROOM))
    alice.join(place(room=OTHER))
    alice.say(Leave(8, ROOM))
    desk.settle()
    assert alice.only().entries.room == OTHER


def test_leave_is_never_refused_for_its_rate() -> None:
    """It has no answer, and who leaves must not go on being sent entries."""
    desk = Desk(Limits(control_burst=1, controls_per_s=1, post_burst=100))
    alice = desk.connect()
    alice.join(place())
    desk.settle()
    alice.take()
    alice.say(Leave(7, ROOM))
    desk.write(1)
    assert not alice.take()


# ---- connections end, pipes are full, the broker ends ----


def test_a_connection_that_is_gone_gets_nothing_and_others_get_all() -> None:
    desk = Desk()
    desk.write(3)
    alice, bob = desk.connect(), desk.connect()
    for member in (alice, bob):
        member.join(desk.at(1))
        member.page(1, 1)
    desk.core.closed(alice.route)
    desk.core.closed(alice.route)
    assert not desk.core.knows(alice.route)
    desk.settle()
    assert not alice.take()
    assert [len(got.ids) for got in bob.take()] == [2, 1]
    desk.write(1)
    assert bob.only().head.n == 4


def test_entries_that_could_not_be_sent_are_sent_later_and_in_order() -> None:
    desk = Desk()
    written = desk.write(2)
    alice, bob, author = desk.connect(), desk.connect(), desk.connect()
    for member in (alice, bob):
        member.join(desk.at(0))
    desk.settle()
    alice.take()
    bob.take()
    alice.pipe_full = True
    for k in (1, 2):
        author.post(k, envelope(k))
        desk.settle()
    assert desk.is_stuck()
    assert not alice.take()
    assert [len(got.ids) for got in bob.take()] == [1, 1]
    alice.pipe_full = False
    desk.settle()
    assert not desk.is_stuck()
    assert [each for got in alice.take() for each in got.envelopes] == [envelope(1), envelope(2)]
    assert len(written) == 2


def test_an_answer_that_could_not_be_sent_comes_later_with_its_lineage() -> None:
    desk = Desk()
    written = desk.write(4, padded=BIG)
    alice = desk.connect()
    alice.pipe_full = True
    req = alice.join(place())
    desk.settle()
    alice.pipe_full = False
    desk.settle()
    got = alice.take()
    assert [each for one in got for each in one.envelopes] == written
    assert len(got[0].envelopes) == 1, "one is tried first"
    told = [(one.entries.req, len(one.entries.lineage)) for one in got]
    assert told == [(req, 1), (0, 0), (0, 0)]


def test_an_answer_is_not_lost_where_more_of_its_turn_could_not_be_sent() -> None:
    """Alice's window is nearly full, so she is only answered; then bob has the same batch read for
    him, and it fits what alice has left: both go into a pipe that is full.
    """
    desk = Desk()
    desk.write(7)
    alice, bob = desk.connect(), desk.connect()
    alice.join(desk.at(0, window=6 * WEIGHT + WEIGHT // 2))
    desk.settle()
    assert alice.only().head.n == 6
    alice.pipe_full = True
    req = alice.join(desk.at(0, window=7 * WEIGHT))
    bob.join(desk.at(6))
    desk.settle()
    alice.pipe_full = False
    desk.settle()
    taken = alice.take()
    assert taken[0].entries.req == req
    assert sum(len(got.ids) for got in taken) == 1


def test_full_pipes_leave_the_line_so_that_nobody_works_for_them_without_end() -> None:
    """Each is behind by more than a turn hands out: the rest must not be tried at once again."""
    desk = Desk()
    desk.write(12, padded=BIG)
    readers = [desk.connect() for _ in range(20)]
    for reader in readers:
        reader.pipe_full = True
        reader.join(desk.at(0))
    for _ in range(30):
        desk.turn()
    assert desk.is_stuck()
    for _ in range(20):  # until it is time to try again
        desk.send(desk.core.serve())
    assert not desk.core.has_work
    for reader in readers:
        reader.pipe_full = False
    for _ in range(200):
        desk.turn()
    assert not desk.is_stuck()
    assert {sum(len(got.ids) for got in reader.take()) for reader in readers} == {12}


def test_of_what_is_tried_one_entry_is_read() -> None:
    desk = Desk()
    desk.write(40)
    alice = desk.connect()
    alice.pipe_full = True
    alice.join(desk.at(0))
    desk.turn()
    alice.pipe_full = False
    desk.turn()
    assert [len(got.ids) for got in alice.take()] == [1]
    desk.turn()
    assert [len(got.ids) for got in alice.take()] == [39]


def test_a_pipe_with_many_rooms_is_tried_as_often_as_one_with_a_single_room() -> None:
    desk = Desk()
    rooms = [b"%16d" % number for number in range(60)]
    for room in rooms:
        desk.write(2, room=room)
    desk.write(2)
    crowd = [desk.connect() for _ in range(8)]
    for greedy in crowd:
        greedy.pipe_full = True
        greedy.join(*(place(room=room) for room in rooms))
    desk.settle()
    modest = desk.connect()
    modest.pipe_full = True
    modest.join(desk.at(0))
    desk.settle()
    modest.pipe_full = False
    for _ in range(3):
        desk.turn()
    assert sum(len(got.ids) for got in modest.take()) == 2
    crowd[0].pipe_full = False
    for _ in range(4):
        desk.turn()
    assert sum(len(got.ids) for got in crowd[0].take()) == 120


def test_who_closes_its_window_while_its_pipe_is_full_is_answered_when_it_reads() -> None:
    """And the room beside it goes on; until then nobody works for either."""
    desk = Desk()
    desk.write(3)
    desk.write(3, room=OTHER)
    alice = desk.connect()
    alice.join(desk.at(0), place(room=OTHER))
    alice.pipe_full = True
    desk.settle()
    alice.join(place(room=OTHER, window=0))
    for _ in range(6):
        desk.turn()
        assert not desk.core.has_work
    assert desk.is_stuck()
    alice.pipe_full = False
    desk.settle()
    desk.settle()
    assert {got.entries.room for got in alice.take()} == {ROOM, OTHER}
    assert not desk.is_stuck()


def test_what_could_not_be_sent_to_who_has_left_since_is_forgotten() -> None:
    desk = Desk()
    desk.write(1)
    alice = desk.connect()
    alice.join(desk.at(0))
    desk.commit()
    (send,) = desk.core.serve()
    alice.say(Leave(7, ROOM))
    desk.core.unsent(send)
    assert not desk.is_stuck()
    desk.core.closed(alice.route)
    desk.settle()


def test_who_leaves_with_a_full_pipe_is_not_served_again() -> None:
    desk = Desk()
    desk.write(1)
    alice = desk.connect()
    alice.pipe_full = True
    alice.join(desk.at(0))
    desk.settle()
    assert desk.is_stuck()
    alice.say(Leave(7, ROOM))
    assert not desk.is_stuck()
    alice.pipe_full = False
    desk.settle()
    assert not alice.take()


def test_at_its_end_the_broker_tells_everybody() -> None:
    desk = Desk()
    alice, stranger = desk.connect(), desk.connect(hello=False)
    desk.send(desk.core.farewell())
    for member in (alice, stranger):
        refuse = member.only().refuse
        assert (refuse.code, refuse.req, refuse.k, refuse.room) == ("stopping", 0, 0, b"")
        assert refuse.retry_after_ms > 0


def test_other_rates_hold_from_then_on() -> None:
    """And are told to whoever says HELLO."""
    desk = Desk(Limits(post_burst=1, posts_per_s=1))
    alice = desk.connect()
    alice.post(1, envelope(1))
    alice.post(2, envelope(2))
    assert alice.only().refuse.code == "rate"
    desk.core.change_limits(Limits(post_burst=3, posts_per_s=2))
    for k in (2, 3, 4, 5):
        alice.post(k, envelope(k))
    assert alice.only().refuse.k == 5
    alice.say(Hello(9, 1, "again"))
    ready = alice.only().word
    assert isinstance(ready, Ready)
    assert (ready.post_burst, ready.post_rate) == (3, 2)


def test_who_may_no_longer_be_here_is_forgotten_and_others_are_not() -> None:
    desk = Desk()
    desk.write(1)
    alice, bob = desk.connect(b"alice's access key"), desk.connect(b"bob's access key")
    for member in (alice, bob):
        member.join(desk.at(1))
    desk.settle()
    alice.take()
    bob.take()
    desk.core.drop_all_but(frozenset())
    assert desk.core.knows(alice.route)
    desk.core.drop_all_but(frozenset([b"bob's access key"]))
    assert not desk.core.knows(alice.route)
    assert desk.core.knows(bob.route)
    desk.write(1)
    assert not alice.take()
    assert bob.only().head.n == 2


def test_what_was_seen_is_counted() -> None:
    """Word by word, and what became of it; nothing of whom or what."""
    desk = Desk(Limits(cast_burst=1, casts_per_s=1))
    alice, bob = desk.connect(), desk.connect()
    bob.join(place())
    for number in range(3):
        alice.say(Cast(ROOM), cast(number))
    for k in (1, 2):
        alice.post(k, envelope(k))
        alice.page(1, 1, room=OTHER, log=OTHER_LOG)
    bob.pipe_full = True
    desk.settle()
    alice.say(Cast(ROOM), cast(9))
    expected = {"Hello": 2, "Join": 1, "Cast": 4, "Post": 2, "Page": 2, "stored": 2}
    expected |= {
        "cast too fast": 3,
        "refused no-log": 2,
        "pipe full": desk.core.counts["pipe full"],
    }
    assert desk.core.counts == expected
    assert desk.core.counts["pipe full"] > 0


def test_what_there_is_now_is_told_in_numbers() -> None:
    desk = Desk()
    alice, bob = desk.connect(), desk.connect()
    alice.post(1, envelope(1))
    bob.post(1, envelope(2), OTHER)
    desk.settle()
    assert desk.core.gauges() == {"connections": 2, "rooms": 2, "damaged_rooms": 0}
    desk.core.closed(bob.route)
    assert desk.core.gauges() == {"connections": 1, "rooms": 2, "damaged_rooms": 0}


# ---- lineage, expired entries, heads ----


@pytest.mark.parametrize("births", [2, 16])
def test_a_log_that_goes_on_from_others_comes_with_all_their_births(births: int) -> None:
    desk = Desk()
    desk.log.append([expired(0, births)])
    alice = desk.connect()
    alice.join(place())
    desk.write(1)
    (got,) = (got for got in alice.take() if got.ids)
    assert len(read_lineage(got.entries.lineage, ROOM, KEY.public)) == births


def test_entries_no_longer_kept_are_sent_as_bare_ids_under_heads_that_say_so() -> None:
    """A head cannot say that more has expired than it covers."""
    desk = Desk()
    desk.log.append([expired(3)])
    written = desk.write(2)
    alice = desk.connect()
    alice.page(1, 5)
    alice.page(1, 2)
    desk.settle()
    whole, part = alice.take()
    assert (whole.envelopes, len(whole.ids), whole.head.expired) == (written, 5, 3)
    assert (part.envelopes, len(part.ids), part.head.expired) == ([], 2, 2)


def test_what_has_expired_is_told_by_heads_and_counted() -> None:
    desk = Desk(Limits(keep_days=1))
    desk.write(2)
    desk.wall_ms += 2 * DAY_MS
    written = desk.write(1)
    expire_all(desk)
    assert desk.core.counts["expired"] == 2
    alice = desk.connect()
    alice.join(desk.at(0))
    desk.settle()
    got = alice.only()
    assert (got.envelopes, len(got.ids), got.head.expired) == (written, 3, 2)


def test_nothing_expires_unless_a_setting_says_so() -> None:
    desk = Desk(Limits())
    written = desk.write(2)
    desk.wall_ms += 100_000 * DAY_MS
    expire_all(desk)
    alice = desk.connect()
    alice.join(desk.at(0))
    desk.settle()
    assert (alice.only().envelopes, desk.core.counts["expired"]) == (written, 0)


def test_what_was_sent_whole_is_not_sent_again_once_it_has_expired() -> None:
    desk = Desk(Limits(keep_days=1))
    written = desk.write(2)
    alice, bob = desk.connect(), desk.connect()
    alice.join(desk.at(0))
    desk.settle()
    assert alice.only().envelopes == written
    desk.wall_ms += 2 * DAY_MS
    expire_all(desk)
    bob.join(desk.at(0))
    desk.settle()
    got = bob.only()
    assert (got.envelopes, len(got.ids), got.head.expired) == ([], 2, 2)


def test_bytes_in_flight_count_an_expired_envelope_as_it_was_posted() -> None:
    """The window is in envelopes as they were; what is left of them is shorter."""
    desk = Desk(Limits(keep_days=1))
    desk.write(1)
    desk.write(1, padded=4_096)
    desk.write(4)
    desk.wall_ms += 2 * DAY_MS
    expire_all(desk)
    alice, bob = desk.connect(), desk.connect()
    alice.join(desk.at(0, window=4 * WEIGHT))
    bob.join(desk.at(2, window=2 * WEIGHT))
    desk.settle()
    assert alice.only().head.n == 1, "the next is longer than what is left"
    assert bob.only().head.n == 4


def test_heads_of_more_rooms_than_are_remembered_are_right() -> None:
    log = MemoryLog()
    heads = Heads(log, KEY)
    rooms = [b"%16d" % number for number in range(4_200)]
    for room in rooms:
        genesis = Genesis(room, KEY.public, bytes(16))
        log.append([Addition(room, [], genesis.log, (KEY.sign_birth(genesis),))])
    first = [heads.at(room, 0) for room in rooms]
    assert [heads.at(room, 0) for room in rooms] == first
    for room in rooms[::1_000]:
        assert head_holds(Head.unpack(heads.at(room, 0)), room, KEY.public)


def test_a_reader_who_takes_one_entry_at_a_time_gets_more_than_the_batches_remembered() -> None:
    desk = Desk()
    written = desk.write(300)
    alice, bob = desk.connect(), desk.connect()
    for n in range(300):
        alice.join(desk.at(n, window=0))
        desk.settle()
        assert alice.only().envelopes == written[n : n + 1]
    bob.join(desk.at(0))
    desk.settle()
    assert [each for got in bob.take() for each in got.envelopes] == written


# ---- a room whose store is damaged ----

_OF_THE_THIRD = "WHERE place >> 40 = 1 AND place & 255 = 3"
HARM = {
    "an envelope": f"UPDATE entries SET envelope = zeroblob(length(envelope)) {_OF_THE_THIRD}",
    "an envelope gone": f"UPDATE entries SET envelope = NULL {_OF_THE_THIRD}",
    "an id": f"UPDATE entries SET id = zeroblob(32) {_OF_THE_THIRD}",
    "a short id": f"UPDATE entries SET id = x'00' {_OF_THE_THIRD}",
    "a hash": f"UPDATE entries SET hash = zeroblob(32) {_OF_THE_THIRD}",
    "an entry gone": f"DELETE FROM entries {_OF_THE_THIRD}",
    "an entry behind the end": "INSERT INTO entries VALUES (1 << 40 | 99, x'', x'', 0, 0, 0, x'')",
    "where it ends": "UPDATE rooms SET n = n - 1 WHERE room = 1",
    "where it would end": "UPDATE rooms SET n = n + 1 WHERE room = 1",
    "the last hash": "UPDATE rooms SET hash = zeroblob(32) WHERE room = 1",
    "what it weighs": "UPDATE rooms SET weight = -9 WHERE room = 1",
    "what has expired": "UPDATE rooms SET expired = 2 WHERE room = 1",
    "more than all has expired": "UPDATE rooms SET expired = 9 WHERE room = 1",
    "its birth": "UPDATE rooms SET births = zeroblob(200) WHERE room = 1",
    "no birth": "UPDATE rooms SET births = x'' WHERE room = 1",
    "which log it is": "UPDATE rooms SET log = zeroblob(32) WHERE room = 1",
}


@contextmanager
def harmed(folder: Path, statement: str, allowed: Limits = FREE) -> Iterator[Desk]:
    """A desk over a file whose first room, ROOM, was changed behind its back; OTHER is whole."""
    with closing(GuardedLog(folder / "log.db")) as log:
        desk = Desk(log=log)
        desk.write(5)
        desk.write(5, room=OTHER)
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as database:
        assert database.execute(statement).rowcount == 1
    with closing(GuardedLog(folder / "log.db")) as log:
        yield Desk(allowed, log)


@pytest.mark.parametrize("statement", HARM.values(), ids=HARM)
def test_a_damaged_room_is_closed_and_no_other_room_notices(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    """Whoever reads all of it is refused; nothing of it is signed; the log says so once."""
    with harmed(tmp_path, statement) as desk:
        reader, author = desk.connect(), desk.connect()
        req = reader.join(place(), place(room=OTHER))
        desk.settle()
        author.post(1, envelope(1), OTHER)
        author.post(1, envelope(2))
        desk.settle()
        got = reader.take()
        refused = [one.refuse for one in got if isinstance(one.word, Refuse)]
        assert [(r.code, r.req, r.k, r.room) for r in refused] == [("storage", req, 0, ROOM)]
        shown = [one.entries for one in got if isinstance(one.word, Entries)]
        assert {(word.room, word.tip) for word in shown} == {(OTHER, 5), (OTHER, 6)}
        receipt, no = author.take()[::-1]
        assert (receipt.stored.room, receipt.head.n) == (OTHER, 6)
        assert (no.refuse.code, no.refuse.k, no.refuse.room) == ("storage", 1, ROOM)
        assert desk.core.gauges()["damaged_rooms"] == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert f"is damaged in room {ROOM.hex()[:8]}, at message " in said[0]


def test_in_a_closed_room_everything_is_refused_and_leave_and_cast_do_no_harm(
    tmp_path: Path,
) -> None:
    with harmed(tmp_path, HARM["a hash"]) as desk:
        member = desk.connect()
        asked = [member.join(place()) for _ in range(2)]
        desk.settle()
        asked += [member.page(1, 5, log=b"\1" * 32), member.join(place(sub=2))]
        member.post(1, envelope(7))
        member.say(Leave(1, ROOM))
        member.say(Cast(ROOM), cast(1))
        desk.settle()
        refused = [got.refuse for got in member.take()]
        assert {refuse.code for refuse in refused} == {"storage"}
        assert [r.req for r in refused if r.req] == asked
        assert [r.k for r in refused if r.k] == [1]
        assert all(r.retry_after_ms > 60_000 and "damaged" in r.text for r in refused)


def test_when_a_room_is_closed_whoever_waits_for_it_is_told_and_others_are_served(
    tmp_path: Path,
) -> None:
    """Also one who was subscribed and had asked for nothing: a refusal that answers nothing."""
    with harmed(tmp_path, HARM["an envelope"]) as desk:
        live, asking, other = desk.connect(), desk.connect(), desk.connect()
        live.join(place(TIP))
        desk.settle()
        live.take()
        pages = [asking.page(1, 5) for _ in range(3)]
        elsewhere = asking.page(1, 5, room=OTHER)
        waiting = other.join(place(room=OTHER))
        desk.settle()
        told = live.only().refuse
        assert (told.code, told.req, told.k, told.room) == ("storage", 0, 0, ROOM)
        got = asking.take()
        assert [one.refuse.req for one in got[:3]] == pages
        assert (got[3].entries.req, len(got[3].ids)) == (elsewhere, 5)
        assert (other.only().entries.req) == waiting
        asking.page(1, 5, room=OTHER)
        desk.settle()
        assert len(asking.only().ids) == 5


def test_what_was_stored_in_a_room_found_damaged_just_then_has_no_receipt(tmp_path: Path) -> None:
    """An envelope posted again is answered from the log: there the damage shows."""
    with closing(GuardedLog(tmp_path / "log.db")) as log:
        written = Desk(log=log).write(5)
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as database:
        database.execute(HARM["an envelope"])
    with closing(GuardedLog(tmp_path / "log.db")) as log:
        desk = Desk(log=log)
        author = desk.connect()
        author.post(1, written[2])
        author.post(2, envelope(1))
        desk.settle()
        refuse = author.only().refuse
        assert (refuse.code, refuse.k, refuse.room) == ("storage", 1, ROOM)


def test_damage_found_while_letting_go_of_envelopes_closes_the_room(tmp_path: Path) -> None:
    keep = Limits(keep_days=1)
    with harmed(tmp_path, HARM["what it weighs"], keep) as desk:
        member = desk.connect()
        desk.wall_ms += 2 * DAY_MS
        expire_all(desk)
        assert desk.core.gauges()["damaged_rooms"] == 1
        assert desk.core.counts["expired"] == 5
        req = member.join(place())
        assert (member.only().refuse.req, member.req) == (req, req)


# ---- budgets ----


def test_a_budget_gives_its_burst_at_once_and_then_its_rate() -> None:
    budget: Budget[str] = Budget(3, 2)
    assert [budget.take("a", 10.0) for _ in range(4)] == [True, True, True, False]
    assert [budget.take("a", 10.5) for _ in range(2)] == [True, False]
    assert [budget.take("a", 11.0) for _ in range(2)] == [True, False]
    assert [budget.take("a", 99.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take("b", 99.0)


def test_what_was_refused_costs_nothing() -> None:
    budget: Budget[str] = Budget(1, 1)
    assert budget.take("a", 0.0)
    assert not any(budget.take("a", 0.0 + i / 10) for i in range(1, 10))
    assert budget.take("a", 1.0)


def test_a_budget_forgets_who_is_full_again_and_only_those() -> None:
    """Whoever is short of tokens stays short, however many others come and are forgotten."""
    budget: Budget[int] = Budget(10, 1)
    for now in range(100, 200, 2):
        assert budget.take(0, now)
        assert budget.take(now, now)
    for _ in range(4):
        assert budget.take(0, 200)
    assert [budget.take(0, 200.5) for _ in range(7)] == [True] * 6 + [False]
