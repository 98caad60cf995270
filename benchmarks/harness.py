"""What the measurements share: a real broker in a process of its own, bare members, and figures.

A bare member speaks the protocol over a real CURVE socket and neither opens nor stores what it
gets, so that what is measured is the server. A figure is a median over rounds with its lowest and
highest; a verdict is a ratio of two sides that ran in the same round on the same machine, so what
else the machine does hits both. Compare figures within a run, not across machines.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import zmq

from zchat.lab.load import BareMember, Target
from zchat.member.invite import Invite, parse_invite
from zchat.protocol.body import Text
from zchat.protocol.body import encode as encode_body
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.ledger import NO_HEAD_BYTES
from zchat.protocol.seal import seal
from zchat.protocol.wire import Entries

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
NO_LIMITS = "\n".join(
    f"{name} = 1000000000"
    for name in (
        *("post_burst", "posts_per_s", "control_burst", "controls_per_s"),
        *("connections_per_address", "handshake_burst", "handshakes_per_s"),
        *("rooms_per_access_key", "rooms_per_broker", "room_bytes"),
    )
).replace("room_bytes = 1000000000", "room_bytes = 1000000000000")
_AT_ONCE = 64  # handshakes under way
SHORT_TEXT = "a short text, as people write"


class Server(NamedTuple):
    """A server process under measurement."""

    pid: int

    def cpu_s(self) -> float:
        """Seconds of processor time, user and system, that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS

    def memory_bytes(self) -> int:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class Measured(NamedTuple):
    """A broker under measurement."""

    invite: Invite
    server: Server

    @property
    def target(self) -> Target:
        keys = self.invite.server.keys
        return Target(f"tcp://{self.invite.server.address}", keys.curve_key)


@contextmanager
def broker(
    settings: str = NO_LIMITS, program: Sequence[str] = ("-m", "zchat", "broker")
) -> Iterator[Measured]:
    """A real `zchat broker`, its limits out of the way, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        (Path(folder) / "broker.toml").write_text(settings)
        environment = {**os.environ, "ZCHAT_HOME": folder}
        process = subprocess.Popen(
            [sys.executable, *program, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert process.stdout is not None
        try:
            invite = parse_invite(process.stdout.readline().decode().strip())
            yield Measured(invite, Server(process.pid))
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def member_of(
    target: Target, context: "zmq.Context[zmq.Socket[bytes]] | None" = None
) -> BareMember:
    """A bare member that was greeted."""
    member = BareMember(context or zmq.Context(), target)
    member.receive()
    return member


def joined(target: Target, room: bytes, count: int) -> list[BareMember]:
    """Members of this process, each with an answer to its JOIN taken."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = count + 8
    members: list[BareMember] = []
    while len(members) < count:
        some = [BareMember(context, target) for _ in range(min(_AT_ONCE, count - len(members)))]
        for member in some:
            member.receive()
            member.join(room)
        for member in some:
            word, batch = member.receive()
            if isinstance(word, Entries):
                member.take(word, batch)
        members += some
    return members


def sealed_texts(room: RoomKeys, count: int, text: str = SHORT_TEXT) -> list[bytes]:
    """Envelopes of one author, sealed beforehand."""
    author = Author(os.urandom(32), room)
    incarnation = os.urandom(16)
    return [
        seal(
            room,
            author,
            EnvelopeClass.LOG,
            encode_body(Text("bench", incarnation, seq, NO_HEAD_BYTES, text)),
            0,
            os.urandom(32),
        )
        for seq in range(1, count + 1)
    ]


# ---- figures ----


class Spread(msgspec.Struct, frozen=True):
    """A median, and between what it lies."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return short(self.median)
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"


def short(value: float) -> str:
    """Three digits, as people read numbers."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Iterable[float]) -> Spread:
    """Of one figure over rounds."""
    held = sorted(values)
    return Spread(statistics.median(held), held[0], held[-1])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours to theirs, round by round."""
    return spread(a / b for a, b in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of all lie."""
    held = sorted(values)
    return held[min(len(held) - 1, int(share * len(held)))]


Cell = str | float | Spread


class Verdict(msgspec.Struct, frozen=True):
    """A target of docs/performance.md, and whether it was met. `measured` is the median."""

    target: str
    what: str
    bound: str  # as people read it
    measured: Spread
    unit: str
    met: bool
    why: str = ""  # where it is not met: what the limit is, with figures of the same run


class Plot(msgspec.Struct, frozen=True):
    """Bars: names and values of one unit, the first being ours."""

    name: str
    title: str
    unit: str
    bars: dict[str, float]


class Result(msgspec.Struct, frozen=True):
    """What one script measured."""

    title: str
    rows: list[dict[str, Cell]] = []
    verdicts: list[Verdict] = []
    notes: list[str] = []
    plots: list[Plot] = []


def at_most(
    target: str, what: str, bound: float, measured: Spread, unit: str, why: str = ""
) -> Verdict:
    """Met where the median is at or below the bound."""
    met = measured.median <= bound
    return Verdict(target, what, f"≤ {short(bound)} {unit}", measured, unit, met, why)


def at_least(
    target: str, what: str, bound: float, measured: Spread, unit: str, why: str = ""
) -> Verdict:
    """Met where the median is at or above the bound."""
    met = measured.median >= bound
    return Verdict(target, what, f"≥ {short(bound)} {unit}", measured, unit, met, why)


def tell(result: Result) -> None:
    """Print for people."""
    print(result.title)
    for row in result.rows:
        print("  " + "  ".join(f"{name} {_shown(cell)}".strip() for name, cell in row.items()))
    for verdict in result.verdicts:
        word = "met" if verdict.met else "NOT MET"
        print(
            f"  {verdict.target} {verdict.what}: {verdict.measured} {verdict.unit}"
            f" (target {verdict.bound}): {word}"
        )
        if verdict.why and not verdict.met:
            print(f"     {verdict.why}")
    for note in result.notes:
        print(f"  {note}")


def progress(text: str) -> None:
    """A line on stderr while a long run goes on."""
    print(f"-- {text}", file=sys.stderr, flush=True)


def _shown(cell: Cell) -> str:
    return short(cell) if isinstance(cell, int | float) else str(cell)


def main(measure: Callable[[bool], Result]) -> None:
    """The command line that every script has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="more rounds, larger sizes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.full)
    if options.json:
        print(json.dumps(msgspec.to_builtins(result)))
    else:
        tell(result)
