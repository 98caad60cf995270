"""What a member believes and shows: section 9 of docs/protocol.md, from envelope to row.

Rules of this file: authors seal with the protocol's own functions, entries come in segments that
are checked, and are opened for real; what a member knows beyond the log (whom it compared by voice,
whom it does not want to read, what it wrote) is all that is handed in. The log is test_checked's.
"""

import itertools
import random
import tracemalloc
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_checked import KEY, Ledger, proves, unsigned
from zchat.errors import Unopenable
from zchat.log.contract import Entry, MemoryLog
from zchat.member.checked import CheckedLog, Step
from zchat.member.names import key_mark, shown_name, skeleton
from zchat.member.numbers import Incarnation, Missing, Taken
from zchat.member.presence import Change, Presence, Rhythm
from zchat.member.rows import Blame, Joined, Kind, Message, Notice, Row, State, Status
from zchat.member.transcript import Readable, Transcript
from zchat.protocol.body import Beat, Text, Void, decode_logged, encode
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Head, Proof
from zchat.protocol.limits import CLOCK_TOLERANCE_MS, MAX_ECHOES, MAX_NAME_CHARS, MAX_PLACE
from zchat.protocol.seal import open_envelope, seal

KEYS = RoomKeys(b"the root of this room, 32 bytes.")
NOBODY = bytes(144)
NOW_MS = 1_700_000_000_000

_randomness = itertools.count(1)


class Person:
    """Somebody with the passphrase: their key, and a program that counts as it likes."""

    def __init__(self, name: str, seed: int = 0, keys: RoomKeys = KEYS) -> None:
        self.name = name
        self.keys = keys
        self.author = Author(seed.to_bytes(32, "big") if seed else name.encode().ljust(32), keys)
        self.incarnation = digest(Label.ID, 16, self.author.public)
        self.seq = 0

    @property
    def key(self) -> bytes:
        return self.author.public

    @property
    def marked(self) -> str:
        return f"{self.name}~{self.key[:2].hex()}"

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def seal(
        self, body: bytes, at_ms: int = NOW_MS, envelope_class: EnvelopeClass = EnvelopeClass.LOG
    ) -> bytes:
        randomness = next(_randomness).to_bytes(32, "big")
        return seal(self.keys, self.author, envelope_class, body, at_ms, randomness)

    def says(
        self, text: str = "hello", *, seq: int = 0, seen: bytes = NOBODY, at_ms: int = NOW_MS
    ) -> bytes:
        number = seq or self.next_seq()
        return self.seal(encode(Text(self.name, self.incarnation, number, seen, text)), at_ms)

    def voids(self, seq: int, seen: bytes = NOBODY) -> bytes:
        return self.seal(encode(Void(self.name, self.incarnation, seq, seen)))

    def of_kind(self, kind: str, **more: object) -> bytes:
        """A body that begins as every logged kind does."""
        first = {"kind": kind, "name": self.name, "incarnation": self.incarnation}
        pairs = {**first, "seq": self.next_seq(), "seen": NOBODY, **more}
        return self.seal(msgspec.msgpack.encode(pairs))


class Judgement:
    """What a member knows beyond the log."""

    def __init__(self) -> None:
        self.verified: set[bytes] = set()
        self.muted: set[bytes] = set()
        self.written: set[bytes] = set()

    def is_verified(self, key: bytes) -> bool:
        return key in self.verified

    def is_muted(self, key: bytes) -> bool:
        return key in self.muted

    def wrote(self, incarnation: bytes) -> bool:
        return incarnation in self.written


class Screen:
    """One member in front of one log: what it holds, believes and shows."""

    def __init__(self, ledger: Ledger, me: Person, trust: Judgement | None = None) -> None:
        self.ledger = ledger
        self.me = me
        self.trust = trust or Judgement()
        self.replica = MemoryLog()
        self.checked = CheckedLog(KEYS.tag, KEY.public, self.replica)
        self.transcript = Transcript(me.key, self.checked, self.trust)

    def take(
        self,
        first: int,
        last: int,
        *,
        expired: int = 0,
        live: bool = True,
        arrived_ms: int = NOW_MS,
    ) -> list[Row]:
        """Entries first...last arrive; the rows they give."""
        shown = self.ledger.show(first, last, expired=expired)
        segment = self.checked.check(shown.word, shown.items, asked_ids=False)
        if segment.step is not Step.ON:
            return []
        opened = [_open(entry) for entry in segment.entries]
        pairs = list(zip(segment.entries, opened, strict=True))
        kept = [
            entry._replace(
                envelope=entry.envelope if readable else None, arrived_ms=arrived_ms, live=live
            )
            for entry, readable in pairs
        ]
        self.checked.advance(segment, kept)
        rows = [
            self.transcript.apply(entry, readable)
            for entry, readable in zip(kept, opened, strict=True)
        ]
        self.checked.settle()
        return list(itertools.chain.from_iterable(rows))

    def hear(self, *envelopes: bytes, live: bool = True, arrived_ms: int = NOW_MS) -> list[Row]:
        """The log grows by these, and we get them."""
        self.ledger.envelopes += envelopes
        return self.take(self.checked.n + 1, self.ledger.n, live=live, arrived_ms=arrived_ms)

    def replay(self) -> list[Row]:
        """The rows of a new process that finds this replica."""
        transcript = Transcript(self.me.key, self.checked, self.trust)
        rows: list[Row] = []
        for n in range(1, self.checked.n + 1):
            (entry,) = self.replica.read(KEYS.tag, n, n)
            rows += transcript.apply(entry, _open(entry))
        return rows


