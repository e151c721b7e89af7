"""A cluster of Ray: join it, and wait for what its workers do."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from imgsim.errors import ClusterError, ExtraMissing

PATIENCE = 120.0
"""Seconds in which some worker must answer, or take the place of one that died."""

_HERE = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}


@contextmanager
def joined(address: str) -> Iterator[ModuleType]:
    """Join the cluster at an address, or make one of this machine if it is ``local``; yield Ray.

    A process that has joined one stays in that. Raises :class:`ClusterError` if there is none, and
    :class:`ExtraMissing` without Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray tells its makers
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ExtraMissing("a cluster needs Ray: `pip install 'imgsim[cluster]'`") from error
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = _HERE if address == "local" else {}
    try:
        _knock(address)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"{address}: cannot be joined: {_first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at a host and port: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=10.0).close()


def answers(ray: ModuleType, calls: Sequence[Any]) -> list[Any]:
    """Return what calls return, in order; raise :class:`ClusterError` if one fails for good."""
    pending = list(calls)
    try:
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=PATIENCE)
            if not done:
                raise ClusterError(
                    f"{len(pending)} of {len(calls)} workers have not answered for {PATIENCE:g} s; "
                    "are there still machines with a free core?"
                )
        return list(ray.get(list(calls)))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise ClusterError(f"a worker failed: {_first_line(cause)}") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
