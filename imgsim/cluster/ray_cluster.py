"""A cluster of Ray: join it, and wait for what its workers do."""

import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from types import ModuleType
from typing import Any

from imgsim.errors import ClusterError, ExtraMissing

_LOG = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds in which a worker must say that it is there, or another take a dead one's place."""

LIFE = "life"
"""The concurrency group in which a worker says that it is there, whatever else it does."""

SLOWEST = 900.0
"""Seconds that some images may take, once workers have answered."""

_HERE = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class _Membership:
    """How many in this process use the cluster that one of them joined."""

    lock = Lock()
    users = 0


@contextmanager
def joined(address: str) -> Iterator[ModuleType]:
    """Join the cluster at an address, or make one of this machine if it is ``local``; yield Ray.

    A process that has joined one stays in that, until the last leaves who asked for it here. Raises
    :class:`ClusterError` if there is none, and :class:`ExtraMissing` without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray tells its makers
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ExtraMissing("a cluster needs Ray: `pip install 'imgsim[cluster]'`") from error
    with _Membership.lock:
        is_ours = _Membership.users > 0 or not ray.is_initialized()
        if not ray.is_initialized():
            _join(ray, address)
        _Membership.users += is_ours
    try:
        yield ray
    finally:
        with _Membership.lock:
            _Membership.users -= is_ours
            if is_ours and not _Membership.users:
                ray.shutdown()


def _join(ray: ModuleType, address: str) -> None:
    options: dict[str, Any] = _HERE if address == "local" else {}
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{address}: cannot be joined: {said(error)}") from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at a host and port: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=10.0).close()


@contextmanager
def told(ray: ModuleType) -> Iterator[None]:
    """Raise :class:`ClusterError` for what Ray says."""
    try:
        yield
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a worker failed: {said(error)}") from error


@dataclass(frozen=True)
class Question:
    """What one of some ``workers`` is asked by ``ask``; each of them can tell."""

    workers: Sequence[Any]
    ask: Callable[[Any], Any]


class _Asking:
    """A question, whom it is asked, and who else can tell."""

    def __init__(self, question: Question) -> None:
        self._question, self._left, self._tries = question, deque(question.workers), 0
        self.others = len(question.workers) - 1
        self.call = question.ask(self.worker)

    @property
    def worker(self) -> Any:  # noqa: ANN401 - Ray's
        """Return the worker that is asked."""
        return self._left[0]

    def again(self, is_gone: bool) -> bool:
        """Ask the next worker, if there are others; say whether there was any to ask.

        One that is not gone for ever is asked again when the others have been, a second later.
        """
        self._tries += 1
        worker = self._left.popleft()
        if not is_gone:
            self._left.append(worker)
        if not self.others or not self._left or self._tries > PATIENCE * (self.others + 1):
            return False
        if self._tries % (self.others + 1) == 0:
            time.sleep(1.0)
        self.call = self._question.ask(self.worker)
        return True


def answers(ray: ModuleType, questions: Sequence[Question]) -> list[Any]:
    """Return the answers to some questions, in order.

    If a worker dies, or does not even say that it is there, the next of the same question is asked.
    They may take their time, as long as they say now and then that they are there. Raises
    :class:`ClusterError` if none does, or if they fail for good.
    """
    errors = ray.exceptions
    with told(ray):
        asked = [_Asking(question) for question in questions]
        pending, found = dict(enumerate(asked)), dict[int, Any]()
        while pending:
            calls = [each.call for each in pending.values()]
            least = 1 if any(each.others for each in asked) else len(calls)
            done, _ = ray.wait(calls, num_returns=least, timeout=PATIENCE)
            if not done:
                _require_life(ray, [*pending.values()])
            for number in [number for number, each in pending.items() if each.call in done]:
                try:
                    found[number] = ray.get(pending[number].call)
                    del pending[number]
                except (errors.RayActorError, errors.OutOfMemoryError) as error:
                    if not pending[number].again(isinstance(error, errors.ActorDiedError)):
                        raise
    return [found[number] for number in range(len(questions))]


def kill(ray: ModuleType, workers: Sequence[Any]) -> None:
    """End workers, whether they are there or not."""
    for worker in workers:
        with suppress(ray.exceptions.RayError):
            ray.kill(worker)


def answer(
    ray: ModuleType,
    call: Any,  # noqa: ANN401 - Ray's
    others: Sequence[Any],
    patience: float,
) -> Any | None:  # noqa: ANN401 - Ray's
    """Return what a task answers, or None if its worker died, or the machine.

    Raises :class:`ClusterError` if it fails, or if for ``patience`` seconds neither it nor any of
    the ``others`` came to an end.
    """
    errors, finished = ray.exceptions, 0
    with told(ray):
        try:
            while not ray.wait([call], timeout=patience)[0]:
                done = ray.wait([call, *others], num_returns=1 + len(others), timeout=0)[0]
                if len(done) == finished:
                    raise ClusterError(
                        f"no worker has answered for {patience:g} s; are there still machines with "
                        "a free core?"
                    )
                finished = len(done)
            return ray.get(call)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
            _LOG.debug("a worker died: %s", said(error))
        except errors.OutOfMemoryError as error:
            _LOG.warning("a worker had no memory left: %s", said(error))
    return None


def _require_life(ray: ModuleType, pending: Sequence[_Asking]) -> None:
    """Ask others instead of workers that are silent, or raise if there are none."""
    workers = [each.worker for each in pending]
    calls = [worker.is_there.options(concurrency_group=LIFE).remote() for worker in workers]
    _, silent = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
    left = [each for each, call in zip(pending, calls, strict=True) if call in silent]
    if not all(each.again(is_gone=True) for each in left):
        raise ClusterError(
            f"{len(silent)} of {len(calls)} workers have not begun in {PATIENCE:g} s; are there "
            "still machines with a free core?"
        )


def said(error: BaseException) -> str:
    """Return the last line of an error, which says why: those before are a traceback."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
