"""What the tests with Prometheus share: a gate under mail of every kind, and a Prometheus that scrapes it."""

import pathlib
import signal
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "interop"))

from prometheus import Prometheus  # noqa: E402 (its modules' place is named just above)
from world import World  # noqa: E402

# A run that is told to end takes its servers with it.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    running = World(tmp_path_factory.mktemp("world"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def prometheus(world, tmp_path_factory):
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), world.admin)
    # From here on: rates are nothing without two scrapes that differ.
    running.wait_for_scrapes()
    world.begin()
    yield running
    running.stop()
