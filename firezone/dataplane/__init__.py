"""The kernels under the commands of the control layer, without descriptors and threads.

Python writes the shared tables (sessions, flows, paths, channels) in place: the data threads see
each change at their next packet, and memory is freed after both have passed a quiescent point. What
the kernels cannot decide comes up through rings, `poll_events()`; packets that we made or decided
go down through rings, too. What was still in hand when a peer was removed is dropped, so a slot may
be used again at once for another peer.

`shell.dataplane.Dataplane` runs them on two threads, `SingleThreaded` one packet at a time.
"""

from firezone.dataplane.single_threaded import SingleThreaded
from firezone.dataplane.tables import FLOW_CAPACITY, SLOTS, Tables
from firezone.dataplane.values import Flow

__all__ = ["FLOW_CAPACITY", "SLOTS", "Flow", "SingleThreaded", "Tables"]
