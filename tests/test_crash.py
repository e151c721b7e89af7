"""Real processes killed with SIGKILL: nothing reported as stored is lost, nothing appears twice."""

import os
import random
import signal
import subprocess
import sys
import time

from imgsim import Collection
from tests.conftest import make_collection

INGEST = """
import sys
from imgsim import Collection, ingest
ingest._BATCH_IMAGES = 8
with Collection.open(sys.argv[1], create=False) as collection:
    def tell(done, total):
        with collection._catalog.snapshot() as snapshot:
            print(snapshot.count_images(), flush=True)
    collection.ingest([sys.argv[2]], on_progress=tell)
"""


def test_sigkill_loses_nothing_that_was_reported(tmp_path, pictures, crops):
    for number in range(400):
        os.link(crops[number % 36], pictures / f"{number}.jpg")
    path = make_collection(tmp_path / "c")
    random.seed(0)
    reported = kills = 0
    while kills < 12:
        command = [sys.executable, "-c", INGEST, str(path), str(pictures)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = random.randint(1, 60)
            for line in process.stdout:
                reported = max(reported, int(line))
                lines -= 1
                if not lines:
                    time.sleep(random.random() / 100)
                    break
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                reported = max(reported, int(line))
        kills += 1
        with Collection.open(path, create=False) as collection:
            assert collection.info().images >= reported
            assert collection.check() == []
    with Collection.open(path, create=False) as collection:
        report = collection.ingest([pictures])
        assert report.added + report.unchanged == 436
        assert report.unchanged >= reported
        again = make_collection(tmp_path / "undisturbed")
        with Collection.open(again) as other:
            other.ingest([pictures])
            ours = [[(m.path, m.distance) for m in n.matches] for n in collection.neighbours(1)]
            theirs = [[(m.path, m.distance) for m in n.matches] for n in other.neighbours(1)]
        assert sorted(ours) == sorted(theirs)
        assert reported > 0
