"""`zchat broker`: the server alone, and what it holds."""

import ipaddress
import logging
import os
import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import click

from zchat import __version__
from zchat.broker import folder as broker_folder
from zchat.broker.audit import audit_lines, audit_rows
from zchat.broker.core import Core, Limits
from zchat.broker.folder import BrokerKeys, load_keys, log_path
from zchat.broker.pulse import Pulse
from zchat.broker.server import Server
from zchat.broker.start import doubt, open_log
from zchat.config import DEFAULT_PORT, BrokerConfig, home, load
from zchat.errors import BadAddress, BadConfig, CannotListen, StoreDamaged, StoreGone
from zchat.files import storage_errors
from zchat.member import invite
from zchat.ui.cli.common import data, json_option, say
from zchat.ui.cli.upkeep import backup, restore, status
from zchat.ui.safe import safe_json
from zchat.ui.show import JSON_VERSION


def default_address() -> str:
    """The address by which others on the network reach this machine; loopback if there is none.

    Connecting a datagram socket sends nothing; it only asks the routing table.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: never a real host
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@click.group(invoke_without_command=True)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen. Default 127.0.0.1:5577.")
@click.option("--advertise", metavar="HOST:PORT", help="The address that stands in invites.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings (default: broker.toml in the profile).",
)
@click.option("--new-store", is_flag=True, help="Begin empty although there has been a store.")
@click.option("--accept-loss", is_flag=True, help="Go on although a part of the store is lost.")
@click.option("--until-eof", is_flag=True, hidden=True, help="End when stdin ends.")
@click.pass_context
def broker(
    context: click.Context,
    listen: str | None,
    advertise: str | None,
    config: Path | None,
    *,
    new_store: bool,
    accept_loss: bool,
    until_eof: bool,
) -> None:
    """Start a server. Its first line is the invite stem.

    It relays and stores sealed messages that it cannot read. SIGTERM or Ctrl-C ends it.

    \b
        zchat broker --listen 192.168.1.5:5577
    """
    if context.invoked_subcommand is not None:
        return
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO
    )
    flags = {"listen": listen, "advertise": advertise}

    def settings() -> BrokerConfig:
        return load(BrokerConfig, config, flags, os.environ)[0]

    ended = _stdin_ended if until_eof else lambda: False
    serve(settings, ended, new_store=new_store, accept_loss=accept_loss)


def _stdin_ended() -> bool:
    """Whether whoever started us is gone: a pipe at its end is readable, and empty."""
    readable, _, _ = select.select([0], [], [], 0)
    return bool(readable) and not os.read(0, 1)


def serve(
    read: Callable[[], BrokerConfig],
    ended: Callable[[], bool],
    *,
    new_store: bool,
    accept_loss: bool,
) -> None:
    """Run a broker in this process until it is told to stop.

    SIGHUP has the settings read again; in a terminal it means that this one is closed.

    Raises BadConfig, BadInvite, CannotListen, StoreBusy, StoreGone, StoreShortened, StoreTrouble,
    StoreUnreadable.
    """
    settings, folder = read(), home() / "broker"
    host, port = checked_listen(settings)
    path = log_path(folder)
    with storage_errors(path):
        is_gone = not path.exists() or not path.stat().st_size
        if broker_folder.has_keys(folder) and is_gone and not new_store:
            raise StoreGone(path=path)
    log = open_log(path, lambda: load_keys(folder).log_key, accept_loss=accept_loss)
    keys = load_keys(folder)
    core = Core(log, keys.log_key, _limits(settings), f"zchat {__version__}")
    server = Server(
        keys,
        log,
        core,
        allow=_allowed_keys(settings),
        connections_per_address=settings.connections_per_address,
        handshakes=(settings.handshake_burst, settings.handshakes_per_s),
        pulse=_pulse(settings.health),
    )

    def read_again() -> None:
        try:
            changed = read()
            server.change(_limits(changed), _allowed_keys(changed))
            logging.info("settings were read again: rates and the list of access keys")
        except BadConfig as error:
            logging.warning("settings stay as they were: %s", error)

    try:
        port = server.listen(resolve(host, port), port)
        stem = stem_of(keys, host, port, settings.advertise)
        broker_folder.announce(folder, stem)
        data(stem)
        say("Members join with that line and the name of a room: zchat join LINE --room lobby")
        server.run(ended, server.stop if sys.stderr.isatty() else read_again)
    except StoreDamaged as error:
        doubt(path, error)
        raise
    finally:
        broker_folder.retract(folder)
        server.close()


def checked_listen(settings: BrokerConfig) -> tuple[str, int]:
    """Where to listen, before anything is made for it. Raises BadAddress."""
    if settings.advertise and invite.parse_address(settings.advertise, DEFAULT_PORT)[1] == 0:
        raise BadAddress(reason=f"{settings.advertise!r} names no port that members could go to")
    return invite.parse_address(settings.listen, DEFAULT_PORT)


def _pulse(address: str) -> Pulse:
    if not address:
        return Pulse()
    host, port = invite.parse_address(address, 0)
    if not ipaddress.ip_address(resolve(host, port)).is_loopback:
        raise BadConfig(path="health", reason=f"{address} is not on loopback")
    return Pulse(host, port)


def resolve(host: str, port: int) -> str:
    """The address of a host: libzmq binds to addresses, names are ours to look up."""
    try:
        found = socket.getaddrinfo(host, port or None, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise CannotListen(address=host, reason="no name of a host is like that") from None
    except OSError as error:
        raise CannotListen(address=host, reason=error.strerror or "unknown host") from None
    return str(found[0][4][0])


def stem_of(keys: BrokerKeys, host: str, port: int, advertise: str) -> str:
    """The invite without a room. A wildcard address is no place to go to."""
    if advertise:
        host, port = invite.parse_address(advertise, port)
    elif host in ("0.0.0.0", "::"):  # noqa: S104  compared, not bound
        host = default_address()
    origin = invite.Origin(keys.curve_public, keys.log_key.public)
    return str(invite.stem(invite.Server(host, port, origin)))


def _limits(settings: BrokerConfig) -> Limits:
    return Limits(**{name: getattr(settings, name) for name in Limits.__dataclass_fields__})


def _allowed_keys(settings: BrokerConfig) -> frozenset[bytes]:
    try:
        keys = frozenset(bytes.fromhex(key) for key in settings.allow)
    except ValueError:
        keys = frozenset([b""])
    if any(len(key) != 32 for key in keys):
        raise BadConfig(path="allow", reason="an access key has 64 hexadecimal digits")
    return keys


@broker.command()
@json_option
def audit(*, as_json: bool) -> None:
    """Print everything the server of this profile holds.

    Every field of every row. Read-only; works beside a running server.

    \b
        zchat broker audit | less
    """
    path = log_path(home() / "broker")
    with storage_errors(path):
        if not path.exists():
            say("This profile has no server yet.")
            return
    if as_json:
        for table, row in audit_rows(path):
            data(safe_json({"v": JSON_VERSION, "table": table, "row": row}))
    else:
        for line in audit_lines(path):
            data(line)


broker.add_command(status)
broker.add_command(backup)
broker.add_command(restore)
