"""A pod's own copy of the modules in which its target keeps state.

Pods in one process would share variables of modules and classes, which pods in production do not. So a target's
own modules are run afresh for each pod of each schedule: those that lie where the target lies, outside the
standard library and site-packages. That takes time. A target whose modules hold nothing that can be changed
is spared it: then what they hold is compared after each schedule, and from the first change on it is not.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import enum
import importlib
import importlib.util
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from operator import attrgetter, is_
from pathlib import Path
from types import ModuleType
from typing import Any

from podrace.simulator.errors import UsageError
from podrace.simulator.fleets.inline import current_inside
from podrace.simulator.target import Target, is_plain, load_target
from podrace.simulator.world.plain.inside import Here
from podrace.simulator.world.plain.pod import target_in
from podrace.simulator.world.view import Code, View, found, packages_of, places_of

_OURS = Path(__file__).resolve().parents[1]
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis), types.BuiltinFunctionType,
    types.GenericAlias, types.UnionType, types.ModuleType, types.MemberDescriptorType, types.GetSetDescriptorType,
    types.WrapperDescriptorType, types.MethodDescriptorType, types.CodeType, typing.TypeVar, enum.Enum, Path,
    contextlib.nullcontext,
)  # fmt: skip


class OwnModules:
    """The modules of one target, and factories out of them. Raises UsageError where the target cannot be loaded.

    `here` finds the pod of whoever runs, for a target of plain code (see world.plain): its pods always have modules
    of their own. `free`: it runs under the real clock, alone in its process.
    """

    def __init__(self, path: str, here: Here = current_inside, *, free: bool = False) -> None:
        self._path = path
        self._target = load_target(path)
        self.plain: Target | None = None
        """Makes pods of plain code; None where the target is none."""
        self.is_own: Callable[[str], bool] = lambda name: name in self._names
        """Whether a module is one of the target's own, by its name."""
        if is_plain(self._target):
            self.is_own = _owned_by_plain(path, self._target)
            self.plain = _plain_factory(path, self.is_own, self._target, here, free)
            self.afresh = True
            return
        self._code = Code()
        self.afresh = False
        """Whether every pod gets modules of its own."""
        self._before: _Held | None = None
        self._know(_own_modules(path.partition(":")[0]))
        self._imported = len(sys.modules)

    def factory(self, pod: str) -> Target:
        """A factory for one pod: the target's own, or one that shares nothing with any other pod's."""
        if self.plain is not None:
            return self.plain
        if not self.afresh:
            return self._target
        module_name, _, attribute = self._path.partition(":")
        view = View(frozenset(self._names).__contains__, packages_of(self._names), self._code)
        found: Target = getattr(view.load(module_name), attribute)
        return found

    def has_changed(self) -> bool:
        """Whether pods that shared the modules have changed what these hold. From then on they share them no longer."""
        if self.plain is not None:
            return False
        if len(sys.modules) != self._imported:
            self._imported = len(sys.modules)
            names = _own_modules(self._path.partition(":")[0])
            if names != self._names:  # imported by a call: from now on it is in place before any pod is made
                self._know(names)
                return True
        if self._before is None or self._before.is_as_before():
            return False
        self.afresh, self._before = True, None
        return True

    def _know(self, names: tuple[str, ...]) -> None:
        modules = [sys.modules[name] for name in names]
        self._names = names
        self.afresh = self.afresh or not all(_is_constant(module, names) for module in modules)
        self._before = None if self.afresh else _Held(modules)


def _owned_by_plain(path: str, target: Any) -> Callable[[str], bool]:
    """Plain code owns the packages named, the target's module, and what lies near that."""
    module = path.partition(":")[0]
    for package in target.own_packages:
        if _spec_of(package) is None:
            raise UsageError(f"target {path!r}: @podrace.own names {package}, and there is no such module")
    roots = (module, *target.own_packages)
    folder = _folder_of(module)
    known: dict[str, bool] = {}

    def is_own(name: str) -> bool:
        if name not in known:
            known[name] = False  # while it is looked for: who looks for files is asked here whose module it is
            known[name] = any(name == root or name.startswith(f"{root}.") for root in roots) or _lies_in(folder, name)
        return known[name]

    return is_own


