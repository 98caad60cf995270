"""Rows about time, the network and crowds: F9 to F16.

Rules of this file: the network misbehaves by a proxy of ours, processes by signals; what counts is
what a writer was told is stored, and what a reader was shown.
"""

import os
import random
import resource
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import zmq

from tests.bare import Broken, Line, Reader, Writer
from tests.hosts import Host, host
from tests.processes import wait_for
from tests.proxy import Weather, free_port, proxy
from tests.tally import Ground, Tally, row
from zchat.protocol.ledger import NO_LOG
from zchat.protocol.wire import Entries, Join, Position, Ready, encode

MIB = 1024 * 1024
_OFFLINE_S = 14.0  # the heartbeat's 8 s and what a busy machine takes


@contextmanager
def pair(target_of: Host, room: bytes, address: str = "") -> Iterator[tuple[Writer, Reader]]:
    """A writer and a reader of one room."""
    target = target_of.target_by(address or target_of.address)
    writer, reader = Writer(target, room), Reader(target, room)
    try:
        yield writer, reader
    finally:
        writer.close()
        reader.close()


def settled(of: Host, writer: Writer, reader: Reader) -> Tally:
    """Everything comes to rest: what was confirmed is kept, and was read once."""
    tally = Tally(runs=1, worst_s=writer.settle())
    kept = of.stored(writer.room)
    tally.worst_s += reader.read_to(len(kept))
    tally.compare(writer.acked, kept)
    tally.twice += reader.twice + len(kept) - len(set(kept))
    if list(reader.seen) != list(kept):
        tally.wrong.append(f"a reader saw another log: {reader.accuses}")
    return tally


# ---- F9: clocks ----


@row("F9", "clocks wrong by 10 years, and jumping")
def clocks(ground: Ground) -> Tally:
    """Broker and two members, each with a clock of its own mind."""
    wrongs = ["", "years@10", "years@-10", "years@+-10"]
    ways = [(a, b, c) for a in wrongs for b in wrongs[1:] for c in wrongs[2:]]
    return ground.tally(lambda number: clocks_of(ground, *ways[number % len(ways)]))


def clocks_of(ground: Ground, server: str, one: str, other: str) -> Tally:
    """Two members talk over a server, each with this mishap."""
    with ExitStack() as stack:
        ticking = stack.enter_context(host(ground.new("clocks"), server))
        alice = stack.enter_context(ground.person("alice", ticking, one))
        bob = stack.enter_context(ground.person("bob", ticking, other))
        tally = Tally(runs=1)
        began = time.monotonic()
        for number in range(3):
            alice.say(f"alice {number}")
            bob.say(f"bob {number}")
        expected = {f"{name} {number}" for name in ("alice", "bob") for number in range(3)}
        for person in (alice, bob):
            person.until("all six", lambda person=person: len(person.texts) >= 6)  # type: ignore[misc]
        tally.worst_s = time.monotonic() - began
        texts = [[text.partition(" [")[0] for text in person.texts] for person in (alice, bob)]
        tally.acked += 6
        tally.lost += len(expected - set(texts[1]))
        tally.twice += len(texts[1]) - len(set(texts[1]))
        if texts[0] != texts[1] or "!!" in alice.err + bob.err:
            tally.wrong.append(f"{server}, {one}, {other}: {texts} {alice.err} {bob.err}")
        return tally


# ---- F10, F11: the network ----


@row("F10", "network cut, reset, delayed, sliced, one-way, at any byte")
def networks(ground: Ground) -> Tally:
    """A session through the proxy: what happens to it depends on the run."""
    with host(ground.new("networked")) as far:
        session_bytes = _session_bytes(far)
        tally = ground.tally(
            lambda number: through(far, _weather(ground, number, session_bytes)),
            max(60, session_bytes if ground.is_long else 0),
            lanes=8,
        )
    tally.notes.append(f"a session has {session_bytes:,} bytes")
    return tally


def _session_bytes(far: Host) -> int:
    with proxy(far.port) as between, pair(far, os.urandom(16), between.address) as (writer, reader):
        writer.write(3)
        settled(far, writer, reader)
        return len(between.taken) // 2  # one connection's share


