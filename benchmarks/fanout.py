"""P1, P2: server CPU per delivery with 1, 10 and 100 members of one room, saturated; beside peers.

Four connections publish as fast as the members take it: never more than a fixed number of messages
ahead of what these have on average. All members are one process, which waits for whatever came and
counts it; peers have 100. Our broker stores each message durably before it delivers it, over CURVE;
P2 is the same loop in a subclass without CURVE over ipc://.

    python -m benchmarks.fanout [--full] [--json]
"""

import ctypes
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import NamedTuple

import zmq

from benchmarks import bare, harness, peers
from benchmarks.harness import Plot, Result, Server, at_most, ratio, sealed_texts, spread
from zchat.lab.load import Target
from zchat.protocol.keys import RoomKeys
from zchat.protocol.wire import Entries

MEMBERS = 100
FEWER_MEMBERS = (1, 10)
PUBLISHERS = 4
AHEAD = 1_024
_CHUNK = 64
_PATIENCE_S = 60
_ZCHAT = "zchat"
_ZCHAT_PLAIN = "zchat's loop without CURVE, ipc"
_BARE_PLAIN = f"{bare.NAME}, ipc"
_PLAIN = (_ZCHAT_PLAIN, _BARE_PLAIN, "Redis pub/sub", "Redis pub/sub, unix socket", "NATS core")
PEERS: tuple[type[peers.Peer], ...] = (
    *(peers.RedisTls, peers.NatsTls, peers.Redis, peers.RedisUnix, peers.Nats),
    *(peers.Mosquitto, peers.Ngircd, peers.Prosody),
)


class Shared(NamedTuple):
    """What publisher and members of one run share."""

    ready: Barrier
    done: Barrier
    delivered: "Synchronized[int]"
    joined: Flag
    members: int


class Run(NamedTuple):
    """One run of one server."""

    deliveries: int
    took_s: float
    cpu_s: float

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / self.deliveries * 1e6


# ---- who drains ----


def drain_zchat(target: Target, room: bytes, messages: int, shared: Shared) -> None:
    """Members in one process: count entries until all have all."""
    members = harness.joined(target, room, shared.members)
    poller = zmq.Poller()
    by_socket = {member.socket: member for member in members}
    for member in members:
        poller.register(member.socket, zmq.POLLIN)
    shared.ready.wait(_PATIENCE_S)
    missing = shared.members * messages
    while missing:
        for ready, _ in poller.poll():
            member, came = by_socket[ready], 0
            with suppress(zmq.Again):
                while True:
                    word, batch = member.receive(zmq.NOBLOCK)
                    if isinstance(word, Entries):
                        came += member.take(word, batch)
            missing -= came
            shared.delivered.value += came
    shared.done.wait(_PATIENCE_S)


def drain_peer(peer: peers.Peer, messages: int, content: bytes, shared: Shared) -> None:
    """The same for a peer: bytes that came, by the bytes that one message has."""
    members = [peer.connect() for _ in range(shared.members)]
    for member in members:
        peer.subscribe(member)
    publisher = peer.connect()
    if isinstance(peer, peers.Prosody | peers.Ngircd):
        peer.subscribe(publisher)
    assert shared.joined.wait(_PATIENCE_S), "no publisher"
    peers.drain_quiet(members[0], 1.0)
    for member in members:
        peers.drain_quiet(member, 0.02)
    one_to_each = min(_one_to_each(peer, publisher, members, content) for _ in range(2))
    shared.ready.wait(_PATIENCE_S)
    _count_bytes(members, one_to_each, messages, shared)
    shared.done.wait(_PATIENCE_S)


def _one_to_each(
    peer: peers.Peer, publisher: socket.socket, members: list[socket.socket], content: bytes
) -> int:
    """The bytes of one message to all; a server's own ping may be among them."""
    publisher.sendall(peer.publication(content))
    peers.wait_quiet()
    return sum(peers.drain_quiet(member, 0.02) for member in members)


