"""A portal with a certificate of one's own: who trusts it works as ever, who does not says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from first_light import WEB, events, fetches

from firezone.lab import Lab, Program, WaitTimeout
from firezone.lab.topology import PORTAL


class TlsLab(Lab):
    """A lab whose portal serves wss://. All its programs get `environment`."""

    def __init__(self) -> None:
        super().__init__()
        self.environment: dict[str, str] = {}

    def portal_url(self, families: frozenset[int]) -> str:
        return super().portal_url(families).replace("ws:", "wss:")

    def start(
        self,
        name: str,
        host: str,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        return super().start(name, host, argv, self.environment | dict(environment or {}))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsLab]:
    directory = tmp_path_factory.mktemp("tls")
    with TlsLab() as lab:
        addresses = lab.plan.internet[PORTAL].addresses()
        cert, key = self_signed(directory, addresses)
        lab.environment = {
            "FIREZONE_PORTAL_TLS_CERT": str(cert),
            "FIREZONE_PORTAL_TLS_KEY": str(key),
            "FIREZONE_CA": str(cert),
        }
        lab.start_resource()
        assert lab.start_portal().wait_for_event("ready")["tls"] is True
        yield lab


def test_all_programs_over_tls(lab: TlsLab) -> None:
    lab.start_relay()
    lab.start_gateway()
    client = lab.start_client()
    assert fetches(lab, WEB)
    assert events(client, "portal_connected")


@pytest.mark.parametrize("trusted", ["nobody", "another"])
@pytest.mark.parametrize("kind", ["client", "gateway", "relay"])
def test_a_certificate_that_is_not_trusted(
    lab: TlsLab, tmp_path: Path, kind: str, trusted: str
) -> None:
    stop = {"client": "client", "gateway": "gateway", "relay": "relay1"}[kind]
    if stop in lab.programs and lab.programs[stop].exit_code is None:
        lab.stop(stop, signal.SIGKILL)  # a relay would serve its peers to the end
    usual = lab.environment
    other, _ = self_signed(tmp_path, lab.plan.internet[PORTAL].addresses())
    lab.environment = {"FIREZONE_CA": str(other)} if trusted == "another" else {}
    starts = {"client": lab.start_client, "gateway": lab.start_gateway, "relay": lab.start_relay}
    try:
        with pytest.raises(WaitTimeout, match="ended with code 1"):
            starts[kind]()
        assert "the portal's certificate is not trusted" in lab.programs[stop].tail()
    finally:
        lab.environment = usual


def self_signed(
    directory: Path, addresses: Sequence[IPv4Address | IPv6Address]
) -> tuple[Path, Path]:
    """A certificate for these addresses and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "portal")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(a) for a in addresses]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file
