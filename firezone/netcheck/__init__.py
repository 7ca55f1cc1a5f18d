"""Finds out what the network between this host and some STUN servers lets through."""

from firezone.netcheck.check import MAIN, SECOND, Netcheck, SendProbe, Server
from firezone.netcheck.mapping import Mapping, mapping_of
from firezone.netcheck.report import (
    FamilyReport,
    NetcheckReport,
    PortalReport,
    ServerReport,
    findings,
)

__all__ = [
    "MAIN",
    "SECOND",
    "FamilyReport",
    "Mapping",
    "Netcheck",
    "NetcheckReport",
    "PortalReport",
    "SendProbe",
    "Server",
    "ServerReport",
    "findings",
    "mapping_of",
]
