"""A cluster of Ray: join it, and wait for what its workers do."""

import logging
import math
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from types import ModuleType
from typing import Any

from imgsim.errors import ClusterError, ExtraMissing

_LOG = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds in which a worker must say that it is there, or another take a dead one's place."""

TRIES = 8
"""How often a question is repeated at least, when workers die."""

REPEATS = 60
"""How often Ray repeats a question to a worker that comes back; every two seconds at most."""

LIFE = "life"
"""The concurrency group in which a worker says that it is there, whatever else it does."""

SLOWEST = 900.0
"""Seconds that some images may take, once workers have answered."""

_HERE = {
    "include_dashboard": False,
    "_node_ip_address": "127.0.0.1",
    "_system_config": {"worker_niceness": 0},  # or other work of this machine stops them
}
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
    hint = ""
    try:
        _knock(address)
        if ":" in address and "RAY_AUTH_MODE" not in os.environ:
            hint = "; if it wants a token, set RAY_AUTH_MODE=token"
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(f"{address}: cannot be joined: {said(error)}{hint}") from error


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
    """A question, and the workers that can still tell, of whom the first is asked."""

    def __init__(self, question: Question) -> None:
        self.question, self.left = question, deque(question.workers)
        self._tries, self._until = 0, math.inf
        self.ask()

    def ask(self) -> None:
        """Ask the first worker that is left."""
        self.call = self.question.ask(self.left[0])

    @property
    def is_round(self) -> bool:
        """Say whether all workers have been asked equally often."""
        return self._tries % len(self.question.workers) == 0

    def has_answer(self, ray: ModuleType, lose: Callable[[Any], None]) -> bool:
        """Say whether the worker has answered with what is then ``found``; raise its error.

        If it has died, the next one shall be asked, and itself once it is back. That is an error if
        there is none, or when they have died for long.
        """
        errors = ray.exceptions
        try:
            self.found = ray.get(self.call)
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
            worker = self.left.popleft()
            if len(self.question.workers) == 1 or isinstance(error, errors.ActorDiedError):
                lose(worker)
            else:
                self.left.append(worker)
            self._tries += 1
            self._until = min(self._until, time.monotonic() + PATIENCE)
            if not self.left or (self._tries > TRIES and time.monotonic() > self._until):
                raise
            return False
        return True


def answers(
    ray: ModuleType, questions: Sequence[Question], lose: Callable[[Any], None]
) -> list[Any]:
    """Return the answers to some questions, in order.

    If a worker dies, or does not even say that it is there, the next of the same question is asked.
    They may take their time, as long as they say now and then that they are there. Raises
    :class:`ClusterError` if none does, or if they fail for good. ``lose`` is told of those workers.
    """
    with told(ray):
        asked = pending = [_Asking(question) for question in questions]
        least = 1 if any(len(each.workers) > 1 for each in questions) else len(questions)
        while pending:
            pending = _unanswered(ray, pending, least, lose)
    return [each.found for each in asked]


def answers_in_turn(
    ray: ModuleType, questions: Iterable[Question], lose: Callable[[Any], None], at_once: int
) -> Iterator[Any]:
    """Yield the answers to many questions as they come; see :func:`answers`.

    So many are asked ``at_once``; the others are not taken before.
    """
    waiting = iter(questions)
    with told(ray):
        pending = [_Asking(question) for question in islice(waiting, at_once)]
        while pending:
            asked, pending = pending, _unanswered(ray, pending, 1, lose)
            yield from (each.found for each in asked if each not in pending)
            pending += [_Asking(each) for each in islice(waiting, at_once - len(pending))]


def _unanswered(
    ray: ModuleType, pending: Sequence[_Asking], least: int, lose: Callable[[Any], None]
) -> list[_Asking]:
    """Wait for ``least`` answers, and return what is still to be answered."""
    calls = [each.call for each in pending]
    done, _ = ray.wait(calls, num_returns=min(least, len(calls)), timeout=PATIENCE)
    ended = [each for each in pending if each.call in done]
    failed = [each for each in ended if not each.has_answer(ray, lose)]
    if not done:
        failed = _silent(ray, pending, lose)
    if any(each.is_round for each in failed):
        time.sleep(1.0)
    for each in failed:
        each.ask()
    return [each for each in pending if each in failed or each not in ended]


def answered(ray: ModuleType, groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return which calls of each group are answered, when one of each is, or after a while.

    Groups of one are not waited for, and count as answered.
    """
    found, until = [], time.monotonic() + PATIENCE
    for calls in groups:
        if len(calls) > 1:
            ray.wait(calls, num_returns=1, timeout=max(0.0, until - time.monotonic()))
        done, _ = ray.wait(calls, num_returns=len(calls), timeout=0) if calls[1:] else (calls, ())
        found.append([*done])
    return found


def _silent(
    ray: ModuleType, pending: Sequence[_Asking], lose: Callable[[Any], None]
) -> list[_Asking]:
    """Return what others shall be asked, because workers are silent; raise if there are none."""
    workers = [each.left[0] for each in pending]
    calls = [worker.is_there.options(concurrency_group=LIFE).remote() for worker in workers]
    _, silent = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
    lost = [each for each, call in zip(pending, calls, strict=True) if call in silent]
    for each in lost:
        lose(each.left.popleft())
    if not all(each.left for each in lost):
        raise ClusterError(
            f"{len(lost)} of {len(calls)} workers have not begun in {PATIENCE:g} s; are there "
            "still machines with a free core?"
        )
    return lost


def machines(ray: ModuleType) -> list[str]:
    """Return the ids of the machines that do work, in the order of their addresses."""
    nodes = (each for each in ray.nodes() if each["Resources"].get("CPU", 0) >= 1)
    return [number for _, number in sorted((n["NodeManagerAddress"], n["NodeID"]) for n in nodes)]


def near(machine: str) -> Any:  # noqa: ANN401 - Ray's
    """Return how a worker gets to a machine, or to any other if that has no core free."""
    from ray.util.scheduling_strategies import (  # noqa: PLC0415 - an extra
        NodeAffinitySchedulingStrategy,
    )

    return NodeAffinitySchedulingStrategy(machine, soft=True, _spill_on_unavailable=True)


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


def said(error: BaseException) -> str:
    """Return the last line of an error, which says why: those before are a traceback."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
