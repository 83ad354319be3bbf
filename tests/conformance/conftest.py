"""What the conformance tests share: the modules of the interop tests that fit here, too."""

import pathlib
import signal
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "interop"))

from world import Upstream  # noqa: E402 (its place is named just above)

# A run that is told to end takes its servers with it.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def upstream():
    running = Upstream()
    yield running
    running.stop()
