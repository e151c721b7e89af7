import shutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from imgsim import EvaluationSettings, LabelError, SearchFilter
from imgsim.curation.mislabelled import suspicion


@pytest.fixture
def labelled(tmp_path, pictures):
    """The crops in a folder for each photograph, but two in the wrong one."""
    root = tmp_path / "labelled"
    for path in sorted(pictures.iterdir()):
        name = path.name.partition("-")[0].removesuffix(".jpg")
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / name)
    for name in ("chelsea-1.jpg", "chelsea-2.jpg"):
        (root / "chelsea" / name).rename(root / "astronaut" / name)
    return root


def clouds(count, kinds, share, seed):
    """Return embeddings of kinds that overlap a little, their labels, and those with flips."""
    random = np.random.default_rng(seed)
    labels = random.integers(kinds, size=count)
    rows = random.normal(size=(kinds, 16))[labels] + random.normal(size=(count, 16))
    given = labels.copy()
    some = random.choice(count, round(share * count), replace=False)
    given[some] = (labels[some] + random.integers(1, kinds, len(some))) % kinds
    return rows.astype(np.float32), labels, given


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_probabilities_are_those_of_being_wrong(share):
    rows, labels, given = clouds(2_000, 12, share, seed=3)
    said, wrong = suspicion(rows, given, 30), given != labels
    assert said.share == pytest.approx(share, rel=0.35, abs=0.003)
    assert average_precision_score(wrong, said.probability) > 0.8
    for low, high in ((0, 0.1), (0.1, 0.9), (0.9, 1.01)):
        here = (said.probability >= low) & (said.probability < high)
        assert here.sum() < 40 or said.probability[here].mean() == pytest.approx(
            wrong[here].mean(), abs=0.15
        )
    sure = said.probability > 0.9
    assert sure.sum() > wrong.sum() / 2
    assert (said.proposed == labels)[sure & wrong].mean() > 0.9


def test_nothing_is_sure_where_labels_are_right():
    rows, labels, _ = clouds(2_000, 12, 0.0, seed=3)
    assert (suspicion(rows, labels, 30).probability > 0.5).sum() <= 1


def test_copies_do_not_vouch_for_each_other():
    rows, labels, given = clouds(1_000, 8, 0.0, seed=5)
    given[0] = (labels[0] + 1) % 8
    rows = np.concatenate([rows, np.repeat(rows[:1], 40, axis=0)])
    given = np.concatenate([given, np.repeat(given[:1], 40)])
    said = suspicion(rows, given, 30)
    assert said.score[0] > 0.5
    assert said.proposed[0] == labels[0]


def test_images_in_wrong_folders_come_first(collection, labelled):
    told = []
    report = collection.curation.mislabelled(labelled, k=5, on_progress=lambda *n: told.append(n))
    assert (report.images, report.labels, len(report.found)) == (36, 6, 36)
    assert told[-1] == (36, 36)
    names = [each.path.rpartition("/")[2] for each in report.found[:5]]
    assert {"chelsea-1.jpg", "chelsea-2.jpg"} <= set(names)
    first = report.found[0]
    assert (first.rank, len(first.nearest), len(first.labels)) == (1, 5, 5)
    assert first.proposed != first.label
    sure = [each.probability for each in report.found]
    assert sure == sorted(sure, reverse=True)
    assert all(0 <= each <= 1 for each in sure)


def test_a_table_and_folders_say_what_counts(collection, labelled, tmp_path):
    paths = [str(path.relative_to(labelled)) for path in sorted(labelled.rglob("*.jpg"))]
    rows = [f"{path},{number % 2}" for number, path in enumerate(paths[:-3])]
    (tmp_path / "t.csv").write_text("\n".join(["path,kind", *rows]) + "\n")
    settings = EvaluationSettings(str(tmp_path / "t.csv"), "kind", exclude="astronaut-0.jpg")
    within = SearchFilter(not_under=labelled / "coffee")
    report = collection.curation.mislabelled(labelled, settings, within=within)
    assert (report.images, report.labels, report.unlabelled) == (36 - 6 - 3 - 1, 2, 3)
    assert report.excluded == {"astronaut-0.jpg": 1}
    inside = SearchFilter(under=[labelled / "coffee", labelled / "rocket" / "rocket-0.jpg"])
    with pytest.raises(LabelError, match="7 images can be decoded and have 2 labels"):
        collection.curation.mislabelled(labelled, within=inside)


def test_too_few_labels(collection, labelled, pictures):
    with pytest.raises(LabelError, match="labels none of 36"):
        collection.curation.mislabelled(pictures)
    with pytest.raises(LabelError, match="have 1 labels"):
        collection.curation.mislabelled(pictures.parent, EvaluationSettings(exclude="/labelled/"))
