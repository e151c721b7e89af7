"""The curation of a collection: the one place where its parts meet."""

from imgsim.directory import Directory


class Curation:
    """What the neighbours of the stored images are good for.

    Nothing changes a file of the user unless its name says so.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
