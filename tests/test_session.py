"""The member's side of the wire: sections 3 and 4 of docs/protocol.md, as a server meets them.

Rules of this file: the session is driven by its own methods and by the frames of a server whose
part we play; what it says is read by the protocol's own reader for servers; nothing of it is looked
into. Time is a number that we move.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zchat.errors import Incompatible, WrongLogKey
from zchat.member.session import (
    Action,
    Arrived,
    Glimpsed,
    Greeted,
    Heard,
    Outgoing,
    Phase,
    Receipt,
    Refused,
    Reopen,
    Say,
    Session,
    Timing,
)
from zchat.protocol.ledger import NO_LOG, LogKey
from zchat.protocol.limits import MAX_ROOMS_PER_CONNECTION, MAX_TEXT_BYTES
from zchat.protocol.wire import (
    Cast,
    Entries,
    Hello,
    Item,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    ToBroker,
    Word,
    decode_to_broker,
    encode,
    pack_batch,
)

KEY = LogKey(bytes(range(32)))
ROOM, OTHER = b"the room's tag..", b"another room's.."
LOG, HASH = b"\1" * 32, b"\2" * 32
HEAD = KEY.sign_head(ROOM, LOG, 1, HASH, 0).packed
WINDOW = 10_000
ANSWER_S, IDLE_S = 10.0, 60.0


def entries(req: int = 0, room: bytes = ROOM, *, empty: bool = False) -> tuple[Word, bytes]:
    """An ENTRIES, with one entry or none; a session does not look into it."""
    word = Entries(req, room, LOG, 1, LOG, HEAD, 1, ())
    return word, b"" if empty else pack_batch([(bytes(32), b"an envelope")])


def stored(k: int, *numbers: int, room: bytes = ROOM) -> tuple[Word, bytes]:
    """A receipt for POST k, which names these of `outgoing`, or something of somebody else."""
    ids = [out.id for out in outgoing(*numbers)] or [b"somebody else's, of thirty-two.."]
    return Stored(room, k, LOG, 1, LOG, HEAD), pack_batch((i, None) for i in ids)


def refuse(
    code: str, *, req: int = 0, k: int = 0, room: bytes = ROOM, after_ms: int = 0, text: str = ""
) -> Refuse:
    return Refuse(req, k, code, room, after_ms, text)


def outgoing(*numbers: int, size: int = 20) -> list[Outgoing]:
    """Envelopes by number: the id is the number, and the envelope begins with it."""
    return [Outgoing(bytes([n]) * 32, bytes([n]) * size) for n in numbers]


class Carrying(NamedTuple):
    """A word that carries an envelope."""

    word: ToBroker
    envelope: bytes


def numbers_of(said: Iterable[object]) -> list[int]:
    """Which of `outgoing` were posted, in order."""
    carrying = (word for word in said if isinstance(word, Carrying))
    return [post.envelope[0] for post in carrying if isinstance(post.word, Post)]


class Talk:
    """A session and the server it talks to; `now` is what both clocks say."""

    def __init__(self, window: int = WINDOW) -> None:
        self.session = Session(KEY.public, Timing(ANSWER_S, IDLE_S, window), "test 1", "host:1")
        self.now = 1_000.0

    def read(self, actions: Iterable[Action]) -> list[object]:
        """The same actions, with what is said as words."""
        return [self._word(a.frames) if isinstance(a, Say) else a for a in actions]

    @staticmethod
    def _word(frames: tuple[bytes, ...]) -> ToBroker | Carrying:
        word, attachment = decode_to_broker(frames)
        return Carrying(word, attachment) if len(frames) == 2 else word

    def hear(self, word: Word, attachment: bytes | None = None) -> list[object]:
        """The server says something."""
        return self.read(self.session.receive(encode(word, attachment), self.now))

    def open(self) -> Hello:
        """A handshake finishes."""
        (hello,) = self.read(self.session.opened(self.now))
        assert isinstance(hello, Hello)
        return hello

    def greet(self) -> list[object]:
        """A handshake, HELLO and READY; what follows the greeting."""
        greeted, *said = self.hear(ready(self.open().req))
        assert greeted == Greeted("server 1")
        return said

    def close(self) -> None:
        self.session.closed(self.now)

    def enter(self, room: bytes = ROOM, n: int = 5) -> list[object]:
        return self.read(self.session.enter(room, LOG, n, HASH, self.now))

    def advance(self, n: int, received: int = 0, room: bytes = ROOM) -> list[object]:
        return self.read(self.session.advanced(room, LOG, n, HASH, received, self.now))

    def post(self, *numbers: int, size: int = 20, room: bytes = ROOM) -> list[object]:
        return self.read(self.session.post(room, outgoing(*numbers, size=size), self.now))

    def tick(self, later: float = 0.0) -> list[object]:
        self.now += later
        return self.read(self.session.tick(self.now))

    def joined(self, room: bytes = ROOM, n: int = 5) -> Join:
        """Greeted, and one room joined; its JOIN is not answered yet."""
        self.enter(room, n)
        (join,) = self.greet()
        assert isinstance(join, Join)
        return join

    def lose(self, times: int = 1) -> list[object]:
        """So many connections in a row die before the JOIN is answered; what the next one says."""
        said: list[object] = []
        for _ in range(times):
            self.close()
            said = self.greet()
        return said


def ready(req: int, **changed: object) -> Ready:
    fields: dict[str, object] = {
        "protocol": 1,
        "software": "server 1",
        "log_key": KEY.public,
        "post_burst": 10,
        "post_rate": 1,
        **changed,
    }
    return Ready(req=req, **fields)  # type: ignore[arg-type]


@pytest.fixture
def talk() -> Talk:
    return Talk()


# ---- the greeting ----


def test_a_finished_handshake_is_followed_by_hello_and_by_nothing_else(talk: Talk) -> None:
    talk.enter()
    talk.post(1)
    assert talk.open() == Hello(1, 1, "test 1")
    assert talk.session.phase is Phase.GREETING


def test_nothing_is_said_before_the_server_has_greeted(talk: Talk) -> None:
    for opened in (False, True):
        if opened:
            talk.open()
        assert talk.enter() == []
        assert talk.post(1, room=OTHER) == []
        assert talk.session.cast(ROOM, b"a beat") == []
        assert talk.session.glimpse(ROOM, 1, 2, talk.now) == []
        assert talk.advance(6) == []
        assert talk.tick() == []


def test_ready_is_followed_by_joins_and_then_by_the_posts_of_rooms_not_followed(talk: Talk) -> None:
    talk.post(1, room=OTHER)
    talk.enter()
    join, post = talk.greet()
    assert isinstance(join, Join)
    assert join.rooms == (Position(ROOM, LOG, 1, 5, HASH, WINDOW),)
    assert post == (Post(OTHER, 1), b"\1" * 20)
    assert talk.session.phase is Phase.READY


def test_a_server_with_another_log_key_is_told_nothing_more(talk: Talk) -> None:
    talk.enter()
    hello = talk.open()
    with pytest.raises(WrongLogKey, match="host:1"):
        talk.hear(ready(hello.req, log_key=LogKey(bytes(32)).public))
    assert talk.session.phase is not Phase.READY


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_server_that_speaks_another_protocol_is_told_nothing_more(
    talk: Talk, protocol: int
) -> None:
    hello = talk.open()
    with pytest.raises(Incompatible, match=f"version {protocol}"):
        talk.hear(ready(hello.req, protocol=protocol))
    assert talk.session.phase is not Phase.READY


def test_a_ready_that_answers_no_hello_of_this_connection_is_ignored(talk: Talk) -> None:
    """Neither another number, nor a second one, nor one that was for a former connection."""
    talk.enter()
    former = talk.open()
    hello = talk.open()
    assert hello.req != former.req
    other_key = LogKey(bytes(32)).public
    assert talk.hear(ready(former.req, log_key=other_key)) == []
    assert talk.hear(ready(hello.req + 1)) == []
    assert talk.session.phase is Phase.GREETING
    assert talk.hear(ready(hello.req))
    assert talk.hear(ready(hello.req, log_key=other_key)) == []


def test_a_silent_reconnect_starts_afresh(talk: Talk) -> None:
    """The transport makes a new connection without telling that the former one was lost."""
    talk.joined()
    talk.session.agree(ROOM, talk.now)
    first = talk.post(1)
    (join,) = talk.greet()
    assert isinstance(join, Join)
    assert talk.read(talk.session.agree(ROOM, talk.now)) == first


def test_what_comes_before_ready_is_dropped(talk: Talk) -> None:
    talk.enter()
    talk.open()
    for word, attachment in (entries(), stored(1), (Cast(ROOM), b"a beat")):
        assert talk.hear(word, attachment) == []
    assert talk.session.malformed == 0


def test_a_refused_version_ends_the_talk_with_the_servers_words(talk: Talk) -> None:
    hello = talk.open()
    with pytest.raises(Incompatible, match="speak version 9"):
        talk.hear(refuse("version", req=hello.req, room=b"", text="speak version 9"))


def test_a_version_is_refused_only_in_answer_to_hello(talk: Talk) -> None:
    """Otherwise any stray word would end the program."""
    join = talk.joined()
    assert talk.hear(refuse("version", req=99, room=b"")) == []
    assert talk.hear(refuse("version")) == [Refused(refuse("version"), b"")]
    later = refuse("version", req=join.req)
    assert talk.hear(later) == [Refused(later, b"")]


def test_a_hello_that_came_too_fast_is_said_again_in_time(talk: Talk) -> None:
    """A server counts HELLO among the control words, and its refusal is no reason to wait."""
    talk.enter()
    first = talk.open()
    assert talk.hear(refuse("rate", req=first.req, room=b"", after_ms=3_000))
    assert talk.tick(2.9) == []
    (again,) = talk.tick(0.2)
    assert isinstance(again, Hello)
    assert again.req > first.req
    assert isinstance(talk.hear(ready(again.req))[1], Join)
    assert talk.tick(1) == []


def test_a_server_that_forgot_this_connection_gets_a_fresh_one(talk: Talk) -> None:
    """It refuses each word that was under way, or says so of its own accord: once is enough."""
    for word in (refuse("hello-first", k=1), refuse("hello-first", room=b"")):
        join = talk.joined()
        talk.session.agree(ROOM, talk.now)
        talk.post(1, 2)
        assert talk.hear(word) == [Reopen("the server forgot this connection")]
        assert talk.session.phase is Phase.DOWN
        assert talk.hear(refuse("hello-first", k=2)) == []
        assert talk.hear(refuse("hello-first", req=join.req, room=b"")) == []


def test_hello_first_is_no_answer_to_hello(talk: Talk) -> None:
    """It would have us say HELLO for ever."""
    hello = talk.open()
    assert talk.hear(refuse("hello-first", req=hello.req, room=b"")) == []
    assert talk.hear(refuse("hello-first", room=b"")) == []
    assert isinstance(talk.hear(ready(hello.req))[0], Greeted)


def test_what_is_no_word_is_dropped_and_counted(talk: Talk) -> None:
    talk.joined()
    batch_cut_off = encode(Entries(0, ROOM, LOG, 1, LOG, HEAD, 1, ()), b"\0\0\0\7...")
    receipt_of_nothing = encode(stored(1)[0], b"")
    for frames in ((), (b"",), (b"\x80",), batch_cut_off, receipt_of_nothing):
        assert talk.session.receive(frames, talk.now) == []
    assert talk.session.malformed == 5


# ---- JOIN, acknowledgement, LEAVE ----


def test_rooms_are_joined_64_at_a_time(talk: Talk) -> None:
    tags = [bytes([n]) * 16 for n in range(1, MAX_ROOMS_PER_CONNECTION + 2)]
    for tag in tags:
        talk.enter(tag)
    first, second = talk.greet()
    assert isinstance(first, Join) and isinstance(second, Join)
    assert [position.room for join in (first, second) for position in join.rooms] == tags
    assert len(second.rooms) == 1


def test_a_room_entered_while_online_is_joined_at_once(talk: Talk) -> None:
    talk.greet()
    (join,) = talk.enter(n=7)
    assert isinstance(join, Join)
    assert join.rooms == (Position(ROOM, LOG, 1, 7, HASH, WINDOW),)


def test_posts_of_a_room_entered_while_online_wait_as_well(talk: Talk) -> None:
    talk.greet()
    talk.enter()
    assert talk.post(1) == []


def test_every_subscription_has_a_higher_number_than_the_one_before(talk: Talk) -> None:
    talk.greet()
    joins = [*talk.enter(), *talk.enter(), *talk.lose()]
    assert [join.rooms[0].sub for join in joins if isinstance(join, Join)] == [1, 2, 3]


def test_half_a_window_is_acknowledged_by_the_same_subscription(talk: Talk) -> None:
    join = talk.joined()
    assert talk.advance(6, received=WINDOW // 2 - 1) == []
    (acknowledgement,) = talk.advance(7, received=1)
    assert isinstance(acknowledgement, Join)
    assert acknowledgement.req > join.req
    assert acknowledgement.rooms == (Position(ROOM, LOG, 1, 7, HASH, WINDOW),)
    assert talk.advance(8, received=WINDOW // 2 - 1) == []


def test_every_entry_of_a_window_of_none_is_acknowledged() -> None:
    talk = Talk(window=0)
    talk.joined()
    for n in (6, 7):
        (acknowledgement,) = talk.advance(n, received=1)
        assert isinstance(acknowledgement, Join)
        assert acknowledgement.rooms[0].after == n


def test_a_quiet_room_is_joined_again_after_a_minute_by_the_same_subscription(talk: Talk) -> None:
    join = talk.joined()
    for _ in range(2):
        talk.hear(*entries(join.req, empty=True))
        assert talk.tick(IDLE_S - 0.1) == []
        (join,) = talk.tick(0.1)  # type: ignore[assignment]
        assert isinstance(join, Join)
        assert join.rooms[0].sub == 1


def test_a_doubt_is_settled_by_a_new_subscription(talk: Talk) -> None:
    join = talk.joined()
    talk.hear(*entries(join.req, empty=True))
    (again,) = talk.read(talk.session.join_again(ROOM, talk.now))
    assert isinstance(again, Join)
    assert again.rooms[0].sub == 2
    assert talk.read(talk.session.join_again(ROOM, talk.now, 2.0)) == []
    assert talk.tick(1.9) == []
    (later,) = talk.tick(0.1)
    assert isinstance(later, Join)
    assert later.rooms[0].sub == 3
    assert talk.tick(5) == []


def test_entries_lost_in_between_are_asked_for_ever_more_slowly(talk: Talk) -> None:
    """At once, for that is the rule; but a server could have us ask without end."""
    join = talk.joined()
    for gaps in range(24):
        talk.hear(*entries(join.req, empty=True))
        said = talk.read(talk.session.join_after_gap(ROOM, talk.now))
        wait = min(gaps / 4, 5.0)
        if wait:
            assert said == []
            assert talk.tick(wait - 0.01) == []
            said = talk.tick(0.02)
        (join,) = said  # type: ignore[assignment]
        assert isinstance(join, Join)
        assert join.rooms[0].sub == gaps + 2
    talk.advance(6)
    talk.hear(*entries(join.req))
    assert len(talk.session.join_after_gap(ROOM, talk.now)) == 1


def test_a_room_is_left_once_and_nothing_is_asked_of_it_any_more(talk: Talk) -> None:
    join = talk.joined()
    talk.hear(*entries(join.req, empty=True))
    talk.session.join_again(ROOM, talk.now, 2.0)
    (leave,) = talk.read(talk.session.leave(ROOM))
    assert isinstance(leave, Leave)
    assert leave.room == ROOM
    assert talk.session.leave(ROOM) == []
    assert talk.tick(IDLE_S) == []
    assert talk.lose() == []


def test_a_room_is_left_without_a_word_where_it_was_not_joined(talk: Talk) -> None:
    talk.enter()
    assert talk.session.leave(ROOM) == []
    assert talk.greet() == []


def test_leave_awaits_no_answer(talk: Talk) -> None:
    join = talk.joined()
    talk.hear(*entries(join.req, empty=True))
    talk.session.leave(ROOM)
    assert talk.tick(ANSWER_S + 1) == []


@pytest.mark.parametrize("room", [ROOM, b""])
def test_a_refused_join_is_asked_again_when_its_time_has_come(talk: Talk, room: bytes) -> None:
    """A server refuses one room of it, or (an empty room) the whole word."""
    join = talk.joined()
    word = refuse("rate", req=join.req, room=room, after_ms=4_000)
    assert talk.hear(word) == [Refused(word, b"")]
    assert talk.tick(3.9) == []
    (again,) = talk.tick(0.2)
    assert isinstance(again, Join)
    assert again.rooms[0].sub == 2
    assert talk.tick(5) == []


@pytest.mark.parametrize("code", ["rate", "too-many-rooms", "stopping", "what-is-this"])
def test_a_refusal_without_a_time_is_respected_for_a_second(talk: Talk, code: str) -> None:
    join = talk.joined()
    talk.hear(refuse(code, req=join.req))
    assert talk.tick(0.9) == []
    assert len(talk.tick(0.2)) == 1


def test_one_room_of_a_join_is_refused_and_the_others_go_on(talk: Talk) -> None:
    talk.enter(ROOM)
    talk.enter(OTHER)
    (join,) = talk.greet()
    assert isinstance(join, Join)
    talk.hear(refuse("too-many-rooms", req=join.req, room=OTHER))
    talk.hear(*entries(join.req, empty=True))
    (again,) = talk.tick(1.0)
    assert isinstance(again, Join)
    assert [position.room for position in again.rooms] == [OTHER]


def test_a_refused_join_of_a_room_left_meanwhile_is_not_repeated(talk: Talk) -> None:
    join = talk.joined()
    talk.session.leave(ROOM)
    talk.hear(refuse("rate", req=join.req))
    assert talk.tick(5.0) == []


def test_an_answer_to_a_request_that_does_not_wait_is_ignored(talk: Talk) -> None:
    join = talk.joined()
    assert talk.hear(*entries(join.req + 1)) == []
    assert talk.hear(refuse("rate", req=join.req + 1)) == []
    assert talk.hear(refuse("rate", req=join.req, room=OTHER)) == []
    assert len(talk.hear(*entries(join.req))) == 1
    assert talk.hear(*entries(join.req)) == []
    assert talk.hear(refuse("rate", req=join.req)) == []
    assert talk.tick(2.0) == []


def test_entries_and_receipts_are_handed_up_as_they_are(talk: Talk) -> None:
    talk.joined()
    word, batch = entries()
    assert talk.hear(word, batch) == [Arrived(word, [Item(b"", b"an envelope")], False)]  # type: ignore[arg-type]
    receipt, ids = stored(1)
    assert talk.hear(receipt, ids) == [Receipt(receipt, [ids[4:]])]  # type: ignore[arg-type]
    assert talk.hear(Cast(ROOM), b"a beat") == [Heard(ROOM, b"a beat")]


def test_entries_and_receipts_of_a_room_that_is_not_ours_are_dropped(talk: Talk) -> None:
    talk.greet()
    assert talk.hear(*entries()) == []
    assert talk.hear(*stored(1)) == []
    word = refuse("rate", k=1)
    assert talk.hear(word) == []
    said = refuse("rate")
    assert talk.hear(said) == [Refused(said, b"")]


def test_whoever_hears_that_the_server_stops_leaves_for_it_waits_for_that(talk: Talk) -> None:
    talk.joined()
    said = refuse("stopping")
    assert talk.hear(said) == [Refused(said, b""), Reopen("the server stopped")]
    assert talk.session.phase is Phase.DOWN


def test_a_cast_goes_out_as_it_is(talk: Talk) -> None:
    talk.greet()
    assert talk.read(talk.session.cast(ROOM, b"a beat")) == [(Cast(ROOM), b"a beat")]


# ---- the newest entries ahead of the rest ----


def test_a_glimpse_is_a_page_whose_answer_is_told_apart(talk: Talk) -> None:
    talk.joined()
    (page,) = talk.read(talk.session.glimpse(ROOM, 90, 99, talk.now))
    assert isinstance(page, Page)
    assert page == Page(page.req, ROOM, LOG, 90, 99, False)
    (unasked,) = talk.hear(*entries())
    assert isinstance(unasked, Arrived)
    (glimpsed,) = talk.hear(*entries(page.req))
    assert isinstance(glimpsed, Glimpsed)
    assert talk.hear(*entries(page.req)) == []


def test_a_refused_glimpse_is_forgotten(talk: Talk) -> None:
    join = talk.joined()
    talk.hear(*entries(join.req, empty=True))
    (page,) = talk.read(talk.session.glimpse(ROOM, 90, 99, talk.now))
    assert isinstance(page, Page)
    assert len(talk.hear(refuse("no-log", req=page.req))) == 1
    assert talk.tick(20.0) == []


# ---- the outbox ----


def test_posts_of_a_followed_room_wait_until_the_server_has_shown_its_log(talk: Talk) -> None:
    talk.enter()
    assert talk.post(1) == []
    talk.greet()
    assert talk.post(2) == []
    assert talk.tick(1.0) == []
    assert numbers_of(talk.read(talk.session.agree(ROOM, talk.now))) == [1, 2]
    assert talk.session.agree(ROOM, talk.now) == []
    assert numbers_of(talk.post(3)) == [3]


def test_what_the_server_showed_counts_for_one_connection_only(talk: Talk) -> None:
    talk.joined()
    talk.session.agree(ROOM, talk.now)
    (join,) = talk.lose()
    assert isinstance(join, Join)
    assert talk.post(1) == []
    assert numbers_of(talk.read(talk.session.agree(ROOM, talk.now))) == [1]


def test_each_room_counts_its_posts_from_one(talk: Talk) -> None:
    talk.greet()
    said = [*talk.post(1, 2), *talk.post(3, room=OTHER), *talk.post(4)]
    posts = [post.word for post in said if isinstance(post, Carrying)]
    assert posts == [Post(ROOM, 1), Post(ROOM, 2), Post(OTHER, 1), Post(ROOM, 3)]


def test_nothing_of_a_stopped_room_goes_out_until_it_is_let_go(talk: Talk) -> None:
    talk.session.stop(ROOM, stopped=True)
    talk.greet()
    assert talk.post(1) == []
    assert talk.tick(1.0) == []
    talk.session.stop(ROOM, stopped=False)
    assert numbers_of(talk.tick()) == [1]


def test_only_so_many_posts_are_under_way(talk: Talk) -> None:
    talk.greet()
    assert numbers_of(talk.post(*range(200))) == list(range(128))
    assert talk.session.unanswered(ROOM) == 200
    assert numbers_of(talk.hear(*stored(3, 0, 1, 2))) == [128, 129, 130]
    assert talk.session.unanswered(ROOM) == 197


def test_only_so_many_bytes_are_under_way_but_always_one_post(talk: Talk) -> None:
    talk.greet()
    assert numbers_of(talk.post(1, 2, 3, 4, 5, size=MAX_TEXT_BYTES)) == [1, 2, 3, 4]
    assert numbers_of(talk.hear(*stored(1, 1))) == [5]


def test_what_may_be_under_way_is_256_kib(talk: Talk) -> None:
    talk.greet()
    for room, last, goes in ((ROOM, 65_536, [4]), (OTHER, 65_537, [])):
        talk.post(1, 2, 3, size=65_536, room=room)
        assert numbers_of(talk.post(4, size=last, room=room)) == goes


def test_a_receipt_answers_the_posts_that_it_names_and_no_others(talk: Talk) -> None:
    """Its number alone proves nothing: what was thrown away would never be posted again."""
    talk.greet()
    talk.post(1, 2, 3)
    talk.hear(*stored(2, 1, 2))
    assert talk.session.unanswered(ROOM) == 1
    for receipt in (stored(2, 1, 2), stored(3), stored(9)):
        talk.hear(*receipt)
        assert talk.session.unanswered(ROOM) == 1
    talk.hear(*stored(3, 9, 3))
    assert talk.session.unanswered(ROOM) == 0
    assert talk.session.unanswered(OTHER) == 0


def test_what_a_signed_head_covers_goes_out_no_more(talk: Talk) -> None:
    """It may have been read in the log before the receipt came, or by another process."""
    assert talk.session.confirmed(ROOM, [b"\1" * 32], talk.now) == []
    talk.greet()
    talk.post(*range(130))
    ids = [out.id for out in outgoing(0, 2, 128)]
    assert numbers_of(talk.read(talk.session.confirmed(ROOM, ids, talk.now))) == [129]
    talk.close()
    assert numbers_of(talk.greet()) == [n for n in range(1, 130) if n not in (2, 128)]


def test_a_refusal_takes_back_what_follows_and_the_same_bytes_go_again_in_order(
    talk: Talk,
) -> None:
    talk.greet()
    first = talk.post(1, 2, 3, 4)
    word = refuse("rate", k=2, after_ms=3_000)
    assert talk.hear(word) == [Refused(word, b"")]
    for late in (3, 4):
        assert talk.hear(refuse("rate", k=late, after_ms=9_000)) == []
    assert talk.post(5) == []
    assert talk.tick(2.9) == []
    again = talk.tick(0.2)
    assert again[:3] == first[1:]
    assert again[3] == (Post(ROOM, 5), b"\5" * 20)
    assert talk.tick(1.0) == []


@pytest.mark.parametrize("code", ["rate", "storage", "room-full", "too-many-rooms", "no such code"])
def test_every_refusal_of_a_post_but_one_is_for_a_while(talk: Talk, code: str) -> None:
    talk.greet()
    talk.post(1)
    assert talk.hear(refuse(code, k=1)) == [Refused(refuse(code, k=1), b"")]
    assert talk.tick(0.9) == []
    assert numbers_of(talk.tick(0.2)) == [1]


def test_an_envelope_that_is_never_taken_is_named_and_the_rest_goes_on(talk: Talk) -> None:
    talk.greet()
    talk.post(1, 2, 3)
    word = refuse("bad-envelope", k=2)
    assert talk.hear(word) == [Refused(word, b"\2" * 32)]
    assert talk.post(4) == [
        (Post(ROOM, 2), b"\3" * 20),
        (Post(ROOM, 3), b"\4" * 20),
    ]


def test_a_new_connection_ends_every_wait_and_counts_from_one(talk: Talk) -> None:
    talk.greet()
    first = talk.post(1, 2)
    talk.hear(refuse("room-full", k=1, after_ms=86_400_000))
    talk.close()
    assert talk.post(3) == []
    assert talk.greet() == [*first, (Post(ROOM, 3), b"\3" * 20)]


class Line:
    """A talk about posts only, and a server that takes nothing but the next number."""

    def __init__(self) -> None:
        self.talk = Talk()
        self.taken: list[int] = []
        self.posted = 0
        self.lose()

    def keep(self, said: Iterable[object]) -> None:
        """Posts that are now under way."""
        self.under_way += [post for post in said if isinstance(post, Carrying)]

    def lose(self) -> None:
        """The connection is lost with all that is under way, and there is a new one."""
        self.under_way: list[Carrying] = []
        self.next_k = 1
        self.talk.close()
        self.keep(self.talk.greet())

    def post(self) -> None:
        self.posted += 1
        self.keep(self.talk.post(self.posted))

    def wait(self) -> None:
        self.keep(self.talk.tick(1.0))

    def take(self) -> None:
        """The server takes what came first, if it is in turn; what it has already it has."""
        number = self.in_turn()
        if number:
            self.next_k += 1
            self.taken += [number] if number not in self.taken else []
            self.keep(self.talk.hear(*stored(self.next_k - 1, number)))

    def refuse(self) -> None:
        """The server does not want what came first."""
        if self.in_turn():
            self.keep(self.talk.hear(refuse("rate", k=self.next_k)))

    def in_turn(self) -> int:
        """The number of what came first, if it is the server's next; else it is dropped, and 0."""
        if not self.under_way:
            return 0
        word, envelope = self.under_way.pop(0)
        assert isinstance(word, Post)
        return envelope[0] if word.k == self.next_k else 0


