"""Every bound that a broker keeps, met from both sides by a connection to a real one.

Rules of this file: what is small enough is met at its default; what is huge is made small by the
setting that a host would use. Where time gives tokens back, the bound is the burst and what has
come back since, by this machine's clock. Bounds of what people type are in test_exit_codes.py.
"""

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from tests.processes import Broker, wait_for
from tests.test_broker_core import WEIGHT, cast, envelope
from tests.test_gate import Peer, a_broker
from zchat.broker.folder import load_keys
from zchat.broker.upkeep import restore
from zchat.protocol import limits
from zchat.protocol.ledger import NO_LOG, Head
from zchat.protocol.wire import (
    Cast,
    Entries,
    Hello,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Refuse,
    Stored,
    encode,
    unpack_batch,
)

ROOM = b"a room's tag...."
OTHER = b"another room...."
FAST = {"ZCHAT_POST_BURST": "1000000", "ZCHAT_CONTROL_BURST": "1000000"}


@contextmanager
def peer(broker: Broker, *, pair: tuple[bytes, bytes] | None = None) -> Iterator[Peer]:
    """A connection that has said HELLO."""
    with Peer(broker.stem, pair=pair) as made:
        made.hello()
        yield made


class Elapsed:
    """How many tokens came back since this was made, at most."""

    def __init__(self, per_s: int) -> None:
        self._per_s, self._since = per_s, time.monotonic()

    @property
    def tokens(self) -> int:
        return int((time.monotonic() - self._since) * self._per_s) + 1


def post_until_refused(author: Peer, most: int, room: bytes = ROOM) -> Refuse:
    """POST after POST, `most` of them; the first refusal."""
    for k in range(1, most + 1):
        author.say(Post(room, k), envelope(k))
    while True:
        word, _ = author.receive()
        if isinstance(word, Refuse):
            return word


def post_again(author: Peer, k: int, an_envelope: bytes, room: bytes = ROOM) -> None:
    """POST one until it is stored: the retry time passes."""

    def is_stored() -> bool:
        author.say(Post(room, k), an_envelope)
        return isinstance(author.receive()[0], Stored)

    wait_for(f"post {k} is taken", is_stored)


# ---- rates ----


