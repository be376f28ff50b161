"""The way to the server of a run: our own embedded one, or the node that a URL names or leads to.

Layout: `connect`, the one way in which this project makes a client, then `open_server`, which yields a
Server whichever of the two it is, then the checks of a server that is not ours. redis-py is imported
where it is used: that takes about 0.2 s.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from podrace.simulator.errors import HarnessError, PodraceError, TargetError, UsageError
from podrace.simulator.servers.embedded import EmbeddedServer, ServerInfo, server_info

if TYPE_CHECKING:
    import redis

PROBE_TIMEOUT_S = 1.7
"""For all of the first contact with a foreign server, name resolution included: an error comes within 2 s."""
SEVERAL_NODES_TIMEOUT_S = 10.0
"""The same where several nodes are named, of which the first ones may be down."""
T = TypeVar("T")


FORMS = (
    "redis://host:port/db, rediss://host:port/db, unix:///path, redis+sentinel://host:port,…/NAME or "
    "redis+cluster://host:port,…"
)


_REMEDY = "correct --redis-url or PODRACE_REDIS_URL"


def connect(url: str, *, retries: int = 0, **kwargs: Any) -> redis.Redis:
    """The one way in which this project makes a client. Costs no round trip before the first command.

    Nothing is retried unless `retries` says so: whether a command ran once or twice is what is being
    examined. RESP2 without CLIENT SETINFO needs no handshake (AUTH and SELECT only where the URL asks
    for them). `kwargs` as for redis.Redis; options in the URL's query win over both.
    """
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    settings: dict[str, Any] = {
        "retry": Retry(NoBackoff(), retries),
        "socket_connect_timeout": 1.0,
        "socket_timeout": 5.0,
        "max_connections": 64,
        "protocol": 2,
        "driver_info": None,
    }
    return Redis.from_url(url, **(settings | kwargs))


def redact(url: str) -> str:
    """The URL with every password replaced by ***; where it is malformed, rather too much than too little."""
    url = re.sub(r"(?i)([?&][^=&]*(?:pass|token|secret)[^=&]*=)[^&]*", r"\1***", url)
    url = re.sub(r"(?s)^([a-zA-Z0-9+.-]+://)?+([^:@]*):(.*)@", r"\1\2:***@", url)
    # no "@" yet: where a port is expected and no number stands, it may be a password
    return re.sub(r"(?s)^([a-zA-Z0-9+.-]+://[^:@\[]*):(?!\d*(?:[/?#]|$)|\*\*\*@).*$", r"\1:***", url)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server of a run. `prefix` is that of every key; `url` may hold a password: not in the repr."""

    url: str = field(repr=False)
    info: ServerInfo
    prefix: str
    embedded: EmbeddedServer | None = None


