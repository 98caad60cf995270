"""The command line as a whole: the commands in their groups, and how anything ends.

Rules of this file: every way a command can end leaves here with its exit code; no traceback reaches
a user.
"""

import contextlib
import errno
import importlib
import io
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zchat import __version__
from zchat.errors import Exit, StoreFull, StoreTrouble, ZchatError
from zchat.protocol.limits import MAX_ADDRESS_SPACE
from zchat.ui.cli.common import ReaderGone, Terminated, complain, say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_FIRST_MINUTE = """\
zchat: group chat for people who share a passphrase and do not trust the server.

  zchat start              make a server, a room and a passphrase, and chat
  zchat join INVITE        join with the line somebody gave you

  zchat --help             all commands
"""

# Under each heading the commands: where they are, and what the list says of them. They are loaded
# when they are asked for: importing all takes longer than most of what one does.
_SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Chat": {
        "start": ("chat:start", "Start a server, a room with a fresh passphrase, and chat."),
        "join": ("chat:join", "Join a room and chat."),
    },
    "Scripts": {
        "send": ("send:send", "Send TEXT, or stdin line by line, to a room."),
        "tail": ("tail:tail", "Print a room's messages."),
        "search": ("search:search_room", "Find messages that hold all WORDS, in any case."),
        "export": (
            "export:export_room",
            "Write a room's messages to a file: JSON Lines, Markdown or HTML.",
        ),
    },
    "Trust": {
        "verify": ("know:verify", "Print eight words to compare by voice."),
        "members": ("know:members", "List who has spoken in a room."),
        "whoami": ("know:whoami", "Show who you are in each room, and where your keys lie."),
        "evidence": ("fault:evidence", "Check a proof against a server, or an export with proof."),
        "rejoin": (
            "fault:rejoin",
            "Go on with the server's present log after it contradicted itself.",
        ),
    },
    "Rooms": {
        "rooms": ("know:rooms", "List the rooms known here, for all members of this profile."),
        "invite": ("know:invite", "Print the invite line of a room."),
        "forget": (
            "know:forget",
            "Forget a room: its replica, its key, what waits in its outbox.",
        ),
    },
    "Server": {
        "broker": ("serve:broker", "Start a server."),
        "lab": ("lab:lab", "Run a server that lies, and watch what its members see."),
        "doctor": (
            "doctor:doctor",
            "Look for what is wrong with this profile and its server's store.",
        ),
        "bench": ("bench:bench", "Measure how many members a server on this machine carries."),
    },
    "This program": {
        "profile": (
            "profile:profile",
            "Back up who you are, sealed, and be it again elsewhere.",
        ),
        "config": (
            "settings:config",
            "Show and check settings, and write files to change them in.",
        ),
        "completion": ("manual:completion", "Print the completion script of a shell."),
        "man": ("man:man", "Write manual pages, one for each command."),
        "help": (
            "manual:help_topic",
            "Explain a TOPIC, such as exit codes, trust or scripting; or a command.",
        ),
    },
}

_EXIT_CODES = """\
\b
Exit codes: 0 ok, 1 can be mended by you, 2 usage, 3 network or storage,
4 the server contradicted itself, 5 refused by a limit, 6 time-out,
7 wrong passphrase or an unreadable store, 8 the server's store failed or is
damaged, 70 a bug.
"""


class _OnDemand(Mapping[str, click.Command]):
    """The commands by name; asking for one imports its file."""

    def __init__(self) -> None:
        self._places = {
            name: place for section in _SECTIONS.values() for name, (place, _) in section.items()
        }

    def __getitem__(self, name: str) -> click.Command:
        file, _, function = self._places[name].partition(":")
        command = getattr(importlib.import_module(f"zchat.ui.cli.{file}"), function)
        assert isinstance(command, click.Command)
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Sections(click.Group):
    """A group whose help lists commands under headings."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, commands in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, short) for name, (_, short) in commands.items()])

    def shell_complete(self, context: click.Context, incomplete: str) -> "list[CompletionItem]":
        """The commands without importing any; options where one was begun."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=short)
            for section in _SECTIONS.values()
            for name, (_, short) in section.items()
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, context, incomplete)]


@click.group(
    cls=_Sections,
    commands=_OnDemand(),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)
@click.version_option(__version__, prog_name="zchat")
@click.pass_context
def cli(context: click.Context) -> None:
    """Group chat for people who share a passphrase and do not trust the server.

    \b
        zchat start
        zchat join INVITE
    """
    if context.invoked_subcommand is None:
        click.echo(_FIRST_MINUTE, nl=False)


def _bound_memory() -> None:
    """Whoever we talk to can send one message without end of frames; it must not take the machine.

    libzmq holds such a message whole before anybody sees it, so only the system can set a limit.
    """
    with contextlib.suppress(OSError, ValueError):  # not every system takes one
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = MAX_ADDRESS_SPACE if hard == resource.RLIM_INFINITY else min(MAX_ADDRESS_SPACE, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def main() -> None:
    """Run the command line and end the process with its exit code."""
    _bound_memory()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its number, never an exception.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    code = _run()
    try:
        sys.stderr.flush()
    except OSError:  # what nobody can read must not change how we end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Where a descriptor below 3 came closed, the next file opened would take its place.

    The store would then be read as what the user types, or be written over by a message.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _run() -> int:
    if "_ZCHAT_COMPLETE" in os.environ:
        importlib.import_module("zchat.ui.cli.shells")
    try:
        code = cli.main(prog_name="zchat", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except ZchatError as error:
        complain(error)
        return error.exit_code
    except click.ClickException as error:
        return _complain_of_usage(error)
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except Terminated:
        return Exit.TERMINATED
    except (ReaderGone, BrokenPipeError, SystemExit):  # so click ends where a help is not read on
        _close_stdout()
        return Exit.OK
    except OSError as error:
        return _complain_of_files(error)
    except Exception:  # the last resort: a report instead of a traceback
        return _report_bug()


def _complain_of_files(error: OSError) -> int:
    """Of a path that somebody named (too long, say), and of a full disk under stdout."""
    if error.filename is not None:
        trouble: StoreTrouble = StoreTrouble(path=error.filename, reason=error.strerror)
    elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        _close_stdout()
        trouble = StoreFull(path="standard output", reason=error.strerror)
    else:
        return _report_bug()
    complain(trouble)
    return trouble.exit_code


def _complain_of_usage(error: click.ClickException) -> int:
    """What click says may hold what was typed, or pasted."""
    told = io.StringIO()
    error.show(file=told)
    for line in told.getvalue().splitlines():
        say(line)
    return Exit.USAGE


def _close_stdout() -> None:
    """Whoever read us has enough; the interpreter must not complain about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _report_bug() -> int:
    """Keep the traceback in a file that only its owner can read."""
    import tempfile  # with all that it imports, a fifth of what `zchat --help` takes
    import traceback

    descriptor, path = tempfile.mkstemp(prefix="zchat-report-", suffix=".txt")
    with os.fdopen(descriptor, "w") as report:
        report.write(f"zchat {__version__}, Python {sys.version}\n{traceback.format_exc()}")
    say(f"zchat: that should not have happened; a report is in {Path(path)}.")
    say("  Please read it (it may name rooms and people) and send it to the project.")
    return Exit.BUG
