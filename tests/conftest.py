"""How hypothesis works here: without deadlines, as no test asserts a speed.

In continuous integration (`CI` is set) the examples are the same in every run, so that a red run is
about the change it ran for. Everywhere else they are random, and find new cases.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
