"""P8: what a member does per message, against the bare libsodium calls that are in it.

The member's own code without its socket: text to frames, and frames to rows, in batches of 100.
Commits of outbox and replica are timed apart. The bare calls are the same hashes, boxes and
signatures over the same bytes, one after the other on one core; the pipeline is compared by CPU
time, so that opening on several cores is no advantage.

    python -m benchmarks.pipeline [--full] [--json]
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nacl import bindings

from benchmarks import harness
from benchmarks.harness import SHORT_TEXT, Plot, Result, at_most, ratio, sealed_texts, spread
from zchat.broker.core import Core as BrokerCore
from zchat.broker.core import Limits, Peer
from zchat.clock import Clock
from zchat.database import Database
from zchat.log.contract import MemoryLog
from zchat.member.core import Core, Do
from zchat.member.invite import Origin, Server
from zchat.member.presence import Rhythm
from zchat.member.room import Room
from zchat.member.session import Say, Session, Timing
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import LogKey
from zchat.protocol.limits import HEAD_BYTES, MAX_WINDOW_BYTES
from zchat.protocol.wire import Frames, Hello, Post, encode

_BATCH = 100
_ROUTE, _FEEDER = b"route", b"feeder"
_PLENTY = 1_000_000_000


class Clocked:
    """CPU seconds spent inside, and of those in commits."""

    def __init__(self) -> None:
        self.total = self.commits = 0.0
        self.is_running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        self.is_running = True
        started = time.process_time()
        yield
        self.total += time.process_time() - started
        self.is_running = False

    def us(self, messages: int) -> float:
        """Without commits, per message."""
        return (self.total - self.commits) / messages * 1e6


class Pair:
    """A member and a broker core in one process, joined by hand."""

    def __init__(self, folder: Path) -> None:
        self.keys = RoomKeys(os.urandom(32))
        log, log_key = MemoryLog(), LogKey(os.urandom(32))
        allowed = Limits(_PLENTY, _PLENTY, _PLENTY, _PLENTY, _PLENTY, _PLENTY)
        self.broker = BrokerCore(log, log_key, allowed, "bench")
        self._log = log
        for route in (_ROUTE, _FEEDER):
            self.broker.connected(route, Peer(route.ljust(32), route.decode()))
        self._to_broker(_FEEDER, encode(Hello(1, 1, "bench")))
        self._k = 0
        server = Server("nowhere", 1, Origin(bytes(32), log_key.public))
        vault = Vault(folder)
        record = RoomRecord("room", "bench", server, server.keys)
        vault.save_room(self.keys.tag, record)
        clock = Clock()
        session = Session(log_key.public, Timing(10, 60, MAX_WINDOW_BYTES), "bench", "nowhere")
        self.member = Core(session, clock)
        self.room = Room(self.keys, record, vault, clock, Rhythm(60, 300), 30)
        self.feed(sealed_texts(self.keys, 1))
        self._exchange([*self.member.add(self.room), *self.member.follow(self.keys.tag)])
        self._exchange(self.member.opened())

    def _exchange(self, done: list[Do]) -> None:
        """What the member says, and what is answered, until nobody has anything to say."""
        while said := [do.frames for do in done if isinstance(do, Say)]:
            answers = [a for frames in said for a in self._to_broker(_ROUTE, frames)]
            done = [do for frames in answers for do in self.member.receive(frames)]

    def _to_broker(self, route: bytes, frames: Frames) -> list[Frames]:
        sends = self.broker.receive(route, frames, 0.0, bytes(16))
        batch = self.broker.batch(0)
        if batch:
            self._log.append(batch)
        sends += [*self.broker.committed(), *self.broker.serve()]
        return [send.frames for send in sends if send.route == _ROUTE]

    def feed(self, envelopes: list[bytes]) -> list[Frames]:
        """Entries of somebody else, in one turn; what the broker sends to the member."""
        for envelope in envelopes:
            self._k += 1
            self.broker.receive(_FEEDER, encode(Post(self.keys.tag, self._k), envelope), 0.0, b"")
        self._log.append(self.broker.batch(0))
        sends = [*self.broker.committed(), *self.broker.serve()]
        return [send.frames for send in sends if send.route == _ROUTE]

    def receive(self, frames: list[Frames], clocked: Clocked) -> None:
        """What the member makes of frames; acknowledgements are not timed."""
        done: list[Do] = []
        with clocked.running():
            for each in frames:
                done += self.member.receive(each)
        self._exchange(done)

    def say(self, texts: list[str], clocked: Clocked) -> None:
        """What it takes to make frames of texts; receipts are not timed."""
        with clocked.running():
            done = self.member.post(self.keys.tag, texts, anyway=False)
        self._exchange(done)


@contextmanager
def commits_apart(clocked: Clocked) -> Iterator[None]:
    """Time every transaction of SQLite while the block runs."""
    original = Database.transaction

    @contextmanager
    def timed(database: Database) -> Iterator[None]:
        started = time.process_time()
        with original(database):
            yield
        if clocked.is_running:
            clocked.commits += time.process_time() - started

    setattr(Database, "transaction", timed)  # noqa: B010  a method, for the time of a block
    try:
        yield
    finally:
        setattr(Database, "transaction", original)  # noqa: B010


# ---- the bare calls ----


def _hash(data: bytes, size: int, label: bytes = b"zchat/1 bench") -> bytes:
    return hashlib.blake2b(data, digest_size=size, person=label).digest()


def bare_seal(bodies: list[bytes], public: bytes, secret: bytes) -> float:
    """CPU seconds: nonce, box key, box, digest, signature, id; and the padding is there already."""
    started = time.process_time()
    for body in bodies:
        nonce = _hash(body, 24)
        keys = _hash(body[:87], 64)
        box = bindings.crypto_secretbox(body, nonce, keys[:32])
        signature = bindings.crypto_sign(_hash(box + body[:103], 64), secret)
        _hash(box + signature + public, 32)
    return time.process_time() - started


def bare_open(bodies: list[bytes], public: bytes, secret: bytes) -> float:
    """CPU seconds: id, chain, box key, signature, box; and one head's signature for all."""
    made = []
    for body in bodies:
        box = bindings.crypto_secretbox(body, body[:24], body[:32])
        made.append((body, box, bindings.crypto_sign(_hash(box, 64), secret)))
    head = bindings.crypto_sign(_hash(bytes(HEAD_BYTES), 64), secret)
    started = time.process_time()
    bindings.crypto_sign_open(head, public)
    for body, box, signed in made:
        _hash(box + body[:183], 32)
        _hash(body[:72], 32)
        _hash(body[:87], 64)
        _hash(box + body[:103], 64)
        bindings.crypto_sign_open(signed, public)
        bindings.crypto_secretbox_open(box, body[:24], body[:32])
    return time.process_time() - started


