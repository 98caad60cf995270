"""Strangers and bad members against a real broker process.

Rules of this file: whoever attacks speaks TCP or ZeroMQ by hand; after each attack two members,
who were there before it, still hear each other; what must not be answered is followed by what is,
so that no test waits for silence.
"""

import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from tests.processes import PATIENCE_S, Broker, World, environment, wait_for
from zchat.broker.budget import Budget
from zchat.broker.gate import ZAP_ADDRESS, Gate, counted_as
from zchat.member.invite import parse_invite
from zchat.protocol.ledger import NO_LOG
from zchat.protocol.limits import MAX_MESSAGE_BYTES, MAX_WORD_BYTES
from zchat.protocol.wire import (
    Cast,
    Entries,
    Frames,
    Hello,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Word,
    decode_to_member,
    encode,
)

ROOM = b"a room's tag...."
CYCLES = 200
# Who may knock as often as these tests do.
OPEN_DOOR = {"ZCHAT_HANDSHAKE_BURST": "1000000", "ZCHAT_CONNECTIONS_PER_ADDRESS": "100000"}

_W = TypeVar("_W", bound=Word)


class Peer:
    """A DEALER that says what it is told to say, and what its monitor tells of it."""

    def __init__(
        self,
        stem: str,
        *,
        pair: tuple[bytes, bytes] | None = None,
        server_key: bytes = b"",
        curve: bool = True,
        routing_id: bytes = b"",
        address: str = "",
        rcvhwm: int = 0,
    ) -> None:
        server = parse_invite(stem).server
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm = rcvhwm
        self.socket.maxmsgsize = MAX_MESSAGE_BYTES
        if routing_id:
            self.socket.routing_id = routing_id
        if curve:
            self.socket.curve_publickey, self.socket.curve_secretkey = pair or zmq.curve_keypair()
            self.socket.curve_serverkey = server_key or z85.encode(server.keys.curve_key)
        self._monitor = self.socket.get_monitor_socket()
        source = f"{address}:0;" if address else ""
        self.socket.connect(f"tcp://{source}{server.address}")
        self.req = 0

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, linger_ms: int = 0) -> None:
        """End; what was not sent yet goes out first if it is given time."""
        if self._context.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close(linger_ms)
        self._context.term()

    def await_event(self, *events: int) -> int:
        """Wait until the monitor tells of one of these; the value it gives with it."""
        told = []
        ends = time.monotonic() + PATIENCE_S
        while self._monitor.poll(int(1_000 * max(0.0, ends - time.monotonic()))):
            event = parse_monitor_message(self._monitor.recv_multipart())
            told.append(zmq.Event(event["event"]).name)
            if event["event"] in events:
                return int(event["value"])
        raise AssertionError(f"none of {[zmq.Event(e).name for e in events]}, but {told}")

    def is_refused(self) -> bool:
        """Whether the broker refuses this connection; False once it has let it in."""
        told = self.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        return told == 400

    def say(self, word: Word, attachment: bytes | None = None) -> None:
        self.send(encode(word, attachment))

    def send(self, frames: Frames) -> None:
        """Send frames as they are."""
        self.socket.send_multipart(frames)

    def receive(self) -> tuple[Word, bytes]:
        """The next message."""
        assert self.socket.poll(int(1_000 * PATIENCE_S)), "nothing was answered"
        return decode_to_member(tuple(self.socket.recv_multipart()))

    def expect(self, kind: type[_W]) -> _W:
        """The next message, which is of this kind."""
        word, _ = self.receive()
        assert isinstance(word, kind), word
        return word

    def hello(self) -> Ready:
        """Say HELLO; the next thing that is heard is its answer."""
        self.req += 1
        self.say(Hello(self.req, 1, "a raw peer"))
        ready = self.expect(Ready)
        assert ready.req == self.req
        return ready

    def join(self, room: bytes = ROOM, *, sub: int = 1, window: int = 0) -> Word:
        """Say JOIN for one room, from its first entry on; what answers it."""
        self.req += 1
        self.say(Join(self.req, (Position(room, NO_LOG, sub, 0, NO_LOG, window),)))
        return self.receive()[0]


