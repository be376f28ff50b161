"""The local Gemini Files API, through the real google-genai client and, for the protocol, a raw one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import httpx2
import psutil
import pytest
from google import genai
from google.genai import _api_client, errors, types

from podrace.simulator.errors import HarnessError
from podrace.simulator.servers.files_api import api as files_api
from podrace.simulator.servers.files_api import store as files_store
from podrace.simulator.servers.files_api.api import Fault, FilesApi, Request

CHUNK_BYTES = 8 * 1024 * 1024


class Plan:
    """The given faults for the requests of one phase, in order; remembers every request."""

    def __init__(self, phase: str = "finalize", *faults: Fault | None) -> None:
        self.phase = phase
        self.faults = list(faults)
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Fault | None:
        self.requests.append(request)
        return self.faults.pop(0) if request.phase == self.phase and self.faults else None

    def phases(self) -> list[str]:
        return [request.phase for request in self.requests]


Connect = Callable[..., Any]


class Clock(Protocol):
    """Epoch seconds that only a test moves on."""

    now_s: float

    def __call__(self) -> float: ...


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client would have slept between its resends."""
    slept: list[float] = []
    monkeypatch.setattr(_api_client.time, "sleep", slept.append)
    return slept


def raw(
    api: FilesApi | str, method: str, target: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    url = api if isinstance(api, str) else api.url
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, target.removeprefix(url), body, {"x-goog-api-key": "test", **sent})
        reply = connection.getresponse()
        return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def start(api: FilesApi, size_bytes: int | None = None, **headers: str) -> str:
    if size_bytes is not None:
        headers["X_Goog_Upload_Header_Content_Length"] = str(size_bytes)
    _, reply, _ = raw(api, "POST", "/upload/v1beta/files", X_Goog_Upload_Command="start", **headers)
    assert reply["x-goog-upload-status"] == "active"
    return reply["x-goog-upload-url"]


def send(
    api: FilesApi, target: str, command: str, offset: int | str, body: bytes = b""
) -> tuple[int, str | None, dict[str, Any]]:
    headers = {"X_Goog_Upload_Command": command, "X_Goog_Upload_Offset": str(offset)}
    code, reply, content = raw(api, "POST", target, body, **headers)
    return code, reply.get("x-goog-upload-status"), json.loads(content or b"{}")


def server_threads() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name == "files-api" or "process_request" in name]


# Over HTTP.


