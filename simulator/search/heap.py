"""What the actors of one pod share in its memory: looked at before and after a step, it tells what the step changed.

Two steps of one pod that touch different keys commute only where neither changes memory that the other
may read. What a step reads there cannot be seen, so each is taken to read all of it; what it changes
can: the shared memory is written out before and after, and compared.

Shared is what can be reached from the pod, from its environment, and from the frames of the pod's other
actors. An object that takes the place of its equal is a change: somebody may hold the old one. What cannot
be written out (a socket, a lock that did not come from the runtime, a generator) may hide a change: then
nothing is known, and the step counts as one that changes memory.

Two things are not seen. Variables of modules and classes: all pods of this process share them, and those
of real processes do not. And what another actor holds in the middle of an expression alone, where Python
tells nobody: the list in `f(self.lists.pop(), redis.get(key))` while it waits for the reply.

Whether an event changes shared memory follows from what it depends on, so it is learnt once. There is one
exception: what only two frames hold is shared no longer when one of them is gone. Whoever sees the same
event change memory in one order and not in another has met it, and takes every step to change memory.
"""

from __future__ import annotations

import copyreg
import io
import os
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import redis

from podrace.simulator.world.gates import SeededRandom, VirtualLock

_OURS = (f"{Path(__file__).parents[1]}{os.sep}", f"{Path(redis.__file__).parent}{os.sep}")
"""Frames of the harness and of redis-py hold nothing that an actor shares."""

_CONTAINERS = frozenset({list, dict, set, bytearray})


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
        self._seen: list[Any] = []
        """What was there at the last look, held so that nothing else can come to lie in its place."""

    def look(self, roots: Sequence[Any], others: Iterable[FrameType | None], outside: Sequence[Any]) -> bytes | None:
        """What can be reached from the roots and the other actors' frames; None where something may hide.

        `outside` is the harness's, and not looked into. Equal bytes: nothing has changed.
        """
        written = io.BytesIO()
        writer = _Writer(written, self._texts, outside)
        try:
            writer.dump((*roots, *(names for frame in others for names in _locals(frame))))
        except Exception:  # whatever an object's own way of being written raises
            return None
        written.write(array("Q", map(id, writer.seen)))
        self._seen = writer.seen
        return written.getvalue()


def _locals(frame: FrameType | None) -> Iterator[tuple[tuple[str, Any], ...]]:
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            yield tuple(frame.f_locals.items())
        frame = frame.f_back


class _Writer(pickle.Pickler):
    """Pickle, which also writes functions with what they enclose, and names what belongs to the harness."""

    def __init__(self, file: io.BytesIO, texts: dict[str | bytes, int], outside: Sequence[Any]) -> None:
        super().__init__(file, protocol=5)
        self._texts = texts
        self._outside = {id(thing) for thing in outside}
        self._parts: set[int] = set()
        """What an object is written as, and may be made anew for each look: that it is another says nothing."""
        self.seen: list[Any] = []
        """What can be changed, or told from its equal, in the order in which it was met."""

    def persistent_id(self, thing: Any) -> int | None:
        """Texts by what they say: pickle would tell two equal ones from one that is there twice."""
        kind = type(thing)
        if kind is str or kind is bytes:
            return self._texts.setdefault(thing, len(self._texts))
        if kind in _CONTAINERS:
            if id(thing) in self._parts:
                self._parts.remove(id(thing))
            else:
                self.seen.append(thing)
        return None

    def reducer_override(self, thing: Any) -> Any:
        kind: Any = type(thing)
        self.seen.append(thing)
        if kind is SeededRandom:
            return _told, (thing.draws, thing.gauss_next)
        if kind is VirtualLock:
            return _told, (str(getattr(thing.owner, "name", None)), thing.depth)
        if kind is ModuleType or kind is CodeType or id(thing) in self._outside:
            return _told, (id(thing),)
        if issubclass(kind, type) or kind in copyreg.dispatch_table:
            return NotImplemented
        if kind is FunctionType:
            if "<" not in thing.__qualname__:
                return NotImplemented
            cells = tuple(cell.cell_contents for cell in thing.__closure__ or ())
            return _told, (thing.__code__, cells, thing.__defaults__, thing.__kwdefaults__, thing.__dict__)
        return NotImplemented if _plain(kind) else self._in_full(thing)

    def _in_full(self, thing: Any) -> Any:
        """As pickle has it, and what it may leave out: attributes, and what an error comes from."""
        attributes = getattr(thing, "__dict__", None)  # first: some have theirs only once it was asked for
        came_from = (thing.__cause__, thing.__context__) if isinstance(thing, BaseException) else None
        reduced = thing.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, str):
            return reduced
        make, args, state, *items = reduced if len(reduced) > 2 else (*reduced, None)
        self._parts.update(map(id, (*args, state, *(state if type(state) is tuple else ()))))
        return make, args, (state, attributes, came_from), *items


@cache
def _plain(kind: type) -> bool:
    """Whether all that an object of this kind consists of is its attributes, and pickle shows them all."""
    ways = ("__reduce_ex__", "__reduce__", "__getstate__")
    return all(getattr(kind, way) is getattr(object, way) for way in ways) and not any(
        "__slots__" in vars(base) for base in kind.__mro__
    )


def _told(*parts: Any) -> None:
    """Stands in what is written for what it was made of; nothing is ever read back."""