class Besieged(World):
    """A world whose broker lets anybody knock as often as they like; alice and bob are in."""

    def start_broker(self) -> Broker:
        return Broker(self.folder / "host", **OPEN_DOOR)

    def settle_in(self) -> None:
        self.alice, self.bob = self.join("alice"), self.join("bob")
        self._said = 0
        self.still_serves()

    def still_serves(self) -> None:
        """Each says something that the other hears; nobody lost the connection or sees a lie."""
        for author, reader in ((self.alice, self.bob), (self.bob, self.alice)):
            self._said += 1
            author.type(f"still here {self._said}\n")
            reader.expect(rf": still here {self._said}$")
        assert self.broker.process.poll() is None
        for member in (self.alice, self.bob):
            assert not re.search("offline|!!|missing", member.err), member.err


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Besieged]:
    """One siege for all of these tests, which ends as a broker ends that has seen nothing odd."""
    world = Besieged(tmp_path_factory.mktemp("siege") / "world", template)
    try:
        world.settle_in()
        yield world
        world.still_serves()
        assert world.broker.end() == 0
        assert "Traceback" not in world.broker.err
    finally:
        world.close()


# ---- who does not get in ----


def test_without_curve_nobody_gets_in(besieged: Besieged) -> None:
    with Peer(besieged.broker.stem, curve=False) as stranger:
        stranger.say(Hello(1, 1, "in the clear"))
        stranger.await_event(
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            zmq.EVENT_DISCONNECTED,
        )
        besieged.still_serves()
        assert not stranger.socket.poll(0)


def test_with_another_servers_key_nobody_gets_in(besieged: Besieged) -> None:
    another, _ = zmq.curve_keypair()
    with Peer(besieged.broker.stem, server_key=another) as lost:
        lost.say(Hello(1, 1, "lost"))
        lost.await_event(
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            zmq.EVENT_DISCONNECTED,
        )
        besieged.still_serves()
        assert not lost.socket.poll(0)


@pytest.mark.parametrize("routing_id", [b"x", b"me?", b"\0", b"\1\2\3\4\5", b"a" * 255])
def test_who_names_its_own_route_is_heard_by_nobody(tmp_path: Path, routing_id: bytes) -> None:
    """Nobody may choose a name; the library lets it in, and the broker drops what it says."""
    with a_broker(tmp_path) as broker:
        with Peer(broker.stem, routing_id=routing_id) as impostor, Peer(broker.stem) as peer:
            impostor.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            for req in range(1, 51):
                impostor.say(Hello(req, 1, "an impostor"))
                peer.hello()
            assert not impostor.socket.poll(0)
        assert broker.end() == 0
        assert re.search(r"'Hello': 50\b", broker.err)
        assert re.search(r"'not let in': \d+", broker.err)


