"""A standard WireGuard interface on the data plane: its file, its control protocol, its machine."""

from firezone.wireguard.allowed_ips import AllowedIPs, IPNetwork
from firezone.wireguard.config import Config, InterfaceSection, PeerSection, Table, parse_config
from firezone.wireguard.device import Device
from firezone.wireguard.settings import (
    AllowedIP,
    DeviceChange,
    DeviceStatus,
    PeerChange,
    PeerStatus,
    ServiceStatus,
    SettingsError,
)
from firezone.wireguard.uapi import (
    Get,
    GetWorkers,
    RequestReader,
    UapiError,
    format_change,
    format_service,
    format_status,
    parse_service,
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
    "GetWorkers",
    "IPNetwork",
    "InterfaceSection",
    "PeerChange",
    "PeerSection",
    "PeerStatus",
    "RequestReader",
    "ServiceStatus",
    "SettingsError",
    "Table",
    "UapiError",
    "format_change",
    "format_service",
    "format_status",
    "parse_config",
    "parse_service",
    "parse_status",
    "reply",
]