@given(st.lists(st.sampled_from([Line.post, Line.take, Line.refuse, Line.lose, Line.wait])))
def test_nothing_overtakes_however_a_server_refuses_and_loses(
    steps: list[Callable[[Line], None]],
) -> None:
    """Go-back-N: what is taken is taken in order, and in the end all of it is."""
    line = Line()
    for step in steps:
        step(line)
        assert line.taken == sorted(line.taken)
    for _ in range(3 * line.posted + 2):
        line.wait()
        line.take()
    assert line.taken == list(range(1, line.posted + 1))
    assert line.talk.session.unanswered(ROOM) == 0


# ---- time limits ----


def test_a_hello_without_an_answer_for_ten_seconds_ends_the_connection(talk: Talk) -> None:
    talk.open()
    assert talk.tick(ANSWER_S) == []
    assert talk.tick(0.1) == [Reopen("no answer")]
    assert talk.session.phase is Phase.DOWN


def test_a_join_or_a_page_without_an_answer_ends_the_connection(talk: Talk) -> None:
    join = talk.joined()
    talk.tick(5.0)
    talk.session.glimpse(ROOM, 90, 99, talk.now)
    talk.hear(*entries(join.req))
    assert talk.tick(ANSWER_S) == []
    assert talk.tick(0.1) == [Reopen("no answer")]
    talk.greet()
    assert talk.tick(ANSWER_S + 0.1) == [Reopen("no answer")]


