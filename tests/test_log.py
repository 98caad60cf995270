"""Every log is a log: one suite over all of them, written from what log/contract.py promises.

`MemoryLog` is the specification; a log in a file and the overlay must answer as it does. Then what
only files can do: last, be read beside their writer, be torn, be somebody else's.

Rules of this file: what another process would do is done by another process; a file is damaged as
bytes, never through the program.
"""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.processes import HERE, finished, python
from zchat.database import Access, Database, Migration
from zchat.errors import (
    RoomDamaged,
    StoreBusy,
    StoreDamaged,
    StoreEmpty,
    StoreTrouble,
    StoreUnreadable,
)
from zchat.log.contract import Addition, BrokerLog, Entry, Log, MemoryLog, Tip
from zchat.log.ends import Ends, Lost, ends_path, lost
from zchat.log.guarded import GuardedLog
from zchat.log.overlay import Overlay
from zchat.log.sound import damages
from zchat.log.sqlite import SCHEMA, SqliteLog
from zchat.member.vault import SCHEMA as VAULT_SCHEMA
from zchat.member.vault import Vault
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import Genesis, LogKey, chain, link
from zchat.protocol.limits import (
    BIRTH_BYTES,
    HEAD_BYTES,
    ITEM_PREFIX_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_ENVELOPE_BYTES,
)

OF_A_LOG = [access for access in Access if access is not Access.SHARED]  # a log has one writer
ROOM, OTHER, NOWHERE = b"room" * 4, b"other123" * 2, bytes(16)
LOG_ID = b"log " * 8
BIRTHS = (b"b" * BIRTH_BYTES, b"a" * BIRTH_BYTES)
MAKER = b"k" * 32


def entry(n: int, envelope: bytes | None = b"sealed", id_of: int = 0) -> Entry:
    """Entry n; `id_of` gives it the id of another one. A store never checks a hash."""
    return Entry(
        n=n,
        id=b"id%30d" % (id_of or n),
        hash=b"hash%28d" % n,
        envelope=envelope,
        arrived_ms=1_000_000 + n,
        live=n % 2 == 0,
    )


def adding(
    *entries: Entry, room: bytes = ROOM, log: bytes = LOG_ID, head: bytes = b"", expired: int = 0
) -> Addition:
    return Addition(room, entries, log, BIRTHS, MAKER, head, expired)


def numbered(first: int, last: int, envelope: bytes | None = b"sealed") -> list[Addition]:
    """Entries first...last, each in an addition of its own."""
    return [adding(entry(n, envelope)) for n in range(first, last + 1)]


def whole(log: Log, room: bytes = ROOM) -> list[Entry]:
    """Everything a log holds of a room, page by page."""
    tip = log.tip(room)
    entries: list[Entry] = []
    while tip is not None and len(entries) < tip.n:
        entries += log.read(room, len(entries) + 1, tip.n)
    return entries


# ---- the kinds of logs ----


def in_memory(folder: Path) -> MemoryLog:
    return MemoryLog()


def in_file(folder: Path) -> SqliteLog:
    return SqliteLog(folder / "log.db", Access.ONE_WRITER)


def in_replica(folder: Path) -> SqliteLog:
    return SqliteLog(folder / "log.db", Access.REPLICA)


Kind = Callable[[Path, Sequence[Addition]], Log]


def filled(make: Callable[[Path], Log]) -> Kind:
    """A log of that kind, with these additions in it."""

    def made(folder: Path, additions: Sequence[Addition]) -> Log:
        log = make(folder)
        for addition in additions:
            log.append([addition])
        return log

    return made


def overlay_on_nothing(folder: Path, additions: Sequence[Addition]) -> Overlay:
    """A second process that came while the first had nothing yet."""
    return _overlaid(MemoryLog(), additions)


def overlay_on_half(folder: Path, additions: Sequence[Addition]) -> Overlay:
    """The first half stands in what is only read, the second is one's own."""
    return _overlaid(filled(in_memory)(folder, _half(additions)), additions)


def overlay_on_all(folder: Path, additions: Sequence[Addition]) -> Overlay:
    """Everything stands in what is only read."""
    return _overlaid(filled(in_memory)(folder, additions), additions)


