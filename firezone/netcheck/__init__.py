"""Finds out what the network between this host and some STUN servers lets through."""

from firezone.netcheck.check import (
    MAIN,
    NO_CREDENTIALS,
    PROBED,
    RELAYING,
    SECOND,
    Netcheck,
    SendProbe,
    Server,
)
from firezone.netcheck.filtering import Filtering, filtering_of
from firezone.netcheck.mapping import Mapping, mapping_of
from firezone.netcheck.report import (
    FamilyReport,
    NetcheckReport,
    PortalReport,
    ServerReport,
    StreamReport,
    findings,
    works,
)

__all__ = [
    "MAIN",
    "NO_CREDENTIALS",
    "PROBED",
    "RELAYING",
    "SECOND",
    "FamilyReport",
    "Filtering",
    "Mapping",
    "Netcheck",
    "NetcheckReport",
    "PortalReport",
    "SendProbe",
    "Server",
    "ServerReport",
    "StreamReport",
    "filtering_of",
    "findings",
    "mapping_of",
    "works",
]
