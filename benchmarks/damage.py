"""Damage files of a collection at random, and count what query, check and repair make of it.

Each trial copies a collection of 598 images in three segments with bounds, and alters one of its
files: a flipped bit or eight, a cut, a swap of two blocks, zeros, or a copy of one block over
another; or it gives one column of one row of the catalog another value. Then it asks for
neighbours, checks, repairs, and asks again. Another answer than before, a traceback, or an
operation that takes minutes, is a violation, and the exit code is 1.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from measure import print_table, write_json

from tests.damage import KINDS, Answers, Outcome, answers, make, trial

LONG = 120.0  # seconds
COLUMNS = (
    ("query", ("same", "error")),
    ("check", ("sound", "damage", "error")),
    ("repair", ("sound", "damage", "error")),
    ("after", ("same", "fewer", "error")),
)


def main() -> None:
    """Run the trials and print a table by kind of file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    violations = 0
    with tempfile.TemporaryDirectory() as folder:
        sound = make(Path(folder))
        work = partial(attempt, sound, answers(sound))
        with ProcessPoolExecutor(options.processes) as pool:
            for kind, outcome, took in pool.map(work, range(options.trials)):
                counts[kind].update(cells(outcome))
                if is_violation(outcome) or took > LONG:
                    violations += 1
                    print(f"{kind}, {took:.0f} s: {outcome}", file=sys.stderr, flush=True)
    names = [f"{step} {state}" for step, states in COLUMNS for state in states]
    body = [
        [kind, count.total() // len(COLUMNS), *(count[n] for n in names)]
        for kind, count in counts.items()
    ]
    print_table([["file", "trials", *names], *body])
    print(f"violations: {violations}")
    write_json(options.json, {"violations": violations} | {k: dict(c) for k, c in counts.items()})
    sys.exit(violations > 0)


def attempt(sound: Path, expected: Answers, number: int) -> tuple[str, Outcome, float]:
    """Run one trial; return the kind of file, what came of it, and how long it took."""
    kind, began = list(KINDS)[number % len(KINDS)], time.monotonic()
    scratch = sound.parent / f"trial-{number}"
    try:
        outcome = trial(sound, scratch, kind, np.random.default_rng(number), expected)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return kind, outcome, time.monotonic() - began


def cells(outcome: Outcome) -> list[str]:
    """Return the cells of the table that an outcome counts in."""
    return [f"{step} {getattr(outcome, step)}" for step, _ in COLUMNS]


def is_violation(outcome: Outcome) -> bool:
    """Say whether an outcome is another than the columns of the table."""
    return any(getattr(outcome, step) not in states for step, states in COLUMNS)


if __name__ == "__main__":
    main()
