"""What commands share: how they say things, and how their asyncio part runs.

Rules of this file: data goes to stdout, everything else to stderr; nothing is asked where stdin is
no terminal. `zchat --help` reads this file, so what is dear to import is imported where it is used.
"""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from zchat.errors import CannotWrite, FileInTheWay, NoFolder, StoreTrouble, Usage, ZchatError
from zchat.ui.safe import safe_line

if TYPE_CHECKING:
    from zchat.config import MemberConfig
    from zchat.member.profile import Profile
    from zchat.member.rows import Progress
    from zchat.member.vault import Vault
    from zchat.ui.screen import Screen

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Callable[..., Any])
_LONG_HISTORY = 1_000
_COLOR = "zchat.color"
_TIED = "\u00a0"  # no row is broken there

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


color_option = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    expose_value=False,
    callback=lambda context, _, asked: context.meta.__setitem__(_COLOR, asked),
    help="When to colour names (auto: in a terminal; see zchat help environment).",
)


def timeout_option(text: str) -> Callable[[_C], _C]:
    """--timeout, within the bounds of the setting."""
    return click.option(
        "--timeout", type=click.FloatRange(0, 86_400, min_open=True), metavar="S", help=text
    )


class ReaderGone(Exception):
    """Whoever read our stdout has enough."""


def say(text: str) -> None:
    """A message for people: stderr, made safe, one line."""
    note(safe_line(text))


def note(line: str) -> None:
    """A line for people that its maker made safe. Where nobody can read it, all else goes on.

    Folded in a terminal; a command between backticks stays whole where it fits a row.
    """
    columns = terminal_columns(2)
    rows = [line]
    if columns is not None and len(line) * 2 > columns:  # no character takes more than two
        from zchat.ui.fold import hanging

        tied = re.sub("`[^`]+`", lambda command: command[0].replace(" ", _TIED), line)
        rows = ["".join(row).replace(_TIED, " ") for row in hanging("", tied, columns)]
    note_whole("\n".join(rows))


def note_whole(line: str) -> None:
    """The same for what is to be copied: never folded by us. Nothing in it is of others' making."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def data(line: str) -> None:
    """A line of data: stdout, at once. Its maker made it safe. Raises ReaderGone."""
    try:
        click.echo(line)
    except BrokenPipeError:  # click would take it for a failure
        raise ReaderGone from None


def screen(*, is_plain: bool = False) -> "Screen":
    """Where lines for people go: stdout. Plain: colours only if somebody asks for them."""
    from zchat.ui.screen import Screen

    return Screen(data, lambda: terminal_columns(1), colours=wants_colours(is_plain=is_plain))


def wants_colours(*, is_plain: bool = False) -> bool:
    """What --color, the environment and the terminal say."""
    from zchat.ui.ink import wants_colour

    context = click.get_current_context()
    asked, is_terminal = context.meta.get(_COLOR, "auto"), sys.stdout.isatty() and not is_plain
    wanted = wants_colour(asked, os.environ, is_terminal=is_terminal)
    context.color = wanted or None  # else click would take them out again in a pipe
    return wanted


def terminal_columns(descriptor: int) -> int | None:
    """How wide the terminal there is; None where there is none."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


def complain(error: ZchatError) -> None:
    """An error: its sentence, and what to do next."""
    say(f"zchat: {error.sentence}")
    if error.advice:
        say(f"  {error.advice}")


def is_interactive() -> bool:
    """Whether a person sits at both ends and the terminal can do more than print."""
    return has_terminal() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def show_progress(progress: "Progress") -> None:
    """A line that counts up while a long history is read, where somebody can see it."""
    if sys.stderr.isatty() and progress.tip > _LONG_HISTORY:
        end = "\n" if progress.caught_up else ""
        line = f"\rReading history: {progress.n:,} of {progress.tip:,}{end}"
        click.echo(line, err=True, nl=False)


def count_up(what: str, n: int, end: int) -> None:
    """A line that counts up to `end`, where that is far and somebody can see it."""
    if sys.stderr.isatty() and end > _LONG_HISTORY and (n == end or n % _LONG_HISTORY == 0):
        line_end = "\n" if n == end else ""
        click.echo(f"\r{what}: {n:,} of {end:,}{line_end}", err=True, nl=False)


def config_for(**flags: object) -> "MemberConfig":
    """The member's settings, with these flags on top (None: not given)."""
    from zchat.config import MemberConfig, load

    config, _ = load(MemberConfig, None, flags, os.environ)
    return config


def vault_of(profile: "Profile", member: str) -> "Vault":
    """A member's vault, which is closed when the command ends, however it ends."""
    vault = profile.vault(member)
    click.get_current_context().call_on_close(vault.close)
    return vault


class NewFile(click.Path):
    """A file that is to be written; "x/" is refused while the slash is still known."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Raises Usage."""
        named = os.fspath(value)
        if not named or named.endswith(os.sep):
            raise Usage(reason=f"{named!r} names no file; say which one, as in {named}NAME")
        return super().convert(value, param, ctx)


def free_path(file: Path, *, force: bool) -> Path:
    """Where FILE is to be written. Nothing but a file is ever written over, and only by `force`.

    Raises FileInTheWay, NoFolder, Usage.
    """
    path = Path(os.path.realpath(file))
    if not path.parent.is_dir():
        none = "{} is no folder" if path.parent.exists() else "there is no folder {}"
        raise NoFolder(path=file, reason=none.format(path.parent))
    if path.is_dir():
        raise Usage(reason=f"{file} is no file but a folder; say which file in it")
    if path.exists() and not path.is_file():
        raise Usage(reason=f"{file} is there, and is no file that could be written over")
    if path.exists() and not force:
        raise FileInTheWay(path=file)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that a user asked for, there once all of it is. Raises CannotWrite, StoreFull."""
    from zchat.files import whole_file

    try:
        with whole_file(path) as file:
            yield file
    except StoreTrouble as error:
        if type(error) is not StoreTrouble or error.facts["path"] != path:
            raise
        raise CannotWrite(**error.facts) from None


class Terminated(BaseException):
    """SIGTERM came."""


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's asyncio part. SIGTERM ends it in order: Terminated is raised."""
    import asyncio

    async def guarded() -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        told = False

        def terminate() -> None:
            nonlocal told
            told = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await main
        except asyncio.CancelledError:
            if told:
                raise Terminated from None
            raise

    return asyncio.run(guarded())
