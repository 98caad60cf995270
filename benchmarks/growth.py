"""P6: nothing gets dearer as a server grows: members, rooms, entries.

CPU per delivery from 10 to 10,000 members; with 10 and with 10,000 idle rooms beside the busy one;
CPU per appended entry of a log that holds up to ten million of them (a million in the short form).

    python -m benchmarks.growth [--full] [--json]
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import zmq

from benchmarks import harness
from benchmarks.harness import Measured, Plot, Result, at_most, sealed_texts, spread
from zchat.database import Access
from zchat.lab.load import Target, outline
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog
from zchat.protocol.envelope import envelope_id
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import NO_LOG, link
from zchat.protocol.wire import Entries

_PROCESSES = 3
_PATIENCE_S = 240
_BATCH = 256
_AT_ONCE = 64
_ROOM = bytes(16)
_WHY = (
    "What grows is the index of ids, by which a message that is posted again is found. Ids are"
    " hashes, so its pages are written at random: the more there are, the fewer entries of a turn"
    " share one, up to a page of its own for each."
)


# ---- members, rooms ----


def _readers(target: Target, room: bytes, count: int, messages: int, barrier: Barrier) -> None:
    members = harness.joined(target, room, count)
    poller = zmq.Poller()
    by_socket = {member.socket: member for member in members}
    for member in members:
        poller.register(member.socket, zmq.POLLIN)
    barrier.wait(_PATIENCE_S)
    missing = count * messages
    while missing:
        for socket, _ in poller.poll():
            word, batch = by_socket[socket].receive()
            if isinstance(word, Entries):
                missing -= by_socket[socket].take(word, batch)
    barrier.wait(_PATIENCE_S)


def _cpu_per_delivery(measured: Measured, members: int, messages: int) -> float:
    """Microseconds, one message at a time, each at once to all."""
    room = RoomKeys(os.urandom(32))
    envelopes = sealed_texts(room, messages + 1)
    author = harness.member_of(measured.target)
    author.post(room.tag, 1, envelopes[0])
    author.wait_stored(1)
    shares = [members // _PROCESSES + (i < members % _PROCESSES) for i in range(_PROCESSES)]
    barrier = multiprocessing.Barrier(_PROCESSES + 1)
    readers = [
        multiprocessing.Process(
            target=_readers, args=(measured.target, room.tag, share, messages, barrier)
        )
        for share in shares
    ]
    for reader in readers:
        reader.start()
    try:
        barrier.wait(_PATIENCE_S)
        cpu = measured.server.cpu_s()
        for k, envelope in enumerate(envelopes[1:], 2):
            author.post(room.tag, k, envelope)
            author.wait_stored(k)
        barrier.wait(_PATIENCE_S)
        return (measured.server.cpu_s() - cpu) / (members * messages) * 1e6
    finally:
        for reader in readers:
            reader.kill()
            reader.join()


def run_members(members: int, deliveries: int) -> float:
    """One broker, one room."""
    with harness.broker() as measured:
        return _cpu_per_delivery(measured, members, max(10, deliveries // members))


def run_rooms(rooms: int, deliveries: int) -> float:
    """One broker whose log holds many rooms that nobody speaks in, and a busy one of 100."""
    with harness.broker() as measured:
        idle = harness.member_of(measured.target)
        for first in range(0, rooms, _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, rooms))
            for number in some:
                idle.post(number.to_bytes(16, "big"), 1, outline())
            for _ in some:
                idle.wait_stored(1)
        return _cpu_per_delivery(measured, 100, deliveries // 100)


# ---- entries ----


def run_entries(most: int) -> dict[int, float]:
    """CPU µs per entry appended in turns of 256, where the log holds so many already."""
    took: dict[int, float] = {}
    steps = [0]
    while steps[-1] < most:
        steps.append(max(10_000, steps[-1] * 10))
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        log = SqliteLog(Path(folder, "log.db"), Access.ONE_WRITER)
        at, last = 0, NO_LOG
        for step in steps:
            while at < step:
                at, last = _append(log, at, last)
            started = time.process_time()
            for _ in range(40):
                at, last = _append(log, at, last, look_up=True)
            took[step] = (time.process_time() - started) / (40 * _BATCH) * 1e6
        log.close()
    return took


def _append(log: SqliteLog, at: int, last: bytes, *, look_up: bool = False) -> tuple[int, bytes]:
    entries = []
    for n in range(at + 1, at + 1 + _BATCH):
        envelope = os.urandom(64)
        entry_id = envelope_id(envelope)
        if look_up:
            assert not log.place_of(_ROOM, entry_id)
        last = link(last, n, entry_id)
        entries.append(Entry(n, entry_id, last, envelope))
    log.append([Addition(_ROOM, entries, NO_LOG, (bytes(200),), b"")])
    return at + _BATCH, last


# ---- the whole ----


def _rounds(
    sizes: tuple[int, ...], run: Callable[[int], float], rounds: int
) -> dict[int, list[float]]:
    held: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            held[size].append(run(size))
    return held


def measure(full: bool) -> Result:
    """Each as a curve; flat is what is wanted."""
    rounds, deliveries = (3, 100_000) if full else (1, 30_000)
    members = _rounds((10, 100, 1_000, 10_000), lambda size: run_members(size, deliveries), rounds)
    rooms = _rounds((10, 10_000), lambda size: run_rooms(size, deliveries), rounds)
    entries = {
        size: [took] for size, took in run_entries(10_000_000 if full else 1_000_000).items()
    }
    curves = (
        ("members of the room", "server CPU µs/delivery", members),
        ("idle rooms beside it", "server CPU µs/delivery", rooms),
        ("entries in the log", "CPU µs/entry appended", entries),
    )
    rows: list[dict[str, harness.Cell]] = []
    verdicts, plots = [], []
    for what, unit, curve in curves:
        rows += [{what: size, unit: spread(held)} for size, held in curve.items()]
        first = curve[min(curve)]
        grown = spread(
            max(held[i] for held in curve.values()) / first[i] for i in range(len(first))
        )
        why = _WHY if curve is entries else ""
        verdicts.append(at_most("P6", f"largest to smallest: {what}", 1.5, grown, "×", why))
        bars = {f"{size:,}": spread(held).median for size, held in curve.items()}
        plots.append(Plot(f"growth-{what.split()[0]}", f"By {what}", unit, bars))
    notes = ["one message at a time: no turn of the broker has two, so nothing is shared"]
    return Result("Growth", rows, verdicts, notes, plots)


if __name__ == "__main__":
    harness.main(measure)
