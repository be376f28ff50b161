"""The contract of the service with HTTP and without, and what is true only without HTTP."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from google import genai
from google.genai import errors, types

from podrace.simulator.servers.files_api import FilesApi, InProcessFiles


class Clock(Protocol):
    """Epoch seconds that only a test moves on."""

    now_s: float

    def __call__(self) -> float: ...


# One contract for the service over HTTP and the one without.


@dataclass(frozen=True)
class Service:
    """The service under contract: what a pod calls, with two keys, and what the harness reads and sets."""

    files: Any
    other_key: Any
    server: FilesApi | InProcessFiles
    clock: Clock
    seen: list[bytes]


def client(url: str, key: str) -> genai.Client:
    no_tls = {"verify": False}  # the server speaks plain HTTP; certificates would take 50 ms a client
    options = types.HttpOptions(base_url=url, timeout=10_000, client_args=no_tls, async_client_args=no_tls)
    return genai.Client(api_key=key, http_options=options)


@contextmanager
def serving(form: str, clock: Clock) -> Iterator[Service]:
    seen = list[bytes]()

    def identify(content: bytes) -> str:
        seen.append(content)
        return f"mark-{len(content)}"

    if form == "in-process":
        local = InProcessFiles(now=clock, identify=identify)
        yield Service(local.with_key("mine"), local.with_key("other"), local, clock, seen)
        return
    with FilesApi(now=clock, identify=identify) as api:
        mine, other = client(api.url, "mine"), client(api.url, "other")
        try:
            yield Service(mine.files, other.files, api, clock, seen)
        finally:
            mine.close()
            other.close()


@pytest.fixture(params=["http", "in-process"])
def service(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Service]:
    with serving(request.param, clock) as running:
        yield running


def refusal(call: Callable[..., Any], **arguments: Any) -> errors.ClientError:
    with pytest.raises(errors.ClientError) as caught:
        call(**arguments)
    return caught.value


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[int, str | None]:
    error = refusal(call, **arguments)
    return error.code, error.status


def test_an_upload_is_stored_and_answered_with_its_attributes(service: Service, picture: Path) -> None:
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
    assert (answer.state, answer.state.name, answer.display_name) == (types.FileState.ACTIVE, "ACTIVE", None)
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


def test_a_display_name_is_kept(service: Service, picture: Path) -> None:
    assert service.files.upload(file=picture, config={"display_name": "Photo"}).display_name == "Photo"


@pytest.mark.parametrize("name", ["a", "123-456", "a" * 40, "files/with-prefix"])
def test_a_name_that_keeps_the_rule_is_given(service: Service, picture: Path, name: str) -> None:
    answer = service.files.upload(file=picture, config={"name": name})
    assert answer.name == f"files/{name.removeprefix('files/')}"


@pytest.mark.parametrize("name", ["a" * 41, "-a", "a-", "Upper", "under_score", "a/b", "", "ä", "a\n"])
def test_a_name_that_breaks_the_rule_is_refused(service: Service, picture: Path, name: str) -> None:
    assert refused(service.files.upload, file=picture, config={"name": name}) == (400, "INVALID_ARGUMENT")
    assert service.server.files() == {}


def test_a_name_is_given_only_once_whatever_the_key(service: Service, picture: Path) -> None:
    service.files.upload(file=picture, config={"name": "mine"})
    for files in (service.files, service.other_key):
        assert refused(files.upload, file=picture, config={"name": "mine"}) == (409, "ALREADY_EXISTS")


def test_a_binary_file_is_uploaded_from_its_current_position(service: Service, picture: Path) -> None:
    config = types.UploadFileConfig(mime_type="image/png", display_name="Photo")
    with picture.open("rb") as opened:
        opened.seek(99_000)
        answers = [service.files.upload(file=opened, config=config)]
    answers.append(service.files.upload(file=io.BytesIO(b"abc"), config={"mime_type": "image/webp"}))
    assert [(a.size_bytes, a.mime_type, a.display_name) for a in answers] == [
        (1000, "image/png", "Photo"),
        (3, "image/webp", None),
    ]
    assert service.seen == [picture.read_bytes()[99_000:], b"abc"]
    with pytest.raises(ValueError, match="mime type"):
        service.files.upload(file=io.BytesIO(b"abc"))


def test_get_answers_what_upload_did_and_delete_makes_it_404(service: Service, picture: Path) -> None:
    answer = service.files.upload(file=picture)
    for name in (answer.name, answer.name.removeprefix("files/")):
        assert told(service.files.get(name=name)) == told(answer)
    service.files.delete(name=answer.name)
    assert service.server.files() == {}
    for call in (service.files.get, service.files.delete):
        assert refused(call, name=answer.name) == (404, "NOT_FOUND")


def told(file: Any) -> dict[str, Any]:
    """The attributes of a file that are set, of all that google-genai has."""
    return {name: getattr(file, name) for name in types.File.model_fields}


def test_another_keys_file_is_403_and_not_listed(service: Service, picture: Path) -> None:
    mine = [service.files.upload(file=picture).name for _ in range(12)]
    others = service.other_key.upload(file=picture).name
    assert others not in mine
    for call in (service.other_key.get, service.other_key.delete):
        assert refused(call, name=mine[0]) == (403, "PERMISSION_DENIED")
    assert [file.name for file in service.files.list()] == mine
    assert [file.name for file in service.other_key.list()] == [others]
    assert list(service.server.files()) == [*mine, others]
    service.files.delete(name=mine[0])
    assert [file.name for file in service.files.list()] == mine[1:]


def test_a_file_can_be_given_to_another_key(service: Service, picture: Path) -> None:
    name = service.files.upload(file=picture).name
    service.server.store.change(name, key="other")
    assert refused(service.files.get, name=name) == (403, "PERMISSION_DENIED")
    assert (service.other_key.get(name=name).name, list(service.files.list())) == (name, [])
    with pytest.raises(KeyError):
        service.server.store.change("files/none", key="other")


def test_a_file_is_processing_and_then_active(service: Service, picture: Path) -> None:
    service.server.store.processing_s = 5.0
    answer = service.files.upload(file=picture)
    service.clock.now_s += 4.75
    states = [answer.state, service.files.get(name=answer.name).state, next(iter(service.files.list())).state]
    assert states == [types.FileState.PROCESSING] * 3
    service.clock.now_s += 0.25
    assert service.files.get(name=answer.name).state == types.FileState.ACTIVE
    assert service.server.files()[answer.name].state == "ACTIVE"


@pytest.mark.parametrize("state", ["FAILED", "PROCESSING"])
def test_a_file_can_be_made_to_fail_or_to_stay_in_processing(service: Service, picture: Path, state: str) -> None:
    name = service.files.upload(file=picture).name
    service.server.store.change(name, state=state)
    service.clock.now_s += 3600
    assert service.files.get(name=name).state.name == state
    service.server.store.change(name, state="ACTIVE")
    assert service.files.get(name=name).state.name == "ACTIVE"
    with pytest.raises(ValueError, match="LOST"):
        service.server.store.change(name, state="LOST")


def test_both_forms_answer_alike(clock: Clock, picture: Path) -> None:
    def answers(service: Service) -> list[Any]:
        files = service.files
        got = [files.upload(file=picture), files.upload(file=picture, config={"name": "a"})]
        got.append(service.other_key.upload(file=picture, config={"display_name": "Photo"}))
        service.server.store.change("files/a", state="FAILED")
        got += [files.get(name="a"), *files.list()]
        names = [got[2].name, "none"]
        refusals = [refusal(call, name=name).args for call in (files.get, files.delete) for name in names]
        return [{**told(file), "uri": file.uri.removeprefix(service.server.url)} for file in got] + refusals

    with serving("http", clock) as http, serving("in-process", clock) as in_process:
        assert answers(http) == answers(in_process)


def test_a_file_is_gone_after_48_hours(service: Service, picture: Path) -> None:
    name = service.files.upload(file=picture).name
    service.clock.now_s += 48 * 3600 - 1
    later = service.files.upload(file=picture).name
    assert set(service.server.files()) == {name, later}
    service.clock.now_s += 1
    assert set(service.server.files()) == {file.name for file in service.files.list()} == {later}
    assert refused(service.files.get, name=name) == (404, "NOT_FOUND")


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


def test_without_http_names_depend_on_the_key_too(clock: Clock, picture: Path) -> None:
    files = InProcessFiles(now=clock)
    names = [view.upload(file=picture).name for view in (files, files.with_key("a"), files.with_key("b"), files)]
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()[:24]
    assert (names[0], names[3]) == (f"files/{digest}-1", f"files/{digest}-2")
    again = InProcessFiles(now=clock)
    assert [again.with_key(key).upload(file=picture).name for key in ("b", "a")] == [names[2], names[1]]
    assert len(set(names)) == 4


def test_google_genai_is_loaded_only_for_a_refusal(picture: Path) -> None:
    program = """if True:
        import sys
        from podrace.simulator.servers.files_api import InProcessFiles
        files = InProcessFiles()
        name = files.upload(file=sys.argv[1]).name
        files.get(name=name), list(files.list()), files.delete(name=name)
        assert "google.genai" not in sys.modules and "pydantic" not in sys.modules
        try:
            files.get(name=name)
        except Exception as error:
            print(type(error).__module__, error.code)
        """
    command = [sys.executable, "-c", program, str(picture)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "google.genai.errors 404\n"
