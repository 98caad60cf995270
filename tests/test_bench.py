"""What is said of speed can be checked: the list of commands costs no imports, `zchat bench` runs,
and so do the benchmarks. Their figures are never asserted: machines differ.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import pipeline
from benchmarks.harness import Plot, Result, Verdict, spread
from benchmarks.plot import svg
from benchmarks.run import Made, page
from tests.processes import environment, zchat
from zchat.ui.cli.main import _SECTIONS, cli


@pytest.mark.parametrize(
    ("name", "short"),
    [(name, short) for commands in _SECTIONS.values() for name, (_, short) in commands.items()],
)
def test_the_list_says_of_a_command_what_it_says_of_itself(name: str, short: str) -> None:
    assert cli.commands[name].get_short_help_str(70) == short
    assert cli.commands[name].name == name


def test_help_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    """Start-up is paid at every call; these are what costs. Measured without the coverage tool,
    which keeps its own figures in sqlite3.
    """
    dear = ["zmq", "nacl", "msgspec", "sqlite3", "asyncio", "prompt_toolkit", "zchat.member"]
    code = "import sys, zchat.ui.cli.main; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *dear],
        capture_output=True,
        text=True,
        check=True,
        env={k: v for k, v in environment(tmp_path).items() if not k.startswith("COVERAGE_")},
    )
    assert done.stdout.strip() == "[]"


def test_bench_says_what_a_server_here_carries(tmp_path: Path) -> None:
    done = zchat(tmp_path, "bench", "--seconds", "5", "--within", "10000")
    assert done.returncode == 0, done.stderr
    assert "99 % within" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("This broker carries about ")


def test_bench_says_so_where_it_serves_too_late(tmp_path: Path) -> None:
    """Nobody is served within no time at all."""
    done = zchat(tmp_path, "bench", "--seconds", "5", "--within", "10", "--json")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert steps[0]["members"] == 50
    assert 0 < steps[0]["p50_ms"] <= steps[0]["p99_ms"]


def test_a_page_is_made_of_results_alone() -> None:
    plot = Plot("p", "A <plot>", "ms", {"zchat": 1.0, "other": 2.0})
    verdict = Verdict("P1", "what", "≤ 1 ×", spread([0.5, 0.7, 0.6]), "×", True)
    result = Result("Title", [{"a": 1.0, "b": "x"}, {"c": 2.0}], [verdict], ["a note"], [plot])
    how = Made("today", "this machine", 0.5, "the command", result)
    made = page({"fanout": how})
    assert "| P1 | what | ≤ 1 × | 0.6 (0.5–0.7) × | yes |" in made
    assert (
        "`the command`, today, this machine; load 0.5" in made
        and "![A <plot>](performance/p.svg)" in made
    )
    assert "A &lt;plot&gt; (ms)" in svg(plot)


def test_the_members_pipeline_is_measured_on_the_real_code() -> None:
    """Its script checks that all messages arrived; here it only has to run."""
    figures = pipeline._round(1)
    assert all(value > 0 for value in figures.values())
