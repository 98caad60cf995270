"""`zchat config`: which settings there are, what they are now, and where each comes from."""

import os
from importlib import resources
from pathlib import Path

import click
import msgspec

from zchat.config import BrokerConfig, MemberConfig, home, load, problems
from zchat.errors import Exit, NoMatch
from zchat.files import private_folder, write_private
from zchat.ui.cli.common import complain, data, json_option, say
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION

kind_argument = click.argument("kind", type=click.Choice(["broker", "member"]))


@click.group("config")
def config() -> None:
    """Show and check settings, and write files to change them in.

    \b
        zchat config init member
    """


@config.command()
@kind_argument
@click.option("--origin", is_flag=True, help="Say where each comes from.")
@json_option
def show(kind: str, *, origin: bool, as_json: bool) -> None:
    """Print the settings as they are now.

    A flag goes before the environment, that before the file, that before the default.

    \b
        zchat config show member --origin
    """
    settings, origins = _load(kind)
    for name, value in msgspec.structs.asdict(settings).items():
        if as_json:
            fields = {"kind": kind, "name": name, "value": value, "origin": origins[name]}
            data(safe_json({"v": JSON_VERSION, **fields}))
            continue
        line = f"{name} = {msgspec.json.encode(value).decode()}"
        data(safe_line(f"{line}  # {origins[name]}" if origin else line))


@config.command()
def check() -> int:
    """Check both files and the environment. Ends with 1 where something is wrong.

    Also tells of variables that begin with ZCHAT_ and set nothing, which no other command does.

    \b
        zchat config check
    """
    found = problems(os.environ)
    for kind, wrong in found.items():
        for error in wrong:
            complain(error)
        if not wrong:
            say(f"{kind}: nothing wrong.")
    return Exit.FIXABLE if any(found.values()) else Exit.OK


@config.command()
@kind_argument
def init(kind: str) -> None:
    """Write a file of all settings, to be changed by hand.

    It is the project's own: each with its default and its reason.

    \b
        zchat config init broker
    """
    path = path_of(kind)
    if path.exists():
        raise NoMatch(reason=f"{path} exists already; it is yours, and stays as it is")
    private_folder(path.parent)
    write_private(path, _template(kind))
    say(f"Written: {path}. Every line is a default; change what you like.")


@config.command()
@kind_argument
def path(kind: str) -> None:
    """Print where the file of settings is looked for.

    \b
        $EDITOR "$(zchat config path member)"
    """
    data(str(path_of(kind)))


def _load(kind: str) -> tuple[BrokerConfig | MemberConfig, dict[str, str]]:
    """The settings of a kind, and the origin of each. Raises BadConfig."""
    if kind == "broker":
        return load(BrokerConfig, None, {}, os.environ)
    return load(MemberConfig, None, {}, os.environ)


def path_of(kind: str) -> Path:
    """Where the settings of this kind are looked for."""
    return home() / f"{kind}.toml"


def _template(kind: str) -> bytes:
    """The project's config/KIND.toml, which the package carries with it."""
    return (resources.files("zchat") / "settings" / f"{kind}.toml").read_bytes()
