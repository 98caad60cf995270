"""Every measurement, one after the other, and docs/performance.md from what they say.

    python3 dev.py bench [--full] [--only NAME ...] [--no-page]

Each script runs in a process of its own, so that none leaves memory or threads to the next; one
that fails is told, and the others go on. What each said last is kept beside the plots, so --only
renews a part of the page, and every part says when and how it was made. Ends with 1 where one
failed; a target that was not met is a figure, not a failure.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import zmq

from benchmarks.harness import Cell, Result, Spread, Verdict, short, tell
from benchmarks.plot import svg

HERE = Path(__file__).parent.parent
DOCS = HERE / "docs"
NAMES = (
    *("fanout", "durable", "latency", "crowd", "growth"),
    *("isolation", "pipeline", "history", "startup"),
)
_KEPT = DOCS / "performance" / "figures.json"
_PATIENCE_S = {False: 900, True: 5_400}


class Made(msgspec.Struct, frozen=True):
    """A result, and when, on what and how it was made."""

    when: str
    machine: str
    load: float  # of the machine, this script's own included
    command: str
    result: Result


def run(name: str, *, full: bool) -> Made | None:
    """One script's result; None where it failed."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--full"] if full else [])]
    try:
        done = subprocess.run(
            command, cwd=HERE, capture_output=True, timeout=_PATIENCE_S[full], check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: not done in {_PATIENCE_S[full]} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"{name}: failed\n{done.stderr.decode()}", file=sys.stderr)
        return None
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    load = os.getloadavg()[1]
    said = f"python3 dev.py bench --only {name}" + (" --full" if full else "")
    return Made(when, machine(), load, said, msgspec.json.decode(done.stdout, type=Result))


def machine() -> str:
    """What it ran on."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, libzmq {zmq.zmq_version()}"
    )


# ---- the page ----


def page(made: dict[str, Made]) -> str:
    """docs/performance.md."""
    lines = [
        "# Performance",
        "",
        "Made by `python3 dev.py bench`; no figure here is typed by hand.",
        "",
        "Each figure is a median over rounds, with the lowest and the highest in brackets. Each"
        " ratio is taken within a round, both sides on the same machine one after the other."
        " Server CPU is user and system time of the server process. Peers carry the same bytes:"
        " the sealed envelope of a short text.",
        "",
        "## Targets",
        "",
        *_table(
            [
                {
                    "": verdict.target,
                    "figure": verdict.what,
                    "target": verdict.bound,
                    "measured": f"{verdict.measured} {verdict.unit}",
                    "met": "yes" if verdict.met else "**no**",
                }
                for each in made.values()
                for verdict in each.result.verdicts
            ]
        ),
    ]
    whys = [
        f"- **{verdict.target}, {verdict.what}.** {verdict.why}"
        for each in made.values()
        for verdict in each.result.verdicts
        if verdict.why and not verdict.met
    ]
    if whys:
        lines += ["", "## Where a target is not met", "", *whys]
    for each in made.values():
        result = each.result
        lines += ["", f"## {result.title}", "", *_tables(result.rows)]
        for plot in result.plots:
            lines += ["", f"![{plot.title}](performance/{plot.name}.svg)"]
        how = f"`{each.command}`, {each.when}, {each.machine}; load {each.load:.1f}"
        lines += ["", *(f"- {note}" for note in result.notes), f"- {how}"]
    return "\n".join(lines) + "\n"


def _tables(rows: list[dict[str, Cell]]) -> list[str]:
    """Rows of one heading together."""
    lines: list[str] = []
    some: list[dict[str, Cell]] = []
    for row in rows:
        if some and list(row) != list(some[0]):
            lines += [*_table(some), ""]
            some = []
        some.append(row)
    return [*lines, *_table(some)]


def _table(rows: list[dict[str, Cell]]) -> list[str]:
    if not rows:
        return []
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return lines + ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]


def _cell(cell: Cell) -> str:
    return short(cell) if isinstance(cell, int | float) else str(cell)


def write(renewed: dict[str, Made]) -> None:
    """The page and its plots, from what is new and what was kept."""
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.json.decode(_KEPT.read_bytes(), type=dict[str, Made]) if _KEPT.exists() else {}
    known = kept | renewed
    made = {name: known[name] for name in NAMES if name in known}
    for each in made.values():
        for plot in each.result.plots:
            (_KEPT.parent / f"{plot.name}.svg").write_text(svg(plot), "utf-8")
    _KEPT.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    (DOCS / "performance.md").write_text(page(made), "utf-8")


# ---- the whole ----


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="dev.py bench")
    parser.add_argument("--full", action="store_true", help="more rounds, larger sizes")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="not all")
    parser.add_argument("--no-page", action="store_true", help="do not write docs/performance.md")
    options = parser.parse_args()
    made: dict[str, Made] = {}
    names = options.only or NAMES
    for name in names:
        print(f"... {name}", file=sys.stderr)
        done = run(name, full=options.full)
        if done is not None:
            made[name] = done
            tell(done.result)
            if not options.no_page:
                write(made)
    print("\nTargets")
    for each in made.values():
        for verdict in each.result.verdicts:
            print(f"  {line(verdict)}")
    sys.exit(len(made) < len(names))


def line(verdict: Verdict) -> str:
    """A target in one line."""
    met = "met    " if verdict.met else "NOT MET"
    measured: Spread = verdict.measured
    return f"{verdict.target:<4}{met} {measured} {verdict.unit} ({verdict.bound}): {verdict.what}"


if __name__ == "__main__":
    main()
