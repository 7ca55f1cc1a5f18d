"""A whole private network on one machine: namespaces, NATs, and the real programs in them."""

from firezone.lab.errors import LabError, WaitTimeout
from firezone.lab.lab import Lab
from firezone.lab.programs import Program
from firezone.lab.topology import Nat, Site

__all__ = ["Lab", "LabError", "Nat", "Program", "Site", "WaitTimeout"]