def _open(entry: Entry) -> Readable | None:
    if entry.envelope is None:
        return None
    try:
        header, body = open_envelope(KEYS, entry.envelope, EnvelopeClass.LOG)
        return Readable(header, decode_logged(body))
    except Unopenable:
        return None


def messages(rows: Sequence[Row]) -> list[Message]:
    return [row for row in rows if isinstance(row, Message)]


def texts(rows: Sequence[Row]) -> list[str]:
    return [message.text for message in messages(rows)]


def notices(rows: Sequence[Row]) -> list[Notice]:
    return [row for row in rows if isinstance(row, Notice)]


def told(rows: Sequence[Row]) -> list[str]:
    return [notice.text for notice in notices(rows)]


@pytest.fixture
def alice() -> Person:
    return Person("alice")


@pytest.fixture
def bob() -> Person:
    return Person("bob")


@pytest.fixture
def screen(alice: Person) -> Screen:
    """Alice's, in front of an empty log."""
    return Screen(Ledger(room=KEYS.tag), alice)


# ---- messages and members ----


def test_who_speaks_first_joins_and_is_a_member_from_then_on(screen: Screen, bob: Person) -> None:
    assert not screen.transcript.knows(bob.key)
    joined, message = screen.hear(bob.says("hello", at_ms=NOW_MS - 5))
    assert joined == Joined(1, bob.key, "bob", bob.marked, False)
    assert isinstance(message, Message)
    assert message == Message(
        n=1,
        id=screen.ledger.ids[0],
        sender=bob.key,
        name="bob",
        shown=bob.marked,
        own=False,
        verified=False,
        kind=Kind.TEXT,
        text="hello",
        reply_to=None,
        sent_at_ms=NOW_MS - 5,
        arrived_ms=NOW_MS,
        status=Status.STORED,
    )
    assert len(screen.hear(bob.says("again", at_ms=NOW_MS + 5))) == 1
    assert screen.transcript.knows(bob.key)
    (member,) = screen.transcript.members(frozenset([bob.key]))
    assert (member.key, member.name, member.shown) == (bob.key, "bob", bob.marked)
    assert (member.first_n, member.last_n, member.last_at_ms) == (1, 2, NOW_MS + 5)
    assert (member.own, member.verified, member.here) == (False, False, True)


def test_ones_own_key_and_a_verified_one_need_no_mark(
    screen: Screen, alice: Person, bob: Person
) -> None:
    screen.trust.written.add(alice.incarnation)
    screen.trust.verified.add(bob.key)
    rows = screen.hear(alice.says(), bob.says())
    assert [(m.shown, m.own, m.verified) for m in messages(rows)] == [
        ("alice", True, False),
        ("bob", False, True),
    ]
    mine, theirs = screen.transcript.members(frozenset())
    assert (mine.own, mine.here) == (True, True)
    assert (theirs.verified, theirs.here) == (True, False)


def test_a_key_that_never_spoke_is_somebody(screen: Screen, bob: Person) -> None:
    assert screen.transcript.shown(bob.key) == f"somebody~{key_mark(bob.key)}"
    screen.trust.verified.add(bob.key)
    assert screen.transcript.shown(bob.key) == "somebody"


def test_a_reply_names_the_entry_it_answers(screen: Screen, bob: Person) -> None:
    body = Text("bob", bob.incarnation, 1, NOBODY, "yes", b"\7" * 32)
    (reply,) = messages(screen.hear(bob.seal(encode(body))))
    assert reply.reply_to == b"\7" * 32


def test_a_muted_member_is_not_read_but_still_counted(screen: Screen, bob: Person) -> None:
    screen.trust.muted.add(bob.key)
    rows = screen.hear(bob.says(), bob.says(seq=9))
    assert messages(rows) == []
    assert isinstance(rows[0], Joined)
    assert told(rows) == [f"7 messages from {bob.marked} missing (#2-#8): never sent or not stored"]


def test_order_is_log_order_whatever_the_times_say(screen: Screen, bob: Person) -> None:
    rows = screen.hear(*(bob.says(str(n), at_ms=NOW_MS - n) for n in range(5)))
    assert texts(rows) == ["0", "1", "2", "3", "4"]


# ---- unreadable, unknown, expired ----


def _altered(envelope: bytes, at: int) -> bytes:
    return envelope[:at] + bytes([envelope[at] ^ 1]) + envelope[at + 1 :]


def test_what_does_not_open_is_one_row_that_accuses_nobody(screen: Screen, bob: Person) -> None:
    beat = Beat("bob", bob.incarnation, 1, NOBODY, bytes(8), (), False)
    elsewhere = Person("bob", keys=RoomKeys(bytes(32)))
    junk = [
        b"",
        b"junk",
        _altered(bob.says(), 0),
        _altered(bob.says(), 80),
        _altered(bob.says(), 200),
        _altered(bob.says(), -1),
        elsewhere.says(),
        bob.seal(encode(beat), envelope_class=EnvelopeClass.CAST),
        bob.seal(encode(beat)),
        bob.seal(b"not a body"),
        bob.says(seen=Head(bytes(32), 1, bytes(32), 2, bytes(64)).packed),
    ]
    rows = screen.hear(*junk)
    assert texts(rows) == [
        f"unreadable entry #{n}, from a member or the server" for n in range(1, len(junk) + 1)
    ]
    for row in messages(rows):
        assert (row.kind, row.status, row.sender) == (Kind.UNREADABLE, Status.UNREADABLE, b"")
        assert (row.shown, row.own, row.verified) == ("", False, False)
        assert row.sent_at_ms == row.arrived_ms == NOW_MS
    assert len(rows) == len(junk)
    assert screen.transcript.members(frozenset()) == []


