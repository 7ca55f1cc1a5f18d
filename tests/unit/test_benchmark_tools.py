"""The parts of the benchmarks that compute: names, flame graphs, the tunnel without a cipher."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import aead_page
from benchmarks.flamegraph import stacks, svg, tree
from benchmarks.report import Samples, machine
from benchmarks.symbols import cython_name, resolve
from benchmarks.throughput import Throughput

ROOT = Path(__file__).parents[2]

SCRIPT = """\
firezone  101  7643.549715:    1003009 cpu-clock:
\tffffffff81b6ab30 _copy_to_iter+0x80 ([kernel.kallsyms])
\t           ceb0 seal_slot@session.pyx:92 (/x/firezone/_ext/session.so)
\t           cea0 run_up@pipeline.pyx:5 (/x/firezone/_ext/pipeline.so)
\t    55c9cc961cb0 [unknown] ([unknown])

firezone  102  7643.550000:    1003009 cpu-clock:
\t           ceb8 seal_slot@session.pyx:92 (/x/firezone/_ext/session.so)
\t           cea0 run_up@pipeline.pyx:5 (/x/firezone/_ext/pipeline.so)

firezone  103  7643.560000:    1003009 cpu-clock:
\t           1000 py::_pump:/x/<firezone>.py (/tmp/perf-101.map)
"""


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__pyx_f_8firezone_4_ext_2ip_ip_parse", "ip_parse"),
        ("__pyx_pw_8firezone_4_ext_8pipeline_8Pipeline_17run_down", "run_down"),
        ("__pyx_pf_8firezone_4_ext_8pipeline_8Pipeline_3go", "go"),
        ("__pyx_pw_8firezone_4_ext_4aead_1backend_name", "backend_name"),
        ("__Pyx_AddTraceback", "__Pyx_AddTraceback"),
        ("chacha20_16_one_key", "chacha20_16_one_key"),
        ("__pyx_f_8", "__pyx_f_8"),
    ],
)
def test_names_of_cython(symbol: str, name: str) -> None:
    assert cython_name(symbol) == name


def test_stacks_are_read_outermost_first() -> None:
    first, second, third = stacks(SCRIPT.splitlines())
    names = ["firezone", "run_up pipeline.pyx", "seal_slot session.pyx", "_copy_to_iter"]
    assert [frame.name for frame in first] == names
    assert [frame.kind for frame in first] == ["other", "ours", "ours", "system"]
    assert second == first[:3]
    assert third[1].kind == "python"


def test_resolving_leaves_what_has_no_more_to_say() -> None:
    assert list(resolve(SCRIPT.splitlines())) == SCRIPT.splitlines()


def test_flame_graph_shows_shares_and_lines() -> None:
    drawn = svg(tree(stacks(SCRIPT.splitlines())))
    assert "run_up pipeline.pyx: 66.7%\nline 5: 66.7%" in drawn
    assert "3 samples" in drawn
    assert "&lt;firezone&gt;.py" in drawn
    assert "<firezone>" not in drawn


def test_flame_graph_of_nothing() -> None:
    assert "0 samples" in svg(tree(stacks([])))


def test_samples_carry_what_they_derive() -> None:
    samples = Samples()
    samples.add("TCP", "firezone", Throughput(2.0, 8.0, 0, 0.0, 4.0))
    (result,) = samples.plain()["TCP"]["firezone"]
    assert (result["gigabits"], result["gigabits_per_cpu_second"]) == (8.0, 2.0)
    assert samples.get("TCP", "other", Throughput) == []


def test_machine_is_named() -> None:
    assert {"cpu", "cores", "kernel", "cipher", "load_average"} <= machine().keys()


def test_the_cipher_page_has_the_figures_of_the_file() -> None:
    page, figures = aead_page.PAGE.read_text(), json.loads(aead_page.FIGURES.read_text())
    assert aead_page.renewed(page, figures) == page
    assert "| 64 | 16 | " in page.partition(aead_page.BEGIN)[2]


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="marks"):
        aead_page.renewed("# The cipher\n", json.loads(aead_page.FIGURES.read_text()))


NULL_TUNNEL = """
from benchmarks import null_tunnel
null_tunnel.install()
from firezone._ext.batch import PacketBatch, Verdict
from benchmarks.bench_session import KEY, table
sessions, batch = table(), PacketBatch(2)
for text in (b"", b"see me" * 300):
    batch.append(text, 1)
sessions.seal(batch, 1)
_, sealed = batch.packets()
assert sealed[16:-16].startswith(b"see me" * 300) and len(sealed) >= 1832
def opened(message):
    batch.clear()
    batch.append(message, 0)
    table().open(batch, 1)
    return batch.verdict(0)
assert opened(sealed) == Verdict.PASS
assert batch.packets()[0][:1800] == b"see me" * 300
assert opened(sealed[:-1] + b"?") == Verdict.BAD_TAG
"""


def test_null_tunnel_copies_and_checks_its_tag() -> None:
    done = _python("-c", NULL_TUNNEL)
    assert done.returncode == 0, done.stderr


def test_null_tunnel_comes_first_or_not_at_all() -> None:
    done = _python("-c", "import firezone._ext.session, benchmarks.null_tunnel as n; n.install()")
    assert "already has its cipher" in done.stderr


def test_the_package_knows_nothing_of_the_null_tunnel() -> None:
    places = [*ROOT.glob("firezone/**/*.py"), *ROOT.glob("ext/**/*.pyx"), *ROOT.glob("ext/c/*.?")]
    for path in (*places, ROOT / "setup.py"):
        text = path.read_text()
        assert "null_" + "tunnel" not in text
        assert "null_" + "aead" not in text
        assert not (path.parts[-2] == "firezone" and "import benchmarks" in text)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