@pytest.mark.parametrize("size_bytes", [CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 12_345])
def test_a_file_of_several_chunks_arrives_whole(files_client: Connect, tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(random.Random(2).randbytes(size_bytes))
    plan = Plan()
    with FilesApi(plan=plan, identify=lambda content: hashlib.sha256(content).hexdigest()) as api:
        files_client(api.url).upload(file=path)
        (record,) = api.files().values()
    chunks = -(-size_bytes // CHUNK_BYTES)
    assert record.sha256 == record.mark == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plan.phases() == ["start", *["upload"] * (chunks - 1), "finalize"]
    assert {request.file_name for request in plan.requests} == {"large.png"}


def test_the_async_client_uploads_in_chunks_too(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(random.Random(3).randbytes(CHUNK_BYTES + 5))

    async def work(url: str) -> list[types.File]:
        client = genai.Client(api_key="test", http_options=types.HttpOptions(base_url=url))
        try:
            async with client.aio as aio:
                return await asyncio.gather(*(aio.files.upload(file=path) for _ in range(3)))
        finally:
            client.close()

    with FilesApi() as api:
        answers = asyncio.run(work(api.url))
        assert set(api.files()) == {answer.name for answer in answers}
        assert {record.size_bytes for record in api.files().values()} == {CHUNK_BYTES + 5}


def test_the_reply_has_the_form_of_the_reference(picture: Path, clock: Clock) -> None:
    with FilesApi(now=clock) as api:
        target = start(api, 3, X_Goog_Upload_Header_Content_Type="image/png")
        assert target.startswith(f"{api.url}/upload/v1beta/files?upload_id=")
        _, _, answer = send(api, target, "upload, finalize", 0, b"abc")
    file = answer["file"]
    digest = hashlib.sha256(b"abc").hexdigest()
    assert file == {
        "name": _only(api),
        "uri": f"{api.url}/v1beta/{_only(api)}",
        "mimeType": "image/png",
        "sizeBytes": "3",
        "createTime": "2025-01-15T00:00:00.250000+00:00",
        "expirationTime": "2025-01-17T00:00:00.250000+00:00",
        "sha256Hash": base64.b64encode(digest.encode()).decode(),
        "state": "ACTIVE",
    }


def _only(api: FilesApi) -> str:
    (name,) = api.files()
    return name


def test_no_key_is_kept() -> None:
    kept: list[Request] = []
    with FilesApi(plan=kept.append) as api:
        send(api, start(api, x_goog_api_key="secret"), "upload, finalize", 0, b"abc")
        start(api, x_goog_api_key="secret")
        held = repr((vars(api), vars(api.store), kept, [vars_of(record) for record in api.files().values()]))
        assert len(api._uploads) == 1
    assert "secret" not in held


def vars_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_without_a_key_nothing_is_answered(method: str) -> None:
    with FilesApi() as api:
        code, _, content = raw(api, method, "/v1beta/files/mine", x_goog_api_key="")
    assert (code, json.loads(content)["error"]["status"]) == (403, "PERMISSION_DENIED")


# The resumable protocol.


@pytest.mark.parametrize("offset", ["5", "0", "-1"])
def test_bytes_that_are_not_the_next_are_refused(offset: str) -> None:
    with FilesApi() as api:
        target = start(api, 6)
        assert send(api, target, "upload", 0, b"abc")[:2] == (200, "active")
        assert send(api, target, "upload, finalize", offset, b"def")[:2] == (400, "final")
        assert api.files() == {}


@pytest.mark.parametrize("content", [b"abcd", b"ab"])
def test_more_or_less_than_declared_is_refused_and_ends_the_upload(content: bytes) -> None:
    with FilesApi() as api:
        target = start(api, 3)
        assert send(api, target, "upload, finalize", 0, content)[:2] == (400, "final")
        assert send(api, target, "upload, finalize", 0, b"abc")[:2] == (404, "final")
        assert api.files() == {}


def test_two_open_uploads_of_one_name_store_one_file() -> None:
    body = b'{"file": {"name": "files/mine"}}'
    with FilesApi() as api:
        targets = [
            raw(api, "POST", "/upload/v1beta/files", body, X_Goog_Upload_Command="start")[1]["x-goog-upload-url"]
            for _ in range(2)
        ]
        assert [send(api, target, "upload, finalize", 0, b"a")[0] for target in targets] == [200, 409]


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("PUT", "/v1beta/files", 501),
        ("GET", "/v1beta/other", 404),
        ("POST", "/upload/v1beta/files", 404),
        ("DELETE", "/v1beta/files", 404),
    ],
)
def test_an_unknown_request_gets_a_google_style_error(method: str, target: str, code: int) -> None:
    with FilesApi() as api:
        got, _, content = raw(api, method, target, b"left unread")
    error = json.loads(content)["error"]
    assert (got, error["code"], set(error)) == (code, code, {"code", "message", "status"})


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"file": 3}'])
def test_a_start_without_a_proper_body_is_refused(body: bytes) -> None:
    with FilesApi() as api:
        assert raw(api, "POST", "/upload/v1beta/files", body, X_Goog_Upload_Command="start")[0] == 400