def _weather(ground: Ground, number: int, session_bytes: int) -> Weather:
    """Cut at each byte of the session in turn, by FIN or RST; every fifth run something else."""
    others = [
        Weather(delay_s=0.05),
        Weather(slice_bytes=1),
        Weather(swallows="to member"),
        Weather(swallows="to server"),
        Weather(is_hole=True),
    ]
    if number % 5 == 4:
        return others[number // 5 % len(others)]
    at = number if ground.is_long else ground.rng.randrange(session_bytes)
    return Weather(cut_after=at, resets=number % 2 == 0)


def through(far: Host, weather: Weather) -> Tally:
    """A session through this weather; then it clears."""
    with (
        proxy(far.port, weather) as between,
        pair(far, os.urandom(16), between.address) as (writer, reader),
    ):
        writer.write(3)
        for _ in range(4):
            writer.pump(0.1)
            reader.pump(0.1)
        heals = Weather(delay_s=weather.delay_s, slice_bytes=weather.slice_bytes)
        heals.cut_after = weather.cut_after
        between.weather = heals
        if weather.is_hole or weather.swallows:
            between.drop()
        return settled(far, writer, reader)


@row("F11", "half-open connections: packets vanish, nobody is told")
def half_open(ground: Ground) -> Tally:
    """Twenty members behind a hole: all say so, the server lets them go, and all come back."""
    port = free_port()
    folder = ground.new("half-open")
    with ExitStack() as stack:
        far = Host(folder)
        stack.callback(far.close)
        far.start(ZCHAT_HEALTH=f"127.0.0.1:{port}")
        between = stack.enter_context(proxy(far.port))
        members = [
            stack.enter_context(ground.person("alice", far, address=between.address))
            for _ in range(20)
        ]
        wait_for("all are here", lambda: _gauge(port, "zchat_connections") == 20, 90)
        between.weather.is_hole = True
        began = time.monotonic()
        for member in members:
            member.until("it knows", lambda member=member: "offline since" in member.err, 60)  # type: ignore[misc]
        told_s = time.monotonic() - began
        wait_for("the server knows", lambda: _gauge(port, "zchat_connections") == 0, 60)
        known_s = time.monotonic() - began
        between.weather.is_hole = False
        between.drop()
        began = time.monotonic()
        members[0].say("back again")
        for member in members:
            member.until("back", lambda member=member: "back again" in member.texts, 90)  # type: ignore[misc]
        tally = Tally(runs=20, acked=1, worst_s=time.monotonic() - began)
        tally.twice = sum(member.texts.count("back again") - 1 for member in members)
        if max(told_s, known_s) > _OFFLINE_S:
            tally.wrong.append("that took too long")
    tally.notes.append(f"members knew after {told_s:.1f} s, the server after {known_s:.1f} s")
    return tally


def _gauge(port: int, name: str) -> int:
    """A figure of /metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), -1)


# ---- F12, F13: who does not read ----


@row("F12", "slow readers among quick ones")
def slow_readers(ground: Ground) -> Tally:
    """Twenty read nothing until the others have read all; in the end all have read the same."""
    return _readers(ground, posts_too=False)


@row("F13", "stuck readers that go on sending")
def stuck_readers(ground: Ground) -> Tally:
    """Twenty read nothing at all, and post; then they wake."""
    return _readers(ground, posts_too=True)


def _readers(ground: Ground, *, posts_too: bool) -> Tally:
    room = os.urandom(16)
    with host(ground.new("readers")) as loaded, ExitStack() as stack:
        writer = Writer(loaded.target, room, envelope_bytes=20_000)
        quick = [Reader(loaded.target, room) for _ in range(5)]
        slow = [Reader(loaded.target, room, window=200_000) for _ in range(20)]
        posters = [Writer(loaded.target, room) for _ in slow] if posts_too else []
        for member in (writer, *quick, *slow, *posters):
            stack.callback(member.close)
        for member in (*quick, *slow):
            member.pump(0.05)
        before = loaded.memory_bytes()
        for _ in range(20):
            writer.write(30)
            for poster in posters:
                poster.write()
            writer.settle()
            for reader in quick:
                reader.read_to(max(writer.acked.values()))
        grown = loaded.memory_bytes() - before
        tally = Tally(runs=len(slow))
        if grown > 64 * MIB:  # 20 windows, a cache, and what Python keeps
            tally.wrong.append(f"the server's memory grew by {grown // MIB} MiB")
        began = time.monotonic()
        for poster in posters:
            poster.settle()
        kept = loaded.stored(room)
        for reader in (*quick, *slow):
            reader.read_to(len(kept), 120)
            tally.twice += reader.twice
            if list(reader.seen) != list(kept):
                tally.wrong.append("a reader saw another log")
        tally.worst_s = time.monotonic() - began
        tally.compare([i for w in (writer, *posters) for i in w.acked], kept)
        tally.notes.append(f"the server's memory grew by {grown // MIB} MiB")
        return tally


# ---- F14: everybody at once ----


class Crowd:
    """Readers of one room that come all at once."""

    def __init__(self, target_of: Host, room: bytes, size: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.max_sockets = 8 * size  # one that was closed counts for a while
        self.lines = [Line(self._context, target_of.target) for _ in range(size)]
        self._room = room
        self._target = target_of.target

    def arrive(self, patience_s: float) -> float:
        """Until each was greeted and has its first entries; how long the last one took."""
        began = heard_at = time.monotonic()
        poller = zmq.Poller()
        waiting: dict[Any, Line] = {line.socket: line for line in self.lines}
        for socket in waiting:
            poller.register(socket, zmq.POLLIN)
        while waiting:
            for socket, _ in poller.poll(200):
                heard_at = time.monotonic()
                if self._take(waiting[socket]):
                    poller.unregister(socket)
                    del waiting[socket]
            for socket in [s for s in waiting if waiting[s].is_silent]:
                poller.unregister(socket)
                self._replace(waiting.pop(socket), waiting, poller)
            if time.monotonic() - heard_at > patience_s:
                raise Broken(f"{len(waiting)} of {len(self.lines)} were not let in")
        return time.monotonic() - began

    def _replace(self, line: Line, waiting: dict[Any, Line], poller: zmq.Poller) -> None:
        """A server under way with others lets go of handshakes that take too long."""
        line.close()
        made = self.lines[self.lines.index(line)] = Line(self._context, self._target)
        waiting[made.socket] = made
        poller.register(made.socket, zmq.POLLIN)

    def _take(self, line: Line) -> bool:
        heard = line.hear(0)
        if heard and isinstance(heard[0], Ready):
            place = Position(self._room, NO_LOG, 1, 0, NO_LOG, 10_000)
            line.say(encode(Join(2, (place,))))
        return heard is not None and isinstance(heard[0], Entries)

    def close(self) -> None:
        for line in self.lines:
            line.close()
        self._context.term()


@row("F14", "everybody reconnects at once")
def storm(ground: Ground) -> Tally:
    """2,000 members of one address find their server restarted."""
    return storm_of(ground, 2_000)


def storm_of(ground: Ground, size: int) -> Tally:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    room = os.urandom(16)
    tally = Tally(runs=size)
    try:
        with host(ground.new("stormed")) as stormed, pair(stormed, room) as (writer, reader):
            writer.write(20)
            writer.settle()
            before = stormed.memory_bytes()
            crowd = Crowd(stormed, room, size)
            crowd.arrive(60)
            stormed.kill()
            stormed.start()
            crowd.close()
            crowd = Crowd(stormed, room, size)
            tally.worst_s = crowd.arrive(60)
            grown = stormed.memory_bytes() - before
            crowd.close()
            for member in (writer, reader):
                member.hang_up()
            writer.write()
            tally += settled(stormed, writer, reader)
            tally.runs = size
            tally.notes.append(f"the server's memory grew by {grown // MIB} MiB")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return tally


# ---- F15: the confirmation is lost ----


@row("F15", "a confirmation is lost, and the message posted again")
def posted_again(ground: Ground) -> Tally:
    """Over a new connection, after a restart, ten years later: the same place."""
    with host(ground.new("again")) as asked:
        tally = Tally()
        for number in ground.numbers():
            tally += _posted_again(asked, ["", "restart", "years@10"][number % 3])
    return tally


def _posted_again(asked: Host, way: str) -> Tally:
    with pair(asked, os.urandom(16)) as (writer, reader):
        writer.write(5)
        writer.settle()
        former = dict(writer.acked)
        writer.forget_confirmations()
        writer.hang_up()
        if way:
            asked.kill()
            asked.start(*([way] if "@" in way else []))
            reader.hang_up()
        tally = settled(asked, writer, reader)
        if {i: n for i, n in writer.acked.items() if i in former} != former:
            tally.wrong.append("posted again, it has another place")
        tally.twice += len(writer.acked) - len(former)
        return tally


# ---- F16: stopped for a while ----


@row("F16", "stopped for a while, as a virtual machine is")
def stopped(ground: Ground) -> Tally:
    """SIGSTOP for a moment or longer than any heartbeat; and a member that sleeps."""
    lengths = [ground.rng.uniform(0.2, 3) for _ in range(max(19, ground.runs - 1))]
    tally = ground.tally(lambda number: _stopped(ground, [13, *lengths][number]), lanes=6)
    tally += _sleeper(ground)
    return tally


def _stopped(ground: Ground, length_s: float) -> Tally:
    with host(ground.new("stopped")) as paused, pair(paused, os.urandom(16)) as (writer, reader):
        writer.write(10)
        writer.pump(random.uniform(0, 0.3))
        paused.signal(signal.SIGSTOP)
        ends = time.monotonic() + length_s
        while time.monotonic() < ends:
            writer.write()
            writer.pump(0.2)
            reader.pump(0.1)
        paused.signal(signal.SIGCONT)
        return settled(paused, writer, reader)


def _sleeper(ground: Ground) -> Tally:
    with ExitStack() as stack:
        awake = stack.enter_context(host(ground.new("awake")))
        alice = stack.enter_context(ground.person("alice", awake))
        bob = stack.enter_context(ground.person("bob", awake))
        alice.say("before")
        bob.until("the first", lambda: bob.texts == ["before"])
        os.kill(bob.pid, signal.SIGSTOP)
        alice.say(*(f"while bob slept {number}" for number in range(20)))
        alice.until("all of hers", lambda: len(alice.texts) == 21)
        time.sleep(13)
        os.kill(bob.pid, signal.SIGCONT)
        began = time.monotonic()
        bob.until("all of it", lambda: len(bob.texts) >= 21)
        tally = Tally(runs=1, acked=21, worst_s=time.monotonic() - began)
        if alice.texts != bob.texts or "!!" in bob.err:
            tally.wrong.append(f"bob woke to {bob.texts} {bob.err}")
        return tally