def test_a_post_without_a_receipt_ends_the_connection_counted_from_the_last_one(
    talk: Talk,
) -> None:
    talk.greet()
    talk.post(1, 2)
    assert talk.tick(9.0) == []
    talk.hear(*stored(1, 1))
    assert talk.tick(ANSWER_S) == []
    assert talk.tick(0.1) == [Reopen("no answer")]


def test_a_receipt_for_others_gains_no_time(talk: Talk) -> None:
    talk.greet()
    talk.post(1)
    talk.tick(9.0)
    talk.hear(*stored(1))
    assert talk.tick(1.1) == [Reopen("no answer")]


def test_the_time_of_a_refused_post_counts_from_its_retry(talk: Talk) -> None:
    talk.greet()
    talk.post(1)
    talk.hear(refuse("rate", k=1, after_ms=30_000))
    assert talk.tick(29.0) == []
    assert numbers_of(talk.tick(1.0)) == [1]
    assert talk.tick(ANSWER_S) == []
    assert talk.tick(0.1) == [Reopen("no answer")]


def test_a_socket_without_a_connection_is_replaced_every_ten_seconds(talk: Talk) -> None:
    assert talk.tick() == []
    for _ in range(2):
        assert talk.tick(ANSWER_S) == []
        assert talk.tick(0.1) == [Reopen("no connection")]


