"""How a peer names itself. The portal reads its version from `connlib/x.y.z` or `relay/x.y.z`."""

CLIENT_VERSION = "1.5.3"
GATEWAY_VERSION = "1.4.15"
RELAY_VERSION = "0.1.0"
"""Versions of the wire behaviour that we match, not of this package: the portal pairs by them."""

RELAY_USER_AGENT = f"relay/{RELAY_VERSION}"


def connlib_user_agent(
    version: str, os: str, os_version: str | None, arch: str | None, kernel: str | None
) -> str:
    """`Debian/12 connlib/1.5.3 (x86_64; 6.1.0)`; what is unknown is left out."""
    system = f"{os}/{os_version}" if os_version else os
    details = "; ".join(part for part in (arch, kernel) if part)
    text = f"{system} connlib/{version}" + (f" ({details})" if details else "")
    return "".join(c for c in text if c.isascii() and c.isprintable())
