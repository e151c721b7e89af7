"""Try every command that writes with too little room: on a full disk, and under a limit of files.

For each command, the room is set exactly: from nothing to enough, in steps. After each run the old
state must be there or the new one, in whole; the exit code is imgsim's, with one line that says
why; nothing is left over; and the command does its work once there is room. The disk is a tmpfs,
which only root can mount; otherwise only the size of files is limited (RLIMIT_FSIZE).
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from measure import print_table, write_json
from trials import (
    BEFORE,
    HANGS,
    Command,
    Ended,
    Whole,
    commands,
    faults,
    forked,
    inspect,
    run,
    whole,
)

PAGE = 4_096
AMPLE = 1 << 30
FEW = 6  # amounts for a slow command
CODES = {10, 40}  # the collection cannot be used, or something cannot be written
Limit = Callable[[Path, int], Callable[[], object]]
"""Leaves so many bytes in a folder; returns what the child has to do for that."""


@dataclass(frozen=True)
class Run:
    """A run of a command with ``room`` bytes, and what is wrong with what it left."""

    command: str
    limit: str
    room: int
    code: int
    told: str
    violations: tuple[str, ...]


def main() -> None:
    """Try every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=12, help="pictures in each of eight folders")
    parser.add_argument("--steps", type=int, default=64, help="amounts from nothing to enough")
    parser.add_argument("--amounts", type=int, nargs="+", help="these amounts of bytes instead")
    parser.add_argument("--only", nargs="+", help="commands whose names begin so")
    parser.add_argument("--without-slow", action="store_true", help="leave out slow commands")
    parser.add_argument("--json", type=Path, help="write the runs to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = [
            command
            for command in commands(Path(scratch) / "scene", options.each)
            if command.name.startswith(tuple(options.only or ("",)))
            and not (command.slow and options.without_slow)
        ]
        runs = list(sweep(chosen, Path(scratch), options))
    report(runs, options.json)
    if any(each.violations for each in runs):
        raise SystemExit(1)


def sweep(chosen: Sequence[Command], scratch: Path, options: argparse.Namespace) -> Iterator[Run]:
    """Yield the runs of each command under each limit."""
    with mounted(scratch / "disk") as disk:
        limits: dict[str, tuple[Path, Limit]] = {"file": (scratch / "files", file_size)}
        if disk is not None:
            limits["disk"] = disk, disk_space
        for command in chosen:
            uncut = whole(command, scratch / "whole")
            for name, (folder, limit) in limits.items():
                tried = partial(trial, command, uncut, folder, limit)
                rooms = options.amounts or amounts(tried, FEW if command.slow else options.steps)
                for room in rooms:
                    ended, violations = tried(room)
                    told = ended.told[-2_000:]
                    yield Run(command.name, name, room, ended.code, told, tuple(violations))
                print(f"{command.name}: the {name} limit is done", file=sys.stderr, flush=True)


@contextmanager
def mounted(folder: Path) -> Iterator[Path | None]:
    """Yield a file system of its own at ``folder``, or None if it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={AMPLE}", "tmpfs", str(folder)]
    able = shutil.which("mount") and not subprocess.run(mount, check=False).returncode
    (folder / "ballast").write_bytes(bytes(PAGE))  # a size of 0 would set no limit
    try:
        yield folder if able else None
    finally:
        if able:
            subprocess.run(["umount", "--lazy", folder], check=True)


def disk_space(disk: Path, room: int) -> Callable[[], object]:
    """Leave so many bytes on a disk."""
    facts = os.statvfs(disk)
    size = (facts.f_blocks - facts.f_bfree) * facts.f_frsize + room
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    left = os.statvfs(disk)
    if left.f_bavail != -(-room // left.f_frsize):  # it has whole pages
        raise SystemExit(f"{disk}: has {left.f_bavail * left.f_frsize} bytes left, not {room}")

    def fill_up() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = os.fspath(disk)

    return fill_up


def file_size(_: Path, room: int) -> Callable[[], object]:
    """Leave files to grow to so many bytes, as ``ulimit -f`` does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def amounts(tried: Callable[[int], tuple[Ended, list[str]]], steps: int) -> list[int]:
    """Return amounts from nothing to enough, which is found by doubling."""
    enough = PAGE
    while not is_whole(tried(enough)[0]):
        enough *= 2
    pages = enough // PAGE
    return [PAGE * page for page in sorted({pages * step // steps for step in range(steps + 1)})]


def is_whole(ended: Ended) -> bool:
    """Say whether a command did all of its work, and regrets nothing."""
    return not ended.code and "imgsim: warning: " not in ended.told


def trial(
    command: Command, uncut: Whole, folder: Path, limit: Limit, room: int
) -> tuple[Ended, list[str]]:
    """Run a command with so much room; return how it ended, and what is wrong then."""
    place = folder / "trial"
    arguments = command.prepared(place)
    ended = run(arguments, limit(folder, room))
    if limit is disk_space:
        disk_space(folder, AMPLE)
    found = forked(inspect, place / "c", settle=not ended.code)
    violations = [*wrong_end(ended), *faults(found, uncut.before, uncut.after)]
    violations += wrong_output(command, place, len(BEFORE) if ended.code else uncut.output)
    is_done = found.state == uncut.after.state
    if ended.code:
        again = run(arguments)
        found = forked(inspect, place / "c", settle=True)
        if (again.code and not is_done) or found.state != uncut.after.state:
            violations.append(f"run again, it ends with {again.code}: {again.told}")
    elif not is_done:
        violations.append("succeeded, but not all of the effect is there")
    violations += [f"left: {name}" for name in sorted(found.strangers)]
    return ended, violations


def wrong_end(ended: Ended) -> Iterator[str]:
    """Yield what is wrong with how a command ended."""
    lines = ended.told.splitlines()
    if HANGS in ended.told:
        yield "hangs"
    elif ended.code and ended.code not in CODES:  # another would blame something else
        yield f"exits with {ended.code}"
    elif "Traceback" in ended.told:
        yield "shows a traceback"
    elif ended.code and [line.startswith("imgsim: error: ") for line in lines].count(True) != 1:
        yield f"says {len(lines)} lines"


def wrong_output(command: Command, place: Path, expected: int) -> Iterator[str]:
    """Yield what is wrong beside the output, and with its size."""
    names = [command.output] if command.output else []
    present = sorted(os.listdir(place / "out"))
    if present != names:
        yield f"beside the output: {present}"
    elif command.size(place) != expected:
        yield f"the output has {command.size(place)} bytes, not {expected}"


def report(runs: Sequence[Run], path: Path | None) -> None:
    """Print a table of the runs, and each violation; write both to a file, if one is given."""
    columns = (
        "command",
        "limit of",
        "runs",
        "failed cleanly",
        "succeeded",
        "violations",
        "from, KiB",
    )
    rows: list[tuple[object, ...]] = []
    for key in dict.fromkeys((each.command, each.limit) for each in runs):
        some = [each for each in runs if (each.command, each.limit) == key]
        good = [each for each in some if not each.violations]
        done = [each.room for each in good if not each.code]
        least = min(done) / 1_024 if done else "more"
        rows.append(
            (*key, len(some), len(good) - len(done), len(done), len(some) - len(good), least)
        )
    print_table([columns, *rows])
    violations = [asdict(each) for each in runs if each.violations]
    for each in violations:
        print(f"\n{each}")
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    write_json(path, {"commands": table, "violations": violations})


if __name__ == "__main__":
    main()
