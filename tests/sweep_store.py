"""Rows about the broker's process and its disk: F1 to F8, F22 to F25.

Rules of this file: a real broker, real files; what counts is what a writer was told is stored.
"""

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import power
from tests.bare import Reader, Writer
from tests.hosts import Host, host, ids_of
from tests.mishaps import BROKER_HOOKS, FAN_OUT
from tests.tally import Ground, Tally, row
from zchat.errors import Exit, StoreTrouble
from zchat.log.ends import Lost, ends_path, lost
from zchat.log.guarded import GuardedLog

ROOM = bytes(range(16))
_HOOKS = [*BROKER_HOOKS, FAN_OUT, "at random"]


# ---- F1: kill -9 ----


@row("F1", "kill -9 of the broker at every hook")
def kills(ground: Ground) -> Tally:
    """Lanes of one broker each, killed again and again; writer and reader live on."""
    total = max(50, ground.runs)
    rngs = [random.Random(ground.rng.random()) for _ in range(2)]
    lanes = ground.tally(lambda lane: _killed_again(ground, rngs[lane], total // 2), 2)
    hits = {hook: lanes.seen.get(hook, 0) for hook in _HOOKS}
    if not all(hits.values()):
        lanes.wrong.append("a hook was never hit")
    lanes.notes.append(", ".join(f"{hook} {hits[hook]}" for hook in _HOOKS))
    return lanes


def _killed_again(ground: Ground, rng: random.Random, kills: int) -> Tally:
    tally = Tally()
    killed = Host(ground.new("killed"))
    killed.start()
    writer, reader = Writer(killed.target, ROOM), Reader(killed.target, ROOM)
    try:
        writer.write()
        writer.settle()
        killed.end()
        for number in range(kills):
            if number >= 25 and not ground.has_time:
                break
            tally += _killed_once(killed, writer, reader, rng, _HOOKS[number % len(_HOOKS)])
        killed.start()
        for member in (writer, reader):
            member.hang_up()
        writer.settle()
        kept = killed.stored(ROOM)
        reader.read_to(len(kept))
        if reader.accuses or list(reader.seen) != list(kept):
            tally.wrong.append(f"a reader sees another log: {reader.accuses}")
        if any(kept.get(entry_id) != n for entry_id, n in writer.acked.items()):
            tally.wrong.append("a message stands at another place than confirmed")
        tally.compare(writer.acked, kept)
        tally.twice += reader.twice
    finally:
        for member in (writer, reader):
            member.close()
        killed.close()
    return tally


def _killed_once(
    killed: Host, writer: Writer, reader: Reader, rng: random.Random, hook: str
) -> Tally:
    """One life: it starts, everybody goes on where they were, and it dies."""
    tally = Tally(runs=1)
    began = time.monotonic()
    mishap = [] if hook == "at random" else [f"kill@{hook}:{rng.randint(1, 12)}"]
    killed.start(*mishap)
    for member in (writer, reader):
        member.hang_up()
    ends = time.monotonic() + (rng.uniform(0, 0.5) if hook == "at random" else 20)
    recovered = False
    former = set(writer.waiting)
    while killed.exit_code is None and time.monotonic() < ends:
        writer.write(rng.randint(1, 6))
        writer.pump(0.01)
        reader.pump(0.01)
        if not recovered and not former & writer.waiting.keys():
            recovered = True
            tally.worst_s = time.monotonic() - began
    if killed.exit_code is None and hook == "at random":
        killed.kill()
        tally.seen[hook] += 1
    elif killed.exit_code == -signal.SIGKILL:
        tally.seen[hook] += 1
    else:
        tally.wrong.append(f"{hook}: it ended with {killed.exit_code}")
        killed.kill()
    return tally


# ---- F2, F3: power ----


@row("F2", "power cut: all that was not synced is gone")
def power_cuts(ground: Ground) -> Tally:
    """The record of a session, cut at many places; FULL loses nothing, and NORMAL must."""
    return _power(ground, torn=False)


@row("F3", "power cut: what was not synced is torn")
def torn_writes(ground: Ground) -> Tally:
    """The same, but of what was not synced some sectors made it."""
    return _power(ground, torn=True)


def _power(ground: Ground, *, torn: bool) -> Tally:
    library = power.build(ground.folder)
    if library is None:
        return Tally(absent="no C compiler (cc) to build the recorder with")
    full = _cut_power(ground, library, (), torn=torn)
    normal = _cut_power(ground, library, ("normal",), torn=torn)
    if not normal.lost:
        full.wrong.append("with synchronous=NORMAL planted nothing was lost: this shows nothing")
    full.notes.append(f"with NORMAL planted {normal.lost} of {normal.acked} confirmed lost")
    return full


def _cut_power(ground: Ground, library: Path, mishaps: tuple[str, ...], *, torn: bool) -> Tally:
    recorded = Host(ground.new("recorded"))
    record = ground.new("record")
    preload = power.preloaded(library, recorded.folder, record=record)
    recorded.start(*mishaps, preload=preload)
    confirmed = _write_noting(recorded, record)
    recorded.kill()
    disk = power.Recording(record)
    rng = random.Random(ground.rng.random()) if torn else None
    cuts = sorted(ground.rng.sample(range(len(confirmed)), min(ground.runs * 2, len(confirmed))))
    tally = Tally()
    for cut in cuts:
        _, position = confirmed[cut]
        disk.play_to(position)
        tally += _after_power_cut(
            ground, recorded, disk.power_cut(rng), [i for i, _ in confirmed[: cut + 1]]
        )
    return tally


def _write_noting(recorded: Host, record: Path) -> list[tuple[bytes, int]]:
    """Write long enough for a checkpoint; each confirmation with where the record stood then."""
    confirmed: list[tuple[bytes, int]] = []
    writer = Writer(recorded.target, ROOM, envelope_bytes=40_000)
    try:
        for _ in range(180):
            writer.write()
            writer.settle()
            position = record.stat().st_size
            confirmed += [(i, position) for i in list(writer.acked)[len(confirmed) :]]
    finally:
        writer.close()
    return confirmed


def _after_power_cut(
    ground: Ground, recorded: Host, files: dict[str, bytes], acked: list[bytes]
) -> Tally:
    """What the real log says of what is left on the disk."""
    tally = Tally(runs=1)
    folder = ground.new("after")
    for path, content in files.items():
        target = folder / Path(path).relative_to(recorded.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    began = time.monotonic()
    store = folder / "broker" / "log.db"
    missing: list[Lost] = []
    try:
        missing = lost(store)
        GuardedLog(store).close()
        kept = ids_of(store, ROOM)
    except (StoreTrouble, AssertionError) as error:
        kept = {}
        tally.wrong.append(f"the store does not come back: {error}")
    tally.worst_s = time.monotonic() - began
    tally.compare(acked, kept)
    if missing and not tally.lost:
        tally.wrong.append(f"a false alarm: {missing}")
    shutil.rmtree(folder)
    return tally


# ---- F5: calls that fail ----


@row("F5", "fsync returns EIO")
def failing_syncs(ground: Ground) -> Tally:
    """The Nth sync after the start fails: no confirmation after that, exit code, restart."""
    return calls_of(ground, "S", 20)


@row("F26b", "every I/O call of the store fails once")
def failing_calls(ground: Ground) -> Tally:
    """The Nth read, write, truncation, sync or removal fails."""
    return calls_of(ground, "WTSRU", 20)


def calls_of(ground: Ground, ops: str, least: int) -> Tally:
    """One of these calls fails: so many of them, or each of them in turn."""
    library = power.build(ground.folder)
    if library is None:
        return Tally(absent="no C compiler (cc) to build the shim with")
    calls = _count_calls(ground, library, ops)
    wanted = range(1, calls + 1)
    chosen = wanted if ground.is_long else sorted(ground.rng.sample(wanted, min(least, calls)))
    tally = ground.tally(
        lambda number: _fails_at(ground, library, ops, chosen[number]), len(chosen)
    )
    if ops == "S" and not tally.seen["stopped"]:
        tally.wrong.append("no failing sync ever stopped the broker")
    tally.notes.append(
        f"{calls} calls in the session; {tally.seen['stopped']} stopped the broker,"
        f" {tally.seen['went on']} were mended by a retry, {tally.seen['no start']} at the start"
    )
    return tally


def _session(failing: Host) -> Writer:
    """Posts, with a checkpoint among them. The writer stops when the broker does."""
    writer = Writer(failing.target, ROOM, envelope_bytes=60_000)
    for _ in range(4):
        for _ in range(25):
            writer.write()
            while writer.waiting and failing.exit_code is None:
                writer.pump(0)
        if failing.exit_code is not None:
            break
    return writer


def _count_calls(ground: Ground, library: Path, ops: str) -> int:
    counted = Host(ground.new("counted"))
    count = ground.new("count")
    counted.start(preload=power.preloaded(library, counted.folder, fail_ops=ops, count=count))
    try:
        _session(counted).close()
        counted.end()
    finally:
        counted.close()
    return int(count.read_text())


def _fails_at(ground: Ground, library: Path, ops: str, at: int) -> Tally:
    tally = Tally(runs=1)
    failing = Host(ground.new("failing"))
    settings = power.preloaded(library, failing.folder, fail_ops=ops, fail_at=at)
    acked: list[bytes] = []
    try:
        if failing.start(preload=settings):
            writer = _session(failing)
            acked = list(writer.acked)
            if failing.exit_code is None:
                failing.end()
                tally.seen["went on"] += 1
            else:
                tally.seen["stopped"] += 1
                if failing.wait() != Exit.STORAGE:
                    tally.wrong.append(f"call {at}: exit {failing.wait()}, {_last(failing)}")
            writer.close()
        else:
            tally.seen["no start"] += 1
            if failing.wait() not in (Exit.NETWORK, Exit.WRONG_SECRET, Exit.STORAGE):
                tally.wrong.append(f"call {at}: exit {failing.wait()}, {_last(failing)}")
        began = time.monotonic()
        if not failing.start():
            tally.wrong.append(f"call {at}: no start afterwards: {_last(failing)}")
        tally.worst_s = time.monotonic() - began
        failing.end()
        tally.compare(acked, failing.stored(ROOM))
    finally:
        failing.close()
        shutil.rmtree(failing.folder, ignore_errors=True)
    return tally


def _last(failing: Host) -> str:
    lines = failing.err.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "nothing said"


# ---- F6: no space ----


@row("F6", "disk full, then space again")
def full_disks(ground: Ground) -> Tally:
    """By a limit of file size, and on a small file system of its own where one can be mounted."""
    tally = ground.tally(lambda number: limited(ground, 300_000 + 17_000 * number), 20)
    tally += _small_disk(ground)
    return tally


def limited(ground: Ground, most_bytes: int) -> Tally:
    """By RLIMIT_FSIZE, which is raised again."""
    with host(ground.new("limited"), f"largest file@{most_bytes}") as full:

        def make_room() -> None:
            hard = resource.prlimit(full.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (hard, hard))

        return _fill(full, make_room)


def _fill(full: Host, make_room: Callable[[], None]) -> Tally:
    """Write until it refuses, make room, and see everything stored over the same connection."""
    tally = Tally(runs=1)
    writer, reader = Writer(full.target, ROOM, envelope_bytes=20_000), Reader(full.target, ROOM)
    try:
        while not writer.refusals and full.exit_code is None:
            writer.write(3)
            writer.pump(0.02)
        reader.read_to(len(writer.acked))  # reading goes on
        before = dict(writer.acked)
        make_room()
        tally.worst_s = writer.settle()
        if set(writer.refusals) != {"storage"}:
            tally.wrong.append(f"refused with {writer.refusals[:3]}")
        kept = full.stored(ROOM)
        reader.read_to(len(kept))
        tally.compare(before | writer.acked, kept)
        tally.twice += reader.twice
        if full.exit_code is not None:
            tally.wrong.append(f"it ended with {full.exit_code}: {_last(full)}")
    finally:
        writer.close()
        reader.close()
    return tally


def _small_disk(ground: Ground) -> Tally:
    folder = ground.new("small")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        return Tally(notes=["no small file system can be mounted here; by RLIMIT_FSIZE only"])
    ballast = folder / "ballast"
    try:
        ballast.write_bytes(bytes(1_000_000))
        with host(folder / "home") as full:
            tally = _fill(full, ballast.unlink)
    finally:
        subprocess.run(["umount", str(folder)], check=False)
    tally.notes.append("and on a file system of 3 MiB")
    return tally


# ---- F8: another store ----


@row("F8", "store gone, read-only, or an old copy")
def other_stores(ground: Ground) -> Tally:
    """It never begins empty unasked; an old copy is noticed by whoever has read further."""
    ways = list(OTHER_STORES.values())
    return ground.tally(lambda number: ways[number % 3](ground), max(21, ground.runs))


@contextlib.contextmanager
def _written(ground: Ground, count: int = 5) -> Iterator[tuple[Host, Writer, Reader]]:
    """A broker with some messages, and who wrote and read them."""
    with host(ground.new("store")) as made:
        writer, reader = Writer(made.target, ROOM), Reader(made.target, ROOM)
        try:
            writer.write(count)
            writer.settle()
            reader.read_to(count)
            yield made, writer, reader
        finally:
            writer.close()
            reader.close()


def _store_gone(ground: Ground) -> Tally:
    tally = Tally(runs=1)
    with _written(ground) as (gone, writer, _):
        gone.end()
        kept = gone.store.read_bytes()
        gone.store.unlink()
        if gone.start() or gone.wait() != Exit.NETWORK or "--new-store" not in _last(gone):
            tally.wrong.append(f"it began empty: {_last(gone)}")
        gone.store.write_bytes(kept)
        began = time.monotonic()
        gone.start()
        writer.hang_up()
        writer.write()
        writer.settle()
        tally.worst_s = time.monotonic() - began
        tally.compare(writer.acked, gone.stored(ROOM))
    return tally


def _store_read_only(ground: Ground) -> Tally:
    """As root nothing is read-only: the folder is made a file's place instead."""
    tally = Tally(runs=1)
    with _written(ground) as (locked, writer, _):
        locked.end()
        for path in locked.store.parent.glob("log.db-*"):
            path.unlink()
        hidden = locked.store.with_name("log.db-journal-kept")
        wal = locked.store.with_name("log.db-wal")
        wal.mkdir()  # what SQLite must write cannot be
        if locked.start():
            tally.wrong.append("it started on a store that it cannot write")
        elif locked.wait() not in (Exit.NETWORK, Exit.WRONG_SECRET, Exit.STORAGE):
            tally.wrong.append(f"exit {locked.wait()}: {_last(locked)}")
        wal.rmdir()
        hidden.unlink(missing_ok=True)
        began = time.monotonic()
        locked.start()
        writer.hang_up()
        writer.write()
        writer.settle()
        tally.worst_s = time.monotonic() - began
        tally.compare(writer.acked, locked.stored(ROOM))
    return tally


def _store_old(ground: Ground) -> Tally:
    """An old copy, put there without `broker restore`: the broker sees it, and says what is lost.

    Without its marks, as somebody would have it who hides the loss, its members see it.
    """
    tally = Tally(runs=1)
    with _written(ground) as (old, writer, reader):
        old.end()
        kept = old.store.read_bytes()
        old.start()
        writer.hang_up()
        reader.hang_up()
        writer.write(3)
        writer.settle()
        reader.read_to(8)
        old.end()
        old.store.write_bytes(kept)
        if old.start() or old.wait() != Exit.STORAGE or "#6-#8" not in old.err.read_text():
            tally.wrong.append(f"it started on an old copy: {_last(old)}")
        ends_path(old.store).unlink()
        old.start()
        reader.hang_up()
        began = time.monotonic()
        while not reader.accuses and time.monotonic() - began < 20:
            reader.pump()
        tally.worst_s = time.monotonic() - began
        if not reader.accuses:
            tally.wrong.append("nobody noticed that it went back")
        tally.acked += len(writer.acked)
    return tally


OTHER_STORES = {"gone": _store_gone, "not writable": _store_read_only, "old": _store_old}
