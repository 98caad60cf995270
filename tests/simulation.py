"""Everything at once, under a seed: real cores of both halves on a network that misbehaves.

Goal: whatever is lost, repeated, reordered, delayed, cut or killed between any two steps, the
invariants hold. Method: one seed decides everything; time, randomness and the network are ours, the
code is the program's: broker Core, member Core, Session, Room, Transcript, Vault and replica. After
every step a checker compares; at the end the network heals and everybody must agree.

    python3 dev.py simulate --steps 50000 --seeds 20
    python3 dev.py simulate --planted     which seed finds each of the bugs in planted.py

What is checked (numbers as in docs/operations.md):
    I1  an id that was confirmed to its author stays in the log, for every member to read
    I2  a process shows each id once                   I3  an author's numbers rise on every screen
    I4  those who hold the same set show one order     I6  nothing is shown that nobody wrote
    I5  a server leaves no gap on a connection that loses and moves nothing
    I7  every message ends as stored, or waits in an outbox
    I10 the log is gapless and chained                 I12 no honest server is ever accused
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from zchat.broker.core import Core as BrokerCore
from zchat.broker.core import Limits, Peer
from zchat.broker.send import Send
from zchat.clock import Clock
from zchat.log.contract import BrokerLog, MemoryLog
from zchat.member.core import Core as MemberCore
from zchat.member.core import Do
from zchat.member.invite import Origin, Server
from zchat.member.presence import Rhythm
from zchat.member.room import Room
from zchat.member.rows import Blame, Composed, Confirmed, Event, Message, Notice
from zchat.member.session import Reopen, Say, Session, Timing
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import LogKey, chain

Frames = tuple[bytes, ...]


class SimulatedClock(Clock):
    """Time that moves when we say so; bytes that the seed decides."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + int(self.time * 1000)

    def random(self, size: int) -> bytes:
        return self._rng.randbytes(size)


@dataclass(eq=False)
class Wire:
    """One connection: what is under way in each direction."""

    route: bytes
    is_faithful: bool = True
    to_broker: deque[Frames] = field(default_factory=deque)
    to_member: deque[Frames] = field(default_factory=deque)


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Chaos:
    """How bad the weather is: chances per step."""

    say: float = 0.15
    cut: float = 0.01
    lose: float = 0.003
    repeat: float = 0.003
    swap: float = 0.003
    full_pipe: float = 0.005
    full_disk: float = 0.005
    kill_broker: float = 0.004
    kill_member: float = 0.004
    sleep: float = 0.002


