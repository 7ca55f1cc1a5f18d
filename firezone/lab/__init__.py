"""A whole private network on one machine: namespaces, NATs, and the real programs in them."""

from firezone.lab.errors import LabError, WaitTimeout
from firezone.lab.lab import Lab
from firezone.lab.nat_kinds import Depends, Nat
from firezone.lab.programs import Program
from firezone.lab.topology import Site

__all__ = ["Depends", "Lab", "LabError", "Nat", "Program", "Site", "WaitTimeout"]
