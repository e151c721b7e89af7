"""What the curation of a collection finds, and what it did to files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileChange:
    """A file of so many ``bytes`` that was moved to ``target``, as ``kept`` stays instead.

    Where it was replaced by a hard link to ``kept``, the target is its own path.
    """

    path: str
    target: str
    kept: str
    bytes: int


@dataclass(frozen=True)
class LeftAlone:
    """A file that nothing was done to, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ChangeReport:
    """What was done to files, or would be; ``manifest`` is what undoes it, empty if nothing was."""

    changed: tuple[FileChange, ...]
    left: tuple[LeftAlone, ...]
    manifest: str = ""


@dataclass(frozen=True)
class RestoreReport:
    """The paths of the files that are as they were again, or would be, and of those that are not.

    Of files that were moved, the collection knows ``known`` again. ``warnings`` say what failed
    after all files were there.
    """

    restored: tuple[str, ...]
    left: tuple[LeftAlone, ...]
    known: int = 0
    warnings: tuple[str, ...] = ()


"""What the curation of a collection finds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MapMethod = Literal["linear", "fast", "good"]
"""How a map is laid out: by two principal directions, or by t-SNE in few or in many steps."""


class StageProgress(Protocol):
    """Receives how many of ``total`` items of a stage of the work are done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note."""


@dataclass(frozen=True, eq=False)
class ImageMap:
    """Images in a plane, where those that are alike are near each other, in the order of paths.

    ``ids`` (n,) int64 and ``paths`` say which images, ``positions`` (n, 2) float32 where they are.
    ``nearest`` (n, k) int32 has for each image the rows of its nearest others by embedding, nearest
    first, and ``distances`` (n, k) float32 their Euclidean distances. ``kept`` is the share of the
    10 nearest that are among the 10 nearest in the plane too, counted for up to 1,000 images.
    """

    ids: "NDArray[np.int64]"
    paths: tuple[str, ...]
    positions: "NDArray[np.float32]"
    nearest: "NDArray[np.int32]"
    distances: "NDArray[np.float32]"
    kept: float
    method: MapMethod

    def __len__(self) -> int:
        return len(self.ids)
