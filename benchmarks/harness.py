"""What the measurements share: a real broker in a process of its own, and bare members.

A bare member speaks the protocol over a real CURVE socket and neither opens nor stores what it
gets, so that what is measured is the server. Figures are of one run on one machine: compare them
within a run, not across machines.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zchat.member.invite import Invite, parse_invite
from zchat.protocol.body import Text
from zchat.protocol.body import encode as encode_body
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.ledger import NO_HEAD_BYTES, NO_LOG, Head
from zchat.protocol.limits import MAX_MESSAGE_BYTES, MAX_WINDOW_BYTES
from zchat.protocol.seal import seal
from zchat.protocol.wire import (
    Entries,
    Hello,
    Join,
    Position,
    Post,
    Stored,
    ToMember,
    decode_to_member,
    encode,
)

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
NO_LIMITS = "\n".join(
    f"{name} = 1000000000"
    for name in (
        *("post_burst", "posts_per_s", "control_burst", "controls_per_s"),
        *("connections_per_address", "handshake_burst", "handshakes_per_s"),
    )
)


class Measured(NamedTuple):
    """A broker under measurement."""

    invite: Invite
    pid: int

    def cpu_s(self) -> float:
        """Seconds of processor time, user and system, that the broker has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@contextmanager
def broker(settings: str = NO_LIMITS) -> Iterator[Measured]:
    """A real `zchat broker` with its limits out of the way, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "broker.toml").write_text(settings)
        environment = {**os.environ, "ZCHAT_HOME": folder}
        command = [sys.executable, "-m", "zchat", "broker", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert process.stdout is not None
        try:
            invite = parse_invite(process.stdout.readline().decode().strip())
            yield Measured(invite, process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


class BareMember:
    """A connection that has said HELLO."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", invite: Invite) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = MAX_MESSAGE_BYTES
        self.socket.rcvhwm = 0
        public, secret = zmq.curve_keypair()
        self.socket.curve_publickey = public
        self.socket.curve_secretkey = secret
        self.socket.curve_serverkey = z85.encode(invite.server.keys.curve_key)
        self.socket.connect(f"tcp://{invite.server.address}")
        self.socket.send_multipart(encode(Hello(1, 1, "bench")))
        self.log, self.n, self.hash = NO_LOG, 0, NO_LOG
        self._unacknowledged = 0
        self.receive()

    def receive(self) -> tuple[ToMember, bytes]:
        """The next word and its attachment."""
        return decode_to_member(self.socket.recv_multipart())

    def join(self, room: bytes, window: int = MAX_WINDOW_BYTES) -> None:
        """Subscribe, or acknowledge what was received."""
        self._unacknowledged = 0
        position = Position(room, self.log, 1, self.n, self.hash, window)
        self.socket.send_multipart(encode(Join(2, (position,))))

    def take(self, word: Entries, batch: bytes) -> int:
        """Note entries as received, acknowledging in time; how many there were."""
        if not batch:
            return 0
        head = Head.unpack(word.head)
        count = head.n - self.n
        self.log, self.n, self.hash = head.log, head.n, head.hash
        self._unacknowledged += len(batch)
        if self._unacknowledged * 2 > MAX_WINDOW_BYTES:
            self.join(word.room)
        return count

    def post(self, room: bytes, k: int, envelope: bytes) -> None:
        """Post an envelope under its number."""
        self.socket.send_multipart(encode(Post(room, k), envelope))

    def wait_stored(self, k: int) -> None:
        """Until every post up to k is answered."""
        while True:
            word, _ = self.receive()
            if isinstance(word, Stored) and word.k >= k:
                return


def sealed_texts(
    room: RoomKeys, count: int, text: str = "a short text, as people write"
) -> list[bytes]:
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


def report(title: str, rows: list[dict[str, float]], *, as_json: bool) -> None:
    """Print figures for people or for scripts."""
    if as_json:
        print(json.dumps({"title": title, "rows": rows}))
        return
    print(title)
    for row in rows:
        print("  " + "  ".join(f"{name} {value:,.4g}" for name, value in row.items()))
