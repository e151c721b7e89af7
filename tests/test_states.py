"""Whatever happens to the files between runs, a collection holds what a dictionary would."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from imgsim import Collection
from tests.conftest import make_collection
from tests.jobs.test_ingest import facts
from tests.pictures import write_crops

NAMES = st.sampled_from(["a.jpg", "b.jpg", "c.jpg", "sub/a.jpg", "sub/d.jpg"])
CONTENTS = st.integers(0, 4)
BROKEN = 4


class Files(RuleBasedStateMachine):
    """Files come, change, move and go; ``stored`` maps paths to contents as the catalog should."""

    @initialize()
    def begin(self):
        self.scratch = Path(tempfile.mkdtemp())
        self.contents = [Path(p).read_bytes() for p in write_crops(self.scratch)[:4]]
        self.contents.append(b"no picture")
        self.folder = self.scratch / "files"
        (self.folder / "sub").mkdir(parents=True)
        (self.folder / "note.txt").touch()  # so that the folder is never empty
        self.collection = Collection.open(make_collection(self.scratch / "c"))
        self.collection.ingest([self.folder])
        self.times = itertools.count(1)
        self.stored, self.known, self.embeddings, self.refused = {}, {}, {}, set()

    def teardown(self):
        if hasattr(self, "scratch"):
            self.collection.close()
            shutil.rmtree(self.scratch)

    def files(self):
        """Return the content's number of each file."""
        found = (path for path in self.folder.rglob("*.jpg"))
        return {str(path): self.contents.index(path.read_bytes()) for path in found}

    def stamp(self, path):
        os.utime(path, ns=(0, next(self.times)))

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name, content):
        (self.folder / name).write_bytes(self.contents[content])
        self.stamp(self.folder / name)

    @rule(name=NAMES)
    def touch(self, name):
        if (self.folder / name).exists():
            self.stamp(self.folder / name)

    @rule(old=NAMES, new=NAMES)
    def rename(self, old, new):
        if (self.folder / old).exists():
            (self.folder / old).rename(self.folder / new)

    @rule(old=NAMES, new=NAMES)
    def copy(self, old, new):
        if old != new and (self.folder / old).exists():
            shutil.copyfile(self.folder / old, self.folder / new)
            self.stamp(self.folder / new)

    @rule(name=NAMES)
    def delete(self, name):
        (self.folder / name).unlink(missing_ok=True)

    @rule()
    def ingest(self):
        files = self.files()
        broken = {path for path, c in files.items() if c == BROKEN}
        images = {path: c for path, c in files.items() if c != BROKEN}
        placed = {path: c for path, c in images.items() if self.stored.get(path) != c}
        gone = {path: c for path, c in self.stored.items() if path not in files}
        ids = {path: number for path, (number, _) in facts(self.collection).items()}
        for content in placed.values():  # each takes one image along whose file is gone
            same = [path for path, c in gone.items() if c == content]
            if same:
                path = min(same, key=ids.__getitem__)
                del gone[path], self.stored[path]
        report = self.collection.ingest([self.folder])
        assert report.seen == len(files) + 1
        assert report.added + report.changed + report.moved == len(placed)
        self.stored |= images
        self.stored = {path: c for path, c in self.stored.items() if path not in broken}
        self.refused = broken | (self.refused - files.keys())
        assert {refusal.path for refusal in report.refused} == broken
        assert report.stored + report.not_found == len(self.stored)
        assert report.not_found == len(self.stored.keys() - files.keys())

    @rule()
    def prune(self):
        files = self.files()
        report = self.collection.prune()
        assert report.images == len(self.stored.keys() - files.keys())
        assert report.refused == len(self.refused - files.keys())
        self.stored = {path: c for path, c in self.stored.items() if path in files}
        self.refused &= files.keys()

    @rule(name=NAMES | st.just("sub"))
    def remove(self, name):
        place = str(self.folder / name)
        inside = {p for p in self.stored.keys() | self.refused if f"{p}/".startswith(f"{place}/")}
        report = self.collection.remove([place])
        assert report.images + report.refused == len(inside)
        self.stored = {path: c for path, c in self.stored.items() if path not in inside}
        self.refused -= inside

    @rule()
    def relocate(self):
        old, new = str(self.folder), f"{self.scratch}/files-{next(self.times)}"
        self.folder = self.folder.rename(new)
        self.stored = {path.replace(old, new): c for path, c in self.stored.items()}
        self.refused = {path.replace(old, new) for path in self.refused}
        report = self.collection.relocate(old, new, force=True)
        assert (report.images, report.refused) == (len(self.stored), len(self.refused))
        assert set(report.paths) == self.stored.keys() - self.files().keys()

    @rule()
    def compact(self):
        self.collection.compact()
        assert self.collection.check() == []

    @rule()
    def open_again(self):
        self.collection.close()
        self.collection = Collection.open(self.scratch / "c")

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def query(self, data):
        path = data.draw(st.sampled_from(sorted(self.stored)))
        query = self.scratch / "query.jpg"
        query.write_bytes(self.contents[self.stored[path]])
        (result,) = self.collection.query([query], len(self.stored))
        same = {p for p, content in self.stored.items() if content == self.stored[path]}
        assert {match.path for match in result.matches if match.distance == 0} == same
        assert len(result.matches) == len(self.stored)

    @invariant()
    def the_catalog_is_as_the_dictionary(self):
        if not hasattr(self, "stored"):
            return
        found = facts(self.collection)
        assert found.keys() == self.stored.keys()
        info = self.collection.info()
        assert (info.images, info.refused) == (len(found), len(self.refused))
        for path, (number, embedding) in found.items():
            content = self.stored[path]
            assert self.known.setdefault(number, content) == content  # an id stands for a content
            assert self.embeddings.setdefault(content, embedding) == embedding


TestFiles = Files.TestCase
TestFiles.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
