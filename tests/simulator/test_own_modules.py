"""A pod's own copy of the modules in which its target keeps state: wherever the state is, no other pod sees it."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.errors import UsageError
from podrace.simulator.fleets.own_modules import OwnModules
from podrace.simulator.world import view


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Writes modules of a project of its own, which can be imported until the test ends."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write_files(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/", 1) + ".py" if "__" in name else f"{name}.py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write_files
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


STATES = {
    "a dict behind a view": "import types\nheld = {}\nview = types.MappingProxyType(held)\ndef pod(env):\n"
    "    held[env] = 1\n    return len(view)",
    "a module's dict": "seen = {}\ndef pod(env):\n    seen[env] = 1\n    return len(seen)",
    "a module's list, rebound": (
        "seen = []\ndef pod(env):\n    global seen\n    seen = seen + [env]\n    return len(seen)"
    ),
    "a class attribute": (
        "class Pod:\n    seen = set()\n    def __init__(self, env):\n        self.seen.add(env)\n"
        "def pod(env):\n    return len(Pod(env).seen)"
    ),
    "an attribute of a parent class": (
        "class Base:\n    seen = []\nclass Pod(Base):\n    pass\n"
        "def pod(env):\n    Pod.seen.append(env)\n    return len(Pod.seen)"
    ),
    "a default argument": "def pod(env, seen=[]):\n    seen.append(env)\n    return len(seen)",
    "a default argument by keyword": "def pod(env, *, seen={}):\n    seen[env] = 1\n    return len(seen)",
    "a method's default argument": (
        "class Pod:\n    def count(self, env, seen=[]):\n        seen.append(env)\n        return len(seen)\n"
        "def pod(env):\n    return Pod().count(env)"
    ),
    "a default argument of __init__": (
        "class Pod:\n    def __init__(self, env, seen=[]):\n        seen.append(env)\n        self.seen = seen\n"
        "def pod(env):\n    return len(Pod(env).seen)"
    ),
    "a closure": (
        "def make():\n    seen = []\n    def pod(env):\n        seen.append(env)\n"
        "        return len(seen)\n    return pod\n"
        "pod = make()"
    ),
    "an object of a class": (
        "class Counter:\n    def __init__(self):\n        self.n = 0\ncounter = Counter()\n"
        "def pod(env):\n    counter.n += 1\n    return counter.n"
    ),
    "lru_cache": (
        "import functools\nclass Counter(list):\n    pass\n@functools.lru_cache\ndef counter():\n    return Counter()\n"
        "def pod(env):\n    counter().append(env)\n    return len(counter())"
    ),
    "a counter of itertools": "import itertools\nnumbers = itertools.count(1)\ndef pod(env):\n    return next(numbers)",
    "a partial": (
        "import functools\ndef add(seen, env):\n    seen.append(env)\n"
        "    return len(seen)\npod = functools.partial(add, [])"
    ),
    "a tuple with a list in it": "kept = ('a', [])\ndef pod(env):\n    kept[1].append(env)\n    return len(kept[1])",
    "a static method's default": (
        "class Pod:\n    @staticmethod\n    def count(env, seen=[]):\n"
        "        seen.append(env)\n        return len(seen)\n"
        "pod = Pod.count"
    ),
}
REBOUND = {
    "a module's number": "n = 0\ndef pod(env):\n    global n\n    n += 1\n    return n",
    "a class's number": "class Pod:\n    n = 0\ndef pod(env):\n    Pod.n += 1\n    return Pod.n",
    "an attribute of a function": "def pod(env):\n    pod.n = getattr(pod, 'n', 0) + 1\n    return pod.n",
    "an attribute of a method": (
        "class Pod:\n    def count(self):\n        Pod.count.n = getattr(Pod.count, 'n', 0) + 1\n"
        "        return Pod.count.n\n"
        "def pod(env):\n    return Pod().count()"
    ),
    "a name that comes later": "def pod(env):\n    g = globals()\n    g['n'] = g.get('n', 0) + 1\n    return g['n']",
    "a class attribute that comes later": (
        "class Pod:\n    pass\ndef pod(env):\n    Pod.n = getattr(Pod, 'n', 0) + 1\n    return Pod.n"
    ),
}


def pods(own: OwnModules) -> list[Any]:
    """The results of two pods of one schedule, and of one pod of the next."""
    return [own.factory(name)(name) for name in ("A", "B", "A")]


@pytest.mark.parametrize("text", STATES.values(), ids=STATES)
def test_state_that_can_be_changed_in_place_is_each_pods_own_from_the_first(
    write: Callable[..., None], text: str
) -> None:
    write(target=text)
    own = OwnModules("target:pod")
    assert own.afresh
    assert pods(own) == [1, 1, 1]
    assert not own.has_changed()


@pytest.mark.parametrize("text", REBOUND.values(), ids=REBOUND)
def test_module_state_that_a_pod_replaces_is_noticed_and_is_then_each_pods_own(
    write: Callable[..., None], text: str
) -> None:
    write(target=text)
    own = OwnModules("target:pod")
    pods(own)
    assert own.has_changed()
    assert own.afresh
    assert pods(own) == [1, 1, 1]
    assert not own.has_changed()


CONSTANT = """
from __future__ import annotations
import dataclasses, enum, logging, re, types, typing
from collections.abc import Callable
TABLE = types.MappingProxyType({"a": 1})
LIMIT, NAMES, WORD, LOG = 5, ("a", frozenset("b")), re.compile("x"), logging.getLogger("target")
Maker = Callable[[str], int]
class Kind(enum.Enum):
    ONE = 1
