"""Attacks and what is asserted about them: the stage on which every threat is a test.

Goal: each threat is mounted by a real program against the real program, the invariants hold, what a
user must see stands there, and the same row fails once the one defence it rests on is taken away.

How a row is written. A function mounts the attack and asserts; `test_R12_...` calls it, and
`test_R12_control_...` calls it through `red(row, "seen", because="...")`, which takes a defence
away (tests/without.py) and requires the row to fail for that reason. Rows that hold because
something does not exist have `test_R33_planted_...` instead: the same check over a planted
violation. The id stands right behind `test_`; what cannot be met yet is in `NOT_YET`.

Two stages. `Bench`: a rogue server and members in this process, real cores, every frame delivered
and every second passed by hand; what each member shows stands in its `lines`, made by the code that
makes them for plain mode. `rogue_world`: the same lies behind a real socket, members as processes
in plain mode or in a terminal of their own.

    python -m tests.threats [ID ...]                       all rows, or these: one line for each
    python -m tests.threats --compose MINUTES [--seed S]   lies of the lab, thrown together

Rules of this file: attacks hold no key of the program but those that an attacker has; nothing here
asserts about one row only.
"""

import argparse
import itertools
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest

from tests import processes
from tests.processes import Broker, World
from tests.without import command, without
from zchat.broker.core import Peer
from zchat.broker.send import Send
from zchat.clock import Clock
from zchat.database import Access
from zchat.errors import ZchatError
from zchat.lab.lies import parse_lie
from zchat.lab.rogue import Lie, LyingLog, Rogue
from zchat.member.core import Core, Do
from zchat.member.invite import Origin, Server
from zchat.member.presence import Rhythm
from zchat.member.room import Room
from zchat.member.rows import (
    Composed,
    Confirmed,
    Connection,
    Happening,
    Kind,
    Message,
    Notice,
    Row,
    ServerSays,
    is_fault,
)
from zchat.member.session import Reopen, Say, Session, Timing
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol import body as bodies
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import LogKey
from zchat.protocol.seal import seal
from zchat.protocol.wire import Frames, Post, decode_to_broker
from zchat.ui.show import message_line, other_line

NOT_YET: dict[str, str] = {
    "R14-sealed": "sealed rooms with a signed list of members are not built",
    "R19-sealed": "chain keys, which could differ between receivers, exist in sealed rooms only",
    "R29": "there is no ratchet to jump",
    "R30": "there are no prekeys to withhold",
    "R31": "nothing exchanges X25519 keys yet but CURVE itself",
    "R34": "there are no files",
    "M8": "messages have no lifetime yet",
    "M9": "there is no edit and no delete; a quote is an id, and its text is one's own copy",
    "M10": "there are no direct messages and no sealed rooms",
    "M11": "nobody can be removed: epochs are not built",
    "O10": "the store is a file of the broker's own; no other server stands behind it",
}
"""Rows that an ordinary room cannot meet yet, and why."""


# ---- controls ----


def red(row: Callable[[], object], *defences: str, because: str) -> None:
    """Take defences away, here and in every process that the row starts: it must fail so.

    Or the program itself says that it cannot go on.
    """
    with without(*defences), patch.object(processes, "ZCHAT", command(defences)):
        try:
            row()
        except (AssertionError, pytest.fail.Exception, ZchatError) as failure:
            assert re.search(because, str(failure)), f"red for another reason: {failure}"
        else:
            pytest.fail(f"the row holds without {', '.join(defences)}: it shows nothing")


# ---- time and chance ----


