"""Manual pages: every command has one, formatters have no complaint, nothing is lost on the way.

Rules of this file: pages are written by the real command; what a reader sees is what `man` makes of
them, and both formatters that people have are asked where they are installed. All pages are looked
at together, for `man` takes longer to start than to format them.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.processes import zchat
from zchat.errors import Exit
from zchat.ui.cli.main import _SECTIONS, cli
from zchat.ui.cli.man import roff
from zchat.ui.cli.manual import TOPICS

HARD = """\
.SH is a request where it opens a line
'so is this
C:\\new and \\fBbold\\fP and \\*[x]
--remember, end-to-end, a^b ~4f2a `date` it's "said" – é 中 ⏎
"""


def all_commands(
    command: click.Command, path: tuple[str, ...] = ("zchat",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from all_commands(child, (*path, name))


def formatted(*pages: Path) -> str:
    """As on a wide screen, without bold type and without breaks inside words."""
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man-db and groff are not installed")
    command = ["man", "--warnings", "-E", "UTF-8", "--no-hyphenation", "-P", "cat", "-l"]
    done = subprocess.run(
        [*command, *map(str, pages)],
        env={"MANWIDTH": "120", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": "/"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "", "what groff has to complain of"
    return re.sub("(.)\b\\1", r"\1", done.stdout)


def helped(path: tuple[str, ...]) -> str:
    """What --help says, without the exit codes, which the manual has in other words."""
    runner = CliRunner(env={"COLUMNS": "120"})
    said = runner.invoke(cli, [*path[1:], "--help"], prog_name="zchat").output
    return said.removeprefix("Usage: ").partition("Exit codes:")[0]


def check_page(path: tuple[str, ...], command: click.Command, shown: str) -> None:
    """Every word of the help, each option, each exit code; and where to read on."""
    headings = set(" ".join([*_SECTIONS, "Options", "Commands"]).split())
    lost = {word.rstrip(":") for word in set(helped(path).split()) - set(shown.split())}
    assert lost <= headings, path
    options = [o for o in command.params if isinstance(o, click.Option) and not o.hidden]
    for option in options:
        for name in option.opts:
            assert re.search(rf"^ {{7}}(--?\w+, )?{name}\b", shown, re.MULTILINE), (path, name)
    status = shown.partition("\nEXIT STATUS\n")[2]
    for code in Exit:
        assert re.search(rf"^ {{7}}{int(code)} ", status, re.MULTILINE), (path, code)
    assert "\nEXAMPLES\n" in shown, path
    above = "-".join(path[:-1]) or "zchat-start"
    assert f" {above}(1)" in shown.rpartition("\nSEE ALSO\n")[2], path


def test_every_command_has_a_page_with_all_that_its_help_says(tmp_path: Path) -> None:
    """Neither groff nor mandoc has anything to complain of."""
    commands, into = dict(all_commands(cli)), tmp_path / "share" / "man1"
    done = zchat(tmp_path / "home", "man", str(into))
    assert done.returncode == Exit.OK, done.stderr
    assert f"Written: {len(commands)} pages in {into}." in done.stderr
    assert f"man -M {into.parent} zchat" in done.stderr
    pages = [into / f"{'-'.join(path)}.1" for path in commands]
    assert sorted(pages) == sorted(into.iterdir())
    if shutil.which("mandoc"):
        lint = ["mandoc", "-T", "lint", "-W", "warning", *map(str, pages)]
        assert subprocess.run(lint, capture_output=True, check=False).stdout == b""
    shown = re.split(r"^(?=ZCHAT\S*\(1\) .*zchat manual)", formatted(*pages), flags=re.MULTILINE)
    for (path, command), page in zip(commands.items(), shown[1:], strict=True):
        check_page(path, command, page)
    for topic, text in TOPICS.items():
        assert set(text.split()) <= set(shown[1].split()), f"help {topic} is not in zchat(1)"


def test_what_formatters_would_obey_stands_as_it_is(tmp_path: Path) -> None:
    """Requests, escapes, the signs that become others; and a page is plain ASCII."""
    page = tmp_path / "hard.1"
    head = '.TH "HARD" "1" "2026-11-21" "zchat" "zchat manual"\n.SH NAME\nhard \\- hard\n'
    page.write_text(f"{head}.SH TEXT\n.nf\n{roff(HARD)}.fi\n", "ascii")
    shown = formatted(page)
    for line in HARD.splitlines():
        assert f" {line}\n" in shown


@pytest.mark.parametrize(("named", "share"), [("", ".local/share"), ("elsewhere", "elsewhere")])
def test_without_a_folder_the_pages_are_where_man_looks(
    tmp_path: Path, named: str, share: str
) -> None:
    """In one's own share/man, or where XDG_DATA_HOME says; what was there is replaced."""
    page = tmp_path / share / "man" / "man1" / "zchat-config-show.1"
    page.parent.mkdir(parents=True)
    page.write_text("an older one")
    data = str(tmp_path / named) if named else ""
    assert zchat(tmp_path / "home", "man", XDG_DATA_HOME=data).returncode == Exit.OK
    assert page.read_text("ascii").startswith('.TH "ZCHAT')


def test_where_nobody_is_at_home_a_folder_has_to_be_named(tmp_path: Path) -> None:
    done = zchat(tmp_path / "home", "man", XDG_DATA_HOME="~no-such-user")
    assert done.returncode == Exit.USAGE
    assert "~no-such-user is nobody's; name a FOLDER" in done.stderr


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file in its place, or above it: a sentence, and no traceback. Any other will do."""
    file = tmp_path / "file"
    file.touch()
    done = zchat(tmp_path / "home", "man", str(file))
    assert done.returncode == Exit.USAGE
    assert "is a file" in done.stderr
    done = zchat(tmp_path / "home", "man", str(tmp_path / "pages"))
    assert (done.returncode, "man -M" in done.stderr) == (Exit.OK, False)
    done = zchat(tmp_path / "home", "man", str(file / "man1"))
    assert done.returncode == Exit.NETWORK
    assert "Not a directory" in done.stderr
