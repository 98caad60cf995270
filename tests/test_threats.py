"""The table of threats: that it is whole, that docs/security.md is that table, that it can be red.

Rules of this file: the page is compared with the tests as they stand, in both directions; every
seed is fixed.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import paragraphs, promise_and_limits
from tests.threats import (
    COMPOSABLE,
    HERE,
    NOT_YET,
    WANTED,
    Outcome,
    compose,
    compose_for,
    outcomes,
    red,
    tell,
)
from zchat.lab.lies import LIES, parse_lie

PROJECT = HERE.parent
PAGE = PROJECT / "docs" / "security.md"
TESTS = [
    name
    for path in sorted(HERE.glob("test_threats_*.py"))
    for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
]


def rows_of_the_page() -> dict[str, list[str]]:
    """The cells of each row of docs/security.md that begins with an id."""
    rows = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and re.fullmatch(r"[RMO]\d+(-\w+)?", cells[0]):
            assert cells[0] not in rows, f"{cells[0]} stands there twice"
            rows[cells[0]] = cells[1:]
    return rows


def held_by(row: str) -> list[str]:
    """The tests that show that a row is held."""
    return [name for name in TESTS if re.match(rf"test_{row}_(?!control|planted)", name)]


# ---- whole ----


def test_every_row_has_a_test_and_a_control_or_a_reason() -> None:
    """None of the rows that are wanted is forgotten; a part of one may be not yet."""
    for row in WANTED:
        if row in NOT_YET:
            assert not held_by(row), f"{row} is held: it is no more not yet"
            continue
        assert held_by(row), row
        assert any(re.match(rf"test_{row}_(control|planted)", name) for name in TESTS), row
    assert {row.partition("-")[0] for row in NOT_YET} <= set(WANTED)
    assert all(NOT_YET.values())


def test_the_page_is_the_table() -> None:
    """The same rows, the tests that there are, the reasons that are given, no empty cell."""
    page = rows_of_the_page()
    assert set(page) == {row for row in WANTED if row not in NOT_YET} | set(NOT_YET)
    for row, cells in page.items():
        assert all(cells), row
        if row in NOT_YET:
            assert cells == [NOT_YET[row]]
        else:
            assert len(cells) == 4
            assert re.findall(r"`(test_\w+)`", cells[-1]) == held_by(row), row


def test_the_page_has_every_limit_of_the_contract_and_who_was_first() -> None:
    """The promise, its limits right beneath it, and then what it does not do."""
    page = PAGE.read_text("utf-8")
    promise, known = promise_and_limits()
    parts = paragraphs(page)
    assert parts[parts.index(promise) + 1] == known
    for name in ("SimpleX", "Keybase", "Cwtch", "(n+1)sec", "Certificate Transparency", "SUNDR"):
        assert f"**{name}**" in page
    assert "(../SECURITY.md)" in page
    report = (PROJECT / "SECURITY.md").read_text("utf-8")
    assert "docs/security.md" in report and "private security advisory" in report


# ---- one line for each row ----

REPORT = """<testsuites><testsuite>
<testcase name="test_R1_holds" time="1.25"/><testcase name="test_R1_control" time="0.25"/>
<testcase name="test_R2_holds[a]" time="1"/>
<testcase name="test_R3_holds" time="1"><failure/></testcase>
<testcase name="test_R3_planted_x" time="1"/>
<testcase name="test_R4_holds" time="1"/><testcase name="test_R4_planted_x" time="1"/>
<testcase name="test_R5_holds" time="1"/>
<testcase name="test_R5_control" time="1"><failure/></testcase>
<testcase name="test_R6_holds" time="1"><skipped/></testcase>
<testcase name="test_a_hand_made_peer" time="1"/>
</testsuite></testsuites>"""
SAID = """R1 held red 1.5
R2 held missing 1.0
R3 failed planted 2.0
R4 held planted 2.0
R5 held missing 2.0
R6 failed missing 1.0
R7 failed missing 0.0
4 held, 0 not yet, 4 controls missing
"""


def test_each_row_has_a_line_and_a_control_that_stays_green_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed, was skipped, never ran, or cannot fail is not held; the exit code says so."""
    (tmp_path / "report.xml").write_text(REPORT)
    found = outcomes(tmp_path / "report.xml")
    assert tell(found, [f"R{number}" for number in range(1, 8)]) == 1
    assert capsys.readouterr().out == SAID
    good = {"R1": found["R1"], "R4": found["R4"]}
    assert tell(good, ["R1", "R4"]) == 0
    assert tell({row: Outcome() for row in WANTED}, []) == 1


def test_one_row_runs_as_a_command() -> None:
    """With its line, its sum, and 0; an id that is none is refused."""
    command = [sys.executable, "-m", "tests.threats"]
    done = subprocess.run([*command, "O9"], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    first, last = done.stdout.splitlines()
    assert re.fullmatch(r"O9 held planted \d+\.\d", first)
    assert last == "1 held, 0 not yet, 0 controls missing"
    wrong = subprocess.run([*command, "R99"], cwd=PROJECT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no such row: R99" in wrong.stderr


# ---- lies thrown together ----


def test_all_lies_are_thrown_but_those_that_cannot_be() -> None:
    assert set(LIES) - set(COMPOSABLE) == {"delay", "listen", "giant", "downgrade", "other-key"}
    for name, drawn in COMPOSABLE.items():
        drawn = drawn.format(member=1, after=1, at=1, few=1, bit=1, sides="1/2")
        parse_lie(f"{name}:{drawn}" if drawn else name)


def thrown(folder: Path) -> int:
    """Some compositions of one seed; in how many of them members saw different things."""
    return sum(compose(f"1/{number}", folder / str(number))[1] for number in range(14))


def test_lies_thrown_together_hide_nothing(tmp_path: Path) -> None:
    assert 0 < thrown(tmp_path) < 14


def test_lies_thrown_together_are_found_without_the_chain(tmp_path: Path) -> None:
    """The same seed, and nobody folds what they are sent."""
    red(lambda: thrown(tmp_path), "chain", because="see different things, and nothing says so")


def test_compositions_print_their_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """One at least, however short the time."""
    assert compose_for(0, 7) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "seed 7"
    assert last.startswith("held  1 compositions, in ")