class HandClock(Clock):
    """Time that passes when the test says so; bytes that its seed decides."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.time * 1000)

    def random(self, size: int) -> bytes:
        return self._rng.randbytes(size)


# ---- members in this process ----


class Member:
    """A member of one room: the program's own vault, room, session and core, on a wire of ours.

    `told` is everything it was told, `lines` what plain mode prints of it, `sent` every message it
    ever sent, `out` those that wait for the server and `inbox` those that wait for it.
    """

    def __init__(self, bench: "Bench", name: str, keys: RoomKeys, folder: Path) -> None:
        self.bench = bench
        self.name = name
        self.keys = keys
        self.folder = folder
        self.sent: list[Frames] = []
        self.start()

    def start(self) -> None:
        """A new process of this member: only vault and replica are what they were."""
        bench, clock = self.bench, self.bench.clock
        self.route = b""
        self.inbox: deque[Frames] = deque()
        self.out: deque[Frames] = deque()
        self.told: list[Happening] = []
        self.lines: list[str] = []
        self.vault = Vault(self.folder)
        server = Server("nowhere", 1, Origin(bytes(32), bench.log_key.public))
        record = self.vault.room(self.keys.tag)
        if record is None:
            record = RoomRecord("room", self.name, server, server.keys)
            self.vault.save_room(self.keys.tag, record)
        timing = Timing(answer_timeout_s=10, idle_join_s=60, window_bytes=bench.window_bytes)
        self.core = Core(Session(bench.log_key.public, timing, "member", "nowhere"), clock)
        self.room = Room(self.keys, record, self.vault, clock, Rhythm(20, 60), 30)
        for row in self.room.replay():
            self.see(row)
        self.do(self.core.add(self.room))
        self.do(self.core.follow(self.keys.tag))
        self.core.beat(self.keys.tag)

    def stop(self) -> None:
        """The process ends."""
        self.disconnect()
        self.room.close()
        self.vault.close()

    def connect(self) -> None:
        self.route = self.bench.route_for(self)
        self.do(self.core.opened())

    def disconnect(self) -> None:
        if self.route:
            self.bench.lose(self)
            self.route = b""
            self.inbox.clear()
            self.out.clear()
            self.do(self.core.closed("cut"))

    def say(self, *texts: str) -> None:
        """Post texts, and let everything settle. Raises ServerFault after a contradiction."""
        self.do(self.core.post(self.keys.tag, texts, anyway=False))
        self.bench.settle()

    def do(self, actions: Iterable[Do]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self.sent.append(action.frames)
                self.out.append(action.frames)
            elif isinstance(action, Reopen):
                self.bench.lose(self)
                self.route = b""
            else:
                self.see(action.what)

    def see(self, what: Happening) -> None:
        """Something to tell: kept, and as a line where plain mode prints one."""
        self.told.append(what)
        if isinstance(what, Composed):
            self.bench.written[what.id] = (self.room.own_key, what.text)
        if isinstance(what, Message):
            self.lines.append(message_line(what))
        elif isinstance(what, Row):
            self.lines.append(other_line(what))
        elif isinstance(what, ServerSays):
            self.lines.append(f"-- server says: {what.code} {what.text}".rstrip())
        elif isinstance(what, Connection):
            self.lines.append("-- online again" if what.online else f"-- offline ({what.reason})")

    @property
    def messages(self) -> list[Message]:
        """The messages of people it shows, in the order shown."""
        shown = (what for what in self.told if isinstance(what, Message))
        return [message for message in shown if message.kind is not Kind.UNREADABLE]

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]

    @property
    def confirmed(self) -> set[bytes]:
        """The ids it was told a signed head covers: one tick."""
        return {what.id for what in self.told if isinstance(what, Confirmed)}

    @property
    def faults(self) -> list[Notice]:
        """What it accuses the server of."""
        return [what for what in self.told if isinstance(what, Notice) and is_fault(what)]

    def shows(self, pattern: str) -> bool:
        """Whether a line it printed matches."""
        return any(re.search(pattern, line) for line in self.lines)

    def must_show(self, pattern: str) -> None:
        assert self.shows(pattern), f"{self.name} does not see {pattern!r} in:\n" + "\n".join(
            self.lines
        )

    def must_not_show(self, pattern: str) -> None:
        seen = [line for line in self.lines if re.search(pattern, line)]
        assert not seen, f"{self.name} sees {pattern!r}: {seen}"


def envelopes_of(member: Member) -> list[bytes]:
    """Every envelope a member has posted, as it went out."""
    words = (decode_to_broker(frames) for frames in member.sent)
    return [envelope for word, envelope in words if isinstance(word, Post)]


class Insider:
    """Somebody with the passphrase and a program of their own: seals whatever it likes."""

    def __init__(self, bench: "Bench", keys: RoomKeys, seed: bytes = b"") -> None:
        self._bench = bench
        self.keys = keys
        self.author = Author(seed or bench.clock.random(32), keys)
        self.incarnation = bench.clock.random(16)

    def seal(
        self,
        body: bytes | bodies.Text | bodies.Void | bodies.Beat,
        *,
        envelope_class: EnvelopeClass = EnvelopeClass.LOG,
        at_ms: int | None = None,
    ) -> bytes:
        """An envelope of any body, also one that nobody should send."""
        clock = self._bench.clock
        packed = body if isinstance(body, bytes) else bodies.encode(body)
        moment = clock.wall_ms() if at_ms is None else at_ms
        return seal(self.keys, self.author, envelope_class, packed, moment, clock.random(32))

    def text(self, text: str, *, name: str = "mallory", seq: int = 1, seen: bytes = b"") -> bytes:
        """An envelope that says something; `seen` is a head, by default none."""
        head = seen or bytes(144)
        return self.seal(bodies.Text(name, self.incarnation, seq, head, text))


class Bench:
    """A server that lies and its members, in one process and under one seed."""

    def __init__(
        self, folder: Path, *lies: str | Lie, seed: int = 1, window_bytes: int = 512 * 1024
    ) -> None:
        self.folder = folder
        self.clock = HandClock(seed)
        self.window_bytes = window_bytes
        self.log_key = LogKey(self.clock.random(32))
        self.written: dict[bytes, tuple[bytes, str]] = {}  # id -> (key, text) of all members
        self.members: list[Member] = []
        self._routes: dict[bytes, Member] = {}
        self._route = 0
        self.lies = [parse_lie(lie) if isinstance(lie, str) else lie for lie in lies]
        folder.mkdir(parents=True, exist_ok=True)
        self.start_server()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.stop()
        self.log.close()

    def start_server(self) -> None:
        """The server over the store in its file; lies begin anew."""
        self.log = LyingLog(self.folder / "log.db", Access.ONE_WRITER)
        self.log.lies = self.lies
        self.rogue = Rogue(self.log, self.log_key, "rogue", self.lies)

    def restart_server(self) -> None:
        """Everybody loses their connection; the store's file stays as it then is."""
        for member in self.members:
            member.disconnect()
        self.log.close()
        self.start_server()

    def keys(self, room: str = "lobby") -> RoomKeys:
        """The keys of a room, without paying Argon2id."""
        return RoomKeys(digest(Label.ROOM_TAG, 32, room.encode()))

    def member(self, name: str, room: str = "lobby", keys: RoomKeys | None = None) -> Member:
        """A member that joins a room now (one profile per name, whatever the rooms)."""
        made = Member(self, name, keys or self.keys(room), self.folder / name)
        self.members.append(made)
        self.settle()
        return made

    def pair(self) -> tuple[Member, Member]:
        """Alice, member 1, and bob, member 2, in the lobby."""
        return self.member("alice"), self.member("bob")

    def log_envelope(self, *envelopes: bytes, room: RoomKeys | None = None) -> None:
        """Put any envelopes into a room's log, under heads that are properly signed."""
        tag = (room or self.keys()).tag
        for envelope in envelopes:
            self.rogue.ghost.post(tag, envelope, self.clock.now(), self.clock.random(16))
            if self.rogue.full:
                self.settle()
        self.settle()

    # ---- the wires ----

    def route_for(self, member: Member) -> bytes:
        self._route += 1
        route = self._route.to_bytes(5, "big")
        self._routes[route] = member
        access_key = digest(Label.ID, 32, str(member.folder).encode())
        self.rogue.connected(route, Peer(access_key, "127.0.0.1"))
        return route

    def lose(self, member: Member) -> None:
        self._routes.pop(member.route, None)
        self.rogue.closed(member.route)

    def settle(self) -> None:
        """Until nobody has anything more to say at this moment."""
        for _ in range(10_000):
            for member in self.members:
                if not member.route:
                    member.connect()
            if not self._turn():
                return
        raise AssertionError("they never come to rest")

    def _turn(self) -> bool:
        """The server takes what waits, stores, hands out; members take what came."""
        clock, rogue = self.clock, self.rogue
        moved = False
        for route, member in list(self._routes.items()):
            while member.out and member.route == route:
                moved = True
                frames = member.out.popleft()
                self._send(rogue.receive(route, frames, clock.now(), clock.random(16)))
        batch = rogue.batch(clock.wall_ms())
        if batch:
            self.log.append(batch)
        self._send(rogue.committed())
        rogue.retry_stuck()
        self._send(rogue.serve())
        for member in self.members:
            while member.inbox:
                moved = True
                member.do(member.core.receive(member.inbox.popleft()))
        return moved or rogue.has_work

    def _send(self, sends: Iterable[Send]) -> None:
        for send in sends:
            member = self._routes.get(send.route)
            if member is not None:
                member.inbox.append(send.frames)

    def deliver(self, member: Member, *messages: Frames) -> None:
        """Messages that the server makes up for one member."""
        member.inbox.extend(messages)
        self.settle()

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let time go by, with all that falls due in it."""
        ends = self.clock.time + seconds
        while self.clock.time < ends:
            self.clock.time += min(step, ends - self.clock.time)
            for member in self.members:
                member.do(member.core.tick())
            self.settle()

    # ---- what must hold whatever the server does ----

    def check(self) -> None:
        """I2: each message once on each screen; I6: only what its author wrote."""
        for member in self.members:
            ids = Counter(message.id for message in member.messages)
            twice = [self.written.get(i) for i, count in ids.items() if count > 1]
            assert not twice, f"{member.name} shows twice: {twice}"
            for message in member.messages:
                wrote = self.written.get(message.id)
                said = (message.sender, message.text)
                assert wrote == said, f"{member.name} shows what nobody wrote: {said}"


# ---- real processes ----


class RogueBroker(Broker):
    """`zchat lab rogue` in the place of a broker."""

    def __init__(self, home: Path, lies: Sequence[str], listen: str = "127.0.0.1:0") -> None:
        self._lies = lies
        options = [option for lie in lies for option in ("--lie", lie)]
        arguments = ["lab", "rogue", *options, "--listen", listen]
        super(Broker, self).__init__(home, *arguments, label="rogue")
        self.expect(r"^zchat://")
        self.stem = self.lines[0]

    @property
    def store(self) -> Path:
        return self.home / "rogue" / "log.db"

    def again(self, **_: str) -> "RogueBroker":
        """Start it anew, with the same store, at the same address."""
        return RogueBroker(self.home, self._lies, self.address)


class RogueWorld(World):
    """A world whose server lies; its members' remembered keys fit, for it has the host's keys."""

    def __init__(self, folder: Path, template: Path, lies: Sequence[str]) -> None:
        self._lies = lies
        super().__init__(folder, template)

    def start_broker(self) -> Broker:
        home = self.folder / "host"
        (home / "broker").rename(home / "rogue")
        return RogueBroker(home, self._lies)

    def repent(self) -> None:
        """From now on an honest server goes on with the keys and the store of the rogue one."""
        self.broker.kill()
        home = self.folder / "host"
        (home / "rogue").rename(home / "broker")
        self.broker = self._keep(Broker(home, self.broker.address))


@contextmanager
def rogue_world(folder: Path, template: Path, *lies: str) -> Iterator[RogueWorld]:
    """A world that ends with its test."""
    made = RogueWorld(folder / "world", template, lies)
    try:
        yield made
    finally:
        made.close()


# ---- one line for each row ----

HERE = Path(__file__).parent
WANTED = [
    *(f"R{number}" for number in range(1, 35)),
    *(f"M{number}" for number in range(1, 15)),
    *(f"O{number}" for number in (1, 2, *range(4, 11))),
]
_NAME = re.compile(r"test_([RMO]\d+)_(control|planted)?")


@dataclass
class Outcome:
    """What the tests of one row came to."""

    seconds: float = 0.0
    held: list[bool] = field(default_factory=list)
    controls: dict[str, list[bool]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "held" if self.held and all(self.held) else "failed"

    @property
    def control(self) -> str:
        """How it is known that the row could fail."""
        passed = [kind for kind, each in self.controls.items() if all(each)]
        if not passed or len(passed) < len(self.controls):
            return "missing"
        return "red" if "control" in passed else "planted"

    @property
    def is_good(self) -> bool:
        return self.state == "held" and self.control != "missing"


def outcomes(report: Path) -> dict[str, Outcome]:
    """By row, from what pytest wrote down."""
    rows: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        named = _NAME.match(case.get("name", ""))
        if named is None:
            continue
        row = rows.setdefault(named[1], Outcome())
        row.seconds += float(case.get("time", 0))
        passed = all(case.find(how) is None for how in ("failure", "error", "skipped"))
        (row.controls.setdefault(named[2], []) if named[2] else row.held).append(passed)
    return rows


def run_rows(ids: Sequence[str]) -> int:
    """Run the rows and print one line for each; 1 if one failed or shows nothing."""
    files = sorted(str(path) for path in HERE.glob("test_threats_*.py"))
    picked = ["-k", " or ".join(f"test_{row}_" for row in ids)] if ids else []
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "report.xml", Path(folder) / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
            subprocess.run(
                [*command, *files, *picked, f"--junitxml={report}"],
                cwd=HERE.parent,
                stdout=out,
                stderr=out,
                check=False,
            )
        found = outcomes(report) if report.exists() else {}
        if not all(row.is_good for row in found.values()):
            sys.stderr.write(log.read_text("utf-8", "replace"))
    return tell(found, ids)


def tell(found: dict[str, Outcome], ids: Sequence[str]) -> int:
    """The lines, their sum, and the exit code."""
    rows = [row for row in WANTED if row not in NOT_YET]
    for row in ids or rows:
        outcome = found.setdefault(row, Outcome())
        print(f"{row} {outcome.state} {outcome.control} {outcome.seconds:.1f}")
    later = [] if ids else list(NOT_YET)
    for row in later:
        print(f"{row} not-yet - -")
    held = sum(row.state == "held" for row in found.values())
    missing = sum(row.control == "missing" for row in found.values())
    print(f"{held} held, {len(later)} not yet, {missing} controls missing")
    return int(not all(row.is_good for row in found.values()))


# ---- lies thrown together ----

_TOLD_TO = "member={member}:after={after}"
COMPOSABLE = {
    **dict.fromkeys(("smudge", "rot"), "after={after}:at={at}"),
    **dict.fromkeys(("malleable", "inject", "impersonate", "transplant", "ack"), "after={after}"),
    **dict.fromkeys(("hide", "replay", "twice", "reorder", "withhold"), _TOLD_TO),
    "alter": _TOLD_TO + ":at={at}",
    "shuffle": _TOLD_TO + ":seed={at}:hold={few}",
    "freeze": _TOLD_TO + ":beats={bit}",
    "shorten": "member={member}:end={few}",
    "drop": "share=0.2:after={after}:seed={at}",
    "fork": "sides={sides}:after={after}:cross={few}",
    "rollback": "entries={few}:after={after}",
    **dict.fromkeys(("omit", "forge", "salt"), ""),
}
"""What can be thrown together, and with which parameters. Not here: what counts real seconds
(delay), what only listens, what only a socket refuses (giant), and what ends a member at its
greeting, so that nothing is left to compose (downgrade, other-key)."""
_ALONE = ("shuffle", "rollback")  # a second lie makes frames or entries that these take for theirs
_SIDES = ("1/2", "1,2/3", "1/2,3", "1,3/2")
_NAMES = ("alice", "bob", "carol")


def a_lie(rng: random.Random) -> str:
    """One of them, with parameters."""
    name = rng.choice(list(COMPOSABLE))
    drawn = COMPOSABLE[name].format(
        member=rng.randint(1, 3),
        after=rng.randint(1, 12),
        at=rng.randint(0, 600),
        few=rng.randint(1, 6),
        bit=rng.randint(0, 1),
        sides=rng.choice(_SIDES),
    )
    return f"{name}:{drawn}" if drawn else name


def some_lies(rng: random.Random) -> list[str]:
    """One to three at once."""
    lies = [a_lie(rng) for _ in range(rng.randint(1, 3))]
    alone = [lie for lie in lies if lie.startswith(_ALONE)]
    return alone[:1] or lies


def is_told(member: Member) -> bool:
    """Whether a member's screen says that something is not as it should be."""
    status = member.room.status(member.bench.clock.now())
    waits = bool(member.room.unconfirmed)  # "3 on the way"
    odd = status.fault or status.stale_s or status.behind or status.missing or waits
    offline = [what.online for what in member.told if isinstance(what, Connection)][-1:] == [False]
    return bool(odd or offline or member.shows("no longer kept|^!! "))


