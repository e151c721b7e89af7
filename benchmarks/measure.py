"""What every benchmark shares: repeated timing, the machine described, a table, and JSON."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("faiss-cpu", "numba", "numpy", "onnxruntime", "pillow", "sqlalchemy", "tensorflow")


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the wall time of each of ``repeats`` runs of ``work``."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return times


def command_seconds(command: Sequence[str], repeats: int) -> list[float]:
    """Return the wall time of each of ``repeats`` runs of a command, which must succeed."""
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True), repeats)


def machine() -> dict[str, object]:
    """Describe this machine and the libraries."""
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Print rows of cells as a Markdown table; the first row is the header."""
    header, *body = [[_cell(cell) for cell in row] for row in rows]
    for row in (header, ["---"] * len(header), *body):
        print(f"| {' | '.join(row)} |")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return str(value)


def write_json(path: Path | None, results: dict[str, object]) -> None:
    """Write results with the machine described, if a path is given."""
    if path is not None:
        content = {"machine": machine(), **results}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
