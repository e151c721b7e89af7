"""Damage to the files of a collection, and what becomes of answers: for a test and a benchmark."""

import shutil
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgsim import Collection, EncoderSource, ImgsimError
from imgsim.catalog.catalog import Catalog
from imgsim.directory import Directory
from imgsim.index.vector_store import VectorStore
from tests.models import write_model, write_projection
from tests.pictures import write_crops

Random = np.random.Generator


@dataclass(frozen=True)
class Answers:
    """What a user sees: matches of images and of stored images, and the list of all of these."""

    matches: dict[str | int, list[tuple[int, float]]]
    images: dict[int, str]

    @property
    def last(self) -> int:
        """Return the greatest id that was ever given out; the last image was removed."""
        return max(self.images) + 1

    def agrees(self, sound: "Answers") -> bool:
        """Say whether the answers are right for those of the images that are left."""
        rest = {
            query: [pair for pair in pairs if pair[0] in self.images]
            for query, pairs in sound.matches.items()
        }
        return self.images.items() <= sound.images.items() and all(
            found[: len(rest[query])] == rest[query] for query, found in self.matches.items()
        )


VALUES = "values of the catalog"

KINDS = {
    "catalog": "catalog.db",
    VALUES: "catalog.db",
    "embeddings": "segments/*.faiss",
    "table of rows": "segments/*.rows.npy",
    "bounds": "segments/*.bounds",
    "projection": "segments/basis.npz",
    "encoder": "encoders/*/encoder.onnx",
    "preprocessing": "encoders/*/encoder.json",
    "locks": "[lr]*[kr]s*",
}
"""What the files of a collection are for, and where they are."""

TABLES = "encoders", "segments", "images", "staged", "refused", "roots", "seals", "sqlite_sequence"


@dataclass(frozen=True)
class Outcome:
    """What a damaged collection did.

    ``query`` and ``after`` a repair: same answers, an error, others, fewer images, a traceback.
    ``check`` and ``repair``: whether there is damage, before and after.
    """

    query: str
    check: str
    repair: str
    after: str
    detail: str


def make(folder: Path, images: int = 600) -> Path:
    """Make a collection of three segments with bounds, and pictures beside it.

    It has embeddings by another encoder too, and a file that was refused.
    """
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    random = np.random.default_rng(0)
    photographs = [np.asarray(Image.open(path)) for path in write_crops(folder / "crops")]
    for number in range(images):
        rows = photographs[number % len(photographs)]
        top, left = random.integers(0, 72, 2)
        Image.fromarray(rows[top : top + 24, left : left + 24]).save(pictures / f"{number:04}.png")
    for name in ("new", "refused"):
        (folder / name).mkdir()
    Image.fromarray(255 - photographs[0]).save(folder / "new" / "new.png")
    (folder / "refused" / "text.png").write_text("text")
    model = write_model(folder / "flat.onnx", output=("n", 192))
    other = write_projection(folder / "other.onnx", dim=192)
    paths = sorted(pictures.iterdir())
    Collection.open(folder / "c", create=True).close()
    with opened(folder / "c") as collection:
        collection.encoders.add(EncoderSource(model, name="flat"))
        for part in np.array_split(np.array(paths), 3):
            collection.ingest([str(path) for path in part])
        collection.ingest([folder / "refused"])
        collection.encoders.add(EncoderSource(other, name="other"))
        collection.encoders.reencode("other")
        collection.encoders.use("flat")
        collection.remove([paths[3], paths[-1]])
    return folder / "c"


def opened(path: Path) -> Collection:
    """Open a collection that has bounds although it is small."""
    store = VectorStore(path / "segments", fewest_fitted=100, fewest_bounded=100)
    return Collection(Directory(path, Catalog(path / "catalog.db"), store))


def harm(path: Path, random: Random) -> str:
    """Alter a file in one of six ways, and say how."""
    content = bytearray(path.read_bytes())
    size = len(content)
    at, other = sorted(int(place) for place in random.integers(0, max(1, size - 64), 2))
    how = str(random.choice(["bit", "bit", "bits", "cut", "swap", "zeros", "copy"]))
    if not size or how == "cut":
        content = content[: int(random.integers(0, size + 1))]
    elif how == "swap":
        content[at : at + 64], content[other : other + 64] = (
            content[other : other + 64],
            content[at : at + 64],
        )
    elif how == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif how == "copy":
        content[other : other + 64] = content[at : at + 64]
    else:
        for _ in range(1 if how == "bit" else 8):
            content[int(random.integers(size))] ^= 1 << int(random.integers(8))
    path.write_bytes(content[:size])
    return f"{how} at {at} of {size}"