def knows(member: Member, other: Member, *, here: bool) -> bool:
    """Whether one's screen has the other among the members, or says that they are here now."""
    views = member.room.members(member.bench.clock.now())
    return any(view.key == other.room.own_key and (view.here or not here) for view in views)


def may_be_apart(one: Member, other: Member, lies: Sequence[str]) -> bool:
    """Where the contract says that nothing can be told yet (section 12).

    Halves that are kept apart for good look like people who are away, and so does everybody to
    whoever never heard a heartbeat; who was kept from hearing of somebody at all cannot miss them.
    """
    heard = one.shows(" is here$") and other.shows(" is here$")
    parted = not heard or any(lie.startswith("fork") for lie in lies)
    both = ((one, other), (other, one))
    return not all(knows(a, b, here=parted) for a, b in both)


def compose(seed: str, folder: Path) -> tuple[list[str], bool]:
    """Some lies at once; which, and whether any two members saw different things.

    Raises AssertionError where two honest members were shown different things, and neither screen
    says that something is not as it should be.
    """
    rng = random.Random(seed)
    lies = some_lies(rng)
    with Bench(folder, *lies, seed=rng.getrandbits(32)) as bench:
        for name in _NAMES:
            bench.member(name)
        bench.pass_time(rng.choice([0, 60]), step=5)
        for number in range(rng.randint(10, 40)):
            author = rng.choice(bench.members)
            if not author.room.fault:
                author.say(f"{number} by {author.name}")
            if rng.random() < 0.1:
                bench.pass_time(rng.choice([1, 30, 120]), step=5)
        bench.pass_time(600, step=5)
        bench.check()
        differ = False
        for one, other in itertools.combinations(bench.members, 2):
            if [message.id for message in one.messages] == [m.id for m in other.messages]:
                continue
            differ = True
            told = is_told(one) or is_told(other)
            assert told or may_be_apart(one, other, lies), (
                f"{one.name} and {other.name} see different things, and nothing says so:\n"
                f"{one.texts}\n{other.texts}"
            )
    return lies, differ


