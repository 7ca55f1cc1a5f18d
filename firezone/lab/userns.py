"""Gives the lab its rights: root has them; anyone else gets them in a user namespace.

`python -m firezone.lab.userns COMMAND...` runs a command so, and with `--or-without` before the
command also where neither is to be had. In the namespace the command is root over networks of its
own, and over nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from firezone.lab.errors import LabError
from firezone.shell.rights import Capability, has

_INSIDE = "FIREZONE_LAB_USERNS"

# The tmpfs hides the machine's own /run, which belongs to the real root. A lab may want to put its
# own resolv.conf in the place of one there.
_SCRIPT = """
mount -t tmpfs tmpfs /run
mkdir /run/netns
resolv=$(readlink -m /etc/resolv.conf)
case $resolv in /run/*) mkdir -p "${resolv%/*}"; : > "$resolv" ;; esac
PATH="$PATH:/usr/sbin:/sbin"
ip link set lo up
exec "$@"
"""


def sufficient() -> bool:
    """True if this process may build a lab as it is."""
    needed = (Capability.CAP_NET_ADMIN, Capability.CAP_SYS_ADMIN)
    return os.access("/run", os.W_OK) and all(map(has, needed))


def wrap(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` with the rights for a lab."""
    if sufficient():
        return list(argv)
    return ["unshare", "-Urnm", "sh", "-ec", _SCRIPT, "sh", *argv]


def ensure(argv: Sequence[str]) -> None:
    """Return if our rights suffice; else start `argv` anew in a user namespace, in our place.

    Raises LabError where the system allows neither.
    """
    if sufficient():
        return
    if _INSIDE in os.environ:
        raise LabError("the user namespace lacks the rights for a lab; run it as root")
    _replace(argv)


def require_tun() -> None:
    """Raise LabError unless programs in the lab can have TUN devices."""
    device = Path("/dev/net/tun")
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        raise LabError(f"no access to {device}; run as root, or let users in: chmod 666 {device}")


def enter_hint() -> str:
    """What another terminal must put before a command to share this process's namespaces."""
    if _INSIDE in os.environ:
        return f"nsenter --user --mount --net --preserve-credentials --target {os.getpid()} "
    return ""


def _replace(argv: Sequence[str]) -> NoReturn:
    unshare = shutil.which("unshare")
    if unshare is None:
        raise LabError("needs root, or unshare; install it with: apt-get install util-linux")
    os.environ[_INSIDE] = "1"
    sys.stdout.flush()
    os.execv(unshare, wrap(argv))


def _main(arguments: list[str]) -> NoReturn:
    without = arguments[:1] == ["--or-without"]
    argv = arguments[1:] if without else arguments
    if not argv:
        sys.exit("usage: python -m firezone.lab.userns [--or-without] COMMAND...")
    if sufficient() or (without and not _works()):
        os.execvp(argv[0], argv)
    _replace(argv)


def _works() -> bool:
    try:
        return subprocess.run(wrap(["true"]), capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except LabError as error:
        sys.exit(str(error))
