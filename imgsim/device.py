"""What computes: the CPU or, by CUDA, a GPU of NVIDIA."""

import logging
from functools import cache
from pathlib import Path

_LOG = logging.getLogger(__name__)
_DRIVERS = Path("/proc/driver/nvidia/version"), Path("/dev/dxg")  # of Linux, of WSL 2


def has_driver() -> bool:
    """Say whether there is the driver of a GPU."""
    return any(path.exists() for path in _DRIVERS)


@cache
def fall_back(work: str) -> None:
    """Tell the log, once, that the CPU does some work because there is no CUDA for it."""
    _LOG.warning("there is no CUDA for %s here, so the CPU does it", work)