def compose_for(minutes: float, seed: int) -> int:
    """Compositions until the time is up; 1 at the first in which something was hidden."""
    print(f"seed {seed}", flush=True)
    ends, number, different = time.monotonic() + minutes * 60, 0, 0
    used: Counter[str] = Counter()
    while number == 0 or time.monotonic() < ends:
        with tempfile.TemporaryDirectory() as folder:
            try:
                lies, differ = compose(f"{seed}/{number}", Path(folder))
            except Exception as error:
                lies = some_lies(random.Random(f"{seed}/{number}"))
                print(f"BROKEN  seed {seed}, number {number}: {' '.join(lies)}\n{error!r}")
                return 1
        used.update(lie.partition(":")[0] for lie in lies)
        number, different = number + 1, different + differ
    told = ", ".join(f"{name} {count}" for name, count in sorted(used.items()))
    print(f"held  {number} compositions, in {different} of them a difference, told ({told})")
    return 0


def main() -> None:
    """Rows, or compositions."""
    parser = argparse.ArgumentParser(prog="python -m tests.threats", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("ids", nargs="*", metavar="ID", help="rows to run; without any, all")
    parser.add_argument("--compose", type=float, metavar="MINUTES", help="throw lies together")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args()
    unknown = sorted(set(options.ids) - set(WANTED))
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    if options.compose is not None:
        sys.exit(compose_for(options.compose, options.seed))
    sys.exit(run_rows(options.ids))


if __name__ == "__main__":
    main()
