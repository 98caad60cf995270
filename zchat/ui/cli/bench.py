"""`zchat bench`: how many members a server on this machine carries."""

import math
import multiprocessing
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from zchat.errors import CannotListen
from zchat.lab.load import Chat, Target, listen, talk
from zchat.member.invite import parse_invite
from zchat.ui.cli.common import data, json_option
from zchat.ui.safe import safe_json
from zchat.ui.show import JSON_VERSION

_PLENTY = 1_000_000_000
_SETTINGS = (
    *("post_burst", "posts_per_s", "control_burst", "controls_per_s"),
    *("connections_per_address", "handshake_burst", "handshakes_per_s"),
)
_PROCESSES = 2
_PATIENCE_S = 60.0
_SAYS_EVERY_S = 10  # each member, on average: people in a lively talk
_FIRST_MEMBERS = 50
_GROWTH = 1.5


class Step(NamedTuple):
    """What was measured of one crowd."""

    members: int
    messages_per_s: float
    deliveries_per_s: float
    p50_ms: float
    p99_ms: float
    delivered: float  # the share of what should have come


@click.command()
@click.option(
    "--seconds", type=click.IntRange(5, 600), default=50, metavar="S", help="How long. Default 50."
)
@click.option(
    "--within",
    type=click.IntRange(10, 10_000),
    default=500,
    metavar="MS",
    help="99 of 100 deliveries must take no longer. Default 500.",
)
@json_option
def bench(seconds: int, within: int, *, as_json: bool) -> None:
    """Measure how many members a server on this machine carries.

    A server of its own with an empty store, and crowds that grow until they are served too late.
    The members run here as well, so a server with the machine to itself carries more.

    \b
        zchat bench
    """
    ends = time.monotonic() + seconds
    carried: Step | None = None
    members = _FIRST_MEMBERS
    with _server() as target:
        while time.monotonic() < ends:
            chat = Chat(members, members / _SAYS_EVERY_S, 3.0)
            step = _measure(target, chat)
            _tell(step, as_json=as_json)
            if step.p99_ms > within or step.delivered < 1:
                break
            carried, members = step, int(members * _GROWTH)
    if not as_json:
        _conclude(carried, within)


def _tell(step: Step, *, as_json: bool) -> None:
    if as_json:
        # None came in time: JSON has no number for how long that took.
        measured = {k: None if v == math.inf else v for k, v in step._asdict().items()}
        data(safe_json({"v": JSON_VERSION, **measured}))
        return
    data(
        f"{step.members:>6,} members  {step.messages_per_s:>5,.0f} messages/s"
        f"  {step.deliveries_per_s:>8,.0f} deliveries/s"
        f"  half within {step.p50_ms:,.0f} ms, 99 % within {step.p99_ms:,.0f} ms"
        + ("" if step.delivered >= 1 else f", {step.delivered:.0%} delivered")
    )


def _conclude(carried: Step | None, within: int) -> None:
    if carried is None:
        data(f"This broker does not serve {_FIRST_MEMBERS} members within {within} ms.")
        return
    data(
        f"This broker carries about {carried.members:,} members in one room chatting at"
        f" {carried.messages_per_s:.0f} messages a second."
    )


@contextmanager
def _server() -> Iterator[Target]:
    """A server with a store of its own and no limits, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        settings = "".join(f"{name} = {_PLENTY}\n" for name in _SETTINGS)
        Path(folder, "broker.toml").write_text(settings)
        process = subprocess.Popen(
            [sys.executable, "-m", "zchat", "broker", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "ZCHAT_HOME": folder},
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline().decode().strip()
            if not line:
                raise CannotListen(address="127.0.0.1", reason="the server did not start")
            server = parse_invite(line).server
            yield Target(f"tcp://{server.address}", server.keys.curve_key)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def _measure(target: Target, chat: Chat) -> Step:
    """One crowd in a room of its own: processes that listen, while this one talks."""
    room = secrets.token_bytes(16)
    spawn = multiprocessing.get_context("spawn")
    shares = [
        chat.members // _PROCESSES + (i < chat.members % _PROCESSES) for i in range(_PROCESSES)
    ]
    pipes = [spawn.Pipe(duplex=False) for _ in shares]
    listeners = [
        spawn.Process(target=listen, args=(target, room, chat, share, out), daemon=True)
        for share, (_, out) in zip(shares, pipes, strict=True)
    ]
    for listener in listeners:
        listener.start()
    try:
        for come, _ in pipes:
            if not come.poll(_PATIENCE_S):
                raise TimeoutError
            come.recv()
        talk(target, room, chat)
        delays = sorted(delay for come, _ in pipes for delay in come.recv())
    finally:
        for listener in listeners:
            listener.kill()
            listener.join()
    wanted = chat.members * chat.messages
    return Step(
        members=chat.members,
        messages_per_s=chat.per_s,
        deliveries_per_s=wanted / chat.for_s,
        p50_ms=delays[len(delays) // 2] if delays else float("inf"),
        p99_ms=delays[len(delays) * 99 // 100] if delays else float("inf"),
        delivered=len(delays) / wanted,
    )
