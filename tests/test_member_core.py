"""A member without its socket: what comes in, what goes out, what is told, what is kept.

Rules of this file: vault, replica, room, session and core are the program's own, on a folder of the
test; the server's part is played by hand, from a log that test_checked builds; the others in the
room are test_transcript's people, who seal as the program does. Time passes when the test says so.
"""

import contextlib
import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from tests.simulation import SimulatedClock
from tests.test_checked import KEY, Ledger, Shown, proves, unsigned
from tests.test_session import Carrying, ready
from tests.test_transcript import KEYS, NOBODY, Person
from zchat.database import Access
from zchat.errors import ServerFault, StoreBusy, TextTooLong
from zchat.files import take_lock
from zchat.log.sqlite import SqliteLog
from zchat.member import room as member_room
from zchat.member.core import Core, Do
from zchat.member.invite import Origin, Server
from zchat.member.presence import Rhythm
from zchat.member.profile import Opened
from zchat.member.rejoin import rejoin
from zchat.member.room import Room, in_words
from zchat.member.rows import (
    Blame,
    Composed,
    Confirmed,
    Connection,
    Glimpse,
    Happening,
    Here,
    Message,
    Notice,
    Progress,
    ServerSays,
    State,
    Status,
)
from zchat.member.session import Reopen, Say, Session, Timing
from zchat.member.vault import Pending, RoomRecord, Vault
from zchat.protocol import evidence
from zchat.protocol.body import Beat, Text, Void, decode_cast, decode_logged, encode
from zchat.protocol.envelope import EnvelopeClass, envelope_id
from zchat.protocol.keys import Author
from zchat.protocol.ledger import NO_LOG, Head, Proof
from zchat.protocol.limits import MAX_TEXT_BYTES
from zchat.protocol.seal import open_envelope
from zchat.protocol.wire import (
    Cast,
    Entries,
    Hello,
    Join,
    Leave,
    Page,
    Post,
    Refuse,
    Stored,
    ToBroker,
    Word,
    decode_to_broker,
    pack_batch,
)
from zchat.protocol.wire import encode as frames_of

_W = TypeVar("_W", bound=Word)

WITHHELD_S = 30.0
TAG = KEYS.tag


class Desk:
    """Alice, and the server she talks to. `told` and `said` are new since they were last taken."""

    def __init__(self, folder: Path, *, me: str = "alice", beats: bool = False) -> None:
        self.folder = folder
        self.me = me
        self.beats = beats
        self.clock = SimulatedClock(random.Random(1))
        self.ledger = Ledger(room=TAG)
        self.shown_n: int | None = None  # the end that JOINs are answered with, if not the present
        self.tip = 0  # where the server says that its log ends, if not there
        self.bob, self.carol = Person("bob"), Person("carol")
        self.start()

    # ---- her process ----

    def start(self, *, follow: bool = True) -> None:
        """A new process: only vault and replica are what they were."""
        self.told: list[Happening] = []
        self.said: list[ToBroker | Carrying] = []
        self.reopened: list[str] = []
        self.vault = Vault(self.folder)
        server = Server("nowhere", 1, Origin(bytes(32), KEY.public))
        record = self.vault.room(TAG) or RoomRecord("room", self.me, server, server.keys)
        self.vault.save_room(TAG, record)
        timing = Timing(answer_timeout_s=10, idle_join_s=60, window_bytes=100_000)
        self.core = Core(Session(KEY.public, timing, "test", "nowhere"), self.clock)
        self.room = Room(KEYS, record, self.vault, self.clock, Rhythm(60, 300), WITHHELD_S)
        self.told += self.room.replay()
        self.do(self.core.add(self.room))
        if follow:
            self.do(self.core.follow(TAG))
        if self.beats:
            self.core.beat(TAG)

    def stop(self) -> None:
        self.room.close()
        self.vault.close()

    def restart(self, *, follow: bool = True) -> None:
        self.stop()
        self.start(follow=follow)

    @property
    def key(self) -> bytes:
        return Author(self.vault.master_seed, KEYS).public

    # ---- to and fro ----

    def do(self, actions: Iterable[Do]) -> None:
        for action in actions:
            if isinstance(action, Say):
                word, attachment = decode_to_broker(action.frames)
                carries = len(action.frames) == 2
                self.said.append(Carrying(word, attachment) if carries else word)
            elif isinstance(action, Reopen):
                self.reopened.append(action.reason)
            else:
                assert action.room in (TAG, b"") or not isinstance(action.what, Message)
                self.told.append(action.what)

    def connect(self) -> None:
        """A handshake, HELLO, READY; what follows them is new."""
        self.do(self.core.opened())
        hello = self.said[-1]
        assert isinstance(hello, Hello)
        self.hear(ready(hello.req))

    def disconnect(self, reason: str = "cut") -> None:
        self.do(self.core.closed(reason))

    def hear(self, word: Word, attachment: bytes | None = None) -> None:
        """The server says something."""
        self.do(self.core.receive(frames_of(word, attachment)))

    def show(self, shown: Shown, req: int = 0) -> None:
        """An ENTRIES, by default one that answers nothing."""
        word, items = shown.but(req=req)
        self.hear(word, pack_batch(items))

    def receipt(self, first: int, last: int) -> None:
        word, ids = self.ledger.receipt(first, last)
        self.hear(word, pack_batch((i, None) for i in ids))

    def log(self, *envelopes: bytes) -> None:
        """The log grows by these, and she gets them."""
        self.ledger.envelopes += envelopes
        self.show(self.ledger.show(self.room.checked.n + 1, self.ledger.n))

    def answer_joins(self) -> None:
        """Every JOIN that waits is answered: nothing is due, and this is the end we show."""
        for word in self.take_said(Join):
            n = self.ledger.n if self.shown_n is None else self.shown_n
            end = self.ledger.end(n) if n else self.no_room()
            self.show(end.but(tip=max(self.tip, n)), word.req)

    def no_room(self) -> Shown:
        return self.ledger.end(0).but(log=NO_LOG, head=b"", tip=0)

    def arrive(self, *envelopes: bytes) -> None:
        """She connects, and gets a log with these entries."""
        self.connect()
        self.log(*envelopes)
        self.answer_joins()
        self.told.clear()

    def say(self, *texts: str, anyway: bool = False) -> list[Carrying]:
        """She says something; the posts that go out now."""
        self.do(self.core.post(TAG, texts, anyway=anyway))
        return self.take_posts()

    def pass_time(self, seconds: float, *, answers: bool = True) -> None:
        """A tick every half second, in each of which the server answers what it must."""
        for _ in range(int(seconds * 2)):
            self.clock.time += 0.5
            self.do(self.core.tick())
            if answers:
                self.answer_joins()

    def cast(self, person: Person, beat: Beat) -> None:
        """A beat of somebody comes."""
        now_ms = self.clock.wall_ms()
        self.hear(Cast(TAG), person.seal(encode(beat), now_ms, EnvelopeClass.CAST))

    # ---- what came of it ----

    def take_said(self, kind: type[_W]) -> list[_W]:
        taken: list[_W] = [word for word in self.said if isinstance(word, kind)]
        self.said = [word for word in self.said if not isinstance(word, kind)]
        return taken

    def take_posts(self) -> list[Carrying]:
        carrying = [w for w in self.said if isinstance(w, Carrying) and isinstance(w.word, Post)]
        self.said = [word for word in self.said if word not in carrying]
        return carrying

    def take_beats(self) -> list[Beat]:
        carrying = [w for w in self.said if isinstance(w, Carrying) and isinstance(w.word, Cast)]
        self.said = [word for word in self.said if word not in carrying]
        opened = (open_envelope(KEYS, w.envelope, EnvelopeClass.CAST) for w in carrying)
        return [decode_cast(beat.body) for beat in opened]

    @property
    def notices(self) -> list[Notice]:
        return [what for what in self.told if isinstance(what, Notice)]

    @property
    def texts(self) -> list[str]:
        return [what.text for what in self.told if isinstance(what, Message)]

    @property
    def faults(self) -> list[Notice]:
        return [notice for notice in self.notices if notice.blame is Blame.SERVER]

    def confirmed(self) -> list[int]:
        return [what.n for what in self.told if isinstance(what, Confirmed)]

    def outbox(self) -> list[bytes]:
        """What is in her outbox, by a process of its own."""
        with contextlib.closing(sqlite3.connect(self.folder / "vault.db")) as database:
            rows = database.execute("SELECT envelope FROM outbox").fetchall()
        return [envelope for (envelope,) in rows]