def _count_bytes(
    members: list[socket.socket], one_to_each: int, messages: int, shared: Shared
) -> None:
    """Until all have all; `one_to_each` is the bytes of one message to all members together."""
    buffer = bytearray(256 * 1024)
    poller = select.epoll()
    by_descriptor = {member.fileno(): member for member in members}
    for descriptor, member in by_descriptor.items():
        member.setblocking(False)
        poller.register(descriptor, select.EPOLLIN)
    missing = messages * one_to_each
    whole = missing
    while missing > 0:
        for descriptor, _ in poller.poll():
            missing -= _read_all(by_descriptor[descriptor], buffer)
        shared.delivered.value = (whole - missing) * shared.members // one_to_each


def _read_all(member: socket.socket, buffer: bytearray) -> int:
    total = 0
    try:
        while got := member.recv_into(buffer):
            total += got
    except (BlockingIOError, OSError) as error:  # TLS says "want read" as an OSError
        if isinstance(error, ConnectionError):
            raise
        return total
    raise ConnectionError("the server dropped a member")


def drain_relay(target: Target, bytes_each: int, messages: int, shared: Shared) -> None:
    """The same for libzmq and Python alone: bytes that came."""
    members = {member.socket: member for member in bare.joined(target, shared.members)}
    poller = zmq.Poller()
    for waiting in members:
        poller.register(waiting, zmq.POLLIN)
    shared.ready.wait(_PATIENCE_S)
    missing = shared.members * messages * bytes_each
    while missing:
        for ready, _ in poller.poll():
            came = members[ready].drain()
            missing -= came
            shared.delivered.value += came // bytes_each
    shared.done.wait(_PATIENCE_S)


# ---- who publishes ----