def test_the_time_without_a_connection_counts_from_its_loss(talk: Talk) -> None:
    talk.tick()
    talk.greet()
    talk.tick(100.0)
    talk.close()
    talk.now += 9.0
    talk.close()  # told again: nothing new
    assert talk.tick(1.0) == []
    assert talk.tick(0.1) == [Reopen("no connection")]


# ---- connections that die of what they carry ----


def test_a_room_is_taken_entry_by_entry_after_two_deaths(talk: Talk) -> None:
    talk.joined()
    for window in (WINDOW, 0, 0, 0):
        (join,) = talk.lose()
        assert isinstance(join, Join)
        assert join.rooms[0].window == window


def test_the_first_entry_of_a_window_of_none_opens_it_at_once(talk: Talk) -> None:
    """The server holds everything else back until it is told."""
    talk.joined()
    (join,) = talk.lose(2)
    assert isinstance(join, Join)
    talk.hear(*entries(join.req))
    (opening,) = talk.advance(6, received=700)
    assert isinstance(opening, Join)
    assert opening.rooms == (Position(ROOM, LOG, 3, 6, HASH, WINDOW),)
    assert talk.advance(7, received=700) == []


def test_a_connection_lost_after_its_join_was_answered_is_no_death(talk: Talk) -> None:
    join = talk.joined()
    for _ in range(4):
        talk.hear(*entries(join.req, empty=True))
        (join,) = talk.lose()  # type: ignore[assignment]
        assert isinstance(join, Join)
        assert join.rooms[0].window == WINDOW


