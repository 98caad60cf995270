"""The short form of the fuzzer, and that the fuzzer itself would find what it is for.

The long form: `.venv/bin/python -m tests.fuzz --rounds 100000` (a minute or two; `--seed S` repeats
a run, `--first-world N` goes straight to the world that a failure names).

Rules of this file: every seed is fixed, so that a failure is there again the next time; a planted
hole must be found by the fuzzer as it stands; what grows is counted, not measured.
"""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import fuzz, test_checked
from tests.fuzz import CAST, CHECKS, Broken, Honest, Rogue, Tally, held, packed, world_of
from zchat.broker import core as broker_core
from zchat.broker import cursors, intake
from zchat.member import checked, presence, room, trust
from zchat.member import seen as seen_by
from zchat.protocol import body, ledger, seal, wire
from zchat.protocol.keys import Author
from zchat.protocol.ledger import NO_HEAD
from zchat.protocol.wire import Cast, Hello, Join, Page, Position, encode

HERE = Path(__file__).parent.parent


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.timeout(600)
def test_junk_is_refused_by_name_and_nothing_falls_or_grows(seed: int) -> None:
    """5,000 rounds for each seed: every check refuses something, and more than half of the rounds
    get past the signature that would stop them.
    """
    tally = fuzz.fuzz(5_000, seed)
    print(tally.report())
    assert tally.idle_checks() == []
    assert tally.signed_rounds * 2 >= tally.rounds


def test_a_seed_decides_everything() -> None:
    """The same seed gives the same counts, another one gives others."""
    one, again, other = (fuzz.fuzz(900, seed) for seed in (7, 7, 8))
    assert (one.refused, one.taken) == (again.refused, again.taken)
    assert one.refused != other.refused


def test_too_few_rounds_are_a_failure_that_names_the_seed() -> None:
    """As a command: what no junk was refused by is said, and the exit code is 1."""
    command = [sys.executable, "-m", "tests.fuzz", "--rounds", "10", "--seed", "5"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "KiB of growth" in done.stdout
    assert re.search(r"^BROKEN  seed 5: .*'server: it went back'", done.stdout, re.MULTILINE)


# --- Every check is on the fuzzer's list ----------------------------------------------------------


def test_every_reason_of_the_wire_is_counted() -> None:
    """What decodes a message can refuse it for these reasons and for no other."""
    given = set(re.findall(r'Malformed\(reason=f?"([^":]+)', inspect.getsource(wire)))
    given |= set(re.findall(r'reason="([^"]+)', inspect.getsource(ledger.Head)))
    assert given == set(CHECKS["wire"])


def test_every_check_of_the_page_is_counted() -> None:
    """The table of section 7; what it leaves without a name is an envelope known already."""
    page = (HERE / "docs" / "protocol.md").read_text("utf-8")
    table = page.partition("| # | check | fails as |")[2].partition("\n\n")[0]
    names = re.findall(r"^\| \d \|.* \| (?:`(\w+)`|\*\(ignored\)\*) \|$", table, re.MULTILINE)
    assert len(names) == 9
    assert {name or "known" for name in names} == set(CHECKS["envelope"])


def test_every_contradiction_of_a_log_is_counted() -> None:
    """Whatever checked.py can accuse a server of, some lie of the table is told to make it.

    Or a test of its own, where it takes a member who begins anew.
    """
    tested = inspect.getsource(test_checked)
    source = inspect.getsource(checked)
    texts = re.findall(r'ServerContradiction\(\s*f?"([^"]+)"', source)
    assert len(texts) > 10
    for text in texts:
        begins = text.partition("{")[0]
        is_told = any(name.rstrip("#") in text for name in CHECKS["server"])
        assert is_told or begins in tested, text


# --- A hole is found ------------------------------------------------------------------------------


def _anything(*_: object, **__: object) -> bool:
    return True


def _nothing(*_: object, **__: object) -> None:
    return None


@pytest.mark.parametrize(
    ("place", "name", "hole"),
    [
        (seal, "same", _anything),
        (seal, "_unpad", lambda padded: padded[4 : 4 + int.from_bytes(padded[:4], "big")]),
        (body, "name_is_sound", _anything),
        (body, "NOT_DECODABLE", ()),
        (wire, "MAX_BATCH_ENTRIES", 1_000),
        (intake, "check_outline", _nothing),
        (broker_core, "check_outline", _nothing),
        (cursors.Cursors, "forget", _nothing),
        (checked, "head_holds", _anything),
        (checked.CheckedLog, "_check_ids", _nothing),
        (checked.CheckedLog, "_if_signed", lambda self, head, verdict: verdict),
    ],
)
def test_a_planted_hole_is_found(
    place: Any, name: str, hole: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that is not made makes the fuzzer red, and it says where."""
    monkeypatch.setattr(place, name, hole)
    with pytest.raises(Broken, match=r"^seed 3, world \d+ \(\w+\), round \d+: "):
        fuzz.fuzz(1_800, 3)


# --- Nothing grows --------------------------------------------------------------------------------


def test_a_crowd_of_made_up_keys_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the passphrase can beat with as many keys as they like: what a member remembers
    of keys that wrote nothing has a bound, here a small one.
    """
    monkeypatch.setattr(presence, "_MOST_HEARD", 50)
    for place in (room, trust):
        monkeypatch.setattr(place, "_MOST_REMEMBERED", 50)
    monkeypatch.setattr(seen_by, "_MOST_AUTHORS", 50)
    sizes = []
    with world_of(Rogue, "crowd", Tally()) as world:
        assert isinstance(world, Rogue)
        world.listen()
        world.truth()
        seen = NO_HEAD._replace(log=world.log, n=1, hash=bytes(32)).packed
        for number in range(1, 601):
            draft = world.crowd.draft(CAST, packed(world.crowd.body("beat", seen)))
            draft.author = Author(number.to_bytes(32, "big"), world.keys)
            draft.head(sender=draft.author.public)
            world.hear(encode(Cast(world.keys.tag), draft.made()))
            if number % 300 == 0:
                sizes.append(held(world.member.core))
    assert world.tally.taken["notices that blame author"] >= 600
    assert sizes[1] < sizes[0] + 100


def test_connections_that_come_and_go_fill_no_memory() -> None:
    """Whatever they began and did not end, nothing of them is left but budgets, for a while."""
    sizes = []
    with world_of(Honest, "churn", Tally()) as world:
        assert isinstance(world, Honest)
        tag, log = world.keys.tag, bytes(32)
        places = tuple(Position(bytes([i]) * 16, log, 1, 0, log, 0) for i in range(8))
        join = Join(2, (Position(tag, log, 1, 0, log, 1_000), *places))
        for number in range(1, 401):
            world.clock.time += 10
            route = world.new_route()
            for word in (Hello(1, 1, "fuzz"), join, Page(3, tag, log, 1, 2, False)):
                world.tell(route, encode(word))
            world.turn()
            world.tell(route, encode(join))
            world.broker.closed(route)
            if number % 200 == 0:
                sizes.append(held(world.broker))
    assert sizes[1] < sizes[0] + 100
