"""One loop: let in, drain the ROUTER, commit once, hand out.

Theory of operation. A plain poll loop in one thread owns every socket and the store. Each turn it
takes what waits (bounded), stores it with one commit, and only then answers. Under load many
messages share a commit and an encoding, so the cost per message falls as the load rises.

Rules of this file: no decision about rooms is made here (that is core.py); an error of the store
that a retry could mend refuses the turn's posts; any other ends the process, for after a failed
fsync nobody knows what the disk holds.
"""

import ctypes
import logging
import os
import resource
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable

import zmq

from zchat.broker.budget import Budget
from zchat.broker.core import Core, Limits
from zchat.broker.folder import BrokerKeys
from zchat.broker.gate import ZAP_DOMAIN, Gate
from zchat.broker.pulse import Pulse
from zchat.broker.send import Send
from zchat.errors import (
    CannotListen,
    RoomDamaged,
    StoreDamaged,
    StoreFailed,
    StoreFull,
    StoreTrouble,
    StoreUnreadable,
)
from zchat.log.contract import BrokerLog
from zchat.protocol.limits import HANDSHAKE_BURST, HANDSHAKES_PER_S, MAX_MESSAGE_BYTES

_MOST_DRAINED = 1_024
_MOST_FRUITLESS = 32
_IDLE_POLL_MS = 250
_STUCK_POLL_MS = 20
_FAREWELL_MS = 1_000
_EXPIRY_S = 1.0
_WORTH_SHARING_BYTES = 2_048
_LATE_S = 1.0
_MOST_LATE_BYTES = 2 * 1024 * 1024
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)  # joining them anew takes as long as a send

# Exact values and their reasons: docs/architecture.md, "ZeroMQ options".
_ROUTER_OPTIONS: dict[int, int | bytes] = {
    zmq.IPV6: 1,
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.RCVHWM: 64,
    zmq.SNDHWM: 100,
    zmq.SNDBUF: 65_536,
    zmq.RCVBUF: 65_536,
    zmq.ROUTER_MANDATORY: 1,
    zmq.ROUTER_HANDOVER: 0,
    zmq.HEARTBEAT_IVL: 3_000,
    zmq.HEARTBEAT_TIMEOUT: 6_000,
    zmq.HEARTBEAT_TTL: 10_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_INTVL: 15,
    zmq.TCP_KEEPALIVE_CNT: 4,
    zmq.TCP_MAXRT: 30_000,
    zmq.BACKLOG: 1_024,
    zmq.CURVE_SERVER: 1,
    zmq.ZAP_DOMAIN: ZAP_DOMAIN,
    zmq.ZAP_ENFORCE_DOMAIN: 1,
}

logger = logging.getLogger("zchat.broker")


