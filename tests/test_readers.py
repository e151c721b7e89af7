"""Readers beside a writer: nobody waits, nobody fails, everybody sees whole batches."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from imgsim import Collection

WRITER = """
import os
import sys
from imgsim import BatchLimits, Collection, IngestSettings
settings = IngestSettings(batch=BatchLimits(images=12))
with Collection.open(sys.argv[1]) as collection:
    while not os.path.exists(sys.argv[3]):
        collection.ingest([sys.argv[2]], settings)
        collection.compact()
        collection.remove([sys.argv[2]])
        collection.compact()
"""


def test_ten_readers_beside_a_writer(empty, pictures, tmp_path):
    enough = tmp_path / "enough"
    seen = set()
    with subprocess.Popen([sys.executable, "-c", WRITER, empty, pictures, enough]) as writer:

        def read(_):
            for turn in range(1_000):
                if writer.poll() is not None or (turn >= 50 and len(seen) > 2):
                    return
                with Collection.open(empty) as collection:
                    found = list(collection.neighbours(3))
                    seen.add(len(found))
                    ids = {image.id for image in found}
                    assert all(match.id in ids for image in found for match in image.matches)

        try:
            with ThreadPoolExecutor(10) as pool:
                list(pool.map(read, range(10)))
        finally:
            enough.touch()
    assert writer.returncode == 0
    assert seen <= {0, 12, 24, 36}
    assert len(seen) > 2
    assert not list((empty / "segments").glob("*.tmp"))
