"""Old and new pods side by side, as the README says how to move from `shared` to `durable`: pod A is an old one."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import podrace
from podrace.reference.targets import durable, shared
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.scenarios.uploads import UPLOADS, absorb, add

MOVING = Scenario(
    "moving",
    {
        "A": (add("m1", ["image-1"]), absorb("absorb-a")),
        "B": (add("m2", ["image-2"], after=("m1",)), absorb("absorb-b")),
    },
    workload=UPLOADS,
    keeps=durable.keeps,  # type: ignore[attr-defined]
    what="a user's first message is accepted by an old pod, the second one by a new pod",
)


def _of_the_readme() -> type[Any]:
    """The class of pods that the README gives."""
    text = Path(podrace.__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r" {3}```python\n(.*?)```", text, re.DOTALL) if "class Both" in block]
    found: dict[str, Any] = {"__name__": __name__}
    exec(textwrap.dedent(block), found)
    both: type[Any] = found["Both"]
    return both


Both = _of_the_readme()


class Hasty(Both):  # type: ignore[valid-type, misc]
    """Does not wait for what `shared` has accepted."""

    def absorb(self, user_id: str) -> int:
        return int(self.old.absorb(user_id) + self.new.absorb(user_id))


def pods(env: Any) -> Any:
    return shared(env) if env.name == "A" else Both(env)


def hasty_pods(env: Any) -> Any:
    return shared(env) if env.name == "A" else Hasty(env)