def test_a_kind_of_a_later_version_is_shown_as_one_and_counts(screen: Screen, bob: Person) -> None:
    rows = screen.hear(bob.of_kind("react", what="!"), bob.says("hello"))
    assert [(m.kind, m.text) for m in messages(rows)] == [
        (Kind.UNKNOWN, "a message this version cannot show (react)"),
        (Kind.TEXT, "hello"),
    ]
    assert notices(rows) == []


def test_what_the_server_no_longer_keeps_is_told_once(screen: Screen, bob: Person) -> None:
    screen.ledger.envelopes += [bob.says(str(n)) for n in range(1, 9)]
    rows = screen.take(1, 4, expired=3)
    assert told(rows) == [
        "messages #1-#3 are no longer kept by the server, and were never shown here"
    ]
    assert notices(rows)[0].blame is Blame.UNKNOWN
    assert texts(rows) == ["4"]
    assert told(screen.take(5, 8, expired=6)) == [
        "messages #5-#6 are no longer kept by the server, and were never shown here"
    ]
    assert screen.transcript.missing_count() == 0  # they may be in what expired


# ---- numbers: gaps, repetitions, voids ----


def test_numbers_that_never_came_are_told_and_counted_until_they_come(
    screen: Screen, bob: Person
) -> None:
    (first,) = notices(screen.hear(bob.says(seq=2)))
    text = f"1 message from {bob.marked} missing (#1): never sent or not stored"
    assert first == Notice(1, State.GAP, Blame.UNKNOWN, text)
    rows = screen.hear(bob.says(seq=6))
    assert told(rows) == [f"3 messages from {bob.marked} missing (#3-#5): never sent or not stored"]
    assert screen.transcript.missing_count() == 4
    rows = screen.hear(*(bob.says(seq=seq) for seq in (4, 1, 3, 5)))
    assert len(rows) == 4
    assert screen.transcript.missing_count() == 0


def test_each_incarnation_counts_for_itself(screen: Screen, bob: Person) -> None:
    rows = screen.hear(bob.says(), bob.says())
    bob.incarnation = bytes(16)
    rows += screen.hear(bob.says(seq=1), bob.says(seq=2))
    assert len(messages(rows)) == 4
    assert notices(rows) == []


def test_of_two_messages_with_one_number_the_lower_place_counts(
    screen: Screen, bob: Person
) -> None:
    rows = screen.hear(bob.says("one", seq=1), bob.says("two", seq=1))
    assert texts(rows) == ["one"]
    (verdict,) = notices(rows)
    assert verdict.text == f"{bob.marked} sent two different messages #1: #1 counts, #2 does not"
    assert (verdict.n, verdict.blame) == (2, Blame.AUTHOR)


@pytest.mark.parametrize("void_first", [True, False])
def test_a_number_filled_with_a_void_never_convicts_its_author(
    screen: Screen, bob: Person, void_first: bool
) -> None:
    """A server may refuse a message, have its number filled, and store it all the same."""
    said, void = bob.says("said"), bob.voids(1)
    rows = screen.hear(void, said) if void_first else screen.hear(said, void)
    assert notices(rows) == []
    assert texts(rows) == ([] if void_first else ["said"])


def test_a_void_is_not_shown_and_fills_its_number(screen: Screen, bob: Person) -> None:
    rows = screen.hear(bob.says("one"), bob.voids(2), bob.says("three", seq=3))
    assert texts(rows) == ["one", "three"]
    assert notices(rows) == []
    assert screen.transcript.missing_count() == 0


def test_numbers_below_the_first_one_kept_are_not_missed_where_some_have_expired(
    screen: Screen, bob: Person
) -> None:
    """Who joins late cannot know whether they ever were."""
    screen.ledger.envelopes += [bob.says(), bob.says(), bob.says(), bob.says()]
    assert told(screen.take(1, 4, expired=2)) == [
        "messages #1-#2 are no longer kept by the server, and were never shown here"
    ]
    assert screen.transcript.missing_count() == 0
    screen.ledger.envelopes.append(bob.says(seq=7))
    assert len(notices(screen.take(5, 5, expired=2))) == 1
    assert screen.transcript.missing_count() == 2


TAKES = st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=20)


@given(TAKES)
def test_numbers_are_told_apart_as_a_set_would_tell_them(takes: list[tuple[int, bool]]) -> None:
    """Runs in arrays and the plainest bookkeeping agree, also where some are excused."""
    numbers = Incarnation()
    places: dict[int, int] = {}
    excused: set[int] = set()
    assert numbers.missing_count() == 0
    for place, (seq, excuses) in enumerate(takes, 100):
        taken = numbers.take(seq, place)
        highest = max(places, default=0)
        if seq in places:
            assert taken == Taken(repeats=places[seq])
            continue
        after = places.get(highest, 0)
        missing = Missing(highest + 1, seq - 1, after) if seq > highest + 1 else None
        assert taken == Taken(missing=missing)
        if missing and excuses:
            numbers.excuse(missing)
            excused.update(range(missing.first, missing.last + 1))
        places[seq] = place
        never = set(range(1, max(places))) - places.keys() - excused
        assert numbers.missing_count() == len(never)