class Server:
    """A broker's core and its log, on a socket."""

    def __init__(
        self,
        keys: BrokerKeys,
        log: BrokerLog,
        core: Core,
        *,
        allow: frozenset[bytes] = frozenset(),
        connections_per_address: int,
        handshakes: tuple[int, int] = (HANDSHAKE_BURST, HANDSHAKES_PER_S),
        pulse: Pulse | None = None,
    ) -> None:
        assert zmq.has("curve") and zmq.zmq_version_info() >= (4, 3, 5)
        _prepare_process()
        self._context = zmq.Context(io_threads=2)
        self._context.max_sockets = max(1_024, _descriptors())
        self._log = log
        self._core = core
        self._gate = Gate(self._context, allow, connections_per_address, Budget(*handshakes))
        self._router = self._make_router(keys)
        self._gate.watch(self._router)
        # What `zmq.Socket.send` ends in, after a look at what is only for sockets of other kinds,
        # which takes as long again.
        self._put: Callable[..., object] = super(zmq.Socket, self._router).send
        self._pulse = pulse or Pulse()
        self._stopping = False
        self._hung_up = threading.Event()
        self._expires_at = 0.0
        self._retries_at = 0.0
        self._late = _Late()

    def _make_router(self, keys: BrokerKeys) -> "zmq.Socket[bytes]":
        router = self._context.socket(zmq.ROUTER)
        for option, value in _ROUTER_OPTIONS.items():
            router.setsockopt(option, value)
        router.curve_secretkey = keys.curve_secret
        return router

    def listen(self, host: str, port: int) -> int:
        """Bind; returns the port. From here on signals are heard. Raises CannotListen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGHUP, lambda *_: self._hung_up.set())
        shown = f"[{host}]" if ":" in host else host
        try:
            self._router.bind(f"tcp://{shown}:{port or '*'}")
        except zmq.ZMQError as error:
            raise CannotListen(address=f"{shown}:{port}", reason=error.strerror) from None
        return int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def stop(self, *_: object) -> None:
        """End the loop after its turn. Safe in a signal handler."""
        self._stopping = True

    def change(self, allowed: Limits, allow: frozenset[bytes]) -> None:
        """Other limits, and other access keys, from the next turn on."""
        self._core.change_limits(allowed)
        self._gate.allow = allow
        self._core.drop_all_but(allow)

    def run(
        self,
        watch: Callable[[], bool] = lambda: False,
        on_hangup: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until `stop` is called, or `watch` (asked a few times a second) says so.

        `on_hangup` is called between two turns after a SIGHUP. Raises StoreFailed when the store
        failed in a way that a retry cannot mend, StoreDamaged when it is damaged beyond a room.
        """
        try:
            self._serve(watch, on_hangup)
        except StoreUnreadable as error:
            self._say_farewell("its store is damaged")
            facts = error.facts
            raise StoreDamaged(path=facts["path"], reason=facts["reason"]) from None
        except StoreTrouble as error:
            self._say_farewell("its storage failed")
            raise StoreFailed(**error.facts) from None

    def _serve(self, watch: Callable[[], bool], on_hangup: Callable[[], None]) -> None:
        poller = zmq.Poller()
        for waiting in (self._router, self._gate.zap, self._gate.monitor):
            poller.register(waiting, zmq.POLLIN)
        while not (self._stopping or watch()):
            poller.poll(self._poll_ms())
            self._turn()
            if self._hung_up.is_set():
                self._hung_up.clear()
                on_hangup()
        self._pulse.stopping()
        self._turn()
        self._say_farewell()

    def _poll_ms(self) -> int:
        if self._core.has_work or self._core.full:
            return 0
        is_stuck = self._core.has_stuck or self._late.waits
        return _STUCK_POLL_MS if is_stuck else _IDLE_POLL_MS

    def _turn(self) -> None:
        now = time.monotonic()
        self._forget_lost()
        self._gate.answer_waiting(now)
        self._send(self._late.take(now))
        self._drain(now)
        self._commit()
        if now >= self._retries_at:
            self._retries_at = now + _STUCK_POLL_MS / 1000
            self._core.retry_stuck()
        with self._log.reading():
            self._send(self._core.serve())
        if now >= self._expires_at:
            self._expires_at = now + _EXPIRY_S
            self._expire()
        self._pulse.beat(now, self._core.counts, self._core.gauges())

    def _expire(self) -> None:
        try:
            self._send(self._core.expire(time.time_ns() // 1_000_000))
        except StoreFull as error:
            logger.warning("%s", error)

    def _drain(self, now: float) -> None:
        """Take what waits: a bounded number of messages, and at most one batch of a room.

        Of those that are dropped or refused only a few: a flood would hold up what others post.
        """
        randomness = secrets.token_bytes(16)
        with self._log.reading():  # each post is looked up by its id
            for _ in range(_MOST_DRAINED):
                if self._core.full or self._core.fruitless >= _MOST_FRUITLESS:
                    break
                try:
                    route = self._router.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                frames = self._frames_of(route)
                answers = self._core.receive(route, frames, now, randomness) if frames else []
                if answers:
                    self._send(answers)
        self._forget_lost()

    def _frames_of(self, route: bytes) -> tuple[bytes, ...]:
        """The frames behind a route; of a route not known yet, who it is; none if it is no one."""
        is_known = self._core.knows(route)
        if not is_known:
            self._forget_lost()
        frame = self._router.recv(copy=False)  # knows whether more follow; the option is dearer
        let_in = is_known or self._is_let_in(route, frame)
        frames = [frame.bytes]
        while frame.more:
            frame = self._router.recv(copy=False)
            frames.append(frame.bytes)
        return tuple(frames) if let_in else ()

    def _is_let_in(self, route: bytes, first: zmq.Frame) -> bool:
        peer = self._gate.identify(route, first)
        if peer is None:
            self._core.drop("not let in")
            return False
        self._core.connected(route, peer)
        return True

    def _forget_lost(self) -> None:
        for route in self._gate.lost_routes(time.monotonic()):
            self._core.closed(route)

    def _commit(self) -> None:
        batch = self._core.batch(time.time_ns() // 1_000_000)
        try:
            if batch:
                self._log.append(batch)
        except StoreFull as error:
            logger.warning("%s", error)
            self._send(self._core.failed())
            return
        except RoomDamaged as damage:
            self._send(self._core.failed(damage))
            return
        self._send(self._core.committed())

    def _send(self, sends: Iterable[Send]) -> None:
        full: set[bytes] = set()
        shared = _Shared()
        for send in sends:
            if send.route in full:  # nothing may pass what could not be sent
                self._unsent(send)
                continue
            try:
                self._begin(send.route)
                for frame in send.frames[:-1]:
                    self._put(frame, _MORE)
                last = shared.once(send.frames[-1])
                self._put(last, _LAST, copy=isinstance(last, bytes))
            except zmq.Again:
                full.add(send.route)
                self._unsent(send)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                self._core.closed(send.route)

    def _unsent(self, send: Send) -> None:
        self._core.unsent(send)
        if send.subscription is None:  # no cursor goes back to it
            self._late.add(send)

    def _begin(self, route: bytes) -> None:
        """The first frame of a message; raises zmq.Again where the route's pipe is full.

        While much is sent, libzmq looks only now and then at what its own threads have taken out
        of the pipes; that it looks now is what asking for events does.
        """
        try:
            self._put(route, _MORE)
        except zmq.Again:
            self._router.getsockopt(zmq.EVENTS)
            self._put(route, _MORE)

    def _say_farewell(self, text: str = "") -> None:
        """Tell everybody, and wait a little until they have gone of their own accord.

        A DEALER whose connection ends loses what it received and was not asked for by then.
        """
        self._send(self._core.farewell(text))
        ends = time.monotonic() + _FAREWELL_MS / 1000
        while self._core.has_connections and time.monotonic() < ends:
            self._gate.monitor.poll(_STUCK_POLL_MS)
            self._forget_lost()

    def close(self) -> None:
        """Give back sockets and store."""
        logger.info("ended: %s", dict(self._core.counts))
        self._pulse.close()
        self._router.disable_monitor()
        self._router.close()
        self._gate.close()
        self._context.term()
        self._log.close()


class _Shared:
    """A batch goes to many: libzmq gets its bytes once, and counts who still needs them."""

    def __init__(self) -> None:
        self._bytes = b""
        self._frame: zmq.Frame | None = None

    def once(self, frame: bytes) -> "bytes | zmq.Frame":
        """What to send: a frame made once for the same bytes, as soon as a second one wants them.

        Small ones are cheaper to copy, and so is what goes to one member only: giving a shared
        frame back wakes a thread of pyzmq's.
        """
        if len(frame) < _WORTH_SHARING_BYTES:
            return frame
        if frame is not self._bytes:
            self._bytes, self._frame = frame, None
            return frame
        if self._frame is None:
            self._frame = zmq.Frame(frame, copy=False)
        return self._frame


class _Late:
    """Answers that met a full pipe are tried again for a moment, and then lost.

    Who reads at all has made room by then: what one turn has to say may be more than a pipe holds.
    Who does not read asks again when it does.
    """

    def __init__(self) -> None:
        self._sends: list[Send] = []
        self._bytes = 0
        self._until = 0.0

    @property
    def waits(self) -> bool:
        return bool(self._sends)

    def add(self, send: Send) -> None:
        """Keep one, if there is room for it."""
        size = sum(map(len, send.frames))
        if self._bytes + size <= _MOST_LATE_BYTES:
            self._sends.append(send)
            self._bytes += size

    def take(self, now: float) -> list[Send]:
        """What to try now, in order: nothing is kept, but what is added again."""
        sends, self._sends, self._bytes = self._sends, [], 0
        is_over = now >= self._until
        if is_over or not sends:
            self._until = now + _LATE_S
        return [] if is_over else sends


def _prepare_process() -> None:
    """As many descriptors as the system gives, and unpredictable routing ids.

    libzmq draws its automatic routing ids from libc's rand(), which nobody seeds.
    """
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4), "big"))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(65_536, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _descriptors() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
