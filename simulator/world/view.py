"""A private view of what can be imported: some modules are run afresh in it, others are replaced, all else is shared.

Modules of a view have builtins of their own, whose `__import__` asks the view: so an import within a function that
runs later finds it too. `sys.modules` stays as it is.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader
from types import CodeType, ModuleType
from typing import Any

from podrace.simulator.errors import TargetError


class Code:
    """What views of the same modules share."""

    def __init__(self) -> None:
        self.modules: dict[str, tuple[CodeType | None, Any]] = {}
        """By name, its compiled code and its spec."""
        self.as_anywhere: set[tuple[Any, ...]] = set()
        """Imports that no view answers itself."""


class View:
    """`is_own` tells which modules are run afresh; `above` are the packages in which some of them lie.

    `code` is filled as modules are compiled and imported. `base` replaces what it has: the same for every view over it.
    """

    def __init__(
        self, is_own: Callable[[str], bool], above: frozenset[str], code: Code, base: Standard | None = None
    ) -> None:
        self.is_own = is_own
        self._above = above
        self._code = code
        self._base = base
        self.modules: dict[str, ModuleType] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}

    def load(self, name: str) -> ModuleType:
        """The module of that name, as whoever is inside the view gets it."""
        found = self.modules.get(name)
        if found is not None:
            return found
        if self.is_own(name):
            return self._run(name)
        return self._base.load(name) if self._base is not None else importlib.import_module(name)

    def has(self, name: str) -> bool:
        """Whether the module is another one here than elsewhere."""
        return self.is_own(name) or (self._base is not None and self._base.has(name))

    def _run(self, name: str) -> ModuleType:
        above, _, last = name.rpartition(".")
        parent = self._shown(above) if above else None
        if name in self.modules:  # its package's code has imported it
            return self.modules[name]
        if name not in self._code.modules:
            self._code.modules[name] = compiled(name, getattr(parent, "__path__", None))
        code, spec = self._code.modules[name]
        if isinstance(spec.loader, ExtensionFileLoader):  # written in C: there is one of it in a process
            module = self.modules[name] = importlib.import_module(name)
            return module
        module = self.modules[name] = ModuleType(name)
        module.__dict__.update(
            __builtins__=self.builtins, __spec__=spec, __file__=spec.origin, __package__=spec.parent, __loader__=None
        )
        places = places_of(spec)
        if places is not None:
            module.__path__ = places
        real = sys.modules.get(name)
        sys.modules[name] = module  # for as long as it runs: it may ask there for itself, as `dataclasses` does
        try:
            if code is not None:
                with _methods_compiled_once():
                    exec(code, module.__dict__)
        except BaseException:
            del self.modules[name]
            raise
        finally:
            if real is not None:
                sys.modules[name] = real
            elif sys.modules.get(name) is module:
                del sys.modules[name]
        if parent is not None and self.has(above):
            setattr(parent, last, module)
        return module

    def _import(
        self,
        name: str,
        globals: Any = None,  # noqa: A002 - as __import__ calls it
        locals: Any = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> ModuleType:
        full = name
        if level:
            full = importlib.util.resolve_name("." * level + name, (globals or {})["__package__"])
        asked = (full, *(fromlist or ()))
        if asked in self._code.as_anywhere:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        parts = [f"{full}.{part}" for part in fromlist or ()]
        if not any(map(self.has, (full, *parts))) and not self._is_above(full) and not self.has(full.partition(".")[0]):
            self._code.as_anywhere.add(asked)
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if not fromlist and not level:
            return self._chain(full)
        module = self._shown(full)
        for part, path in zip(fromlist or (), parts, strict=True):
            if self.has(path):
                self._load_part(module, part, path)
            elif part != "*" and not hasattr(module, part):
                self._load_part(module, part, path, importlib.import_module)
        return module

    def _load_part(
        self, module: ModuleType, part: str, path: str, load: Callable[[str], ModuleType] | None = None
    ) -> None:
        """`from module import part`, where a part may be a module, or a name that the module has itself."""
        if part in module.__dict__ and not isinstance(module.__dict__[part], ModuleType):
            return
        try:
            setattr(module, part, (load or self.load)(path))
        except ModuleNotFoundError as error:
            if error.name != path:
                raise  # else the import itself says that there is no such name

    def _is_above(self, name: str) -> bool:
        return name in self._above or (self._base is not None and self._base._is_above(name))

    def _shown(self, name: str) -> ModuleType:
        """A module as seen here: run afresh, replaced, or a copy of a package in which some modules are."""
        if self.has(name) or not self._is_above(name):
            return self.load(name)
        shown = self.modules.get(name)
        if shown is None:
            real = importlib.import_module(name)
            shown = self.modules[name] = ModuleType(name)
            shown.__dict__.update(vars(real))
        return shown

    def _chain(self, full: str) -> ModuleType:
        """`import a.b.c` binds `a`, through which `b` and `c` are reached."""
        names = full.split(".")
        first = module = self._shown(names[0])
        for number in range(2, len(names) + 1):
            below = self._shown(".".join(names[:number]))
            setattr(module, names[number - 1], below)
            module = below
        return first


CHANGING = frozenset({"sys", "os", "socket", "signal"})
"""Facades that ask the real module each time: its standard output, or what is not for pods, may be another by then."""


class Standard(View):
    """The part of the standard library, and of clients, that is replaced: the same for all pods of a process.

    - `copied`: written in Python, run afresh over what is replaced below it
    - `hidden`: not there; whoever asks for it falls back to what is written in Python
    - `facades`: by module, what makes the names that are put in the place of its own
    - `after`: by copied module, what is done to it once it has run
    """

    def __init__(
        self,
        *,
        copied: frozenset[str],
        hidden: frozenset[str],
        facades: Mapping[str, Callable[[], Mapping[str, Any]]],
        after: Mapping[str, Callable[[ModuleType], None]],
    ) -> None:
        names = {*copied, *hidden, *facades}
        super().__init__(copied.__contains__, packages_of(names), Code())
        self._names = frozenset(names)
        self._hidden = hidden
        self._facades = facades
        self._after = after

    def has(self, name: str) -> bool:
        return name in self._names

    def load(self, name: str) -> ModuleType:
        found = self.modules.get(name)
        if found is not None:
            return found
        if name in self._hidden:
            raise ModuleNotFoundError(f"no {name} here", name=name)
        if name in self._facades:
            return self._facade(name)
        return super().load(name)

    def _run(self, name: str) -> ModuleType:
        module = super()._run(name)
        if name in self._after:
            self._after[name](module)
        return module

    def _facade(self, name: str) -> ModuleType:
        real = importlib.import_module(name)
        above, _, last = name.rpartition(".")
        parent = self._shown(above) if above else None
        module = self.modules[name] = ModuleType(name)
        if name not in CHANGING:
            module.__dict__.update(vars(real))
        module.__dict__["__getattr__"] = lambda attribute: getattr(real, attribute)  # of what is loaded later
        module.__dict__["__dir__"] = lambda: dir(real)
        module.__dict__.update(self._facades[name]())
        if parent is not None:
            setattr(parent, last, module)
        return module


@contextmanager
def _methods_compiled_once() -> Iterator[None]:
    """Let `dataclasses` compile no text of a method twice: that is half of the time in which a module runs again."""
    names = vars(dataclasses)
    before = names.get("exec")
    names["exec"] = _exec
    try:
        yield
    finally:
        if before is None:
            del names["exec"]
        else:
            names["exec"] = before


def _exec(text: str, *names: Any) -> None:
    builtins.exec(_code_of(text), *names)


@lru_cache(maxsize=1000)
def _code_of(text: str) -> CodeType:
    return compile(text, "<string>", "exec", dont_inherit=True)


def packages_of(names: Any) -> frozenset[str]:
    """Every package above one of the modules."""
    parts = [name.split(".") for name in names]
    return frozenset(".".join(part[:number]) for part in parts for number in range(1, len(part)))


def found(name: str, path: Any) -> Any:
    """The spec of a module, no package above it imported; `path` is that of its package. None where there is none."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None:
        return loaded
    above = name.rpartition(".")[0]
    absent = bool(above) and above not in sys.modules
    if absent:  # a folder without code looks there for the package above
        sys.modules[above] = ModuleType(above)
        sys.modules[above].__path__ = path or []
    try:
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        return next((spec for spec in specs if spec is not None), None)
    finally:
        if absent:
            del sys.modules[above]


def places_of(spec: Any) -> list[str] | None:
    """The folders of a package; None for a module. The package above is not asked, as a namespace's path would."""
    places = spec.submodule_search_locations
    return None if places is None else list(getattr(places, "_path", places))


def compiled(name: str, path: Any = None) -> tuple[CodeType | None, Any]:
    """A module's code, None where it is not in Python, and its spec. Raises what an import would, or TargetError."""
    spec = found(name, path)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    folder = spec.origin is None and spec.submodule_search_locations is not None
    if folder or isinstance(spec.loader, ExtensionFileLoader):
        return None, spec
    code: Any = getattr(spec.loader, "get_code", lambda name: None)(name)
    if code is None and str(spec.origin).endswith(".py"):  # a loader that changes the source, as a test runner's does
        with open(spec.origin, "rb") as file:
            code = compile(file.read(), spec.origin, "exec", dont_inherit=True)
    if code is None:
        raise TargetError(f"module {name} has no source that can be run for each pod; no verdict can be given")
    return code, spec
