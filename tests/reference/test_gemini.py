"""The unmodified google-genai client against the local Files API."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from podrace.reference.gemini import GeminiFiles
from podrace.simulator.servers.files_api.api import Fault, FilesApi, Request

KEY = "a-key-that-nobody-may-see"


class Service:
    """A Files API whose faults a test sets by phase."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.api = FilesApi(plan=self.plan)

    def plan(self, request: Request) -> Fault | None:
        return self.faults.get(request.phase)


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    with running.api:
        yield running


@pytest.fixture
def gemini(service: Service) -> Iterator[GeminiFiles]:
    client = GeminiFiles(api_key=KEY, base_url=service.api.url, timeout_s=10)
    yield client
    client.close()


def test_an_upload_stores_the_file_and_returns_where(gemini: GeminiFiles, service: Service, png: Path) -> None:
    before = datetime.now(UTC)
    file = gemini.upload(file=str(png))
    (record,) = service.api.files().values()
    assert record.sha256 == hashlib.sha256(png.read_bytes()).hexdigest()
    assert (file.uri, file.name) == (record.uri, record.name)
    assert file.uri.startswith(service.api.url)
    assert abs((file.create_time - before).total_seconds()) < 60


def test_many_threads_share_one_client(gemini: GeminiFiles, service: Service, png: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        uploaded = list(pool.map(lambda _: gemini.upload(file=str(png)), range(12)))
    assert {file.name for file in uploaded} == set(service.api.files())
    assert len(service.api.files()) == 12


@pytest.mark.parametrize("code", [400, 429, 500, 503])
def test_refusal_raises_once_and_keeps_the_key_to_itself(
    gemini: GeminiFiles, service: Service, png: Path, code: int
) -> None:
    from google.genai.errors import APIError

    service.faults["start"] = Fault(kind="status", code=code)
    with pytest.raises(APIError) as refused:
        gemini.upload(file=str(png))
    assert refused.value.code == code
    assert KEY not in str(refused.value)
    assert KEY not in repr(gemini)
    assert service.api.files() == {}


def test_missing_file(gemini: GeminiFiles, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        gemini.upload(file=str(tmp_path / "gone.png"))


def test_timeout_ends_a_request_that_hangs(service: Service, png: Path) -> None:
    service.faults["start"] = Fault(kind="hang")
    gemini = GeminiFiles(api_key=KEY, base_url=service.api.url, timeout_s=0.1)
    before_s = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)timed out|timeout"):
        gemini.upload(file=str(png))
    assert 0.1 <= time.monotonic() - before_s < 5
    gemini.close()


def test_a_client_that_was_never_used_can_be_closed() -> None:
    GeminiFiles(api_key=KEY).close()


def test_without_an_address_it_is_googles_over_https() -> None:
    client = GeminiFiles(api_key=KEY)._make_client()
    options = client._api_client._http_options
    assert options.base_url.startswith("https://generativelanguage.googleapis.com")
    assert not options.client_args
    assert options.timeout is None
    client.close()
