"""The checked log: sections 5 and 9 of docs/protocol.md, rule by rule and row by row.

Rules of this file: a server's log is built here with the protocol's own births, links and heads, so
that every lie is properly signed unless the row says otherwise; a proof counts only if the judge
that needs no log says what it proves, and if it survives its file. What a member does not believe
changes nothing for it: after each refusal the honest next segment still goes on.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zchat.errors import Malformed
from zchat.log.contract import MemoryLog
from zchat.member.checked import CheckedLog, Seen, Segment, ServerContradiction, Step
from zchat.protocol import evidence
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import (
    NO_HEAD,
    NO_LOG,
    Contradiction,
    Genesis,
    Head,
    LogKey,
    Proof,
    chain,
    judge,
)
from zchat.protocol.limits import MAX_BATCH_ENTRIES, MAX_PLACE
from zchat.protocol.wire import Entries, Item, Stored

KEY, OTHER_KEY = LogKey(bytes(range(32))), LogKey(bytes(32))
ROOM, OTHER_ROOM = b"the room's tag..", b"another room's.."

_serial = itertools.count(1)


class Shown(NamedTuple):
    """An ENTRIES with its batch, as the session hands it up."""

    word: Entries
    items: list[Item]

    def but(self, **changed: object) -> "Shown":
        """The same, and something else in the word."""
        return Shown(msgspec.structs.replace(self.word, **changed), self.items)


class Ledger:
    """A log as a server holds it: its births, its envelopes, and the key that signs its heads."""

    def __init__(
        self,
        envelopes: Sequence[bytes] = (),
        parent: "Ledger | None" = None,
        kept: int = 0,
        *,
        room: bytes = ROOM,
        parent_hash: bytes = b"",
    ) -> None:
        self.room = room
        random = next(_serial).to_bytes(16, "big")
        self.genesis = Genesis(room, KEY.public, random)
        if parent is not None:
            past = parent_hash or parent.hash_at(kept)
            self.genesis = Genesis(room, KEY.public, random, parent.log, kept, past)
        self.births: tuple[bytes, ...]
        self.births = (KEY.sign_birth(self.genesis), *(parent.births if parent else ()))[:16]
        self.envelopes = list(envelopes)

    @property
    def log(self) -> bytes:
        return self.genesis.log

    @property
    def n(self) -> int:
        return len(self.envelopes)

    @property
    def ids(self) -> list[bytes]:
        return [envelope_id(envelope) for envelope in self.envelopes]

    def grow(self, count: int) -> "Ledger":
        """More envelopes, that no other log has."""
        self.envelopes += [b"envelope %d" % next(_serial) for _ in range(count)]
        return self

    def branch(self, n: int, count: int) -> "Ledger":
        """The same log with another history behind place n: what a lying server shows others."""
        other = Ledger(self.envelopes[:n], room=self.room)
        other.genesis, other.births = self.genesis, self.births
        return other.grow(count)

    def restored(self, n: int) -> "Ledger":
        """The log a server opens after a restore of the first n entries."""
        return Ledger(self.envelopes[:n], self, n, room=self.room)

    def hash_at(self, n: int) -> bytes:
        return [self.log, *chain(self.log, 1, self.ids)][n]

    def head(self, n: int, expired: int = 0, *, key: LogKey = KEY, room: bytes = b"") -> Head:
        return key.sign_head(room or self.room, self.log, n, self.hash_at(n), expired)

    def items(self, first: int, last: int, bare_to: int = 0) -> list[Item]:
        """Entries first...last; of those up to `bare_to` only the ids."""
        pairs = zip(self.ids, self.envelopes, strict=True)
        whole = [
            Item(entry_id, None) if n <= bare_to else Item(b"", envelope)
            for n, (entry_id, envelope) in enumerate(pairs, 1)
        ]
        return whole[first - 1 : last]

    def show(self, first: int, last: int, *, expired: int = 0, bare_to: int = 0) -> Shown:
        """Entries first...last under their head, with the lineage."""
        return Shown(
            Entries(
                req=0,
                room=self.room,
                log=self.log,
                first=first,
                before=self.hash_at(first - 1),
                head=self.head(last, expired).packed,
                tip=self.n,
                lineage=self.births,
            ),
            self.items(first, last, max(bare_to, expired)),
        )

    def end(self, n: int | None = None, expired: int = 0) -> Shown:
        """No entries, and the head at n, by default the present one."""
        return Shown(
            Entries(
                req=1,
                room=self.room,
                log=self.log,
                first=1,
                before=self.log,
                head=self.head(self.n if n is None else n, expired).packed,
                tip=self.n,
                lineage=self.births,
            ),
            [],
        )

    def receipt(self, start: int, last: int, **changed: object) -> tuple[Stored, list[bytes]]:
        """STORED over places start...last."""
        before, head = self.hash_at(start - 1), self.head(last).packed
        word = Stored(self.room, 1, self.log, start, before, head)
        return msgspec.structs.replace(word, **changed), self.ids[start - 1 : last]


class Reader:
    """A member's checked log, and what it takes from a server."""

    def __init__(self, ledger: Ledger, n: int = 0) -> None:
        self.replica = MemoryLog()
        self.checked = CheckedLog(ROOM, KEY.public, self.replica)
        for first in range(1, n + 1, MAX_BATCH_ENTRIES):
            self.take(ledger.show(first, min(n, first + MAX_BATCH_ENTRIES - 1)))

    def look(self, shown: Shown, *, asked_ids: bool = False) -> Segment:
        """What an ENTRIES means; nothing is kept."""
        return self.checked.check(shown.word, shown.items, asked_ids=asked_ids)

    def take(self, shown: Shown, *, asked_ids: bool = False) -> Segment:
        """Check and, where there is something new, keep."""
        segment = self.look(shown, asked_ids=asked_ids)
        if segment.step is Step.ON:
            self.checked.advance(segment, segment.entries)
            self.checked.settle()
        return segment

    @property
    def state(self) -> tuple[bytes, int, bytes, Head, int]:
        """Everything that a refused segment must leave as it was."""
        c = self.checked
        return (c.log, c.n, c.hash, c.head, c.promised_n())

    def refuses(
        self, shown: Shown, because: str, *, asked_ids: bool = False
    ) -> Contradiction | None:
        """The server contradicted itself, for this reason; nothing has changed. Its proof."""
        before = self.state
        with pytest.raises(ServerContradiction, match=because) as found:
            self.look(shown, asked_ids=asked_ids)
        assert self.state == before
        return found.value.proof


