"""`zchat man`: manual pages, written from the commands themselves.

Rules of this file: a page says what the help says, and nothing of its own; a page is plain ASCII
roff, so that no locale and no formatter changes what one copies from it.
"""

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path

import click

from zchat import __version__
from zchat.errors import Usage
from zchat.files import storage_errors
from zchat.ui.cli.common import say
from zchat.ui.cli.manual import TOPICS

_ROW = re.compile(r"(\S.*?) {2,}(\S.*)")
_ON_EVERY_PAGE = {"environment": "ENVIRONMENT", "exit-codes": "EXIT STATUS"}
_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def man(context: click.Context, folder: Path | None) -> None:
    """Write manual pages, one for each command.

    Into FOLDER, else where `man` looks for what you installed for yourself.

    \b
        zchat man
        zchat man /usr/local/share/man/man1
    """
    into = folder or _own_folder()
    root = context.find_root().command
    assert isinstance(root, click.Group)
    with storage_errors(into):
        into.mkdir(parents=True, exist_ok=True)
        written = 0
        for name, page in pages(root):
            (into / f"{name}.1").write_text(page, "ascii")
            written += 1
    say(f"Written: {written} pages in {into}. Read the first: man zchat")
    if into.name == "man1":
        say(f"  Where man does not find it: man -M {into.parent} zchat")


def _own_folder() -> Path:
    """Beside the folder of one's own programs: there `man` looks on Linux and on macOS."""
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(shared).expanduser() / "man" / "man1"
    except RuntimeError:  # "~" of nobody
        raise Usage(reason=f"{shared} is nobody's; name a FOLDER for the pages") from None


def pages(root: click.Group) -> Iterator[tuple[str, str]]:
    """The name and the text of each page: the whole program's first."""
    yield from _pages(root, click.Context(root, info_name="zchat", **root.context_settings))


def _pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield _name(context), "\n".join(_page(command, context)) + "\n"
    for name, child in _children(command):
        yield from _pages(child, click.Context(child, parent=context, info_name=name))


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _children(command: click.Command) -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return []
    return [(name, child) for name, child in command.commands.items() if not child.hidden]


def _page(command: click.Command, context: click.Context) -> Iterator[str]:
    name, path = _name(context), context.command_path
    program = f"zchat {roff(__version__)}"
    yield f'.TH "{roff(name.upper())}" "1" "{date.today()}" "{program}" "zchat manual"'
    yield ".SH NAME"
    yield f"{roff(name)} \\- {roff(command.get_short_help_str(1_000).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {roff(path)}"
    yield roff(" ".join(command.collect_usage_pieces(context)))
    described, examples = _help(command)
    yield from _section("DESCRIPTION", described)
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    yield from _rows("OPTIONS", [record for record in records if record and record[1]])
    children = [(n, child.get_short_help_str(1_000)) for n, child in _children(command)]
    yield from _rows("COMMANDS", children)
    yield from _topics(_ON_EVERY_PAGE if context.parent else _titles())
    yield from _section("EXAMPLES", examples)
    yield from [".SH SEE ALSO", ",\n".join(_see_also(command, context))]


def _help(command: click.Command) -> tuple[list[str], list[str]]:
    """What the help describes, and its examples."""
    described: list[str] = []
    examples: list[str] = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        as_it_stands = paragraph.removeprefix("\b\n")
        if as_it_stands == paragraph:
            described += [".PP", roff(paragraph)]
        else:
            examples += _verbatim(as_it_stands)
    return described, examples


def _titles() -> dict[str, str]:
    """Every topic with its heading."""
    return {topic: _ON_EVERY_PAGE.get(topic, topic.upper()) for topic in TOPICS}


def _topics(titles: Mapping[str, str]) -> Iterator[str]:
    for topic, title in titles.items():
        lines = [line for part in TOPICS[topic].split("\n\n") for line in _paragraph(part)]
        yield from _section(title, lines)


def _paragraph(text: str) -> list[str]:
    """As it stands, or as a list of rows, or filled."""
    lines = text.splitlines()
    rows: list[tuple[str, str]] = []
    for line in lines:
        row = _ROW.fullmatch(line)
        if row:
            rows.append((row[1], row[2]))
        elif rows and line.startswith("    "):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]}\n{line.strip()}")
        else:
            break
    else:
        return list(_list(rows))
    if any(line.startswith("    ") or _ROW.fullmatch(line) for line in lines):
        return _verbatim(text)
    return [".PP", roff(text)]


def _verbatim(text: str) -> list[str]:
    lines = text.splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return [".PP", ".RS 4", ".nf", *(roff(line[indent:]) for line in lines), ".fi", ".RE"]


def _list(rows: list[tuple[str, str]]) -> Iterator[str]:
    for tag, text in rows:
        yield from (".TP", f".B {roff(tag)}", roff(text).replace("\n", "\n.br\n"))


def _rows(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    yield from _section(title, list(_list(rows)))


def _section(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield from [f".SH {roff(title)}", *(lines[1:] if lines[0] == ".PP" else lines)]


def _see_also(command: click.Command, context: click.Context) -> list[str]:
    """The page above this one, and those below."""
    near = [f"{context.command_path} {name}" for name, _ in _children(command)]
    near = [context.parent.command_path, *near] if context.parent else near
    return [f"\\fB{roff(path.replace(' ', '-'))}\\fP(1)" for path in near]


def roff(text: str) -> str:
    """A text that a formatter prints as it stands."""
    escaped = "".join(_ESCAPES.get(char) or _ascii(char) for char in text)
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def _ascii(char: str) -> str:
    return char if char.isascii() else f"\\[u{ord(char):04X}]"
