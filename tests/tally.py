"""What the rows of the fault sweeps share: the ground they stand on, and what they count.

Rules of this file: a row that was not run says why; a count of nothing is no success.
"""

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tests.hosts import Host, Person
from zchat.member.invite import parse_invite
from zchat.member.vault import RoomRecord, Vault, member_folder
from zchat.protocol.keys import RoomKeys

LANES = 2  # as many at a time as a small machine has cores


@dataclass
class Tally:
    """What one row, or one run of it, has seen. `wrong` is every invariant that did not hold."""

    runs: int = 0
    acked: int = 0
    lost: int = 0
    twice: int = 0
    worst_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    absent: str = ""  # the tool without which this cannot be run here
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Tally") -> "Tally":
        self.runs += other.runs
        self.acked += other.acked
        self.lost += other.lost
        self.twice += other.twice
        self.worst_s = max(self.worst_s, other.worst_s)
        self.wrong += other.wrong
        self.seen += other.seen
        self.absent = self.absent or other.absent
        self.notes += other.notes
        return self

    def compare(self, acked: Iterable[bytes], kept: Iterable[bytes]) -> None:
        """Count what was confirmed, and what of it is gone."""
        confirmed = set(acked)
        self.acked += len(confirmed)
        self.lost += len(confirmed - set(kept))

    @property
    def holds(self) -> bool:
        return self.runs > 0 and not (self.lost or self.twice or self.wrong)


class Ground:
    """Where a sweep runs, how long it may take, and its randomness."""

    def __init__(self, folder: Path, rng: random.Random, runs: int, *, ends_at: float) -> None:
        self.folder = folder
        self.rng = rng
        self.runs = runs
        self.is_long = runs > 100
        self._ends_at = ends_at
        self._number = 0

    def new(self, name: str) -> Path:
        """A folder that does not exist yet."""
        self._number += 1
        return self.folder / f"{name}-{self._number}"

    @contextmanager
    def person(
        self, name: str, at: Host, *mishaps: str, address: str = "", home: Path | None = None
    ) -> Iterator[Person]:
        """A member who knows the passphrase of the room `lobby`, there."""
        made = Person(home or self.home(name, at), at.invite(address=address), name, *mishaps)
        try:
            yield made
        finally:
            made.close()

    def home(self, name: str, at: Host) -> Path:
        """A profile that remembers the room's key, which nobody pays Argon2id for again."""
        home = self.new(name)
        keys = parse_invite(at.invite()).server.keys
        room = RoomKeys(bytes(32))
        vault = Vault(member_folder(home, name))
        server = parse_invite(at.invite()).server
        vault.save_room(room.tag, RoomRecord("lobby", name, server, keys, root=room.root))
        vault.close()
        return home

    @property
    def has_time(self) -> bool:
        """Whether more than the least may be run."""
        return time.monotonic() < self._ends_at

    def numbers(self, runs: int | None = None) -> Iterator[int]:
        """Runs to do: 20 at least (or all, if fewer are wanted), then as many as there is time."""
        wanted = self.runs if runs is None else runs
        for number in range(wanted):
            if number >= 20 and not self.has_time:
                return
            yield number

    def tally(
        self, run: Callable[[int], Tally], runs: int | None = None, lanes: int = LANES
    ) -> Tally:
        """The sum over runs, some at a time. A run that fails is a wrong of the sum."""
        total = Tally()
        with ThreadPoolExecutor(lanes) as pool:
            for one in pool.map(lambda number: attempt(run, number), self.numbers(runs)):
                total += one
        return total


def attempt(run: Callable[[int], Tally], number: int) -> Tally:
    """A run; its failure as a Tally."""
    try:
        return run(number)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        told = " | ".join(lines[:6]) or "nothing said"
        return Tally(runs=1, wrong=[f"run {number}: {type(error).__name__}: {told}"])


Row: TypeAlias = Callable[[Ground], Tally]
ROWS: dict[str, tuple[str, Row]] = {}


def row(name: str, title: str) -> Callable[[Row], Row]:
    """Enter a row of the sweeps."""

    def enter(sweep: Row) -> Row:
        assert name not in ROWS
        ROWS[name] = (title, sweep)
        return sweep

    return enter


@contextmanager
def ground(runs: int, minutes: float, seed: int, *, on_disk: bool = False) -> Iterator[Ground]:
    """A folder that goes with its end; in memory where there is a place for that."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) and not on_disk else None
    with tempfile.TemporaryDirectory(prefix="zchat-faults-", dir=where) as folder:
        ends_at = time.monotonic() + 60 * minutes
        yield Ground(Path(folder), random.Random(seed), runs, ends_at=ends_at)
