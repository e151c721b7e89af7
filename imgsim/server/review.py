"""What is found in a collection for a person to decide on, and what is done then."""

import tempfile
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from imgsim.catalog.judgements import in_order, judged
from imgsim.collection import Collection
from imgsim.curation.map import export_map
from imgsim.curation_options import DuplicateSettings
from imgsim.directory import CHECKPOINTS, Directory
from imgsim.errors import EncoderError
from imgsim.findings import DuplicateGroup, DuplicateReport, OutlierReport, StageProgress
from imgsim.locks import writer_of
from imgsim.results import Progress
from imgsim.scores import Evaluation, Scores
from imgsim.server import schema
from imgsim.server.refusals import NoSuchImage, NotAllowed, NotReady
from imgsim.server.settings import ServerSettings
from imgsim.server.work import Done, Pending, Work
from imgsim.training.checkpoints import Checkpoints


class Review:
    """Duplicates, outliers, a map, an evaluation: what takes long is computed beside requests."""

    def __init__(self, directory: Directory, settings: ServerSettings) -> None:
        self._directory, self._settings = directory, settings
        self._collection = Collection(directory)
        turn = Lock()
        self._duplicates = Work[DuplicateReport](turn)
        self._outliers = Work[OutlierReport](turn)
        self._sheet = Work[Evaluation](turn)
        self._map = Work[bytes](turn)
        self._manifests: list[str] = []

    def duplicates(self, asked: schema.Duplicates) -> schema.DuplicatePage:
        """Return a page of groups of duplicates."""
        chosen = DuplicateSettings(
            asked.radius, keep=asked.keep, mirror=asked.mirror, rotate=asked.rotate
        )

        def compute(note: StageProgress) -> DuplicateReport:
            return self._collection.curation.duplicates(chosen, partial(note, "search"))

        found = self._duplicates.get(chosen, self._state(), compute, anew=asked.anew)
        if isinstance(found, Pending):
            return schema.DuplicatePage(progress=found)
        groups, stop = found.result.groups, asked.after + asked.most
        return schema.DuplicatePage(
            current=found.is_current,
            groups=self._left(groups[asked.after : stop]),
            found=len(groups),
            images=found.result.images,
            radius=found.result.radius,
            after=stop if stop < len(groups) else 0,
        )

    def outliers(self, asked: schema.AskedOutliers) -> schema.OutlierPage:
        """Return the images that are farthest from all others."""

        def compute(note: StageProgress) -> OutlierReport:
            curation = self._collection.curation
            return curation.outliers(asked.k, asked.most, on_progress=partial(note, "search"))

        key = asked.k, asked.most
        found = self._outliers.get(key, self._state(), compute, anew=asked.anew)
        if isinstance(found, Pending):
            return schema.OutlierPage(progress=found)
        report = found.result
        return schema.OutlierPage(
            current=found.is_current,
            outliers=report.outliers,
            images=report.images,
            median=report.median,
            beyond=report.beyond,
        )

    def map(self, asked: schema.AskedMap) -> schema.Finding:
        """Lay out a map."""
        found = self._mapped(asked)
        if isinstance(found, Pending):
            return schema.Finding(progress=found)
        return schema.Finding(current=found.is_current)

    def map_page(self, asked: schema.AskedMap) -> bytes:
        """Return the page of a map that was laid out."""
        found = self._mapped(asked)
        if isinstance(found, Pending):
            raise NotReady("the map is not there yet; ask for /map until it is")
        return found.result

    def _mapped(self, asked: schema.AskedMap) -> Done[bytes] | Pending:
        def compute(note: StageProgress) -> bytes:
            found = self._collection.curation.map(method=asked.method, on_progress=note)
            with tempfile.TemporaryDirectory() as scratch:
                page = Path(scratch) / "map.html"
                export_map(page, found, {}, note, served=True)
                return page.read_bytes()

        return self._map.get(asked.method, self._state(), compute, anew=asked.anew)

    def sheet(self, asked: schema.AskedSheet) -> schema.Sheet:
        """Return how well the labelled images of the settings are retrieved."""
        folder = self._settings.labelled
        if not folder:
            raise NotAllowed("start `imgsim serve` with --labelled DIR for an evaluation")

        def compute(note: StageProgress) -> Evaluation:
            progress: Progress = partial(note, "evaluate")
            return self._collection.evaluate(folder, on_progress=progress)

        found = self._sheet.get(folder, self._state(), compute, anew=asked.anew)
        if isinstance(found, Pending):
            return schema.Sheet(progress=found)
        report = found.result
        named = {
            "embeddings": report.embeddings,
            "pixels": report.pixels,
            "histogram": report.histogram,
        }
        return schema.Sheet(
            current=found.is_current,
            images=report.images,
            queries=report.queries,
            measures=[_measure(name, scores) for name, scores in named.items()],
            rows=[
                schema.SheetRow(
                    query=self._neighbour(each.query, each.label),
                    nearest=[
                        self._neighbour(path, label)
                        for path, label in zip(each.nearest, each.labels, strict=True)
                    ],
                )
                for each in report.retrieved
            ],
        )

    def activity(self) -> schema.Activity:
        """Return what runs beside, and what the server may do."""
        with self._directory.catalog.snapshot() as snapshot:
            images = snapshot.count_images()
        settings, writer = self._settings, writer_of(self._directory.path)
        able = {
            "ignore": settings.changes,
            "move": bool(settings.move_to),
            "evaluate": bool(settings.labelled),
        }
        return schema.Activity.model_validate(
            {
                "images": images,
                "writer": writer,
                "training": self._training() if writer else None,
                "may": [name for name, is_able in able.items() if is_able],
            }
        )

    def ignore(self, asked: schema.Judged) -> schema.Change:
        """Remember that images are no duplicates of the first one."""
        return self._judge(asked, self._collection.curation.ignore)

    def unignore(self, asked: schema.Judged) -> schema.Change:
        """Forget what :meth:`ignore` has remembered."""
        return self._judge(asked, self._collection.curation.unignore)

    def move(self, asked: schema.Moved) -> schema.Change:
        """Move images away into the folder of the settings."""
        if not self._settings.move_to:
            raise NotAllowed("start `imgsim serve` with --allow-changes --move-to DIR for that")
        pairs = [(number, asked.keep) for number in asked.move]
        report = self._collection.curation.move(pairs, self._settings.move_to)
        if report.manifest:
            self._manifests.append(report.manifest)
        return schema.Change(
            number=len(self._manifests) if report.manifest else 0,
            done=len(report.changed),
            left=report.left,
            manifest=report.manifest,
        )

    def undo(self, asked: schema.Undone) -> schema.Change:
        """Bring back what a move of this server took away."""
        if asked.number > len(self._manifests):
            raise ValueError("this server has made no such change; `imgsim restore` undoes others")
        manifest = self._manifests[asked.number - 1]
        report = self._collection.curation.restore(manifest)
        return schema.Change(
            number=asked.number,
            done=len(report.restored),
            left=report.left,
            manifest=manifest,
        )

    def _judge(self, asked: schema.Judged, judge: Callable[[str, str], bool]) -> schema.Change:
        if not self._settings.changes:
            raise NotAllowed("start `imgsim serve` with --allow-changes for that")
        with self._directory.catalog.snapshot() as snapshot:
            paths = snapshot.paths(asked.ids)
        missing = next((number for number in asked.ids if number not in paths), None)
        if missing is not None:
            raise NoSuchImage(f"no stored image has the id {missing}")
        first, *others = (paths[number] for number in asked.ids)
        return schema.Change(number=0, done=sum(judge(first, other) for other in others))

    def _left(self, groups: Sequence[DuplicateGroup]) -> list[DuplicateGroup]:
        """Return groups without members that are gone by now, or judged to be none."""
        ids = [member.id for group in groups for member in group.members]
        with self._directory.catalog.snapshot() as snapshot:
            contents = snapshot.contents(list(snapshot.paths(ids)))
            known = judged(snapshot.connection)
        left = []
        for group in groups:
            stored = [each for each in group.members if each.id in contents]
            members = tuple(
                each
                for each in stored
                if in_order(contents[stored[0].id], contents[each.id]) not in known
            )
            if len(members) > 1:
                left.append(DuplicateGroup(members))
        return left

    def _state(self) -> Hashable:
        """Return what is another one once images were added, changed or removed."""
        with self._directory.catalog.snapshot() as snapshot:
            names = tuple(snapshot.segment_names())
            return snapshot.encoder().fingerprint, names, snapshot.count_images()

    def _neighbour(self, path: str, label: str) -> schema.Neighbour:
        with self._directory.catalog.snapshot() as snapshot:
            return schema.Neighbour(id=snapshot.id_at(path) or 0, path=path, label=label)

    def _training(self) -> schema.Training | None:
        try:
            history = Checkpoints(self._directory.path / CHECKPOINTS).load().history
        except EncoderError:
            return None
        if not history:
            return None
        return schema.Training(epoch=len(history), loss=history[-1].val_loss)


def _measure(name: str, scores: Scores) -> schema.Measure:
    return schema.Measure(
        name=name,
        recall={k: mean.value for k, mean in scores.recall.items()},
        p10=scores.p10.value,
        map=scores.map.value,
    )
