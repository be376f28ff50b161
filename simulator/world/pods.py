"""A pod's environment, the gate before everything in it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from podrace.simulator.target import PodEnv, load_object
from podrace.simulator.world.services import GatedService
from podrace.simulator.world.steps import Gate

if TYPE_CHECKING:
    import redis


def make_env(
    *,
    name: str,
    gate: Gate,
    client: redis.Redis,
    prefix: str,
    services: Mapping[str, Any],
    seed: int,
    incarnation: int,
    options: Mapping[str, Any],
    failures: Mapping[str, str] | None = None,
    gates_services: bool = True,
) -> PodEnv:
    """`client` must come from `gated_client`. A pod that is started again under its name draws other numbers.

    `failures`: by service, the function `module:name` that makes the error of one that is not available.
    """
    made = {key: load_object(path, what="failure") for key, path in (failures or {}).items()}
    return PodEnv(
        name=name,
        redis=client,
        prefix=prefix,
        services={
            key: GatedService(key, inner, gate, *([made[key]] if key in made else [])) if gates_services else inner
            for key, inner in services.items()
        },
        runtime=gate,
        rng=random.Random(f"{seed} {name} {incarnation}"),
        options=options,
    )
