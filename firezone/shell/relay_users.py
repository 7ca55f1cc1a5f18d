"""Reads the users of a relay that has them in a file: a name, a colon and a password per line.

Passwords never come from the command line, where every user of the host could read them.
"""

from __future__ import annotations

from pathlib import Path

from firezone.errors import ConfigurationError, LocalError
from firezone.shell.private_file import read_private
from firezone.stun import USERNAME
from firezone.stun.attributes import require_fit


def read_users(path: Path, setting: str) -> dict[str, str]:
    """Passwords by name. Empty lines and those that begin with `#` count for nothing.

    `setting` says where `path` was set. Raises ConfigurationError for anything else than users.
    """
    try:
        text = read_private(path, "users")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            "users", f"{setting} {path}", f"cannot be read: {error}", "create it"
        ) from None
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            name, password = _user(line.strip(), f"{path}:{number}")
            if name in users:
                raise _wrong(f"{path}:{number}", "a name that was there before", "remove one")
            users[name] = password
    if not users:
        raise _wrong(str(path), "there is none", "add lines of name:password")
    return users


def _user(line: str, where: str) -> tuple[str, str]:
    name, _, password = line.partition(":")
    if not name or not password:
        raise _wrong(where, "not a name and a password", "write name:password")
    if not line.isprintable():
        raise _wrong(where, "a character that cannot be printed", "remove it")
    try:
        require_fit(USERNAME, name)
    except LocalError:
        raise _wrong(where, "the name is too long", "use at most 512 bytes") from None
    return name, password


def _wrong(where: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("users", where, problem, remedy)
