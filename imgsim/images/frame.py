"""The frame that an image is brought into."""

from dataclasses import dataclass

from imgsim.options import Fit


@dataclass(frozen=True, slots=True)
class Frame:
    """So many pixels, and how an image of other proportions comes to have them.

    It is stretched; or cropped to the middle, as much of it as has these proportions.
    """

    height: int
    width: int
    fit: Fit = "stretch"

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height), as Pillow has it."""
        return self.width, self.height

    def turned(self) -> "Frame":
        """Return the frame of the image turned by a quarter."""
        return Frame(self.width, self.height, self.fit)

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return what of an image of that size is in the frame: left, top, right, bottom."""
        if self.fit == "stretch":
            return 0, 0, *size
        scale = min(size[0] / self.width, size[1] / self.height)
        left = max(0.0, (size[0] - scale * self.width) / 2)  # rounding may leave less than nothing
        top = max(0.0, (size[1] - scale * self.height) / 2)
        return left, top, size[0] - left, size[1] - top
