"""A standard WireGuard interface on the data plane: its file, its control protocol, its machine."""

from firezone.wg.allowed_ips import AllowedIPs, IPNetwork
from firezone.wg.config import Config, InterfaceSection, PeerSection, Table, parse_config
from firezone.wg.device import Device
from firezone.wg.settings import (
    AllowedIP,
    DeviceChange,
    DeviceStatus,
    PeerChange,
    PeerStatus,
    SettingsError,
)
from firezone.wg.uapi import (
    Get,
    RequestReader,
    UapiError,
    format_change,
    format_status,
    parse_status,
    reply,
)

__all__ = [
    "AllowedIP",
    "AllowedIPs",
    "Config",
    "Device",
    "DeviceChange",
    "DeviceStatus",
    "Get",
    "IPNetwork",
    "InterfaceSection",
    "PeerChange",
    "PeerSection",
    "PeerStatus",
    "RequestReader",
    "SettingsError",
    "Table",
    "UapiError",
    "format_change",
    "format_status",
    "parse_config",
    "parse_status",
    "reply",
]
