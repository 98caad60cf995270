"""`zchat broker backup` and `restore`: what an administrator does with the store."""

import os
from pathlib import Path

import click

from zchat.broker.folder import load_keys, log_path
from zchat.broker.upkeep import backup as copy_store
from zchat.broker.upkeep import restore as put_back
from zchat.config import home
from zchat.ui.cli.common import say

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
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
