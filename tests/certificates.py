"""Certificates for tests of TLS."""

import subprocess
from pathlib import Path


def self_signed(directory: Path) -> Path:
    """A PEM file with a fresh key and the certificate of `relay` that it signed itself."""
    both, key = directory / "relay.pem", directory / "relay.key"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=relay", "-out", str(both), "-keyout", str(key)]
    subprocess.run(request, check=True, capture_output=True)
    with both.open("a") as file:
        file.write(key.read_text())
    return both
