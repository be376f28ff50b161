"""What the actors of one pod share in its memory: looked at before and after a step, it tells what the step changed.

Two steps of one pod that touch different keys commute only where neither changes memory that the other
may read. What a step reads there cannot be seen, so each is taken to read all of it; what it changes
can: the shared memory is written out before and after, and compared.

Shared is what can be reached from the pod, from its environment, and from the frames of the pod's other
actors. What cannot be written out (a socket, a lock that did not come from the runtime, a generator) may
hide a change: then nothing is known, and the step counts as one that changes memory. Variables of modules
are not seen: all pods of this process share them, and those of real processes do not.

Whether an event changes shared memory follows from what it depends on, so it is learnt once. There is one
exception: what only two frames hold is shared no longer when one of them is gone. Whoever sees the same
event change memory in one order and not in another has met it, and takes every step to change memory.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import redis

from simulator.world import SeededRandom, VirtualLock

_OURS = (str(Path(__file__).parent), str(Path(redis.__file__).parent))
"""Frames of the harness and of redis-py hold nothing that an actor shares."""


class TangledError(Exception):
    """The same event was seen to change memory and not to."""


class Changes:
    """By event, whether it changes its pod's memory. `always`: every event does."""

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self._known: dict[int, bool] = {}

    def known(self, event: int) -> bool | None:
        return True if self.always else self._known.get(event)

    def learn(self, event: int, changes: bool) -> None:
        """Raises TangledError where something else was learnt before."""
        if self._known.setdefault(event, changes) != changes:
            raise TangledError


class Heap:
    """Writes out what actors share, so that it can be compared while one run lasts."""

    def __init__(self) -> None:
        self._texts: dict[str | bytes, int] = {}

    def look(self, roots: Sequence[Any], others: Iterable[FrameType | None], outside: Sequence[Any]) -> bytes | None:
        """What can be reached from the roots and the other actors' frames; None where something may hide.

        `outside` is the harness's, and not looked into. Equal bytes: nothing has changed.
        """
        written = io.BytesIO()
        writer = _Writer(written, self._texts, outside)
        try:
            writer.dump([*roots, *(names for frame in others for names in _locals(frame))])
        except Exception:  # whatever an object's own way of being written raises
            return None
        return written.getvalue()


def _locals(frame: FrameType | None) -> Iterator[dict[str, Any]]:
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            yield dict(frame.f_locals)
        frame = frame.f_back


class _Writer(pickle.Pickler):
    """Pickle, which also writes functions with what they enclose, and names what belongs to the harness."""

    def __init__(self, file: io.BytesIO, texts: dict[str | bytes, int], outside: Sequence[Any]) -> None:
        super().__init__(file, protocol=5)
        self._texts = texts
        self._outside = {id(thing) for thing in outside}

    def persistent_id(self, thing: Any) -> int | None:
        """Texts by what they say: pickle would tell two equal ones from one that is there twice."""
        kind = type(thing)
        return self._texts.setdefault(thing, len(self._texts)) if kind is str or kind is bytes else None

    def reducer_override(self, thing: Any) -> Any:
        kind = type(thing)
        if kind is SeededRandom:
            return _told, (thing.draws, thing.gauss_next)
        if kind is VirtualLock:
            return _told, (str(getattr(thing.owner, "name", None)), thing.depth)
        if kind is ModuleType or kind is CodeType or id(thing) in self._outside:
            return _told, (id(thing),)
        if kind is FunctionType and "<" in thing.__qualname__:
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            return _told, (thing.__code__, cells, thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
        return NotImplemented


def _told(*parts: Any) -> None:
    """Stands in what is written for what it was made of; nothing is ever read back."""