def proves(proof: Contradiction | None) -> Proof | None:
    """What a proof says to somebody who holds nothing but the file."""
    assert proof is not None
    verdict = judge(evidence.unpack(evidence.pack(proof)))
    assert verdict == judge(proof)
    return verdict


@pytest.fixture
def ledger() -> Ledger:
    return Ledger().grow(9)


@pytest.fixture
def reader(ledger: Ledger) -> Reader:
    """A member who has checked five of nine entries."""
    return Reader(ledger, 5)


# ---- rule 1: whose log ----


def test_a_member_without_a_log_takes_the_first_that_its_birth_names(ledger: Ledger) -> None:
    reader = Reader(ledger)
    assert reader.state == (NO_LOG, 0, NO_LOG, NO_HEAD, 0)
    segment = reader.take(ledger.show(1, 4))
    assert segment.step is Step.ON
    assert [entry.envelope for entry in segment.entries] == ledger.envelopes[:4]
    assert reader.state == (ledger.log, 4, ledger.hash_at(4), ledger.head(4), 0)


def test_what_was_checked_is_there_again_after_a_restart(ledger: Ledger, reader: Reader) -> None:
    former = reader.state
    reader.checked = CheckedLog(ROOM, KEY.public, reader.replica)
    assert reader.state == former
    assert reader.checked.replica is reader.replica
    assert [reader.checked.hash_at(n) for n in range(6)] == [ledger.hash_at(n) for n in range(6)]
    assert reader.take(ledger.show(6, 9)).step is Step.ON


def _forged(ledger: Ledger) -> tuple[bytes, ...]:
    birth = ledger.births[0]
    return (birth[:-1] + bytes([birth[-1] ^ 1]),)


def _of_another_room(ledger: Ledger) -> tuple[bytes, ...]:
    return (KEY.sign_birth(ledger.genesis._replace(room=OTHER_ROOM)),)


def _of_another_server(ledger: Ledger) -> tuple[bytes, ...]:
    return (OTHER_KEY.sign_birth(ledger.genesis._replace(log_key=OTHER_KEY.public)),)


@pytest.mark.parametrize(
    "lineage",
    [lambda _: (), _forged, _of_another_room, _of_another_server],
    ids=["none", "forged", "of another room", "of another server"],
)
def test_a_first_log_without_a_sound_lineage_is_the_servers_fault(
    ledger: Ledger, lineage: Callable[[Ledger], tuple[bytes, ...]]
) -> None:
    reader = Reader(ledger)
    shown = ledger.show(1, 2)
    reader.refuses(shown.but(lineage=lineage(ledger)), "cannot say where its log comes from")
    assert reader.take(shown).step is Step.ON


def test_a_first_log_that_was_born_as_another_is_the_servers_fault(ledger: Ledger) -> None:
    shown = ledger.show(1, 2).but(lineage=Ledger().births)
    Reader(ledger).refuses(shown, "not the one it was born as")


def test_a_restored_log_that_names_ours_is_told_from_another_one(
    ledger: Ledger, reader: Reader
) -> None:
    restored = ledger.restored(3).grow(4)
    segment = reader.take(restored.show(1, 7))
    assert (segment.step, segment.kept_n, segment.entries) == (Step.NEW_LOG, 3, [])
    assert segment.births == restored.births
    assert reader.look(restored.end()).step is Step.NEW_LOG
    assert reader.checked.log == ledger.log
    reader.checked.refresh(reader.look(ledger.end(5, expired=4)))
    assert reader.look(restored.end()).step is Step.NEW_LOG  # and may have dropped less


