"""A pod's own copy of the modules in which its target keeps state.

Pods in one process would share variables of modules and classes, which pods in production do not. So a target's
own modules are run afresh for each pod of each schedule: those that lie where the target lies, outside the
standard library and site-packages. That takes time. A target whose modules hold nothing that can be changed
is spared it: then what they hold is compared after each schedule, and from the first change on it is not.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import enum
import importlib
import importlib.util
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from podrace.simulator.errors import TargetError
from podrace.simulator.target import Target, load_target

_OURS = Path(__file__).resolve().parents[1]
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, type(Ellipsis), types.BuiltinFunctionType,
    types.GenericAlias, types.UnionType, types.ModuleType, types.MemberDescriptorType, types.GetSetDescriptorType,
    types.WrapperDescriptorType, types.MethodDescriptorType, types.CodeType, typing.TypeVar, enum.Enum, Path,
    contextlib.nullcontext,
)  # fmt: skip


class OwnModules:
    """The modules of one target, and factories out of them. Raises UsageError where the target cannot be loaded."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._target = load_target(path)
        self._names = _own_modules(path.partition(":")[0])
        self._code: dict[str, tuple[types.CodeType, Any]] = {}
        self.afresh = not all(_is_constant(module, self._names) for module in self._modules())
        """Whether every pod gets modules of its own."""
        self._before = [] if self.afresh else self._held()
        self._imported = len(sys.modules)

    def factory(self, pod: str) -> Target:
        """A factory for one pod: the target's own, or one that shares nothing with any other pod's."""
        if not self.afresh:
            return self._target
        module_name, _, attribute = self._path.partition(":")
        found: Target = getattr(_View(self._names, self._code).load(module_name), attribute)
        return found

    def has_changed(self) -> bool:
        """Whether pods that shared the modules have changed what these hold. From then on they share them no longer."""
        if len(sys.modules) != self._imported:
            self._imported = len(sys.modules)
            names = _own_modules(self._path.partition(":")[0])
            if names != self._names:  # imported by a call: from now on it is in place before any pod is made
                self._names = names
                self.afresh = self.afresh or not all(_is_constant(module, names) for module in self._modules())
                self._before = [] if self.afresh else self._held()
                return True
        if all(one.is_as_before() for one in self._before):
            return False
        self.afresh, self._before = True, []
        return True

    def _modules(self) -> Iterator[ModuleType]:
        for name in self._names:
            yield sys.modules[name]

    def _held(self) -> list[_Names | _Function]:
        """What the modules, their classes and functions hold."""
        found: list[_Names | _Function] = []
        for module in self._modules():
            _hold(module.__dict__, module.__name__, found)
        return found


