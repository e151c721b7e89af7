"""What trials of commands share: a scene to try them in, children, and what must hold afterwards.

Children are forked from a process that has imported what commands need, and that opens nothing
itself: so a trial takes a tenth of the time that a new interpreter takes.
"""

import faulthandler
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from measure import median
from numpy.typing import NDArray
from PIL import Image

from imgsim import Collection, CollectionDamaged, EncoderSource
from imgsim.cli.main import main
from imgsim.images.formats import formats
from imgsim.index.distance import distances
from tests.conftest import GOLDEN
from tests.models import write_projection

FORK = multiprocessing.get_context("fork")
LIMIT = 120  # seconds after which a command counts as hanging
HANGS = "Timeout ("
BEFORE = b"before"
K = 10
_WARM = (
    "alembic.command",
    "faiss",
    "imgsim.encoder.importing",
    "imgsim.encoder.adapt",
    "imgsim.evaluation.evaluate",
    "imgsim.output.html",
    "imgsim.output.plots",
    "onnxruntime",
    "pyarrow.parquet",
    "pydantic.type_adapter",
)
_FOLDERS = "kept", "more", "gone", "edited", "removed", "before", "dropped"


Images = dict[int, tuple[str, bytes, bytes]]
"""Path, hash of the content and embedding of each image, by id."""


@dataclass(frozen=True)
class Command:
    """A command that writes, tried on a copy of ``template``, or where there is no collection.

    Its last argument is the ``output``, if it has one. A ``slow`` one is tried a few times only.
    """

    name: str
    arguments: tuple[str, ...]
    template: Path | None
    output: str = ""
    slow: bool = False

    def prepared(self, folder: Path) -> list[str]:
        """Bring a folder to where the command begins; return what follows ``imgsim``."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        if self.template is not None:
            shutil.copytree(self.template, folder / "c")
        arguments = ["-q", "-c", str(folder / "c"), *self.arguments]
        if self.output:
            (folder / "out" / self.output).write_bytes(BEFORE)
            arguments.append(str(folder / "out" / self.output))
        return arguments

    def size(self, folder: Path) -> int:
        """Return the size of the output in bytes; none has that of the one before."""
        return (folder / "out" / self.output).stat().st_size if self.output else len(BEFORE)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or the negative number of a signal, and its stderr."""

    code: int
    told: str
    seconds: float


@dataclass(frozen=True)
class State:
    """What a collection holds: images, reasons of refused files by path, and encoders by name.

    Of an encoder it is whether it is active, and how many embeddings there are. How many segments
    there are depends on time, and does not count.
    """

    images: Images
    refused: dict[str, str]
    encoders: dict[str, tuple[bool, int]]
    segments: int = field(compare=False)


@dataclass(frozen=True)
class Found:
    """A collection as it was found: what is damaged, and which files nothing needs.

    ``wrong_ranks`` are those of some queries that are not as in a scan of all embeddings.
    """

    state: State
    damages: frozenset[str]
    strangers: frozenset[str]
    wrong_ranks: int


@dataclass(frozen=True)
class Whole:
    """A command that had its way: what there was before and after it, the size of its output.

    ``seconds`` are the median of some runs.
    """

    before: Found
    after: Found
    output: int
    seconds: float


def commands(scene: Path, each: int) -> list[Command]:
    """Make a scene with ``each`` pictures in every folder; return the commands to try in it."""
    for module in _WARM:
        import_module(module)
    formats()  # loads Pillow's plugins
    forked(_build, scene, each)
    pictures, whole = scene / "pictures", scene / "c"
    image = str(pictures / "kept" / "0.png")
    old = GOLDEN / "0001.imgsim"

    def on(name: str, *arguments: object, output: str = "", slow: bool = False) -> Command:
        return Command(name, tuple(map(str, arguments)), whole, output, slow)

    train = "--recipe", "plain", "--image-size", 16, "--epochs", 1, "--batch-size", 8
    another = "encoder", "import", str(scene / "fourth.onnx"), "--name", "fourth"
    evaluate = "evaluate", pictures, "--queries", 2
    exports = {
        "neighbours": ("csv", "jsonl", "parquet", "npz"),
        "embeddings": ("npz", "parquet", "pkl"),
        "index": ("faiss",),
    }
    return [
        on("ingest new", "ingest", pictures / "new"),
        on("ingest changed", "ingest", pictures / "edited"),
        on("prune", "prune"),
        on("remove", "remove", "-y", pictures / "removed"),
        on("relocate", "relocate", pictures / "before", pictures / "after"),
        on("compact", "compact"),
        Command("reencode", ("reencode", "--encoder", "third"), scene / "current"),
        on("encoder import", *another),
        Command("encoder import, new collection", another, None),
        on("encoder pretrained", "encoder", "pretrained", "efficientnet-lite0"),
        on("encoder adapt", "encoder", "adapt", "second", pictures, "--dims", 4),
        on("encoder use", "encoder", "use", "second"),
        on("encoder remove", "encoder", "remove", "second"),
        Command("check --repair", ("check", "--repair"), scene / "damaged"),
        Command("info, old collection", ("info",), old),
        *(
            on(f"export {what} {end}", "export", what, "-o", output=f"{what}.{end}")
            for what, ends in exports.items()
            for end in ends
        ),
        on("query --figure", "query", image, "--figure", output="figure.png"),
        on("query --html", "query", image, "--html", output="page.html"),
        on("evaluate --figure", *evaluate, "--figure", output="sheet.png", slow=True),
        on("train", "train", pictures / "kept", *train, "--name", "fifth", slow=True),
    ]


