"""What the demo says, and which path it expects."""

from __future__ import annotations

import pytest

from firezone.cli import demo as module


@pytest.mark.parametrize("detail", ["", "short", "long " * 40])
@pytest.mark.parametrize("duration", ["", "12 ms"])
def test_lines_fit_a_terminal(
    capsys: pytest.CaptureFixture[str], detail: str, duration: str
) -> None:
    module._line("label", detail, duration)
    line = capsys.readouterr().out.rstrip("\n")
    assert len(line) <= 80
    assert line.startswith("  label")
    assert line.endswith(duration)