def overlay_on_file(folder: Path, additions: Sequence[Addition]) -> Overlay:
    """As a member has it: over the file that another process writes, and has written on since."""
    writer = filled(in_replica)(folder, _half(additions))
    base: Log = MemoryLog()
    if _half(additions):
        base = SqliteLog(folder / "log.db", Access.READ_ONLY)
    overlay = Overlay(base, ROOM)
    for addition in additions[len(additions) // 2 :]:
        writer.append([addition])
        overlay.append([addition])
    writer.close()
    return overlay


def _half(additions: Sequence[Addition]) -> Sequence[Addition]:
    return additions[: len(additions) // 2]


def _overlaid(base: Log, additions: Sequence[Addition]) -> Overlay:
    """An overlay that goes on where `base` ends."""
    overlay = Overlay(base, ROOM)
    tip = base.tip(ROOM)
    held = tip.n if tip else 0
    for addition in additions:
        if addition.entries and addition.entries[0].n > held:
            overlay.append([addition])
    return overlay


WRITABLE: dict[str, Kind] = {
    "memory": filled(in_memory),
    "file": filled(in_file),
    "replica": filled(in_replica),
    "overlay-on-nothing": overlay_on_nothing,
    "overlay-on-half": overlay_on_half,
    "overlay-on-all": overlay_on_all,
    "overlay-on-file": overlay_on_file,
}


def read_only(access: Access) -> Kind:
    """Closed by its writer, opened again for reading."""

    def made(folder: Path, additions: Sequence[Addition]) -> Log:
        writer = SqliteLog(folder / "log.db", access)
        for addition in additions:
            writer.append([addition])
        writer.close()
        return SqliteLog(folder / "log.db", Access.READ_ONLY)

    return made


READABLE: dict[str, Kind] = {
    **WRITABLE,
    "file-read-only": read_only(Access.ONE_WRITER),
    "replica-read-only": read_only(Access.REPLICA),
}
Opener = Callable[[Sequence[Addition]], Log]


def _opened(kind: Kind, folder: Path) -> Iterator[Opener]:
    logs: list[Log] = []

    def opened(additions: Sequence[Addition]) -> Log:
        logs.append(kind(folder, additions))
        return logs[-1]

    yield opened
    for log in logs:
        log.close()


@pytest.fixture(params=READABLE)
def log_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """A log of every kind that holds the additions it is called with."""
    yield from _opened(READABLE[request.param], tmp_path)


@pytest.fixture(params=WRITABLE)
def writable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """The same, without those that may only be read."""
    yield from _opened(WRITABLE[request.param], tmp_path)


@pytest.fixture(params=[in_memory, in_file, in_replica])
def broker_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerLog]:
    """An empty log of each kind that a broker could have."""
    log: BrokerLog = request.param(tmp_path)
    yield log
    log.close()


# ---- what every log answers ----


def test_a_room_that_nobody_made_is_not_there(log_of: Opener) -> None:
    log = log_of(numbered(1, 2))
    assert log.tip(NOWHERE) is None
    assert log.place_of(NOWHERE, entry(1).id) == 0


def test_what_is_appended_is_read_back_as_it_was(log_of: Opener) -> None:
    """Also a bare id, an envelope of no bytes, and the longest one."""
    entries = [
        *(entry(1), entry(2, None), entry(3, b""), entry(4, bytes(MAX_ENVELOPE_BYTES)), entry(5))
    ]
    log = log_of([adding(one) for one in entries])
    assert whole(log) == entries
    for one in entries:
        assert log.read(ROOM, one.n, one.n) == [one]
        assert log.place_of(ROOM, one.id) == one.n
        assert log.hash_at(ROOM, one.n) == one.hash
    assert log.hash_at(ROOM, 0) == LOG_ID
    assert log.place_of(ROOM, b"never stored") == 0


def test_the_tip_says_where_a_log_ends(log_of: Opener) -> None:
    """With its lineage, its weight on the wire, and the last head checked."""
    head = b"h" * HEAD_BYTES
    log = log_of([adding(entry(1)), adding(entry(2, None), head=head, expired=1)])
    weight = 2 * ITEM_PREFIX_BYTES + len(b"sealed") + len(entry(2).id)
    assert log.tip(ROOM) == Tip(BIRTHS, LOG_ID, 2, entry(2).hash, weight, 1, head)


def test_an_addition_can_hold_many_entries(log_of: Opener) -> None:
    """One page more than a read gives at once."""
    count = MAX_BATCH_ENTRIES + 1
    log = log_of([adding(*(entry(n) for n in range(1, count + 1)))])
    assert len(log.read(ROOM, 1, count)) == MAX_BATCH_ENTRIES
    assert [one.n for one in whole(log)] == list(range(1, count + 1))


def test_reading_is_cut_by_entries_and_by_bytes(log_of: Opener) -> None:
    """Also where the cut lies beyond the border of an overlay."""
    log = log_of(numbered(1, 8))
    each = entry(1).wire_bytes
    for first in range(1, 9):
        for most in range(1, 9):
            expected = list(range(first, min(8, first + most - 1) + 1))
            assert [e.n for e in log.read(ROOM, first, 8, most_entries=most)] == expected
            for spare in (0, each - 1):
                cut = log.read(ROOM, first, 8, most_bytes=most * each + spare)
                assert [e.n for e in cut] == expected


def test_the_first_entry_is_read_however_long_it_is(log_of: Opener) -> None:
    log = log_of(numbered(1, 4, bytes(MAX_ENVELOPE_BYTES)))
    for first in range(1, 5):
        assert [e.n for e in log.read(ROOM, first, 4, most_bytes=1)] == [first]
    assert [e.n for e in log.read(ROOM, 1, 4)] == [1, 2]


def test_reading_stops_at_the_end_and_an_empty_range_is_empty(log_of: Opener) -> None:
    log = log_of(numbered(1, 4))
    for first in range(1, 5):
        assert [e.n for e in log.read(ROOM, first, 100)] == list(range(first, 5))
        assert log.read(ROOM, first, first - 1) == []
    assert log.read(ROOM, 5, 100) == []


def test_a_closed_log_can_be_closed_again(log_of: Opener) -> None:
    log = log_of(numbered(1, 2))
    log.close()
    log.close()


# ---- what every log that can be written keeps ----


def test_the_first_addition_makes_the_room(writable: Opener) -> None:
    """Births and log id are those of the first, entries or not."""
    log = writable([])
    log.append([adding()])
    assert log.tip(ROOM) == Tip(BIRTHS, LOG_ID, 0, LOG_ID, 0, 0)
    assert log.hash_at(ROOM, 0) == LOG_ID
    assert log.read(ROOM, 1, 1) == []
    log.append([Addition(ROOM, [entry(1)], LOG_ID, births=(b"c" * BIRTH_BYTES,))])
    tip = log.tip(ROOM)
    assert tip is not None
    assert (tip.births, tip.n, tip.hash) == (BIRTHS, 1, entry(1).hash)


def test_a_head_is_replaced_and_the_expired_never_come_back(writable: Opener) -> None:
    log = writable(numbered(1, 4))
    for head, expired, expected in ((b"1", 2, 2), (b"2", 1, 2), (b"", 3, 3)):
        log.append([adding(head=head, expired=expired)])
        tip = log.tip(ROOM)
        assert tip is not None
        assert (tip.n, tip.hash, tip.head, tip.expired) == (4, entry(4).hash, head, expected)


BROKEN: dict[str, list[Addition]] = {
    "a hole": [adding(entry(5), entry(7))],
    "a place that is taken": [adding(entry(4))],
    "a place beyond the end": [adding(entry(6))],
    "places backwards": [adding(entry(5), entry(4))],
    "an id of the first half": [adding(entry(5), entry(6, id_of=1))],
    "the last id": [adding(entry(5, id_of=4))],
    "one id twice at once": [adding(entry(5), entry(6, id_of=5))],
    "another log": [adding(entry(5), log=b"else" * 8)],
    "a room twice at once": [adding(entry(5)), adding(entry(6))],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_order_is_refused_whole(writable: Opener, broken: list[Addition]) -> None:
    """Nothing of it is kept, not even what came before the breach; the next one is taken."""
    log = writable(numbered(1, 4))
    before = (log.tip(ROOM), whole(log))
    with pytest.raises((AssertionError, StoreTrouble)):
        log.append(broken)
    assert (log.tip(ROOM), whole(log)) == before
    for n in (5, 6, 7):
        assert log.place_of(ROOM, entry(n).id) == 0
    log.append([adding(entry(5), entry(6))])
    assert whole(log) == [entry(n) for n in range(1, 7)]


class Interrupted(Exception):
    """Something else went wrong while a log was given its additions."""


def test_additions_that_end_in_an_error_leave_nothing(writable: Opener) -> None:
    def interrupted() -> Iterator[Addition]:
        yield adding(entry(3))
        raise Interrupted

    log = writable(numbered(1, 2))
    before = log.tip(ROOM)
    with pytest.raises(Interrupted):
        log.append(interrupted())
    assert log.tip(ROOM) == before
    assert log.place_of(ROOM, entry(3).id) == 0
    log.append([adding(entry(3))])
    assert whole(log) == [entry(1), entry(2), entry(3)]


def test_a_breach_in_one_room_undoes_the_others(broker_log: BrokerLog) -> None:
    """A turn is one commit, whatever the number of rooms: a room it made is gone, too."""
    broker_log.append([adding(entry(1))])
    with pytest.raises((AssertionError, StoreTrouble)):
        broker_log.append(
            [adding(entry(1), room=OTHER), adding(entry(2)), adding(entry(5), room=NOWHERE)]
        )
    assert list(broker_log.rooms()) == [ROOM]
    assert broker_log.tip(OTHER) is None
    assert whole(broker_log) == [entry(1)]
    broker_log.append([adding(entry(2)), adding(entry(1), room=OTHER)])
    assert (whole(broker_log), whole(broker_log, OTHER)) == ([entry(1), entry(2)], [entry(1)])


# ---- what a broker asks besides ----


def test_rooms_are_apart(broker_log: BrokerLog) -> None:
    """Ids, places, logs and weights of one say nothing about another."""
    broker_log.append(
        [adding(entry(1), entry(2)), adding(entry(1, b"x"), room=OTHER, log=b"o" * 32)]
    )
    broker_log.append([adding(entry(2, b"y", id_of=9), room=OTHER, log=b"o" * 32)])
    assert whole(broker_log, ROOM) == [entry(1), entry(2)]
    assert whole(broker_log, OTHER) == [entry(1, b"x"), entry(2, b"y", id_of=9)]
    assert broker_log.place_of(ROOM, entry(9).id) == 0
    assert broker_log.place_of(OTHER, entry(9).id) == 2
    assert broker_log.hash_at(OTHER, 0) == b"o" * 32


def test_rooms_are_counted_and_belong_to_who_made_them(broker_log: BrokerLog) -> None:
    assert (broker_log.count_rooms(), list(broker_log.rooms())) == (0, [])
    assert broker_log.rooms_made_by(MAKER) == 0
    broker_log.append([adding(entry(1)), adding(room=OTHER)])
    broker_log.append([Addition(NOWHERE, [], LOG_ID, BIRTHS, maker=b"another")])
    broker_log.append([Addition(ROOM, [entry(2)], LOG_ID, BIRTHS, maker=b"another")])
    assert broker_log.count_rooms() == 3
    assert sorted(broker_log.rooms()) == sorted([ROOM, OTHER, NOWHERE])
    assert (broker_log.rooms_made_by(MAKER), broker_log.rooms_made_by(b"another")) == (2, 1)


def test_many_reads_at_once_find_what_single_ones_find(broker_log: BrokerLog) -> None:
    """Also where nothing was read, where reading failed, and right before and behind a commit."""
    with broker_log.reading():
        assert broker_log.tip(ROOM) is None
    broker_log.append([adding(entry(1))])
    with broker_log.reading():
        pass
    with suppress(ZeroDivisionError), broker_log.reading():
        assert broker_log.place_of(ROOM, entry(1).id) == 1
        raise ZeroDivisionError
    broker_log.append([adding(entry(2))])
    with broker_log.reading():
        assert [broker_log.place_of(ROOM, entry(n).id) for n in (1, 2, 3)] == [1, 2, 0]
        assert [held.n for held in broker_log.read(ROOM, 1, 2)] == [1, 2]
    broker_log.append([adding(entry(3))])
    assert broker_log.place_of(ROOM, entry(3).id) == 3


def test_the_weight_between_two_places_is_what_lies_between(broker_log: BrokerLog) -> None:
    entries = [entry(n, None if n % 3 == 0 else bytes(n * 10)) for n in range(1, 8)]
    broker_log.append([adding(*entries)])
    for after in range(8):
        for upto in range(after, 8):
            expected = sum(one.wire_bytes for one in entries[after:upto])
            assert broker_log.weight(ROOM, after, upto) == expected


def test_of_what_is_expired_the_ids_are_kept_and_nothing_moves(broker_log: BrokerLog) -> None:
    """Chain, places and weights stand as before; it never goes back."""
    broker_log.append([adding(*(entry(n) for n in range(1, 6)))])
    broker_log.append([adding(entry(1), room=OTHER)])
    before = broker_log.tip(ROOM)
    assert before is not None
    for upto, expired in ((0, 0), (2, 2), (1, 2), (3, 3)):
        broker_log.expire(ROOM, upto)
        assert broker_log.tip(ROOM) == before._replace(expired=expired)
    assert whole(broker_log) == [entry(n, None if n <= 3 else b"sealed") for n in range(1, 6)]
    assert whole(broker_log, OTHER) == [entry(1)]
    for n in range(1, 6):
        assert (broker_log.place_of(ROOM, entry(n).id), broker_log.hash_at(ROOM, n)) == (
            n,
            entry(n).hash,
        )
        assert broker_log.weight(ROOM, 0, n) == n * entry(1).wire_bytes
    broker_log.append([adding(entry(6))])
    assert broker_log.tip(ROOM) == Tip(BIRTHS, LOG_ID, 6, entry(6).hash, 60, 3)


def test_the_first_kept_is_young_enough_and_not_beyond_the_bytes(broker_log: BrokerLog) -> None:
    """Entry n arrived at 1,000,000 + n and weighs 10; there is always an answer."""
    broker_log.append([adding(*(entry(n) for n in range(1, 6)))])
    for first in range(1, 7):
        assert broker_log.first_kept(ROOM, 1_000_000 + first, 1000) == first
        assert broker_log.first_kept(ROOM, 0, 10 * (6 - first)) == first
        assert broker_log.first_kept(ROOM, 0, 10 * (6 - first) + 9) == max(1, first - 1)
    assert broker_log.first_kept(ROOM, 1_000_004, 30) == 4
    assert broker_log.first_kept(ROOM, 1_000_002, 20) == 4
    broker_log.expire(ROOM, 4)
    assert broker_log.first_kept(ROOM, 0, 1000) == 5


# ---- every log answers as MemoryLog does ----

envelopes = st.one_of(st.none(), st.binary(max_size=40))
turns = st.lists(
    st.tuples(
        st.lists(envelopes, min_size=1, max_size=6), st.binary(max_size=4), st.integers(0, 9)
    ),
    min_size=1,
    max_size=6,
)
questions = st.lists(
    st.tuples(*[st.integers(1, 40)] * 2, st.integers(1, 300), st.integers(1, 12)), max_size=12
)


@pytest.mark.parametrize("kind", READABLE.values(), ids=READABLE)
@settings(max_examples=30, deadline=None)
@given(turns=turns, questions=questions)
def test_a_log_answers_as_the_one_in_memory_does(
    kind: Kind,
    turns: list[tuple[list[bytes | None], bytes, int]],
    questions: list[tuple[int, int, int, int]],
) -> None:
    additions, n = [], 0
    for envelopes, head, expired in turns:
        entries = [entry(n + i, envelope) for i, envelope in enumerate(envelopes, 1)]
        additions.append(adding(*entries, head=head, expired=expired))
        n += len(entries)
    model = filled(in_memory)(Path(), additions)
    with TemporaryDirectory() as folder:
        log = kind(Path(folder), additions)
        try:
            assert log.tip(ROOM) == model.tip(ROOM)
            for first, last, most_bytes, most_entries in questions:
                asked = (ROOM, min(first, n), last, most_bytes, most_entries)
                assert log.read(*asked) == model.read(*asked)
            for place in range(1, n + 1):
                assert log.hash_at(ROOM, place) == model.hash_at(ROOM, place)
                assert log.place_of(ROOM, entry(place).id) == place
        finally:
            log.close()


@pytest.mark.parametrize("make", [in_file, in_replica])
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=20),
    expiries=st.lists(st.integers(0, 20), max_size=3),
    questions=questions,
)
def test_what_is_expired_is_expired_alike(
    make: Callable[[Path], SqliteLog],
    sizes: list[int],
    expiries: list[int],
    questions: list[tuple[int, int, int, int]],
) -> None:
    additions = [adding(entry(n, bytes(size))) for n, size in enumerate(sizes, 1)]
    model = MemoryLog()
    with TemporaryDirectory() as folder:
        log = make(Path(folder))
        for either in (model, log):
            for addition in additions:
                either.append([addition])
            for upto in expiries:
                either.expire(ROOM, min(upto, len(sizes)))
        assert log.tip(ROOM) == model.tip(ROOM)
        for first, last, most_bytes, most_entries in questions:
            asked = (ROOM, min(first, len(sizes)), last, most_bytes, most_entries)
            assert log.read(*asked) == model.read(*asked)
            kept = (ROOM, 1_000_000 + last, most_bytes)
            assert log.first_kept(*kept) == model.first_kept(*kept)
        log.close()