def body_of(envelope: bytes) -> Text | Void:
    body = decode_logged(open_envelope(KEYS, envelope, EnvelopeClass.LOG).body)
    assert isinstance(body, Text | Void)
    return body


def beat(
    person: Person, head: bytes = NOBODY, *, count: int = 1, echo: Sequence[bytes] = ()
) -> Beat:
    ask = count.to_bytes(8, "big")
    return Beat(person.name, person.incarnation, count, head, ask, tuple(echo), False)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "alice")
    yield made
    made.stop()


# ---- joining, reading ----


def test_a_followed_room_is_joined_and_what_comes_is_told_and_kept(desk: Desk) -> None:
    desk.connect()
    assert desk.told == [Connection(True, "server 1")]
    (join,) = desk.take_said(Join)
    assert (join.rooms[0].log, join.rooms[0].after) == (NO_LOG, 0)
    desk.log(desk.bob.says("one"), desk.carol.says("two"))
    assert desk.texts == ["one", "two"]
    assert desk.told[-1] == Progress(2, 2, True)
    assert desk.room.checked.n == 2
    assert [member.name for member in desk.room.members(desk.clock.now())] == ["bob", "carol"]


def test_a_later_run_tells_the_same_and_joins_from_where_the_former_stood(desk: Desk) -> None:
    desk.connect()
    desk.log(*(desk.bob.says(str(n)) for n in range(5)), b"junk", desk.carol.voids(1))
    before = [what for what in desk.told if isinstance(what, Message)]
    desk.restart()
    assert [what for what in desk.told if isinstance(what, Message)] == before
    desk.connect()
    (join,) = desk.take_said(Join)
    assert (join.rooms[0].log, join.rooms[0].after) == (desk.ledger.log, 7)
    assert join.rooms[0].hash == desk.ledger.hash_at(7)


def test_a_room_is_read_in_order_however_many_entries_come_at_once(desk: Desk) -> None:
    """So many are opened on all cores."""
    desk.connect()
    desk.log(*(desk.bob.says(str(n)) for n in range(70)))
    assert desk.texts == [str(n) for n in range(70)]


def test_an_envelope_that_was_changed_in_the_replica_is_unreadable(desk: Desk) -> None:
    desk.connect()
    desk.log(desk.bob.says("one"), desk.bob.says("two"))
    desk.stop()
    path = desk.vault.replica_path(TAG)
    database = sqlite3.connect(path)
    database.execute("UPDATE entries SET envelope = ? WHERE place & 1 = 1", (desk.bob.says("x"),))
    database.commit()
    database.close()
    desk.start()
    assert desk.texts == ["unreadable entry #1, from a member or the server", "two"]


def test_a_room_that_nobody_wrote_in_is_caught_up(desk: Desk) -> None:
    desk.connect()
    desk.show(desk.no_room())
    assert desk.told[-1] == Progress(0, 0, True)
    (post,) = desk.say("the first")
    assert isinstance(body_of(post.envelope), Text)


def test_a_connection_is_told_when_it_comes_and_when_it_goes(desk: Desk) -> None:
    online = [desk.core.online]
    desk.disconnect("")
    assert desk.told == []
    desk.connect()
    online.append(desk.core.online)
    desk.disconnect("")
    online.append(desk.core.online)
    desk.disconnect("no connection")
    assert desk.told == [
        Connection(True, "server 1"),
        Connection(False, ""),
        Connection(False, "no connection"),
    ]
    assert online == [False, True, False]


def test_a_silent_server_is_told_as_a_lost_connection(desk: Desk) -> None:
    desk.connect()
    desk.pass_time(11, answers=False)
    assert desk.reopened == ["no answer"]
    assert desk.told[-1] == Connection(False, "no answer")