def test_the_lineage_of_a_log_that_we_know_is_not_looked_at(ledger: Ledger, reader: Reader) -> None:
    reader.take(ledger.show(6, 7).but(lineage=Ledger().births))
    assert (reader.checked.log, reader.checked.n) == (ledger.log, 7)
    tip = reader.replica.tip(ROOM)
    assert tip is not None and tip.births == ledger.births


def test_a_restore_from_beyond_our_end_keeps_all_that_we_have(
    ledger: Ledger, reader: Reader
) -> None:
    assert reader.look(ledger.restored(8).end()).kept_n == 5


def test_of_two_restores_in_a_row_the_lower_place_says_what_is_kept(
    ledger: Ledger, reader: Reader
) -> None:
    """The second began from an older copy than the first: only that much is still there."""
    twice = ledger.restored(4).restored(2)
    assert reader.look(twice.end()).kept_n == 2
    assert reader.look(ledger.restored(2).restored(2).grow(3).end()).kept_n == 2


def test_another_log_that_does_not_name_ours_is_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    other = Ledger().grow(3)
    assert reader.refuses(other.end(), "does not name ours") is None
    assert reader.refuses(other.restored(2).show(1, 2), "does not name ours") is None
    stranger = other.restored(2)
    reader.refuses(stranger.end().but(lineage=()), "cannot say where its log comes from")
    reader.refuses(stranger.end().but(lineage=ledger.births), "not the one it was born as")


def test_a_restored_log_that_claims_another_past_of_ours_is_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    for kept in (3, 5):
        claims = Ledger([], ledger, kept, parent_hash=ledger.branch(1, 9).hash_at(kept))
        reader.refuses(claims.end(), "a past that ours never had")
    unknown = Ledger([], ledger, 8, parent_hash=ledger.branch(1, 9).hash_at(8))
    assert reader.look(unknown.end()).step is Step.NEW_LOG  # we were never there


def test_a_room_that_the_server_has_not_is_new_or_gone(ledger: Ledger, reader: Reader) -> None:
    nothing = ledger.end().but(log=NO_LOG, head=b"", tip=0)
    assert Reader(ledger).look(nothing).step is Step.NO_ROOM
    assert reader.look(nothing) == Segment(Step.GONE, [], NO_HEAD)


@pytest.mark.parametrize("more", ["log", "tip", "items"])
def test_entries_without_a_head_are_no_segment(reader: Reader, ledger: Ledger, more: str) -> None:
    whole = ledger.show(1, 1)
    changed = {"log": NO_LOG, "head": b"", "tip": 0} | {more: getattr(whole.word, more, None)}
    items = whole.items if changed.pop("items", None) or more == "items" else []
    with pytest.raises(Malformed):
        reader.look(Shown(whole.but(**changed).word, items))


# ---- rule 2: the head ----


def test_a_head_that_this_server_did_not_sign_for_this_room_is_its_fault(
    ledger: Ledger, reader: Reader
) -> None:
    shown = ledger.show(6, 7)
    by_another = ledger.head(7, key=OTHER_KEY)
    of_another_room = ledger.head(7, room=OTHER_ROOM)
    of_another_log = ledger.restored(7).head(7)
    for head in (by_another, of_another_room, of_another_log):
        reader.refuses(shown.but(head=head.packed), "did not sign for this log")
        reader.refuses(ledger.end().but(head=head.packed), "did not sign for this log")
    assert reader.take(shown).step is Step.ON


def test_what_was_dropped_is_not_kept_again(ledger: Ledger, reader: Reader) -> None:
    reader.take(ledger.show(6, 7, expired=4))
    assert reader.checked.expired == 4
    reader.refuses(ledger.show(8, 9, expired=3), "keep messages again")
    reader.refuses(ledger.end(expired=3), "keep messages again")
    assert reader.take(ledger.show(8, 9, expired=6)).step is Step.ON
    assert reader.checked.expired == 6


def test_a_lower_head_says_as_much_of_what_was_dropped_as_it_can(
    ledger: Ledger, reader: Reader
) -> None:
    reader.take(ledger.show(6, 7, expired=6))
    assert reader.look(ledger.end(4, expired=4)).step is Step.BEHIND
    reader.refuses(ledger.end(4, expired=3), "keep messages again")


# ---- rule 3: where it begins ----


def test_entries_beyond_the_next_place_are_asked_for_again(ledger: Ledger, reader: Reader) -> None:
    assert reader.take(ledger.show(7, 9)).step is Step.GAP
    assert reader.checked.n == 5


def test_entries_that_come_before_the_first_ones_are_asked_for_again(ledger: Ledger) -> None:
    """What said where their log comes from was lost in between; what they promise is owed."""
    reader = Reader(ledger)
    later = ledger.show(2, 4).but(lineage=())
    assert reader.take(later).step is Step.GAP
    assert reader.take(ledger.end().but(lineage=(), first=10)).step is Step.GAP
    assert (reader.checked.log, reader.checked.promised_n()) == (NO_LOG, 9)
    reader.refuses(later.but(log=bytes(32)), "did not sign for this log")
    reader.refuses(ledger.show(1, 4).but(lineage=()), "where its log comes from")
    reader.refuses(ledger.end().but(lineage=(), first=1), "where its log comes from")
    assert reader.take(ledger.show(1, 4)).step is Step.ON


