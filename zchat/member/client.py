"""The glue: a member's Core on one DEALER, in asyncio; the API that every face uses.

    client = Client(vault, server, MemberConfig(), Clock())
    room = client.enter(keys, record)          # replica, outbox; nothing is sent yet
    rows = list(room.replay())                 # what we had already
    async with client:
        client.follow(room.tag)
        client.say(room.tag, ["hello"])
        while event := await client.next_event(): ...

Theory of operation. libzmq reconnects without telling, so the socket's monitor is watched: each
finished handshake is a new conversation. Sending never blocks: what a session lets out is bounded,
and what is not confirmed stays in the outbox.

Rules of this file: it decides nothing; one task owns the socket; what ends the client for good is
raised from `next_event`.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from zchat import __version__
from zchat.clock import Clock
from zchat.config import MemberConfig
from zchat.errors import ZchatError
from zchat.member.core import Core, Do
from zchat.member.invite import Server, format_address
from zchat.member.presence import Rhythm
from zchat.member.room import Room
from zchat.member.rows import Composed, Event, ServerSays
from zchat.member.session import Reopen, Say, Session, Timing
from zchat.member.vault import AccessPair, RoomRecord, Vault
from zchat.protocol.keys import RoomKeys
from zchat.protocol.limits import MAX_MESSAGE_BYTES

_TICK_S = 0.1
_FAREWELL_MS = 300
_MOST_WAITING = 1_000  # events, from where on what the server only says is dropped
_SHORTEST_LIFE_S = 1.0  # of a socket, or a server could have us make one after the other

# Exact values and their reasons: docs/architecture.md, "ZeroMQ options".
_DEALER_OPTIONS: dict[int, int] = {
    zmq.IPV6: 1,
    zmq.IMMEDIATE: 1,
    zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,
    zmq.HANDSHAKE_IVL: 10_000,
    zmq.RCVHWM: 1_000,
    zmq.SNDHWM: 1_000,
    zmq.HEARTBEAT_IVL: 3_000,
    zmq.HEARTBEAT_TIMEOUT: 6_000,
    zmq.HEARTBEAT_TTL: 10_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 60,
    zmq.TCP_KEEPALIVE_INTVL: 15,
    zmq.TCP_KEEPALIVE_CNT: 4,
    zmq.TCP_MAXRT: 30_000,
    zmq.RECONNECT_IVL: 250,
    zmq.RECONNECT_IVL_MAX: 8_000,
}

_LOST = {
    zmq.EVENT_DISCONNECTED: "connection lost",
    zmq.EVENT_CLOSED: "no connection",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the server does not let us in",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "something else than this server answers there",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "something else than this server answers there",
}
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED
for _event in _LOST:
    _EVENTS |= _event


class _ReopenSocketError(Exception):
    """The socket is of no more use; make another."""


class Client:
    """A member program's connection to one server, for any number of rooms."""

    def __init__(self, vault: Vault, server: Server, config: MemberConfig, clock: Clock) -> None:
        self._vault = vault
        self._server = server
        self._config = config
        self._clock = clock
        timing = Timing(config.answer_timeout_s, config.idle_join_s, config.window_bytes)
        session = Session(server.keys.log_key, timing, f"zchat {__version__}", server.address)
        self._core = Core(session, self._clock)
        self._events: asyncio.Queue[Event | ZchatError] = asyncio.Queue()
        self._context = zmq.asyncio.Context()
        self._socket: zmq.asyncio.Socket | None = None
        self._running: asyncio.Task[None] | None = None
        self._rooms: list[Room] = []
        self._retry = asyncio.Event()
        self._added: set[bytes] = set()
        self._closing = False

    # ---- rooms ----

    def enter(self, keys: RoomKeys, record: RoomRecord) -> Room:
        """Open a room of this server. Its `replay` gives what the replica holds already."""
        rhythm = Rhythm(self._config.beat_min_s, self._config.beat_max_s)
        room = Room(keys, record, self._vault, self._clock, rhythm, self._config.withheld_s)
        self._rooms.append(room)
        return room

    def resume(self, tag: bytes) -> None:
        """Send what the outbox of a room still holds; for who posts without following."""
        if tag not in self._added:
            self._added.add(tag)
            self._do(self._core.add(self._room(tag)))

    def follow(self, tag: bytes) -> None:
        """Receive a room's entries from where the replica ends, and its outbox goes out."""
        self.resume(tag)
        self._do(self._core.follow(tag))

    def beat(self, tag: bytes) -> None:
        """From now on say that we are here, and see whether what we get is fresh."""
        self._core.beat(tag)

    def say(
        self,
        tag: bytes,
        texts: Sequence[str],
        reply_to: bytes | None = None,
        *,
        anyway: bool = False,
    ) -> list[bytes]:
        """Post texts; they are durable in the outbox when this returns, and their ids known.

        Raises TextTooLong, ServerFault, StoreTrouble; then none of them is posted.
        """
        done = self._core.post(tag, texts, reply_to, anyway=anyway)
        self._do(done)
        whats = (do.what for do in done if isinstance(do, Event))
        return [what.id for what in whats if isinstance(what, Composed)]

    def _room(self, tag: bytes) -> Room:
        return next(room for room in self._rooms if room.tag == tag)

    # ---- the connection ----

    @property
    def online(self) -> bool:
        """Whether the connection carries."""
        return self._core.online

    async def __aenter__(self) -> "Client":
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say farewell, end the connection, give the replicas back."""
        self._closing = True  # what is ending for a reason of its own does not hear of a cancel
        if self._socket is not None and self._core.online:
            self._do(self._core.farewell())
            self._socket.linger = _FAREWELL_MS
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
        self._context.term()
        for room in self._rooms:
            room.close()

    @property
    def waiting(self) -> int:
        """How many events were not asked for yet."""
        return self._events.qsize()

    async def next_event(self, patience_s: float | None = None) -> Event | None:
        """What happened next; None if nothing did in the given time.

        Raises WrongLogKey, Incompatible, StoreTrouble: what ends the client for good.
        """
        try:
            event = self._events.get_nowait()
        except asyncio.QueueEmpty:
            try:
                event = await asyncio.wait_for(self._events.get(), patience_s)
            except TimeoutError:
                return None
        if isinstance(event, ZchatError):
            raise event
        return event

    async def _run(self) -> None:
        try:
            while True:
                not_before = self._clock.now() + _SHORTEST_LIFE_S
                await self._use_one_socket()
                if self._closing:
                    return
                await asyncio.sleep(max(0.0, not_before - self._clock.now()))
        except ZchatError as error:
            self._events.put_nowait(error)

    async def _use_one_socket(self) -> None:
        """Connect, and talk until the socket has to be replaced."""
        pair = self._vault.access_pair(self._server.keys.curve_key)
        self._socket = dealer = self._make_dealer(pair)
        monitor = dealer.get_monitor_socket(_EVENTS)
        host, port = self._server.host, self._server.port
        dealer.connect(f"tcp://{format_address(host, port)}")
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(monitor))
                tasks.create_task(self._receive(dealer))
                tasks.create_task(self._tick())
                tasks.create_task(self._retries())
        except* _ReopenSocketError:
            pass
        except* ZchatError as group:
            raise group.exceptions[0] from None
        finally:
            dealer.disable_monitor()
            monitor.close(0)
            dealer.close()
            self._socket = None

    def _make_dealer(self, pair: AccessPair) -> zmq.asyncio.Socket:
        dealer = self._context.socket(zmq.DEALER)
        dealer.linger = 0
        for option, value in _DEALER_OPTIONS.items():
            dealer.setsockopt(option, value)
        dealer.curve_publickey = pair.public
        dealer.curve_secretkey = pair.secret
        dealer.curve_serverkey = self._server.keys.curve_key
        return dealer

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        while True:
            event = zmq.Event(parse_monitor_message(await monitor.recv_multipart())["event"])
            if event is zmq.Event.HANDSHAKE_SUCCEEDED:
                self._do(self._core.opened())
            elif event in _LOST:
                self._do(self._core.closed(_LOST[event]))

    async def _receive(self, dealer: zmq.asyncio.Socket) -> None:
        while True:
            frames = await dealer.recv_multipart()
            self._do(self._core.receive(tuple(frames)))
            await asyncio.sleep(0)  # while much comes in: whoever shows it has a turn, too

    def retry(self) -> None:
        """Connect anew at once, with a fresh socket."""
        self._retry.set()

    async def _retries(self) -> None:
        await self._retry.wait()
        self._retry.clear()
        self._do([*self._core.closed("connecting anew"), Reopen("asked for")])

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._do(self._core.tick())

    def _do(self, what: Iterable[Do]) -> None:
        """Carry out what the core wants, in its order."""
        for do in what:
            if isinstance(do, Say):
                self._send(do)
            elif isinstance(do, Reopen):
                raise _ReopenSocketError(do.reason)
            else:
                self._tell(do)

    def _send(self, say: Say) -> None:
        if self._socket is None:
            return
        sent = self._socket.send_multipart(say.frames)
        if isinstance(sent, asyncio.Future):
            # Not waited for: sends keep their order, and what is lost is asked for again.
            sent.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _tell(self, event: Event) -> None:
        if isinstance(event.what, ServerSays) and self._events.qsize() > _MOST_WAITING:
            return  # whoever listens is busy, and a server can say as much as it likes
        self._events.put_nowait(event)