@pytest.mark.parametrize("request_text", [b"rubbish\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
def test_bytes_that_are_not_http_end_the_connection(request_text: bytes) -> None:
    with FilesApi() as api, socket.create_connection(api._address, timeout=10) as connection:
        connection.sendall(request_text)
        with connection.makefile("rb") as reader:
            assert b'"error"' in reader.read()


def test_expect_continue_and_connection_close_are_honoured() -> None:
    with FilesApi() as api, socket.create_connection(api._address, timeout=10) as connection:
        headers = b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 2\r\n\r\n"
        connection.sendall(b"POST /v1beta/files HTTP/1.1\r\n" + headers)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        with connection.makefile("rb") as reader:
            assert reader.read().startswith(b"HTTP/1.1 404 ")


def test_one_connection_serves_many_requests() -> None:
    with FilesApi() as api:
        connection = http.client.HTTPConnection(*api._address)
        for _ in range(3):
            connection.request("GET", "/v1beta/files", headers={"x-goog-api-key": "k"})
            assert connection.getresponse().read() == b"{}"
        assert len(api._connections) == 1
        connection.close()


# What goes wrong on purpose.


@pytest.mark.parametrize("phase", ["start", "finalize"])
@pytest.mark.parametrize("code", [400, 403, 429, 500, 503])
def test_a_planned_status_is_raised_by_the_client_at_once(
    files_client: Connect, picture: Path, naps: list[float], phase: str, code: int
) -> None:
    with FilesApi(plan=Plan(phase, Fault(kind="status", code=code))) as api:
        files = files_client(api.url)
        with pytest.raises(errors.ClientError if code < 500 else errors.ServerError) as caught:
            files.upload(file=picture)
        assert (caught.value.code, caught.value.status) == (code, files_store.STATUS_NAMES[code])
        assert (api.files(), naps) == ({}, [])
        files.upload(file=picture)
        assert len(api.files()) == 1


@pytest.mark.parametrize("phase", ["get", "list", "delete"])
def test_a_planned_status_meets_the_other_requests_too(files_client: Connect, picture: Path, phase: str) -> None:
    with FilesApi(plan=Plan(phase, Fault(kind="status", code=503))) as api:
        files = files_client(api.url)
        name = files.upload(file=picture).name
        call = files.list if phase == "list" else lambda: getattr(files, phase)(name=name)
        with pytest.raises(errors.ServerError):
            call()
        assert name in api.files()


@pytest.mark.parametrize("phase", ["start", "upload", "finalize"])
def test_a_dropped_connection_is_a_transport_error_and_stores_nothing(
    files_client: Connect, tmp_path: Path, phase: str
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bytes(CHUNK_BYTES + 100_000))
    with FilesApi(plan=Plan(phase, Fault(kind="drop"))) as api:
        with pytest.raises(httpx2.TransportError):
            files_client(api.url).upload(file=path)
        assert api.files() == {}


def test_a_hang_lasts_until_the_client_gives_up_and_has_no_effect(files_client: Connect, picture: Path) -> None:
    with FilesApi(plan=Plan("finalize", Fault(kind="hang"))) as api:
        with pytest.raises(httpx2.ReadTimeout):
            files_client(api.url, timeout_ms=50).upload(file=picture)
        assert api.files() == {}
    assert server_threads() == []


@pytest.mark.parametrize("fault", [Fault(kind="hang"), Fault(latency_s=3600.0)])
def test_stop_ends_hanging_requests_and_leaves_no_thread(files_client: Connect, picture: Path, fault: Fault) -> None:
    reached = threading.Event()
    outcome: list[BaseException] = []

    def plan(request: Request) -> Fault | None:
        if request.phase != "finalize":
            return None
        reached.set()
        return fault

    api = FilesApi(plan=plan)
    files = files_client(api.url)

    def work() -> None:
        try:
            files.upload(file=picture)
        except httpx2.TransportError as error:
            outcome.append(error)

    client = threading.Thread(target=work)
    client.start()
    assert reached.wait(10)
    api.stop()
    client.join(10)
    assert (len(outcome), server_threads(), api.files()) == (1, [], {})
    api.stop()  # a second stop does nothing


def test_latency_is_waited_once_an_upload(
    files_client: Connect, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("start", Fault(latency_s=0.25))
    with FilesApi(latency_s=0.5, plan=plan) as api:
        waits: list[float | None] = []
        monkeypatch.setattr(api.stopping, "wait", lambda timeout: waits.append(timeout))
        files_client(api.url).upload(file=picture)
        monkeypatch.undo()
    assert waits == [0.25, 0.5]


@pytest.mark.parametrize("broken", ["plan", "identify"])
def test_stop_raises_the_errors_of_the_callers_functions(files_client: Connect, picture: Path, broken: str) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("mine")

    api = FilesApi(plan=fail) if broken == "plan" else FilesApi(identify=fail)
    with pytest.raises(httpx2.TransportError):
        files_client(api.url).upload(file=picture)
    with pytest.raises(HarnessError, match="ZeroDivisionError"), api:
        pass


# What it costs.


def upload_raw(address: str, count: int, size_bytes: int) -> None:
    """Upload as google-genai does, but faster."""
    host, port = address.split(":")
    server = (host, int(port))
    with socket.create_connection(server, timeout=10) as connection, connection.makefile("rb") as reader:

        def post(target: str, body: bytes, *headers: str) -> dict[str, str]:
            head = [f"POST {target} HTTP/1.1", f"Content-Length: {len(body)}", *headers, "", ""]
            connection.sendall("\r\n".join(head).encode() + body)
            assert reader.readline() == b"HTTP/1.1 200 OK\r\n"
            lines = iter(lambda: reader.readline().decode().strip(), "")
            reply = dict(line.split(": ", 1) for line in lines)
            reader.read(int(reply["Content-Length"]))
            return reply

        for number in range(count):
            begin = ("x-goog-api-key: k", "X-Goog-Upload-Command: start", "X-Goog-Upload-File-Name: a.png")
            url = post("/upload/v1beta/files", b'{"file": {}}', *begin)["X-Goog-Upload-URL"]
            finish = ("X-Goog-Upload-Command: upload, finalize", "X-Goog-Upload-Offset: 0")
            post(url.removeprefix(f"http://{address}"), number.to_bytes(8) + bytes(size_bytes - 8), *finish)


def serve(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "podrace.simulator.servers.files_api", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_ten_thousand_uploads_of_100_kb_stay_below_200_mb() -> None:
    process, url = serve()
    try:
        address = url.removeprefix("http://")
        memory = psutil.Process(process.pid).memory_info
        upload_raw(address, 500, 100_000)
        after_500 = memory().rss
        upload_raw(address, 1_500, 100_000)
        after_2000 = memory().rss
    finally:
        process.communicate(timeout=10)
    growth_per_upload = max(0, after_2000 - after_500) / 1_500
    assert after_2000 + 8_000 * growth_per_upload < 200e6
    assert growth_per_upload < 10_000  # a tenth of what came in


def test_an_identified_content_is_freed_and_abandoned_uploads_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files_api, "KEPT_UPLOADS", 4)
    with FilesApi(identify=lambda content: str(len(content))) as api:
        upload_raw(api.url.removeprefix("http://"), 5, 1_000_000)
        tracemalloc.start()
        try:
            upload_raw(api.url.removeprefix("http://"), 20, 1_000_000)
            kept_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        targets = [start(api) for _ in range(6)]
        assert [send(api, target, "upload", 0, b"a")[0] for target in targets] == [404, 404, 200, 200, 200, 200]
    assert kept_bytes < 2_000_000  # of 20,000,000: the last one may not be freed yet when its answer comes


# In a process of its own.


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM", "SIGINT"])
def test_a_server_process_serves_until_it_is_told_to_stop(files_client: Connect, picture: Path, how: str) -> None:
    process, url = serve("--port", "0", "--latency-ms", "1")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    files_client(url).upload(file=picture)
    if how != "end of stdin":
        os.kill(process.pid, signal.Signals[how])
        process.wait(timeout=10)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_taken_port_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with FilesApi() as api:
        port = api.url.rpartition(":")[2]
        process, line = serve("--port", port)
        _, err = process.communicate(timeout=10)
        with pytest.raises(HarnessError, match=port):
            FilesApi(port=int(port))
    assert (process.returncode, line) == (4, "")
    assert re.fullmatch(r"error: files API: cannot listen on 127\.0\.0\.1 port \d+: .*\n", err)


def test_bound_to_every_address_it_answers_with_the_address_it_was_asked_by() -> None:
    with FilesApi(host="0.0.0.0") as api:
        assert api.url.startswith("http://127.0.0.1:")
        target = start(api, Host="files.example:8080")
        assert target.startswith("http://files.example:8080/upload/")
