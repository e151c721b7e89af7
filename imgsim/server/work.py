"""What takes long: computed beside the requests, and kept until it is asked for anew."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Generic, TypeVar

from imgsim.errors import ImgsimError
from imgsim.findings import StageProgress

T = TypeVar("T")

_MOST = 4  # results that are kept, and computations that wait
_FAILURES = ImgsimError, ValueError, OSError


@dataclass(frozen=True)
class Pending:
    """How many of ``total`` items of a stage are done."""

    stage: str = "waiting"
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Done(Generic[T]):
    """A result; it ``is_current`` if the collection is as it was."""

    result: T
    is_current: bool


@dataclass
class _Job(Generic[T]):
    state: object
    progress: Pending = field(default_factory=Pending)
    result: T | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


class Work(Generic[T]):
    """Results by what was asked. One is computed ``in_turn`` with other work, in the background."""

    def __init__(self, in_turn: Lock) -> None:
        self._jobs: dict[Hashable, _Job[T]] = {}
        self._in_turn, self._lock = in_turn, Lock()

    def get(
        self,
        asked: Hashable,
        state: object,
        compute: Callable[[StageProgress], T],
        *,
        anew: bool = False,
    ) -> Done[T] | Pending:
        """Return a result, or how far it is.

        The first who asks begins the work, as does who asks ``anew`` when it is done; ``state`` is
        that of the collection. What the work raised is raised once.
        """
        with self._lock:
            job = self._jobs.get(asked)
            if job is None or (anew and job.is_done):
                job = self._begin(asked, state, compute)
            if job.error is not None:
                del self._jobs[asked]
                raise job.error
            if job.result is None:
                return job.progress
            return Done(job.result, job.state == state)

    def _begin(
        self, asked: Hashable, state: object, compute: Callable[[StageProgress], T]
    ) -> _Job[T]:
        """Begin a computation, unless too many wait; the oldest results make room for it."""
        job = _Job[T](state)
        self._jobs.pop(asked, None)
        ended = [key for key, each in self._jobs.items() if each.is_done]
        if len(self._jobs) - len(ended) >= _MOST:
            return job
        for key in ended[: max(0, len(ended) - _MOST + 1)]:
            del self._jobs[key]
        self._jobs[asked] = job
        Thread(target=self._run, args=(job, compute), daemon=True).start()
        return job

    def _run(self, job: _Job[T], compute: Callable[[StageProgress], T]) -> None:
        def note(stage: str, done: int, total: int) -> None:
            job.progress = Pending(stage, done, total)

        with self._in_turn:
            try:
                job.result = compute(note)
            except _FAILURES as error:
                job.error = error