def test_a_number_costs_eight_bytes_in_whatever_order_they_came() -> None:
    """With room to grow; and runs that touch are one run."""
    seqs = list(range(1, 20_001))
    random.Random(1).shuffle(seqs)
    tracemalloc.start()
    try:
        numbers = Incarnation()
        for seq in seqs:
            numbers.take(seq, 1)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert numbers.missing_count() == 0
    assert used < 3 * 8 * len(seqs)


def test_the_widest_numbers_cost_nothing(screen: Screen, bob: Person) -> None:
    rows = screen.hear(bob.says(seq=MAX_PLACE), bob.says(seq=1), bob.says(seq=MAX_PLACE - 1))
    assert len(messages(rows)) == 3
    assert screen.transcript.missing_count() == MAX_PLACE - 3
    assert notices(rows)[0].text.startswith(f"{MAX_PLACE - 1} messages")


# ---- names ----


def test_a_new_name_is_told_and_the_old_one_stays_taken(screen: Screen, bob: Person) -> None:
    screen.hear(bob.says())
    bob.name = "robert"
    rows = screen.hear(bob.says(), bob.says())
    old = f"bob~{bob.key[:2].hex()}"
    assert told(rows) == [f"{old} is now called robert"]
    assert {message.shown for message in messages(rows)} == {bob.marked}
    other = Person("bob", seed=7)
    assert told(screen.hear(other.says())) == [f"{other.marked} is another bob, not {old}"]


def test_the_lowest_place_has_a_name_and_another_key_with_it_is_marked(screen: Screen) -> None:
    bobs = [Person("bob", seed=seed) for seed in (1, 2, 3)]
    rows = screen.hear(*(person.says() for person in bobs), bobs[0].says())
    assert [(notice.n, notice.state, notice.blame) for notice in notices(rows)] == [
        (2, State.KEY_CHANGED, Blame.UNKNOWN),
        (3, State.KEY_CHANGED, Blame.UNKNOWN),
    ]
    assert told(rows) == [
        f"{other.marked} is another bob, not {bobs[0].marked}" for other in bobs[1:]
    ]


def test_the_name_of_a_verified_member_in_another_hand_says_so(screen: Screen) -> None:
    first, second = Person("bob", seed=1), Person("bob", seed=2)
    screen.trust.verified.add(first.key)
    rows = screen.hear(first.says(), second.says())
    assert told(rows) == [f"{second.marked} is not the bob you verified"]


LOOK_ALIKES = [
    ("alice", "аlice"),  # Cyrillic a
    ("alice", "ALICE"),
    ("alice", "alіce"),
    ("alice", "al1ce"),
    ("alice", "a|ice"),
    ("alice", "al\u200bice"),
    ("alice", "al ice"),
    ("alice", "al\u2800ice"),
    ("alice", "al\u3164ice"),
    ("alice", "\uff41lice"),
    ("alice", "álice"),
    ("alice", "a.l-i_c:e"),
    ("alice", "ᴀlice"),
    ("bob", "b0b"),
    ("bob", "bοb"),  # Greek omicron
    ("modern", "rnodem"),
    ("will", "vvill"),
    ("daire", "claire"),
    ("alice", "alic℮"),
    ("?!", "? !"),
]


@pytest.mark.parametrize(("name", "other"), LOOK_ALIKES)
def test_names_that_look_alike_are_marked(screen: Screen, name: str, other: str) -> None:
    first, second = Person(name, seed=1), Person(other, seed=2)
    shown = shown_name(second.key, other, trusted=False)
    assert told(screen.hear(first.says(), second.says())) == [
        f"{shown} looks like {shown_name(first.key, name, trusted=False)}, and is somebody else"
    ]


@pytest.mark.parametrize(
    ("name", "other"), [("alice", "alicia"), ("bob", "rob"), ("林", "森"), ("?", "!"), ("ß", "s")]
)
def test_names_that_differ_are_left_alone(screen: Screen, name: str, other: str) -> None:
    first, second = Person(name, seed=1), Person(other, seed=2)
    assert notices(screen.hear(first.says(), second.says())) == []


@given(st.text(st.characters(codec="utf-8"), max_size=MAX_NAME_CHARS))
def test_every_name_has_a_skeleton_that_no_case_and_no_form_changes(name: str) -> None:
    assert skeleton(name) == skeleton(name.casefold())
    assert shown_name(bytes(32), name, trusted=False).count("~") == 1
    assert ":" not in shown_name(bytes(32), name, trusted=True)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("J. O'Neil-Ruiz (2nd) & co_ltd+@!?", "J. O'Neil-Ruiz (2nd) & co_ltd+@!?"),
        ("林 ☃ 😀", "林 ☃ 😀"),
        ("a:b~c;d|e<f>", "a·b·c·d·e·f·"),
        ("a\u02d0b\ua789c\uff1ad", "a·b·c·d"),
        ("$ 5 + 1 = 6", "· 5 + 1 · 6"),
    ],
)
def test_a_name_keeps_what_names_are_written_with_and_nothing_that_frames_a_line(
    name: str, shown: str
) -> None:
    assert shown_name(bytes(32), name, trusted=True) == shown


def test_a_name_cannot_pass_for_a_line_of_somebody_else(screen: Screen) -> None:
    mallory = Person("alice~0123: hi", seed=5)
    (message,) = messages(screen.hear(mallory.says()))
    assert message.shown == f"alice·0123· hi~{mallory.key[:2].hex()}"
    assert message.name == mallory.name


# ---- one's own key ----