# ---- whether a log still is what was written ----


def chained(count: int) -> list[Entry]:
    """Entries with the ids and hashes that belong to their envelopes."""
    entries: list[Entry] = []
    previous = LOG_ID
    for n in range(1, count + 1):
        entry_id = envelope_id(b"envelope %d" % n)
        previous = link(previous, n, entry_id)
        entries.append(Entry(n, entry_id, previous, b"envelope %d" % n))
    return entries


def test_a_log_is_sound_as_it_was_written(writable: Opener) -> None:
    """Also where only ids are kept, and where nothing is."""
    log = writable([])
    log.append([adding()])
    assert list(damages(log, ROOM)) == []
    entries = chained(MAX_BATCH_ENTRIES + 3)
    log.append([adding(*entries[:3], entries[3]._replace(envelope=None), *entries[4:])])
    assert list(damages(log, ROOM)) == []


@pytest.mark.parametrize(
    ("statement", "places"),
    [
        ("UPDATE entries SET envelope = x'00' WHERE place & 255 = 2", {2}),
        ("UPDATE entries SET id = zeroblob(32) WHERE place & 255 = 2", {2}),
        ("UPDATE entries SET id = zeroblob(32), envelope = NULL WHERE place & 255 = 3", {3}),
        ("UPDATE entries SET hash = zeroblob(32) WHERE place & 255 = 4", {4, 5}),
        ("DELETE FROM entries WHERE place & 255 = 2", {2, 3}),
        ("UPDATE rooms SET hash = zeroblob(32)", {5}),
        ("UPDATE rooms SET log = zeroblob(32)", {1}),
    ],
)
def test_what_was_changed_in_a_log_is_found(
    tmp_path: Path, statement: str, places: set[int]
) -> None:
    """By somebody who can write the file: an envelope, an id, a hash, the end, the beginning."""
    filled(in_file)(tmp_path, [adding(*chained(5))]).close()
    connection = sqlite3.connect(log_path(tmp_path))
    with connection:
        connection.execute(statement)
    connection.close()
    log = in_file(tmp_path)
    found = list(damages(log, ROOM))
    assert {damage.n for damage in found} == places
    assert all(damage.what for damage in found)
    log.close()


