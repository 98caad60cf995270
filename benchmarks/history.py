"""P9: a new member of a room of 100,000 messages: the newest screen, all checked, all searched.

A real member with an empty replica, from its first connection on; the room's key is there already
(deriving it takes half a second and is the same for every room).

    python -m benchmarks.history [--full] [--json]
"""

import asyncio
import hashlib
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from nacl import bindings

from benchmarks import harness
from benchmarks.harness import Measured, Plot, Result, Verdict, at_most, sealed_texts, short, spread
from zchat.clock import Clock
from zchat.config import MemberConfig
from zchat.member.archive import Query, search
from zchat.member.client import Client
from zchat.member.rows import Glimpse, Progress
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.keys import RoomKeys

_MESSAGES = 100_000
_SOME = 10_000


def fill(measured: Measured, room: RoomKeys) -> None:
    """Post them all, of ten authors."""
    author = harness.member_of(measured.target)
    k = 0
    for _ in range(_MESSAGES // _SOME):
        for envelope in sealed_texts(room, _SOME):
            k += 1
            author.post(room.tag, k, envelope)
            if k % 256 == 0:
                author.wait_stored(k - 255)
    author.wait_stored(k)


async def join(measured: Measured, keys: RoomKeys, folder: str) -> dict[str, float]:
    """The times of one joiner."""
    server = measured.invite.server
    vault = Vault(Path(folder))
    record = RoomRecord("bench", "joiner", server, server.keys)
    started, cpu = time.perf_counter(), time.process_time()
    client = Client(vault, server, MemberConfig(), Clock())
    client.enter(keys, record)
    newest = checked = 0.0
    async with client:
        client.follow(keys.tag)
        while not checked:
            event = await client.next_event(60)
            assert event is not None, "nothing comes"
            if isinstance(event.what, Glimpse):
                newest = newest or time.perf_counter() - started
            elif isinstance(event.what, Progress) and event.what.caught_up:
                checked = time.perf_counter() - started
    used = time.process_time() - cpu
    return {
        **_searched_afresh(vault.replica_path(keys.tag), keys.root),
        "newest screen s": newest or checked,
        "all checked s": checked,
        "messages checked/s": _MESSAGES / checked,
        "cores used": used / checked,
    }


def _searched_afresh(replica: Path, root: bytes) -> dict[str, float]:
    """In a process of its own, as the command is: forks of one that has joined are slower."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_searched, replica, root).result()


def _searched(replica: Path, root: bytes) -> dict[str, float]:
    """How long it takes to find that no message holds a word, or fits a pattern."""
    took, keys = {}, RoomKeys(root)
    for name, query in (
        ("search by word s", Query(words=("nowhere",))),
        ("search by pattern s", Query(pattern="no.here")),
    ):
        started = time.perf_counter()
        assert not list(search(replica, keys, query))
        took[name] = time.perf_counter() - started
    return took


def _why(used_us: float) -> str:
    public, secret = bindings.crypto_sign_seed_keypair(os.urandom(32))
    key, nonce, text = os.urandom(32), os.urandom(24), os.urandom(512)
    signed, box = (
        bindings.crypto_sign(text[:64], secret),
        bindings.crypto_secretbox(text, nonce, key),
    )
    started = time.process_time()
    for _ in range(2_000):
        bindings.crypto_sign_open(signed, public)
        bindings.crypto_secretbox_open(box, nonce, key)
    outside_us = (time.process_time() - started) / 2_000 * 1e6
    return (
        f"A message takes {short(used_us)} µs of CPU, of which {short(outside_us)} are libsodium's:"
        " only these run on other cores, for the rest holds the interpreter's lock."
        f" {short(used_us / (used_us - outside_us))} cores are the most that can be busy."
    )


def _why_search(took_s: float) -> str:
    key, nonce, envelope = os.urandom(32), os.urandom(24), os.urandom(695)
    box = bindings.crypto_secretbox(envelope[:512], nonce, key)
    started = time.process_time()
    for _ in range(2_000):
        hashlib.blake2b(envelope[:87], key=key).digest()
        bindings.crypto_secretbox_open(box, nonce, key)
    bare_us = (time.process_time() - started) / 2_000 * 1e6
    each_us = took_s * (os.cpu_count() or 1) / _MESSAGES * 1e6
    return (
        f"A message takes {short(each_us)} µs of a core, of which {short(bare_us)} are one hash"
        " and the opening of its box; the rest is to read it from the disk, decode and match it."
    )


def measure(full: bool) -> Result:
    """One room, several joiners."""
    keys = RoomKeys(os.urandom(32))
    joins = []
    with harness.broker() as measured:
        fill(measured, keys)
        for _ in range(5 if full else 2):
            with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
                joins.append(asyncio.run(join(measured, keys, folder)))
    held = {name: spread(each[name] for each in joins) for name in joins[0]}
    cores = held["cores used"]
    wanted = 0.75 * (os.cpu_count() or 1)
    verdicts = [
        at_most("P9", "newest screen of 100,000 messages", 1, held["newest screen s"], "s"),
        at_most(
            *("P9", "local search through them", 1, held["search by word s"], "s"),
            _why_search(held["search by word s"].median),
        ),
        Verdict(
            "P9",
            "cores used while all is checked",
            f"≥ 75 % of {os.cpu_count()}",
            cores,
            "cores",
            cores.median >= wanted,
            _why(cores.median * held["all checked s"].median / _MESSAGES * 1e6),
        ),
    ]
    bars = {name: held[name].median for name in ("newest screen s", "all checked s")}
    plot = Plot("history", "Joining a room of 100,000 messages", "s", bars)
    return Result("History", [dict(held)], verdicts, [], [plot])


if __name__ == "__main__":
    harness.main(measure)
