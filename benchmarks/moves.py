"""Kill what acts upon files at random moments, and look for every file.

Copies of photographs are moved away, on the same drive and to another one, or replaced by hard
links; or that is undone. A kill is SIGKILL, at a moment drawn evenly from the time that a whole run
takes. After it no file is lost, none is at two places but the one that the manifest says is on its
way, the manifest tells the truth, and all other files are untouched. Then the command runs again in
every other trial, and what was done is undone: every file is as at first, to the last byte, with
its permissions, time and attributes, and the collection knows it.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from measure import median, print_table, write_json
from PIL import Image
from trials import FORK, forked

from imgsim import Collection
from imgsim.curation.manifest import BACK, Entry, manifests, read
from tests.conftest import make_collection
from tests.pictures import write_crops

WHOLE = 3  # runs that are measured
LATE = 1.05  # how many times the measured time the latest kill may come after
SHARED_MEMORY = Path("/dev/shm")  # another drive, on Linux
ODD = os.fsdecode(b"odd \xff\n'\".jpg")


@dataclass(frozen=True)
class Facts:
    """What is known of a file: content, permissions, time, an attribute, how many names."""

    sha256: str
    mode: int
    mtime_ns: int
    attribute: bytes
    names: int


Tree = dict[str, Facts]


@dataclass(frozen=True)
class Trial:
    """What is killed: moving into a folder, linking, or ``undoing`` that."""

    name: str
    act: Literal["move", "hardlink"]
    undoing: bool = False


@dataclass(frozen=True)
class Kill:
    """A kill after so many seconds, how many files it had acted upon, and what was wrong."""

    trial: str
    seconds: float
    done: int
    on_the_way: int
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Pictures and their collection in ``place``, a spare of both, and where copies are moved."""

    place: Path
    spare: Path
    target: Path
    pairs: Sequence[tuple[str, str]]
    first: Tree

    def prepare(self) -> None:
        """Bring everything to the beginning."""
        for folder in (self.place, self.target):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.spare, self.place)

    def manifests(self) -> list[Path]:
        """Return all manifests, the oldest first."""
        found = manifests(self.target) + manifests(self.place / "c" / "manifests")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def main() -> None:
    """Kill moves, links, and what undoes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each kind")
    parser.add_argument("--each", type=int, default=6, help="crops of each of six photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="trials whose names begin so")
    parser.add_argument("--json", type=Path, help="write the kills to this file")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as scratch:
        targets = {"same drive": Path(scratch) / "duplicates"}
        if SHARED_MEMORY.exists() and SHARED_MEMORY.stat().st_dev != Path(scratch).stat().st_dev:
            targets["other drive"] = Path(tempfile.mkdtemp(dir=SHARED_MEMORY)) / "duplicates"
        else:
            print("there is no second drive: moves to another one are not tried", file=sys.stderr)
        for number, (drive, target) in enumerate(targets.items()):
            scene = built(Path(scratch) / str(number), target, options.each)
            for trial in trials(drive, tuple(options.only)):
                kills += killed(trial, scene, options.kills, moments)
                print(f"{trial.name}: done", file=sys.stderr, flush=True)
            shutil.rmtree(target.parent if number else target, ignore_errors=True)
    report(kills, options.json)
    if any(kill.violations for kill in kills):
        raise SystemExit(1)


def trials(drive: str, names: tuple[str, ...]) -> Iterator[Trial]:
    """Yield what is killed, if its name begins like one of some; links are on one drive."""
    every = [Trial(f"move, {drive}", "move"), Trial(f"restore, {drive}", "move", undoing=True)]
    if drive == "same drive":
        every += [Trial("hardlink", "hardlink"), Trial("links undone", "hardlink", undoing=True)]
    yield from (trial for trial in every if trial.name.startswith(names))


def built(folder: Path, target: Path, each: int) -> Scene:
    """Make originals, exact copies of half of them, and copies of the others saved again."""
    place, pairs = folder / "place", list[tuple[str, str]]()
    originals = write_crops(place / "pictures" / "originals", each)
    for number, path in enumerate(originals):
        name = ODD if not number else os.path.basename(path)
        copy = place / "pictures" / f"copies {number % 3}" / "more" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            with Image.open(path) as image:
                image.save(copy, quality=70)
        else:
            shutil.copy(path, copy)
        os.utime(copy, ns=(0, 1_500_000_000_123_456_789 + number))
        copy.chmod(0o640)
        shutil.copymode(copy, path)
        set_attribute(copy)
        set_attribute(Path(path))
        pairs.append((str(copy), path))
    make_collection(place / "c")
    forked(ingested, place)
    shutil.copytree(place, folder / "spare")
    return Scene(place, folder / "spare", target, pairs, tree(place / "pictures"))


def set_attribute(path: Path) -> None:
    if hasattr(os, "setxattr"):
        os.setxattr(path, "user.imgsim.trial", b"kept")


def ingested(place: Path) -> int:
    with Collection.open(place / "c") as collection:
        return collection.ingest([place / "pictures"]).added


def tree(*folders: Path) -> Tree:
    """Return what is known of all files in folders but manifests, by path."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and path not in manifests(folder):
                facts = path.stat()
                attribute = os.getxattr(path, "user.imgsim.trial") if os.listxattr(path) else b""
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                what = facts.st_mode, facts.st_mtime_ns, attribute, facts.st_nlink
                found[str(path)] = Facts(content, *what)
    return found