# ---- a broker's log, which lets no damage out ----

KEY = LogKey(bytes(range(32)))
PAGE_BYTES = 4096
LEAF_OF_A_TABLE, LEAF_OF_AN_INDEX = 0x0D, 0x0A


def true_addition(room: bytes, first: int, last: int) -> Addition:
    """Entries as a broker writes them; each room's log is always the same one."""
    genesis = Genesis(room, KEY.public, bytes(16))
    envelopes = [b"%d in %s" % (n, room) * 50 for n in range(1, last + 1)]
    ids = [envelope_id(envelope) for envelope in envelopes]
    rows = zip(ids, chain(genesis.log, 1, ids), envelopes, strict=True)
    entries = [Entry(n, *row) for n, row in enumerate(rows, 1)][first - 1 :]
    return Addition(room, entries, genesis.log, (KEY.sign_birth(genesis),), MAKER)


def spoil_pages(path: Path, kind: int, *holding: bytes) -> None:
    """Make nonsense of every page of a kind that holds one of these bytes."""
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), PAGE_BYTES):
        page = content[at : at + PAGE_BYTES]
        if page[0] == kind and any(some in page for some in holding):
            content[at] = 0xFF
    assert content != path.read_bytes()
    path.write_bytes(content)


def forget_pages(log: GuardedLog) -> None:
    """Have the file read anew."""
    log._db.execute("PRAGMA shrink_memory")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedLog]:
    """Two rooms of 200 entries each, all in the file, and nothing of them in memory."""
    log = GuardedLog(log_path(tmp_path))
    log.append([true_addition(room, 1, 200) for room in (ROOM, OTHER)])
    log.close()
    log = GuardedLog(log_path(tmp_path))
    yield log
    log.close()


def test_what_is_appended_is_given_out_and_marked(guarded: GuardedLog, tmp_path: Path) -> None:
    guarded.append([true_addition(ROOM, 201, 210)])
    assert whole(guarded) == [*true_addition(ROOM, 1, 210).entries]
    assert [guarded.hash_at(ROOM, e.n) for e in whole(guarded)] == [e.hash for e in whole(guarded)]
    assert lost(log_path(tmp_path)) == []
    assert guarded.wrong_in() == ""


def test_an_append_that_meets_damage_in_a_room_names_it_and_stores_nothing(
    guarded: GuardedLog, tmp_path: Path
) -> None:
    """Also what it remembers of the room is then worth nothing; the other room goes on."""
    last = true_addition(OTHER, 1, 200).entries[-1]
    assert [guarded.tip(room) is not None for room in (ROOM, OTHER)] == [True, True]
    forget_pages(guarded)
    spoil_pages(log_path(tmp_path), LEAF_OF_A_TABLE, last.id)
    both = [true_addition(room, 201, 203) for room in (ROOM, OTHER)]
    with pytest.raises(RoomDamaged, match=f"in room {OTHER.hex()[:8]}, at message ") as caught:
        guarded.append(both)
    assert caught.value.room == OTHER
    guarded.append(both[:1])
    assert whole(guarded, ROOM) == [*true_addition(ROOM, 1, 203).entries]
    with pytest.raises(RoomDamaged):
        guarded.read(OTHER, 1, 200)


def test_expiry_that_meets_damage_in_a_room_names_it(guarded: GuardedLog, tmp_path: Path) -> None:
    entries = true_addition(ROOM, 1, 200).entries
    spoil_pages(log_path(tmp_path), LEAF_OF_A_TABLE, entries[99].id)
    assert guarded.tip(ROOM) is not None
    with pytest.raises(RoomDamaged):
        guarded.expire(ROOM, 150)
    guarded.expire(OTHER, 150)
    assert guarded.read(OTHER, 150, 150)[0].envelope is None


