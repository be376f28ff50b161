"""Keeps a pod from running old code: the fork server keeps the modules that it has loaded, even if they are edited.

Imported when the fork server starts, before any module of the user's.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import time
from importlib.machinery import PathFinder

_LOADED_NS = time.time_ns() - 20_000_000
"""When the fork server began to load modules; a file's time may be some milliseconds behind the clock's."""

_LIBRARIES = (*site.getsitepackages(), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def forget_changed(target: str) -> None:
    """Forget the user's modules if one of their files has changed, or if the target's module now lies elsewhere.

    `target` is the `module:name` of what the pod will build.
    """
    files = {
        name: file
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None)) and not file.startswith(_LIBRARIES)
    }
    if _is_elsewhere(target.partition(":")[0], files) or any(map(_has_changed, files.values())):
        for name in files.keys() - {"__main__", "__mp_main__"}:
            if name != "podrace" and not name.startswith("podrace.simulator"):
                del sys.modules[name]


def _is_elsewhere(module: str, files: dict[str, str]) -> bool:
    top = module.partition(".")[0]
    if top not in files:
        return False
    found = PathFinder.find_spec(top)
    return found is None or found.origin is None or os.path.abspath(found.origin) != os.path.abspath(files[top])


def _has_changed(file: str) -> bool:
    try:
        return os.stat(file).st_mtime_ns > _LOADED_NS
    except OSError:
        return True