class Pod:
    limit = LIMIT
    def __init__(self, env: str, most: int = 3) -> None:
        self.seen = [env]
    @property
    def count(self) -> int:
        return len(self.seen)
    @classmethod
    def make(cls, env: str) -> Pod:
        return cls(env)
def pod(env):
    return Pod.make(env).count
"""


def test_the_modules_of_a_target_without_mutable_state_are_not_copied(write: Callable[..., None]) -> None:
    write(target=CONSTANT)
    own = OwnModules("target:pod")
    assert not own.afresh
    assert pods(own) == [1, 1, 1]
    assert not own.has_changed()
    assert own.factory("A") is own.factory("B")


@pytest.mark.parametrize("target", ["local", "shared", "durable"])
def test_the_reference_targets_are_spared_copies(target: str) -> None:
    """With copies a search takes three times as long. One name that can be changed in place is enough for them."""
    importlib.import_module("podrace.reference.durable")
    modules = OwnModules(f"podrace.reference.targets:{target}")
    assert modules.afresh is False
    assert modules.factory("A") is modules.factory("B")


def test_the_methods_of_a_dataclass_are_compiled_once_for_all_pods(write: Callable[..., None]) -> None:
    write(target="import dataclasses\nseen = []\n@dataclasses.dataclass\nclass Pod:\n    env: str\ndef pod(env):\n"
                 "    assert Pod(env) == Pod(env)\n    seen.append(env)\n    return len(seen)")  # fmt: skip
    own = OwnModules("target:pod")
    own.factory("A")
    before = view._code_of.cache_info().misses
    assert pods(own) == [1, 1, 1]
    assert view._code_of.cache_info().misses == before > 0
    assert "exec" not in vars(dataclasses)


def test_state_in_a_module_that_the_target_imports(write: Callable[..., None]) -> None:
    write(kept="seen = []", target="import kept\ndef pod(env):\n    kept.seen.append(env)\n    return len(kept.seen)")
    assert pods(OwnModules("target:pod")) == [1, 1, 1]


def test_two_modules_of_one_pod_share_what_they_import(write: Callable[..., None]) -> None:
    write(
        kept="seen = []",
        writer="from kept import seen\ndef note(env):\n    seen.append(env)",
        target="import kept, writer\ndef pod(env):\n    writer.note(env)\n    return list(kept.seen)",
    )
    assert pods(OwnModules("target:pod")) == [["A"], ["B"], ["A"]]


@pytest.mark.parametrize(
    ("imports", "seen"),
    [
        ("from .kept import seen", "seen"),
        ("from . import kept", "kept.seen"),
        ("import package.kept", "package.kept.seen"),
        ("import package.kept as k", "k.seen"),
        ("from package import kept", "kept.seen"),
    ],
)
@pytest.mark.parametrize("lazily", [False, True], ids=["at once", "in a call"])
def test_every_form_of_import_within_a_package(
    write: Callable[..., None], imports: str, seen: str, lazily: bool
) -> None:
    inside, above = (f"    {imports}\n", "") if lazily else ("", f"{imports}\n")
    write(
        package____init__="",
        package__kept="seen = []",
        package__target=f"{above}def pod(env):\n{inside}    {seen}.append(env)\n    return len({seen})",
    )
    own = OwnModules("package.target:pod")
    if lazily:
        pods(own)
        assert own.has_changed()
    assert pods(own) == [1, 1, 1]
    assert not own.has_changed()


def test_state_in_the_package_itself(write: Callable[..., None]) -> None:
    write(
        package____init__="seen = []",
        package__target="from . import seen\ndef pod(env):\n    seen.append(env)\n    return len(seen)",
    )
    assert pods(OwnModules("package.target:pod")) == [1, 1, 1]


def test_a_pods_own_modules_do_not_replace_those_in_sys_modules(write: Callable[..., None]) -> None:
    write(target="seen = []\ndef pod(env):\n    seen.append(env)\n    return seen")
    own = OwnModules("target:pod")
    everybodys = sys.modules["target"]
    pods(own)
    assert sys.modules["target"] is everybodys
    assert everybodys.seen == []


def test_modules_of_the_standard_library_are_shared(write: Callable[..., None]) -> None:
    write(target="import json\nseen = []\ndef pod(env):\n    return json")
    import json

    assert pods(OwnModules("target:pod")) == [json] * 3


@pytest.mark.parametrize(
    ("path", "says"),
    [("target", "module:name"), ("no_such_module:pod", "no_such_module"), ("target:nothing", "has no nothing")],
)
def test_a_target_that_cannot_be_loaded(write: Callable[..., None], path: str, says: str) -> None:
    write(target="def pod(env):\n    return env")
    with pytest.raises(UsageError, match=says):
        OwnModules(path)
