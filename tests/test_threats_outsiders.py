"""Strangers at the broker's door: floods, squatters, slow ones, wrong keys, wrong passphrases.

Rules of this file: as in tests/threats.py. A row is a function named after its id; the tests that
call it stand right behind it, held first, then what it looks like without its defence. `Stranger`
speaks ZMTP by hand, and never uses what a library would refuse on its side. How long a row waits
for what a broker must do is an argument: without the defence it never comes.
"""

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
import zmq
from nacl import bindings
from zmq.utils import z85

from tests import processes
from tests.processes import PASSPHRASE, PATIENCE_S, World, wait_for, world
from tests.test_gate import OPEN_DOOR, Peer, a_broker, address_of, resident_kib
from tests.test_threats_wire import package, uses
from tests.threats import red
from tests.without import command
from zchat.member.invite import parse_invite
from zchat.protocol.wire import Hello, Ready, encode

ELSEWHERE = "127.0.0.2"  # another address than that of the members

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01%s" + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4


# ---- a hand-made peer ----


class Refused(AssertionError):
    """The broker did not let a stranger in."""


class Stranger:
    """ZMTP 3.1 by hand (RFC 37), in the clear or with CURVE (RFC 26), and any metadata at all."""

    def __init__(self, stem: str, patience_s: float = PATIENCE_S) -> None:
        self.socket = socket.create_connection(address_of(stem))
        self.socket.settimeout(patience_s)
        self._server = parse_invite(stem).server.keys.curve_key
        self._nonce = 0
        self._box_key = b""

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self, mechanism: bytes) -> None:
        self.socket.sendall(GREETING % mechanism.ljust(20, b"\0"))
        self._take(64)

    def _take(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            with suppress(ConnectionError):
                more = self.socket.recv(size - len(taken))
            if not more:
                raise Refused("the connection was ended")
            taken += more
        return taken

    def frame(self, body: bytes, flags: int = 0) -> None:
        """One frame, of whatever length."""
        long = len(body) > 255 or flags & COMMAND
        size = struct.pack(">Q", len(body)) if long else bytes([len(body)])
        self.socket.sendall(bytes([flags | (LONG if long else 0)]) + size + body)

    def command(self, name: bytes, body: bytes) -> None:
        self.frame(bytes([len(name)]) + name + body, COMMAND)

    def receive(self) -> tuple[int, bytes]:
        """A frame's flags and body; Refused where it says ERROR."""
        (flags,) = self._take(1)
        size = struct.unpack(">Q", self._take(8))[0] if flags & LONG else self._take(1)[0]
        body = self._take(size)
        if body.startswith(b"\x05ERROR"):
            raise Refused(f"ERROR {body[7:].decode()}")
        return flags, body

    def enter_in_the_clear(self) -> None:
        """NULL: what a broker without CURVE would take. Raises Refused."""
        self.greet(b"NULL")
        self.command(b"READY", metadata({"Socket-Type": b"DEALER"}))
        self.receive()

    def enter(self, pair: tuple[bytes, bytes], properties: dict[str, bytes]) -> None:
        """CURVE, with a long-term pair (raw) and this metadata. Raises Refused."""
        public, secret = pair
        short, short_secret = bindings.crypto_box_keypair()
        self.greet(b"CURVE")
        hello = self._box(b"CurveZMQHELLO---", bytes(64), self._server, short_secret)
        self.command(b"HELLO", b"\x01\x00" + bytes(72) + short + hello)
        welcome = self.receive()[1].removeprefix(b"\x07WELCOME")
        opened = bindings.crypto_box_open(
            welcome[16:], b"WELCOME-" + welcome[:16], self._server, short_secret
        )
        theirs, cookie = opened[:32], opened[32:]
        vouch_nonce = bindings.randombytes(16)
        vouch = bindings.crypto_box(short + self._server, b"VOUCH---" + vouch_nonce, theirs, secret)
        said = public + vouch_nonce + vouch + metadata(properties)
        initiate = self._box(b"CurveZMQINITIATE", said, theirs, short_secret)
        self.command(b"INITIATE", cookie + initiate)
        self.receive()
        self._box_key = bindings.crypto_box_beforenm(theirs, short_secret)

    def _box(self, label: bytes, text: bytes, public: bytes, secret: bytes) -> bytes:
        self._nonce += 1
        number = struct.pack(">Q", self._nonce)
        return number + bindings.crypto_box(text, label + number, public, secret)

    def say(self, frames: tuple[bytes, ...]) -> None:
        """A message, boxed where there is CURVE."""
        for at, body in enumerate(frames, 1):
            more = MORE if at < len(frames) else 0
            if not self._box_key:
                self.frame(body, more)
                continue
            self._nonce += 1
            number = struct.pack(">Q", self._nonce)
            boxed = bindings.crypto_box_afternm(
                bytes([more]) + body, b"CurveZMQMESSAGEC" + number, self._box_key
            )
            self.frame(b"\x07MESSAGE" + number + boxed)

    def hears(self) -> bytes:
        """The next message's first frame, as it comes over the wire."""
        flags, body = self.receive()
        while flags & COMMAND:
            flags, body = self.receive()
        return body


def metadata(properties: dict[str, bytes]) -> bytes:
    """As READY and INITIATE carry it."""
    pairs = properties.items()
    return b"".join(
        bytes([len(k)]) + k.encode() + struct.pack(">I", len(value)) + value for k, value in pairs
    )


def raw_pair() -> tuple[bytes, bytes]:
    """A CURVE pair, raw."""
    public, secret = zmq.curve_keypair()
    return z85.decode(public), z85.decode(secret)


@contextmanager
def besieged(folder: Path, template: Path, **env: str) -> Iterator[World]:
    """A broker with these settings; alice and bob are in its room and hear each other."""
    with world(folder / "world", template) as here:
        here.broker.end()
        here.restart_broker(**env)
        here.join("alice"), here.join("bob")
        still_serve(here)
        yield here
        still_serve(here)


def still_serve(here: World) -> None:
    """Each says something that the other hears; nobody lost the connection or sees a lie."""
    assert here.broker.process.poll() is None, f"the broker is gone:\n{here.broker.err}"
    alice, bob = here._running[-2:]
    for author, reader in ((alice, bob), (bob, alice)):
        word = f"still here {len(author.out)}"
        author.type(f"{word}\n")
        reader.expect(f": {word}$")
        assert not re.search("offline|!!|missing", author.err), author.err


def gets_in(stem: str, patience_s: float, address: str = "") -> bool:
    """Whether somebody new, from another address, is greeted."""
    with Peer(stem, address=address) as peer:
        peer.say(Hello(1, 1, "somebody new"))
        return bool(peer.socket.poll(int(patience_s * 1_000)))


# ---- O1, O6: doors held open ----


def o1(folder: Path, template: Path, patience_s: float = PATIENCE_S) -> None:
    """Six hundred connections that say nothing: those inside go on, and somebody new gets in."""
    with besieged(folder, template) as here:
        crowd = []
        for _ in range(600):
            crowd.append(socket.socket())
            crowd[-1].setblocking(False)
            crowd[-1].bind((ELSEWHERE, 0))
            with suppress(BlockingIOError):
                crowd[-1].connect(address_of(here.broker.stem))
        try:
            still_serve(here)
            assert gets_in(here.broker.stem, patience_s), "nobody new gets in"
        finally:
            for silent in crowd:
                silent.close()


def test_O1_who_says_nothing_keeps_nobody_out(tmp_path: Path, template: Path) -> None:
    o1(tmp_path, template)


def test_O1_control_with_few_doors_held_open(tmp_path: Path, template: Path) -> None:
    row = lambda: o1(tmp_path, template, 4)  # noqa: E731
    red(row, "descriptors", "handshake time", because="nobody new gets in")


def o6(folder: Path, patience_s: float = PATIENCE_S) -> None:
    """A byte a second, and no end of it: the broker ends it, and gives the place back."""
    with a_broker(folder) as broker:
        greeting = iter(GREETING % b"CURVE".ljust(20, b"\0"))
        with socket.create_connection(address_of(broker.stem)) as slow:
            slow.settimeout(0.5)
            began, ended = time.monotonic(), False
            while not ended and time.monotonic() < began + patience_s:
                try:
                    slow.sendall(bytes([next(greeting)]))
                    ended = slow.recv(64) == b""
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
            print(f"let go after {time.monotonic() - began:.1f} s")
            assert ended, "a slow handshake is never let go"
        with Peer(broker.stem) as peer:
            peer.hello()


def test_O6_a_slow_handshake_is_let_go(tmp_path: Path) -> None:
    o6(tmp_path)


def test_O6_control_if_a_handshake_had_all_the_time(tmp_path: Path) -> None:
    red(lambda: o6(tmp_path, 8), "handshake time", because="never let go")


# ---- O2: a message without end ----


def o2(folder: Path) -> None:
    """Frames and frames of a message that never ends, in the clear: none of them is taken."""
    with a_broker(folder) as broker:
        before = resident_kib(broker)
        with Stranger(broker.stem, 5) as flood:
            with suppress(Refused, OSError):
                flood.enter_in_the_clear()
                for _ in range(400):
                    flood.frame(bytes(200_000), MORE)
            grown = resident_kib(broker) - before
        assert grown < 20_000, f"{grown} KiB of a stranger's message are in memory"


def test_O2_a_strangers_message_fills_no_memory(tmp_path: Path) -> None:
    o2(tmp_path)


def test_O2_control_without_curve(tmp_path: Path) -> None:
    red(lambda: o2(tmp_path), "curve at the door", because="stranger's message are in memory")


# ---- O4: other people's routes ----


def o4(folder: Path) -> None:
    """Who says what it wants to be called is heard by nobody."""
    with a_broker(folder) as broker, Peer(broker.stem, routing_id=b"alice") as squatter:
        squatter.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        with Peer(broker.stem) as peer:
            for req in range(1, 21):
                squatter.say(Hello(req, 1, "I am alice"))
                peer.hello()
        assert not squatter.socket.poll(0), "a squatter was answered"


def o4_taken(folder: Path, *, handover: bool) -> None:
    """Even if names could be chosen: a name that somebody has is not given to another."""
    named = ("own routes", "handover") if handover else ("own routes",)
    with (
        patch.object(processes, "ZCHAT", command(named)),
        a_broker(folder) as broker,
        Peer(broker.stem, routing_id=b"alice") as alice,
    ):
        alice.hello()
        with Peer(broker.stem, routing_id=b"alice") as thief, Peer(broker.stem) as peer:
            thief.await_event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            peer.hello()
            for req in range(2, 12):
                alice.say(Hello(req, 1, "alice"))
                peer.hello()
                wait_for("alice is answered, or a thief", lambda: got(alice) or got(thief), 5)
                assert not got(thief), "the reply that was meant for alice went to a thief"
                assert alice.expect(Ready).req == req


def got(peer: Peer) -> bool:
    """Whether something has come for it."""
    return bool(peer.socket.poll(0))


def test_O4_who_names_its_own_route_is_heard_by_nobody(tmp_path: Path) -> None:
    o4(tmp_path)


def test_O4_control_if_names_could_be_chosen(tmp_path: Path) -> None:
    red(lambda: o4(tmp_path), "own routes", because="a squatter was answered")


def test_O4_a_route_that_is_taken_stays_whose_it_is(tmp_path: Path) -> None:
    o4_taken(tmp_path, handover=False)


def test_O4_control_with_handover(tmp_path: Path) -> None:
    red(lambda: o4_taken(tmp_path, handover=True), because="to a thief|or a thief")


# ---- O5: who says who they are ----


def o5(folder: Path, patience_s: float = PATIENCE_S) -> None:
    """An access key that is on the list, said and not shown: in metadata, of one's own making."""
    (public, secret), (known, known_secret) = raw_pair(), raw_pair()
    spoofed = {"Socket-Type": b"DEALER", "Identity": b"", "User-Id": known.hex().encode()}
    with a_broker(folder, settings=f'allow = ["{known.hex()}"]') as broker:
        with Stranger(broker.stem, patience_s) as spoof, suppress(Refused):
            spoof.enter((public, secret), spoofed)
            spoof.say(encode(Hello(1, 1, "spoofed")))
            pytest.fail(f"a spoofed access key was answered: {len(spoof.hears())} bytes")
        with Stranger(broker.stem, patience_s) as honest:
            honest.enter((known, known_secret), {"Socket-Type": b"DEALER"})
            honest.say(encode(Hello(1, 1, "on the list")))
            assert honest.hears(), "who is on the list is not let in"


def o5_dead(folder: Path, *more: str) -> None:
    """The one who is to be asked does not answer: nobody is let in, rather than everybody."""
    with (
        patch.object(processes, "ZCHAT", command(("zap handler", "who is asked", *more))),
        a_broker(folder) as broker,
    ):
        assert not gets_in(broker.stem, 5), "nobody was asked, and somebody got in"


def test_O5_a_spoofed_access_key_is_refused(tmp_path: Path) -> None:
    o5(tmp_path)


def test_O5_control_if_everybody_got_in(tmp_path: Path) -> None:
    red(
        lambda: o5(tmp_path, 5),
        "zap handler",
        "zap domain",
        because="a spoofed access key was answered",
    )


def test_O5_if_nobody_answers_nobody_gets_in(tmp_path: Path) -> None:
    o5_dead(tmp_path)


def test_O5_control_without_an_enforced_domain(tmp_path: Path) -> None:
    red(lambda: o5_dead(tmp_path, "zap domain"), because="somebody got in")


# ---- O7: costly handshakes ----


def o7(folder: Path, template: Path) -> None:
    """Handshake upon handshake from one address: one is refused, and then few are even begun."""
    few = {**OPEN_DOOR, "ZCHAT_HANDSHAKE_BURST": "20", "ZCHAT_HANDSHAKES_PER_S": "1"}
    with besieged(folder, template, **few) as here:
        assert _let_in_before_a_refusal(here.broker.stem, 40) < 40, "nobody was slowed down"
        opened = sum(is_opened(here.broker.stem, ELSEWHERE) for _ in range(16))
        assert opened < 8, "who is refused costs a handshake each time"
        assert gets_in(here.broker.stem, PATIENCE_S), "somebody from elsewhere pays for it"


def o7_junk(folder: Path, template: Path) -> None:
    """Connections that never get as far as to be refused count as well."""
    few = {**OPEN_DOOR, "ZCHAT_HANDSHAKE_BURST": "20", "ZCHAT_HANDSHAKES_PER_S": "1"}
    with besieged(folder, template, **few) as here, ExitStack() as silent:
        for _ in range(40):
            with suppress(TimeoutError):
                silent.enter_context(knocking(here.broker.stem, ELSEWHERE))
        opened = 16
        for _ in range(20):  # nobody tells when it was heard that they came
            opened = sum(is_opened(here.broker.stem, ELSEWHERE) for _ in range(16))
            if opened < 8:
                break
            time.sleep(0.1)
        assert opened < 8, "whatever comes costs a handshake"
        assert gets_in(here.broker.stem, PATIENCE_S), "somebody from elsewhere pays for it"


def _let_in_before_a_refusal(stem: str, most: int) -> int:
    for count in range(most):
        with Peer(stem, address=ELSEWHERE) as peer:
            if peer.is_refused():
                return count
    return most


def is_opened(stem: str, address: str) -> bool:
    """Whether a bare connection from an address is taken at once."""
    with suppress(TimeoutError), knocking(stem, address):
        return True
    return False


def knocking(stem: str, address: str) -> socket.socket:
    """A bare connection from an address. Raises TimeoutError where it is not taken at once."""
    return socket.create_connection(address_of(stem), 0.25, (address, 0))


def test_O7_who_comes_too_often_is_slowed_and_nobody_else_is(
    tmp_path: Path, template: Path
) -> None:
    o7(tmp_path, template)


def test_O7_who_comes_too_often_and_asks_for_nothing_is_kept_away(
    tmp_path: Path, template: Path
) -> None:
    o7_junk(tmp_path, template)


def test_O7_control_if_what_asks_for_nothing_were_heard(tmp_path: Path, template: Path) -> None:
    red(lambda: o7_junk(tmp_path, template), "doorstep", because="whatever comes costs")


def test_O7_control_without_rates(tmp_path: Path, template: Path) -> None:
    red(lambda: o7(tmp_path, template), "rates", because="nobody was slowed down")


def test_O7_control_if_only_libzmq_refused(tmp_path: Path, template: Path) -> None:
    red(lambda: o7(tmp_path, template), "doorstep", because="who is refused costs a handshake")


# ---- O8: without invite, passphrase, or leave ----


def o8_without_invite(folder: Path, patience_s: float = 3) -> None:
    """The address alone: neither in the clear nor with another key is anything answered."""
    with a_broker(folder) as broker:
        with Stranger(broker.stem) as stranger, suppress(Refused):
            stranger.enter_in_the_clear()
            stranger.say(encode(Hello(1, 1, "a stranger")))
            pytest.fail(f"a stranger was answered: {len(stranger.hears())} bytes")
        with Peer(broker.stem, server_key=zmq.curve_keypair()[0]) as lost:
            lost.say(Hello(1, 1, "lost"))
            assert not lost.socket.poll(int(patience_s * 1_000))


def o8_wrong_passphrase(folder: Path, template: Path) -> None:
    """With the invite and another passphrase: an empty room of another name, and a sentence."""
    with world(folder / "world", template) as here:
        known = here.home("alice") / "known"
        known.write_text(PASSPHRASE)
        made = ("--new", "--name", "alice", "--passphrase-file", str(known))
        sent = here.run("alice", "send", here.broker.invite(), "secret", *made)
        assert sent.returncode == 0, sent.stderr
        guess = here.home("mallory") / "guess"
        guess.write_text("oyster-basin-scarf-pencil-dug-wick")
        where = (here.broker.invite(), "--name", "mallory", "--passphrase-file", str(guess))
        done = here.run("mallory", "tail", *where, "--all")
        said = done.stdout + done.stderr
        assert "unreadable" not in said, "a wrong guess learns that the room is there"
        assert done.returncode == 7
        assert "Wrong passphrase, or nobody has spoken in 'lobby' yet" in done.stderr
        assert "secret" not in said


def o8_not_on_the_list(folder: Path) -> None:
    """With the invite, but with a key that is not allowed: refused in the handshake."""
    public, secret = zmq.curve_keypair()
    with a_broker(folder, settings=f'allow = ["{z85.decode(public).hex()}"]') as broker:
        with Peer(broker.stem) as stranger:
            assert stranger.is_refused(), "who is not on the list is let in"
        with Peer(broker.stem, pair=(public, secret)) as known:
            known.hello()


def test_O8_without_the_invite_nothing_is_answered(tmp_path: Path) -> None:
    o8_without_invite(tmp_path)


def test_O8_control_without_curve(tmp_path: Path) -> None:
    row = lambda: o8_without_invite(tmp_path)  # noqa: E731
    red(row, "curve at the door", "who is asked", because="a stranger was answered")


def test_O8_with_a_wrong_passphrase_there_is_nothing(tmp_path: Path, template: Path) -> None:
    o8_wrong_passphrase(tmp_path, template)


def test_O8_control_if_a_tag_were_without_passphrase(tmp_path: Path, template: Path) -> None:
    row = lambda: o8_wrong_passphrase(tmp_path, template)  # noqa: E731
    red(row, "room tag", because="learns that the room is there")


def test_O8_who_is_not_on_the_list_is_refused(tmp_path: Path) -> None:
    o8_not_on_the_list(tmp_path)


def test_O8_control_without_the_gate(tmp_path: Path) -> None:
    red(lambda: o8_not_on_the_list(tmp_path), "gate", because="is let in")


# ---- O9: objects ----

UNPICKLERS = {
    *("recv_pyobj", "send_pyobj", "recv_json", "send_json", "recv_serialized", "send_serialized"),
    *("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle", "joblib"),
    *("eval", "exec", "unsafe_load", "full_load", "load_dll"),
}


def test_O9_nothing_that_comes_is_made_an_object() -> None:
    """Bytes only: no name in the program that would run what somebody sends."""
    assert uses(UNPICKLERS, package()) == []


@pytest.mark.parametrize(
    "planted",
    ["socket.recv_pyobj()", "import pickle", "from marshal import loads", "eval('1')"],
)
def test_O9_planted_an_unpickler(planted: str) -> None:
    assert uses(UNPICKLERS, {"planted": planted})


# ---- the hand-made peer ----


def test_a_hand_made_peer_is_let_in_and_answered(tmp_path: Path) -> None:
    """It is no wonder that a stranger is refused who cannot speak: this one can."""
    with a_broker(tmp_path) as broker, Stranger(broker.stem) as peer:
        peer.enter(raw_pair(), {"Socket-Type": b"DEALER"})
        peer.say(encode(Hello(1, 1, "by hand")))
        assert peer.hears().startswith(b"\x07MESSAGE")