def act(trial: Trial, scene: Scene) -> None:
    """Move or link the copies that the collection knows."""
    with Collection.open(scene.place / "c") as collection:
        if trial.act == "move":
            stored = {image.path for image in collection.images()}
            known = [pair for pair in scene.pairs if pair[0] in stored]
            collection.curation.move(known, scene.target)
        else:
            exact = [pair for pair in scene.pairs if is_exact(scene, *pair)]
            collection.curation.hardlink(exact)


def is_exact(scene: Scene, path: str, kept: str) -> bool:
    return scene.first[path].sha256 == scene.first[kept].sha256


def undo(_: Trial, scene: Scene) -> None:
    """Undo all that was done, the last first."""
    with Collection.open(scene.place / "c") as collection:
        for path in reversed([each for each in scene.manifests() if each.stat().st_size]):
            report = collection.curation.restore(path)
            if report.left or report.warnings:
                raise RuntimeError(report)


def killed(trial: Trial, scene: Scene, count: int, moments: random.Random) -> Iterator[Kill]:
    """Yield ``count`` kills; what ends before its kill is started anew."""
    work = undo if trial.undoing else act
    times = []
    for _ in range(WHOLE):
        ready(trial, scene)
        times.append(run(work, trial, scene)[1])
    for again in islice(cycle((True, False)), count):
        while True:
            ready(trial, scene)
            code, seconds = run(work, trial, scene, moments.uniform(0, LATE * median(times)))
            if code == -signal.SIGKILL:
                break
        yield examined(trial, scene, seconds, again=again)


def ready(trial: Trial, scene: Scene) -> None:
    scene.prepare()
    if trial.undoing:
        run(act, trial, scene)


def run(
    work: Callable[[Trial, Scene], None],
    trial: Trial,
    scene: Scene,
    kill_after: float | None = None,
) -> tuple[int, float]:
    """Work in a child, and kill it after so many seconds; return its exit code and the time."""
    child = FORK.Process(target=work, args=(trial, scene))
    began = time.perf_counter()
    child.start()
    if kill_after is not None:
        time.sleep(kill_after)
        child.kill()
    child.join()
    return child.exitcode or 0, time.perf_counter() - began


def examined(trial: Trial, scene: Scene, seconds: float, *, again: bool) -> Kill:
    """Look at what a kill has left, run it again or not, undo it, and look once more."""
    states = [entry.state for path in scene.manifests() for entry in entries_of(path)]
    violations = list(wrong(trial, scene))
    if again and not trial.undoing and run(act, trial, scene)[0]:
        violations.append("it cannot be run again")
    if again and not trial.undoing:
        violations += [f"after another run: {each}" for each in wrong(trial, scene, whole=True)]
    if run(undo, trial, scene)[0]:
        violations.append("it cannot be undone")
    violations += unlike_at_first(scene)
    begun = sum(state in BACK for state in states)
    settled = {"moved", "linked"} if not trial.undoing else {"restored"}
    done = sum(state in settled for state in states)
    return Kill(trial.name, seconds, done, begun, tuple(violations))