def test_entries_that_make_no_sense_are_dropped_and_nothing_is_told(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.show(desk.no_room().but(tip=5))
    desk.hear(Cast(b"another room's.."), b"a beat")
    desk.hear(Cast(TAG), b"no envelope")
    assert desk.told == []
    assert desk.take_said(Join) == []


def test_what_was_lost_in_between_is_asked_for_again(desk: Desk) -> None:
    desk.arrive(desk.bob.says("one"))
    desk.ledger.envelopes += [desk.bob.says("two"), desk.bob.says("three")]
    desk.show(desk.ledger.show(3, 3))
    assert desk.told == []
    (join,) = desk.take_said(Join)
    assert (join.rooms[0].sub, join.rooms[0].after) == (2, 1)
    desk.show(desk.ledger.show(2, 3), join.req)
    assert desk.texts == ["two", "three"]


def test_what_a_server_refuses_is_told_in_its_own_words(desk: Desk) -> None:
    desk.connect()
    (join,) = desk.take_said(Join)
    desk.hear(Refuse(join.req, 0, "rate", TAG, 100, "slow down"))
    desk.hear(Refuse(0, 0, "stopping", b"", 100, "good night"))
    assert desk.told[-3:] == [
        ServerSays("rate", "slow down"),
        ServerSays("stopping", "good night"),
        Connection(False, "the server stopped"),
    ]


def test_an_entry_that_cannot_be_received_is_passed_over_and_named(desk: Desk) -> None:
    desk.arrive(desk.bob.says("one"))
    for _ in range(6):  # the first one after its JOIN was answered
        desk.disconnect()
        desk.connect()
    (page,) = desk.take_said(Page)
    desk.take_said(Join)
    desk.ledger.envelopes += [desk.bob.says("too big"), desk.bob.says("three")]
    desk.told.clear()
    desk.show(desk.ledger.show(2, 2, bare_to=2), page.req)
    text = "entry #2 cannot be received from the server and was passed over"
    assert desk.notices == [Notice(2, State.GAP, Blame.UNKNOWN, text)]
    assert desk.texts == ["unreadable entry #2, from a member or the server"]
    (join,) = desk.take_said(Join)
    assert join.rooms[0].after == 2
    desk.show(desk.ledger.show(3, 3), join.req)
    assert desk.texts[-1] == "three"


def test_only_what_comes_live_is_late(desk: Desk) -> None:
    """Who was away cannot know when the server got it, but for what was due before."""
    old = desk.clock.wall_ms() - 10**9
    desk.connect()
    desk.log(desk.bob.says("history", at_ms=old))
    desk.log(desk.bob.says("live", at_ms=old))
    desk.disconnect()
    desk.connect()
    meanwhile = desk.clock.wall_ms() - 60_000
    desk.clock.time += 600.0
    desk.log(desk.bob.says("meanwhile", at_ms=meanwhile), desk.bob.says("held back", at_ms=old))
    desk.log(desk.bob.says("live again", at_ms=old))
    statuses = [what.status for what in desk.told if isinstance(what, Message)]
    assert statuses == [Status.STORED, Status.LATE, Status.STORED, Status.LATE, Status.LATE]


# ---- a server that goes back ----


def test_a_server_that_is_behind_is_asked_again_before_it_is_accused(desk: Desk) -> None:
    desk.arrive(desk.bob.says(), desk.bob.says(), desk.bob.says())
    desk.show(desk.ledger.end(1))
    text = "the server is behind: it shows 1 of 3 messages"
    assert desk.notices == [Notice(0, State.STALE, Blame.UNKNOWN, text)]
    desk.pass_time(1.5, answers=False)
    assert desk.take_said(Join) == []
    desk.pass_time(0.5, answers=False)
    (join,) = desk.take_said(Join)
    desk.show(desk.ledger.end(1), join.req)
    (fault,) = desk.faults
    assert fault.text == "the server contradicted itself: it went back 2 messages, from #3 to #1"
    assert desk.room.fault == "it went back 2 messages, from #3 to #1"
    assert "There is no proof of it that others could check" in desk.notices[-1].text
    desk.pass_time(5.0, answers=False)
    assert desk.take_said(Join) == []


def test_a_server_that_was_behind_and_caught_up_is_forgiven(desk: Desk) -> None:
    desk.arrive(desk.bob.says(), desk.bob.says())
    for _ in range(2):
        desk.show(desk.ledger.end(1))
        desk.show(desk.ledger.end())
        desk.show(desk.ledger.end(1))
        desk.log(desk.bob.says())
    assert desk.faults == []


def test_a_server_that_lost_the_room_is_asked_again_before_it_is_accused(desk: Desk) -> None:
    desk.arrive(desk.bob.says(), desk.bob.says())
    desk.show(desk.no_room())
    assert desk.notices[0].text == "the server is behind: it shows 0 of 2 messages"
    desk.show(desk.no_room())
    assert desk.room.fault == "it went back 2 messages, from #2 to #0"


def test_a_new_log_is_told_with_what_it_lost_and_is_not_followed(desk: Desk) -> None:
    desk.arrive(*(desk.bob.says() for _ in range(5)))
    desk.show(desk.ledger.restored(3).end())
    assert desk.room.fault == "it lost #4-#5 and started a new log"
    assert desk.room.record.kept_n == 3
    assert len(desk.take_said(Leave)) == 1
    desk.disconnect()
    desk.connect()
    assert desk.take_said(Join) == []


def test_a_new_log_that_lost_nothing_we_know_of_says_so(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.show(desk.ledger.restored(1).end())
    assert desk.room.fault == "it lost nothing we know of and started a new log"


# ---- contradictions ----


def contradict(desk: Desk) -> None:
    """The server shows another third entry, under a head that it signed."""
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    desk.show(desk.ledger.branch(2, 1).end(3))


def test_a_contradiction_stops_the_posting_and_leaves_a_proof(desk: Desk) -> None:
    contradict(desk)
    fault, advice = desk.notices
    assert (fault.state, fault.blame) == (State.FORKED, Blame.SERVER)
    assert (advice.state, advice.blame) == (State.FORKED, Blame.NOBODY)
    path = desk.room.record.evidence
    assert path in advice.text
    assert proves(evidence.unpack(Path(path).read_bytes())) is Proof.TWO_HASHES
    assert len(desk.take_said(Leave)) == 1
    with pytest.raises(ServerFault, match="another history"):
        desk.say("hello?")
    assert desk.outbox() == []
    assert desk.room.status(desk.clock.now()).state is State.FORKED


def test_the_first_contradiction_stays_whatever_follows(desk: Desk) -> None:
    contradict(desk)
    first = desk.room.record
    desk.show(desk.ledger.restored(2).end())
    assert len(desk.faults) == 2
    assert desk.room.fault == first.fault
    assert desk.room.record.evidence == first.evidence
    desk.restart()
    assert desk.room.fault == first.fault
    desk.connect()
    with pytest.raises(ServerFault):
        desk.say("and now?")


def test_who_knows_of_the_contradiction_can_post_all_the_same(desk: Desk) -> None:
    contradict(desk)
    posts = desk.say("anyway", anyway=True)
    assert [body_of(post.envelope).text for post in posts] == ["anyway"]  # type: ignore[union-attr]
    with pytest.raises(ServerFault):
        desk.say("not anyway")


def test_reading_goes_on_where_a_message_showed_the_contradiction(desk: Desk) -> None:
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    other_end = desk.ledger.branch(2, 1).head(3).packed
    desk.log(desk.carol.says("from the other side", seen=other_end), desk.bob.says("and on"))
    assert len(desk.faults) == 1
    assert desk.texts == ["from the other side", "and on"]
    assert proves(evidence.unpack(Path(desk.room.record.evidence).read_bytes()))
    desk.log(desk.bob.says("still"))
    assert desk.texts[-1] == "still"


def test_a_fault_that_was_kept_with_no_verdict_is_found_again_in_the_replica(desk: Desk) -> None:
    """A process may die between the entry and the verdict."""
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    other_end = desk.ledger.branch(2, 1).head(3).packed
    desk.log(desk.carol.says(seen=other_end))
    desk.vault.save_room(TAG, msgspec.structs.replace(desk.room.record, fault="", evidence=""))
    desk.restart()
    assert len(desk.faults) == 1
    assert desk.room.fault
    desk.connect()
    with pytest.raises(ServerFault):
        desk.say("hello?")


def test_another_process_finds_the_contradiction_for_us(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.vault.save_room(TAG, msgspec.structs.replace(desk.room.record, fault="it lied"))
    with pytest.raises(ServerFault, match="it lied"):
        desk.say("hello?")


def test_a_rejoin_by_another_process_is_none_of_ours(desk: Desk) -> None:
    """What we would say counter-signs the history that was left."""
    desk.arrive(desk.bob.says())
    desk.show(desk.ledger.branch(0, 1).end())
    assert len(desk.faults) == 1
    left = msgspec.structs.replace(desk.room.record, fault="", accepted_n=-1, rejoins=1)
    desk.vault.save_room(TAG, left)
    for _ in range(2):
        with pytest.raises(ServerFault, match="signed another history"):
            desk.say("hello?")
        desk.room.mark_read()
    assert desk.outbox() == []


def test_a_promise_that_our_chain_does_not_keep_is_told(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.show(desk.ledger.branch(1, 2).end())
    desk.log(desk.bob.says("two"), desk.bob.says("three"))
    assert desk.texts == ["two", "three"]
    assert len(desk.faults) == 1


@pytest.fixture
def crossed(desk: Desk) -> Desk:
    """She left a history of three messages; #4 of what is gone on with counter-signs another one.

    It is not told yet where that ends.
    """
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    desk.show(desk.ledger.branch(2, 3).end(3))
    accept(desk)
    assert desk.room.fault == ""
    desk.ledger.envelopes.append(desk.carol.says(seen=desk.ledger.branch(2, 3).head(3).packed))
    desk.connect()
    return desk


def test_what_was_accepted_accuses_nobody_again_but_what_comes_later_does(crossed: Desk) -> None:
    """The message by which a fork was found stays in the log for ever."""
    crossed.answer_joins()
    crossed.show(crossed.ledger.show(1, 3))
    crossed.show(crossed.ledger.show(4, 4))
    (accepted,) = crossed.notices
    assert (accepted.n, accepted.blame, accepted.proof) == (4, Blame.NOBODY, None)
    assert accepted.text.startswith("accepted by your rejoin: it showed carol")
    assert len(crossed.say("on")) == 1
    crossed.log(crossed.carol.says(seen=crossed.ledger.branch(2, 3).head(4).packed))
    assert len(crossed.faults) == 1
    assert crossed.room.fault


@pytest.mark.parametrize("says_first", [True, False], ids=["no entries", "entries"])
def test_of_what_is_accepted_a_server_signs_the_end(crossed: Desk, says_first: bool) -> None:
    """It speaks of more: that would accept what it makes of the log from now on."""
    crossed.tip = 1_000
    if says_first:
        crossed.shown_n = 3
        crossed.answer_joins()
    for n in (3, 4):
        crossed.show(crossed.ledger.show(crossed.room.checked.n + 1, n).but(tip=crossed.tip))
    (fault,) = crossed.faults
    assert fault.n == 4
    assert crossed.room.fault


def test_where_an_accepted_log_ends_is_asked_before_anything_of_it_flows(crossed: Desk) -> None:
    """By naming a log that is no one's, on each connection until it is answered."""
    (asked,) = crossed.take_said(Join)
    crossed.disconnect()
    crossed.connect()
    (again,) = crossed.take_said(Join)
    assert {join.rooms[0].log for join in (asked, again)} == {b"\xff" * 32}
    crossed.show(crossed.ledger.end(4), again.req)
    assert crossed.room.record.accepted_n == 4
    crossed.pass_time(0.5, answers=False)
    (join,) = crossed.take_said(Join)
    assert (join.rooms[0].log, join.rooms[0].after) == (NO_LOG, 0)
    assert join.rooms[0].sub > again.rooms[0].sub


def test_who_signs_an_end_that_never_comes_is_accused_of_withholding(crossed: Desk) -> None:
    far_end = KEY.sign_head(TAG, crossed.ledger.log, 1_000, bytes(32), 0)
    (asked,) = crossed.take_said(Join)
    crossed.show(crossed.ledger.end(4).but(head=far_end.packed), asked.req)
    crossed.show(crossed.ledger.show(1, 4))
    assert crossed.faults == []
    crossed.pass_time(WITHHELD_S + 1)
    assert "it signed #1000 and does not deliver" in crossed.faults[0].text


def test_the_log_that_is_accepted_is_the_one_that_was_announced(crossed: Desk) -> None:
    """Also where the next process reads it."""
    crossed.answer_joins()
    crossed.restart()
    crossed.connect()
    other = Ledger(room=TAG).grow(4)
    crossed.show(other.show(1, 4))
    (fault,) = crossed.faults
    assert fault.text.endswith("it signed #4 of another log of this room")


# ---- what waited when its author rejoined ----


@pytest.fixture
def dropped(desk: Desk) -> Desk:
    """She wrote "early" over #1, "late" and "later" over #3; then the server went back to #1.

    None of it was ever posted, and her user has accepted that log.
    """
    desk.arrive(desk.bob.says("1"))
    desk.disconnect()
    desk.say("early")
    desk.connect()
    desk.take_posts()
    desk.log(desk.bob.says("2"), desk.bob.says("3"))
    desk.disconnect()
    desk.say("late", "later")
    desk.ledger = desk.ledger.branch(1, 0)
    accept(desk)
    return desk


def accept(desk: Desk) -> None:
    """`zchat rejoin --accept`, and a new process; nothing is connected yet."""
    desk.stop()
    vault = Vault(desk.folder)
    record = vault.room(TAG)
    assert record is not None
    rejoin(Opened(vault, KEYS, record, 99.0))
    vault.close()
    desk.start()


def texts_in(posts: Iterable[Carrying]) -> list[str]:
    bodies = (body_of(post.envelope) for post in posts)
    return [body.text if isinstance(body, Text) else "" for body in bodies]


def test_after_a_rejoin_what_waits_is_said_anew_over_the_accepted_log(dropped: Desk) -> None:
    """As new messages of this process; what fits goes out as it was. None of them accuses."""
    early, *late = dropped.outbox()
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 1))
    posts = dropped.take_posts()
    assert texts_in(posts) == ["early", "late", "later"]
    assert posts[0].envelope == early
    anew = [body_of(post.envelope) for post in posts[1:]]
    assert [body.seq for body in anew] == [1, 2]
    assert {body.incarnation for body in anew}.isdisjoint(body_of(e).incarnation for e in late)
    assert {body.seen for body in anew} == {dropped.ledger.head(1).packed}
    assert dropped.outbox() == [post.envelope for post in posts]
    assert [what.text for what in dropped.told if isinstance(what, Composed)] == ["late", "later"]
    dropped.log(*(post.envelope for post in posts))
    assert dropped.texts == ["1", "early", "late", "later"]
    assert dropped.notices == []
    assert dropped.confirmed() == [2, 3, 4]
    assert not dropped.room.unconfirmed
    dropped.restart()
    assert dropped.outbox() == []


def test_nothing_is_said_anew_before_the_accepted_log_is_read_to_its_end(dropped: Desk) -> None:
    """Whoever dies before that has changed nothing; what it says itself goes out."""
    before = dropped.outbox()
    dropped.ledger.envelopes.append(dropped.bob.says("another 2"))
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 1).but(tip=2))
    assert dropped.take_posts() == []
    assert len(dropped.room.unconfirmed) == 3
    assert texts_in(dropped.say("on")) == ["on"]
    assert dropped.outbox()[:3] == before and len(dropped.outbox()) == 4
    dropped.restart()
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 2))
    assert texts_in(dropped.take_posts()) == ["on", "early", "late", "later"]