def test_what_is_known_is_compared_and_skipped(ledger: Ledger, reader: Reader) -> None:
    segment = reader.look(ledger.show(3, 8))
    assert [entry.n for entry in segment.entries] == [6, 7, 8]
    known = reader.take(ledger.show(2, 5))
    assert (known.step, known.entries) == (Step.IN_STEP, [])
    assert reader.look(ledger.show(2, 3)).step is Step.IN_STEP


def test_another_entry_at_a_known_place_is_the_servers_fault_and_proved(
    ledger: Ledger, reader: Reader
) -> None:
    fork = ledger.branch(3, 6)
    for first, last, proof in ((3, 4, Proof.OTHER_PAST), (4, 5, Proof.TWO_HASHES)):
        found = reader.refuses(fork.show(first, last), f"another #{last} than before")
        assert proves(found) is proof
    assert proves(reader.refuses(fork.show(2, 8), "another #5 than before")) is Proof.OTHER_PAST
    at_our_end = ledger.branch(4, 4).show(5, 8)
    assert proves(reader.refuses(at_our_end, "another #5 than before")) is Proof.OTHER_PAST


# ---- rule 4: the chain ----


def test_a_log_that_goes_on_from_another_past_is_the_servers_fault_and_proved(
    ledger: Ledger, reader: Reader
) -> None:
    fork = ledger.branch(3, 6)
    for first, last in ((6, 8), (5, 7), (5, 6)):
        found = reader.refuses(fork.show(first, last), f"before #{first} is not the one")
        assert proves(found) is Proof.OTHER_PAST
    assert proves(reader.refuses(fork.show(5, 5), "before #5")) is Proof.TWO_HASHES


def test_a_first_entry_that_does_not_follow_on_the_birth_is_the_servers_fault_and_proved(
    ledger: Ledger,
) -> None:
    """The log id stands for the head at 0, so that even the first segment can be proved wrong."""
    ids = ledger.ids[:2]
    start = bytes(32)
    head = KEY.sign_head(ROOM, ledger.log, 2, chain(start, 1, ids)[-1], 0)
    shown = ledger.show(1, 2).but(before=start, head=head.packed)
    assert proves(Reader(ledger).refuses(shown, "before #1")) is Proof.OTHER_PAST


def test_a_before_that_nobody_signed_proves_nothing(ledger: Ledger, reader: Reader) -> None:
    """The fault shows in the server's frames only, and the frames are not signed."""
    found = reader.refuses(ledger.show(6, 7).but(before=bytes(32)), "before #6")
    assert found is None or judge(found) is None


def test_entries_that_do_not_end_at_their_head_are_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    for n in (6, 8):
        shown = ledger.show(6, 7).but(head=ledger.head(n).packed)
        reader.refuses(shown, "do not end at their head")


def test_entries_that_do_not_fold_into_their_head_are_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    shown = ledger.show(6, 8)
    changed = [shown.items[0], Item(b"", b"something else"), shown.items[2]]
    for items in (changed, shown.items[::-1]):
        reader.refuses(Shown(shown.word, items), "do not fit the head")
    assert reader.take(shown).step is Step.ON


# ---- rule 5: ids ----


def test_an_id_that_stands_twice_is_the_servers_fault_and_proved(
    ledger: Ledger, reader: Reader
) -> None:
    for again in (6, 7, 2):  # in the segment itself, and with what is known
        ledger.envelopes[7:] = [ledger.envelopes[again - 1], b"and one more"]
        found = reader.refuses(ledger.show(6, 9), "a message twice")
        assert proves(found) is Proof.REPEATED_ID


def test_an_id_that_stands_twice_in_the_first_segment_is_proved_from_the_birth(
    ledger: Ledger,
) -> None:
    ledger.envelopes[2] = ledger.envelopes[0]
    found = Reader(ledger).refuses(ledger.show(1, 3), "a message twice")
    assert proves(found) is Proof.REPEATED_ID


def test_a_bare_id_is_taken_only_of_what_is_no_longer_kept(ledger: Ledger, reader: Reader) -> None:
    reader.refuses(ledger.show(6, 8, expired=6, bare_to=7), "holds back")
    segment = reader.take(ledger.show(6, 8, expired=7))
    assert [entry.envelope for entry in segment.entries] == [None, None, ledger.envelopes[7]]
    assert [entry.id for entry in segment.entries] == ledger.ids[5:8]


def test_a_bare_id_that_was_asked_for_is_taken(ledger: Ledger, reader: Reader) -> None:
    segment = reader.take(ledger.show(6, 6, bare_to=6), asked_ids=True)
    assert segment.step is Step.ON
    assert reader.take(ledger.show(7, 9)).step is Step.ON


def test_only_one_id_was_asked_for(ledger: Ledger, reader: Reader) -> None:
    """Or a server could have us pass over as many as it likes, where it kills a connection."""
    reader.refuses(ledger.show(6, 7, bare_to=7), "holds back", asked_ids=True)