def alter(path: Path, random: Random) -> str:
    """Give one column of one row of a catalog another value, and say which."""
    with closing(sqlite3.connect(path)) as connection:
        sound = connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '')")
        connection.commit()
    changed, how = 0, ""
    while not changed:
        with closing(sqlite3.connect(path)) as connection:
            table = str(random.choice(TABLES))
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            column = str(random.choice(columns))
            rowids = connection.execute(f"SELECT rowid FROM {table}").fetchall()
            (rowid,) = rowids[int(random.integers(len(rowids)))]
            value = _another(column, random)
            how = f"{table}.{column} = {value} of {rowid}"
            changing = f'UPDATE OR IGNORE {table} SET "{column}" = {value} WHERE rowid = {rowid} '
            changing += f'AND "{column}" IS NOT {value}'
            with suppress(sqlite3.IntegrityError):  # there is no id of another type
                changed = connection.execute(changing).rowcount
            connection.commit()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.executemany(
            "UPDATE sqlite_schema SET sql = ? WHERE name = ?", [(sql, name) for name, sql in sound]
        )
        connection.commit()
    return how


def _another(column: str, random: Random) -> str:
    """Return an expression of SQL for another value of a column."""
    at, digit = random.integers(1, 17), random.choice(list("0123456789abcdef"))
    other_digit = f'substr("{column}", 1, {at} - 1) || \'{digit}\' || substr("{column}", {at} + 1)'
    fixed = ("NULL", "-3", "0", "1", "2", "7", "300", "1e15", "1.5", "9223372036854775807")
    texts = ("'text'", "x'00ff'", "''", "CAST(x'66ff' AS TEXT)")
    casts = (f'CAST("{column}" AS {kind})' for kind in ("TEXT", "BLOB"))
    near = f'"{column}" + 1', f'"{column}" - 1', *[other_digit] * 4
    return str(random.choice([*fixed, *texts, *casts, *near]))


def answers(path: Path) -> Answers:
    """Ask a collection that was made by :func:`make`, or a copy."""
    with opened(path) as collection:
        images = {image.id: image.path for image in collection.images()}
        some = [str(each) for each in sorted((path.parent / "pictures").iterdir())[::60]]
        ids = [number for number in range(1, 600, 50) if number in images]
        with collection.searcher() as searcher:
            found, near = searcher.search(some, 8), searcher.search_ids(ids, 5)
    matches: dict[str | int, list[tuple[int, float]]] = {
        result.query: [(match.id, match.distance) for match in result.matches] for result in found
    }
    for number, *row in zip(ids, near.ids.tolist(), near.distances.tolist(), strict=True):
        matches[number] = list(zip(*row, strict=True))
    return Answers(matches, images)


def attempt(work: Callable[[], Any]) -> tuple[str, Any]:
    """Return ``done`` and a result, ``error`` and the message, or ``traceback`` and the stack."""
    try:
        return "done", work()
    except ImgsimError as error:
        return "error", str(error)
    except Exception:  # noqa: BLE001 - a traceback that a user would see is what is looked for
        return "traceback", traceback.format_exc()


def trial(sound: Path, scratch: Path, kind: str, random: Random, expected: Answers) -> Outcome:
    """Damage one file of a copy of a collection; return what query, check and repair did."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(sound, scratch)
    files = sorted(scratch.glob(KINDS[kind]))
    path = files[int(random.integers(len(files)))]
    how = f"{path.name}: {(alter if kind == VALUES else harm)(path, random)}"

    def repaired() -> int:
        Collection.mend(scratch)
        with opened(scratch) as collection:
            collection.repair()
            found = len(collection.check())
            collection.ingest([sound.parent / "new"])
            new = max(image.id for image in collection.images())
            if new <= expected.last:
                raise AssertionError(f"the id {new} was that of another image")
            collection.remove([sound.parent / "new"])
        return found

    results = [
        attempt(lambda: answers(scratch)),
        attempt(lambda: damages(scratch)),
        attempt(repaired),
        attempt(lambda: answers(scratch)),
    ]
    query, check, repair, after = (_named(state, found, expected) for state, found in results)
    details = [str(found) for state, found in results if state != "done"]
    return Outcome(query, check, repair, after, "\n".join([how, *details]))


def damages(path: Path) -> int:
    """Return how much `check` finds."""
    with opened(path) as collection:
        return len(collection.check())


def _named(state: str, found: Any, expected: Answers) -> str:
    if state != "done":
        return state
    if isinstance(found, Answers):
        same = "same" if found == expected else "fewer"
        return same if found.agrees(expected) else "other"
    return "damage" if found else "sound"
