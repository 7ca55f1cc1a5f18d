"""A standard WireGuard interface, for programs: what `firezone wg up` runs. See docs/wg.md."""

from firezone.shell.wg_interface import Interface, InterfaceError
from firezone.wireguard import DeviceStatus, PeerStatus

__all__ = ["DeviceStatus", "Interface", "InterfaceError", "PeerStatus"]