# ---- an empty batch ----


def test_the_same_end_is_in_step_and_a_higher_one_is_a_promise(
    ledger: Ledger, reader: Reader
) -> None:
    assert reader.look(ledger.end(5)).step is Step.IN_STEP
    assert reader.checked.promised_n() == 0
    assert reader.look(ledger.end(9)).step is Step.IN_STEP
    assert reader.checked.promised_n() == 9


def test_a_head_of_our_own_end_says_anew_what_is_kept(ledger: Ledger, reader: Reader) -> None:
    for n, expired, kept in ((4, 4, 0), (9, 6, 0), (5, 3, 3), (5, 3, 3), (5, 5, 5)):
        reader.checked.refresh(reader.look(ledger.end(n, expired)))
        assert (reader.checked.n, reader.checked.expired) == (5, kept)
    tip = reader.replica.tip(ROOM)
    assert tip is not None and (tip.n, tip.expired) == (5, 5)


def test_a_lower_end_proves_nothing(ledger: Ledger, reader: Reader) -> None:
    segment = reader.look(ledger.end(3))
    assert (segment.step, segment.kept_n) == (Step.BEHIND, 3)
    assert reader.look(ledger.end(0)).kept_n == 0


def test_an_end_on_another_chain_is_the_servers_fault_and_proved(
    ledger: Ledger, reader: Reader
) -> None:
    fork = ledger.branch(2, 3)
    assert proves(reader.refuses(fork.end(5), "another history up to #5")) is Proof.TWO_HASHES
    assert proves(reader.refuses(fork.end(4), "another history up to #4")) is Proof.OTHER_PAST


def test_who_holds_nothing_is_promised_what_an_empty_batch_shows(ledger: Ledger) -> None:
    reader = Reader(ledger)
    assert reader.look(ledger.end()).step is Step.IN_STEP
    assert reader.checked.promised_n() == 9
    with pytest.raises(ServerContradiction, match="another history up to #9"):
        reader.take(Ledger().grow(3).show(1, 3))


# ---- `seen`: the table of section 9 ----


class Family(NamedTuple):
    """A log that was restored twice, and a member who has checked eight entries of the last.

    The first log went to 9 and was kept to 6, the second went to 9 and was kept to 4: so the last
    one has four entries of both.
    """

    first: Ledger
    second: Ledger
    last: Ledger
    reader: Reader


@pytest.fixture
def family() -> Family:
    first = Ledger().grow(9)
    second = first.restored(6).grow(3)
    last = second.restored(4).grow(5)
    return Family(first, second, last, Reader(last, 8))


def unsigned(head: Head) -> Head:
    """The same place, and a signature that does not hold."""
    return head._replace(signature=bytes(64))


Row = tuple[Callable[[Family], Head], int, Seen, Seen]

SIGNED_AND_NOT: dict[str, Row] = {
    "n is 0": (lambda f: Ledger().head(0), 3, Seen.FITS, Seen.FITS),
    "n is 0, log is mine": (lambda f: f.last.head(0), 3, Seen.FITS, Seen.FITS),
    "mine, below, on my chain": (lambda f: f.last.head(6), 7, Seen.FITS, Seen.FITS),
    "mine, my very end": (lambda f: f.last.head(8), 9, Seen.FITS, Seen.FITS),
    "mine, below, off my chain": (
        lambda f: f.last.branch(5, 4).head(6),
        7,
        Seen.FORK,
        Seen.FORGED,
    ),
    "mine, at its own place, even on my chain": (
        lambda f: f.last.head(7),
        7,
        Seen.FORK,
        Seen.FORGED,
    ),
    "mine, above its own place": (lambda f: f.last.head(9), 7, Seen.FORK, Seen.FORGED),
    "the parent's, in what is shared": (lambda f: f.second.head(4), 7, Seen.FITS, Seen.FITS),
    "the parent's, shared, off its chain": (
        lambda f: f.second.branch(2, 7).head(4),
        7,
        Seen.FORK,
        Seen.FORGED,
    ),
    "the parent's, shared, at its own place": (
        lambda f: f.second.head(3),
        3,
        Seen.FORK,
        Seen.FORGED,
    ),
    "the parent's, shared, above its own place": (
        lambda f: f.second.head(4),
        2,
        Seen.FORK,
        Seen.FORGED,
    ),
    "the parent's, lost": (lambda f: f.second.head(5), 7, Seen.LOST, Seen.FORGED),
    "the parent's, lost, above its own place": (
        lambda f: f.second.head(9),
        7,
        Seen.LOST,
        Seen.FORGED,
    ),
    "the first log's, in what all share": (lambda f: f.first.head(4), 7, Seen.FITS, Seen.FITS),
    "the first log's, kept once and lost then": (
        lambda f: f.first.head(5),
        7,
        Seen.LOST,
        Seen.FORGED,
    ),
    "another log": (lambda f: Ledger().grow(9).head(3), 7, Seen.OTHER_LOG, Seen.FORGED),
    "a log restored from mine": (
        lambda f: f.last.restored(4).head(3),
        7,
        Seen.OTHER_LOG,
        Seen.FORGED,
    ),
}


