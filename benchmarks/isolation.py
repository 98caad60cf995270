"""P7: what others notice of a member that does not read, one that floods, a storm of reconnects.

Two bare members of one room: one posts, the other's clock says how long it took. The broker has its
default limits; the last storm is measured without those on handshakes and connections, as if it
came from a thousand addresses. Who makes the trouble works on the same machine, and takes only the
processor time that nobody else wants, as if it had a machine of its own; how much of the server's
time it takes stands beside. The storms are let loose on libzmq and Python alone, too. The broker's
memory is looked at when the trouble is on, and at the end of it.

    python -m benchmarks.isolation [--full] [--json]
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

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


class Trouble(NamedTuple):
    """Who makes it, each in a process of its own, and what differs in the broker's settings."""

    makers: tuple[Callable[[Target, bytes], None], ...]
    settings: str = ""
    settle_s: float = 2.0


class Beside(NamedTuple):
    """Milliseconds from post to arrival; how many cores the broker used meanwhile; its MiB when
    the trouble was on, and after.
    """

    took: list[float]
    cores: float
    began_mib: float
    ended_mib: float


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


_TROUBLES = {
    "nobody else": Trouble(()),
    "ten that do not read": Trouble((_slow_reader,)),
    "a flooding member": Trouble((_flooder,)),
    "a storm of reconnects": Trouble((_storm,)),
    "all of these at once": Trouble((_slow_reader, _flooder, _storm), settle_s=15.0),
    "a storm from many addresses": Trouble((_storm,), _MANY_ADDRESSES),
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


def _on_spare_time(maker: Callable[..., None], *arguments: object) -> None:
    """Make trouble while no other process wants the processor (sched(7), SCHED_IDLE)."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    maker(*arguments)


@contextmanager
def _under_way(
    makers: tuple[Callable[..., None], ...], settle_s: float, *arguments: object
) -> Iterator[None]:
    """While the makers of trouble are at work, each in a process of its own."""
    running = [
        multiprocessing.Process(target=_on_spare_time, args=(maker, *arguments)) for maker in makers
    ]
    for maker in running:
        maker.start()
    try:
        if running:
            time.sleep(settle_s)
        yield
    finally:
        for maker in running:
            maker.kill()
            maker.join()


def run(trouble: Trouble, count: int) -> Beside:
    """Two members who go on talking while somebody makes trouble in their room."""
    room = RoomKeys(os.urandom(32))
    envelopes = sealed_texts(room, count + 1)
    with harness.broker(trouble.settings) as measured:
        author = harness.member_of(measured.target)
        author.post(room.tag, 1, envelopes[0])
        author.wait_stored(1)
        (reader,) = harness.joined(measured.target, room.tag, 1)
        with _under_way(trouble.makers, trouble.settle_s, measured.target, room.tag):
            began_mib = measured.server.memory_bytes() / 2**20
            began_s, used_s = time.perf_counter(), measured.server.cpu_s()
            took = _ask(reader, author, room.tag, envelopes[1:])
            cores = (measured.server.cpu_s() - used_s) / (time.perf_counter() - began_s)
            return Beside(took, cores, began_mib, measured.server.memory_bytes() / 2**20)


def run_relay(count: int, *, stormy: bool) -> list[float]:
    """The latencies of libzmq and Python alone, by itself or beside the storm."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    took = []
    with bare.relay() as (target, _):
        author = bare.RelayMember(zmq.Context(), target)
        (reader,) = bare.joined(target, 1)
        with _under_way((_bare_storm,) if stormy else (), Trouble(()).settle_s, target):
            for _ in range(count):
                time.sleep(_PAUSE_S)
                started = time.perf_counter()
                author.post(content)
                reader.receive()
                took.append((time.perf_counter() - started) * 1000)
                author.drain()
    return took


_BARE_CALM, _BARE_STORM = f"{bare.NAME}: nobody else", f"{bare.NAME}: the storm"


def measure(full: bool) -> Result:
    """All troubles in each round, so that their ratio is of one time."""
    rounds, count = (7, 600) if full else (5, 200)
    runs: dict[str, list[Beside]] = {name: [] for name in _TROUBLES}
    bare_took: dict[str, list[list[float]]] = {_BARE_CALM: [], _BARE_STORM: []}
    for _ in range(rounds):
        for name, trouble in _TROUBLES.items():
            harness.progress(f"beside {name}")
            runs[name].append(run(trouble, count))
        for name in (_BARE_CALM, _BARE_STORM):
            bare_took[name].append(run_relay(count, stormy=name == _BARE_STORM))
    took = {name: [beside.took for beside in besides] for name, besides in runs.items()}
    rows = [
        _row(name, latencies, runs.get(name, []))
        for name, latencies in {**took, **bare_took}.items()
    ]
    calm, *others = [_p99(latencies) for latencies in took.values()]
    bare_calm, bare_storm = (_p99(latencies) for latencies in bare_took.values())
    why = (
        "Until an address is beyond its limit, and is kept from the door, its handshakes come a"
        " hundred at a time; libzmq begins each of them before anybody can refuse it, and in the"
        " thread that makes them whoever is already in waits behind them. The same storm makes"
        f" libzmq and Python alone {ratio(bare_storm, bare_calm)} × as slow. One, two, four and"
        " eight such threads were tried, with the same outcome."
    )
    verdicts = [
        at_most(
            *("P7", f"others' p99 beside {name}", 2, ratio(p99, calm), "×"),
            why if _storm in _TROUBLES[name].makers else "",
        )
        for name, p99 in zip(list(took)[1:], others, strict=True)
    ]
    verdicts.append(_flat(runs["all of these at once"]))
    bars = {name: spread(_p99(latencies)).median for name, latencies in took.items()}
    return Result("Isolation", rows, verdicts, [], [Plot("isolation", "Others' p99", "ms", bars)])


def _p99(runs: list[list[float]]) -> list[float]:
    return [percentile(run, 0.99) for run in runs]


def _row(name: str, latencies: list[list[float]], runs: list[Beside]) -> dict[str, harness.Cell]:
    p50 = spread(percentile(run, 0.5) for run in latencies)
    row: dict[str, harness.Cell] = {
        "beside them": name,
        "p50 ms": p50,
        "p99 ms": spread(_p99(latencies)),
    }
    if runs:
        row["server's cores"] = spread(run.cores for run in runs)
        row["server MiB, trouble on"] = spread(run.began_mib for run in runs)
        row["at the end"] = spread(run.ended_mib for run in runs)
    return row


def _flat(runs: list[Beside]) -> harness.Verdict:
    """Memory beside everything at once: where it ends, in parts of where it was."""
    grown = ratio([run.ended_mib for run in runs], [run.began_mib for run in runs])
    return at_most(
        "P7", "memory at the end of all of these, of that at their start", 1.1, grown, "×"
    )


if __name__ == "__main__":
    harness.main(measure)