def test_what_stands_in_the_accepted_log_is_not_said_again(dropped: Desk) -> None:
    """A message that crossed to the history that is gone on with."""
    late = dropped.outbox()[1]
    dropped.ledger.envelopes.append(late)
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 2))
    assert dropped.faults == []
    assert dropped.confirmed() == [2]
    assert texts_in(dropped.take_posts()) == ["early", "later"]


def test_a_room_that_the_server_lost_is_begun_anew_with_what_waits(dropped: Desk) -> None:
    dropped.connect()
    dropped.show(dropped.no_room())
    posts = dropped.take_posts()
    assert texts_in(posts) == ["early", "late", "later"]
    assert {body_of(post.envelope).seen for post in posts} == {NOBODY}


def test_what_was_confirmed_is_never_said_anew(desk: Desk) -> None:
    """A server that plays a restore, and then that it has no such room, could show both."""
    desk.arrive(desk.bob.says("1"))
    sealed = [post.envelope for post in desk.say("two", "three")]
    desk.log(*sealed)
    desk.ledger = desk.ledger.restored(1)
    desk.disconnect()
    desk.connect()
    desk.answer_joins()
    assert desk.room.fault
    for _ in range(2):
        accept(desk)
        desk.connect()
        desk.show(desk.no_room())
        assert [post.envelope for post in desk.take_posts()] == sealed


def test_what_a_restored_server_lost_goes_out_as_the_same_bytes(dropped: Desk) -> None:
    """Its log names the former one: a `seen` behind its end is a loss, and no fault."""
    before = dropped.outbox()
    dropped.ledger = dropped.ledger.restored(1)
    accept(dropped)
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 1))
    assert [post.envelope for post in dropped.take_posts()] == before


def test_of_what_waited_numbers_that_were_filled_are_dropped_and_other_kinds_wait_on(
    desk: Desk,
) -> None:
    """What a newer version wrote only that version can say anew; what does not open goes out."""
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    me = Person("alice")
    me.author = Author(desk.vault.master_seed, KEYS)
    me.incarnation = desk.vault.begin(TAG)
    seen = desk.ledger.head(3).packed
    sealed = [
        me.says("", seq=1, seen=NOBODY)[:-1] + b"!",
        me.voids(2, seen),
        me.says("x", seen=seen),
    ]
    me.seq = 3
    sealed.append(me.of_kind("later", seen=seen))
    rows = [Pending(me.incarnation, seq, envelope_id(e), e) for seq, e in enumerate(sealed, 1)]
    desk.vault.put(TAG, rows)
    desk.ledger = desk.ledger.branch(1, 0)
    accept(desk)
    desk.connect()
    desk.show(desk.ledger.show(1, 1))
    assert desk.take_posts()[0].envelope == sealed[0]
    assert sealed[1] not in desk.outbox()
    assert sealed[3] in desk.outbox()
    assert len(desk.room.unconfirmed) == 2


def test_only_what_was_said_before_the_rejoin_is_said_anew(dropped: Desk) -> None:
    """What is said later and does not fit is a new contradiction, and nobody hides it."""
    other = dropped.ledger.branch(0, 1).head(1).packed
    me = Person("alice")
    me.author = Author(dropped.vault.master_seed, KEYS)
    me.incarnation = dropped.vault.begin(TAG)
    accuses = me.says("I saw something else", seen=other)
    dropped.vault.put(TAG, [Pending(me.incarnation, 1, envelope_id(accuses), accuses)])
    dropped.restart()
    dropped.connect()
    dropped.show(dropped.ledger.show(1, 1))
    assert accuses in [post.envelope for post in dropped.take_posts()]
    dropped.log(accuses)
    assert len(dropped.faults) == 1


def test_while_another_process_speaks_in_a_room_it_is_not_rejoined(desk: Desk) -> None:
    """It holds the history that would be left, and goes on in it. One that is dead does not."""
    desk.arrive(desk.bob.says())
    desk.say("hello")
    desk.room.close()
    vault = Vault(desk.folder)
    opened = Opened(vault, KEYS, desk.room.record, 99.0)
    with pytest.raises(StoreBusy):
        rejoin(opened)
    desk.vault.close()
    rejoin(opened)
    vault.close()
    desk.start()


def test_while_another_process_reads_a_room_it_is_not_rejoined(desk: Desk) -> None:
    """What lies beside the file would not come along: all that was left would be lost."""
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    beside = Desk(desk.folder)
    desk.room.close()
    opened = Opened(desk.vault, KEYS, desk.room.record, 99.0)
    with pytest.raises(StoreBusy):
        rejoin(opened)
    beside.stop()
    with contextlib.closing(SqliteLog(rejoin(opened).aside, Access.READ_ONLY)) as left:
        assert [entry.n for entry in left.read(TAG, 1, 3)] == [1, 2, 3]
    desk.vault.close()
    desk.start()
    assert desk.room.checked.n == 0


@pytest.fixture
def beside(tmp_path: Path) -> Desk:
    """A second process of Alice, which came while the first one was about to make the replica."""
    Vault(tmp_path / "alice").close()
    path = tmp_path / "alice" / "rooms" / f"{TAG.hex()}.db"
    path.parent.mkdir()
    with take_lock(path):
        return Desk(tmp_path / "alice")