def _build(scene: Path, each: int) -> None:
    """Store folders of pictures, change the pictures, and damage a copy of the collection."""
    pictures = scene / "pictures"
    for number, name in enumerate((*_FOLDERS, "new")):
        _write_pictures(pictures / name, each, number)
    for seed, name in enumerate(("first", "second", "third", "fourth")):
        write_projection(scene / f"{name}.onnx", dim=16, seed=seed)
    with Collection.open(scene / "c", create=True) as collection:
        encoders = collection.encoders
        encoders.add(EncoderSource(str(scene / "first.onnx"), "first"))
        for name in _FOLDERS:
            collection.ingest([pictures / name])
        encoders.add(EncoderSource(str(scene / "second.onnx"), "second"))
        encoders.reencode("second")
        encoders.use("first")
        encoders.add(EncoderSource(str(scene / "third.onnx"), "third"))
        collection.remove([pictures / "dropped" / f"{n}.png" for n in range(each // 3)])
    for number in range(each // 2):
        (pictures / "gone" / f"{number}.png").unlink()
    edited = pictures / "edited"
    shutil.copy(pictures / "new" / "0.png", edited / "0.png")
    (edited / "1.png").rename(edited / "moved.png")
    (edited / "2.png").write_text("broken")
    shutil.copy(edited / "3.png", edited / "copy.png")
    (pictures / "before").rename(pictures / "after")
    with Collection.open(shutil.copytree(scene / "c", scene / "current")) as collection:
        collection.relocate(pictures / "before", pictures / "after")
        collection.ingest([edited])
        collection.prune()
    _damage(Path(shutil.copytree(scene / "c", scene / "damaged")))


def _write_pictures(folder: Path, each: int, seed: int) -> None:
    """Write pictures of 8x8 that differ in few ways, so that their embeddings compress."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    motifs = np.random.default_rng(0).uniform(0, 80, (3, 8, 8, 3))
    for number in range(each):
        pixels = np.tensordot(random.uniform(0, 1, 3), motifs, 1) + random.uniform(0, 9, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


def _damage(path: Path) -> None:
    """Damage embeddings, a table of rows, any bounds, and how an encoder is said to be fed."""
    with Collection.open(path) as collection:
        spare = Path(collection.encoders.get("third").directory)
        with collection._directory.reading() as snapshot:  # names of segments have no public face
            first, second, third, *_ = [segment.name for segment in snapshot.segments()]
    (spare / "encoder.json").unlink()
    os.truncate(path / "segments" / f"{second}.rows.npy", 100)
    for name in (f"{first}.faiss", f"{third}.bounds"):
        file = path / "segments" / name
        if file.exists():
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)


def forked(work: Callable[..., Any], *arguments: object, **named: object) -> Any:  # noqa: ANN401 - of any work
    """Return what ``work`` returns in a child."""
    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=lambda: theirs.send(work(*arguments, **named)))
    child.start()
    theirs.close()
    value = ours.recv()
    child.join()
    return value


def run(
    arguments: list[str],
    prepare: Callable[[], object] = lambda: None,
    kill_after: float | None = None,
) -> Ended:
    """Run ``imgsim`` in a child that calls ``prepare`` first; kill it after so many seconds."""
    reader, writer = os.pipe()
    child = FORK.Process(target=_become, args=(arguments, writer, prepare))
    began = time.perf_counter()
    child.start()
    os.close(writer)
    if kill_after is not None:
        time.sleep(kill_after)
        child.kill()
    with os.fdopen(reader, errors="replace") as pipe:
        told = pipe.read()
    child.join()
    return Ended(child.exitcode or 0, told, time.perf_counter() - began)


def _become(arguments: list[str], writer: int, prepare: Callable[[], object]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(writer, 2)
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=writer)
    sys.dont_write_bytecode = True  # CPython writes half of a file where there is half of the room
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as any Python has it
    prepare()
    sys.argv = ["imgsim", *arguments]
    main()


def whole(command: Command, folder: Path, runs: int = 1) -> Whole:
    """Run a command to its end some times."""
    command.prepared(folder)
    before, times = forked(inspect, folder / "c"), []
    for _ in range(runs):
        ended = run(command.prepared(folder))
        if ended.code:
            raise SystemExit(f"{command.name}: exits with {ended.code}: {ended.told}")
        times.append(ended.seconds)
    return Whole(before, forked(inspect, folder / "c"), command.size(folder), median(times))


def inspect(path: Path, *, settle: bool = False) -> Found:
    """Open a collection, made if missing, and look at all; ``settle`` lets an ingest sweep."""
    with Collection.open(path, create=True) as collection:
        encoders = {
            each.name: (each.active, each.embeddings) for each in collection.encoders.list()
        }
        has_encoder = any(is_active for is_active, _ in encoders.values())
        if settle and has_encoder:
            collection.ingest([])
        images, segments = _images(collection) if has_encoder else ({}, 0)
        refused = {refusal.path: refusal.reason for refusal in collection.refused()}
        return Found(
            State(images, refused, encoders, segments),
            frozenset(os.path.relpath(damage.path, path) for damage in collection.check()),
            frozenset(_strangers(collection)),
            _wrong_ranks(collection, images) if images else 0,
        )


def _images(collection: Collection) -> tuple[Images, int]:
    """Return the images, and how many segments they are in; damaged embeddings as they are."""
    images: Images = {}
    with collection._directory.reading() as snapshot:  # embeddings by id have no public face
        for segment in snapshot.segments():
            ids = snapshot.segment_ids(segment)
            content = (collection.path / "segments" / f"{segment.name}.faiss").read_bytes()
            rows = np.frombuffer(content, np.float32, offset=45).reshape(-1, segment.dim)
            numbers = ids[ids >= 0].tolist()
            paths, contents = snapshot.paths(numbers), snapshot.contents(numbers)
            for number, row in zip(numbers, rows[ids >= 0], strict=True):
                images[number] = paths[number], contents[number], row.tobytes()
        return images, len(snapshot.segments())


def _wrong_ranks(collection: Collection, images: Images) -> int:
    """Return how many ranks differ from a scan of all; an error that names damage is no rank."""
    ids = np.array(sorted(images))
    rows = np.stack([np.frombuffer(images[n][2], np.float32) for n in ids.tolist()])
    some = rows[:: max(1, len(rows) // 8)]
    queries = (some + some[::-1] / 8).astype(np.float32)
    try:
        with collection.searcher() as searcher:
            found, _ = searcher.search_embeddings(queries, K)
    except CollectionDamaged:
        return 0
    truth = np.stack([_nearest(query, rows, ids) for query in queries])
    return int((found[:, : truth.shape[1]] != truth).sum())


def _nearest(
    query: NDArray[np.float32], rows: NDArray[np.float32], ids: NDArray[np.int64]
) -> NDArray[np.int64]:
    return ids[np.lexsort((ids, distances(query, rows)))][:K]


def _strangers(collection: Collection) -> Iterator[str]:
    """Yield the files in a collection that nothing needs."""
    directory = collection._directory
    with directory.reading() as snapshot:
        segments = snapshot.segment_names()
        encoders = {encoder.fingerprint for encoder in snapshot.encoders()}
    for path in (collection.path / "segments").iterdir():
        if path.name != "basis.npz" and path.name.split(".")[0] not in segments:
            yield path.name
    for path in (collection.path / "encoders").iterdir():
        if path.name not in encoders:
            yield path.name


def torn(now: State, before: State, after: State) -> Iterator[str]:
    """Yield what is neither as it was before the command nor as the whole command leaves it.

    So nothing was lost that is to stay, and no id stands for another content.
    """
    for number in sorted(now.images.keys() | before.images.keys() | after.images.keys()):
        allowed = before.images.get(number), after.images.get(number)
        if now.images.get(number) not in allowed:
            yield f"image {number} is neither as before nor as after"
    for name in sorted(now.encoders.keys() | before.encoders.keys()):
        is_active = [state.encoders.get(name, (False,))[0] for state in (now, before, after)]
        known = name in now.encoders
        allowed_known = {name in before.encoders, name in after.encoders}
        if is_active[0] not in is_active[1:] or known not in allowed_known:
            yield f"encoder {name} is neither as before nor as after"


def faults(found: Found, before: Found, after: Found) -> Iterator[str]:
    """Yield what is wrong with a collection after a command that may have been cut short."""
    yield from (f"damaged: {path}" for path in sorted(found.damages - before.damages))
    yield from torn(found.state, before.state, after.state)
    if found.wrong_ranks:
        yield f"{found.wrong_ranks} wrong ranks"
