"""Python's cycle collector, less often."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_collector(most_new: int = 50_000) -> Iterator[None]:
    """Keeps the collector from walking what was there before; it runs whenever that many new objects have been made."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(most_new, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