def publish_zchat(target: Target, room: bytes, envelopes: list[bytes], shared: Shared) -> None:
    """Post all, taking receipts as they come."""
    publishers = [harness.member_of(target) for _ in range(PUBLISHERS)]
    shared.ready.wait(_PATIENCE_S)
    for sent in range(0, len(envelopes), _CHUNK):
        publisher = publishers[sent // _CHUNK % PUBLISHERS]
        first = sent // _CHUNK // PUBLISHERS * _CHUNK + 1
        for k, envelope in enumerate(envelopes[sent : sent + _CHUNK], first):
            publisher.post(room, k, envelope)
        publisher.stored()
        _hold(sent + _CHUNK, AHEAD, shared)
    shared.done.wait(_PATIENCE_S)  # what is not sent yet would go with the process


def publish_relay(target: Target, content: bytes, messages: int, shared: Shared) -> None:
    """The same for libzmq and Python alone."""
    publishers = [bare.RelayMember(zmq.Context(), target) for _ in range(PUBLISHERS)]
    shared.ready.wait(_PATIENCE_S)
    for sent in range(0, messages, _CHUNK):
        publisher = publishers[sent // _CHUNK % PUBLISHERS]
        for _ in range(min(_CHUNK, messages - sent)):
            publisher.post(content)
        publisher.drain()
        _hold(sent + _CHUNK, AHEAD, shared)
    shared.done.wait(_PATIENCE_S)


def publish_peer(peer: peers.Peer, messages: int, content: bytes, shared: Shared) -> None:
    """The same for a peer."""
    publishers = [peer.connect() for _ in range(PUBLISHERS)]
    if isinstance(peer, peers.Prosody | peers.Ngircd):
        for publisher in publishers:
            peer.subscribe(publisher)
    shared.joined.set()
    shared.ready.wait(_PATIENCE_S)
    some = min(_CHUNK, peer.ahead)
    chunk = peer.publication(content) * some
    buffer = bytearray(256 * 1024)
    for sent in range(0, messages, some):
        publisher = publishers[sent // some % PUBLISHERS]
        publisher.setblocking(True)
        publisher.sendall(chunk)
        for each in publishers:
            each.setblocking(False)
            _read_all(each, buffer)
        _hold(sent + some, peer.ahead, shared)
    shared.done.wait(_PATIENCE_S)


def _hold(sent: int, ahead: int, shared: Shared) -> None:
    """Wait for the members."""
    while sent - shared.delivered.value // shared.members > ahead:
        time.sleep(0.0005)


# ---- one run ----


def _run(
    server: Server,
    messages: int,
    drain: Callable[[Shared], None],
    publish: Callable[[Shared], None],
    members: int = MEMBERS,
) -> Run:
    delivered: Synchronized[int] = multiprocessing.Value(ctypes.c_int64)
    barriers = multiprocessing.Barrier(3), multiprocessing.Barrier(3)
    shared = Shared(*barriers, delivered, multiprocessing.Event(), members)
    workers = [multiprocessing.Process(target=work, args=(shared,)) for work in (drain, publish)]
    for worker in workers:
        worker.start()
    try:
        shared.ready.wait(_PATIENCE_S)
        cpu, started = server.cpu_s(), time.perf_counter()
        shared.done.wait(_PATIENCE_S)
        took, used = time.perf_counter() - started, server.cpu_s() - cpu
    except threading.BrokenBarrierError:
        raise TimeoutError("not all was delivered") from None
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return Run(members * messages, took, used)


def run_zchat(target: Target, server: Server, messages: int, members: int = MEMBERS) -> Run:
    """One run of our broker."""
    room = RoomKeys(os.urandom(32))
    envelopes = sealed_texts(room, messages)
    return _run(
        server,
        messages,
        lambda shared: drain_zchat(target, room.tag, messages, shared),
        lambda shared: publish_zchat(target, room.tag, envelopes, shared),
        members,
    )


def run_relay(messages: int, *, encrypted: bool) -> Run:
    """One run of libzmq and Python alone."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    with bare.relay(encrypted=encrypted) as (target, server):
        return _run(
            server,
            messages,
            lambda shared: drain_relay(target, len(content), messages, shared),
            lambda shared: publish_relay(target, content, messages, shared),
        )


def run_peer(kind: type[peers.Peer], messages: int) -> Run:
    """One run of a peer, with envelopes of the same length."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    if kind is not peers.Ngircd and kind is not peers.Prosody:
        content = content.replace(b"\n", b" ")
    rounded = max(64, int(messages * kind.weight) // 64 * 64)
    with peers.running(kind) as peer:
        return _run(
            peer.server,
            rounded,
            lambda shared: drain_peer(peer, rounded, content, shared),
            lambda shared: publish_peer(peer, rounded, content, shared),
        )


def _zchat_curve(messages: int, members: int = MEMBERS) -> Run:
    with harness.broker() as measured:
        return run_zchat(measured.target, measured.server, messages, members)


def _zchat_plain(messages: int) -> Run:
    with plain_broker() as (target, server):
        return run_zchat(target, server, messages)


@contextmanager
def plain_broker() -> Iterator[tuple[Target, Server]]:
    """The broker's loop without CURVE, over ipc://: a subclass of the benchmarks' own."""
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        endpoint = f"ipc://{folder}/socket"
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.plain", folder, endpoint])
        while not Path(folder, "socket").exists():
            time.sleep(0.02)
        try:
            yield Target(endpoint, b""), Server(process.pid)
        finally:
            process.terminate()
            process.wait()


# ---- the whole ----


def measure(full: bool) -> Result:
    """All servers, round by round."""
    rounds, messages = (7, 20_000) if full else (3, 8_000)
    runs: dict[str, list[Run]] = {}
    notes = [
        f"{MEMBERS} members of one room, {len(sealed_texts(RoomKeys(bytes(32)), 1)[0])} B each"
    ]
    kinds = []
    for kind in PEERS:
        try:
            notes.append(f"{kind.program} {kind.version()}")
            kinds.append(kind)
        except peers.Missing as missing:
            notes.append(f"{kind.name} left out: {missing}")
    for _ in range(rounds):
        for members in FEWER_MEMBERS:
            _note(runs, _fewer(members), _zchat_curve(messages, members))
        _note(runs, _ZCHAT, _zchat_curve(messages))
        _note(runs, _ZCHAT_PLAIN, _zchat_plain(messages))
        _note(runs, bare.NAME, run_relay(messages, encrypted=True))
        _note(runs, _BARE_PLAIN, run_relay(messages, encrypted=False))
        for kind in list(kinds):
            try:
                _note(runs, kind.name, run_peer(kind, messages))
            except (peers.Missing, OSError) as trouble:
                kinds.remove(kind)
                notes.append(f"{kind.name} left out: {trouble}")
                runs.pop(kind.name, None)
    return _result(runs, list(dict.fromkeys(notes)))


def _fewer(members: int) -> str:
    return f"{_ZCHAT}, {members} member{'s' if members > 1 else ''}"


def _note(runs: dict[str, list[Run]], name: str, run: Run) -> None:
    runs.setdefault(name, []).append(run)
    per_s = run.deliveries / run.took_s
    harness.progress(f"{name}: {run.cpu_us:.2f} µs of server CPU per delivery, {per_s:,.0f}/s")


def _result(runs: dict[str, list[Run]], notes: list[str]) -> Result:
    cpu = {name: [run.cpu_us for run in held] for name, held in runs.items()}
    kinds = {kind.name: kind for kind in PEERS}
    rows: list[dict[str, harness.Cell]] = []
    for name, held in runs.items():
        kind = kinds.get(name)
        ours = _ZCHAT_PLAIN if name in _PLAIN else _ZCHAT
        rows.append(
            {
                "server": name,
                "server CPU µs/delivery": spread(cpu[name]),
                "zchat to it": ratio(cpu[ours], cpu[name]),
                "deliveries/s": spread(run.deliveries / run.took_s for run in held),
                **(_of_kind(kind) if kind else _of_ours(name)),
            }
        )
    verdicts = []
    for target, what, ours, theirs, bound in (
        ("P1", "CPU per delivery, to Redis pub/sub over TLS", _ZCHAT, "Redis pub/sub, TLS", 1.0),
        ("P1", "CPU per delivery, to NATS over TLS", _ZCHAT, "NATS core, TLS", 0.3),
        ("P2", "the loop alone, to plain Redis", _ZCHAT_PLAIN, "Redis pub/sub", 0.7),
    ):
        if theirs in cpu:
            to_theirs = ratio(cpu[ours], cpu[theirs])
            why = _why(cpu, ours, theirs)
            verdicts.append(at_most(target, what, bound, to_theirs, "×", why))
    fewer = {_fewer(members) for members in FEWER_MEMBERS}
    bars = {name: spread(held).median for name, held in cpu.items() if name not in fewer}
    plot = Plot("fanout", "Server CPU per delivery, 100 members", "µs", bars)
    return Result("Fan-out, saturated", rows, verdicts, notes, [plot])


def _why(cpu: dict[str, list[float]], ours: str, theirs: str) -> str:
    floor = _BARE_PLAIN if ours == _ZCHAT_PLAIN else bare.NAME
    own = spread(a - b for a, b in zip(cpu[ours], cpu[floor], strict=True)).median
    return (
        f"{floor}, which relays the same envelopes and does nothing else, is at"
        f" {ratio(cpu[floor], cpu[theirs])} × of {theirs}. What zchat adds is"
        f" {harness.short(own * MEMBERS)} µs a message, whatever the number of members: to check"
        " and hash an envelope, look its id up, store it durably, and sign the room's head."
    )


def _of_kind(kind: type[peers.Peer]) -> dict[str, harness.Cell]:
    return {"encrypts": kind.encrypts, "stores": kind.stores, "durable": kind.durable}


def _of_ours(name: str) -> dict[str, harness.Cell]:
    encrypts = {
        _ZCHAT_PLAIN: "end to end",
        bare.NAME: "transport",
        _BARE_PLAIN: "no",
    }.get(name, "transport and end to end")
    if name in (bare.NAME, _BARE_PLAIN):
        return {"encrypts": encrypts, "stores": "no", "durable": "no"}
    return {"encrypts": encrypts, "stores": "yes", "durable": "before delivery"}


if __name__ == "__main__":
    harness.main(measure)
