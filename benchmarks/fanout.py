"""Deliveries a second and server CPU per delivery, for 1, 10 and 100 members of one room.

Real sockets, CURVE on, every message durable before it is delivered. One publisher posts as fast
as it is answered; the members count what they get.

    .venv/bin/python benchmarks/fanout.py [--messages N] [--json]
"""

import argparse
import multiprocessing
import os
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import zmq

from benchmarks.harness import BareMember, broker, report, sealed_texts
from zchat.member.invite import Invite
from zchat.protocol.keys import RoomKeys
from zchat.protocol.wire import Entries

_ON_THE_WAY = 256


def subscribe(
    invite: Invite, room: bytes, members: int, messages: int, ready: Barrier, done: Barrier
) -> None:
    """Members in one process: count entries until all have all."""
    context = zmq.Context()
    context.max_sockets = members + 8
    joined = [BareMember(context, invite) for _ in range(members)]
    poller = zmq.Poller()
    by_socket = {}
    for member in joined:
        member.join(room)
        member.receive()
        poller.register(member.socket, zmq.POLLIN)
        by_socket[member.socket] = member
    ready.wait()
    missing = members * messages
    while missing:
        for socket, _ in poller.poll():
            word, batch = by_socket[socket].receive()
            if isinstance(word, Entries):
                missing -= by_socket[socket].take(word, batch)
    done.wait()


def measure(members: int, messages: int) -> dict[str, float]:
    """One row of the table."""
    room = RoomKeys(os.urandom(32))
    envelopes = sealed_texts(room, messages)
    ready, done = multiprocessing.Barrier(2), multiprocessing.Barrier(2)
    with broker() as server:
        arguments = (server.invite, room.tag, members, messages, ready, done)
        readers = multiprocessing.Process(target=subscribe, args=arguments)
        readers.start()
        publisher = BareMember(zmq.Context(), server.invite)
        ready.wait()
        cpu, started = server.cpu_s(), time.perf_counter()
        for k, envelope in enumerate(envelopes, 1):
            publisher.post(room.tag, k, envelope)
            if k > _ON_THE_WAY and k % (_ON_THE_WAY // 2) == 0:
                publisher.wait_stored(k - _ON_THE_WAY)
        done.wait()
        took, used = time.perf_counter() - started, server.cpu_s() - cpu
        readers.join()
    deliveries = members * messages
    return {
        "members": members,
        "deliveries/s": deliveries / took,
        "server CPU us/delivery": used / deliveries * 1e6,
        "messages/s": messages / took,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [measure(members, options.messages) for members in (1, 10, 100)]
    report("fan-out, CURVE on, durable before delivery", rows, as_json=options.json)


if __name__ == "__main__":
    main()
