"""Fixtures that many tests share."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import World, environment, make_template, world
from zchat.ui.cli import main as command_line

# How long an example takes says something of the machine, and nothing of the program.
settings.register_profile("zchat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zchat")

# A suite that was started in the background inherits that SIGINT is ignored, and so would all it
# starts: a handler of our own becomes the default again in whatever is executed.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles of a host and three members who know the room `lobby`."""
    folder = tmp_path_factory.mktemp("template")
    make_template(folder, iter(["alice", "bob", "carol"]))
    return folder


@pytest.fixture
def here(tmp_path: Path, template: Path) -> Iterator[World]:
    """A running broker, and members ready to join its room."""
    with world(tmp_path / "world", template) as made:
        yield made


class Inside(Protocol):
    """Runs a command to its end, as `tests.processes.zchat` does."""

    def __call__(
        self, home: Path, *arguments: str, **more: str
    ) -> "subprocess.CompletedProcess[str]": ...


@pytest.fixture
def inside(capfd: pytest.CaptureFixture[str]) -> Inside:
    """The same in this very process, for what needs no process of its own: a third of the time."""

    def run(home: Path, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        words = ["zchat", *arguments]
        capfd.readouterr()
        with (
            patch.dict(os.environ, environment(home, **more), clear=True),
            patch.object(sys, "argv", words),
        ):
            code = command_line._run()
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    return run
