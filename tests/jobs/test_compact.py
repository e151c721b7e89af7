"""Which segments are merged, and that a merge changes nothing but the files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim import BatchLimits, Collection, CollectionDamaged, IngestSettings
from imgsim.jobs.compact import LARGEST, everything, what_pays
from tests.jobs.test_ingest import facts

SIZES = st.lists(
    st.tuples(
        st.sampled_from([1, 7, 8, 100, 1_000, 4_096, 40_000, LARGEST, 200_000]), st.floats(0, 1)
    ),
    max_size=40,
)


def sizes(drawn):
    return [rows for rows, _ in drawn], [int(rows * share) for rows, share in drawn]


class TestChoice:
    @given(SIZES)
    def test_everything_leaves_no_waste_and_few_segments(self, drawn):
        rows, live = sizes(drawn)
        runs = everything(rows, live)
        chosen = [n for run in runs for n in range(run.start, run.stop)]
        assert len(chosen) == len(set(chosen))
        after = [sum(live[run]) for run in runs]
        after += [live[n] for n in range(len(rows)) if n not in chosen]
        assert all(rows[n] == live[n] for n in range(len(rows)) if n not in chosen)
        assert all(sum(live[run]) <= LARGEST for run in runs if run.stop - run.start > 1)
        assert len(after) <= 1 + 2 * sum(live) / LARGEST + sum(n >= LARGEST // 2 for n in live)

    @given(SIZES)
    def test_what_pays_is_disjoint(self, drawn):
        rows, live = sizes(drawn)
        chosen = [n for run in what_pays(rows, live) for n in range(run.start, run.stop)]
        assert len(chosen) == len(set(chosen))
        assert all(n in chosen for n in range(len(rows)) if 2 * live[n] <= rows[n])

    @pytest.mark.parametrize("added", [1, 50, 1_000, 4_096, 30_000])
    def test_a_vector_is_written_a_few_times_and_segments_stay_few(self, added):
        """Many ingests of the same size, each followed by the merges that pay."""
        live, written = [], 0
        for _ in range(2_000):
            live.append(added)
            for run in reversed(what_pays(live, live)):
                written += sum(live[run])
                live[run] = [sum(live[run])]
        assert written <= 5 * sum(live)
        assert len(live) <= 5 * 8 + sum(live) / 32_768
        assert max(live) <= LARGEST


class TestMerge:
    @pytest.fixture
    def scattered(self, collection, pictures):
        """Thirty-six images in six segments, of which seven were removed."""
        collection.ingest([pictures], IngestSettings(batch=BatchLimits(images=6)))
        assert collection.info().segments == 6
        paths = sorted(pictures.iterdir())
        collection.remove([*paths[3:7], *paths[12:13], *paths[-2:]])
        return collection

    def test_nothing_but_the_files_changes(self, scattered, pictures, tmp_path):
        before = facts(scattered)
        answers = [(n.id, n.matches) for n in scattered.neighbours(5)]
        report = scattered.compact()
        assert (report.before, report.after, report.dropped) == (6, 1, 7)
        assert facts(scattered) == before
        assert [(n.id, n.matches) for n in scattered.neighbours(5)] == answers
        assert scattered.check() == []
        assert scattered.compact().dropped == 0
        assert scattered.ingest([pictures]).added == 7
        assert [n.id for n in scattered.neighbours(1)] == sorted(
            i for i, _ in facts(scattered).values()
        )

    def test_segments_without_images_vanish(self, scattered, pictures):
        scattered.remove([pictures])
        report = scattered.compact()
        assert (report.before, report.after) == (6, 0)
        assert scattered.info().segments == 0
        assert scattered.check() == []

    def test_old_files_go_when_nobody_reads_them(self, scattered, empty):
        def files():
            return len(list((empty / "segments").glob("*.faiss")))

        reader = iter(scattered.neighbours(2))
        first = next(reader)
        assert scattered.compact().after == 1
        assert files() == 7
        with Collection.open(empty) as other:  # sees the new ones meanwhile
            assert next(iter(other.neighbours(2))) == first
        assert len(list(reader)) == 28  # an old snapshot is whole as long as it is read
        scattered.compact()
        assert files() == 1

    def test_altered_bytes_are_not_given_a_new_checksum(self, scattered, empty):
        path = sorted((empty / "segments").glob("*.faiss"))[3]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        before = {each.name: each.read_bytes() for each in (empty / "segments").iterdir()}
        with pytest.raises(CollectionDamaged, match="sha256"):
            scattered.compact()
        after = {each.name: each.read_bytes() for each in (empty / "segments").iterdir()}
        assert after == before

    def test_ids_with_gaps_are_read_back(self, scattered):
        """By runs where rows are dense, else one by one."""
        scattered.compact()
        ids = sorted(i for i, _ in facts(scattered).values())
        with scattered._directory.catalog.snapshot() as snapshot:
            (segment,) = snapshot.segments()
            assert snapshot.segment_ids(segment).tolist() == ids
        paths = {i: path for path, (i, _) in facts(scattered).items()}
        scattered.remove([paths[ids[9]]])
        expected = np.array(ids)
        expected[9] = -1
        with scattered._directory.catalog.snapshot() as snapshot:
            assert snapshot.segment_ids(segment).tolist() == expected.tolist()