def test_only_deaths_in_a_row_count(talk: Talk) -> None:
    talk.joined()
    for _ in range(3):
        (join,) = talk.lose()
        assert isinstance(join, Join)
        assert join.rooms[0].window == WINDOW
        talk.hear(*entries(join.req, empty=True))
        talk.session.join_again(ROOM, talk.now)


def test_a_connection_that_is_given_up_in_silence_is_no_death(talk: Talk) -> None:
    """A frame that nobody has room for is told as a loss; a server that is slow is not."""
    talk.joined()
    for _ in range(3):
        assert talk.tick(ANSWER_S + 1) == [Reopen("no answer")]
        (join,) = talk.lose()
        assert isinstance(join, Join)
        assert join.rooms[0].window == WINDOW


def test_one_lost_connection_is_one_death_however_much_it_left_unanswered(talk: Talk) -> None:
    talk.joined()
    talk.session.glimpse(ROOM, 90, 99, talk.now)
    talk.session.join_again(ROOM, talk.now)
    (join,) = talk.lose()
    assert isinstance(join, Join)
    assert join.rooms[0].window == WINDOW


def test_after_five_deaths_only_the_next_id_is_asked_for(talk: Talk) -> None:
    talk.joined(n=5)
    (page,) = talk.lose(5)
    assert isinstance(page, Page)
    assert page == Page(page.req, ROOM, LOG, 6, 6, True)
    word, batch = entries(page.req)
    (arrived,) = talk.hear(word, batch)
    assert isinstance(arrived, Arrived)
    assert arrived.asked_ids
    (join,) = talk.advance(6, received=36)
    assert isinstance(join, Join)
    assert join.rooms[0].after == 6
    assert join.rooms[0].window == WINDOW
    (next_one,) = talk.hear(*entries())
    assert isinstance(next_one, Arrived)
    assert not next_one.asked_ids