@pytest.mark.parametrize("case", SIGNED_AND_NOT)
def test_a_counter_signed_head_is_judged_by_the_first_row_that_fits(
    family: Family, case: str
) -> None:
    make, place, if_signed, if_not = SIGNED_AND_NOT[case]
    head = make(family)
    assert family.reader.checked.judge(head, place) is if_signed
    assert family.reader.checked.judge(unsigned(head), place) is if_not
    of_another_room = family.reader.checked.judge(
        KEY.sign_head(OTHER_ROOM, head.log, head.n, head.hash, head.expired), place
    )
    assert of_another_room is if_not


def test_a_head_of_a_former_log_is_compared_across_many_batches() -> None:
    """More entries than one reading of a replica gives."""
    former = Ledger().grow(MAX_BATCH_ENTRIES + 100)
    last = former.restored(former.n).grow(1)
    reader = Reader(last, last.n)
    assert reader.checked.judge(former.head(former.n), last.n) is Seen.FITS
    fork = former.branch(1, former.n - 1)
    assert reader.checked.judge(fork.head(former.n), last.n) is Seen.FORK
    assert proves(reader.checked.proof_against(last.branch(1, 3).head(2))) is Proof.OTHER_PAST


# ---- former logs ----


def test_what_a_log_claims_of_its_parent_is_checked_when_that_much_is_there() -> None:
    former = Ledger().grow(6)
    claims = Ledger(former.envelopes[:4], former, 4, parent_hash=former.branch(1, 5).hash_at(4))
    claims.grow(5)
    reader = Reader(claims, 3)
    with pytest.raises(ServerContradiction, match="a past that it does not hold"):
        reader.take(claims.show(4, 4))
    assert reader.checked.n == 4
    assert reader.take(claims.show(5, 9)).step is Step.ON  # it is told once


def test_a_claim_on_a_past_that_a_later_restore_cut_off_is_not_held_against_it() -> None:
    """What the first restore kept beyond the second can no longer be folded by anybody."""
    former = Ledger().grow(6)
    claims = Ledger(former.envelopes[:4], former, 4, parent_hash=former.branch(1, 5).hash_at(4))
    last = Ledger(claims.envelopes[:2], claims, 2).grow(5)
    assert Reader(last, 7).checked.n == 7


def test_a_restored_log_that_holds_what_it_claims_is_believed(family: Family) -> None:
    family.reader.checked.settle()
    assert family.reader.checked.n == 8


def test_a_restore_of_nothing_goes_on_from_the_start() -> None:
    former = Ledger().grow(3)
    empty = former.restored(0).grow(2)
    reader = Reader(empty, 2)
    assert reader.checked.judge(former.head(1), 2) is Seen.LOST


# ---- heads heard outside the log, and receipts ----


def test_a_head_within_our_end_is_decided_at_once(ledger: Ledger, reader: Reader) -> None:
    assert reader.checked.witness(NO_HEAD) is Seen.FITS
    assert reader.checked.witness(ledger.head(5)) is Seen.FITS
    assert reader.checked.witness(ledger.branch(2, 5).head(4)) is Seen.FORK
    first = ledger.branch(0, 1).head(1)
    assert reader.checked.witness(first) is Seen.FORK
    assert proves(reader.checked.proof_against(first)) is Proof.OTHER_PAST
    assert reader.checked.witness(Ledger().grow(2).head(2)) is Seen.OTHER_LOG
    assert reader.checked.witness(unsigned(ledger.branch(2, 5).head(4))) is Seen.FORGED
    assert reader.checked.promised_n() == 0


def test_a_head_beyond_our_end_waits_until_our_chain_gets_there(
    ledger: Ledger, reader: Reader
) -> None:
    fork = ledger.branch(6, 5)
    assert reader.checked.witness(unsigned(fork.head(8))) is Seen.FORGED
    assert reader.checked.witness(fork.head(8), keep=False) is Seen.AHEAD
    assert reader.checked.promised_n() == 0
    assert reader.checked.witness(ledger.head(7)) is Seen.AHEAD
    assert reader.checked.witness(fork.head(8)) is Seen.AHEAD
    assert reader.checked.promised_n() == 8
    assert reader.take(ledger.show(6, 7)).step is Step.ON
    assert reader.checked.promised_n() == 8
    with pytest.raises(ServerContradiction, match="another history up to #8") as found:
        reader.take(ledger.show(8, 9))
    assert proves(found.value.proof) is Proof.OTHER_PAST
    reader.checked.settle()  # it is told once
    assert reader.checked.promised_n() == 0


def test_every_head_that_waited_is_decided_one_after_the_other(
    ledger: Ledger, reader: Reader
) -> None:
    for n in (7, 8):
        reader.checked.witness(ledger.branch(6, 5).head(n))
    with pytest.raises(ServerContradiction, match="up to #7"):
        reader.take(ledger.show(6, 9))
    with pytest.raises(ServerContradiction, match="up to #8"):
        reader.checked.settle()
    reader.checked.settle()


