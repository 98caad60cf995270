"""Fault sweeps on the real program: one line per fault, and what was lost.

    python3 dev.py faults                     each row at least 20 times
    python3 dev.py faults --only F1,F2
    python3 dev.py faults --long --minutes 60  1,000 kills, every I/O call, every byte

Real brokers, real members, real files; docs/operations.md says what each fault looks like. A line
has the fault, how often it was run, what was confirmed to somebody, what of that was lost, what was
shown twice, and the worst time until everything was well again. Ends with 1 if anything was lost,
doubled, wrong, or not run.
"""

import argparse
import random
import sys
import time

from tests import sweep_damage, sweep_member, sweep_store, sweep_wire  # noqa: F401  their rows
from tests.tally import ROWS, Tally, attempt, ground

_LONG_RUNS = 1_000


def line(name: str, title: str, tally: Tally, took_s: float) -> str:
    """A row for people."""
    if tally.absent:
        return f"{name:5} {title}: NOT RUN, {tally.absent}"
    figures = (
        f"runs {tally.runs:,}  acknowledged {tally.acked:,}  lost {tally.lost}"
        f"  shown twice {tally.twice}  worst recovery {tally.worst_s:.1f} s"
    )
    verdict = "held" if tally.holds else "BROKEN"
    notes = "; ".join(tally.notes)
    told = [f"{name:5} {verdict:6} {title}: {figures}  ({took_s:.0f} s)"]
    told += [f"             {notes}"] if notes else []
    told += [f"             !! {wrong}" for wrong in tally.wrong[:10]]
    return "\n".join(told)


def sweep(name: str, runs: int, minutes: float, seed: int) -> bool:
    """Run one row and say what it saw; whether it held. A missing tool is told, and no failure."""
    title, run = ROWS[name]
    began = time.monotonic()
    with ground(runs, minutes, seed) as here:
        tally = attempt(lambda _: run(here), 0)
    print(line(name, title, tally, time.monotonic() - began), flush=True)
    return bool(tally.absent) or tally.holds


def _number(name: str) -> tuple[int, str]:
    return int("".join(c for c in name if c.isdigit())), name


def main() -> None:
    """Run the rows that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="rows, as F1,F2")
    parser.add_argument("--long", action="store_true", help="every row as far as time allows")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each row (5; at most)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    names = sorted(options.only.split(",") if options.only else ROWS, key=_number)
    print(f"seed {options.seed}", flush=True)
    runs = _LONG_RUNS if options.long else 20
    held = [sweep(name, runs, options.minutes, options.seed) for name in names]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
