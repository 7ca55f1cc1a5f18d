"""The `firezone` command. One module for each program, loaded when it is asked for."""

from firezone.cli.program import firezone, main

__all__ = ["firezone", "main"]
