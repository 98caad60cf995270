"""Bugs that people really write, put into the running program: the simulation must find each.

Rules of this file: each plant changes one decision and nothing else; it is undone when its block
ends; a simulation that does not find one of them cannot be trusted with the others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tests import simulation
from zchat.broker.cursors import Cursors
from zchat.broker.intake import Intake
from zchat.log.contract import MemoryLog
from zchat.member.checked import CheckedLog, Segment, Step
from zchat.member.vault import Vault


def _loses_last_batch(world: "simulation.World") -> None:
    """A broker that was killed before its last commit was on the disk; its head had gone out."""
    room = world.log._rooms.get(world.keys.tag) if isinstance(world.log, MemoryLog) else None
    if room is not None and len(room.entries) > 1:
        lost = room.entries.pop()
        room.ends.pop()
        del room.places[lost.id]
    _kill_broker(world)


_kill_broker = simulation.World.kill_broker
_begin = Vault.begin
_check_entries = CheckedLog._check_entries


def _begins_as_before(vault: Vault, tag: bytes) -> bytes:
    """A process that goes on under the incarnation of one that died, and counts from 1 again."""
    with vault._db.failures():
        row = vault._db.execute("SELECT incarnation FROM incarnations LIMIT 1").fetchone()
    return bytes(row[0]) if row else _begin(vault, tag)


def _takes_any_segment(
    checked: CheckedLog, word: Any, items: Any, head: Any, **how: Any
) -> Segment:
    """A member that takes whatever comes next for what comes next."""
    if word.first > checked.n + 1:
        return Segment(Step.ON, checked._fold(word, items, head), head, word.lineage)
    return _check_entries(checked, word, items, head, **how)


PLANTS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "head-before-commit": (simulation.World, "kill_broker", _loses_last_batch),
    "no-unique-id": (Intake, "_place_of", lambda intake, room, entry_id: 0),
    "no-gap-check": (CheckedLog, "_check_entries", _takes_any_segment),
    "incarnation-reused": (Vault, "begin", _begins_as_before),
    "cursor-moves-before-send": (Cursors, "unsent", lambda cursors, send: None),
    "refused-post-overtaken": (Intake, "is_out_of_turn", lambda intake, route, word: False),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The program with this bug, for as long as the block runs."""
    owner, attribute, wrong = PLANTS[name]
    with patch.object(owner, attribute, wrong):
        yield