def test_who_is_not_on_the_list_is_refused_and_who_is_gets_in(tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    with a_broker(tmp_path, settings=f'allow = ["{z85.decode(public).hex()}"]') as broker:
        with Peer(broker.stem) as stranger:
            assert stranger.await_event(zmq.EVENT_HANDSHAKE_FAILED_AUTH) == 400
        with Peer(broker.stem, pair=(public, secret)) as known:
            known.hello()


@contextmanager
def a_broker(folder: Path, *, settings: str = "", **env: str) -> Iterator[Broker]:
    """A broker of its own, that ends well."""
    home = folder / "host"
    home.mkdir()
    (home / "broker.toml").write_text(settings)
    broker = Broker(home, **env)
    try:
        yield broker
        assert broker.end() == 0
        assert "Traceback" not in broker.err
    finally:
        broker.kill()
        broker.end_input()


class Library:
    """What libzmq tells a gate, told by hand: connections of 127.0.0.1, and who asks to get in."""

    def __init__(self, connections_per_address: int, handshakes: int = 1_000) -> None:
        self._context = zmq.Context()
        budget: Budget[str] = Budget(handshakes, 1)
        self.gate = Gate(self._context, frozenset(), connections_per_address, budget)
        self._monitor = self._context.socket(zmq.PAIR)
        self._monitor.bind("inproc://library")
        self.gate.monitor.connect("inproc://library")
        self._asking = self._context.socket(zmq.REQ)
        self._asking.connect(ZAP_ADDRESS)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []

    def connection(self) -> int:
        """The descriptor of a new one."""
        self._ends.append(socket.create_connection(self._listener.getsockname()))
        self._ends.append(self._listener.accept()[0])
        return self._ends[-1].fileno()

    def tell(self, event: int, descriptor: int) -> None:
        self._monitor.send_multipart([struct.pack("=hi", event, descriptor), b"tcp://"])

    def lets_in(self) -> bool:
        """Whether one more from that address would get in."""
        request = [b"1.0", b"1", b"zchat", b"127.0.0.1", b"", b"CURVE", bytes(32)]
        self._asking.send_multipart(request)
        self.gate.lost_routes(0.0)
        wait_for("the gate was asked", lambda: bool(self.gate.zap.poll(100)))
        self.gate.answer_waiting(0.0)
        return self._asking.recv_multipart()[2] == b"200"

    def close(self) -> None:
        for end in (*self._ends, self._listener):
            end.close()
        self.gate.close()
        self._context.destroy(linger=0)


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library(connections_per_address=1)
    yield made
    made.close()


def test_connections_are_counted_while_they_last(library: Library) -> None:
    first, second = library.connection(), library.connection()
    library.tell(zmq.EVENT_ACCEPTED, first)
    assert library.lets_in()
    library.tell(zmq.EVENT_ACCEPTED, second)
    assert not library.lets_in()
    library.tell(zmq.EVENT_DISCONNECTED, first)
    assert library.lets_in()


def test_as_many_are_refused_as_came_beyond_the_rate() -> None:
    """Whether they ask to get in or not; who has gone without asking is not refused any more."""
    library = Library(connections_per_address=100, handshakes=2)
    for _ in range(3):
        library.tell(zmq.EVENT_ACCEPTED, library.connection())
    assert [library.lets_in() for _ in range(3)] == [False, True, True]
    silent = library.connection()
    library.tell(zmq.EVENT_ACCEPTED, silent)
    library.tell(zmq.EVENT_DISCONNECTED, silent)
    assert library.lets_in()
    library.close()


def test_a_loss_that_is_told_before_its_beginning_counts_nothing(library: Library) -> None:
    """Two threads of the library tell of them, and either may be first."""
    used = [library.connection() for _ in range(5)]
    for descriptor in used:
        library.tell(zmq.EVENT_DISCONNECTED, descriptor)
        library.tell(zmq.EVENT_ACCEPTED, descriptor)
    assert library.lets_in()
    for descriptor in used[:2]:
        library.tell(zmq.EVENT_ACCEPTED, descriptor)
    assert not library.lets_in()


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2600:1:2:3::1", "2600:1:2:3::/64"),
        ("2600:1:2:3:ffff:ffff:ffff:ffff", "2600:1:2:3::/64"),
        ("2600:1:2:4::1", "2600:1:2:4::/64"),
        ("fe80::1%eth0", "fe80::1"),  # of a network whose addresses are several people's
        ("fd00::1", "fd00::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_who_has_a_network_of_addresses_counts_as_one(address: str, counted: str) -> None:
    assert counted_as(address) == counted


def test_a_descriptor_that_is_no_connection_any_more_is_nobodys_address(library: Library) -> None:
    """It was closed meanwhile, or is a file's, or a pipe's of this machine."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(__file__).open("rb") as file:
        for descriptor in (ours.fileno(), file.fileno(), 1_000_000):
            library.tell(zmq.EVENT_ACCEPTED, descriptor)
        assert library.lets_in()


# ---- who says nothing, or not enough ----


def address_of(stem: str) -> tuple[str, int]:
    """Where a broker listens."""
    host, _, port = stem.removeprefix("zchat://").partition("/")[0].rpartition(":")
    return host, int(port)


def test_who_gets_in_and_says_nothing_gets_nothing_and_disturbs_nobody(besieged: Besieged) -> None:
    with Peer(besieged.broker.stem) as silent:
        silent.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        besieged.still_serves()
        assert not silent.socket.poll(0)
        silent.hello()


def _greeting(mechanism: bytes) -> bytes:
    """ZMTP 3.1, RFC 37: signature, version, mechanism, as-server, filler."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes(32)


_HALVES: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\xff",
    "half a signature": b"\xff\0\0\0",
    "half a greeting": _greeting(b"CURVE")[:32],
    "a whole greeting": _greeting(b"CURVE"),
    "a greeting without CURVE": _greeting(b"NULL"),
    "an unknown mechanism": _greeting(b"\xff" * 20),
    "half a command": _greeting(b"CURVE") + b"\x04\xc8\x05HELLO",
    "a command of no sense": _greeting(b"CURVE") + b"\x04\x06\x05HELLO",
    "an endless command": _greeting(b"CURVE") + b"\x06" + b"\x7f" * 8 + bytes(1_000),
    "a request for a page": b"GET / HTTP/1.1\r\nHost: there\r\n\r\n",
    "noise": random.Random(1).randbytes(50_000),
}


@pytest.mark.parametrize("half", _HALVES)
def test_a_connection_that_stays_half_open_is_let_go(besieged: Besieged, half: str) -> None:
    """The broker ends it; whoever is in is served meanwhile, and afterwards."""
    with socket.create_connection(address_of(besieged.broker.stem)) as raw:
        raw.sendall(_HALVES[half])
        besieged.still_serves()
        assert ends(raw)
    besieged.still_serves()


def ends(raw: socket.socket) -> bool:
    """Read until the other end closes; TimeoutError where it does not."""
    raw.settimeout(PATIENCE_S)
    try:
        while raw.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def test_300_connections_that_stay_half_open_keep_nobody_out(besieged: Besieged) -> None:
    """There are descriptors enough for them and for whoever comes, and none is kept."""
    before = descriptors(besieged.broker)
    crowd = [socket.create_connection(address_of(besieged.broker.stem)) for _ in range(300)]
    try:
        for raw in crowd:
            raw.sendall(_HALVES["half a greeting"])
        besieged.still_serves()
        with Peer(besieged.broker.stem) as late:
            late.hello()
        assert all(ends(raw) for raw in crowd)
    finally:
        for raw in crowd:
            raw.close()
    wait_for("no descriptor is kept", lambda: descriptors(besieged.broker) <= before)
    besieged.still_serves()


# ---- who says what it must not ----


@pytest.mark.parametrize(
    ("word", "attachment"),
    [
        (Join(7, (Position(ROOM, NO_LOG, 1, 0, NO_LOG, 0),)), None),
        (Page(7, ROOM, NO_LOG, 1, 1, False), None),
        (Post(ROOM, 7), b""),
    ],
    ids=["JOIN", "PAGE", "POST"],
)
def test_who_has_not_said_hello_is_told_to(
    besieged: Besieged, word: Word, attachment: bytes | None
) -> None:
    with Peer(besieged.broker.stem) as rude:
        rude.say(word, attachment)
        refuse = rude.expect(Refuse)
        assert (refuse.code, refuse.req + refuse.k) == ("hello-first", 7)
        rude.hello()
    besieged.still_serves()


_UNANSWERED: dict[str, Frames] = {
    "CAST before HELLO": encode(Cast(ROOM), b""),
    "LEAVE before HELLO": encode(Leave(7, ROOM)),
    "an empty frame": (b"",),
    "noise": (random.Random(2).randbytes(1_000),),
    "an unknown word": (b"\x82\xa4word\xa5SHOUT\xa3req\x01",),
    "a word of the broker's": encode(Ready(1, 1, "a server", bytes(32), 1, 1)),
    "a word of another encoding": (encode(Hello(1, 1, "x"))[0].replace(b"\xa1x", b"\xd9\x01x"),),
    "a word with a pair too many": (b"\x84" + encode(Leave(1, ROOM))[0][1:] + b"\xa1x\xc0",),
    "nested beyond reason": (b"\x91" * 16_000,),
    "a frame too few": encode(Post(ROOM, 1), b"")[:1],
    "a frame too many": (*encode(Hello(1, 1, "x")), b""),
    "an empty frame before the word": (b"", *encode(Hello(1, 1, "x"))),
    "three frames": (*encode(Post(ROOM, 1), bytes(695)), b""),
    "a thousand frames": (*encode(Post(ROOM, 1), bytes(695)), *[b"x"] * 998),
    "a word over its bound": (bytes(MAX_WORD_BYTES + 1),),
    "an envelope over its bound": encode(Post(ROOM, 1), bytes(69_633)),
    "a cast over its bound": encode(Cast(ROOM), bytes(1_025)),
    "the longest frame": (bytes(MAX_MESSAGE_BYTES - 33),),
}


@pytest.mark.parametrize("message", _UNANSWERED)
def test_what_is_not_of_the_protocol_is_dropped_and_never_answered(
    besieged: Besieged, message: str
) -> None:
    """The next thing that is answered is the HELLO behind it; then again, from who is known."""
    with Peer(besieged.broker.stem) as odd:
        for _ in range(2):
            odd.send(_UNANSWERED[message])
            odd.hello()
    besieged.still_serves()


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES + 1, 16 * MAX_MESSAGE_BYTES])
@pytest.mark.parametrize("behind", [False, True], ids=["first", "second frame"])
def test_a_frame_over_its_bound_ends_the_connection(
    besieged: Besieged, size: int, *, behind: bool
) -> None:
    """CURVE adds 33 bytes to it; who sent it may come again."""
    with Peer(besieged.broker.stem) as heavy:
        heavy.hello()
        heavy.send((*encode(Post(ROOM, 1), b"")[:1], bytes(size)) if behind else (bytes(size),))
        heavy.await_event(zmq.EVENT_DISCONNECTED)
        heavy.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        heavy.hello()
    besieged.still_serves()