ASKED: dict[str, Callable[[GuardedLog], object]] = {
    "read": lambda log: log.read(ROOM, 100, 100),
    "hash_at": lambda log: log.hash_at(ROOM, 100),
    "weight": lambda log: log.weight(ROOM, 50, 100),
    "first_kept": lambda log: log.first_kept(ROOM, 1, 10_000_000),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_whatever_is_asked_of_a_damaged_page_names_the_room(
    guarded: GuardedLog, tmp_path: Path, asked: Callable[[GuardedLog], object]
) -> None:
    entries = true_addition(ROOM, 1, 200).entries
    spoil_pages(log_path(tmp_path), LEAF_OF_A_TABLE, entries[99].id)
    with pytest.raises(RoomDamaged, match="SQLITE_CORRUPT") as caught:
        asked(guarded)
    assert caught.value.room == ROOM


@pytest.mark.parametrize("column", [1, 2], ids=["id", "hash"])
def test_bytes_that_became_a_text_are_damage(
    guarded: GuardedLog, tmp_path: Path, column: int
) -> None:
    """One bit in the head of a row; what they hold is no text, which is said in other words."""
    content = bytearray(log_path(tmp_path).read_bytes())
    before_its_values = content.find(true_addition(ROOM, 1, 100).entries[-1].id)
    head = content.rfind(b"\x00\x4c\x4c", 0, before_its_values)  # a key, and twice 32 bytes
    content[head + column] ^= 1
    log_path(tmp_path).write_bytes(content)
    for asked in (ASKED["read"], ASKED["hash_at"]):
        with pytest.raises(RoomDamaged, match="a text in it is none"):
            asked(guarded)


def test_a_hash_that_does_not_follow_is_not_given_out(guarded: GuardedLog, tmp_path: Path) -> None:
    """Neither it nor the next one, for which it vouches; a row that is gone has none."""
    connection = sqlite3.connect(log_path(tmp_path))
    with connection:
        connection.execute("UPDATE entries SET hash = x'00' WHERE place = 1 << 40 | 50")
        connection.execute("DELETE FROM entries WHERE place = 1 << 40 | 100")
    connection.close()
    entries = true_addition(ROOM, 1, 200).entries
    for n in (50, 51, 100, 101):
        with pytest.raises(RoomDamaged, match=f"at message {n}: "):
            guarded.hash_at(ROOM, n)
    for n in (1, 49, 52, 99, 102, 200):
        assert guarded.hash_at(ROOM, n) == entries[n - 1].hash


def test_damage_in_the_index_of_ids_is_no_rooms_own(guarded: GuardedLog, tmp_path: Path) -> None:
    """Neither when an id is looked for, nor when one is added."""
    ids = [entry.id for entry in true_addition(ROOM, 1, 200).entries]
    assert guarded.tip(ROOM) is not None
    forget_pages(guarded)
    spoil_pages(log_path(tmp_path), LEAF_OF_AN_INDEX, *ids)
    for attempt in (
        lambda: guarded.place_of(ROOM, ids[7]),
        lambda: guarded.append([true_addition(ROOM, 201, 260)]),
    ):
        with pytest.raises(StoreUnreadable) as caught:
            attempt()
        assert not isinstance(caught.value, RoomDamaged)
    assert guarded.wrong_in()


@pytest.mark.parametrize("other", [8, 201])
def test_an_id_that_the_index_puts_elsewhere_is_damage_of_the_index(
    guarded: GuardedLog, tmp_path: Path, other: int
) -> None:
    """As a bit that flips in it would: the entry there is another one, or there is none."""
    wanted = true_addition(ROOM, 1, 200).entries[6]
    content = bytearray(log_path(tmp_path).read_bytes())
    true, false = ((1 << 40 | n).to_bytes(6, "big") for n in (wanted.n, other))
    at = content.find(wanted.id + true)
    assert at > 0, "behind the id stands its place, for the number 1 takes no bytes"
    content[at + 32 : at + 38] = false
    log_path(tmp_path).write_bytes(content)
    forget_pages(guarded)
    with pytest.raises(StoreDamaged, match="index of ids"):
        guarded.place_of(ROOM, wanted.id)


def test_damage_in_the_list_of_rooms_is_found_at_the_start(tmp_path: Path) -> None:
    """A room that the index does not find would be begun a second time."""
    log = GuardedLog(log_path(tmp_path))
    log.append([true_addition(room, 1, 2) for room in (ROOM, OTHER)])
    log.close()
    content = log_path(tmp_path).read_bytes()
    found = [at for at in range(len(content)) if content.startswith(OTHER + b"\2", at)]
    assert len(found) == 1, "in the index a tag is followed by the room's number"
    spoilt = content[: found[0]] + b"X" + content[found[0] + 1 :]
    log_path(tmp_path).write_bytes(spoilt)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="in what all rooms share: "):
            GuardedLog(log_path(tmp_path))
    assert log_path(tmp_path).read_bytes() == spoilt


# ---- how far each room had come ----


def test_a_mark_ahead_of_the_store_names_what_is_lost(tmp_path: Path) -> None:
    """Of a room that is shorter, and of one that is not there at all."""
    path = log_path(tmp_path)
    log = GuardedLog(path)
    log.append([true_addition(ROOM, 1, 3)])
    log.copy_to(tmp_path / "copy.db")
    assert lost(path) == []
    log.append([true_addition(ROOM, 4, 7), true_addition(OTHER, 1, 2)])
    assert lost(path) == []
    log.close()
    (tmp_path / "copy.db").replace(path)
    found = lost(path)
    assert found == [Lost(ROOM, 4, 7), Lost(OTHER, 1, 2)]
    assert str(found[0]) == f"room {ROOM.hex()[:8]} #4-#7"
    GuardedLog(path).close()  # who opens it all the same marks where it ends now
    assert lost(path) == []