def test_who_still_reads_the_history_that_was_left_says_nothing_of_it_to_the_vault(
    beside: Desk, far: Desk
) -> None:
    """A `tail` beside a `join` that ends: neither the fault nor a promise comes back by it."""
    other = far.ledger.branch(0, 1)
    beside.ledger = far.ledger
    beside.connect()
    beside.show(beside.ledger.show(1, 12))
    (page,) = beside.take_said(Page)
    far.show(other.end())
    assert far.room.fault
    accept(far)
    beside.show(beside.ledger.show(2_041, 2_100), page.req)
    beside.pass_time(1, answers=False)
    beside.show(other.end())
    assert len(beside.faults) == 1
    beside.room.mark_read()
    assert beside.room.fault
    with pytest.raises(ServerFault):
        beside.say("hello?")
    beside.stop()
    assert far.vault.owed(TAG) == set()
    assert far.vault.room(TAG) == far.room.record
    far.restart()
    far.ledger = other
    far.connect()
    far.show(other.show(1, 1))
    assert far.faults == []
    assert not far.room.fault


# ---- posting ----


def test_what_is_said_is_in_the_outbox_before_it_goes_out(desk: Desk) -> None:
    assert desk.say("offline") == []
    (composed,) = desk.told
    (envelope,) = desk.outbox()
    assert composed == Composed(envelope_id(envelope), "alice", "offline")
    desk.connect()
    assert desk.take_posts() == []
    desk.show(desk.no_room())
    (post,) = desk.take_posts()
    assert post == (Post(TAG, 1), envelope)
    body = body_of(envelope)
    assert (body.name, body.seq, body.seen) == ("alice", 1, NOBODY)


def test_what_is_said_vouches_for_the_last_checked_head_and_counts_on(desk: Desk) -> None:
    desk.arrive(desk.bob.says(), desk.bob.says())
    desk.do(desk.core.post(TAG, ["three", "four"], b"\7" * 32, anyway=False))
    bodies = [body_of(post.envelope) for post in desk.take_posts()]
    assert [body.seq for body in bodies] == [1, 2]
    assert {body.seen for body in bodies} == {desk.ledger.head(2).packed}
    assert {body.reply_to for body in bodies if isinstance(body, Text)} == {b"\7" * 32}
    assert desk.room.rename("  Alice  B ") == "Alice B"
    (post,) = desk.say("five")
    renamed = body_of(post.envelope)
    assert (renamed.name, renamed.seq) == ("Alice B", 3)
    assert desk.vault.room(TAG) == desk.room.record


def test_of_texts_of_which_one_is_too_long_none_is_said(desk: Desk) -> None:
    with pytest.raises(TextTooLong):
        desk.say("short", "x" * (MAX_TEXT_BYTES + 1))
    assert desk.outbox() == []
    assert desk.told == []
    desk.say("x" * MAX_TEXT_BYTES)
    assert len(desk.outbox()) == 1


def test_a_receipt_confirms_and_the_replica_lets_go(desk: Desk) -> None:
    """Until our log holds it the outbox does: after an honest restore only we still have it."""
    desk.arrive(desk.bob.says())
    posts = desk.say("mine", "and mine")
    desk.ledger.envelopes += [post.envelope for post in posts]
    desk.receipt(2, 3)
    assert desk.confirmed() == [2, 3]
    assert desk.room.unconfirmed == frozenset()
    assert len(desk.outbox()) == 2
    desk.show(desk.ledger.show(2, 3))
    assert desk.texts == ["mine", "and mine"]
    assert desk.confirmed() == [2, 3]
    desk.stop()
    assert desk.outbox() == []
    desk.start()
    desk.connect()
    assert desk.take_posts() == []