class _Names:
    """The names of a module, a class or an object with what they stand for, by identity."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._ids = tuple(map(id, names.values()))
        self._by_name = self._told()

    def is_as_before(self) -> bool:
        return tuple(map(id, self._names.values())) == self._ids or self._told() == self._by_name

    def _told(self) -> dict[str, int]:
        """Without what Python itself keeps there."""
        return {name: id(value) for name, value in self._names.items() if not name.startswith(("__", "_abc_"))}


class _Function:
    """What a function holds: its defaults, and attributes that somebody has given it."""

    def __init__(self, function: types.FunctionType) -> None:
        self._function = function
        self._defaults, self._named_defaults = function.__defaults__, function.__kwdefaults__
        self._attributes = _Names(function.__dict__) if function.__dict__ else None

    def is_as_before(self) -> bool:
        function = self._function
        if function.__defaults__ is not self._defaults or function.__kwdefaults__ is not self._named_defaults:
            return False
        return self._attributes.is_as_before() if self._attributes else not function.__dict__


def _hold(names: Mapping[str, Any], module: str, found: list[_Names | _Function]) -> None:
    found.append(_Names(names))
    for value in list(names.values()):
        bare = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if isinstance(bare, types.FunctionType):
            if bare.__module__ == module:
                found.append(_Function(bare))
        elif isinstance(value, type) and value.__module__ == module:
            _hold(vars(value), module, found)
        elif _is_frozen(value):
            found.append(_Names(vars(value)))


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
    file = getattr(sys.modules[target], "__file__", None)
    if file is None:
        return frozenset()
    root = Path(file).resolve().parent
    for _ in target.split(".")[1:]:
        root = root.parent
    if _OURS.is_relative_to(root):  # a target of this project: its own package
        root = Path(file).resolve().parent
    near = set()
    for name, module in list(sys.modules.items()):
        where = getattr(module, "__file__", None)
        if where is None or not where.endswith(".py") or name == "__main__" or module.__name__ != name:
            continue
        path = Path(where).resolve()
        if path.is_relative_to(root) and "site-packages" not in path.relative_to(root).parts:
            near.add(name)
    return frozenset(
        name for name in near if not Path(sys.modules[name].__file__ or "").resolve().is_relative_to(_OURS)
    )


def _named_in(name: str, near: frozenset[str]) -> list[str]:
    """The modules that a module's source imports, wherever in it, or names in a string; all, where it has no source."""
    module = sys.modules.get(name)
    try:
        tree = ast.parse(Path(getattr(module, "__file__", None) or "").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return sorted(near)
    package = getattr(module, "__package__", "") or ""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else None
            above = base if base is not None else node.module or ""
            found += [above, *(f"{above}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in near:
            found.append(node.value)
    return found


def _packages_of(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts))]


def _is_constant(module: ModuleType, own: tuple[str, ...]) -> bool:
    """Whether nothing that the module holds can be changed, but by putting something else in its place."""
    names = {key: value for key, value in module.__dict__.items() if not key.startswith("__")}
    return all(_constant(value, own, {id(module)}) for value in names.values())


def _constant(value: Any, own: tuple[str, ...], seen: set[int]) -> bool:
    if id(value) in seen or isinstance(value, _ATOMS):
        return True
    seen.add(id(value))
    kind = type(value)
    if kind in (tuple, frozenset):
        return all(_constant(item, own, seen) for item in value)
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
        return all(_constant(item, own, seen) for key, item in vars(value).items() if not _is_of_the_language(key))
    if kind.__module__.startswith("podrace.simulator.") and kind.__module__ not in own:
        return True  # a scenario, a workload or a fault: no pod has one
    if _is_frozen(value):
        return all(_constant(item, own, seen) for item in vars(value).values())
    return kind.__module__ in ("typing", "re", "datetime", "decimal", "uuid", "logging", "__future__")


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


def _is_of_the_language(key: str) -> bool:
    """Attributes that Python itself gives a class, mutable in kind but not a program's state."""
    return (key.startswith(("_abc_", "__")) and key != "__call__") or key in ("_is_protocol", "_is_runtime_protocol")


class _View:
    """One pod's own modules: run afresh, their imports led to each other. `sys.modules` stays as it is."""

    def __init__(self, own: tuple[str, ...], code: dict[str, tuple[types.CodeType, Any]]) -> None:
        self._own = frozenset(own)
        self._code = code
        self._modules: dict[str, ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}

    def load(self, name: str) -> ModuleType:
        found = self._modules.get(name)
        if found is not None:
            return found
        if name not in self._own:
            return importlib.import_module(name)
        if name not in self._code:
            self._code[name] = _compiled(name)
        code, spec = self._code[name]
        module = self._modules[name] = ModuleType(name)
        module.__dict__.update(
            __builtins__=self._builtins, __spec__=spec, __file__=spec.origin, __package__=spec.parent, __loader__=None
        )
        if spec.submodule_search_locations is not None:
            module.__path__ = list(spec.submodule_search_locations)
        try:
            exec(code, module.__dict__)
        except BaseException:
            del self._modules[name]
            raise
        above, _, last = name.rpartition(".")
        if above in self._own:
            setattr(self.load(above), last, module)
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
        parts = [f"{full}.{part}" for part in fromlist or ()]
        if not any(one in self._own for one in (full, *parts)) and not self._is_above(full):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = self._shown(full)
        for part, path in zip(fromlist or (), parts, strict=True):
            if path in self._own and not isinstance(module.__dict__.get(part), ModuleType):
                setattr(module, part, self.load(path))
        if fromlist or level:
            return module
        return self._chain(full)

    def _is_above(self, name: str) -> bool:
        return any(one.startswith(f"{name}.") for one in self._own)

    def _shown(self, name: str) -> ModuleType:
        """A module as this pod sees it: its own, or a copy of a package in which some modules are its own."""
        if name in self._own or not self._is_above(name):
            return self.load(name)
        shown = self._modules.get(name)
        if shown is None:
            real = importlib.import_module(name)
            shown = self._modules[name] = ModuleType(name)
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


def _compiled(name: str) -> tuple[types.CodeType, Any]:
    spec = importlib.util.find_spec(name)
    code: Any = getattr(spec and spec.loader, "get_code", lambda name: None)(name)
    if spec is None or code is None:
        raise TargetError(f"module {name} has no source that can be run for each pod; no verdict can be given")
    return code, spec
