"""What holds for all tests. Hypothesis works without deadlines, as no test asserts a speed.

In continuous integration (`CI` is set) the examples are the same in every run, so that a red run is
about the change it ran for. Everywhere else they are random, and find new cases.
"""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from firezone.shell import logs

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def _logging_stays() -> Iterator[None]:
    """A test that sets up logging does so for itself, not for those after it."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [*root.handlers]:
        if isinstance(handler.formatter, logs.JsonFormatter | logs.HumanFormatter):
            root.removeHandler(handler)
