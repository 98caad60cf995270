"""Rows about what a store holds that nobody wrote, and about a machine that has too little: F4, F7,
F22 to F25.

Rules of this file: damage may cost messages, but the broker notices: it closes the room or does not
go on; a member is shown nothing that was not written.
"""

import os
import random
import shutil
import socket
import sqlite3
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests import power
from tests.bare import Broken, Reader, Writer
from tests.hosts import Host, host, ids_of
from tests.processes import wait_for, zchat
from tests.sweep_wire import MIB, pair, settled
from tests.tally import Ground, Tally, row
from zchat.broker.folder import load_keys
from zchat.database import Access
from zchat.errors import Exit, Malformed
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import Genesis, chain

ROOM, OTHER = bytes(range(16)), bytes(range(16, 32))
_REFUSALS = (Exit.NETWORK, Exit.WRONG_SECRET, Exit.STORAGE)
_PAGE_BYTES = 4096


# ---- F4: bit rot ----


@row("F4", "one bit flipped in the store or its WAL")
def flipped_bits(ground: Ground) -> Tally:
    """Nobody is shown what was not written; what is gone is noticed by the server itself."""
    folder = ground.new("sound")
    with host(folder) as sound, pair(sound, ROOM) as (writer, reader):
        writer.write(60)
        writer.settle()
        kept_in_wal = ground.new("wal")
        sound.kill()
        shutil.copytree(folder, kept_in_wal)
        sound.start()
        sound.end()
        places = [(kept_in_wal, "log.db-wal"), (folder, "log.db")]
        for member in (writer, reader):
            member.hang_up()
        rngs = [random.Random(ground.rng.random()) for _ in range(max(40, ground.runs))]
        acked = list(writer.acked)
        tally = ground.tally(
            lambda n: _flipped(ground, *places[n % 2], acked, rngs[n]), len(rngs), lanes=4
        )
    tally.notes.append(", ".join(f"{what} {count}" for what, count in sorted(tally.seen.items())))
    return tally


def _flipped(
    ground: Ground, source: Path, file: str, acked: list[bytes], rng: random.Random
) -> Tally:
    rotten = Host(ground.new("rotten"))
    shutil.copytree(source / "broker", rotten.folder / "broker")
    path = rotten.folder / "broker" / file
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    tally = Tally(runs=1, acked=len(acked))
    try:
        if not rotten.start():
            tally.seen["no start"] += 1
            if rotten.wait() not in _REFUSALS:
                tally.wrong.append(f"{file}, byte {at}: exit {rotten.wait()}")
            return tally
        tally.seen[_judge_rotten(rotten, acked, tally)] += 1
    finally:
        rotten.close()
        shutil.rmtree(rotten.folder)
    return tally


def _judge_rotten(rotten: Host, acked: list[bytes], tally: Tally) -> str:
    """Who noticed; "harmless" where all is there. A member who had read everything looks in."""
    with closing(Reader(rotten.target, ROOM)) as fresh:
        ends = time.monotonic() + 4
        while fresh.n < len(acked) and not fresh.accuses and time.monotonic() < ends:
            fresh.pump(0.02)
            if rotten.exit_code is not None:
                return "server stopped" if rotten.wait() in _REFUSALS else "server broke"
            if "storage" in fresh.refusals:
                return "room closed"
            if fresh.tip >= 0 and fresh.n == fresh.tip:
                break
        if any(i not in acked for i in fresh.seen):
            tally.wrong.append("a member was shown what nobody wrote")
        if fresh.n == len(acked) and not fresh.accuses:
            return "harmless"
        tally.wrong.append(f"served though damaged: #{fresh.n} of {len(acked)}, {fresh.accuses}")
        return "a member sees what is wrong"


