"""P7: what others notice of a member that does not read, one that floods, a storm of reconnects.

Two bare members of one room: one posts, the other's clock says how long it took. The broker has its
default limits; the last storm is measured without those on handshakes and connections, as if it
came from a thousand addresses. Who makes the trouble works on the same machine, and that is in the
figure; so the storms are let loose on libzmq and Python alone, too.

    python -m benchmarks.isolation [--full] [--json]
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress

import zmq

from benchmarks import bare, harness
from benchmarks.harness import Plot, Result, at_most, percentile, ratio, sealed_texts, spread
from zchat.lab.load import BareMember, Target, outline
from zchat.protocol.keys import RoomKeys
from zchat.protocol.wire import Entries

_MANY_ADDRESSES = "\n".join(
    f"{name} = 1000000000"
    for name in ("connections_per_address", "handshake_burst", "handshakes_per_s")
)
_PAUSE_S = 0.03
_SETTLE_S = 2.0


def _slow_reader(target: Target, room: bytes) -> None:
    """Ten members that join and never read, while a talker fills what can be under way to them."""
    members = [BareMember(zmq.Context(), target) for _ in range(10)]
    for member in members:
        member.socket.rcvhwm = 1
        member.join(room)
    talker = harness.member_of(target)
    for k in range(1, 1_000_000):
        talker.post(room, k, outline())
        talker.stored()
        time.sleep(0.025)


def _flooder(target: Target, room: bytes) -> None:
    """As many posts as the socket takes, far beyond any rate."""
    member = harness.member_of(target)
    k = 0
    while True:
        k = max(k, member.stored()) + 1
        with suppress(zmq.Again):
            for number in range(k, k + 64):
                member.post(room, number, outline())
        time.sleep(0.001)


def _storm(target: Target, room: bytes) -> None:
    """A hundred members at a time that connect, say HELLO, join, and are gone."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    while True:
        members = [BareMember(context, target) for _ in range(100)]
        for member in members:
            member.join(room)
        time.sleep(0.25)
        for member in members:
            member.socket.close()


def _bare_storm(target: Target) -> None:
    """The same at libzmq and Python alone."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    while True:
        members = [bare.RelayMember(context, target) for _ in range(100)]
        for member in members:
            member.join()
        time.sleep(0.25)
        for member in members:
            member.socket.close()


_TROUBLES: dict[str, tuple[Callable[[Target, bytes], None] | None, str]] = {
    "nobody else": (None, ""),
    "ten that do not read": (_slow_reader, ""),
    "a flooding member": (_flooder, ""),
    "a storm of reconnects": (_storm, ""),
    "a storm from many addresses": (_storm, _MANY_ADDRESSES),
}


def _ask(
    reader: BareMember, author: BareMember, room: bytes, envelopes: list[bytes]
) -> list[float]:
    """Milliseconds from a post to its arrival at the other member, others' entries in between."""
    took = []
    for k, envelope in enumerate(envelopes, 2):
        time.sleep(_PAUSE_S)
        started = time.perf_counter()
        author.post(room, k, envelope)
        while True:
            word, batch = reader.receive()
            if isinstance(word, Entries) and reader.take(word, batch) and envelope in batch:
                break
        took.append((time.perf_counter() - started) * 1000)
        author.stored()
    return took


def run(trouble: Callable[[Target, bytes], None] | None, settings: str, count: int) -> list[float]:
    """The latencies of two members while somebody makes trouble in their room."""
    room = RoomKeys(os.urandom(32))
    envelopes = sealed_texts(room, count + 1)
    with harness.broker(settings) as measured:
        author = harness.member_of(measured.target)
        author.post(room.tag, 1, envelopes[0])
        author.wait_stored(1)
        (reader,) = harness.joined(measured.target, room.tag, 1)
        maker = None
        if trouble is not None:
            maker = multiprocessing.Process(target=trouble, args=(measured.target, room.tag))
            maker.start()
            time.sleep(_SETTLE_S)
        try:
            return _ask(reader, author, room.tag, envelopes[1:])
        finally:
            if maker is not None:
                maker.kill()
                maker.join()


def run_relay(count: int, *, stormy: bool) -> list[float]:
    """The latencies of libzmq and Python alone, by itself or beside the storm."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    took = []
    with bare.relay() as (target, _):
        author = bare.RelayMember(zmq.Context(), target)
        (reader,) = bare.joined(target, 1)
        maker = multiprocessing.Process(target=_bare_storm, args=(target,))
        if stormy:
            maker.start()
            time.sleep(_SETTLE_S)
        try:
            for _ in range(count):
                time.sleep(_PAUSE_S)
                started = time.perf_counter()
                author.post(content)
                reader.receive()
                took.append((time.perf_counter() - started) * 1000)
                author.drain()
        finally:
            if stormy:
                maker.kill()
                maker.join()
    return took


_BARE_CALM, _BARE_STORM = f"{bare.NAME}: nobody else", f"{bare.NAME}: the storm"


def measure(full: bool) -> Result:
    """All troubles in each round, so that their ratio is of one time."""
    rounds, count = (7, 600) if full else (3, 200)
    took: dict[str, list[list[float]]] = {name: [] for name in _TROUBLES}
    bare_took: dict[str, list[list[float]]] = {_BARE_CALM: [], _BARE_STORM: []}
    for _ in range(rounds):
        for name, (trouble, settings) in _TROUBLES.items():
            took[name].append(run(trouble, settings, count))
        for name in (_BARE_CALM, _BARE_STORM):
            bare_took[name].append(run_relay(count, stormy=name == _BARE_STORM))
    rows: list[dict[str, harness.Cell]] = []
    for name, runs in {**took, **bare_took}.items():
        p50, p99 = (spread(percentile(run, share) for run in runs) for share in (0.5, 0.99))
        rows.append({"beside them": name, "p50 ms": p50, "p99 ms": p99})
    calm, *others = [[percentile(run, 0.99) for run in runs] for runs in took.values()]
    bare_calm, bare_storm = ([percentile(r, 0.99) for r in runs] for runs in bare_took.values())
    why = (
        f"The same storm makes libzmq and Python alone {ratio(bare_storm, bare_calm)} × as slow,"
        " limits or not: the machine is busy with handshakes, half of them the storm's own side,"
        " and libzmq begins every handshake before anybody can refuse it."
    )
    verdicts = [
        at_most(
            *("P7", f"others' p99 beside {name}", 2, ratio(p99, calm), "×"),
            why if "storm" in name else "",
        )
        for name, p99 in zip(list(took)[1:], others, strict=True)
    ]
    bars = {
        name: spread(percentile(run, 0.99) for run in runs).median for name, runs in took.items()
    }
    return Result("Isolation", rows, verdicts, [], [Plot("isolation", "Others' p99", "ms", bars)])


if __name__ == "__main__":
    harness.main(measure)