@contextmanager
def open_server(url: str | None, config: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server for one run: an embedded one (with `config`) where `url` is None, else the node that `url` names.

    Behind Sentinels that is the primary of now, in a Cluster the one that has the run's keys: their prefix is a hash
    tag. On a foreign server every key stands under a prefix of this run alone, and what is there at the end is
    deleted, even when the body raised. Raises UsageError within 2 s where the URL cannot be used,
    HarnessError where the server is lost during the run, or keys could not be deleted.
    """
    if url is None:
        with EmbeddedServer(config=config) as embedded, _report_lost_server(embedded.url):
            yield Server(url=embedded.url, info=embedded.info(), prefix="mirix:", embedded=embedded)
        return
    run_prefix = f"podrace:{{{os.urandom(6).hex()}}}:"
    remedy = f"{_REMEDY}, or leave it out for the embedded server"
    probe = partial(_probe, url, run_prefix)
    info, url = _first_contact(url, probe, "a Redis or Valkey that this run may use", remedy)
    try:
        with _report_lost_server(url):
            yield Server(url=url, info=info, prefix=f"{run_prefix}mirix:")
    except BaseException as error:
        if left_over := _sweep(url, run_prefix):
            if is_busy(left_over) and isinstance(error, PodraceError):
                raise TargetError(f"{left_over}; {BUSY}") from error
            error.add_note(left_over)
        raise
    if left_over := _sweep(url, run_prefix):
        raise HarnessError(left_over)


@contextmanager
def visiting(url: str) -> Iterator[redis.Redis]:
    """An operator's client of one node, of what Sentinels watch, or of a Cluster: nothing is probed, swept or deleted.

    Raises UsageError where the URL cannot be used, HarnessError where the server is lost later.
    """
    from podrace.simulator.servers.topologies import connect_to

    def probe() -> redis.Redis:
        client: redis.Redis = connect_to(url)
        client.ping()
        return client

    client = _first_contact(url, probe, "the server of the pods", _REMEDY)
    with client, _report_lost_server(url):
        yield client


BUSY = "busy with a script that does not end, which a call of the target has sent; no verdict can be given"


def is_busy(text: str) -> bool:
    """Whether a server has answered that a script keeps it busy, and has done so for some seconds."""
    return "BUSY " in text and "SCRIPT KILL" in text


@contextmanager
def _report_lost_server(url: str) -> Iterator[None]:
    """What the harness itself hears of a lost server, as one line. A pod's calls end in an outcome of their own."""
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise HarnessError(f"server {redact(url)!r}: lost during the run: {_reason(error, url)}") from None


def delete_prefix(client: redis.Redis, prefix: str) -> None:
    """Delete every key that starts with `prefix`, in batches that block nobody."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    keys = client.scan_iter(match=pattern, count=1000)
    while batch := list(islice(keys, 500)):
        client.unlink(*batch)


def _sweep(url: str, run_prefix: str) -> str:
    """Empty when nothing of the run is left, else what is wrong."""
    try:
        # a new client: whatever the run did to its own, this one works
        with connect(url, retries=2, max_connections=1) as client:
            delete_prefix(client, run_prefix)
    except Exception as error:
        return f"server {redact(url)!r}: {_reason(error, url)}; delete the keys {run_prefix}* that are left"
    return ""


def _first_contact(url: str, probe: Callable[[], T], wanted: str, remedy: str) -> T:
    """What the probe returns. Raises UsageError where the URL cannot be used.

    In a thread, because name resolution knows no timeout and a socket's begins anew with every byte.
    The error is made here, with no other behind it: one of redis-py may quote the password.
    """

    def unusable(came: str) -> UsageError:
        return UsageError(f"server {redact(url)!r}: expected {wanted}, got: {came}; {remedy}")

    from podrace.simulator.servers.topologies import has_several_nodes

    several = has_several_nodes(url)
    if not several and not _is_of_one_node(url):
        raise unusable(f"another form than {FORMS} (in a password write %40 for @, %2F for /, %23 for #, %3F for ?)")
    answers: list[T] = []
    errors: list[str | PodraceError] = []

    def ask() -> None:
        try:
            answers.append(probe())
        except PodraceError as error:
            errors.append(error)
        except Exception as error:
            errors.append(_reason(error, url))

    within_s = SEVERAL_NODES_TIMEOUT_S if several else PROBE_TIMEOUT_S
    thread = threading.Thread(target=ask, name="podrace-probe", daemon=True)
    thread.start()
    thread.join(within_s)
    if answers:
        return answers[0]
    came = errors[0] if errors else f"no answer within {within_s:g} s"
    raise came if isinstance(came, PodraceError) else unusable(came + _about_tls(url, came))


def _about_tls(url: str, came: str) -> str:
    """A hint where one side seems to speak TLS and the other does not: neither understands the other's first words."""
    if not re.search(r"(?i)no answer|closed|ssl|protocol", came):
        return ""
    if url.startswith("rediss:"):
        return " to TLS, which rediss:// asks for (a port without TLS needs redis://)"
    return " (a port with TLS needs rediss://)" if url.startswith("redis:") and "closed" in came.lower() else ""


def _is_of_one_node(url: str) -> bool:
    """Whether redis-py would take it as it is meant: of a database that is no number, for one, it makes 0."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return bool(parts.path)
        return parts.scheme in ("redis", "rediss") and parts.port != 0 and bool(re.fullmatch(r"/?\d*/?", parts.path))
    except ValueError:
        return False


def _probe(url: str, run_prefix: str) -> tuple[ServerInfo, str]:
    """What the server is, and the URL of its node: may this run write, find and delete its keys there?"""
    from redis.exceptions import ResponseError

    from podrace.simulator.servers.topologies import CLUSTER, has_several_nodes, url_of_node

    expected = "cluster" if url.startswith(CLUSTER) else "standalone"
    if has_several_nodes(url):
        url = url_of_node(url, run_prefix)
    with connect(url, max_connections=1, socket_timeout=1.5) as client:
        pipeline = client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.set(f"{run_prefix}probe", "", px=60_000)  # gone by itself where the deletion is refused
        pipeline.scan(0, match=f"{run_prefix}*", count=1)
        pipeline.unlink(f"{run_prefix}probe")
        replies = pipeline.execute(raise_on_error=False)
    fields = replies[0]
    mode: Any = "standalone"
    if isinstance(fields, dict):  # Valkey has another name for it
        mode = fields.get("server_mode", fields.get("redis_mode", mode))
    if mode != expected:
        other = {"cluster": "redis+cluster://host:port", "sentinel": "redis+sentinel://host:port/NAME"}
        raise _RefusedError(f"a server in {mode} mode (its URL is {other.get(mode, 'redis://host:port')})")
    for command, reply in zip(("INFO", "SET", "SCAN", "UNLINK"), replies, strict=True):
        if isinstance(reply, ResponseError):
            raise _RefusedError(f"{command} on keys {run_prefix}* refused: {_reason(reply, url)}")
    return server_info(fields, embedded=False), url


class _RefusedError(Exception):
    """Its text is ours: it holds no secret."""


def _reason(error: Exception, url: str) -> str:
    """Why, in a few words that are ours or the operating system's wherever others could quote a password."""
    from redis import exceptions

    text = _without_secrets(str(error), url)
    cause = error.__cause__ or error.__context__
    if type(error).__name__ == "MasterNotFoundError":  # its module is slow to import
        return "no Sentinel that answers knows a primary of that name"
    match error:
        case _RefusedError():
            return str(error)
        case exceptions.TimeoutError() | TimeoutError():
            return "no answer in time"
        case exceptions.NoPermissionError():
            return "the user lacks the permission (NOPERM)"
        case exceptions.InvalidResponse():
            return "an answer that is not Redis's protocol"
        case exceptions.AuthenticationError():
            return f"the user or password in the URL is missing or wrong ({text})"
        case exceptions.ConnectionError() if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        case exceptions.ResponseError() | exceptions.ConnectionError():
            return text  # for one, closed, still loading, too many clients
        case exceptions.RedisClusterException():
            return "no node of a Cluster answers"
    return f"{type(error).__name__}; check the options in the URL's query"


def _without_secrets(text: str, url: str) -> str:
    """Servers quote arguments at the end of a message, and may cut them: drop all from the first quote on."""
    text = re.split(r"(?:^|\s)['\"`]|[\r\n]|,? with args", text, maxsplit=1)[0][:160].strip(" ,.:")
    password = urlsplit(url).password
    for secret in filter(None, (password, unquote(password or ""))):
        text = text.replace(secret, "***")
    return text