def test_ones_own_key_from_before_this_run_was_used_elsewhere(
    screen: Screen, alice: Person
) -> None:
    rows = screen.hear(alice.says(), alice.says())
    assert told(rows) == ["this profile was used elsewhere, or restored from a copy"]
    assert notices(rows)[0].state is State.KEY_CHANGED


def test_ones_own_key_that_speaks_live_means_that_somebody_has_it(
    screen: Screen, alice: Person
) -> None:
    screen.transcript.caught_up = True
    text = "your key sent a message this device did not write: somebody has your keys"
    assert told(screen.hear(alice.says(), alice.says())) == [text]
    in_a_beat = screen.transcript.own_key_rows(bytes(16), 0)
    assert told(in_a_beat) == [text]
    assert screen.transcript.own_key_rows(bytes(16), 0) == []


def test_what_was_quiet_before_is_told_again_when_it_goes_on_live(
    screen: Screen, alice: Person
) -> None:
    assert len(notices(screen.hear(alice.says()))) == 1
    screen.transcript.caught_up = True
    assert "somebody has your keys" in told(screen.hear(alice.says()))[0]


def test_what_this_profile_wrote_is_no_news(screen: Screen, alice: Person) -> None:
    screen.trust.written.add(alice.incarnation)
    screen.transcript.caught_up = True
    assert notices(screen.hear(alice.says(), alice.says())) == []


# ---- times ----


@pytest.mark.parametrize(
    ("ahead_ms", "live", "status"),
    [
        (0, True, Status.STORED),
        (-CLOCK_TOLERANCE_MS, True, Status.STORED),
        (-CLOCK_TOLERANCE_MS - 1, True, Status.LATE),
        (-CLOCK_TOLERANCE_MS - 1, False, Status.STORED),
        (CLOCK_TOLERANCE_MS, True, Status.STORED),
        (CLOCK_TOLERANCE_MS + 1, True, Status.CLOCK),
        (CLOCK_TOLERANCE_MS + 1, False, Status.CLOCK),
        (-NOW_MS, False, Status.STORED),
        (2**64 - 1 - NOW_MS, True, Status.CLOCK),
    ],
)
def test_a_time_is_marked_and_decides_nothing(
    screen: Screen, bob: Person, ahead_ms: int, live: bool, status: Status
) -> None:
    rows = screen.hear(bob.says(at_ms=NOW_MS + ahead_ms), live=live)
    (message,) = messages(rows)
    assert message.status is status
    assert (message.sent_at_ms, message.arrived_ms) == (NOW_MS + ahead_ms, NOW_MS)
    assert messages(screen.replay()) == [message]


# ---- what an author has seen ----


@pytest.fixture
def forked(alice: Person, bob: Person) -> Screen:
    """Alice has four entries of a log that the server shows to others with another fourth."""
    screen = Screen(Ledger(room=KEYS.tag), alice)
    screen.hear(*(bob.says() for _ in range(4)))
    return screen


def test_a_head_on_our_chain_is_nothing_to_talk_about(forked: Screen, bob: Person) -> None:
    for n in (0, 3, 4):
        assert notices(forked.hear(bob.says(seen=forked.ledger.head(n).packed))) == []


def test_who_saw_another_history_accuses_the_server_with_proof(forked: Screen, bob: Person) -> None:
    other = forked.ledger.branch(3, 3)
    rows = forked.hear(bob.says("from the other side", seen=other.head(4).packed))
    (accusation,) = notices(rows)
    assert (accusation.state, accusation.blame) == (State.FORKED, Blame.SERVER)
    assert accusation.text == (
        f"the server contradicted itself: it showed {bob.marked} another history"
        " (from #4 or before)"
    )
    assert proves(accusation.proof) is Proof.OTHER_PAST
    assert texts(rows) == ["from the other side"]


def test_who_saw_what_cannot_be_there_yet_accuses_the_server(forked: Screen, bob: Person) -> None:
    """The head stands at or above the entry that carries it: no honest chain can hold that."""
    other = forked.ledger.branch(4, 3)
    (at,) = notices(forked.hear(bob.says(seen=other.head(5).packed)))
    assert proves(at.proof) is Proof.TWO_HASHES
    (beyond,) = notices(forked.hear(bob.says(seen=other.head(7).packed)))
    assert (beyond.blame, beyond.proof) == (Blame.SERVER, None)


def test_who_saw_another_log_accuses_the_server(forked: Screen, bob: Person) -> None:
    other = Ledger(room=KEYS.tag).grow(2)
    (accusation,) = notices(forked.hear(bob.says(seen=other.head(2).packed)))
    assert accusation.blame is Blame.SERVER
    assert "another log of this room, unknown to ours" in accusation.text


def test_who_claims_what_was_never_signed_accuses_themselves(forked: Screen, bob: Person) -> None:
    other = forked.ledger.branch(2, 3)
    rows = forked.hear(bob.says("lies", seen=unsigned(other.head(3)).packed))
    (notice,) = notices(rows)
    assert notice.text == f"{bob.marked} claims a history the server never signed (#5)"
    assert (notice.state, notice.blame) == (State.UNVERIFIED, Blame.AUTHOR)
    assert texts(rows) == ["lies"]


@pytest.mark.parametrize("n", [0, 2])
def test_who_vouches_for_less_than_before_is_noted(forked: Screen, bob: Person, n: int) -> None:
    """Also for nothing at all; not where it is another run of theirs."""
    forked.hear(bob.says(seen=forked.ledger.head(3).packed))
    less = forked.ledger.head(n).packed if n else NOBODY
    (notice,) = notices(forked.hear(bob.says(seen=less)))
    assert notice.text == f"{bob.marked} claims to have seen less than before (#6)"
    assert (notice.state, notice.blame) == (State.UNVERIFIED, Blame.AUTHOR)
    bob.incarnation, bob.seq = bytes(16), 0
    assert notices(forked.hear(bob.says(seen=less))) == []