def test_a_head_of_a_former_log_waits_only_where_ours_will_get_there(family: Family) -> None:
    reader = Reader(family.last, 2)
    assert reader.checked.witness(family.second.head(4)) is Seen.AHEAD
    assert reader.checked.witness(family.second.branch(2, 2).head(3)) is Seen.AHEAD
    assert reader.checked.witness(family.second.head(5)) is Seen.LOST
    with pytest.raises(ServerContradiction, match="another history up to #3") as found:
        reader.take(family.last.show(3, 5))
    assert found.value.proof is None  # a proof needs two heads of one log
    reader.checked.settle()
    assert reader.checked.promised_n() == 0


def test_who_holds_no_log_keeps_every_signed_head_for_later(ledger: Ledger) -> None:
    reader = Reader(ledger)
    assert reader.checked.witness(unsigned(ledger.head(2))) is Seen.FORGED
    assert reader.checked.witness(ledger.head(2)) is Seen.AHEAD
    assert reader.checked.witness(Ledger().grow(4).head(3)) is Seen.AHEAD
    with pytest.raises(ServerContradiction, match="another history up to #3"):
        reader.take(ledger.show(1, 4))


def test_of_too_many_heads_at_least_64_are_kept(ledger: Ledger, reader: Reader) -> None:
    """Whoever can sign heads could otherwise fill a member's memory."""
    forks = [ledger.branch(5, 100)] + [ledger.branch(5, 1) for _ in range(100)]
    for n in range(6, 6 + 64):
        reader.checked.witness(forks[0].head(n))
    assert reader.checked.promised_n() == 69
    for fork in forks[1:]:
        reader.checked.witness(fork.head(6))
    raised = 0
    ledger.grow(100)
    segment = reader.look(ledger.show(6, 100))
    reader.checked.advance(segment, segment.entries)
    for _ in range(200):
        try:
            reader.checked.settle()
        except ServerContradiction:
            raised += 1
    assert raised == 64


def test_a_receipt_of_ours_that_holds_is_owed_until_our_log_gets_there(
    ledger: Ledger, reader: Reader
) -> None:
    for first, last in ((5, 5), (4, 9), (9, 9), (1, 9)):
        reader.checked.check_receipt(*ledger.receipt(first, last), owed=last == 9)
    assert reader.checked.promised_n() == 9
    assert reader.checked.owed == {ledger.head(9)}
    reader.take(ledger.show(6, 9))
    assert reader.checked.owed == set()


def test_no_other_heads_push_out_what_is_owed(ledger: Ledger, reader: Reader) -> None:
    """Of those, 64 are kept: a server could speak of as many that it keeps, and drop the one."""
    reader.checked.check_receipt(*ledger.branch(5, 3).receipt(6, 8), owed=True)
    forks = [ledger.branch(5, 1) for _ in range(100)]
    for fork in forks:
        reader.checked.witness(fork.head(6))
    reader.checked.glimpse(ledger.show(8, 9).word, ledger.show(8, 9).items)
    with pytest.raises(ServerContradiction, match="another history up to #6"):
        reader.take(ledger.show(6, 9))
    told = set()
    for _ in range(70):
        try:
            reader.checked.settle()
        except ServerContradiction as found:
            told.add(str(found))
    assert told == {f"it signed another history up to #{n}" for n in (6, 8)}


def test_a_receipt_that_does_not_fold_into_its_head_is_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    word, ids = ledger.receipt(6, 8)
    wrong: list[tuple[Stored, list[bytes]]] = [
        (word, ids[:-1]),
        (word, ids[::-1]),
        (word, [bytes(32), *ids[1:]]),
        ledger.receipt(6, 8, first=5),
        ledger.receipt(6, 8, before=bytes(32)),
        ledger.receipt(6, 8, log=ledger.restored(8).log),
        ledger.receipt(6, 8, head=unsigned(ledger.head(8)).packed),
        ledger.receipt(6, 8, head=ledger.head(8, room=OTHER_ROOM).packed),
    ]
    for stored, names in wrong:
        with pytest.raises(ServerContradiction, match="a receipt that does not hold") as found:
            reader.checked.check_receipt(stored, names, owed=True)
        assert found.value.proof is None
    assert reader.checked.promised_n() == 0


def test_a_receipt_for_another_history_is_the_servers_fault_and_proved(
    ledger: Ledger, reader: Reader
) -> None:
    fork = ledger.branch(3, 6)
    for last, proof in ((4, Proof.OTHER_PAST), (5, Proof.TWO_HASHES)):
        with pytest.raises(ServerContradiction, match=f"up to #{last}") as found:
            reader.checked.check_receipt(*fork.receipt(4, last), owed=True)
        assert proves(found.value.proof) is proof
    with pytest.raises(ServerContradiction, match="another history") as found:
        reader.checked.check_receipt(*Ledger().grow(3).receipt(1, 3), owed=False)
    assert found.value.proof is None


