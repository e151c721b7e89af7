"""A cluster of Ray: join it, and wait for what its workers do."""

import logging
import os
import re
import socket
import time
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
    """What one of some ``workers`` is asked; each of them can tell."""

    workers: Sequence[Any]
    ask: Callable[[Any], Any]


def answers(ray: ModuleType, questions: Sequence[Question]) -> list[Any]:
    """Return the answers to some questions, in order.

    If a worker dies, the next of the same question is asked, if there are others. They may take
    their time, as long as each says now and then that it is there. Raises :class:`ClusterError` if
    one does not, or if they fail for good.
    """
    tried, pending, found = [0] * len(questions), dict[int, tuple[Any, Any]](), dict[int, Any]()

    def ask(number: int) -> None:
        workers = questions[number].workers
        worker = workers[tried[number] % len(workers)]
        pending[number] = worker, questions[number].ask(worker)

    with told(ray):
        for number in range(len(questions)):
            ask(number)
        while pending:
            calls = [call for _, call in pending.values()]
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
            if not done:
                _require_life(ray, [worker for worker, _ in pending.values()])
            for number in [number for number, (_, call) in pending.items() if call in done]:
                _, call = pending.pop(number)
                try:
                    found[number] = ray.get(call)
                except ray.exceptions.RayActorError:
                    tried[number] += 1
                    rounds, rest = divmod(tried[number], len(questions[number].workers))
                    if len(questions[number].workers) == 1 or rounds > PATIENCE:
                        raise
                    if not rest:
                        time.sleep(1.0)
                    ask(number)
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


def _require_life(ray: ModuleType, workers: Sequence[Any]) -> None:
    calls = [worker.is_there.options(concurrency_group=LIFE).remote() for worker in workers]
    _, silent = ray.wait(calls, num_returns=len(calls), timeout=PATIENCE)
    if silent:
        raise ClusterError(
            f"{len(silent)} of {len(calls)} workers have not begun in {PATIENCE:g} s; are there "
            "still machines with a free core?"
        )


def said(error: BaseException) -> str:
    """Return the last line of an error, which says why: those before are a traceback."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
