"""What can go wrong in the lab."""

from __future__ import annotations

from firezone.errors import FirezoneError


class LabError(FirezoneError):
    """The lab could not be built, or a program in it failed. The message tells which and why."""


class WaitTimeout(LabError):
    """What was waited for did not happen in time, or its program ended before."""