def test_a_receipt_beyond_our_end_binds_what_comes_to_stand_there(
    ledger: Ledger, reader: Reader
) -> None:
    reader.checked.check_receipt(*ledger.branch(5, 3).receipt(6, 8), owed=False)
    with pytest.raises(ServerContradiction, match="another history up to #8") as found:
        reader.take(ledger.show(6, 9))
    assert proves(found.value.proof) is Proof.OTHER_PAST


def test_a_receipt_of_a_log_that_the_server_gave_up_confirms_nothing(ledger: Ledger) -> None:
    reader = Reader(ledger.restored(5), 5)
    with pytest.raises(ServerContradiction, match="its receipt for #8 is of a log that it gave up"):
        reader.checked.check_receipt(*ledger.receipt(6, 8), owed=True)
    reader.checked.check_receipt(*ledger.receipt(2, 5), owed=True)


def test_who_begins_anew_is_not_shown_less_than_what_is_owed(ledger: Ledger) -> None:
    """No room, another log, or one that lost it: whoever reads anew holds only the receipts."""
    reader = Reader(ledger)
    reader.checked.witness(ledger.head(9), owed=True)
    no_room = ledger.end(0).but(log=NO_LOG, head=b"", tip=0)
    reader.refuses(no_room, "it has no such room, and signed #9 of it")
    reader.refuses(Ledger().grow(3).show(1, 3), "it signed #9 of another log of this room")
    reader.refuses(Ledger().grow(3).end(), "it signed #9 of another log of this room")
    with pytest.raises(ServerContradiction, match="it lost #9 of what it had signed to us"):
        reader.take(ledger.restored(5).show(1, 5))


def test_there_is_no_proof_against_what_we_cannot_compare(ledger: Ledger, reader: Reader) -> None:
    for head in (NO_HEAD, ledger.head(6), Ledger().grow(3).head(3)):
        assert reader.checked.proof_against(head) is None


# ---- the newest entries ahead of the rest ----


def test_a_glimpse_gives_what_folds_into_a_head_that_our_chain_must_reach(
    ledger: Ledger, reader: Reader
) -> None:
    word, items = ledger.show(8, 9)
    assert [entry.envelope for entry in reader.checked.glimpse(word, items)] == ledger.envelopes[7:]
    assert reader.checked.n == 5
    assert reader.checked.promised_n() == 9
    assert reader.take(ledger.show(6, 9)).step is Step.ON


def test_a_glimpse_of_another_history_is_found_out_when_our_chain_gets_there(
    ledger: Ledger, reader: Reader
) -> None:
    reader.checked.glimpse(*ledger.branch(6, 4).show(8, 9))
    with pytest.raises(ServerContradiction, match="another history up to #9") as found:
        reader.take(ledger.show(6, 9))
    assert proves(found.value.proof) is Proof.TWO_HASHES


def test_a_glimpse_that_does_not_fit_its_head_is_the_servers_fault(
    ledger: Ledger, reader: Reader
) -> None:
    shown = ledger.show(8, 9)
    wrong = {
        "did not sign": shown.but(head=unsigned(ledger.head(9)).packed),
        "do not end at their head": Shown(shown.word, shown.items[:1]),
        "do not fit the head": Shown(shown.word, shown.items[::-1]),
    }
    for because, told in wrong.items():
        with pytest.raises(ServerContradiction, match=because):
            reader.checked.glimpse(*told)
    assert reader.checked.promised_n() == 0


def test_a_page_that_shows_nothing_beyond_our_end_is_no_glimpse(
    ledger: Ledger, reader: Reader
) -> None:
    nothing = Shown(ledger.show(8, 9).but(head=ledger.head(7).packed).word, [])
    for shown in (ledger.show(6, 9), ledger.restored(9).show(8, 9), nothing):
        with pytest.raises(Malformed):
            reader.checked.glimpse(*shown)
    assert len(reader.checked.glimpse(*ledger.show(7, 9))) == 3


# ---- whatever an honest server does ----


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 12))))
def test_no_honest_segment_is_ever_held_against_its_server(
    looks: list[tuple[int, int, int]],
) -> None:
    """In any order, repeated, with holes, with ever more expired: it goes on, or asks again."""
    ledger = Ledger().grow(12)
    reader = Reader(ledger)
    expired = 0
    for one, other, gone in looks:
        first, last = sorted((one, other))
        expired = max(expired, min(gone, last, reader.checked.n))
        before = reader.checked.n
        segment = reader.take(ledger.show(first, last, expired=min(expired, last)))
        if first > before + 1:
            assert segment.step is Step.GAP
        else:
            assert reader.checked.n == max(before, last)
        reader.checked.witness(ledger.head(other, min(expired, other)))
        reader.checked.check_receipt(*ledger.receipt(first, last), owed=bool(other % 2))
        if reader.checked.n:
            assert reader.checked.hash == ledger.hash_at(reader.checked.n)


def test_the_widest_place_is_no_way_around_a_comparison(ledger: Ledger, reader: Reader) -> None:
    far = KEY.sign_head(ROOM, ledger.log, MAX_PLACE, bytes(32), 0)
    assert reader.checked.judge(far, 5) is Seen.FORK
    assert reader.checked.witness(far) is Seen.AHEAD
    assert reader.checked.promised_n() == MAX_PLACE
