"""`zchat broker status`, `backup` and `restore`: what an administrator does with the store."""

import os
from pathlib import Path

import click

from zchat.broker.folder import announced, is_running, load_keys, log_path
from zchat.broker.upkeep import backup as copy_store
from zchat.broker.upkeep import restore as put_back
from zchat.config import home
from zchat.database import Access
from zchat.errors import Exit, StoreEmpty
from zchat.files import storage_errors
from zchat.log.sqlite import SqliteLog
from zchat.ui.cli.common import NewFile, data, json_option, say
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@json_option
def status(*, as_json: bool) -> int:
    """Say whether this profile's server runs.

    And where, and how much it holds. Ends with 3 where it does not run.

    \b
        zchat broker status
    """
    path = log_path(home() / "broker")
    runs = is_running(path.parent)
    stem = announced(path.parent) if runs else None
    rooms, messages, size = _held(path)
    if as_json:
        fields = {"running": runs, "invite": stem, "rooms": rooms, "messages": messages}
        data(safe_json({"v": JSON_VERSION, **fields, "bytes": size, "store": str(path)}))
    else:
        data(safe_line(f"running: {stem or 'its invite is not known'}" if runs else "not running"))
        data(safe_line(f"{rooms:,} room(s), {messages:,} message(s), {size:,} bytes in {path}"))
    return Exit.OK if runs else Exit.NETWORK


def _held(path: Path) -> tuple[int, int, int]:
    """Rooms, messages (whatever of them is kept), bytes on the disk."""
    with storage_errors(path):
        size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    try:
        log = SqliteLog(path, Access.READ_ONLY)
    except StoreEmpty:
        return 0, 0, size
    try:
        tips = [log.tip(room) for room in log.rooms()]
        return len(tips), sum(tip.n for tip in tips if tip), size
    finally:
        log.close()


@click.command()
@click.argument("file", type=NewFile())
def backup(file: Path) -> None:
    """Copy the store to FILE, also beside a running server.

    The server's keys are not in it: keep broker/keys of the profile in another safe place.

    \b
        zchat broker backup log-monday.db
    """
    folder = home() / "broker"
    copy_store(log_path(folder), file)
    say(f"The store is in {file}. Its keys are not: keep a copy of {folder / 'keys'} elsewhere.")


@click.command()
@click.argument("file", type=_FILE)
def restore(file: Path) -> None:
    """Put the backup FILE in the place of the store. The server must not run.

    Every room goes on as a new log that names the former one, so members see an honest loss and not
    a server that went back; each joins it with `zchat rejoin ROOM --accept`, and what they wrote
    since the backup goes out again.

    \b
        zchat broker restore log-monday.db
    """
    folder = home() / "broker"
    done = put_back(log_path(folder), file, load_keys(folder).log_key, os.urandom)
    say(f"Restored {done.rooms} room(s) with {done.entries} message(s); each is a new log.")
    if done.aside:
        say(f"The store that was there is kept as {done.aside}.")
    say("Members go on with: zchat rejoin ROOM --accept")