def test_ten_thousand_messages_of_junk_keep_nobody_from_talking(besieged: Besieged) -> None:
    with Peer(besieged.broker.stem) as flood:
        flood.hello()
        for number in range(10_000):
            flood.send((b"%d" % number,))
            if number % 5_000 == 0:
                besieged.still_serves()
        flood.hello()
    besieged.still_serves()


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker:
        with Peer(broker.stem) as odd:
            for _ in range(3):
                odd.send((b"odd",))
            odd.say(Leave(1, ROOM))
            odd.hello()
        assert broker.end() == 0
        assert "'malformed': 3" in broker.err
        assert "'before hello': 1" in broker.err


# ---- who comes and goes ----


def _knock(stem: str) -> None:
    socket.create_connection(address_of(stem)).close()


def _half(stem: str) -> None:
    with socket.create_connection(address_of(stem)) as raw:
        raw.sendall(_HALVES["half a greeting"])


def _hello(stem: str) -> None:
    with Peer(stem) as peer:
        peer.hello()


def _join(stem: str) -> None:
    with Peer(stem) as peer:
        peer.hello()
        assert isinstance(peer.join(), Entries)


def _junk(stem: str) -> None:
    """Its last words are read when it is gone already."""
    peer = Peer(stem)
    peer.send((b"junk",))
    peer.close(linger_ms=10_000)


