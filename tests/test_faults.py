"""The short form of the fault sweeps: real brokers and members, a few runs of each row.

All of them, and at length: `python3 dev.py faults`. Rules of this file: a row holds if nothing that
was confirmed is lost, and nothing is shown twice; the sweep itself is shown to be able to fail.
"""

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import faults, power, sweep_damage, sweep_member, sweep_store, sweep_wire
from tests.bare import Writer
from tests.hosts import Host, host
from tests.mishaps import BROKER_HOOKS
from tests.proxy import Weather
from tests.tally import ROWS, Ground, Tally, ground
from zchat.errors import Exit

ALL_ROWS = {f"F{number}" for number in range(1, 27)} - {"F17", "F18"}  # those of a cluster


@pytest.fixture
def short() -> Iterator[Ground]:
    """Ground for a few runs."""
    with ground(runs=4, minutes=0.2, seed=random.SystemRandom().randrange(2**32)) as made:
        yield made


def holds(tally: Tally) -> None:
    """Nothing lost, doubled or wrong, and it was run."""
    if tally.absent:
        pytest.skip(tally.absent)
    assert tally.holds, faults.line("", "", tally, 0)


def test_every_row_has_a_sweep() -> None:
    """And only one."""
    assert ROWS.keys() >= ALL_ROWS


def test_fifty_kills_of_a_broker_lose_nothing(short: Ground) -> None:
    """At every hook and at random; writer and reader live on."""
    tally = sweep_store.kills(short)
    assert tally.runs == 50
    holds(tally)


def test_a_store_that_commits_late_is_found_out(short: Ground) -> None:
    """The test of the sweep: with its commit planted one turn late, a kill loses messages."""
    lost = 0
    for hook in BROKER_HOOKS:
        with host(short.new("forgets"), "forgets", f"kill@{hook}:6") as killed:
            with closing(Writer(killed.target, sweep_store.ROOM)) as writer:
                while killed.exit_code is None:
                    writer.write()
                    writer.pump(0.01)
                tally = Tally()
                tally.compare(writer.acked, killed.stored(sweep_store.ROOM))
            lost += tally.lost
    assert lost


def test_a_power_cut_loses_nothing_that_was_confirmed(short: Ground) -> None:
    """And with synchronous=NORMAL planted it does."""
    holds(sweep_store.power_cuts(short))


def test_a_failing_fsync_stops_the_broker(short: Ground) -> None:
    """With its own exit code; what was confirmed is there after the next start."""
    holds(sweep_store.calls_of(short, "S", 3))


def test_any_failing_call_loses_nothing(short: Ground) -> None:
    """Three of all reads, writes, truncations, syncs and removals."""
    holds(sweep_store.calls_of(short, "WTSRU", 3))


def test_a_full_disk_is_told_and_mended_over_the_same_connection(short: Ground) -> None:
    """Reading goes on meanwhile."""
    holds(sweep_store.limited(short, 400_000))


@pytest.mark.parametrize("way", sweep_store.OTHER_STORES)
def test_another_store_is_never_served_as_if_it_were_the_same(short: Ground, way: str) -> None:
    """Gone, not writable, or an old copy."""
    holds(sweep_store.OTHER_STORES[way](short))


def test_a_network_that_misbehaves_costs_nothing(short: Ground) -> None:
    """Cut at some bytes of a session, delayed, sliced, one-way."""
    with host(short.new("far")) as far:
        for weather in (
            Weather(cut_after=300),
            Weather(cut_after=1_900, resets=True),
            Weather(slice_bytes=1),
            Weather(swallows="to member"),
        ):
            holds(sweep_wire.through(far, weather))


def test_a_crowd_that_comes_at_once_is_let_in(short: Ground) -> None:
    """Two hundred, after a restart."""
    holds(sweep_wire.storm_of(short, 200))


def test_a_message_posted_again_keeps_its_place(short: Ground) -> None:
    """Over a new connection, after a restart, ten years later."""
    holds(sweep_wire.posted_again(short))


def test_wrong_clocks_change_nothing_but_times(short: Ground) -> None:
    """Server ahead by ten years, one member behind, the other jumping."""
    holds(sweep_wire.clocks_of(short, "years@10", "years@-10", "years@+-10"))


def test_seven_kills_of_a_member_lose_nothing(short: Ground) -> None:
    """One at each hook; the next life sends what the last one left."""
    holds(sweep_member.killed_at_every_hook(short, 7))


def test_a_second_broker_ends_and_the_first_goes_on(short: Ground) -> None:
    """One writer of a store."""
    holds(sweep_damage.two_brokers(short))


def test_strangers_who_take_all_descriptors_stop_nobody(short: Ground) -> None:
    """Who was in stays in; when they go, others get in."""
    holds(sweep_damage.few_descriptors(short))


def test_a_bit_that_flips_closes_a_room_or_stops_the_broker(short: Ground) -> None:
    """In four pages of a store of two rooms; the other one is served."""
    holds(sweep_damage.flipped_pages(short))


def test_a_broker_says_why_it_stops(short: Ground) -> None:
    """Its members read it, the administrator finds the exit code."""
    library = power.build(short.folder)
    if library is None:
        pytest.skip("no C compiler (cc) to build the shim with")
    failing, armed = Host(short.new("failing")), short.new("armed")
    settings = power.preloaded(library, failing.folder, fail_ops="S", fail_at=1, armed=armed)
    try:
        failing.start(preload=settings)
        with short.person("alice", failing) as alice:
            alice.say("one")
            alice.until("it is stored", lambda: alice.texts == ["one"])
            Path(armed).touch()
            alice.say("two")
            alice.until("why", lambda: "server says: stopping its storage failed" in alice.err)
            assert failing.wait() == Exit.STORAGE
            assert "The store" in failing.err.read_text()
            failing.start()
            alice.until("the second", lambda: alice.texts == ["one", "two"])
    finally:
        failing.close()


@pytest.mark.parametrize("absent", ["", "no tool"])
def test_a_row_that_was_not_run_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], absent: str
) -> None:
    """0 runs is a failure; where a tool is missing the line says which."""
    monkeypatch.setitem(ROWS, "F0", ("nothing", lambda _: Tally(absent=absent)))
    assert faults.sweep("F0", 1, 1, 1) is bool(absent)
    assert absent in capsys.readouterr().out
