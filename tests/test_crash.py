"""Real processes killed with SIGKILL: nothing reported as stored is lost, nothing appears twice."""

import subprocess
import sys
from pathlib import Path

from imgsim import Collection
from tests.conftest import make_collection
from tests.jobs.test_ingest import embeddings

KILLS = 50

INGEST = """
import os, random, select, signal, sys, time
from imgsim import BatchLimits, Collection, IngestSettings

path, pictures, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
settings = IngestSettings(batch=BatchLimits(images=8))

def work(pipe):
    with Collection.open(path) as collection:
        def tell(done, total):
            os.write(pipe, b"%d " % collection.info().images)
        collection.ingest([pictures], settings, on_progress=tell)
        collection.compact()

random.seed(0)
while kills:
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        work(theirs)
        os._exit(0)
    os.close(theirs)
    done = select.select([ours], [], [], 10)  # begins to store, or ends
    time.sleep(random.random() / 4)
    os.kill(child, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with os.fdopen(ours) as pipe:
        reported = max(map(int, pipe.read().split()), default=0)
    kills -= killed
    with Collection.open(path) as collection:
        assert collection.info().images >= reported, (collection.info(), reported)
        assert collection.check() == []
        assert killed or collection.info().images == collection.ingest([pictures]).seen
        if not killed:
            collection.remove([pictures])
        print(reported, flush=True)
"""


def test_sigkill_at_fifty_moments(tmp_path, pictures, crops):
    for number in range(600):
        content = Path(crops[number % 36]).read_bytes()
        (pictures / f"{number}.jpg").write_bytes(content + number.to_bytes(2, "big"))
    path = make_collection(tmp_path / "c")
    command = [sys.executable, "-c", INGEST, path, pictures, str(KILLS)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert sum(0 < int(line) < 636 for line in run.stdout.split()) > KILLS / 4
    with Collection.open(path) as collection:
        assert collection.ingest([pictures]).seen == 636
        stored = embeddings(collection)
        names = {p.stem for p in (path / "segments").glob("*.faiss")}
        assert len(names) == collection.info().segments
    with Collection.open(make_collection(tmp_path / "undisturbed")) as other:
        other.ingest([pictures])
        assert embeddings(other) == stored
