"""P5: memory of the broker per idle member; 10,000 members connected and all served.

Members are bare, in processes of their own, because one process may have 20,000 descriptors here
and a member has two. "Served": a message posted at the end reaches every one of them.

    python -m benchmarks.crowd [--full] [--json]
"""

import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier

from benchmarks import bare, harness
from benchmarks.harness import Plot, Result, Server, at_least, at_most, sealed_texts, spread
from zchat.lab.load import Target
from zchat.protocol.keys import RoomKeys
from zchat.protocol.wire import Entries

_PROCESSES = 4
_PATIENCE_S = 240
_STEPS = (100, 1_000, 10_000)


def _crowd(target: Target, room: bytes, count: int, barrier: Barrier) -> None:
    """Join, be idle, receive one message each."""
    members = harness.joined(target, room, count)
    barrier.wait(_PATIENCE_S)
    barrier.wait(_PATIENCE_S)
    for member in members:
        while True:
            word, batch = member.receive()
            if isinstance(word, Entries) and member.take(word, batch):
                break
    barrier.wait(_PATIENCE_S)


def _bare_crowd(target: Target, count: int, barrier: Barrier) -> None:
    members = bare.joined(target, count)
    barrier.wait(_PATIENCE_S)
    barrier.wait(_PATIENCE_S)
    assert members


def run_relay(members: int) -> float:
    """KiB of libzmq and Python alone per member that only joined."""
    barrier = multiprocessing.Barrier(_PROCESSES + 1)
    with bare.relay() as (target, server):
        before = server.memory_bytes()
        arguments = (target, members // _PROCESSES, barrier)
        crowd = [
            multiprocessing.Process(target=_bare_crowd, args=arguments) for _ in range(_PROCESSES)
        ]
        for process in crowd:
            process.start()
        try:
            barrier.wait(_PATIENCE_S)
            time.sleep(1)
            return (server.memory_bytes() - before) / members / 1024
        finally:
            for process in crowd:
                process.kill()
                process.join()


def run(members: int) -> dict[str, float]:
    """The figures of one size."""
    room = RoomKeys(os.urandom(32))
    first, last = sealed_texts(room, 2)
    barrier = multiprocessing.Barrier(_PROCESSES + 1)
    with harness.broker() as measured:
        author = harness.member_of(measured.target)
        author.post(room.tag, 1, first)
        author.wait_stored(1)
        before = measured.server.memory_bytes()
        arguments = (measured.target, room.tag, members // _PROCESSES, barrier)
        crowd = [multiprocessing.Process(target=_crowd, args=arguments) for _ in range(_PROCESSES)]
        started = time.perf_counter()
        for process in crowd:
            process.start()
        try:
            barrier.wait(_PATIENCE_S)
            connected_s = time.perf_counter() - started
            time.sleep(1)
            after, cpu = measured.server.memory_bytes(), measured.server.cpu_s()
            idle_cpu = _idle_cpu(measured.server)
            started = time.perf_counter()
            author.post(room.tag, 2, last)
            barrier.wait(_PATIENCE_S)
            barrier.wait(_PATIENCE_S)
            served_s = time.perf_counter() - started
            used = measured.server.cpu_s() - cpu
        finally:
            for process in crowd:
                process.kill()
                process.join()
    return {
        "members": members,
        "KiB each": (after - before) / members / 1024,
        "all connected s": connected_s,
        "one message to all s": served_s,
        "server CPU µs/delivery": used / members * 1e6,
        "idle CPU %": idle_cpu,
    }


def _idle_cpu(server: Server) -> float:
    """Percent of a core that it uses while nothing happens."""
    cpu, started = server.cpu_s(), time.perf_counter()
    time.sleep(3)
    return (server.cpu_s() - cpu) / (time.perf_counter() - started) * 100


def measure(full: bool) -> Result:
    """Sizes up to ten thousand; the largest in several rounds where there is time."""
    runs = {members: [run(members)] for members in _STEPS}
    for _ in range(2 if full else 0):
        runs[_STEPS[-1]].append(run(_STEPS[-1]))
    rows: list[dict[str, harness.Cell]] = [
        {name: spread(held[name] for held in each) for name in each[0]} for each in runs.values()
    ]
    largest = runs[_STEPS[-1]]
    each = spread(held["KiB each"] for held in largest)
    served = spread(held["members"] for held in largest)
    why = (
        f"{bare.NAME} hold {harness.short(run_relay(_STEPS[-1]))} KiB for each of as many: two"
        " buffers of 8 KiB and the first blocks of two pipes, which libzmq has no option for."
    )
    verdicts = [
        at_most("P5", "memory of an idle member, 10,000 connected", 30, each, "KiB", why),
        at_least("P5", "members connected, and served", 10_000, served, "members"),
    ]
    bars = {f"{members:,} members": runs[members][0]["KiB each"] for members in _STEPS}
    plot = Plot("crowd", "Memory of the broker per idle member", "KiB", bars)
    notes = [f"members in {_PROCESSES} processes; connecting includes each one's CURVE handshake"]
    return Result("A crowd", rows, verdicts, notes, [plot])


if __name__ == "__main__":
    harness.main(measure)
