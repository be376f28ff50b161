"""The service's contract, over HTTP and without, and what holds without HTTP alone."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from google.genai import errors

from podrace.simulator.servers.files_api.api import FilesApi
from podrace.simulator.servers.files_api.store import InProcessFiles

Connect = Callable[..., Any]


class Clock(Protocol):
    """Epoch seconds that go on where a test says so."""

    now_s: float

    def __call__(self) -> float: ...


# One contract for the service over HTTP and the one without.


class Service:
    """The service under contract: what a pod calls, what the harness reads, and the clock both follow."""

    def __init__(self, files: Any, server: FilesApi | InProcessFiles, clock: Clock, seen: list[bytes]) -> None:
        self.files, self.server, self.clock, self.seen = files, server, clock, seen


@pytest.fixture(params=["http", "in-process"])
def service(request: pytest.FixtureRequest, files_client: Connect, clock: Clock) -> Iterator[Service]:
    seen = list[bytes]()

    def identify(content: bytes) -> str:
        seen.append(content)
        return f"mark-{len(content)}"

    if request.param == "in-process":
        local = InProcessFiles(now=clock, identify=identify)
        yield Service(local, local, clock, seen)
        return
    with FilesApi(now=clock, identify=identify) as api:
        yield Service(files_client(api.url), api, clock, seen)


over_http = pytest.mark.parametrize("service", ["http"], indirect=True)
"""What no pod asks for, the service without HTTP does not have."""


def test_an_upload_is_stored_and_answered_with_what_is_known_of_it(service: Service, picture: Path) -> None:
    content = picture.read_bytes()
    answer = service.files.upload(file=str(picture))
    record = service.server.files()[answer.name]
    digest = hashlib.sha256(content).hexdigest()
    assert (record.name, record.uri, record.sha256) == (answer.name, answer.uri, digest)
    assert answer.uri == f"{service.server.url}/v1beta/{answer.name}"
    assert re.fullmatch(r"files/[a-z0-9-]{1,40}", answer.name)
    assert answer.size_bytes == record.size_bytes == len(content)
    assert base64.b64decode(answer.sha256_hash).decode() == digest
    assert answer.create_time == datetime.fromtimestamp(service.clock.now_s, UTC)
    assert answer.expiration_time - answer.create_time == timedelta(hours=48)
    assert answer.mime_type == "image/png"
    assert (record.file_name, record.created_at) == ("photo.png", service.clock.now_s)
    with pytest.raises(FrozenInstanceError):
        record.name = "other"


def test_the_content_is_identified_once(service: Service, picture: Path) -> None:
    answer = service.files.upload(file=picture)
    assert service.seen == [picture.read_bytes()]
    assert service.server.files()[answer.name].mark == "mark-100000"


def test_the_same_content_twice_is_two_files(service: Service, picture: Path) -> None:
    names = {service.files.upload(file=picture).name for _ in range(2)}
    assert set(service.server.files()) == names
    assert len(names) == 2


def test_a_file_name_that_is_not_ascii_fails_in_the_client(service: Service, picture: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        service.files.upload(file=picture.rename(picture.with_name("übung.png")))
    assert service.server.files() == {}


def test_an_empty_file_is_stored(service: Service, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    name = service.files.upload(file=tmp_path / "empty.png").name
    assert service.server.files()[name].size_bytes == 0


def test_a_missing_path_and_an_unknown_type_are_refused_before_anything_is_sent(
    service: Service, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        service.files.upload(file=tmp_path / "nowhere.png")
    (tmp_path / "data.qqq").touch()
    with pytest.raises(ValueError, match="mime type"):
        service.files.upload(file=tmp_path / "data.qqq")
    assert service.server.files() == {}


@over_http
def test_a_display_name_is_kept(service: Service, picture: Path) -> None:
    assert service.files.upload(file=picture, config={"display_name": "Photo"}).display_name == "Photo"


@over_http
@pytest.mark.parametrize("name", ["a", "123-456", "a" * 40, "files/with-prefix"])
def test_a_name_that_keeps_the_rule_is_given(service: Service, picture: Path, name: str) -> None:
    answer = service.files.upload(file=picture, config={"name": name})
    assert answer.name == f"files/{name.removeprefix('files/')}"


@over_http
@pytest.mark.parametrize("name", ["a" * 41, "-a", "a-", "Upper", "under_score", "a/b", "", "ä", "a\n"])
def test_a_name_that_breaks_the_rule_is_refused(service: Service, picture: Path, name: str) -> None:
    with pytest.raises(errors.ClientError) as caught:
        service.files.upload(file=picture, config={"name": name})
    assert (caught.value.code, caught.value.status) == (400, "INVALID_ARGUMENT")
    assert "40 lowercase" in str(caught.value.message)
    assert service.server.files() == {}


@over_http
def test_a_name_is_given_once(service: Service, picture: Path) -> None:
    service.files.upload(file=picture, config={"name": "mine"})
    with pytest.raises(errors.ClientError) as caught:
        service.files.upload(file=picture, config={"name": "mine"})
    assert (caught.value.code, caught.value.status) == (409, "ALREADY_EXISTS")


@over_http
def test_more_than_2_gb_are_refused(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as stream:
        stream.truncate(2 * 1024**3 + 1)  # a hole: it takes no room, and is never sent
    with pytest.raises(errors.ClientError, match="2147483648 bytes"):
        service.files.upload(file=path)


@over_http
def test_get_answers_what_upload_did_and_delete_makes_it_404(service: Service, picture: Path) -> None:
    answer = service.files.upload(file=picture)
    again = service.files.get(name=answer.name)
    assert (again.uri, again.sha256_hash, again.create_time) == (
        answer.uri,
        answer.sha256_hash,
        answer.create_time,
    )
    service.files.delete(name=answer.name)
    assert service.server.files() == {}
    for call in (service.files.get, service.files.delete):
        with pytest.raises(errors.ClientError) as caught:
            call(name=answer.name)
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_a_file_is_gone_after_48_hours(service: Service, picture: Path) -> None:
    name = service.files.upload(file=picture).name
    service.clock.now_s += 48 * 3600 - 1
    later = service.files.upload(file=picture).name
    assert set(service.server.files()) == {name, later}
    service.clock.now_s += 1
    assert set(service.server.files()) == {later}


@over_http
def test_a_name_is_free_again_after_48_hours(service: Service, picture: Path) -> None:
    service.files.upload(file=picture, config={"name": "mine"})
    service.clock.now_s += 48 * 3600
    assert service.files.upload(file=picture, config={"name": "mine"}).name == "files/mine"


def test_uploads_from_many_threads_are_all_stored(service: Service, picture: Path) -> None:
    names: list[str] = []

    def work() -> None:
        names.extend(service.files.upload(file=picture).name for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(names) == set(service.server.files())
    assert len(set(names)) == 20


# Without HTTP.


def test_without_http_uploads_of_different_content_commute(tmp_path: Path, clock: Clock) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "copy-of-a.png"]
    for path, content in zip(paths, [b"a", b"b", b"a"], strict=True):
        path.write_bytes(content)
    first, second = InProcessFiles(now=clock), InProcessFiles(now=clock)
    names = {path: first.upload(file=path).name for path in paths}
    assert {path: second.upload(file=path).name for path in (paths[1], paths[0], paths[2])} == names
    assert first.files() == second.files()
    assert len(set(names.values())) == 3
