"""Two requests and one session stored as a whole: both read it and both write all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import redis

from cases.common import Pod, value_of
from podrace import Call, Finding, Run, Scenario


class Broken(Pod):
    """GET, GET, SET, SET."""

    def login(self) -> None:
        self.redis.set(self.key("session"), "{}")

    def logout(self) -> None:
        self.redis.delete(self.key("session"))

    def put(self, name: str, value: str) -> str:
        held = self.text("session")
        if held is None:
            return "gone"
        self.redis.set(self.key("session"), json.dumps({**json.loads(held), name: value}))
        return "put"


class Mended(Broken):
    """WATCH and MULTI, retried if somebody was faster; a deleted session is not written back."""

    def put(self, name: str, value: str) -> str:
        while True:
            with self.redis.pipeline() as pipe:
                pipe.watch(self.key("session"))
                held: Any = pipe.get(self.key("session"))
                if held is None:
                    return "gone"
                pipe.multi()
                pipe.set(self.key("session"), json.dumps({**json.loads(held), name: value}))
                try:
                    pipe.execute()
                except redis.WatchError:
                    continue
                return "put"


def keeps_what_was_put(run: Run) -> Iterator[Finding]:
    held = json.loads(run.redis.get("session", "{}"))
    for call in run.calls:
        if call.method == "put" and call.value == "put" and call.args[0] not in held:
            yield Finding("lost", str(call.args[0]), f"{call.args[0]} was put, and is not in the session")


def stays_logged_out(run: Run) -> Iterator[Finding]:
    if "session" in run.redis and any(call.name == "logout" and call.type == "ok" for call in run.calls):
        yield Finding("misreported", "session", f"the session is there after logout ({value_of(run, 'put')})")


TWO_PUT = Scenario(
    "two requests, one session",
    lines={
        "A": [Call("login", "login"), Call("put A", "put", ("cart", "book"))],
        "B": [Call("put B", "put", ("language", "en"), after=("login",))],
    },
    checks=[keeps_what_was_put],
    keeps=["session"],
)
LOGOUT = Scenario(
    "a request beside the logout",
    lines={
        "A": [Call("login", "login"), Call("put", "put", ("cart", "book"))],
        "B": [Call("logout", "logout", after=("login",))],
    },
    checks=[stays_logged_out],
    keeps=["session"],
)
