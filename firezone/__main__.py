"""`python -m firezone` is the `firezone` command."""

from firezone.cli import main

main()
