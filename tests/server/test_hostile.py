"""A hostile client. benchmarks/serve.py does the same with more of everything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DATA
from tests.test_data import unpacked

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def test_no_answer_is_a_failure_and_nothing_outside_is_read(filled, tmp_path, tmp_path_factory):
    if not DATA.is_dir():
        pytest.skip(f"no data in {DATA}")
    files = unpacked("hostile.tar.gz", tmp_path_factory)
    some = {"uploads": 40, "bombs": 14, "parallel": 200, "slow": 5, "large": 5, "seconds": 2}
    counts = [text for name, count in some.items() for text in (f"--{name}", str(count))]
    table = tmp_path / "table.json"
    command = [sys.executable, BENCHMARK, "hostile", filled.path, "--files", files, *counts]
    run = subprocess.run(
        [*command, "--json", table], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stdout[-4_000:] + run.stderr[-2_000:]
    parts = json.loads(table.read_text())["parts"]
    assert sum(part["requests"] for part in parts) > 1_000
    assert max(part["peak_mb"] for part in parts) < 1_500
