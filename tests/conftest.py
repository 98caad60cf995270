"""Fixtures that many tests share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.processes import World, make_template, world

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
