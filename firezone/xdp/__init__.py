"""The relay's fast path in the kernel: an XDP program, and the small assembler that makes it."""

from firezone.xdp.assembler import assemble
from firezone.xdp.counts import Count
from firezone.xdp.layout import Settings
from firezone.xdp.program import Verdict, relay_program
from firezone.xdp.routes import Route, Way

__all__ = ["Count", "Route", "Settings", "Verdict", "Way", "assemble", "relay_program"]