def _stranger(stem: str) -> None:
    peer = Peer(stem, routing_id=b"me")
    peer.say(Hello(1, 1, "an impostor"))
    peer.close(linger_ms=10_000)


def _lost(stem: str) -> None:
    with Peer(stem, server_key=zmq.curve_keypair()[0]) as peer:
        peer.await_event(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_DISCONNECTED)


_WAYS: list[Callable[[str], None]] = [_knock, _half, _hello, _join, _junk, _stranger, _lost]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("way", _WAYS, ids=lambda way: way.__name__.strip("_"))
def test_200_who_come_and_go_leave_nothing_behind(
    besieged: Besieged, way: Callable[[str], None]
) -> None:
    """Descriptors are back where they were, and memory does not follow the number who came."""
    broker = besieged.broker
    before = descriptors(broker)
    held = []
    for _ in range(2):  # the first round is for whatever is made once
        for _ in range(CYCLES):
            way(broker.stem)
        wait_for("descriptors are given back", lambda: descriptors(broker) <= before)
        besieged.still_serves()
        held.append(resident_kib(broker))
    assert held[1] - held[0] < 1_024


def descriptors(broker: Broker) -> int:
    return len(list(Path(f"/proc/{broker.process.pid}/fd").iterdir()))


def resident_kib(broker: Broker) -> int:
    """What it holds of memory."""
    status = Path(f"/proc/{broker.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1])


# The real broker, which tells how many routes it knows each time it hears of a new one.
_TELLING_ROUTES = """
from zchat.broker.core import Core
from zchat.ui.cli import main, serve

class Telling(Core):
    routes = set()
    def connected(self, route, peer):
        super().connected(route, peer)
        self.routes = {known for known in self.routes | {route} if self.knows(known)}
        print("knows", len(self.routes), flush=True)

serve.Core = Telling
main.main()
"""


def test_who_is_gone_before_its_last_words_are_read_is_not_remembered(tmp_path: Path) -> None:
    """The broker learns of a loss and reads words of before: the route is nobody's any more."""
    with _telling(tmp_path, _TELLING_ROUTES) as (stem, told):
        for _ in range(CYCLES):
            _junk(stem)
        wait_for("all were heard", lambda: len(told()) >= CYCLES)
        assert max(told()) < 10


# The real broker, which tells how many messages it read in a turn that were out of turn.
_TELLING_TURNS = """
from zchat.broker.core import Core
from zchat.ui.cli import main, serve

class Telling(Core):
    before = 0
    def committed(self):
        wasted = self.counts["post out of turn"]
        if wasted > self.before:
            print("read", wasted - self.before, flush=True)
        self.before = wasted
        return super().committed()

serve.Core = Telling
main.main()
"""


def test_of_what_stores_nothing_a_turn_reads_little(tmp_path: Path) -> None:
    """Or a flood would hold up the commit of what others posted."""
    with _telling(tmp_path, _TELLING_TURNS) as (stem, told), Peer(stem) as flooder:
        flooder.hello()
        for _ in range(3_000):
            flooder.say(Post(ROOM, 7), bytes(600))
        wait_for("all were read", lambda: sum(told()) == 3_000)
        assert max(told()) <= 32


@contextmanager
def _telling(folder: Path, program: str) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """A broker that tells something: its stem, and the numbers told so far."""
    script, out = folder / "telling.py", folder / "out"
    script.write_text(program)
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(script), "broker", "--listen", "127.0.0.1:0"],
            stdout=file,
            stderr=subprocess.DEVNULL,
            env=environment(folder / "host", **OPEN_DOOR),
        )
    try:
        wait_for("it listens", lambda: out.read_text().startswith("zchat://"))
        stem = out.read_text().splitlines()[0]
        yield stem, lambda: [int(n) for n in re.findall(r"^\w+ (\d+)$", out.read_text(), re.M)]
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