@row("F4b", "one bit flipped in each page of a store of two rooms")
def flipped_pages(ground: Ground) -> Tally:
    """A damaged room is closed and the other one served, or the broker stops for good."""
    folder = ground.new("two")
    with host(folder) as sound:
        written = [Writer(sound.target, room, envelope_bytes=3_000) for room in (ROOM, OTHER)]
        for writer in written:
            writer.write(30)
            writer.settle()
            writer.close()
        sound.end()
    acked = {writer.room: list(writer.acked) for writer in written}
    pages = range((folder / "broker" / "log.db").stat().st_size // _PAGE_BYTES)
    chosen = [*pages] * (20 if ground.is_long else 1)
    if ground.runs < 20:
        chosen = ground.rng.sample(chosen, ground.runs)
    rngs = [random.Random(ground.rng.random()) for _ in chosen]
    tally = ground.tally(
        lambda number: _page_flipped(ground, folder, chosen[number], acked, rngs[number]),
        len(chosen),
        lanes=4,
    )
    tally.notes.append(", ".join(f"{what} {count}" for what, count in sorted(tally.seen.items())))
    return tally


def _page_flipped(
    ground: Ground, source: Path, page: int, acked: dict[bytes, list[bytes]], rng: random.Random
) -> Tally:
    rotten = Host(ground.new("page"))
    shutil.copytree(source / "broker", rotten.folder / "broker")
    content = bytearray(rotten.store.read_bytes())
    bit = page * 8 * _PAGE_BYTES + rng.randrange(8 * _PAGE_BYTES)
    content[bit // 8] ^= 1 << bit % 8
    rotten.store.write_bytes(content)
    tally = Tally(runs=1, acked=sum(map(len, acked.values())))
    try:
        lives = 1
        while (outcome := _life_with(rotten, acked, tally)) == "stopped" and lives < 3:
            lives += 1
        if outcome == "stopped":
            tally.wrong.append(f"it stops again and again: {rotten.err.read_text()[-600:]}")
        tally.seen[outcome] += 1
        if any(word in rotten.err.read_text() for word in ("Traceback", "report")):
            tally.wrong.append(f"a bug: {rotten.err.read_text()[-300:]}")
    finally:
        rotten.close()
        shutil.rmtree(rotten.folder)
    tally.wrong = [f"page {page}, bit {bit}: {wrong}" for wrong in tally.wrong]
    return tally


def _life_with(rotten: Host, acked: dict[bytes, list[bytes]], tally: Tally) -> str:
    """One life of it: everybody reads both rooms and writes in them."""
    if not rotten.start():
        if rotten.wait() not in _REFUSALS or "zchat:" not in rotten.err.read_text():
            tally.wrong.append(f"no start: exit {rotten.wait()}")
        return "no start"
    with ExitStack() as stack:
        pairs = [stack.enter_context(pair(rotten, room)) for room in acked]
        for writer, _ in pairs:
            writer.write()
        wait_for(
            "an answer to everybody",
            lambda: rotten.exit_code is not None or all(_answered(*p, acked) for p in pairs),
        )
        if rotten.exit_code is not None:
            if rotten.exit_code != Exit.STORAGE:
                tally.wrong.append(f"it ended with {rotten.exit_code}")
            return "stopped"
        for _, reader in pairs:
            if list(reader.seen)[:30] != acked[reader.room][: len(reader.seen)] or reader.accuses:
                tally.wrong.append(f"a reader sees what was not written: {reader.accuses}")
        closed = sum("storage" in reader.refusals + writer.refusals for writer, reader in pairs)
        return ("all is well", "one room closed", "both rooms closed")[closed]


def _answered(writer: Writer, reader: Reader, acked: dict[bytes, list[bytes]]) -> bool:
    """Whether both came to an end with this room: it is read and written, or refused."""
    for member in (writer, reader):
        if "storage" not in member.refusals:
            member.pump(0.01)
    is_read = reader.n > len(acked[reader.room]) or "storage" in reader.refusals
    return bool(reader.accuses) or (is_read and bool(writer.acked or writer.refusals))


# ---- F7: two at one store ----


@row("F7", "a second broker on one store")
def two_brokers(ground: Ground) -> Tally:
    """It ends with 3, and the first one goes on."""
    with host(ground.new("owned")) as owned, pair(owned, ROOM) as (writer, reader):
        second = Host(ground.new("second"))
        shutil.rmtree(second.folder)
        second.folder.symlink_to(owned.folder)
        second.count_lives_from(100)
        tally = Tally()
        for _ in ground.numbers():
            writer.write()
            if second.start() or second.wait() != Exit.NETWORK:
                tally.wrong.append(f"a second one: exit {second.exit_code}")
            tally.runs += 1
        tally += settled(owned, writer, reader)
    return tally


# ---- F22, F23: too little ----


@row("F22", "no descriptors left")
def few_descriptors(ground: Ground) -> Tally:
    """Strangers hold all there are; who was in stays, and when they go others get in."""
    tally = Tally()
    with (
        host(ground.new("narrow"), "most descriptors@80") as narrow,
        pair(narrow, ROOM) as (writer, reader),
    ):
        writer.write()
        writer.settle()
        for _ in ground.numbers():
            tally += _crowded(narrow, writer)
        reader.read_to(writer.acked[list(writer.acked)[-1]])
        tally.twice += reader.twice
    return tally


def _crowded(narrow: Host, writer: Writer) -> Tally:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
        writer.write()
        tally = Tally(runs=1)
        writer.settle(10)
        if narrow.exit_code is not None:
            tally.wrong.append(f"it ended with {narrow.exit_code}")
    with pair(narrow, os.urandom(16)) as (late, _):
        late.write()
        tally.worst_s = late.settle(30)
        tally.compare(late.acked, narrow.stored(late.room))
    return tally


@row("F23", "a slow disk: each fsync takes long")
def slow_disk(ground: Ground) -> Tally:
    """Nothing is confirmed before it is synced; the queue is bounded; everything is stored."""
    library = power.build(ground.folder)
    if library is None:
        return Tally(absent="no C compiler (cc) to build the shim with")
    slow = Host(ground.new("slow"))
    slow.start(preload=power.preloaded(library, slow.folder, sync_ms=300))
    tally = Tally()
    try:
        with pair(slow, ROOM) as (writer, reader):
            before = slow.memory_bytes()
            for _ in ground.numbers():
                writer.write(100)
                began = time.monotonic()
                while writer.waiting and time.monotonic() - began < 0.25:
                    writer.pump(0)
                tally.runs += 1
            one = settled(slow, writer, reader)
            grown = slow.memory_bytes() - before
            tally += one
            tally.runs -= 1
            if grown > 64 * MIB:
                tally.wrong.append(f"the server's memory grew by {grown // MIB} MiB")
    finally:
        slow.close()
    return tally


# ---- F24: much ----


@row("F24", "a huge history, and who comes late")
def huge_history(ground: Ground) -> Tally:
    """Twenty latecomers get their first page at once, whatever lies behind it."""
    size = 1_000_000 if ground.is_long else 60_000
    huge = Host(ground.new("huge"))
    try:
        huge.start()
        huge.end()
        _fill(huge, size)
        huge.start()
        before = huge.memory_bytes()
        tally = Tally(acked=size)
        for _ in ground.numbers():
            with closing(Reader(huge.target, ROOM)) as late:
                tally.worst_s = max(tally.worst_s, late.read_to(1))
                tally.runs += 1
        with closing(Reader(huge.target, ROOM)) as late:
            whole_s = late.read_to(size, 600)
            tally.lost, tally.twice = size - len(late.seen), late.twice
        grown = huge.memory_bytes() - before
        if grown > 128 * MIB:  # SQLite's cache may have 64
            tally.wrong.append(f"the server's memory grew by {grown // MIB} MiB")
        tally.notes.append(f"{size:,} messages; all of it read in {whole_s:.1f} s")
    finally:
        huge.close()
    return tally


def _fill(huge: Host, size: int) -> None:
    """Write a room straight into the store, as its broker would have."""
    key = load_keys(huge.folder / "broker").log_key
    genesis = Genesis(ROOM, key.public, os.urandom(16))
    log, last = SqliteLog(huge.store, Access.ONE_WRITER), genesis.log
    envelope = bytearray(os.urandom(600))
    for first in range(1, size + 1, 512):
        envelopes = []
        for n in range(first, min(first + 512, size + 1)):
            envelope[:8] = n.to_bytes(8, "big")
            envelopes.append(bytes(envelope))
        ids = [envelope_id(e) for e in envelopes]
        hashes = chain(last, first, ids)
        rows = zip(ids, hashes, envelopes, strict=True)
        entries = [Entry(n, i, h, e) for n, (i, h, e) in enumerate(rows, first)]
        log.append([Addition(ROOM, entries, genesis.log, (key.sign_birth(genesis),))])
        last = hashes[-1]
    log.close()


# ---- F25: rows nobody wrote ----

_POISON = [
    "UPDATE entries SET hash = x'00' WHERE place >> 40 = 1 AND place & 0xffffffff = 3",
    "UPDATE entries SET id = x'0102' WHERE place >> 40 = 1 AND place & 0xffffffff = 3",
    "UPDATE entries SET weight_end = -1 WHERE place >> 40 = 1 AND place & 0xffffffff = 3",
    "UPDATE entries SET envelope = x'' WHERE place >> 40 = 1 AND place & 0xffffffff = 3",
    "DELETE FROM entries WHERE place >> 40 = 1 AND place & 0xffffffff = 3",
    "INSERT INTO entries VALUES (1 << 40 | 99, x'00', x'00', 0, 0, 0, NULL)",
    "UPDATE rooms SET n = n + 5 WHERE room = 1",
    "UPDATE rooms SET hash = x'00' WHERE room = 1",
    "UPDATE rooms SET births = x'0102' WHERE room = 1",
    "UPDATE rooms SET weight = -9 WHERE room = 1",
]
# Doctor reads what a member could: no row beyond a room's end, and no sum that only limits look at.
_HARMLESS = {s for s in _POISON if "99" in s or "weight" in s}


@row("F25", "rows that nobody wrote")
def poison(ground: Ground) -> Tally:
    """It starts, and closes the bad room; doctor names it; other rooms notice nothing."""
    runs = max(20, min(ground.runs, 60))
    tally = ground.tally(lambda number: _poisoned(ground, _POISON[number % len(_POISON)]), runs)
    tally.notes.append(", ".join(f"{what} {count}" for what, count in sorted(tally.seen.items())))
    return tally


def _poisoned(ground: Ground, statement: str) -> Tally:
    with host(ground.new("poisoned")) as bad, pair(bad, OTHER) as (writer, reader):
        with closing(Writer(bad.target, ROOM)) as first:
            first.write(6)
            first.settle()
        writer.write(6)
        writer.settle()
        bad.end()
        with closing(sqlite3.connect(bad.store)) as store:
            store.execute(statement)
            store.commit()
        tally = Tally()
        if not bad.start():
            tally.wrong.append(f"no start after {statement}: {bad.err.read_text()[-200:]}")
        tally.seen[_ask_for(bad)] += 1
        if bad.exit_code is not None or "members notice" in tally.seen:
            tally.wrong.append(f"exit {bad.exit_code}, {dict(tally.seen)} after {statement}")
            return tally
        for member in (writer, reader):
            member.hang_up()
        writer.write()
        tally += _only(bad, writer, reader)
        bad.end()
        told = zchat(bad.folder, "doctor")
        if told.returncode != 1 and statement not in _HARMLESS:
            tally.wrong.append(f"doctor finds nothing wrong after {statement}: {told.stdout}")
        return tally


def _ask_for(bad: Host) -> str:
    """Somebody reads and writes in the bad room: who notices?"""
    with closing(Reader(bad.target, ROOM)) as asking, closing(Writer(bad.target, ROOM)) as late:
        late.write()
        try:
            for _ in range(4):
                asking.pump(0.1)
                late.pump(0.1)
        except (Broken, Malformed):
            return "members notice"
        if "storage" in asking.refusals + late.refusals:
            return "the room is closed"
        return "members notice" if asking.accuses else "doctor alone notices"


def _only(bad: Host, writer: Writer, reader: Reader) -> Tally:
    """The other room, as if nothing had happened."""
    tally = Tally(runs=1, worst_s=writer.settle(15))
    kept = ids_of(bad.store, OTHER)
    reader.read_to(len(kept), 15)
    tally.compare(writer.acked, kept)
    tally.twice += reader.twice
    return tally