def test_what_is_read_in_the_log_needs_no_receipt(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    (post,) = desk.say("mine")
    assert len(desk.room.unconfirmed) == 1
    desk.log(post.envelope)
    assert desk.confirmed() == [2]
    desk.pass_time(20)
    assert desk.reopened == []


def test_a_dead_process_leaves_its_outbox_to_the_next_as_the_same_bytes(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    posts = desk.say("one", "two")
    desk.ledger.envelopes.append(posts[0].envelope)
    desk.show(desk.ledger.show(2, 2))
    desk.restart()
    assert desk.room.unconfirmed == {envelope_id(posts[1].envelope)}
    desk.connect()
    desk.answer_joins()
    assert [post.envelope for post in desk.take_posts()] == [posts[1].envelope]


def test_a_room_that_is_not_followed_still_sends_its_outbox(desk: Desk) -> None:
    desk.say("left behind")
    desk.restart(follow=False)
    desk.connect()
    assert desk.take_said(Join) == []
    (post,) = desk.take_posts()
    desk.ledger.envelopes.append(post.envelope)
    desk.receipt(1, 1)
    assert desk.confirmed() == [1]


def test_what_the_log_holds_already_is_not_posted_again(desk: Desk) -> None:
    """A process may die after the entry was kept and before the outbox was told."""
    desk.arrive(desk.bob.says())
    (post,) = desk.say("mine")
    desk.log(post.envelope)
    pending = Pending(bytes(16), 1, envelope_id(post.envelope), post.envelope)
    desk.stop()
    vault = Vault(desk.folder)
    incarnation = vault.begin(TAG)
    vault.put(TAG, [pending._replace(incarnation=incarnation)])
    vault.close()
    desk.start()
    assert desk.room.unconfirmed == frozenset()
    desk.stop()
    assert desk.outbox() == []
    desk.start()


def test_a_sound_message_that_is_refused_for_good_stays_in_the_outbox(desk: Desk) -> None:
    """A server must not be able to have its author take a message back."""
    desk.arrive(desk.bob.says())
    (post,) = desk.say("sound")
    desk.hear(Refuse(0, 1, "bad-envelope", TAG, 0, "no"))
    assert desk.told[-2] == ServerSays("bad-envelope", "no")
    assert desk.notices[-1].text == (
        "the server refuses a message of yours that is sound; it stays in your outbox"
    )
    assert desk.take_posts() == []
    assert desk.outbox() == [post.envelope]


def test_a_message_that_no_server_can_take_is_filled_with_a_void(desk: Desk) -> None:
    """Of an outbox that was damaged, say; its number must not look like a loss for ever."""
    (desk.say("to be damaged"), desk.say("fine"))
    damaged, fine = desk.outbox()
    desk.stop()
    database = sqlite3.connect(desk.folder / "vault.db")
    torn = damaged[:-1]
    database.execute(
        "UPDATE outbox SET envelope = ?, id = ? WHERE envelope = ?",
        (torn, envelope_id(torn), damaged),
    )
    database.commit()
    database.close()
    desk.start()
    desk.connect()
    desk.show(desk.no_room())
    assert [post.envelope for post in desk.take_posts()] == [torn, fine]
    desk.hear(Refuse(0, 1, "bad-envelope", TAG, 0, ""))
    again = [post.envelope for post in desk.take_posts()]
    assert again[0] == fine
    void = body_of(again[1])
    assert isinstance(void, Void)
    assert void.seq == 1
    assert void.incarnation == body_of(fine).incarnation
    assert sorted(desk.outbox()) == sorted(again)
    assert desk.room.unconfirmed == {envelope_id(envelope) for envelope in again}


def test_a_refusal_of_what_is_no_longer_in_the_outbox_changes_nothing(desk: Desk) -> None:
    assert desk.room.refused_for_good(bytes(32)) == ([], [])


def test_a_receipt_that_does_not_hold_is_the_servers_fault(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    word, ids = desk.ledger.receipt(1, 1)
    wrong: Stored = msgspec.structs.replace(word, before=bytes(32))
    desk.hear(wrong, pack_batch((i, None) for i in ids))
    assert desk.room.fault == "it sent a receipt that does not hold"


def test_a_receipt_is_remembered_until_our_log_gets_there(desk: Desk) -> None:
    """Of a run that posted and ended, and of a server that then shows something else."""
    desk.arrive(desk.bob.says())
    (post,) = desk.say("mine")
    truth = desk.ledger.branch(1, 0)
    desk.ledger.envelopes.append(post.envelope)
    desk.receipt(2, 2)
    desk.receipt(1, 2)
    assert desk.confirmed() == [2]
    desk.restart()
    assert desk.faults == []
    desk.ledger = truth
    desk.connect()
    desk.log(desk.bob.says("instead"))
    (fault,) = desk.faults
    assert proves(fault.proof) is Proof.TWO_HASHES


def test_receipts_of_all_runs_are_remembered(desk: Desk) -> None:
    """A later one of another history must not make the server's word for the first forgotten."""
    desk.arrive(desk.bob.says())
    truth = desk.ledger.branch(1, 0)
    for place in (2, 5):
        desk.ledger = truth
        desk.answer_joins()
        desk.ledger = truth.branch(1, place - 2)
        (post, *_) = desk.say(f"for place {place}")
        desk.ledger.envelopes.append(post.envelope)
        desk.receipt(place, place)
        desk.restart()
        desk.connect()
    assert {head.n for head in desk.vault.owed(TAG)} == {2, 5}
    desk.ledger = truth
    desk.log(desk.bob.says("instead"))
    assert [fault.text for fault in desk.faults] == [
        "the server contradicted itself: it signed another history up to #2"
    ]


def test_a_receipt_is_remembered_by_a_run_that_is_killed(desk: Desk) -> None:
    """Once our log has not reached it for a moment; and forgotten when it has."""
    desk.arrive(desk.bob.says())
    (post,) = desk.say("mine")
    desk.ledger.envelopes.append(post.envelope)
    desk.receipt(2, 2)
    desk.pass_time(1)
    assert desk.vault.owed(TAG) == {desk.ledger.head(2)}
    desk.show(desk.ledger.show(2, 2))
    desk.pass_time(1)
    assert desk.vault.owed(TAG) == set()


def test_a_receipt_that_another_process_s_log_contradicts_is_told_at_once(desk: Desk) -> None:
    """Our log went beyond the receipt's place before we heard of it."""
    desk.arrive(desk.bob.says(), desk.bob.says(), desk.bob.says())
    desk.vault.save_owed(TAG, [desk.ledger.branch(1, 2).head(3)], [])
    desk.restart()
    (fault,) = desk.faults
    assert fault.text.endswith("it gave a receipt for #3 of another history than this")
    assert proves(fault.proof) is Proof.TWO_HASHES
    desk.connect()
    with pytest.raises(ServerFault):
        desk.say("hello?")


# ---- two processes of one member ----


def test_a_second_process_goes_on_in_memory_from_what_the_first_has_kept(desk: Desk) -> None:
    desk.arrive(desk.bob.says("one"))
    second = Desk(desk.folder)
    second.ledger = desk.ledger.branch(1, 0)
    assert second.texts == ["one"]
    second.connect()
    second.answer_joins()
    (post,) = second.say("from the second")
    second.log(post.envelope, second.carol.says("three"))
    assert second.texts == ["one", "from the second", "three"]
    second.stop()
    assert second.outbox() == [post.envelope]  # no file holds it yet
    assert desk.room.checked.n == 1


def test_a_second_process_that_comes_before_there_is_a_file_begins_from_nothing(
    tmp_path: Path,
) -> None:
    path = Vault(tmp_path / "alice").replica_path(TAG)
    with take_lock(path):
        desk = Desk(tmp_path / "alice")
        desk.connect()
        desk.log(desk.bob.says("one"))
        assert desk.texts == ["one"]
        desk.stop()


# ---- beats ----


@pytest.fixture
def beating(tmp_path: Path) -> Iterator[Desk]:
    """Alice says that she is here; she has two messages of bob."""
    made = Desk(tmp_path / "alice", beats=True)
    made.arrive(made.bob.says(), made.bob.says())
    yield made
    made.stop()


def test_who_does_not_beat_is_quiet(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.pass_time(400)
    assert desk.take_beats() == []
    desk.do(desk.core.farewell())
    assert desk.take_beats() == []


def test_a_beat_goes_out_at_once_then_after_an_interval_and_at_the_end(beating: Desk) -> None:
    beating.pass_time(1)
    (first,) = beating.take_beats()
    assert (first.name, first.count, first.leaving) == ("alice", 1, False)
    assert first.seen == beating.ledger.head(2).packed
    beating.pass_time(100)
    (second,) = beating.take_beats()
    assert (second.count, second.incarnation) == (2, first.incarnation)
    assert second.ask != first.ask
    beating.do(beating.core.farewell())
    (last,) = beating.take_beats()
    assert (last.count, last.leaving) == (3, True)
    assert [body_of(p.envelope).incarnation for p in beating.say("x")] == [first.incarnation]
    beating.disconnect()
    beating.do(beating.core.farewell())
    beating.pass_time(100)
    assert beating.take_beats() == []


def test_to_begin_to_beat_twice_is_to_begin_once(beating: Desk) -> None:
    beating.connect()
    beating.answer_joins()
    beating.pass_time(1)
    first = len(beating.take_beats())
    beating.core.beat(TAG)
    beating.pass_time(1)
    assert (first, beating.take_beats()) == (1, [])


def test_a_message_stands_for_the_first_beat(beating: Desk) -> None:
    beating.say("hello")
    beating.pass_time(40)
    assert beating.take_beats() == []


def test_who_echoes_us_is_here_by_the_name_we_know(beating: Desk) -> None:
    beating.pass_time(1)
    (ours,) = beating.take_beats()
    dave = Person("dave")
    for person in (beating.bob, dave):
        beating.cast(person, beat(person, echo=[ours.ask]))
    dave_again = Person("dave", seed=9)
    beating.room.verify([dave_again.key], 2)
    beating.cast(dave_again, beat(dave_again, echo=[ours.ask]))
    shown = [what for what in beating.told if isinstance(what, Here)]
    assert shown == [
        Here(beating.bob.key, beating.bob.marked, True),
        Here(dave.key, dave.marked, True),
        Here(dave_again.key, "dave", True),
    ]
    (bob,) = beating.room.members(beating.clock.now())
    assert bob.here


def test_a_muted_member_comes_and_goes_unseen(beating: Desk) -> None:
    beating.pass_time(1)
    (ours,) = beating.take_beats()
    assert beating.room.toggle_mute(beating.bob.key)
    beating.cast(beating.bob, beat(beating.bob, echo=[ours.ask]))
    assert beating.told == []
    assert not beating.room.toggle_mute(beating.bob.key)


def test_only_a_sealed_beat_of_this_room_is_heard(beating: Desk) -> None:
    stranger = Person("bob", keys=type(KEYS)(bytes(32)))
    beating.cast(stranger, beat(stranger))
    beating.hear(Cast(TAG), beating.bob.says())
    beating.hear(Cast(TAG), beating.bob.seal(b"?", envelope_class=EnvelopeClass.CAST))
    beating.pass_time(500)
    assert {type(what) for what in beating.told} == {Progress}  # who was not heard is not missed


def test_a_beat_from_another_history_accuses_the_server_once(beating: Desk) -> None:
    other = beating.ledger.branch(1, 3)
    for count in (1, 2):
        beating.cast(beating.bob, beat(beating.bob, other.head(2).packed, count=count))
    (fault,) = beating.faults
    assert proves(fault.proof) is Proof.TWO_HASHES
    assert beating.room.fault


def test_a_beat_that_claims_what_was_never_signed_accuses_its_author_once(beating: Desk) -> None:
    other = unsigned(beating.ledger.branch(1, 3).head(4)).packed
    for count in (1, 2):
        beating.cast(beating.bob, beat(beating.bob, other, count=count))
    beating.cast(beating.carol, beat(beating.carol, other))
    assert [(notice.blame, notice.text) for notice in beating.notices] == [
        (Blame.AUTHOR, f"{beating.bob.marked} claims a history the server never signed"),
        (
            Blame.AUTHOR,
            f"somebody~{beating.carol.key[:2].hex()} claims a history the server never signed",
        ),
    ]


def test_a_beat_ahead_of_us_binds_what_comes(beating: Desk) -> None:
    ahead = beating.ledger.branch(2, 2)
    beating.cast(beating.bob, beat(beating.bob, ahead.head(4).packed))
    assert beating.told == []
    assert beating.room.checked.promised_n() == 4
    beating.log(beating.bob.says(), beating.bob.says())
    assert len(beating.faults) == 1


def test_after_a_rejoin_the_history_that_was_left_accuses_nobody(beating: Desk) -> None:
    """Who has not rejoined goes on vouching for it: named once; what is ahead binds nothing."""
    beating.room.record = msgspec.structs.replace(beating.room.record, accepted_n=2)
    other = beating.ledger.branch(1, 3)
    for count in (1, 2):
        beating.cast(beating.bob, beat(beating.bob, other.head(2).packed, count=count))
    beating.cast(beating.bob, beat(beating.bob, other.head(4).packed, count=3))
    (notice,) = beating.notices
    assert (notice.blame, notice.state) == (Blame.NOBODY, State.UNVERIFIED)
    assert notice.text.startswith(f"{beating.bob.marked} still holds another history")
    beating.log(beating.bob.says(), beating.bob.says())
    assert beating.faults == []
    assert not beating.room.fault


def test_after_a_rejoin_to_a_room_that_was_lost_the_history_that_was_left_accuses_nobody(
    desk: Desk,
) -> None:
    """Nothing stood in the log that was accepted; who has not rejoined vouches for the former."""
    desk.arrive(*(desk.bob.says() for _ in range(3)))
    left, desk.shown_n, desk.tip = desk.ledger, 0, 0
    accept(desk)
    desk.connect()
    desk.answer_joins()
    desk.cast(desk.bob, beat(desk.bob, left.head(3).packed))
    desk.disconnect()
    desk.connect()
    desk.answer_joins()
    assert desk.faults == []
    assert not desk.room.fault


def test_who_signs_an_end_far_ahead_and_trickles_is_forgiven_no_more_than_it_delivered(
    desk: Desk,
) -> None:
    desk.arrive(desk.bob.says())
    accept(desk)
    desk.connect()
    (asked,) = desk.take_said(Join)
    far = KEY.sign_head(TAG, desk.ledger.log, 2**62, bytes(32), 0)
    desk.show(desk.ledger.end(1).but(head=far.packed), asked.req)
    desk.show(desk.ledger.show(1, 1))
    for _ in range(5):
        for _ in range(20):
            desk.pass_time(1)
            for page in desk.take_said(Page):
                desk.hear(Refuse(page.req, 0, "no-log", TAG, 1_000, ""))
        desk.log(desk.bob.says())
    assert desk.room.is_slow
    assert desk.room.record.accepted_n <= desk.room.checked.n
    desk.log(desk.bob.says())
    desk.log(desk.carol.says(seen=desk.ledger.branch(2, 3).head(4).packed))
    assert len(desk.faults) == 1


def test_where_the_accepted_log_ends_is_what_the_first_process_was_told(desk: Desk) -> None:
    """A server that leaves one of them waiting for it could have more forgiven."""
    desk.arrive(*(desk.bob.says() for _ in range(4)))
    accept(desk)
    desk.connect()
    desk.vault.update_room(TAG, desk.room.record, accepted_n=2)
    desk.answer_joins()
    record = desk.vault.room(TAG)
    assert record is not None
    assert record.accepted_n == desk.room.record.accepted_n == 2


def test_our_own_key_in_a_beat_that_we_did_not_send_is_told(beating: Desk) -> None:
    beating.pass_time(1)
    (ours,) = beating.take_beats()
    envelope = beating.room.farewell(beating.clock.now())
    beating.hear(Cast(TAG), envelope)
    assert beating.told == []
    me = Person("alice")
    me.author = Author(beating.vault.master_seed, KEYS)
    beating.cast(me, beat(me))
    assert [notice.state for notice in beating.notices] == [State.KEY_CHANGED]
    assert "did not write" in beating.notices[0].text
    assert ours.incarnation != me.incarnation


def test_a_beat_that_was_recorded_before_an_import_is_no_alarm(
    beating: Desk, tmp_path: Path
) -> None:
    """It was sent after the backup was made, so the vault cannot know who sent it."""
    contents = beating.vault.contents()
    beating.restart()
    me = Person("alice")
    me.author = Author(beating.vault.master_seed, KEYS)
    me.incarnation = beating.vault.begin(TAG)
    recorded = me.seal(encode(beat(me)), beating.clock.wall_ms(), EnvelopeClass.CAST)
    beating.stop()
    beating.clock.time += 1
    beating.folder = tmp_path / "elsewhere"
    with contextlib.closing(Vault(beating.folder)) as vault:
        vault.fill(contents)
    beating.start()
    beating.connect()
    beating.show(beating.ledger.show(1, beating.ledger.n))
    for _ in range(2):
        beating.hear(Cast(TAG), recorded)
    (notice,) = beating.notices
    assert notice.text == "this profile was used elsewhere, or restored from a copy"
    beating.cast(me, beat(me, count=2))
    assert "somebody has your keys" in beating.notices[-1].text


def test_what_is_remembered_of_keys_has_an_end(
    beating: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the passphrase can make up as many as it likes."""
    monkeypatch.setattr(member_room, "_MOST_REMEMBERED", 2)
    other = unsigned(beating.ledger.branch(1, 3).head(4)).packed
    people = [Person("x", seed=seed) for seed in range(1, 4)]
    for count in (1, 2):
        for person in people:
            beating.cast(person, beat(person, other, count=count))
    assert len(beating.notices) == 6  # each was forgotten for the next, and told again
    beating.room.verify([people[0].key], 1)
    beating.log(*(person.says() for person in [*people, *people]))
    verified = [what.verified for what in beating.told if isinstance(what, Message)]
    assert verified == [True, False, False] * 2


# ---- what time shows ----


def promise(desk: Desk, n: int) -> None:
    """The server shows a head so many entries beyond our end, and does not deliver them."""
    desk.ledger.envelopes += [desk.bob.says() for _ in range(n)]
    desk.show(desk.ledger.end())


def test_withheld_entries_are_asked_for_again_and_then_told(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    promise(desk, 2)
    desk.pass_time(9.5)
    former = desk.core
    desk.clock.time += 0.5
    desk.do(former.tick())
    (join,) = desk.take_said(Join)
    assert join.rooms[0].sub == 2
    desk.show(desk.ledger.end(), join.req)
    desk.pass_time(19.5)
    assert desk.faults == []
    desk.pass_time(0.5)
    (fault,) = desk.faults
    assert fault.text.endswith("it signed #3 and does not deliver what follows #1")
    assert desk.room.fault == ""
    assert desk.room.accused
    assert desk.room.status(desk.clock.now()).state is State.FORKED
    desk.pass_time(100)
    assert len(desk.faults) == 1
    desk.show(desk.ledger.show(2, 3))
    assert desk.notices[-1] == Notice(
        0, State.OK, Blame.NOBODY, "the server delivered what it held back"
    )
    assert not desk.room.accused


def test_the_clock_of_what_is_withheld_runs_only_while_it_could_come(desk: Desk) -> None:
    """Not while offline, nor for a machine that slept, nor once something came."""
    desk.arrive(desk.bob.says())
    promise(desk, 3)
    desk.pass_time(25)
    desk.clock.time += 1_000.0
    desk.do(desk.core.tick())
    desk.answer_joins()
    assert desk.faults == []
    desk.show(desk.ledger.show(2, 2))
    desk.pass_time(29)
    assert desk.faults == []
    desk.disconnect()
    desk.pass_time(40)
    desk.connect()
    desk.answer_joins()
    desk.pass_time(29)
    assert desk.faults == []
    desk.pass_time(2)
    assert len(desk.faults) == 1


def test_a_server_that_speaks_of_much_and_delivers_little_is_named(desk: Desk) -> None:
    """Its word for where the log ends is unsigned: no fault, and believed no longer."""
    desk.connect()
    desk.ledger.envelopes += [desk.bob.says() for _ in range(8)]
    desk.shown_n, desk.tip = 3, 500
    (join,) = desk.take_said(Join)
    desk.show(desk.ledger.show(1, 3).but(tip=500), join.req)
    assert desk.told[-1] == Progress(3, 500, False)
    desk.pass_time(29.5)
    assert desk.notices == []
    desk.pass_time(0.5)
    (slow,) = desk.notices
    assert (slow.state, slow.blame) == (State.STALE, Blame.UNKNOWN)
    assert slow.text.startswith("the server speaks of #500 and has delivered up to #3")
    status = desk.room.status(desk.clock.now())
    assert (status.state, status.behind) == (State.STALE, 497)
    desk.pass_time(25)
    assert len(desk.notices) == 1
    desk.show(desk.ledger.show(4, 4).but(tip=500))
    assert desk.told[-1] == Progress(4, 4, True)
    desk.pass_time(1)
    assert desk.room.status(desk.clock.now()).state is State.UNVERIFIED


@pytest.mark.parametrize(("each", "named"), [(100, False), (99, True)])
def test_a_server_that_delivers_is_not_named_however_much_is_left(
    desk: Desk, each: int, named: bool
) -> None:
    desk.connect()
    desk.tip = 1_500
    desk.ledger.envelopes += [desk.bob.says() for _ in range(3 * each)]
    for last in (each, 2 * each, 3 * each):
        desk.show(desk.ledger.show(last - each + 1, last).but(tip=1_500))
        desk.shown_n = last
        desk.pass_time(30)
    assert desk.reopened == []
    assert bool(desk.notices) is named


def test_silence_about_us_is_told_and_so_is_its_end(beating: Desk) -> None:
    beating.cast(beating.bob, beat(beating.bob))
    beating.pass_time(182)
    (stale,) = beating.notices
    assert stale == Notice(
        0,
        State.STALE,
        Blame.UNKNOWN,
        "no proof of freshness for 3 min: the server may hold things back",
    )
    assert beating.room.status(beating.clock.now()).state is State.STALE
    ours = beating.take_beats()[-1]
    head = beating.ledger.head(2).packed
    beating.cast(beating.bob, beat(beating.bob, head, count=2, echo=[ours.ask]))
    beating.pass_time(1)
    assert beating.notices[-1].text == "fresh again: others heard us just now"


@pytest.mark.parametrize("which", ["nothing", "ahead", "stranger"])
def test_only_a_known_key_that_stands_where_we_do_proves_freshness(
    beating: Desk, which: str
) -> None:
    """Who vouches for nothing, or for more than we have, may be shown more than we are."""
    beating.cast(beating.bob, beat(beating.bob))
    beating.pass_time(170)
    ours = beating.take_beats()[-1]
    ahead = beating.ledger.branch(2, 1).head(3).packed
    head = {"nothing": NOBODY, "ahead": ahead}.get(which, beating.ledger.head(2).packed)
    person = beating.carol if which == "stranger" else beating.bob
    beating.cast(person, beat(person, head, count=2, echo=[ours.ask]))
    beating.pass_time(15)
    assert any("no proof of freshness" in notice.text for notice in beating.notices)


# ---- the newest entries ahead of the rest ----


@pytest.fixture
def far(desk: Desk) -> Desk:
    """Alice has the first ten entries of 2,100; the last three are people's."""
    desk.ledger.grow(2_097)
    desk.ledger.envelopes += [desk.bob.says("near the end"), desk.bob.voids(2), b"junk"]
    desk.connect()
    desk.show(desk.ledger.show(1, 10))
    return desk


def test_on_a_long_way_the_newest_entries_are_asked_for_and_shown_ahead(far: Desk) -> None:
    (page,) = far.take_said(Page)
    assert (page.first, page.last, page.ids_only) == (2_041, 2_100, False)
    far.show(far.ledger.show(2_041, 2_100), page.req)
    glimpse = far.told[-1]
    assert isinstance(glimpse, Glimpse)
    assert [message.text for message in glimpse.messages] == ["near the end"]
    assert far.room.checked.n == 10
    assert not far.room.bears_out(glimpse)
    for first in range(11, 2_101, 110):
        far.show(far.ledger.show(first, min(first + 109, 2_100)))
    assert far.room.bears_out(glimpse)
    assert far.faults == []
    assert far.take_said(Page) == []
    assert not far.room.bears_out(glimpse._replace(hash=bytes(32)))


def test_the_newest_entries_are_asked_for_once_per_connection(far: Desk) -> None:
    far.show(far.ledger.show(11, 12))
    assert len(far.take_said(Page)) == 1
    far.disconnect()
    far.connect()
    far.show(far.ledger.show(13, 14))
    assert len(far.take_said(Page)) == 1


def test_a_page_of_lies_is_the_servers_fault_and_nonsense_is_dropped(far: Desk) -> None:
    (page,) = far.take_said(Page)
    shown = far.ledger.show(2_041, 2_100)
    far.told.clear()
    far.show(Shown(shown.word, shown.items[:-1]), page.req)
    assert len(far.faults) == 1
    far.disconnect()
    far.connect()
    far.show(far.ledger.show(11, 12))
    (page,) = far.take_said(Page)
    far.told.clear()
    far.show(far.ledger.end(), page.req)
    assert far.told == []


# ---- asking ----


def test_the_state_of_a_room_is_what_matters_most(desk: Desk) -> None:
    now = desk.clock.now()
    assert desk.room.status(now).state is State.OK
    desk.arrive(desk.bob.says())
    (post,) = desk.say("mine")
    desk.log(post.envelope)
    status = desk.room.status(now)
    assert (status.state, status.verified, status.members) == (State.UNVERIFIED, 0, 1)
    desk.room.verify([desk.bob.key], 1)
    status = desk.room.status(now)
    assert (status.state, status.verified, status.behind) == (State.OK, 1, 0)
    desk.log(desk.bob.says(seq=5))
    status = desk.room.status(now)
    assert (status.state, status.missing, status.fault) == (State.GAP, 3, "")


def test_what_was_judged_stays_judged(desk: Desk) -> None:
    desk.arrive(desk.bob.says())
    desk.room.verify([desk.bob.key], 1)
    assert desk.room.toggle_mute(desk.carol.key)
    desk.room.mark_read()
    desk.room.remember(is_unsure=True)
    desk.restart()
    assert desk.room.record.read_n == 1
    assert desk.room.record.read_ms == desk.clock.wall_ms()
    assert desk.room.record.is_unsure
    desk.connect()
    desk.log(desk.carol.says("unread"), desk.bob.says("read"))
    (*_, message) = (what for what in desk.told if isinstance(what, Message))
    assert (message.text, message.shown, message.verified) == ("read", "bob", True)
    assert "unread" not in desk.texts


def test_two_members_of_one_history_read_the_same_words(tmp_path: Path) -> None:
    """At the same place; and other words where anything of it differs."""
    desks = [Desk(tmp_path / name, me=name) for name in ("alice", "dave")]
    bob, carol = desks[0].bob, desks[0].carol
    story = [bob.says(), b"junk", carol.voids(3), carol.says()]
    ledger = Ledger(story, room=TAG)
    for desk in desks:
        desk.ledger = ledger
        desk.connect()
        desk.show(ledger.show(1, 4))
    alice, dave = (desk.room for desk in desks)
    words = alice.verification_code(4)
    assert len(words) == 8
    assert dave.verification_code(4) == words
    assert dave.verification_code(3) != words
    assert alice.verification_code(0) == dave.verification_code(0)
    desks[1].show(ledger.end(expired=2))
    assert dave.verification_code(4) != words
    assert dave.verification_code(1) != alice.verification_code(1)
    for desk in desks:
        desk.stop()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5_399, "90 min"),
        (5_400, "2 h"),
        (86_400, "24 h"),
    ],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_head_of_no_entries_is_a_head(desk: Desk) -> None:
    """A server may make a room before anybody wrote in it."""
    desk.connect()
    desk.show(desk.ledger.end(0))
    assert desk.told[-1] == Progress(0, 0, True)
    assert Head.unpack(desk.ledger.end(0).word.head).n == 0
    assert isinstance(desk.ledger.end(0).word, Entries)


# ---- who has shown to have a message ----


def test_whose_head_is_ours_has_what_stands_below_it(desk: Desk) -> None:
    """By a beat, by a message; up to that head and no further."""
    desk.arrive(desk.bob.says("one"), desk.carol.says("two"))
    ledger, room = desk.ledger, desk.room
    assert [room.seen_by(n) for n in (1, 2)] == [[], []]
    desk.cast(desk.bob, beat(desk.bob, ledger.head(1).packed))
    assert [room.seen_by(n) for n in (1, 2)] == [[desk.bob.marked], []]
    desk.cast(desk.bob, beat(desk.bob, ledger.head(2).packed, count=2))
    desk.cast(desk.bob, beat(desk.bob, ledger.head(1).packed, count=3))
    assert room.seen_by(2) == [desk.bob.marked]
    desk.log(desk.bob.says("three"), desk.carol.says("four", seen=ledger.head(2).packed))
    assert room.seen_by(2) == [desk.bob.marked, desk.carol.marked]
    assert room.seen_by(3) == []


def test_a_head_counts_once_our_log_gets_there_and_only_if_it_is_ours(desk: Desk) -> None:
    """A beat can be quicker than the entries; another history vouches for nothing."""
    desk.arrive(desk.bob.says("one"))
    desk.ledger.envelopes += [desk.bob.says("two")]
    desk.cast(desk.bob, beat(desk.bob, desk.ledger.head(2).packed))
    assert desk.room.seen_by(1) == []
    desk.show(desk.ledger.show(2, 2))
    assert [desk.room.seen_by(n) for n in (1, 2)] == [[desk.bob.marked]] * 2
    forged = desk.ledger.head(2)._replace(hash=bytes(32))
    desk.cast(desk.carol, beat(desk.carol, forged.packed))
    other = desk.ledger.head(2)._replace(log=bytes(32))
    desk.cast(Person("dave"), beat(Person("dave"), other.packed))
    assert desk.room.seen_by(1) == [desk.bob.marked]
