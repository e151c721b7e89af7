"""Which folders and files a search for images leaves out: patterns as in a .gitignore file."""

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

DEFAULTS = (
    "@eaDir/",
    "__MACOSX/",
    "*.lrdata/",
    "**/resources/derivatives/",
    "\\#recycle/",
    "@Recycle/",
    "$RECYCLE.BIN/",
    "\\#snapshot/",
    "@Recently-Snapshot/",
)
"""Folders that are left out unless a pattern takes them in again, as ``!@eaDir`` does.

=========================  =====================================================================
thumbnails                 ``@eaDir`` of a Synology, ``*.lrdata`` of Lightroom,
                           ``resources/derivatives`` of a library of Apple Photos
parts of other files       ``__MACOSX``, which unpacked archives leave
what was deleted           ``#recycle`` (Synology), ``@Recycle`` (QNAP), ``$RECYCLE.BIN`` (Windows)
every file once more       ``#snapshot`` (Synology), ``@Recently-Snapshot`` (QNAP)
=========================  =====================================================================

Thumbnails in hidden folders, as ``.thumbnails`` and ``.@__thumb``, are left out as all that is
hidden. ``Thumbs.db`` is no image. All of these are folders: so files cost nothing.
"""

_ANYWHERE = re.compile(r"^(!?)/?(?:\*\*/)+(?=[^/]+/?\s*$)")
_REPEATED = re.compile(r"(?<![^/!])(?:\*\*/)+")
_CLASS = re.compile(r"\[[^]]*\[:")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A pattern, which is about names or else about paths.

    ``excludes`` is false for one that takes in again what others leave out. An expression of the
    library that is not ``open`` also matches what is below an entry, where it ends early. One of
    what ``is_below`` an entry matches that entry too.
    """

    pattern: str
    excludes: bool
    search: Callable[[str], "re.Match[str] | None"]
    by_name: bool
    is_for_folders: bool
    is_open: bool
    is_below: bool

    def matches(self, path: str, name: str) -> bool:
        """Say whether it is about an entry; path and name of a folder end in a slash."""
        if self.is_below:
            return self.search(path[: path.rstrip("/").rfind("/") + 1]) is not None
        found = self.search(name if self.by_name else path)
        return found is not None and (self.is_open or found.end() == len(path))


class Exclusions:
    """The default patterns and then those of the user; the last one that matches decides."""

    def __init__(self, patterns: str | Iterable[str] = ()) -> None:
        """Prepare the patterns; raise ValueError for one that is none."""
        own = [_rule(pattern) for pattern in reversed(listed_patterns(patterns))]
        self._own, self._named = own, dict[str, str | None]()
        self._folders = own + [_default_rule(pattern) for pattern in reversed(DEFAULTS)]
        self._files = [rule for rule in own if not rule.is_for_folders]
        self.concern_files = bool(own)

    def of_folder(self, path: str) -> str | None:
        """Return the pattern that leaves out the folder at a path relative to its root, if any."""
        return _deciding(self._folders, f"{path}/", path.rpartition("/")[2] + "/")

    def of_file(self, path: str) -> str | None:
        """Return the pattern that leaves out the file at a path relative to its root, if any."""
        return _deciding(self._files, path, path.rpartition("/")[2])

    def of_named(self, path: str) -> str | None:
        """Return the pattern of the user that leaves out a file that was named itself, if any.

        The path is relative to the working folder. A folder that it is in may be left out.
        """
        folder = path.rpartition("/")[0]
        return (self._above(folder) if folder else None) or self.of_file(path)

    def _above(self, folder: str) -> str | None:
        if folder not in self._named:
            above, _, name = folder.rpartition("/")
            found = self._above(above) if above else None
            self._named[folder] = found or _deciding(self._own, f"{folder}/", f"{name}/")
        return self._named[folder]


def listed_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern, or several, as a tuple."""
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def checked_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Return one pattern, or several, as a tuple; raise ValueError for one that is none."""
    found = listed_patterns(patterns)
    for pattern in found:
        _rule(pattern)
    return found


def _deciding(rules: Iterable[_Rule], path: str, name: str) -> str | None:
    """Return the first pattern that is about an entry, if it leaves it out."""
    for rule in rules:
        if rule.matches(path, name):
            return rule.pattern if rule.excludes else None
    return None


def _default_rule(pattern: str) -> _Rule:
    """Return one of DEFAULTS: the end of a folder's path, with no other sign than a star."""
    end = re.escape(pattern.removeprefix("**/").replace("\\#", "#")).replace(r"\*", "[^/]*")
    search = re.compile(rf"(?:^|/){end}\Z").search
    return _Rule(pattern, True, search, False, True, False, False)


def _rule(pattern: str) -> _Rule:
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - who gives no pattern does not pay for it

    if _CLASS.search(pattern):
        raise ValueError(f"the pattern {pattern!r} has a class as [:upper:]; write [A-Z]")
    try:
        with warnings.catch_warnings():  # as of [[], which is what it seems to be
            warnings.simplefilter("ignore", FutureWarning)
            parsed = GitIgnoreSpec.from_lines([_plain(pattern)], backend="simple").patterns
    except (ValueError, re.error) as error:
        raise ValueError(f"{pattern}: is no pattern as in a .gitignore file") from error
    include, regex = (parsed[0].include, parsed[0].regex) if parsed else (None, None)
    if include is None or regex is None:  # nothing, a comment, a lone slash or bracket
        hint = "; write \\# for a name that begins with #" if pattern.startswith("#") else ""
        raise ValueError(f"the pattern {pattern!r} matches nothing{hint}")
    text = _plain(pattern).rstrip().removeprefix("!")
    place = text.removesuffix("/")
    by_name = "/" not in place
    return _Rule(
        pattern=pattern,
        excludes=include,
        search=regex.search,
        by_name=by_name,
        is_for_folders=text.endswith("/"),
        is_open=by_name or place == "/**",
        is_below=place.endswith("/**") and place != "/**",
    )


def _plain(pattern: str) -> str:
    """Return a pattern with the same meaning, without stars that say nothing."""
    return _REPEATED.sub("**/", _ANYWHERE.sub(r"\1", pattern))
