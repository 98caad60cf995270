"""Rows about the member's process and profile, versions, and everything at random: F19 to F21, F26.

Rules of this file: real members (`zchat join`), who type; a message counts as acknowledged once its
author's own screen shows it, for that is when a signed head covers it.
"""

import signal
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import zmq

from tests import simulation
from tests.bare import Line
from tests.hosts import Host, Person, copy_home, host
from tests.mishaps import MEMBER_HOOKS
from tests.sweep_wire import pair, settled
from tests.tally import Ground, Tally, row
from zchat.errors import Exit
from zchat.protocol.wire import Refuse

_LINES = 12
_COPIED = "!! this profile was used elsewhere, or restored from a copy"  # herself, nobody else


# ---- F19: versions ----


@row("F19", "other versions of protocol and store")
def versions(ground: Ground) -> Tally:
    """Who speaks another version is told so; a store of another version is not touched."""
    with host(ground.new("versions")) as spoken, pair(spoken, bytes(16)) as (writer, reader):
        writer.write(5)
        writer.settle()
        tally = Tally()
        for number in ground.numbers():
            tally += _other_protocol(spoken, number + 2 if number else 0)
        for number in ground.numbers():
            tally += _other_schema(spoken, number + 2 if number else 0)
        spoken.start()
        for member in (writer, reader):
            member.hang_up()
        tally += settled(spoken, writer, reader)
    return tally


def _other_protocol(spoken: Host, protocol: int) -> Tally:
    tally = Tally(runs=1)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line = Line(context, spoken.target, protocol)
    heard = line.hear(10)
    line.close()
    context.term()
    word = heard[0] if heard else None
    if not isinstance(word, Refuse) or (word.code, bool(word.text)) != ("version", True):
        tally.wrong.append(f"protocol {protocol} got {word}")
    return tally


def _other_schema(spoken: Host, version: int) -> Tally:
    tally = Tally(runs=1)
    if spoken.exit_code is None:
        spoken.end()
    with closing(sqlite3.connect(spoken.store)) as store:
        store.execute(f"PRAGMA user_version = {version}")
    before = spoken.store.read_bytes()
    if spoken.start() or spoken.wait() != Exit.WRONG_SECRET:
        tally.wrong.append(f"schema {version}: exit {spoken.exit_code}")
    if "schema" not in spoken.err.read_text() or spoken.store.read_bytes() != before:
        tally.wrong.append(f"schema {version}: {spoken.err.read_text()}")
    with closing(sqlite3.connect(spoken.store)) as store:
        store.execute("PRAGMA user_version = 1")
    return tally


# ---- F20: kill -9 of a member ----


@row("F20", "kill -9 of a member at every hook")
def kills(ground: Ground) -> Tally:
    """Alice dies while she types, again and again; each next life sends what the last one left."""
    return killed_at_every_hook(ground, max(21, ground.runs))


def killed_at_every_hook(ground: Ground, lives: int) -> Tally:
    """So many lives of alice; bob reads."""
    hooks = list(MEMBER_HOOKS)
    with ExitStack() as stack:
        kept = stack.enter_context(host(ground.new("kept")))
        bob = stack.enter_context(ground.person("bob", kept))
        home = ground.home("alice", kept)
        tally, shown = Tally(), set[str]()
        for number in ground.numbers(lives):
            hook = hooks[number % len(hooks)]
            # In the first round at once: how often a hook is passed is a matter of timing.
            is_sure = number < len(hooks) or hook.endswith("outbox")
            nth = 1 if is_sure else ground.rng.randint(1, 4)
            tally += _killed_member(kept, home, f"kill@{hook}:{nth}", number, shown)
        with _person(kept, home, text="the last\n") as alice:
            alice.wait()
            shown.update(alice.texts)
        bob.until("the last of alice's", lambda: "the last" in bob.texts, 120)
        _judge(tally, bob, shown)
        tally.notes.append(", ".join(f"{hook} {tally.seen[hook]}" for hook in hooks))
        if not all(tally.seen[hook] for hook in hooks):
            tally.wrong.append("a hook was never hit")
    return tally


def _person(at: Host, home: Path, *mishaps: str, text: str | None = None) -> "closing[Person]":
    return closing(Person(home, at.invite(), "alice", *mishaps, text=text))


def _killed_member(kept: Host, home: Path, mishap: str, life: int, shown: set[str]) -> Tally:
    tally = Tally(runs=1)
    lines = "".join(f"life {life:04} line {number:02}\n" for number in range(_LINES))
    with _person(kept, home, mishap, text=lines) as alice:
        code = alice.wait()
        shown.update(alice.texts)
        if code == -signal.SIGKILL:
            tally.seen[mishap.partition("@")[2].partition(":")[0]] += 1
        elif code:
            tally.wrong.append(f"{mishap}: exit {code}: {alice.err[-300:]}")
    return tally


def _judge(tally: Tally, bob: Person, shown: set[str]) -> None:
    """Bob has seen everything that alice was shown, once, in order, and nothing is missing."""
    texts = bob.texts
    tally.acked += len(shown)
    tally.lost += len(shown - {text.partition(" [")[0] for text in texts})
    tally.twice += len(texts) - len(set(texts))
    if texts != sorted(texts):
        tally.wrong.append("bob saw them in another order")
    if "!!" in bob.err or "missing" in bob.err:
        tally.wrong.append(f"bob was told: {bob.err[-500:]}")


# ---- F21: a profile from a backup ----


@row("F21", "a member's profile restored from a backup")
def restored_profiles(ground: Ground) -> Tally:
    """She goes on from an old copy: no alarm, no number twice, everything is there."""
    return ground.tally(lambda number: _restored_profile(ground))


def _restored_profile(ground: Ground) -> Tally:
    with ExitStack() as stack:
        kept = stack.enter_context(host(ground.new("kept")))
        bob = stack.enter_context(ground.person("bob", kept))
        home, copy = ground.home("alice", kept), ground.new("backup")
        told = ""
        shown: list[str] = []
        codes = []
        for number in range(3):
            if number == 1:
                copy_home(home, copy)
            if number == 2:
                copy_home(copy, home)
            with _person(kept, home, text=f"part {number} a\npart {number} b\n") as alice:
                codes.append(alice.wait())
                shown, told = alice.texts, alice.err
        bob.until("all of it", lambda: len(bob.texts) >= 6)
        tally = Tally(runs=1)
        _judge(tally, bob, set(shown))
        if any(codes) or shown != bob.texts or _COPIED not in told or "missing" in told:
            tally.wrong.append(f"exits {codes}, alice saw {shown}, was told {told[-300:]}")
        return tally


# ---- F26: everything at random ----


@row("F26", "everything at once, simulated under a seed")
def simulated(ground: Ground) -> Tally:
    """Seeds of tests/simulation.py; `python3 dev.py simulate` for more of them."""
    tally = Tally()
    steps = 20_000 if ground.is_long else 1_000
    for _ in ground.numbers(min(ground.runs, 200)):
        seed = ground.rng.randrange(2**32)
        tally.runs += 1
        try:
            tally.acked += simulation.simulate(seed, steps)
        except simulation.Broken as broken:
            tally.wrong.append(str(broken))
    tally.notes.append(f"{steps:,} steps each")
    return tally