# ---- the whole ----


def _round(batches: int) -> dict[str, float]:
    """One pair of each figure, in CPU µs per message."""
    count = batches * _BATCH
    bodies = [os.urandom(512) for _ in range(_BATCH)]
    public, secret = bindings.crypto_sign_seed_keypair(os.urandom(32))
    sending, receiving = Clocked(), Clocked()
    bare_out = bare_in = 0.0
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        pair = Pair(Path(folder))
        for envelopes in _cut(sealed_texts(pair.keys, count)):
            with commits_apart(sending):
                pair.say([SHORT_TEXT] * _BATCH, sending)
            bare_out += bare_seal(bodies, public, secret)
            frames = pair.feed(envelopes)
            with commits_apart(receiving):
                pair.receive(frames, receiving)
            bare_in += bare_open(bodies, public, secret)
    assert pair.room.checked.n == 1 + 2 * count, "not all arrived"
    return {
        "seal and post": sending.us(count),
        "seal and post, bare": bare_out / count * 1e6,
        "commit of the outbox": sending.commits / count * 1e6,
        "receive, check, open, keep": receiving.us(count),
        "receive, bare": bare_in / count * 1e6,
        "commit of the replica": receiving.commits / count * 1e6,
    }


def _cut(envelopes: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(envelopes), _BATCH):
        yield envelopes[at : at + _BATCH]


def measure(full: bool) -> Result:
    """Both ways, several rounds."""
    rounds = [_round(40 if full else 10) for _ in range(7 if full else 5)]
    held: Callable[[str], list[float]] = lambda name: [each[name] for each in rounds]  # noqa: E731
    rows: list[dict[str, harness.Cell]] = [
        {"": name, "CPU µs/message": spread(held(name))} for name in rounds[0]
    ]
    out = ratio(held("seal and post"), held("seal and post, bare"))
    back = ratio(held("receive, check, open, keep"), held("receive, bare"))
    verdicts = [
        at_most("P8", "seal and post, to the bare calls", 2, out, "×"),
        at_most("P8", "receive, check, open and keep, to the bare calls", 2, back, "×"),
    ]
    bars = {name: spread(held(name)).median for name in rounds[0]}
    plot = Plot("pipeline", "A member's CPU per message, batches of 100", "µs", bars)
    return Result("A member's pipeline", rows, verdicts, [], [plot])


if __name__ == "__main__":
    harness.main(measure)