def test_marks_that_are_older_torn_flipped_or_gone_accuse_nobody(tmp_path: Path) -> None:
    """What a cut of power may leave of a file that is never synced."""
    path = log_path(tmp_path)
    log = GuardedLog(path)
    log.append([true_addition(ROOM, 1, 3)])
    older = ends_path(path).read_bytes()
    log.append([true_addition(ROOM, 4, 7), true_addition(OTHER, 1, 2)])
    log.close()
    newer = ends_path(path).read_bytes()
    assert (len(older), len(newer)) == (64, 128)
    left = [older, b"", newer[:100], newer[:20], bytes(128), older + bytes(64)]
    left += [newer[:cut] + older[cut:] + newer[64:] for cut in (16, 24, 40, 56)]
    for bit in range(512):
        flipped = bytearray(newer)
        flipped[bit // 8] ^= 1 << bit % 8
        left.append(bytes(flipped))
    for content in left:
        ends_path(path).write_bytes(content)
        assert lost(path) == []
    ends_path(path).unlink()
    assert lost(path) == []
    GuardedLog(path).close()
    assert ends_path(path).read_bytes() == newer
    assert ends_path(path).stat().st_mode & 0o777 == 0o600


def test_no_bit_of_a_mark_can_flip_into_a_loss(tmp_path: Path) -> None:
    """The store holds less than the mark says, so a mark that is believed would show."""
    path = log_path(tmp_path)
    log = GuardedLog(path)
    log.append([true_addition(ROOM, 1, 3)])
    log.close()
    Ends(path, [(1, ROOM, 9, bytes(32))]).close()
    assert lost(path) == [Lost(ROOM, 4, 9)]
    mark = ends_path(path).read_bytes()
    for bit in range(512):
        flipped = bytearray(mark)
        flipped[bit // 8] ^= 1 << bit % 8
        ends_path(path).write_bytes(flipped)
        assert lost(path) == []


def test_a_store_that_was_emptied_has_lost_everything(tmp_path: Path) -> None:
    path = log_path(tmp_path)
    log = GuardedLog(path)
    log.append([true_addition(ROOM, 1, 3)])
    log.close()
    path.write_bytes(b"")
    assert lost(path) == [Lost(ROOM, 1, 3)]


def test_marks_that_cannot_be_written_for_want_of_space_stop_nobody(tmp_path: Path) -> None:
    """They stay older; the log goes on, and they are right again at the next start."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.test_log import ROOM, Ends, lost\n"
        "path = Path(sys.argv[1])\n"
        "ends = Ends(path, [(1, ROOM, 1, bytes(32))])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))\n"
        "ends.note(2, bytes(16), 1, bytes(32)); ends.note(1, ROOM, 2, bytes(32))\n"
    )
    subprocess.run([sys.executable, "-c", code, log_path(tmp_path)], cwd=HERE, check=True)
    log_path(tmp_path).touch()
    assert lost(log_path(tmp_path)) == [Lost(ROOM, 1, 2)]


# ---- the overlay ----


def test_what_the_first_process_writes_later_is_not_the_second_ones(tmp_path: Path) -> None:
    """Each goes on by itself: a server may have shown them different things meanwhile."""
    writer = filled(in_replica)(tmp_path, numbered(1, 2))
    overlay = Overlay(SqliteLog(tmp_path / "log.db", Access.READ_ONLY), ROOM)
    writer.append([adding(entry(3, b"theirs", id_of=33))])
    assert overlay.tip(ROOM) == Tip(BIRTHS, LOG_ID, 2, entry(2).hash, 20, 0)
    assert overlay.place_of(ROOM, entry(33).id) == 0
    overlay.append([adding(entry(3, b"ours", id_of=34))])
    assert overlay.read(ROOM, 3, 3) == [entry(3, b"ours", id_of=34)]
    assert (overlay.place_of(ROOM, entry(33).id), overlay.place_of(ROOM, entry(34).id)) == (0, 3)
    overlay.close()
    writer.close()


def test_an_overlay_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    writer = filled(in_replica)(tmp_path, numbered(1, 2))
    before = (tmp_path / "log.db").read_bytes()
    overlay = Overlay(SqliteLog(tmp_path / "log.db", Access.READ_ONLY), ROOM)
    overlay.append(numbered(3, 3))
    overlay.close()
    assert (tmp_path / "log.db").read_bytes() == before
    writer.close()


def test_an_overlay_is_of_one_room(tmp_path: Path) -> None:
    base = MemoryLog()
    base.append([adding(entry(1)), adding(entry(1), room=OTHER)])
    overlay = Overlay(base, ROOM)
    assert overlay.tip(OTHER) is None
    assert overlay.place_of(OTHER, entry(1).id) == 0
    with pytest.raises(AssertionError):
        overlay.append([adding(entry(1), room=OTHER)])


# ---- files last ----


@pytest.mark.parametrize("make", [in_file, in_replica])
def test_a_file_holds_the_same_when_it_is_opened_again(
    tmp_path: Path, make: Callable[[Path], SqliteLog]
) -> None:
    """And goes on where it ended; lineage, heads and makers are there."""
    log = make(tmp_path)
    log.append([adding(entry(1), entry(2, None), head=b"first", expired=1)])
    log.append([adding(room=OTHER)])
    tips = {room: log.tip(room) for room in (ROOM, OTHER)}
    log.close()
    again = make(tmp_path)
    assert {room: again.tip(room) for room in again.rooms()} == tips
    assert again.rooms_made_by(MAKER) == 2
    again.append([adding(entry(3), head=b"second")])
    with pytest.raises(StoreTrouble):
        again.append([adding(entry(4, id_of=1))])
    again.close()
    once_more = make(tmp_path)
    assert whole(once_more) == [entry(1), entry(2, None), entry(3)]
    tip = once_more.tip(ROOM)
    assert tip is not None
    assert (tip.births, tip.head, tip.expired) == (BIRTHS, b"second", 1)
    once_more.close()


def test_only_one_process_writes_a_file(tmp_path: Path) -> None:
    """The second is told, and may read; when the first is gone it may write."""
    log = in_file(tmp_path)
    with pytest.raises(StoreBusy, match=r"log\.db is in use by another process"):
        in_file(tmp_path)
    reader = SqliteLog(tmp_path / "log.db", Access.READ_ONLY)
    reader.close()
    log.close()
    in_file(tmp_path).close()


def test_a_file_opened_for_reading_cannot_be_written(tmp_path: Path) -> None:
    filled(in_file)(tmp_path, numbered(1, 1)).close()
    reader = SqliteLog(tmp_path / "log.db", Access.READ_ONLY)
    with pytest.raises(StoreTrouble):
        reader.append(numbered(2, 2))
    assert whole(reader) == [entry(1)]
    reader.close()


def test_a_copy_is_whole_while_the_log_is_written_on(tmp_path: Path) -> None:
    """It stays as of when it was made, is private, and replaces nothing."""
    log = filled(in_file)(tmp_path, numbered(1, 3))
    reader = SqliteLog(log_path(tmp_path), Access.READ_ONLY)
    reader.copy_to(tmp_path / "copy.db")
    log.append(numbered(4, 4))
    with pytest.raises(StoreTrouble, match="File exists"):
        reader.copy_to(tmp_path / "copy.db")
    reader.close()
    log.close()
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    copy = SqliteLog(tmp_path / "copy.db", Access.READ_ONLY)
    assert whole(copy) == [entry(1), entry(2), entry(3)]
    copy.close()


def test_the_same_entries_can_begin_anew_as_another_log(tmp_path: Path) -> None:
    """Places, ids and envelopes stay; log id, lineage and hashes are the new ones, all or none."""
    log = in_file(tmp_path)
    log.append([adding(entry(1), entry(2)), adding(entry(1), room=OTHER)])
    births = (b"n" * BIRTH_BYTES, *BIRTHS)

    def interrupted() -> Iterator[bytes]:
        yield b"new hash 1"
        raise Interrupted

    with pytest.raises(Interrupted):
        log.begin_anew(ROOM, b"new log", births, interrupted())
    assert whole(log) == [entry(1), entry(2)]
    log.begin_anew(ROOM, b"new log", births, [b"new hash 1", b"new hash 2"])
    assert log.tip(ROOM) == Tip(births, b"new log", 2, b"new hash 2", 20, 0)
    assert [(e.n, e.id, e.hash, e.envelope) for e in whole(log)] == [
        (n, entry(n).id, b"new hash %d" % n, b"sealed") for n in (1, 2)
    ]
    assert whole(log, OTHER) == [entry(1)]
    log.begin_anew(ROOM, b"empty", (), [])
    log.close()


# ---- beside another process ----

READER = """
import sys
from contextlib import suppress
from pathlib import Path
from zchat.database import Access
from zchat.log.sqlite import SqliteLog

path, room, end = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
log = SqliteLog(path, Access.READ_ONLY)
n, seen = 0, 0
print("reading", flush=True)
while n < end:
    tip = log.tip(room)
    assert tip.n >= n, "it went back"
    n, entries = tip.n, []
    while len(entries) < n:
        entries += log.read(room, len(entries) + 1, n)
    assert [entry.n for entry in entries] == list(range(1, n + 1))
    assert entries[-1].hash == tip.hash == log.hash_at(room, n)
    assert sum(entry.wire_bytes for entry in entries) == tip.weight == log.weight(room, 0, n)
print("read", n)
"""


@pytest.mark.parametrize("make", [in_file, in_replica])
def test_a_reader_beside_the_writer_sees_whole_commits_only(
    tmp_path: Path, make: Callable[[Path], SqliteLog]
) -> None:
    """Never a place without its entry, never a tip that goes back, never a busy file."""
    log = make(tmp_path)
    log.append(numbered(1, 1))
    reader = python(READER, log_path(tmp_path), ROOM.decode(), 121)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    for n in range(2, 122, 3):
        log.append([adding(*(entry(n + i) for i in range(3)))])
    assert finished(reader) == "read 121\n"
    log.close()


def log_path(folder: Path) -> Path:
    return folder / "log.db"


EARLY_READER = """
import sys
from contextlib import suppress
from pathlib import Path
from zchat.database import Access
from zchat.errors import StoreEmpty
from zchat.log.sqlite import SqliteLog

early = 0
for line in sys.stdin:
    while True:
        try:
            log = SqliteLog(Path(line.strip()), Access.READ_ONLY)
            break
        except StoreEmpty:
            if not early:
                print("waiting", flush=True)
            early += 1
    tip = log.tip(sys.argv[1].encode())
    assert tip is None or (tip.n, len(log.read(sys.argv[1].encode(), 1, 9))) == (1, 1)
    log.close()
    print("opened", flush=True)
"""


@pytest.mark.parametrize("make", [in_file, in_replica])
def test_a_reader_that_comes_too_early_finds_an_empty_store_and_nothing_worse(
    tmp_path: Path, make: Callable[[Path], SqliteLog]
) -> None:
    """It opens the file over and over while the writer is making it."""
    reader = python(EARLY_READER, ROOM.decode())
    assert reader.stdin is not None
    assert reader.stdout is not None
    for number in range(15):
        reader.stdin.write(f"{log_path(tmp_path / str(number))}\n")
        reader.stdin.flush()
        if number == 0:
            assert reader.stdout.readline() == "waiting\n"
        log = make(tmp_path / str(number))
        log.append(numbered(1, 1))
        assert reader.stdout.readline() == "opened\n", finished(reader)
        log.close()
    assert finished(reader) == ""


def test_a_file_that_is_not_there_or_only_just_made_is_empty_to_a_reader(tmp_path: Path) -> None:
    """And reading makes nothing."""
    with pytest.raises(StoreEmpty, match="holds nothing yet"):
        SqliteLog(log_path(tmp_path), Access.READ_ONLY)
    assert list(tmp_path.iterdir()) == []
    log_path(tmp_path).touch()
    with pytest.raises(StoreEmpty, match="holds nothing yet"):
        SqliteLog(log_path(tmp_path), Access.READ_ONLY)
    assert log_path(tmp_path).read_bytes() == b""


def test_a_writer_that_died_before_it_made_a_table_is_no_hindrance(tmp_path: Path) -> None:
    log_path(tmp_path).touch()
    log = filled(in_file)(tmp_path, numbered(1, 2))
    assert whole(log) == [entry(1), entry(2)]
    log.close()


# ---- a full disk, a death in the middle ----

FULL_DISK = """
import resource, sys
from contextlib import suppress
from pathlib import Path
from zchat.database import Access
from zchat.errors import StoreFull
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog

room, log_id = sys.argv[3].encode(), bytes(32)
def addition(n):
    return Addition(room, [Entry(n, b"%32d" % n, bytes(32), bytes(60_000))], log_id)

log = SqliteLog(Path(sys.argv[1]), Access[sys.argv[2]])
log.append([addition(1)])
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
stored = 1
try:
    while stored < 100:
        log.append([addition(stored + 1)])
        stored += 1
except StoreFull as error:
    print(error, flush=True)
assert 1 < stored < 100
assert log.tip(room).n == stored
assert log.place_of(room, b"%32d" % (stored + 1)) == 0
assert [e.n for e in log.read(room, stored, stored + 9)] == [stored]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append([addition(stored + 1)])
log.close()
print(stored + 1)
"""


@pytest.mark.parametrize("access", [Access.ONE_WRITER, Access.REPLICA])
def test_a_full_disk_keeps_what_was_confirmed_and_goes_on_with_room(
    tmp_path: Path, access: Access
) -> None:
    process = python(FULL_DISK, log_path(tmp_path), access.name, ROOM.decode())
    said, stored = finished(process).splitlines()
    assert said.startswith(f"No space to write {log_path(tmp_path)}: ")
    log = SqliteLog(log_path(tmp_path), access)
    assert [one.n for one in whole(log)] == list(range(1, int(stored) + 1))
    log.close()


DIES = """
import os, sys
from contextlib import suppress
from pathlib import Path
from zchat.database import Access
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog

room = sys.argv[3].encode()
log = SqliteLog(Path(sys.argv[1]), Access[sys.argv[2]])
log._db.execute("PRAGMA cache_size = 1")  # what is not committed reaches the disk, too
entries = [Entry(n, b"id%30d" % n, bytes(32), bytes(60_000)) for n in range(3, 40)]
def additions():
    yield Addition(room, entries, log.tip(room).log)
    os._exit(9)
log.append(additions())
"""


@pytest.mark.parametrize("access", [Access.ONE_WRITER, Access.REPLICA])
def test_a_writer_killed_in_a_commit_leaves_what_stood_before(
    tmp_path: Path, access: Access
) -> None:
    """Half of it lies in the file already; whoever writes next rolls it back."""
    log = SqliteLog(log_path(tmp_path), access)
    for addition in numbered(1, 2):
        log.append([addition])
    log.close()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    process = python(DIES, log_path(tmp_path), access.name, ROOM.decode())
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 9
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > size + 1_000_000
    reader = SqliteLog(log_path(tmp_path), Access.READ_ONLY)
    assert whole(reader) == [entry(1), entry(2)]
    reader.close()
    log = SqliteLog(log_path(tmp_path), access)
    assert whole(log) == [entry(1), entry(2)]
    log.append(numbered(3, 3))
    assert whole(log) == [entry(1), entry(2), entry(3)]
    log.close()


# ---- files that are not ours, or not whole ----


def is_a_sentence(error: StoreTrouble) -> bool:
    """One line for the user, with nothing left to fill in."""
    text = str(error)
    return "\n" not in text and "{" not in text and text.endswith(".") and "log.db" in text


def a_log(path: Path) -> None:
    """A log of a few hundred kilobytes, closed."""
    log = SqliteLog(path, Access.REPLICA)
    log.append([adding(*(entry(n, bytes([n]) * 3000) for n in range(1, 100)))])
    log.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 500)


def only_the_magic(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)


def five_bytes(path: Path) -> None:
    path.write_bytes(b"hello")


def torn_in_the_first_page(path: Path) -> None:
    a_log(path)
    os.truncate(path, 1000)


def overwritten_schema(path: Path) -> None:
    a_log(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 900)


def anothers_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def our_vault(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(VAULT_SCHEMA.tables)
    connection.execute(f"PRAGMA application_id = {VAULT_SCHEMA.application_id}")
    connection.close()


def a_newer_one(path: Path) -> None:
    a_log(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    connection.close()


UNREADABLE = {
    garbage: "not a database",
    only_the_magic: "not a database",
    five_bytes: "not a database",
    torn_in_the_first_page: "malformed",
    overwritten_schema: "malformed",
    anothers_database: "another program's file",
    our_vault: "another program's file",
    a_newer_one: "it has schema 2, this version reads 1",
}


@pytest.mark.parametrize("access", OF_A_LOG)
@pytest.mark.parametrize(("spoil", "says"), UNREADABLE.items())
def test_a_file_that_is_no_log_of_ours_is_named_and_left_alone(
    tmp_path: Path, access: Access, spoil: Callable[[Path], None], says: str
) -> None:
    """Not a byte of it is changed, and its lock is given back: the sentence stays the same."""
    spoil(log_path(tmp_path))
    before = log_path(tmp_path).read_bytes()
    for _ in range(2):
        with pytest.raises(StoreUnreadable, match=says) as caught:
            SqliteLog(log_path(tmp_path), access)
        assert is_a_sentence(caught.value)
    assert log_path(tmp_path).read_bytes() == before


def test_files_of_ours_can_be_brought_up_to_a_newer_schema(tmp_path: Path) -> None:
    """A broker's log, a replica and a vault as they are now; what is kept is read as ever."""
    newer = ("ALTER TABLE rooms ADD COLUMN note TEXT",)
    filled(in_file)(tmp_path, [adding(*chained(5))]).close()
    filled(in_replica)(tmp_path / "replica", [adding(*chained(5))]).close()
    Vault(tmp_path / "vault").close()
    files = {
        tmp_path / "log.db": (SCHEMA, Access.ONE_WRITER),
        tmp_path / "replica" / "log.db": (SCHEMA, Access.REPLICA),
        tmp_path / "vault" / "vault.db": (VAULT_SCHEMA, Access.SHARED),
    }
    for path, (schema, access) in files.items():
        next_one = schema._replace(version=2, migrations=(Migration(1, 2, newer),))
        database = Database(path, next_one, access)
        assert database.execute("SELECT count(note) FROM rooms").fetchone() == (0,)
        database.close()
        with pytest.raises(StoreUnreadable, match="it has schema 2, this version reads 1"):
            Database(path, schema, access)
        path.with_name(f"{path.name}.v1").replace(path)
    for folder in (tmp_path, tmp_path / "replica"):
        log = SqliteLog(log_path(folder), Access.READ_ONLY)
        assert whole(log) == chained(5)
        log.close()
    Vault(tmp_path / "vault").close()


@pytest.mark.parametrize("access", OF_A_LOG)
def test_a_folder_in_the_place_of_the_file_is_an_error_with_a_sentence(
    tmp_path: Path, access: Access
) -> None:
    log_path(tmp_path).mkdir()
    with pytest.raises(StoreTrouble) as caught:
        SqliteLog(log_path(tmp_path), access)
    assert is_a_sentence(caught.value)


def test_a_folder_that_may_not_be_made_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    with pytest.raises(StoreTrouble) as caught:
        SqliteLog(tmp_path / "log.db" / "log.db", Access.REPLICA)
    assert is_a_sentence(caught.value)


def test_a_file_cut_off_at_its_end_is_told_when_the_lost_part_is_read(tmp_path: Path) -> None:
    a_log(log_path(tmp_path))
    os.truncate(log_path(tmp_path), 100_000)
    with pytest.raises(StoreUnreadable) as caught:
        whole(SqliteLog(log_path(tmp_path), Access.READ_ONLY))
    assert is_a_sentence(caught.value)


SECTOR = 512


def test_a_file_with_a_torn_sector_is_read_or_refused_with_a_sentence(tmp_path: Path) -> None:
    """Zeros, ones, or what stood elsewhere, in each of the first sectors and some of the others.

    What lies inside an envelope is nobody's business here: the chain above would not hold.
    """
    a_log(log_path(tmp_path))
    sound = log_path(tmp_path).read_bytes()
    count = len(sound) // SECTOR
    outcomes = set()  # the last word of each sentence
    for sector in [*range(32), *range(32, count, 5)]:
        elsewhere = (sector * 7 + 11) % count * SECTOR
        for junk in (bytes(SECTOR), b"\xff" * SECTOR, sound[elsewhere : elsewhere + SECTOR]):
            spoilt = bytearray(sound)
            spoilt[sector * SECTOR : (sector + 1) * SECTOR] = junk
            log_path(tmp_path).write_bytes(spoilt)
            outcomes.add(_outcome_of_reading(log_path(tmp_path)))
    assert outcomes >= {"read", "mangled.", "(SQLITE_CORRUPT).", "(SQLITE_NOTADB)."}


def _outcome_of_reading(path: Path) -> str:
    try:
        log = SqliteLog(path, Access.READ_ONLY)
        try:
            _read_everything(log)
        finally:
            log.close()
    except StoreTrouble as error:
        assert is_a_sentence(error)
        return str(error).split()[-1]
    return "read"


def _read_everything(log: SqliteLog) -> None:
    for room in log.rooms():
        tip = log.tip(room)
        if tip is None:  # its row is not where the index says
            continue
        for one in whole(log, room):
            log.place_of(room, one.id)
            log.hash_at(room, one.n)
            log.weight(room, one.n, tip.n)
