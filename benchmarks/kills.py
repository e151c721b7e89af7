"""Kill every command that writes at random moments of its run, and look at what it leaves.

A kill is SIGKILL, at a moment drawn evenly from the time that a whole run takes. After it the
collection opens, no file is damaged, every image is as before the command or as after it, under
its id, and queries rank as a scan of all embeddings does. Then the command runs once more, to its
end: it leaves what a run that was not killed leaves, and an ingest sweeps up.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import print_table, write_json
from trials import (
    BEFORE,
    Command,
    Ended,
    Found,
    Whole,
    commands,
    faults,
    forked,
    inspect,
    run,
    whole,
)

WHOLE = 3  # runs that are measured
STAGES = "before", "some", "after"
LATE = 1.1  # how many times the measured time the latest kill may come after
SLOW = 5  # a slow command gets a fifth of the kills of the others


@dataclass(frozen=True)
class Kill:
    """A kill after so many seconds, what was there then, and what was wrong.

    ``stage`` is how much of the effect was there: before, some or after. ``swept`` files of the
    collection were left over and went; ``beside`` ones are left beside the output.
    """

    command: str
    seconds: float
    stage: str
    swept: int
    beside: int
    violations: tuple[str, ...]


def main() -> None:
    """Kill every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=300, help="pictures in each of eight folders")
    parser.add_argument("--kills", type=int, default=1_000, help="kills of all commands together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="commands whose names begin so")
    parser.add_argument("--folder", type=Path, help="where to try them; else a temporary folder")
    parser.add_argument("--json", type=Path, help="write the kills to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        every = commands(Path(scratch) / "scene", options.each)
        named = [c for c in every if c.name.startswith(tuple(options.only))]
        chosen = list({(c.template, c.arguments): c for c in named}.values())  # one of each format
        moments = random.Random(options.seed)
        kills: list[Kill] = []
        for number, command in enumerate(chosen):
            count = len(range(number, options.kills, len(chosen)))
            if command.slow:
                count = -(-count // SLOW)
            kills += killed(command, Path(scratch) / "trial", count, moments)
            print(f"{command.name}: {len(kills):,} kills are done", file=sys.stderr, flush=True)
    report(kills, options.json)
    if any(kill.violations for kill in kills):
        raise SystemExit(1)


def killed(command: Command, place: Path, count: int, moments: random.Random) -> Iterator[Kill]:
    """Yield ``count`` kills of a command; one that ends before its kill is started anew."""
    uncut = whole(command, place, WHOLE)
    while count:
        arguments = command.prepared(place)
        moment = moments.uniform(0, LATE * uncut.seconds)
        ended = run(arguments, kill_after=moment)
        if ended.code == -signal.SIGKILL:
            yield examined(command, place, arguments, uncut, ended)
            count -= 1


def examined(
    command: Command, place: Path, arguments: list[str], uncut: Whole, ended: Ended
) -> Kill:
    """Look at what a kill has left, and run the command once more."""
    found, output = forked(inspect, place / "c"), command.size(place)
    violations = list(faults(found, uncut.before, uncut.after))
    if output not in {len(BEFORE), uncut.output}:
        violations.append(f"the output has {output} bytes")
    again = run(arguments)
    settled = forked(inspect, place / "c", settle=True)
    if again.code and found.state != uncut.after.state:
        violations.append(f"run again, it exits with {again.code}: {again.told}")
    if settled.state != uncut.after.state or command.size(place) != uncut.output:
        violations.append("run again, it does not do what is left")
    violations += faults(settled, uncut.after, uncut.after)
    violations += [f"not swept: {name}" for name in sorted(settled.strangers)]
    beside = len(os.listdir(place / "out")) - bool(command.output)
    stage = stage_of(found, output, uncut)
    swept = len(found.strangers)
    return Kill(command.name, ended.seconds, stage, swept, beside, tuple(violations))


def stage_of(found: Found, output: int, uncut: Whole) -> str:
    """Say how much of a command's effect was there."""
    now = found.state, found.state.segments, found.damages, output
    if now == (uncut.before.state, uncut.before.state.segments, uncut.before.damages, len(BEFORE)):
        return "before"
    is_whole = now == (
        uncut.after.state,
        uncut.after.state.segments,
        uncut.after.damages,
        uncut.output,
    )
    return "after" if is_whole else "some"


def report(kills: Sequence[Kill], path: Path | None) -> None:
    """Print a table of the kills, and each violation; write both to a file, if one is given."""
    columns = "command", "kills", *STAGES, "violations", "swept", "beside the output"
    rows: list[tuple[object, ...]] = []
    for name in [*dict.fromkeys(kill.command for kill in kills), "all"]:
        some = [kill for kill in kills if name in {kill.command, "all"}]
        stages = [sum(kill.stage == stage for kill in some) for stage in STAGES]
        bad = sum(bool(kill.violations) for kill in some)
        left = sum(kill.swept for kill in some), sum(kill.beside for kill in some)
        rows.append((name, len(some), *stages, bad, *left))
    print_table([columns, *rows])
    violations = [asdict(kill) for kill in kills if kill.violations]
    for each in violations:
        print(f"\n{each}")
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    write_json(path, {"commands": table, "violations": violations})


if __name__ == "__main__":
    main()
