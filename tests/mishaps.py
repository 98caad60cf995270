"""The program, and one thing that goes wrong at a moment that was chosen.

    python -m tests.mishaps MISHAP[,MISHAP ...] -- zchat ARG ...

A mishap is `NAME` or `NAME@ARGUMENT`: `kill@after commit:3` kills the process with SIGKILL when it
has committed for the third time. Method: the real module's attribute is wrapped, then the program's
own `main` runs, here or in a fork of a process that has imported everything already (`forked`): a
thousand starts are then a matter of minutes.

Rules of this file: the installed program has no switch for any of this; a mishap changes nothing
before its moment.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from zchat.broker.core import Core
from zchat.broker.send import Send
from zchat.broker.server import Server
from zchat.database import Access, Database
from zchat.log.sqlite import SqliteLog
from zchat.member.checked import CheckedLog
from zchat.member.client import Client
from zchat.member.room import Room
from zchat.member.vault import Vault
from zchat.ui.cli import main as command_line

Pass: TypeAlias = Callable[[], None]

_YEAR_S = 31_557_600
MISHAPS: dict[str, Callable[[str], None]] = {}


class Hook(NamedTuple):
    """A moment of the program: before or after an attribute's call, where `counts` says so."""

    owner: type
    attribute: str
    is_after: bool
    counts: Callable[[tuple[Any, ...], Any], bool] = lambda arguments, result: True


def _is_post(arguments: tuple[Any, ...], result: Any) -> bool:
    return b"POST" in arguments[1].frames[0]


def _is_something(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result)


BROKER_HOOKS = {
    "before commit": Hook(SqliteLog, "append", is_after=False),
    "in commit": Hook(SqliteLog, "_add", is_after=True),
    "after commit": Hook(SqliteLog, "append", is_after=True),
    "before send": Hook(Core, "committed", is_after=True, counts=_is_something),
}
FAN_OUT = "mid fan-out"
MEMBER_HOOKS = {
    "before outbox": Hook(Vault, "put", is_after=False),
    "after outbox": Hook(Vault, "put", is_after=True),
    "before post": Hook(Client, "_send", is_after=False, counts=_is_post),
    "after post": Hook(Client, "_send", is_after=True, counts=_is_post),
    "after receipt": Hook(Room, "receipt", is_after=True),
    "before replica": Hook(CheckedLog, "advance", is_after=False),
    "after replica": Hook(CheckedLog, "advance", is_after=True),
}
HOOKS = {**BROKER_HOOKS, **MEMBER_HOOKS}


def mishap(name: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Enter a mishap by its name."""

    def enter(plant: Callable[[str], None]) -> Callable[[str], None]:
        MISHAPS[name] = plant
        return plant

    return enter


def plant(mishaps: Sequence[str]) -> None:
    """Make this process one to which these will happen."""
    for spec in filter(None, mishaps):
        name, _, argument = spec.partition("@")
        MISHAPS[name](argument)


def main() -> None:
    """Plant, and be the program."""
    mishaps, separator, program, *arguments = sys.argv[1:]
    if separator != "--" or program != "zchat":
        sys.exit("usage: python -m tests.mishaps MISHAP[,MISHAP ...] -- zchat ARG ...")
    sys.argv = ["zchat", *arguments]
    plant(mishaps.split(","))
    command_line.main()


def command(mishaps: Sequence[str]) -> list[str]:
    """What to start instead of `python -m zchat`."""
    return [sys.executable, "-m", "tests.mishaps", ",".join(mishaps), "--", "zchat"]


class Job(NamedTuple):
    """A command of the program as a fork runs it; standard streams are files."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    out: Path
    err: Path
    stdin: Path = Path(os.devnull)
    mishaps: tuple[str, ...] = ()


def forked(job: Job) -> ForkServerProcess:
    """Start a job in a fork of a process that has imported the program and done nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_be, args=(job,), daemon=True)
    process.start()
    return process


def _be(job: Job) -> None:
    os.environ.clear()
    os.environ.update(job.environment)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(job.stdin, os.O_RDONLY), 0)
    os.dup2(os.open(job.out, flags, 0o600), 1)
    os.dup2(os.open(job.err, flags, 0o600), 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  for the life of the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["zchat", *job.arguments]
    plant(job.mishaps)
    command_line.main()


# ---- what happens ----


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(number: int, happens: Pass) -> Pass:
    """Something to call at each passing; it happens at this one."""
    passed = 0

    def count() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            happens()

    return count


@mishap("kill")
def _kill(where: str) -> None:
    """SIGKILL at the Nth passing of a hook: `kill@HOOK:N`."""
    name, _, number = where.partition(":")
    passing = _at(int(number), _die)
    if name == FAN_OUT:
        _hook_fan_out(passing)
    else:
        _hook(HOOKS[name], passing)


def _hook(hook: Hook, passing: Pass) -> None:
    honest = getattr(hook.owner, hook.attribute)

    def wrapped(*arguments: Any, **how: Any) -> Any:
        if not hook.is_after:
            if hook.counts(arguments, None):
                passing()
            return honest(*arguments, **how)
        result = honest(*arguments, **how)
        if hook.counts(arguments, result):
            passing()
        return result

    setattr(hook.owner, hook.attribute, wrapped)


def _hook_fan_out(passing: Pass) -> None:
    """Between two sends of one turn."""
    honest = Server._send

    def between(sends: Sequence[Send]) -> Iterator[Send]:
        for index, send in enumerate(sends):
            if index:
                passing()
            yield send

    Server._send = lambda server, sends: honest(server, between(sends))  # type: ignore[method-assign, assignment, arg-type]


@mishap("forgets")
def _forgets(_: str) -> None:
    """A store whose commit comes with the next one: what kill -9 must find out."""
    honest = Database.execute
    commits = 0

    def execute(self: Database, statement: str, values: tuple[Any, ...] = ()) -> Any:
        nonlocal commits
        if statement == "COMMIT":
            commits += 1
            if commits > 1:  # the first one makes the tables
                return None
        if statement == "BEGIN IMMEDIATE" and self._connection.in_transaction:
            honest(self, "COMMIT")
        if statement == "BEGIN" and self._connection.in_transaction:  # what is only read
            return None
        return honest(self, statement, values)

    Database.execute = execute  # type: ignore[method-assign]


@mishap("normal")
def _normal(_: str) -> None:
    """A store that does not wait for the disk: what a power cut must find out."""
    Access.ONE_WRITER._value_ = ("WAL", "NORMAL", "one writer")


@mishap("years")
def _years(years: str) -> None:
    """A clock that is wrong by so many years; `+-N`: wrong by N, in turn ahead and behind."""
    now, now_ns, steady = time.time, time.time_ns, time.monotonic
    jumps = years.startswith("+-")
    offset_s = int(years.removeprefix("+-")) * _YEAR_S

    def off() -> int:
        return -offset_s if jumps and int(steady() * 4) % 2 else offset_s

    time.time = lambda: now() + off()
    time.time_ns = lambda: now_ns() + off() * 1_000_000_000


@mishap("most descriptors")
def _most_descriptors(most: str) -> None:
    """RLIMIT_NOFILE."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(most), int(most)))


@mishap("largest file")
def _largest_file(most: str) -> None:
    """RLIMIT_FSIZE, which whoever planted it can raise again."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), hard))


if __name__ == "__main__":
    main()