def test_who_saw_what_a_restore_lost_says_so_once(alice: Person, bob: Person) -> None:
    former = Ledger(room=KEYS.tag)
    former.envelopes += [bob.says() for _ in range(4)]
    screen = Screen(former.restored(2), alice)
    screen.take(1, 2)
    lost = former.head(4).packed
    rows = screen.hear(bob.says("still here", seq=3, seen=lost), bob.says(seq=4, seen=lost))
    (notice,) = notices(rows)
    assert notice.text == f"{bob.marked} saw #4 of a former log, which the server lost"
    assert (notice.state, notice.blame) == (State.GAP, Blame.UNKNOWN)
    kept = former.head(2).packed
    assert "less than before" in told(screen.hear(bob.says(seq=5, seen=kept)))[0]


# ---- far ahead ----


def test_a_glimpse_shows_messages_and_remembers_nothing(
    screen: Screen, alice: Person, bob: Person
) -> None:
    def glimpse(envelope: bytes) -> Message | None:
        entry = Entry(70, bytes(32), bytes(32), envelope, NOW_MS - 10**9)
        return screen.transcript.glimpse(entry, _open(entry))

    message = glimpse(bob.says("far ahead", seq=30))
    assert message is not None
    assert (message.n, message.text, message.shown) == (70, "far ahead", bob.marked)
    assert message.status is Status.STORED
    assert not screen.transcript.knows(bob.key)
    own = glimpse(alice.says())
    assert own is not None and own.shown == "alice" and own.own
    screen.trust.verified.add(bob.key)
    verified = glimpse(bob.says())
    assert verified is not None and verified.shown == "bob"
    assert glimpse(b"junk") is None
    assert glimpse(bob.voids(1)) is None
    assert glimpse(bob.of_kind("react")) is None
    screen.trust.muted.add(bob.key)
    assert glimpse(bob.says()) is None


# ---- one transcript, however it comes ----


class Act(NamedTuple):
    """One entry that somebody has the server store."""

    who: int
    what: str
    seen: str
    minutes: int


WHATS = ["text", "text", "text", "void", "skip", "repeat", "rename", "restart", "kind", "junk"]
SEENS = ["nothing", "truth", "fork", "forged", "lost", "other"]
ACTS = st.lists(
    st.builds(
        Act,
        who=st.integers(0, 2),
        what=st.sampled_from(WHATS),
        seen=st.sampled_from(SEENS),
        minutes=st.integers(-10, 10),
    ),
    min_size=1,
    max_size=12,
)
SEGMENTS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20)