def test_2000_posts_at_once_are_taken_and_then_50_a_second(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, peer(broker) as author:
        ready = author.hello()
        assert (ready.post_burst, ready.post_rate) == (2_000, 50)
        came_back = Elapsed(ready.post_rate)
        refuse = post_until_refused(author, 4_000)
        assert (refuse.code, refuse.room) == ("rate", ROOM)
        assert 2_000 < refuse.k <= 2_001 + came_back.tokens
        post_again(author, refuse.k, envelope(refuse.k))


def test_posts_are_counted_per_access_key_and_not_per_connection(tmp_path: Path) -> None:
    """Who opens a second connection has no second budget; another key has its own."""
    pair = zmq.curve_keypair()
    settings = "post_burst = 3\nposts_per_s = 1\n"
    with (
        a_broker(tmp_path, settings=settings) as broker,
        peer(broker, pair=pair) as first,
        peer(broker, pair=pair) as second,
        peer(broker) as other,
    ):
        came_back = Elapsed(1)
        refuse = post_until_refused(first, 100)
        assert 3 < refuse.k <= 4 + came_back.tokens
        refuse = post_until_refused(second, 100, OTHER)
        assert refuse.k <= 1 + came_back.tokens
        other.say(Post(ROOM, 1), envelope(10_000))
        other.expect(Stored)


def test_one_address_may_post_four_times_as_much(tmp_path: Path) -> None:
    settings = "post_burst = 4\nposts_per_s = 1\n"
    with a_broker(tmp_path, settings=settings) as broker, ExitStack() as open_peers:
        came_back = Elapsed(4)
        stored = 0
        for number in range(12):
            author = open_peers.enter_context(peer(broker))
            for k in (1, 2, 3):
                author.say(Post(ROOM, k), envelope(10 * number + k))
                if isinstance(author.receive()[0], Refuse):
                    break
                stored += 1
        assert 16 <= stored <= 16 + came_back.tokens


def test_32_casts_at_once_are_relayed_and_then_5_a_second(tmp_path: Path) -> None:
    """The rest is dropped: what is said behind them arrives without them."""
    with a_broker(tmp_path) as broker, peer(broker) as author, peer(broker) as reader:
        reader.join(window=limits.MAX_WINDOW_BYTES)
        came_back = Elapsed(5)
        for number in range(200):
            author.say(Cast(ROOM), cast(number))
        author.say(Post(ROOM, 1), envelope(1))
        heard = 0
        while isinstance(reader.receive()[0], Cast):
            heard += 1
        assert 32 <= heard <= 32 + came_back.tokens


def test_256_control_words_at_once_are_answered_and_then_32_a_second(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, peer(broker) as asker:
        came_back = Elapsed(32)
        answered = 0
        while isinstance(asker.join(), Entries):
            answered += 1
        assert 256 <= answered <= 256 + came_back.tokens
        asker.hello()
        wait_for("it may ask again", lambda: isinstance(asker.join(), Entries))


# ---- connections ----


def test_64_connections_of_an_address_get_in_and_no_more_until_one_leaves(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, ExitStack() as open_peers:
        crowd = [open_peers.enter_context(peer(broker)) for _ in range(64)]
        with Peer(broker.stem) as late:
            assert late.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH) == 400
        if sys.platform == "linux":  # elsewhere loopback is one address only
            with Peer(broker.stem, address="127.0.0.2") as elsewhere:
                elsewhere.hello()
        crowd[0].close()
        wait_for("there is a place again", lambda: gets_in(broker))


def gets_in(broker: Broker) -> bool:
    """Whether a new connection is let in."""
    with Peer(broker.stem) as knocking:
        return not knocking.is_refused()


def test_connections_per_address_are_a_setting(tmp_path: Path) -> None:
    settings = "connections_per_address = 2\n"
    with (
        a_broker(tmp_path, settings=settings) as broker,
        peer(broker),
        peer(broker),
        Peer(broker.stem) as third,
    ):
        assert third.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH) == 400


@pytest.mark.parametrize(("burst", "per_s"), [(512, 32), (5, 1)], ids=["default", "a setting"])
def test_handshakes_of_an_address_have_a_burst_and_a_rate(
    tmp_path: Path, burst: int, per_s: int
) -> None:
    """Who knocks too often is turned away, and gets in a little later."""
    settings = f"handshake_burst = {burst}\nhandshakes_per_s = {per_s}\n"
    with a_broker(tmp_path, settings=settings if burst == 5 else "") as broker:
        came_back = Elapsed(per_s)
        let_in = 0
        while gets_in(broker):
            let_in += 1
        assert burst <= let_in <= burst + came_back.tokens
        if burst == 5:
            wait_for("it gets in a little later", lambda: gets_in(broker))


# ---- rooms ----


def test_an_access_key_makes_64_rooms_and_may_speak_in_others(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, peer(broker) as maker, peer(broker) as other:
        for number in range(64):
            maker.say(Post(b"%16d" % number, 1), envelope(number))
            maker.expect(Stored)
        other.say(Post(OTHER, 1), envelope(1))
        other.expect(Stored)
        maker.say(Post(ROOM, 1), envelope(1))
        refuse = maker.expect(Refuse)
        assert (refuse.code, refuse.k, refuse.room) == ("too-many-rooms", 1, ROOM)
        assert refuse.retry_after_ms > 0
        maker.say(Post(OTHER, 1), envelope(2))
        maker.expect(Stored)


def test_rooms_of_an_access_key_are_counted_over_restarts(tmp_path: Path) -> None:
    pair = zmq.curve_keypair()
    settings = "rooms_per_access_key = 2\nrooms_per_broker = 3\n"
    with a_broker(tmp_path, settings=settings) as broker, peer(broker, pair=pair) as maker:
        maker.say(Post(ROOM, 1), envelope(1))
        maker.expect(Stored)
    again = broker.again()
    try:
        with peer(again, pair=pair) as maker, peer(again) as other:
            for member, room, wanted in (
                (maker, OTHER, "stored"),
                (maker, b"a third room....", "too-many-rooms"),
                (other, b"a third room....", "stored"),
                (other, b"a fourth room...", "too-many-rooms"),
            ):
                member.say(Post(room, 1), envelope(1))
                word, _ = member.receive()
                assert wanted == (word.code if isinstance(word, Refuse) else "stored")
        assert again.end() == 0
    finally:
        again.kill()
        again.end_input()


def test_a_room_takes_its_bytes_and_no_more_and_others_take_theirs(tmp_path: Path) -> None:
    settings = f"room_bytes = {100 * WEIGHT}\n"
    with a_broker(tmp_path, settings=settings) as broker, peer(broker) as author:
        refuse = post_until_refused(author, 101)
        assert (refuse.code, refuse.k, refuse.room) == ("room-full", 101, ROOM)
        assert refuse.retry_after_ms > 0
        author.say(Post(OTHER, 1), envelope(1))
        while author.expect(Stored).room != OTHER:
            pass


def test_of_a_room_only_so_many_bytes_are_kept(tmp_path: Path) -> None:
    """The ids stay, and the head says up to where."""
    settings = f"keep_room_bytes = {3 * WEIGHT}\n"
    with (
        a_broker(tmp_path, settings=settings, **FAST) as broker,
        peer(broker) as author,
        peer(broker) as reader,
    ):
        author.say(Post(ROOM, 1), envelope(0))
        log = author.expect(Stored).log
        for k in range(2, 11):
            author.say(Post(ROOM, k), envelope(k))

        def kept() -> tuple[int, int]:
            reader.say(Page(1, ROOM, log, 1, 10, False))
            word, batch = reader.receive()
            assert isinstance(word, Entries)
            items = unpack_batch(batch)
            return sum(item.envelope is not None for item in items), Head.unpack(word.head).expired

        wait_for("seven of ten have gone", lambda: kept() == (3, 7))


# ---- what one connection has under way ----


def test_64_rooms_fit_in_a_connection_and_in_a_join(tmp_path: Path) -> None:
    """The 65th is refused; a JOIN of 65 is no word at all."""
    places = [Position(b"%16d" % number, NO_LOG, 1, 0, NO_LOG, 0) for number in range(65)]
    with a_broker(tmp_path) as broker, peer(broker) as member:
        member.send(_join_of(65, places))
        member.say(Join(7, tuple(places[:64])))
        assert {member.expect(Entries).req for _ in range(64)} == {7}
        member.say(Join(8, (places[64],)))
        refuse = member.expect(Refuse)
        assert (refuse.code, refuse.req, refuse.room) == ("too-many-rooms", 8, places[64].room)
        member.say(Leave(9, places[0].room))
        member.say(Join(10, (places[64],)))
        assert member.expect(Entries).req == 10


def _join_of(count: int, places: list[Position]) -> tuple[bytes, ...]:
    """A JOIN as it would be encoded if it could have so many rooms."""
    one = encode(Join(6, tuple(places[:1])))[0]
    start = one.index(b"\xa5rooms") + len(b"\xa5rooms")
    head, a_place = one[:start], one[start + 1 :]
    assert one[start : start + 1] == b"\x91"
    rest = [encode(Join(6, (place,)))[0][start + 1 :] for place in places[1:count]]
    return (b"".join([head, b"\xdc", count.to_bytes(2, "big"), a_place, *rest]),)


def test_a_word_has_at_most_16_kib(tmp_path: Path) -> None:
    """What is longer is dropped, though it would fit through the socket."""
    with a_broker(tmp_path) as broker, peer(broker) as member:
        for size in (limits.MAX_WORD_BYTES + 1, limits.MAX_BATCH_BYTES):
            member.send((encode(Hello(9, 1, "x"))[0].ljust(size, b"\0"),))
        member.hello()
    assert "'malformed': 2" in broker.err


def test_a_frame_has_at_most_what_the_socket_takes(tmp_path: Path) -> None:
    """CURVE adds 33 bytes: one byte less is dropped as no word, one byte more ends the line."""
    with a_broker(tmp_path) as broker, peer(broker) as member:
        member.send((bytes(limits.MAX_MESSAGE_BYTES - 33),))
        member.hello()
        member.send((bytes(limits.MAX_MESSAGE_BYTES - 32),))
        member.await_event(zmq.EVENT_DISCONNECTED)
        member.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        member.hello()


def test_an_envelope_has_at_most_68_kib_and_a_cast_1_kib(tmp_path: Path) -> None:
    """The longest pass; a longer one is no word, and the number stays."""
    longest = envelope(1, limits.MAX_ENVELOPE_BYTES - limits.ENVELOPE_OVERHEAD_BYTES - 512)
    with a_broker(tmp_path) as broker, peer(broker) as author, peer(broker) as reader:
        reader.join(window=limits.MAX_WINDOW_BYTES)
        author.say(Post(ROOM, 1), longest.ljust(limits.MAX_ENVELOPE_BYTES + 1, b"\0"))
        author.say(Cast(ROOM), cast(1).ljust(limits.MAX_CAST_BYTES + 1, b"\0"))
        author.say(Cast(ROOM), envelope(2, 832, envelope_class=1))
        author.say(Post(ROOM, 1), envelope(1, 67_584))
        author.expect(Stored)
        assert len(reader.receive()[1]) == 183 + 832
        assert len(reader.receive()[1]) == 4 + 183 + 67_584


def test_eight_pages_wait_and_the_next_is_refused(tmp_path: Path) -> None:
    """All of them are read at once, for the broker stood still while they came."""
    with a_broker(tmp_path, **FAST) as broker, peer(broker) as author, peer(broker) as reader:
        author.say(Post(ROOM, 1), envelope(1))
        log = author.expect(Stored).log
        broker.process.send_signal(signal.SIGSTOP)
        for req in range(1, 61):
            reader.say(Page(req, ROOM, log, 1, 1, False))
        broker.process.send_signal(signal.SIGCONT)
        words = [reader.receive()[0] for _ in range(60)]
        refused = [word for word in words if isinstance(word, Refuse)]
        answered = [word for word in words if isinstance(word, Entries)]
        requests = [word.req for word in words if isinstance(word, Entries | Refuse)]
        assert {word.code for word in refused} == {"rate"}
        assert all(word.retry_after_ms > 0 for word in refused)
        assert len(answered) >= limits.MAX_PAGES_WAITING
        assert sorted(requests) == [*range(1, 61)]
        reader.say(Page(99, ROOM, log, 1, 1, False))
        assert reader.expect(Entries).req == 99


def test_a_window_of_1_mib_is_filled_and_never_passed(tmp_path: Path) -> None:
    """So many bytes of envelopes are under way, in batches that have a bound of their own."""
    with a_broker(tmp_path, **FAST) as broker, peer(broker) as author, peer(broker) as reader:
        for k in range(1, 41):
            author.say(Post(ROOM, k), envelope(k, 65_536))
        while author.expect(Stored).k < 40:
            pass
        reader.say(Join(1, (Position(ROOM, NO_LOG, 1, 0, NO_LOG, limits.MAX_WINDOW_BYTES),)))
        in_flight = acknowledged = reached = 0
        while reached < 40:
            word, batch = reader.receive()
            assert isinstance(word, Entries)
            assert len(batch) <= limits.MAX_BATCH_BYTES
            in_flight += len(batch)
            assert in_flight <= limits.MAX_WINDOW_BYTES
            reached = word.first + len(unpack_batch(batch)) - 1
            if in_flight > limits.MAX_WINDOW_BYTES * 3 // 4:
                assert reached > acknowledged
                acknowledged, in_flight = reached, 0
                place = Position(ROOM, word.log, 1, reached, NO_LOG, limits.MAX_WINDOW_BYTES)
                reader.say(Join(2, (place,)))
        assert acknowledged > 0


def test_a_window_over_1_mib_is_no_window(tmp_path: Path) -> None:
    """The word is dropped; the largest one is taken."""
    with a_broker(tmp_path) as broker, peer(broker) as member:
        largest = encode(Join(1, (Position(ROOM, NO_LOG, 1, 0, NO_LOG, 1 << 20),)))[0]
        assert largest.count(b"\xce\x00\x10\x00\x00") == 1
        member.send((largest.replace(b"\xce\x00\x10\x00\x00", b"\xce\x00\x10\x00\x01"),))
        member.hello()
        member.send((largest,))
        assert member.expect(Entries).req == 1


# ---- what is told, and what a process may have ----


def test_a_lineage_has_16_births_however_often_the_store_was_restored(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, peer(broker) as author:
        author.say(Post(ROOM, 1), envelope(1))
        author.expect(Stored)
    for number in range(limits.MAX_LINEAGE + 1):
        kept = tmp_path / f"kept-{number}.db"
        shutil.copy(broker.store, kept)
        restore(broker.store, kept, load_keys(broker.store.parent).log_key, os.urandom)
    again = broker.again()
    try:
        with peer(again) as reader:
            answer = reader.join(window=limits.MAX_WINDOW_BYTES)
            assert isinstance(answer, Entries)
            assert (len(answer.lineage), answer.tip) == (16, 1)
        assert again.end() == 0
    finally:
        again.kill()
        again.end_input()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux tells it of another")
def test_a_broker_bounds_its_memory_and_takes_all_descriptors_it_may(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker:
        pid = broker.process.pid
        assert resource.prlimit(pid, resource.RLIMIT_AS)[0] == limits.MAX_ADDRESS_SPACE
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        assert soft == min(hard, 65_536)
