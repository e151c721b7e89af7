"""A program: do a job with a fault before each of its effects on the disk in turn.

For every third effect it copies the collection, forks, and lets the child be killed there, or the
disk be full from there on. It prints a line of JSON for each: the copy, the effect, and how the
child ended. A disk that is full where no space is needed is full at the next effect.
"""

import errno
import itertools
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from imgsim import BatchLimits, ImgsimError, IngestSettings
from tests.conftest import open_small

KILLED, REFUSED, SKIPPED = 9, 3, 4
SETTINGS = IngestSettings(batch=BatchLimits(images=12))
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def needs_space(effect: str) -> bool:
    """Say whether an effect can fail because the disk is full."""
    return effect.split(maxsplit=1)[0] in {"open", "fsync", "os.rename"}


class Faults:
    """Counts effects on the disk, and at the ``at``-th does what ``mode`` says.

    Other threads than the main one only read.
    """

    def __init__(self, mode: str, at: int) -> None:
        self.mode, self.left = mode, at
        self.effect = ""

    def arm(self) -> None:
        fsync = os.fsync

        def faulty_fsync(descriptor):
            self.meet("fsync")
            fsync(descriptor)

        os.fsync = faulty_fsync
        event.listen(Engine, "commit", lambda _: self.meet("commit"))
        sys.addaudithook(self.audit)

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in {"os.rename", "os.remove", "os.truncate"}:
            self.meet(f"{name} {os.path.basename(str(arguments[0]))}")
        if name == "open" and arguments[2] & _WRITES and "/segments/" in str(arguments[0]):
            self.meet(f"open {os.path.splitext(str(arguments[0]))[1]}")

    def meet(self, effect: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self.left -= 1
        if self.left == -1:
            Path(os.environ["EFFECT"]).write_text(effect)
            if self.mode == "kill":
                os._exit(KILLED)
            if not needs_space(effect):
                os._exit(SKIPPED)
        if self.left < 0 and self.mode == "full" and needs_space(effect):
            raise OSError(errno.ENOSPC, "No space left on device")


def work(path: Path, pictures: str, job: str) -> int:
    """Do what a user does, and return an exit code."""
    try:
        with open_small(path) as collection:
            if job == "reencode":
                collection.encoders.reencode("other", batch=SETTINGS.batch)
            else:
                collection.ingest([pictures], SETTINGS)
            collection.compact()
    except ImgsimError as error:
        sys.stderr.write(f"imgsim: error: {error}\n")
        return REFUSED
    return 0


def main() -> None:
    template, pictures, scratch, mode, job = sys.argv[1:]
    for number in itertools.count(step=3):
        path = Path(shutil.copytree(template, f"{scratch}/{mode}-{number}"))
        os.environ["EFFECT"] = f"{scratch}/{mode}-{number}.effect"
        child = os.fork()
        if not child:
            Faults(mode, number).arm()
            os._exit(work(path, pictures, job))
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        effect = Path(os.environ["EFFECT"])
        if not effect.exists():
            return
        if ended == SKIPPED:
            shutil.rmtree(path)
            continue
        sys.stdout.write(json.dumps([str(path), effect.read_text(), ended]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
