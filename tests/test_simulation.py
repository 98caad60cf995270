"""The simulation's short form: new seeds in each run, and bugs that it must find.

A failure names its seed and step; `python3 dev.py simulate --seeds 1 --first-seed SEED` plays it
again, with as many `--steps`.

Rules of this file: nothing is checked here but what tests/simulation.py checks; the seeds come from
the run's own randomness, so that every run sees something that none saw before.
"""

import random

import pytest

from tests.planted import PLANTS, planted
from tests.simulation import Broken, simulate

STEPS = 2_000
RUNS = 6
BEGINNINGS = 15
SEEDS = 2**31


@pytest.mark.parametrize("run", range(RUNS))
def test_every_invariant_holds_whatever_the_network_does(run: int) -> None:
    seed = random.randrange(SEEDS) + run  # the first is the same in every test of a run
    written = simulate(seed, STEPS)
    assert written > 0, f"seed {seed}: nobody said anything"


@pytest.mark.parametrize("run", range(4))
def test_every_invariant_holds_in_the_first_minute_of_many_rooms(run: int) -> None:
    """A room begins once in a run; what goes wrong there needs many of them."""
    first = random.randrange(SEEDS) + run * BEGINNINGS
    assert sum(simulate(seed, 150) for seed in range(first, first + BEGINNINGS)) > 0


@pytest.mark.parametrize("bug", PLANTS)
def test_a_bug_that_people_really_write_is_found_by_name_of_its_seed(bug: str) -> None:
    first = random.randrange(SEEDS)
    with planted(bug), pytest.raises(Broken, match=r"^seed \d+, (step \d+|healing): ") as found:
        for seed in range(first, first + 40):
            simulate(seed, STEPS)
    assert int(str(found.value).removeprefix("seed ").split(",")[0]) in range(first, first + 40)


def test_a_seed_plays_the_same_again() -> None:
    """Or naming it would help nobody."""
    seed = random.randrange(SEEDS)
    with planted("no-gap-check"):
        told = {_what_breaks(seed, steps=600) for _ in range(2)}
    assert len(told) == 1


def _what_breaks(seed: int, steps: int) -> str:
    try:
        return str(simulate(seed, steps))
    except Broken as broken:
        return str(broken)