def _plain_factory(path: str, is_own: Callable[[str], bool], target: Any, here: Here, free: bool) -> Target:
    """A factory of pods of plain code, whose own modules are run afresh for each."""
    from podrace.simulator.world.plain.standard import standard  # all that it replaces is loaded only here

    above = packages_of((path.partition(":")[0], *target.own_packages))
    code = Code()
    base = standard(here, free=free)
    return target_in(lambda: View(is_own, above, code, base), path)


def _spec_of(name: str) -> Any:
    """A module's spec, found without an import of the packages above it; None where there is none."""
    spec = None
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        spec = found(".".join(parts[:number]), places_of(spec) if spec is not None else None)
        if spec is None:
            return None
    return spec


def _lies_in(folder: Path | None, name: str) -> bool:
    """Whether a module lies below a folder."""
    spec = _spec_of(name)
    if spec is not None and spec.origin is None:  # a folder without code of its own
        places = places_of(spec) or []
        return bool(places) and _is_near(f"{places[0]}/__init__.py", folder)
    return spec is not None and _is_near(spec.origin, folder)


class _Held:
    """What modules, with their classes, functions and frozen objects, hold: whether it is still the same.

    This is asked after every schedule, so all is compared in one go.
    """

    def __init__(self, modules: Iterable[ModuleType]) -> None:
        self._functions: list[types.FunctionType] = []
        self._values: list[Iterable[Any]] = []
        for module in modules:
            self._add(module.__dict__, module.__name__)
        self._values += [function.__dict__.values() for function in self._functions]
        self._before = list(self._now())

    def is_as_before(self) -> bool:
        return all(map(is_, self._now(), self._before))

    def _add(self, names: Mapping[str, Any], module: str) -> None:
        self._values.append(names.values())
        for value in list(names.values()):
            bare = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(bare, types.FunctionType):
                if bare.__module__ == module:
                    self._functions.append(bare)
            elif isinstance(value, type) and value.__module__ == module:
                self._add(vars(value), module)
            elif _is_frozen(value):
                self._values.append(vars(value).values())

    def _now(self) -> Iterator[Any]:
        """All of it, and at the end itself: nothing more may stand there."""
        parts = map(attrgetter("__defaults__", "__kwdefaults__", "__dict__"), self._functions)
        return chain(chain.from_iterable(parts), *self._values, (self,))


def _own_modules(target: str) -> tuple[str, ...]:
    """The target's module, and those that it imports, itself or through others, that lie where it lies."""
    near = _modules_near(target)
    found: dict[str, None] = {target: None}
    left = [target]
    while left:
        for name in _named_in(left.pop(), near):
            for one in (name, *_packages_of(name)):
                if one in near and one not in found:
                    found[one] = None
                    left.append(one)
    return tuple(sorted(found))


def _modules_near(target: str) -> frozenset[str]:
    """The modules that were imported from below the folder of the target, outside site-packages."""
    root = _folder_of(target)
    return frozenset(
        name
        for name, module in list(sys.modules.items())
        if name != "__main__" and module.__name__ == name and _is_near(getattr(module, "__file__", None), root)
    )


def _folder_of(target: str) -> Path | None:
    """The folder from which the target was imported."""
    file = getattr(sys.modules[target], "__file__", None)
    if file is None:
        return None
    root = Path(file).resolve().parent
    for _ in target.split(".")[1:]:
        root = root.parent
    if _OURS.is_relative_to(root):  # a target of this project: its own package
        root = Path(file).resolve().parent
    return root


@lru_cache(maxsize=10_000)
def _is_near(file: str | None, root: Path | None) -> bool:
    """Whether a module's file lies below that folder, outside site-packages, and is none of ours."""
    if root is None or file is None or not file.endswith(".py"):
        return False
    path = Path(file).resolve()
    return (
        path.is_relative_to(root)
        and "site-packages" not in path.relative_to(root).parts
        and not path.is_relative_to(_OURS)
    )