class SimulatedMember:
    """One member: a process that can die, and a vault that cannot."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.folder = world.folder / name
        self.wire: Wire | None = None
        self.said: dict[bytes, str] = {}
        self.confirmed: dict[bytes, int] = {}
        self.start()

    def start(self) -> None:
        """A new process: everything but the vault and the replica is new."""
        world = self.world
        self.vault = Vault(self.folder)
        timing = Timing(answer_timeout_s=10, idle_join_s=60, window_bytes=world.window)
        session = Session(world.log_key.public, timing, "simulation", "nowhere")
        self.core = MemberCore(session, world.clock)
        server = Server("nowhere", 1, Origin(bytes(32), world.log_key.public))
        record = self.vault.room(world.keys.tag) or RoomRecord(
            "room", self.name, server, server.keys
        )
        if self.vault.room(world.keys.tag) is None:
            self.vault.save_room(world.keys.tag, record)
        self.room = Room(world.keys, record, self.vault, world.clock, Rhythm(20, 60), 30)
        self.shown: list[bytes] = []
        self.numbers: dict[bytes, int] = {}  # by sender: the last text's
        for row in self.room.replay():
            self.see(row)
        self.do(self.core.add(self.room))
        self.do(self.core.follow(world.keys.tag))
        self.core.beat(world.keys.tag)

    def die(self) -> None:
        """Kill -9: locks are let go, nothing is written."""
        self.disconnect()
        self.room._replica.close()
        self.vault._db.close()
        self.vault._alive.release()

    @property
    def gaps(self) -> int:
        """How often in a row entries came that began beyond our end."""
        return self.core._session._rooms[self.world.keys.tag].gaps

    def disconnect(self) -> None:
        if self.wire is not None:
            self.world.wires.pop(self.wire.route, None)
            self.wire = None
            self.do(self.core.closed("cut"))

    def connect(self) -> None:
        self.wire = self.world.new_wire()
        self.do(self.core.opened())

    def say(self, text: str) -> None:
        self.do(self.core.post(self.world.keys.tag, [text], anyway=False))

    def do(self, actions: Iterable[Do]) -> None:
        for action in actions:
            if isinstance(action, Say):
                if self.wire is not None:
                    self.wire.to_broker.append(action.frames)
            elif isinstance(action, Reopen):
                if self.wire is not None:
                    self.world.wires.pop(self.wire.route, None)
                    self.wire = None
            else:
                self.notice(action)

    def notice(self, event: Event) -> None:
        what = event.what
        if isinstance(what, Composed):
            self.said[what.id] = what.text
            self.world.written[what.id] = what.text
        elif isinstance(what, Confirmed):
            self.confirmed[what.id] = what.n
            self.world.check_confirmed(what)
        else:
            self.see(what)

    def see(self, what: object) -> None:
        """Something for the screen: I2, I3, I6, I12."""
        if isinstance(what, Notice) and what.blame is Blame.SERVER:
            raise Broken(f"I12: {self.name} accuses an honest server: {what.text}")
        if isinstance(what, Notice) and what.blame is Blame.AUTHOR:
            raise Broken(f"I12: {self.name} accuses an honest author: {what.text}")
        if isinstance(what, Message):
            if what.id in self.shown:
                raise Broken(f"I2: {self.name} shows {what.text!r} twice")
            if self.world.written.get(what.id) != what.text:
                raise Broken(f"I6: {self.name} shows {what.text!r}, which nobody wrote")
            self.shown.append(what.id)
            number = int(what.text.rsplit(" ", 1)[1])
            if self.numbers.get(what.sender, 0) >= number:
                raise Broken(f"I3: {self.name} shows {what.text!r} after #{self.numbers}")
            self.numbers[what.sender] = number


class World:
    """A broker, members, wires, and the checker."""

    def __init__(self, seed: int, folder: Path, chaos: Chaos, members: int = 3) -> None:
        self.rng = random.Random(seed)
        self.chaos = chaos
        self.folder = folder
        self.clock = SimulatedClock(self.rng)
        self.window = self.rng.choice([0, 2_000, 20_000, 1_000_000])
        self.log_key = LogKey(self.rng.randbytes(32))
        self.keys = RoomKeys(self.rng.randbytes(32))
        self.log: BrokerLog = MemoryLog()
        self.wires: dict[bytes, Wire] = {}
        self.written: dict[bytes, str] = {}
        self.counter = 0
        self.routes = 0
        self.start_broker()
        self.members = [SimulatedMember(self, f"m{i}") for i in range(members)]

    # ---- the broker's shell, as server.py does it ----

    def start_broker(self) -> None:
        limits = Limits(post_burst=50, posts_per_s=20, control_burst=500, controls_per_s=100)
        self.broker = BrokerCore(self.log, self.log_key, limits, "simulation")

    def new_wire(self) -> Wire:
        self.routes += 1
        route = self.routes.to_bytes(5, "big")
        self.wires[route] = Wire(route)
        return self.wires[route]

    def broker_turn(self) -> None:
        """Drain some of what waits, commit once, hand out."""
        for route, wire in list(self.wires.items()):
            for _ in range(self.rng.randint(0, 8)):
                if not wire.to_broker or self.broker.full:
                    break
                if not self.broker.knows(route):
                    self.broker.connected(route, Peer(route, "127.0.0.1"))
                frames = wire.to_broker.popleft()
                self.send(
                    self.broker.receive(route, frames, self.clock.now(), self.clock.random(16))
                )
        for route in list(self.broker._connections):
            if route not in self.wires:
                self.broker.closed(route)
        self.commit()
        self.broker.retry_stuck()
        self.send(self.broker.serve())

    def commit(self) -> None:
        batch = self.broker.batch(self.clock.wall_ms())
        if batch and self.rng.random() < self.chaos.full_disk:
            self.send(self.broker.failed())
            return
        if batch:
            self.log.append(batch)
        if batch and self.rng.random() < self.chaos.kill_broker:
            self.kill_broker()  # after the commit, before anybody hears of it
            return
        self.send(self.broker.committed())

    def send(self, sends: Iterable[Send]) -> None:
        full: set[bytes] = set()
        for send in sends:
            wire = self.wires.get(send.route)
            if wire is None:
                self.broker.closed(send.route)
            elif send.route in full or self.rng.random() < self.chaos.full_pipe:
                full.add(send.route)
                self.broker.unsent(send)
            else:
                wire.to_member.append(send.frames)

    def kill_broker(self) -> None:
        for member in self.members:
            member.disconnect()
        self.wires.clear()
        self.start_broker()

    # ---- steps ----

    def step(self) -> None:
        """One random thing happens."""
        rng, chaos = self.rng, self.chaos
        self.clock.time += rng.expovariate(20)
        member = rng.choice(self.members)
        if member.wire is None and rng.random() < 0.3:
            member.connect()
        if rng.random() < chaos.say:
            self.counter += 1
            member.say(f"{member.name} says {self.counter}")
        self.break_something(member)
        self.deliver(member)
        if rng.random() < 0.5:
            self.broker_turn()
        if rng.random() < 0.3:
            member.do(member.core.tick())

    def break_something(self, member: SimulatedMember) -> None:
        rng, chaos = self.rng, self.chaos
        if rng.random() < chaos.cut:
            member.disconnect()
        if rng.random() < chaos.kill_broker:
            self.kill_broker()
        if rng.random() < chaos.kill_member:
            member.die()
            member.start()
        if rng.random() < chaos.sleep:
            self.clock.time += rng.uniform(1, 100)
        if member.wire is not None:
            self.disturb(member.wire)

    def disturb(self, wire: Wire) -> None:
        """Lose, repeat or swap something that is under way."""
        rng, chaos = self.rng, self.chaos
        for queue in (wire.to_broker, wire.to_member):
            before = list(queue)
            if queue and rng.random() < chaos.lose:
                del queue[rng.randrange(len(queue))]
            if queue and rng.random() < chaos.repeat:
                queue.append(queue[rng.randrange(len(queue))])
            if len(queue) > 1 and rng.random() < chaos.swap:
                i, j = rng.sample(range(len(queue)), 2)
                queue[i], queue[j] = queue[j], queue[i]
            wire.is_faithful = wire.is_faithful and before == list(queue)

    def deliver(self, member: SimulatedMember) -> None:
        wire = member.wire
        for _ in range(self.rng.randint(0, 8)):
            if wire is None or wire is not member.wire or not wire.to_member:
                return
            gaps = member.gaps
            member.do(member.core.receive(wire.to_member.popleft()))
            if wire.is_faithful and member.gaps > gaps:
                raise Broken(f"I5: entries to {member.name} were left out on a sound connection")

    # ---- the checker ----

    def check_confirmed(self, confirmed: Confirmed) -> None:
        """I1: what an author was told is stored is stored, there."""
        if self.log.place_of(self.keys.tag, confirmed.id) != confirmed.n:
            raise Broken(f"I1: confirmed at #{confirmed.n}, and not there")

    def check_log(self) -> None:
        """I10: gapless and chained; I1 for all that was ever confirmed."""
        tip = self.log.tip(self.keys.tag)
        if tip is None:
            return
        entries = [self.log.read(self.keys.tag, n, n)[0] for n in range(1, tip.n + 1)]
        ids = [entry.id for entry in entries]
        if [entry.hash for entry in entries] != chain(tip.log, 1, ids):
            raise Broken("I10: the chain does not hold")
        if len(set(ids)) != len(ids):
            raise Broken("I10: an id stands twice")
        for member in self.members:
            for entry_id, n in member.confirmed.items():
                if ids[n - 1] != entry_id:
                    raise Broken("I1: a confirmed message is gone")

    def heal(self) -> None:
        """The weather clears; everything must come to rest within a minute or two."""
        self.chaos = Chaos(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        ends = self.clock.time + 300
        while self.clock.time < ends and not self.is_at_rest():
            self.clock.time += 0.05
            for member in self.members:
                if member.wire is None:
                    member.connect()
                self.deliver(member)
                member.do(member.core.tick())
            self.broker_turn()
        if not self.is_at_rest():
            waiting = {member.name: len(member.room.unconfirmed) for member in self.members}
            raise Broken(f"I7/I9: no rest after healing: {waiting}")
        self.check_log()
        self.check_agreement()

    def is_at_rest(self) -> bool:
        tip = self.log.tip(self.keys.tag)
        n = tip.n if tip else 0
        return all(
            not member.room.unconfirmed and member.room.checked.n == n for member in self.members
        )

    def check_agreement(self) -> None:
        """I4 and I7: all show the same, in one order; every message that was written is there."""
        orders = {tuple(member.shown) for member in self.members}
        if len(orders) > 1:
            raise Broken("I4: two members show different transcripts")
        missing = self.written.keys() - set(self.members[0].shown)
        if missing:
            texts = sorted(self.written[entry_id] for entry_id in missing)
            raise Broken(f"I7: never stored, though it was in an outbox: {texts[:3]}")
        for member in self.members:
            if member.room.transcript.missing_count():
                raise Broken(f"I5: {member.name} believes that messages are missing")


def simulate(seed: int, steps: int, chaos: Chaos = Chaos()) -> int:
    """Run one seed; the number of messages written. Raises Broken, naming the seed."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    world = World(seed, folder, chaos)
    try:
        for number in range(steps):
            try:
                world.step()
                if number % 1_000 == 0:
                    world.check_log()
            except Exception as error:
                raise Broken(f"seed {seed}, step {number}: {error!r}") from error
        try:
            world.heal()
        except Exception as error:
            raise Broken(f"seed {seed}, healing: {error!r}") from error
    finally:
        for member in world.members:
            member.die()
        shutil.rmtree(folder)
    return len(world.written)


def find_planted(steps: int, most_seeds: int = 1_000) -> bool:
    """Say which seed finds each planted bug; False if one is not found."""
    from tests.planted import PLANTS, planted  # which imports this module

    all_found = True
    for name in PLANTS:
        with planted(name):
            found = next((s for s in range(most_seeds) if _finds(s, steps)), None)
        print(f"{name}: " + ("NOT FOUND" if found is None else f"seed {found}"), flush=True)
        all_found = all_found and found is not None
    return all_found


def _finds(seed: int, steps: int) -> bool:
    try:
        simulate(seed, steps)
    except Broken:
        return True
    return False


def main() -> None:
    """Run seeds and say what held."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--planted", action="store_true", help="find every planted bug")
    options = parser.parse_args()
    if options.planted:
        sys.exit(0 if find_planted(options.steps) else 1)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        try:
            written = simulate(seed, options.steps)
        except Broken as broken:
            print(f"BROKEN  {broken}")
            sys.exit(1)
        print(f"held  seed {seed}  steps {options.steps}  messages {written}", flush=True)


if __name__ == "__main__":
    from tests import simulation  # this file, by the name under which planted.py changes it

    simulation.main()
