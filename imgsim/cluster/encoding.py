"""Image files decoded and encoded by the workers of a cluster."""

import socket
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from imgsim.cluster import ray_cluster
from imgsim.encoder.embed import EmbeddedImage, embed_file
from imgsim.encoder.encoder import Encoder
from imgsim.errors import ClusterError, ImageError
from imgsim.options import DecodeRules

_TOGETHER = 16  # files that a worker gets at once
_DEATHS = 3  # of workers that had a file, until it is refused
_PROBES = 4

Encoded = EmbeddedImage | ImageError


@dataclass(frozen=True)
class EncodingJob:
    """What workers must know: the folder of the encoder, which it is, and what they may decode."""

    folder: Path
    fingerprint: str
    rules: DecodeRules


@dataclass(frozen=True)
class _Done:
    """What a worker has of some files, its machine, and what its encoder gives for the probes."""

    encoded: list[Encoded]
    host: str
    probes: bytes


def probes(encoder: Encoder) -> bytes:
    """Return the embeddings of some noise: processors of other kinds give other last bits."""
    shape = _PROBES, encoder.preprocessing.height, encoder.preprocessing.width, 3
    return encoder.encode(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).tobytes()


@lru_cache(maxsize=1)
def _loaded(folder: Path, fingerprint: str) -> tuple[Encoder, bytes]:
    """Return the encoder of a worker, which keeps it, and its probes."""
    encoder = Encoder(folder, fingerprint, "cpu")
    return encoder, probes(encoder)


def _encoded(paths: list[str], job: EncodingJob) -> _Done:
    """Decode and encode some files, in a worker."""
    encoder, told = _loaded(job.folder, job.fingerprint)
    encoded: list[Encoded] = []
    for path in paths:
        try:
            encoded.append(embed_file(path, encoder, job.rules))
        except ImageError as error:
            encoded.append(error)
    return _Done(encoded, socket.gethostname(), told)


@dataclass(frozen=True)
class _Asked:
    """Files that a task has, of which some workers have died; none of both for None."""

    paths: list[str]
    call: Any
    deaths: int = 0


class ClusterEncoding:
    """Encodes files by tasks of Ray: one for each core of the cluster, and as many that wait.

    ``expected`` are the probes that all workers must give, if they must.
    """

    def __init__(self, ray: ModuleType, job: EncodingJob, expected: bytes | None) -> None:
        self._ray, self._job, self._expected = ray, job, expected
        task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        self._task: Any = task(_encoded)
        self._pending: deque[_Asked] = deque()
        self._patience = ray_cluster.PATIENCE

    def __call__(self, paths: Iterable[str | None]) -> Iterator[Encoded | None]:
        """Yield what each file gives, in order, and None for None.

        A worker that dies costs its files a second try, each alone. A file that three die of is an
        :class:`ImageError`. Raises :class:`ClusterError` if no worker answers for long, or one
        gives other bits than it must.
        """
        try:
            for group in _grouped(paths):
                self._pending.append(self._ask(group))
                while self._pending and (
                    not self._pending[0].paths or len(self._pending) > self._most()
                ):
                    yield from self._first()
            while self._pending:
                yield from self._first()
        finally:
            for asked in self._pending:
                if asked.paths:
                    self._ray.cancel(asked.call)

    def _most(self) -> int:
        with ray_cluster.told(self._ray):
            return 2 * int(self._ray.cluster_resources().get("CPU", 0)) + 2

    def _ask(self, paths: list[str], deaths: int = 0) -> _Asked:
        with ray_cluster.told(self._ray):
            call = self._task.remote(paths, self._job) if paths else None
        return _Asked(paths, call, deaths)

    def _first(self) -> Iterator[Encoded | None]:
        """Yield what the first files that are pending give, unless they are tried again."""
        asked = self._pending.popleft()
        if not asked.paths:
            yield None
            return
        encoded = self._answer(asked.call)
        deaths = asked.deaths + 1
        if encoded is not None:
            yield from encoded
        elif deaths == _DEATHS:
            yield ImageError(asked.paths[0], f"{deaths} workers died of it")
        else:
            again = [self._ask([path], deaths) for path in asked.paths]
            self._pending.extendleft(reversed(again))

    def _answer(self, call: Any) -> list[Encoded] | None:  # noqa: ANN401 - Ray's
        """Return what a worker answers, or None if it died."""
        others = [each.call for each in self._pending if each.paths]
        done = ray_cluster.answer(self._ray, call, others, self._patience)
        if done is None:
            return None
        self._patience = ray_cluster.SLOWEST
        if self._expected not in {None, done.probes}:
            raise ClusterError(
                f"{done.host}: gives other last bits for the same picture than this machine; "
                "--allow-mixed stores them all the same"
            )
        encoded: list[Encoded] = done.encoded
        return encoded


def _grouped(paths: Iterable[str | None]) -> Iterator[list[str]]:
    """Yield paths in groups, and an empty one for None.

    The first has one path: it is what tells soon whether there are workers.
    """
    group: list[str] = []
    most = 1
    for path in paths:
        if path is not None:
            group.append(path)
        if group and (path is None or len(group) == most):
            yield group
            group, most = [], _TOGETHER
        if path is None:
            yield []
    if group:
        yield group
