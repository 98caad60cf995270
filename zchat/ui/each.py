"""A command for each message, as `zchat tail --exec` runs it.

Theory of operation. The command line is split once, by the rules of a POSIX shell, and started
without one; nothing that others wrote is ever part of it. The fields of a message go into its
environment under names of their own (`MESSAGE_*`: no setting of ours begins so), the text goes to
its stdin. One runs at a time, in log order; what comes meanwhile waits.

Rules of this file: a command that is missing, fails or takes too long is told, and the next message
has its turn; whatever was started is ended here, its children too where they stay in its group.
"""

import asyncio
import contextlib
import os
import select
import shlex
import signal
from collections.abc import Callable, Mapping

from zchat.errors import Usage
from zchat.member.rows import Message
from zchat.ui.show import message_fields, message_json

_GRACE_S = 1.0  # between asking a command to end and ending it
_STDOUT = 1


class OutputGone(Exception):
    """Whoever read what the commands print has enough."""


def environment_of(room: str, message: Message) -> dict[str, str]:
    """The fields of `--json` but for the text, in capitals: yes and no are 1 and 0, null is empty.

    No value has a null byte, which the system would take for its end.
    """
    fields = message_fields(room, message)
    del fields["v"], fields["text"]
    return {f"MESSAGE_{name.upper()}": _value(value) for name, value in fields.items()}


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else str(value).replace("\0", "\ufffd")


class Each:
    """Runs one command line for message after message; `tell` takes sentences for people."""

    def __init__(
        self, line: str, room: str, tell: Callable[[str], None], timeout_s: float, *, as_json: bool
    ) -> None:
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise Usage(reason=f"the command {line!r} cannot be split: {error}") from None
        if not self._words:
            raise Usage(reason="--exec needs a command")
        self._room = room
        self._tell = tell
        self._timeout_s = timeout_s
        self._as_json = as_json
        self.command = self._words[0]
        self.has_failed = False

    async def run(self, message: Message, inherited: Mapping[str, str]) -> None:
        """Run it for one message, to its end or ours. Raises OutputGone."""
        text = message_json(self._room, message) if self._as_json else message.text
        try:
            process = await self._start({**inherited, **environment_of(self._room, message)})
        except OSError as error:
            self._fail(f"cannot be started for #{message.n}: {error.strerror}")
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.communicate(f"{text}\n".encode())
        except TimeoutError:
            self._fail(f"took longer than {self._timeout_s:g} s for #{message.n}, and was ended")
            return
        finally:
            await _end(process)
        self._judge(process.returncode, message.n)

    async def _start(self, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
        """Raises OSError. Never broken off half-way: asyncio would then wait for ever for pipes."""
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                env=environment,
                process_group=0,  # Ctrl-C reaches us, and its end is ours to see to
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                await _end(await starting)
            raise

    def _judge(self, code: int | None, n: int) -> None:
        if code == -signal.SIGPIPE and is_closed(_STDOUT):
            raise OutputGone
        if code is not None and code < 0:
            self._fail(f"was ended by {_signal_name(-code)} for #{n}")
        elif code:
            self._fail(f"ended with {code} for #{n}")

    def _fail(self, how: str) -> None:
        self.has_failed = True
        self._tell(f"zchat: {self.command} {how}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """See that nothing of it goes on: asked first, then not asked any more."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
                return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_closed(descriptor: int) -> bool:
    """Whether nobody reads any more what is written there."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
