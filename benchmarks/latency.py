"""P4: from post to shown by another member, 100 others idle in the room; against a floor in C.

Two real members (outbox, seal, check, open, replica) and 100 bare ones. The floor: libzmq's own
proxy (XSUB–XPUB, no Python in the way) with 100 idle subscribers over CURVE, plus two syncs of a
small write on the same disk: one for the outbox, one for the log.

    python -m benchmarks.latency [--full] [--json]
"""

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event as Flag
from pathlib import Path

import zmq

from benchmarks import bare, harness
from benchmarks.harness import Plot, Result, at_most, percentile, ratio, sealed_texts, spread
from zchat.clock import Clock
from zchat.config import MemberConfig
from zchat.lab.load import Target
from zchat.member.client import Client
from zchat.member.invite import Invite
from zchat.member.rows import Confirmed, Message, Progress
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.keys import RoomKeys

IDLE = 100
_PAUSE_S = 0.02
_FLUSH = b"end"


def _member(invite: Invite, keys: RoomKeys, folder: str, name: str) -> Client:
    vault = Vault(Path(folder, name))
    record = RoomRecord("bench", name, invite.server, invite.origin)
    client = Client(vault, record.server, MemberConfig(), Clock())
    room = client.enter(keys, record)
    list(room.replay())
    client.follow(keys.tag)
    return client


async def _until_caught_up(client: Client) -> None:
    while True:
        event = await client.next_event(30)
        assert event is not None, "no answer"
        if isinstance(event.what, Progress) and event.what.caught_up:
            return


async def _write(client: Client, keys: RoomKeys, count: int, ready: Flag) -> None:
    async with client:
        await asyncio.to_thread(ready.wait)
        for _ in range(count):
            await asyncio.sleep(_PAUSE_S)
            (sent,) = client.say(keys.tag, [f"{time.perf_counter_ns()} as people write"])
            while event := await client.next_event(30):
                if isinstance(event.what, Confirmed) and event.what.id == sent:
                    break


async def _read(client: Client, keys: RoomKeys, count: int, ready: Flag) -> list[float]:
    took: list[float] = []
    async with client:
        await _until_caught_up(client)
        ready.set()
        while len(took) < count:
            event = await client.next_event(60)
            assert event is not None, "a message is missing"
            if isinstance(event.what, Message) and event.what.text[0].isdigit():
                took.append((time.perf_counter_ns() - int(event.what.text.split()[0])) / 1e6)
    return took


def _writer(invite: Invite, root: bytes, folder: str, count: int, ready: Flag) -> None:
    keys = RoomKeys(root)
    asyncio.run(_write(_member(invite, keys, folder, "writer"), keys, count, ready))


def _idle(target: Target, room: bytes, ready: Flag) -> None:
    """Members who only take what comes, and as little of the machine as the floor's subscribers.

    What one run sends is within a window, so that they owe no acknowledgement.
    """
    poller = zmq.Poller()
    for member in harness.joined(target, room, IDLE):
        poller.register(member.socket, zmq.POLLIN)
    ready.set()
    while True:
        for socket, _ in poller.poll():
            socket.recv_multipart()


def run_zchat(count: int) -> list[float]:
    """Milliseconds from `say` to the message's event, of each message."""
    root = os.urandom(32)
    keys = RoomKeys(root)
    idle_ready, ready = multiprocessing.Event(), multiprocessing.Event()
    with harness.broker() as measured, tempfile.TemporaryDirectory() as folder:
        first = harness.member_of(measured.target)
        first.post(keys.tag, 1, sealed_texts(keys, 1)[0])
        first.wait_stored(1)
        idle = multiprocessing.Process(target=_idle, args=(measured.target, keys.tag, idle_ready))
        arguments = (measured.invite, root, folder, count, ready)
        writer = multiprocessing.Process(target=_writer, args=arguments)
        try:
            idle.start()
            assert idle_ready.wait(60)
            writer.start()
            reader = _member(measured.invite, keys, folder, "reader")
            return asyncio.run(_read(reader, keys, count, ready))
        finally:
            for process in (idle, writer):
                process.kill()
                process.join()


# ---- the floor ----


def _proxy(folder: str, curve: tuple[bytes, bytes] | None) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    front, back = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
    for socket, name in ((front, "front"), (back, "back")):
        if curve:
            socket.curve_server = 1
            socket.curve_publickey, socket.curve_secretkey = curve
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        Path(folder, name).write_text(str(port))
    zmq.proxy(front, back)


def _connect(
    kind: int, port: str, key: bytes, context: "zmq.Context[zmq.Socket[bytes]]"
) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    if key:
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = key
    if kind == zmq.SUB:
        socket.subscribe(b"")
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


def _proxy_idle(port: str, key: bytes, ready: Flag) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    for _ in range(IDLE):
        poller.register(_connect(zmq.SUB, port, key, context), zmq.POLLIN)
    time.sleep(1)
    ready.set()
    while True:
        for socket, _ in poller.poll():
            socket.recv()


def _proxy_writer(port: str, key: bytes, count: int, ready: Flag) -> None:
    socket = _connect(zmq.PUB, port, key, zmq.Context())
    content = sealed_texts(RoomKeys(bytes(32)), 1)[0]
    ready.wait()
    time.sleep(0.5)
    for _ in range(count):
        time.sleep(_PAUSE_S)
        socket.send(b"%20d" % time.perf_counter_ns() + content[20:])
    time.sleep(5)


