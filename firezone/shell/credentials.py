"""The token by which the portal knows a program.

A token never comes from the command line, where every user of the host could read it.
"""

from __future__ import annotations

import os
from pathlib import Path

from firezone.errors import ConfigurationError
from firezone.shell.private_file import read_private

TOKEN_VARIABLE = "FIREZONE_TOKEN"


def read_token(path: Path, path_setting: str) -> str:
    """The token of $FIREZONE_TOKEN, which is removed from the environment, else of the file.

    `path_setting` says where `path` was set, for the error. The variable may also name a file.
    """
    given = os.environ.pop(TOKEN_VARIABLE, "").strip()
    if given.startswith("/"):
        return _token_file(Path(given), TOKEN_VARIABLE)
    return given or _token_file(path, path_setting)


def _token_file(path: Path, setting: str) -> str:
    try:
        token = read_private(path, "token").strip()
    except OSError as error:
        raise ConfigurationError(
            "token",
            f"{TOKEN_VARIABLE} and {setting}",
            f"neither is there: {path}: {error.strerror}",
            f"set {TOKEN_VARIABLE} or put the token into that file",
        ) from None
    if not token:
        raise ConfigurationError("token", str(path), "the file is empty", "put the token into it")
    return token