def test_a_doubt_from_before_is_settled_by_the_page_or_the_join(talk: Talk) -> None:
    """Neither is said twice, and nothing is said before READY."""
    talk.joined()
    for deaths in (1, 4):
        talk.lose(deaths - 1)
        talk.session.join_again(ROOM, talk.now, 2.0)
        talk.close()
        hello = talk.open()
        assert talk.tick(3.0) == []
        assert len(talk.hear(ready(hello.req))) == 2
        assert talk.tick(1.0) == []


def test_who_holds_no_log_has_nothing_to_pass_over(talk: Talk) -> None:
    talk.session.enter(ROOM, NO_LOG, 0, NO_LOG, talk.now)
    talk.greet()
    (join,) = talk.lose(6)
    assert isinstance(join, Join)
    assert join.rooms[0].window == 0


def test_a_room_whose_next_entry_does_not_exist_is_joined_all_the_same(talk: Talk) -> None:
    """A quiet room on a bad line: the page is refused, and asking for it for ever helps nobody."""
    talk.joined()
    (page,) = talk.lose(5)
    assert isinstance(page, Page)
    talk.hear(refuse("no-log", req=page.req))
    (join,) = talk.tick(1.0)
    assert isinstance(join, Join)
    assert join.rooms[0].window == 0


def test_a_page_that_came_too_fast_is_asked_for_again(talk: Talk) -> None:
    talk.joined()
    (page,) = talk.lose(5)
    assert isinstance(page, Page)
    talk.hear(refuse("rate", req=page.req, after_ms=2_000))
    assert talk.tick(1.9) == []
    (again,) = talk.tick(0.2)
    assert isinstance(again, Page)
    assert again.req > page.req
