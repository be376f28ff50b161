"""A pod's environment, the gate before everything in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from podrace.simulator.target import PodEnv, load_object
from podrace.simulator.world.services import GatedService, unavailable
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
    failures: Mapping[str, Callable[[], Exception]],
    gates_services: bool = True,
) -> PodEnv:
    """`client` must come from `gated_client`. A pod that is started again under its name draws other numbers.

    `failures`: by service, what makes the error of one that is not available (see `failures_at`).
    """
    return PodEnv(
        name=name,
        redis=client,
        prefix=prefix,
        services={
            key: GatedService(key, inner, gate, failures.get(key, unavailable)) if gates_services else inner
            for key, inner in services.items()
        },
        runtime=gate,
        rng=random.Random(f"{seed} {name} {incarnation}"),
        options=options,
    )


def failures_at(paths: Mapping[str, str]) -> dict[str, Callable[[], Exception]]:
    """By service, the function that `module:name` names."""
    return {service: load_object(path, noun="failure") for service, path in paths.items()}
