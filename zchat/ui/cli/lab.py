"""`zchat lab`: a server that lies, and what its members see of it."""

import inspect
import ipaddress
import logging
import sys

import click

from zchat import __version__
from zchat.broker.folder import load_keys, log_path
from zchat.broker.server import Server
from zchat.config import DEFAULT_PORT, home
from zchat.database import Access
from zchat.errors import Exit, NoMatch, Usage
from zchat.lab.demo import SCENES, Stage
from zchat.lab.lies import LIES, parse_lie
from zchat.lab.rogue import LyingLog, Rogue
from zchat.member import invite
from zchat.protocol.limits import CONNECTIONS_PER_ADDRESS
from zchat.ui.cli.common import data, json_option
from zchat.ui.cli.serve import resolve, stem_of
from zchat.ui.safe import safe_json
from zchat.ui.show import JSON_VERSION

_TOLD_TWICE = 2


@click.group()
def lab() -> None:
    """Run a server that lies, and watch what its members see.

    \b
        zchat lab list
        zchat lab demo fork
    """


@lab.command("list")
@json_option
def list_lies(*, as_json: bool) -> None:
    """Explain each lie.

    What it does, whom it worked against, what stops it here.

    \b
        zchat lab list
    """
    for name, lie in LIES.items():
        parameters = inspect.signature(lie).parameters.values()
        if as_json:
            defaults = {parameter.name: str(parameter.default) for parameter in parameters}
            text = "\n".join((inspect.getdoc(lie) or "").splitlines()[2:])
            fields = {"lie": name, "parameters": defaults, "text": text}
            data(safe_json({"v": JSON_VERSION, **fields}))
            continue
        told = "".join(f":{parameter.name}={parameter.default}" for parameter in parameters)
        data(f"{name}{told}")
        for line in (inspect.getdoc(lie) or "").splitlines()[2:]:
            data(f"    {line}")
        data("")


@lab.command()
@click.option(
    "--lie",
    "lies",
    multiple=True,
    metavar="NAME[=VALUE][:KEY=VALUE]",
    required=True,
    help="As `zchat lab list` explains them.",
)
@click.option("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="Loopback only.")
@click.option(
    "--open-to-others",
    count=True,
    help="Say it twice to listen on an address that is not loopback.",
)
def rogue(lies: tuple[str, ...], listen: str, open_to_others: int) -> None:
    """Start a server that lies. Its first line is the invite stem, as with `zchat broker`.

    Lies compose. It has keys and a store of its own (rogue/ in the profile).

    \b
        zchat lab rogue --lie drop=0.1 --lie fork=1,2/3,4
    """
    host, port = invite.parse_address(listen, DEFAULT_PORT)
    address = resolve(host, port)
    if not ipaddress.ip_address(address).is_loopback and open_to_others < _TOLD_TWICE:
        raise Usage(reason=f"a server that lies stays on this machine, and {address} is open")
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    folder = home() / "rogue"
    told = [parse_lie(lie) for lie in lies]
    log = LyingLog(log_path(folder), Access.ONE_WRITER)
    log.lies = told
    keys = load_keys(folder)
    core = Rogue(log, keys.log_key, f"zchat {__version__}", told)
    server = Server(keys, log, core, connections_per_address=CONNECTIONS_PER_ADDRESS)
    try:
        port = server.listen(address, port)
        data(stem_of(keys, host, port, ""))
        server.run()
    finally:
        server.close()


@lab.command()
@click.argument("lie")
def demo(lie: str) -> int:
    """Play a lie, and what its members see of it.

    A lying server, its members in columns, the sentence that tells them. Ends with 1 if a member
    did not see what it should.

    \b
        zchat lab demo fork
    """
    scene = SCENES.get(lie)
    if scene is None:
        raise NoMatch(reason=f"no scene is called {lie!r}; there are {', '.join(SCENES)}")
    data(f"zchat lab rogue --lie {scene.lie}")
    for line in (inspect.getdoc(LIES[scene.name]) or "").splitlines()[2:]:
        data(f"    {line}")
    data("")
    with Stage(scene, data) as stage:
        seen = stage.play()
    return Exit.OK if seen else Exit.FIXABLE