class Story:
    """A log in which three people, one of them ourselves, do what they should not."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self.people = [Person(name) for name in ("alice", "bob", "аlice")]
        self.former = Ledger(room=KEYS.tag).grow(4)
        self.ledger = Ledger((), self.former, 0, room=KEYS.tag)
        for act in acts:
            self.ledger.envelopes.append(self._envelope(act))

    def _envelope(self, act: Act) -> bytes:
        person = self.people[act.who]
        if act.what == "junk":
            return b"junk %d" % self.ledger.n
        if act.what == "kind":
            return person.of_kind("react")
        if act.what == "rename":
            person.name = {"bob": "b0b", "b0b": "bob"}.get(person.name, "bob")
        if act.what == "restart":
            person.incarnation, person.seq = digest(Label.ID, 16, person.incarnation), 0
        if act.what == "skip":
            person.seq += 2
        seen, seq = self._seen(act.seen), person.next_seq()
        if act.what == "void":
            return person.voids(seq, seen)
        if act.what == "repeat":
            person.seq = seq = max(1, seq - 1)
        text = f"{act.what} {self.ledger.n}"
        return person.says(text, seq=seq, seen=seen, at_ms=NOW_MS + act.minutes * 60_000)

    def _seen(self, what: str) -> bytes:
        ledger, n = self.ledger, self.ledger.n
        heads = {
            "nothing": lambda: ledger.head(0),
            "truth": lambda: ledger.head(n),
            "fork": lambda: ledger.branch(n // 2, n + 2).head(n),
            "forged": lambda: unsigned(ledger.branch(n // 2, n + 2).head(n)),
            "lost": lambda: self.former.head(2),
            "other": lambda: Ledger((b"another log",), room=KEYS.tag).head(1),
        }
        return heads[what]().packed

    def screen(self) -> Screen:
        return Screen(self.ledger, self.people[0])


def _plain(rows: Sequence[Row]) -> list[Row]:
    """Without proofs: those name the end we stood at when we found out."""
    return [row._replace(proof=None) if isinstance(row, Notice) else row for row in rows]


@given(ACTS, SEGMENTS)
def test_every_interleaving_and_repetition_of_segments_gives_one_transcript(
    acts: list[Act], segments: list[tuple[int, int]]
) -> None:
    story = Story(acts)
    plain, other = story.screen(), story.screen()
    expected = [row for n in range(1, story.ledger.n + 1) for row in plain.take(n, n)]
    rows: list[Row] = []
    for one, two in segments:
        first, last = sorted((min(one, story.ledger.n), min(two, story.ledger.n)))
        rows += other.take(first, last)
    if other.checked.n < story.ledger.n:
        rows += other.take(other.checked.n + 1, story.ledger.n)
    assert _plain(rows) == _plain(expected)
    assert _plain(other.replay()) == _plain(expected)
    assert other.transcript.members(frozenset()) == plain.transcript.members(frozenset())
    assert other.transcript.missing_count() == plain.transcript.missing_count()


@given(ACTS)
def test_only_what_the_server_signed_is_ever_its_fault(acts: list[Act]) -> None:
    """Whatever members do, the honest server of their room is not accused."""
    story = Story([act for act in acts if act.seen in ("nothing", "truth", "forged", "lost")])
    if story.ledger.n:
        rows = story.screen().take(1, story.ledger.n)
        assert all(notice.blame is not Blame.SERVER for notice in notices(rows))


# ---- freshness ----


BOB, CAROL = b"\1" * 32, b"\2" * 32


def beat(
    ask: bytes = b"theirask", echo: Sequence[bytes] = (), *, count: int = 1, leaving: bool = False
) -> Beat:
    return Beat("bob", bytes(16), count, NOBODY, ask, tuple(echo), leaving)


class Room:
    """Who was heard, at a time that we move; the jitter is none."""

    def __init__(self, min_s: float = 60.0, max_s: float = 300.0) -> None:
        self.now = 1_000.0
        self.presence = Presence(Rhythm(min_s, max_s), self.now)
        self.asked = 0

    def say(self) -> bytes:
        """Our beat goes out; its ask."""
        self.asked += 1
        ask = self.asked.to_bytes(8, "big")
        assert self.presence.beat(self.now, ask, 0.5).ask == ask
        return ask

    def hear(self, heard: Beat, key: bytes = BOB, *, vouches: bool = True) -> Change | None:
        return self.presence.heard(key, heard, self.now, vouches=vouches, jitter=1.0)

    def stale(self, later: float = 0.0) -> float:
        self.now += later
        return self.presence.stale_s(self.now)


def test_an_echo_of_our_ask_is_fresh_as_of_when_we_asked() -> None:
    room = Room()
    ask = room.say()
    room.now += 100.0
    assert room.hear(beat(echo=[ask])) == Change(BOB, True)
    assert room.stale(80.0) == 0.0
    assert room.stale(0.1) == 0.0  # not before three intervals without proof
    assert room.stale(100.0) > 180.0


def test_who_is_alone_is_never_stale() -> None:
    room = Room()
    room.say()
    assert room.stale(10_000.0) == 0.0


def test_three_intervals_without_proof_while_others_are_heard_are_stale() -> None:
    room = Room()
    room.hear(beat())
    assert room.stale(180.0) == 0.0
    assert room.stale(1.0) == 181.0
    room.hear(beat(echo=[room.say()], count=2))
    assert room.stale() == 0.0


def test_one_late_beat_after_a_long_silence_proves_nothing() -> None:
    """A server that let nobody be heard for long lets one recorded beat through."""
    room = Room()
    room.hear(beat())
    assert room.stale(10_000.0) == 10_000.0
    room.hear(beat(count=2))
    assert room.stale() == 10_000.0
    room.hear(beat(echo=[room.say()], count=3))
    assert room.stale(180.0) == 0.0
    room.hear(beat(), CAROL)
    assert room.stale(1.0) == 181.0


def test_newcomers_do_not_put_off_what_the_others_owe() -> None:
    room = Room()
    room.hear(beat())
    room.now += 170.0
    room.hear(beat(), CAROL)
    assert room.stale(11.0) == 181.0


@pytest.mark.parametrize("vouches", [True, False])
def test_only_who_vouches_for_our_history_proves_freshness(vouches: bool) -> None:
    """An unknown key, or one that has seen more than we have, proves nothing."""
    room = Room()
    room.hear(beat())
    room.now += 170.0
    room.hear(beat(echo=[room.say()], count=2), vouches=vouches)
    assert bool(room.stale(20.0)) is not vouches


def test_an_ask_that_nobody_echoes_any_more_is_forgotten() -> None:
    room = Room()
    forgotten, first = room.say(), room.say()
    for _ in range(15):
        room.say()
    assert room.hear(beat(echo=[forgotten])) is None
    assert room.presence.here(room.now) == frozenset()
    assert room.hear(beat(echo=[first], count=2)) == Change(BOB, True)


def test_a_recorded_beat_counts_for_nothing() -> None:
    """Neither the very one, nor an older one; a new run of its author counts anew."""
    room = Room()
    recorded = beat(echo=[room.say()], count=5)
    assert room.hear(recorded) == Change(BOB, True)
    room.now += 70.0
    assert room.hear(recorded) is None
    assert room.hear(beat(echo=[room.say()], count=5)) is None
    assert room.hear(beat(echo=[room.say()], count=4)) is None
    assert room.stale(120.0) > 0.0
    again = Beat("bob", b"\1" * 16, 1, NOBODY, bytes(8), (room.say(),), False)
    assert room.hear(again) is None
    assert room.stale() == 0.0


def test_only_an_echo_says_that_somebody_came_or_left() -> None:
    room = Room()
    assert room.hear(beat()) is None
    assert room.presence.here(room.now) == frozenset()
    assert room.hear(beat(echo=[room.say()], count=2)) == Change(BOB, True)
    assert room.hear(beat(echo=[room.say()], count=3)) is None
    assert room.presence.here(room.now) == {BOB}
    assert room.hear(beat(count=4, leaving=True)) is None
    assert room.presence.here(room.now) == {BOB}
    assert room.hear(beat(echo=[room.say()], count=5, leaving=True)) == Change(BOB, False)
    assert room.presence.here(room.now) == frozenset()
    assert room.hear(beat(echo=[room.say()], count=6, leaving=True)) is None


def test_who_is_silent_for_three_intervals_is_here_no_longer() -> None:
    room = Room()
    room.hear(beat(echo=[room.say()]))
    assert room.presence.here(room.now + 180.0) == {BOB}
    assert room.presence.here(room.now + 181.0) == frozenset()


def test_who_is_silent_for_very_long_is_forgotten_and_comes_anew() -> None:
    room = Room()
    room.hear(beat(echo=[room.say()]))
    room.now += 20 * 60.0 + 1
    assert room.hear(beat(echo=[room.say()]), CAROL) == Change(CAROL, True)
    assert room.hear(beat(echo=[room.say()], count=2)) == Change(BOB, True)


def test_a_crowd_of_made_up_keys_fills_no_memory() -> None:
    """Who was silent for longest goes first; by their number intervals go, and it has an end."""
    room = Room(min_s=1.0, max_s=1e9)
    room.hear(beat(echo=[room.say()]), CAROL)
    for number in range(10_050):
        if number % 5_000 == 0:
            room.hear(beat(echo=[room.say()], count=number + 1), BOB)
        room.hear(beat(), number.to_bytes(32, "big"))
    assert room.presence.interval_s == 10_001.0
    assert room.hear(beat(echo=[room.say()], count=20_000), BOB) is None  # was here all the time
    assert room.hear(beat(echo=[room.say()], count=20_000), CAROL) == Change(CAROL, True)


def test_a_beat_echoes_the_newest_asks_one_per_member() -> None:
    room = Room()
    for number in range(MAX_ECHOES + 3):
        room.hear(beat(bytes([number]) * 8), bytes([number]) * 32)
    room.hear(beat(b"newerone", count=2), bytes([5]) * 32)
    parts = room.presence.beat(room.now, bytes(8), 0.5)
    newest = [bytes([number]) * 8 for number in range(3, MAX_ECHOES + 3) if number != 5]
    assert list(parts.echo) == [*newest, b"newerone"]
    assert parts.number == 1
    assert room.presence.beat(room.now, bytes(8), 0.5).number == 2


def test_a_crowd_of_made_up_keys_pushes_no_member_out_of_the_echoes() -> None:
    room = Room()
    room.hear(beat(b"bobs ask"))
    for number in range(2 * MAX_ECHOES):
        made_up = number.to_bytes(32, "big")
        room.hear(beat(number.to_bytes(8, "big")), made_up, vouches=False)
    echo = room.presence.beat(room.now, bytes(8), 0.5).echo
    assert len(echo) == MAX_ECHOES
    assert echo[-1] == b"bobs ask"


def test_who_left_is_echoed_no_longer() -> None:
    room = Room()
    room.hear(beat(b"bobs ask", echo=[room.say()]))
    room.hear(beat(b"carol's.", echo=[room.say()]), CAROL)
    room.hear(beat(echo=[room.say()], count=2, leaving=True))
    assert room.presence.beat(room.now, bytes(8), 0.5).echo == (b"carol's.",)


@pytest.mark.parametrize(
    ("others", "interval_s"), [(0, 60.0), (58, 60.0), (99, 100.0), (299, 300.0), (400, 300.0)]
)
def test_the_interval_grows_with_the_members_heard(others: int, interval_s: float) -> None:
    room = Room()
    for number in range(others):
        room.hear(beat(), number.to_bytes(32, "big"))
    assert room.presence.interval_s == interval_s


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 48.0), (0.5, 60.0), (1.0, 72.0)])
def test_a_beat_is_due_at_once_and_then_after_an_interval_with_jitter(
    jitter: float, wait_s: float
) -> None:
    room = Room()
    assert room.presence.is_due(room.now)
    room.presence.beat(room.now, bytes(8), jitter)
    assert not room.presence.is_due(room.now + wait_s - 0.1)
    assert room.presence.is_due(room.now + wait_s)


def test_somebody_new_is_answered_soon_and_nobody_twice() -> None:
    room = Room()
    room.say()
    room.hear(beat())
    assert not room.presence.is_due(room.now + 1.9)
    assert room.presence.is_due(room.now + 2.0)
    room.now += 2.0
    room.say()
    room.hear(beat(count=2))
    assert not room.presence.is_due(room.now + 59.0)


def test_in_a_crowd_only_a_share_of_the_beats_is_sent() -> None:
    room = Room()
    for number in range(600):
        room.hear(beat(), number.to_bytes(32, "big"))
    room.say()
    assert not room.presence.is_due(room.now + 599.0)
    assert room.presence.is_due(room.now + 600.0)


def test_a_message_stands_for_a_beat_unless_somebody_waits_for_an_echo() -> None:
    room = Room()
    room.presence.spoke(room.now, 0.5)
    assert not room.presence.is_due(room.now + 59.0)
    assert room.presence.is_due(room.now + 60.0)
    room.hear(beat())
    room.now += 1.0
    room.presence.spoke(room.now, 0.5)
    assert room.presence.is_due(room.now + 1.0)


def test_a_member_heard_and_not_known_has_the_name_it_gave() -> None:
    room = Room()
    assert room.presence.name_of(BOB) == "somebody"
    room.hear(beat(echo=[room.say()]))
    assert room.presence.name_of(BOB) == "bob"
    room.hear(beat(echo=[room.say()], count=2, leaving=True))
    assert room.presence.name_of(BOB) == "somebody"