def run_proxy(count: int, *, encrypted: bool) -> list[float]:
    """The same way through libzmq's proxy."""
    pair = zmq.curve_keypair() if encrypted else None
    key = pair[0] if pair else b""
    idle_ready, ready = multiprocessing.Event(), multiprocessing.Event()
    with tempfile.TemporaryDirectory() as folder:
        workers = [multiprocessing.Process(target=_proxy, args=(folder, pair))]
        workers[0].start()
        try:
            front, back = (_port(Path(folder, name)) for name in ("front", "back"))
            workers.append(
                multiprocessing.Process(target=_proxy_idle, args=(back, key, idle_ready))
            )
            workers[1].start()
            assert idle_ready.wait(60)
            workers.append(
                multiprocessing.Process(target=_proxy_writer, args=(front, key, count, ready))
            )
            workers[2].start()
            reader = _connect(zmq.SUB, back, key, zmq.Context())
            reader.rcvtimeo = 60_000
            time.sleep(0.5)
            ready.set()
            return [-(int(reader.recv()[:20]) - time.perf_counter_ns()) / 1e6 for _ in range(count)]
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


# ---- the least in Python ----


def _relay_idle(target: Target, ready: Flag) -> None:
    poller = zmq.Poller()
    for member in bare.joined(target, IDLE):
        poller.register(member.socket, zmq.POLLIN)
    ready.set()
    while True:
        for socket, _ in poller.poll():
            socket.recv()


def _relay_writer(target: Target, count: int, ready: Flag) -> None:
    author = bare.RelayMember(zmq.Context(), target)
    content = sealed_texts(RoomKeys(bytes(32)), 1)[0]
    ready.wait()
    for _ in range(count):
        time.sleep(_PAUSE_S)
        author.post(b"%20d" % time.perf_counter_ns() + content[20:])
        author.drain()
    time.sleep(5)


def run_relay(count: int) -> list[float]:
    """The same way through libzmq and Python alone."""
    idle_ready, ready = multiprocessing.Event(), multiprocessing.Event()
    with bare.relay() as (target, _):
        workers = [
            multiprocessing.Process(target=_relay_idle, args=(target, idle_ready)),
            multiprocessing.Process(target=_relay_writer, args=(target, count, ready)),
        ]
        try:
            for worker in workers:
                worker.start()
            assert idle_ready.wait(60)
            (reader,) = bare.joined(target, 1)
            ready.set()
            return [
                -(int(reader.receive()[:20]) - time.perf_counter_ns()) / 1e6 for _ in range(count)
            ]
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


def _port(path: Path) -> str:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return path.read_text()


def run_syncs(count: int) -> list[float]:
    """Milliseconds of a small write and its sync, where the stores of a run lie."""
    took = []
    with tempfile.TemporaryDirectory() as folder, Path(folder, "file").open("wb") as file:
        for _ in range(count):
            time.sleep(_PAUSE_S)
            started = time.perf_counter_ns()
            file.write(bytes(4_096))
            file.flush()
            os.fsync(file.fileno())
            took.append((time.perf_counter_ns() - started) / 1e6)
    return took


def measure(full: bool) -> Result:
    """Ours and the floor, round by round; a percentile of each round, then medians of those."""
    rounds, count = (7, 500) if full else (3, 150)
    sides: dict[str, Callable[[], list[float]]] = {
        "zchat, post to shown": lambda: run_zchat(count),
        "zmq.proxy, CURVE": lambda: run_proxy(count, encrypted=True),
        "zmq.proxy, plain": lambda: run_proxy(count, encrypted=False),
        bare.NAME: lambda: run_relay(count),
        "one sync": lambda: run_syncs(count),
    }
    took: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            took[name].append(run())
    rows: list[dict[str, harness.Cell]] = []
    for name, runs in took.items():
        p50, p99 = (spread(percentile(run, share) for run in runs) for share in (0.5, 0.99))
        rows.append({"": name, "p50 ms": p50, "p99 ms": p99})
    ours, curve, _, relay, sync = took.values()
    verdicts = []
    for share, said in ((0.5, "p50"), (0.99, "p99")):
        floor = [
            percentile(a, share) + 2 * percentile(b, share)
            for a, b in zip(curve, sync, strict=True)
        ]
        to_floor = ratio([percentile(run, share) for run in ours], floor)
        relayed = ratio([percentile(run, share) for run in relay], floor)
        why = (
            f"{bare.NAME}, without any sync, is at {relayed} × of that floor; what is left is two"
            " commits (a sync and the pages around it, each) and what a member and the server do"
            " with a message: seal, sign, check, hash, look up, sign the head, check, open, keep."
        )
        what = f"{said} post to shown, to zmq.proxy with CURVE plus two syncs"
        verdicts.append(at_most("P4", what, 1.5, to_floor, "×", why))
    bars = {
        name: spread(percentile(run, 0.5) for run in runs).median for name, runs in took.items()
    }
    plot = Plot("latency", "Latency at low load, p50", "ms", bars)
    notes = [f"{IDLE} idle members, a message each {_PAUSE_S * 1000:.0f} ms and the receipt"]
    return Result("Latency", rows, verdicts, notes, [plot])


if __name__ == "__main__":
    harness.main(measure)
