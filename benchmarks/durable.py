"""P3: durable posts accepted a second in one room, by 8 members that only post.

Every server acknowledges a post only after it is synced to the disk; each member has the same
number of posts unanswered everywhere. Nobody reads: what is measured is taking and keeping.

    python -m benchmarks.durable [--full] [--json]
"""

import os
import select
import socket
import time

import zmq

from benchmarks import bare, harness, peers
from benchmarks.harness import Plot, Result, at_least, ratio, sealed_texts, spread
from zchat.protocol.keys import RoomKeys

POSTERS = 8
IN_FLIGHT = 128  # of each; what a member's program allows itself
_ZCHAT = "zchat"
_ENCRYPTS = {_ZCHAT: "transport and end to end", bare.NAME: "transport"}
_PATIENCE_S = 60.0


def run_zchat(posts: int) -> float:
    """Posts a second that our broker takes, over CURVE."""
    room = RoomKeys(os.urandom(32))
    with harness.broker() as measured:
        members = [harness.member_of(measured.target) for _ in range(POSTERS)]
        texts = [sealed_texts(room, posts // POSTERS) for _ in members]
        sent, answered = [0] * POSTERS, [0] * POSTERS
        poller = zmq.Poller()
        for member in members:
            poller.register(member.socket, zmq.POLLIN)
        started = time.perf_counter()
        while min(answered) < len(texts[0]):
            for i, member in enumerate(members):
                answered[i] = max(answered[i], member.stored())
                while sent[i] < len(texts[i]) and sent[i] - answered[i] < IN_FLIGHT:
                    member.post(room.tag, sent[i] + 1, texts[i][sent[i]])
                    sent[i] += 1
            if min(answered) < len(texts[0]) and not poller.poll(int(_PATIENCE_S * 1000)):
                raise TimeoutError("posts are not answered")
        return sum(sent) / (time.perf_counter() - started)


def run_relay(posts: int) -> float:
    """Posts a second that libzmq and Python alone take, and forget."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    with bare.relay() as (target, _):
        members = [bare.RelayMember(zmq.Context(), target) for _ in range(POSTERS)]
        sent, wanted = [0] * POSTERS, posts // POSTERS
        poller = zmq.Poller()
        for member in members:
            poller.register(member.socket, zmq.POLLIN)
        started = time.perf_counter()
        while min(member.taken for member in members) < wanted:
            for i, member in enumerate(members):
                while sent[i] < wanted and sent[i] - member.taken < IN_FLIGHT:
                    member.post(content)
                    sent[i] += 1
            poller.poll(int(_PATIENCE_S * 1000))
            for member in members:
                member.drain()
        return sum(sent) / (time.perf_counter() - started)


def run_peer(kind: type[peers.Peer], posts: int) -> float:
    """Posts a second that a peer takes, over plain TCP."""
    content = sealed_texts(RoomKeys(os.urandom(32)), 1)[0]
    with peers.running(kind) as peer:
        if isinstance(peer, peers.JetStream):
            peer.make_stream()
        members = [peer.connect() for _ in range(POSTERS)]
        for i, member in enumerate(members):
            peer.await_acknowledgements(member, i)
        publications = [peer.acknowledged(content, i) for i in range(POSTERS)]
        return _pump(members, publications, peer.acknowledgement, int(posts * kind.weight))


def _pump(
    members: list[socket.socket], publications: list[bytes], mark: bytes, posts: int
) -> float:
    sent, answered = [0] * POSTERS, [0] * POSTERS
    poller, index = select.epoll(), {}
    for i, member in enumerate(members):
        index[member.fileno()] = i
        poller.register(member, select.EPOLLIN)
        member.setblocking(True)
    wanted = posts // POSTERS
    started = time.perf_counter()
    for i, member in enumerate(members):
        sent[i] = min(IN_FLIGHT, wanted)
        member.sendall(publications[i] * sent[i])
    while min(answered) < wanted:
        ready = poller.poll(_PATIENCE_S)
        if not ready:
            raise TimeoutError("posts are not answered")
        for descriptor, _ in ready:
            i = index[descriptor]
            answered[i] += members[i].recv(1 << 20).count(mark)
            more = min(wanted - sent[i], IN_FLIGHT - (sent[i] - answered[i]))
            if more:
                members[i].sendall(publications[i] * more)
                sent[i] += more
    return sum(sent) / (time.perf_counter() - started)


def measure(full: bool) -> Result:
    """All servers, round by round."""
    rounds, posts = (7, 40_000) if full else (3, 16_000)
    kinds: tuple[type[peers.Peer], ...] = (peers.JetStream, peers.RedisStreams)
    rates: dict[str, list[float]] = {_ZCHAT: [], bare.NAME: []}
    notes = [f"{POSTERS} members, {IN_FLIGHT} posts of each unanswered, one room"]
    for _ in range(rounds):
        rates[_ZCHAT].append(run_zchat(posts))
        rates[bare.NAME].append(run_relay(posts))
        for kind in kinds:
            try:
                rates.setdefault(kind.name, []).append(run_peer(kind, posts))
            except (peers.Missing, OSError) as trouble:
                notes.append(f"{kind.name} left out: {trouble}")
                rates.pop(kind.name, None)
    rows: list[dict[str, harness.Cell]] = [
        {
            "server": name,
            "posts/s": spread(held),
            "zchat to it": ratio(rates[_ZCHAT], held),
            "encrypts": _ENCRYPTS.get(name, "no"),
            "durable": "no" if name == bare.NAME else "yes",
        }
        for name, held in rates.items()
    ]
    verdicts = [
        at_least("P3", f"durable posts, to {kind.name}", bound, *_to(rates, kind.name))
        for kind, bound in zip(kinds, (10.0, 5.0), strict=True)
        if kind.name in rates
    ]
    bars = {name: spread(held).median for name, held in rates.items()}
    plot = Plot("durable", "Durable posts a second", "posts/s", bars)
    return Result("Durable posts", rows, verdicts, list(dict.fromkeys(notes)), [plot])


def _to(rates: dict[str, list[float]], name: str) -> tuple[harness.Spread, str, str]:
    floor = ratio(rates[bare.NAME], rates[name])
    added = spread(1e6 / a - 1e6 / b for a, b in zip(rates[_ZCHAT], rates[bare.NAME], strict=True))
    why = (
        f"{bare.NAME}, which takes the same posts over CURVE and forgets them, is at {floor} × of"
        f" {name}. What zchat adds is {added} µs a post: to check and hash an envelope, look its id"
        " up, chain it, and store it durably."
    )
    return ratio(rates[_ZCHAT], rates[name]), "×", why


if __name__ == "__main__":
    harness.main(measure)