def wrong(trial: Trial, scene: Scene, *, whole: bool = False) -> Iterator[str]:
    """Yield what is wrong after a kill, or after a ``whole`` run."""
    now = tree(scene.place / "pictures", scene.target)
    entries = {entry.path: entry for path in scene.manifests() for entry in entries_of(path)}
    begun = [entry for entry in entries.values() if entry.state in BACK]
    if whole and begun:
        yield f"{len(begun)} entries are not settled"
    for path, kept in scene.pairs:
        entry = entries.get(path)
        state, target = (entry.state, entry.target) if entry else ("left", path)
        yield from misplaced(path, target, state, now, scene.first)
        expected = trial.act == "move" or is_exact(scene, path, kept)
        if whole and expected and state not in {"moved", "linked"}:
            yield f"{path} is noted as {state} after a whole run"
        for place in {path, target}:
            now.pop(place, None)
    for path, facts in now.items():
        in_the_making = os.path.basename(path).startswith(".imgsim-") and len(begun) == 1
        if not in_the_making and not alike(facts, scene.first.get(path)):
            yield f"{path} is not as it was"
    for path in scene.first.keys() - now.keys() - {path for path, _ in scene.pairs}:
        yield f"{path} is lost"
    moved = {entry.path for entry in entries.values() if entry.state in {"moved", *BACK}}
    if trial.undoing:  # what is back is ingested at the end
        moved |= {entry.path for entry in entries.values() if entry.state == "restored"}
    yield from wrong_catalog(scene, moved, exact=whole)


def misplaced(path: str, target: str, state: str, now: Tree, first: Tree) -> Iterator[str]:
    """Yield what is wrong with a file that goes from a path to a target, or becomes a link."""
    places = {each for each in (path, target) if alike(now.get(each), first[path])}
    if not places:
        yield f"{path} is lost, and noted as {state}"
    allowed = {path} if state in {"left", "restored", "linked"} else {target}
    linked = path in now and now[path].names > 1
    if state not in BACK and (places != allowed or linked != (state == "linked")):
        yield f"{path} is noted as {state}, and is at {places}"


def alike(one: Facts | None, other: Facts | None) -> bool:
    """Say whether files have the same content; a hard link has the time of the one kept."""
    return one is not None and other is not None and one.sha256 == other.sha256


def wrong_catalog(scene: Scene, moved: set[str], *, exact: bool = False) -> Iterator[str]:
    """Yield what is wrong with a collection, which may know those moved yet, unless ``exact``."""
    stored, damages = forked(looked_into, scene.place)
    yield from damages
    if not scene.first.keys() - moved <= stored <= scene.first.keys():
        yield "the collection knows other images"
    if exact and stored & moved:
        yield "the collection knows what was moved away"


def looked_into(place: Path) -> tuple[set[str], list[str]]:
    with Collection.open(place / "c") as collection:
        damages = [f"damaged: {damage.path}" for damage in collection.check()]
        return {image.path for image in collection.images()}, damages


def unlike_at_first(scene: Scene) -> Iterator[str]:
    """Yield what is not as it was before everything."""
    now = tree(scene.place / "pictures", scene.target)
    for path in sorted(now.keys() | scene.first.keys()):
        if now.get(path) != scene.first.get(path):
            yield f"{path} is {now.get(path)} in the end, and was {scene.first.get(path)}"
    yield from wrong_catalog(scene, set())


def entries_of(path: Path) -> Sequence[Entry]:
    """Return the entries of a manifest, none if not even its first line was written."""
    return list(read(path)[1].values()) if path.stat().st_size else []


def report(kills: Sequence[Kill], path: Path | None) -> None:
    """Print a table of the kills, and each violation; write both to a file, if one is given."""
    columns = "killed", "kills", "none done", "some done", "one on its way", "violations"
    rows: list[tuple[object, ...]] = []
    for name in dict.fromkeys(kill.trial for kill in kills):
        some = [kill for kill in kills if kill.trial == name]
        none = sum(not kill.done for kill in some)
        begun = sum(bool(kill.on_the_way) for kill in some)
        bad = sum(bool(kill.violations) for kill in some)
        rows.append((name, len(some), none, len(some) - none, begun, bad))
    print_table([columns, *rows])
    violations = [asdict(kill) for kill in kills if kill.violations]
    for each in violations:
        print(f"\n{each}")
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    write_json(path, {"trials": table, "violations": violations})


if __name__ == "__main__":
    main()
