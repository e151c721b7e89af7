"""Find out where files are whose move, link or return was cut short, and end it."""

import logging

from imgsim.curation import links, moves
from imgsim.curation.manifest import BACK, Entry, Manifest
from imgsim.errors import ImageError

_SETTLED = {"move": moves.settled, "hardlink": links.settled}
_LOG = logging.getLogger(__name__)


def settle(manifest: Manifest) -> None:
    """End what was cut short, and note where the files are."""
    for entry in list(manifest.entries.values()):
        if entry.state in BACK:
            settle_entry(manifest, entry)


def settle_entry(manifest: Manifest, entry: Entry, reason: str = "") -> None:
    """End what was cut short of one file, and note where it is, for a reason.

    If that cannot be seen or done now, the entry stays as it is, and the next run tries again.
    """
    try:
        state = _SETTLED[manifest.header.act](manifest, manifest.entries[entry.number])
    except (OSError, ImageError) as error:
        _LOG.debug("%s: not settled: %s", entry.path, error)
        return
    manifest.note(entry.number, state, reason)
