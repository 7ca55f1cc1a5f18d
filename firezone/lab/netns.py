"""Makes and removes network namespaces, and runs commands in them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from firezone.lab.errors import LabError

DIRECTORY = Path("/run/netns")

_PACKAGES = {"ip": "iproute2", "nft": "nftables", "setpriv": "util-linux", "unshare": "util-linux"}
TRANSLATOR = {"tayga": "tayga", "mount": "mount"}
"""What a lab with a NAT64 needs besides."""


def require_tools(others: Mapping[str, str] | None = None) -> None:
    """Raise LabError, which says what to install, unless the lab's tools are there, and `others`
    (packages by tool)."""
    needed = {**_PACKAGES, **(others or {})}
    missing = sorted({package for tool, package in needed.items() if _find(tool) is None})
    if missing:
        raise LabError(f"missing programs; install them with: apt-get install {' '.join(missing)}")


def prefix_argv(namespace: str, etc: Path | None = None) -> list[str]:
    """What to put before a command to run it in a namespace, and to end it when we end.

    It sees the files of the directory `etc` in the place of those of the same names in /etc. Every
    step replaces itself by the next one, so the process we start is the command itself.
    """
    die_with_us = [tool("setpriv"), "--pdeathsig", "KILL"]
    return [*die_with_us, *enter_argv(namespace, etc)]


def enter_argv(namespace: str, etc: Path | None = None) -> list[str]:
    """Like `prefix_argv`, for a command that may outlive us."""
    enter = [tool("ip"), "netns", "exec", namespace]
    return enter if etc is None else [*enter, "sh", "-ec", _COVER, "sh", str(etc.resolve())]


# `ip netns exec` has given the command a mount namespace of its own.
_COVER = 'for file in "$1"/*; do mount --bind "$file" "/etc/${file##*/}"; done; shift; exec "$@"'


def run(namespace: str, argv: Sequence[str], stdin: str = "") -> str:
    """Run a short set-up command in a namespace; returns its output. Raises LabError on failure."""
    return _run([tool("ip"), "netns", "exec", namespace, *argv], stdin)


def ip_batch(commands: Iterable[str], namespace: str | None = None) -> None:
    """Run many `ip` commands at once, in a namespace or in our own."""
    inside = [] if namespace is None else ["-n", namespace]
    _run([tool("ip"), *inside, "-batch", "-"], "\n".join(commands) + "\n")


def load_rules(namespace: str, rules: str) -> None:
    """Load an nftables ruleset in a namespace, all or nothing."""
    if rules:
        run(namespace, [tool("nft"), "-f", "-"], rules)


def set_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Set kernel parameters, such as `net/ipv4/ip_forward`, in a namespace."""
    lines = [f"echo {value} > /proc/sys/{name}" for name, value in values.items()]
    run(namespace, ["sh", "-ec", "\n".join(lines)])


def existing(prefix: str) -> list[str]:
    """The namespaces whose names start so."""
    if not DIRECTORY.is_dir():
        return []
    return sorted(path.name for path in DIRECTORY.iterdir() if path.name.startswith(prefix))


def remove(namespaces: Iterable[str]) -> None:
    """Kill whatever still runs in these namespaces, and delete them."""
    doomed = [name for name in namespaces if (DIRECTORY / name).exists()]
    for name in doomed:
        for pid in _run([tool("ip"), "netns", "pids", name]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    if doomed:
        ip_batch(f"netns delete {name}" for name in doomed)


def _find(tool: str) -> str | None:
    # An ordinary user's PATH often lacks the places where these stand.
    return shutil.which(tool, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def tool(name: str) -> str:
    """Where a program stands."""
    return _find(name) or name


def _run(argv: Sequence[str], stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        problem = done.stderr.strip() or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(argv)}: {problem}")
    return done.stdout