def _named_in(name: str, near: frozenset[str]) -> list[str]:
    """The modules that a module's source imports, wherever in it, or names in a string; all, where it has no source."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or ""
    try:
        imported, strings = _named_by(file, getattr(module, "__package__", "") or "", os.stat(file).st_mtime_ns)
    except (OSError, SyntaxError, ValueError):
        return sorted(near)
    return [*imported, *strings & near]


@lru_cache(maxsize=1000)
def _named_by(file: str, package: str, changed_ns: int) -> tuple[tuple[str, ...], frozenset[str]]:
    """What a source file imports, and all its strings. `changed_ns`: when the file was changed, for the cache."""
    imported: dict[str, None] = {}
    strings = set()
    for node in ast.walk(ast.parse(Path(file).read_bytes())):
        if isinstance(node, ast.Import):
            imported.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else None
            above = base if base is not None else node.module or ""
            imported.update((one, None) for one in (above, *(f"{above}.{alias.name}" for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return tuple(imported), frozenset(strings)


def _packages_of(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts))]


def _is_constant(module: ModuleType, own: tuple[str, ...]) -> bool:
    """Whether nothing that the module holds can be changed, but by putting something else in its place."""
    names = {key: value for key, value in module.__dict__.items() if not key.startswith("__")}
    return all(_constant(value, own, {id(module)}) for value in names.values() if not _is_watched(value))


def _is_watched(value: Any) -> bool:
    from podrace.simulator.world.plain import watch  # much that the process of a pod does not need

    return watch.is_watched(value)


def _constant(value: Any, own: tuple[str, ...], seen: set[int]) -> bool:
    if _is_watched(value):
        return False  # kept since before it was: a module that is run afresh keeps what is watched
    if id(value) in seen or isinstance(value, _ATOMS):
        return True
    seen.add(id(value))
    kind = type(value)
    if kind in (tuple, frozenset):
        return all(_constant(item, own, seen) for item in value)
    if kind is types.MappingProxyType:  # the dict behind it, where something else holds that, is found there
        return all(_constant(item, own, seen) for pair in value.items() for item in pair)
    if kind is types.FunctionType:
        if value.__module__ not in own:
            return True
        if value.__closure__ and _rebinds(value.__code__):
            return False
        cells = (cell.cell_contents for cell in value.__closure__ or () if _filled(cell))
        kept = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *cells, *value.__dict__.values())
        return all(_constant(item, own, seen) for item in kept)
    if kind in (staticmethod, classmethod):
        return _constant(value.__func__, own, seen)
    if kind is property:
        return all(_constant(part, own, seen) for part in (value.fget, value.fset, value.fdel))
    if isinstance(value, type):
        if value.__module__ not in own:
            return True
        if isinstance(value, enum.EnumType):
            members: dict[str, enum.Enum] = dict(value.__members__)
            return all(_constant(member.value, own, seen) for member in members.values())
        return all(_constant(item, own, seen) for key, item in vars(value).items() if _is_state(key, item))
    if kind.__module__.startswith("podrace.simulator.") and kind.__module__ not in own:
        return True  # a scenario, a workload or a fault: no pod has one
    if _is_frozen(value):
        return all(_constant(item, own, seen) for item in vars(value).values())
    return kind.__module__ in ("typing", "re", "datetime", "decimal", "uuid", "logging", "dataclasses", "__future__")


def _is_frozen(value: Any) -> bool:
    """Whether it is an instance of a frozen dataclass whose attributes can be listed."""
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen and hasattr(value, "__dict__")


def _rebinds(code: types.CodeType) -> bool:
    """Whether the function, or one within it, may put something else into a variable of the functions around it."""
    return any(one.opname in ("STORE_DEREF", "DELETE_DEREF") for one in dis.get_instructions(code)) or any(
        _rebinds(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)
    )


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_state(key: str, value: Any) -> bool:
    """Whether it is an attribute that Python itself does not give a class, where it may be mutable and no state."""
    of_the_language = key.startswith(("_abc_", "__")) or key in ("_is_protocol", "_is_runtime_protocol")
    if isinstance(value, types.FunctionType):
        return key != "__repr__"  # that of a dataclass keeps what it is about to show
    return key == "__call__" or not of_the_language
