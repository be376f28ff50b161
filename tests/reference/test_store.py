"""The contract of a store: every test runs once for each entry of STORES."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.runtime import ThreadRuntime
from podrace.reference.status import InvalidUploadIdError
from podrace.reference.store import LocalStore, RedisStore, UploadStore

if TYPE_CHECKING:
    from tests.conftest import File

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
UNKNOWN = {"status": "unknown", "result": None, "filename": None}
REFERENCE = {
    "type": "google_cloud",
    "uri": "https://files.test/file.png",
    "name": "file123.png",
    "create_time": "2025-01-01T00:00:00Z",
}


@dataclass(frozen=True)
class Kind:
    """One kind of store. `open` makes a pod's store from that pod's connection."""

    open: Callable[[redis.Redis], UploadStore]
    seen_by_other_pods: bool


STORES = {
    "local": Kind(lambda client: LocalStore(ThreadRuntime()), seen_by_other_pods=False),
    "redis": Kind(lambda client: RedisStore(client, ThreadRuntime()), seen_by_other_pods=True),
}

OpenStore = Callable[[], UploadStore]


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> Kind:
    return STORES[request.param]


@pytest.fixture
def open_store(kind: Kind, open_client: Callable[..., redis.Redis]) -> OpenStore:
    return lambda: kind.open(open_client())


@pytest.fixture
def store(open_store: OpenStore) -> UploadStore:
    return open_store()


def test_a_status_that_was_never_stored_is_unknown(store: UploadStore) -> None:
    assert store.get_upload_status(ID) == UNKNOWN


def test_a_pending_status_is_read_back(store: UploadStore) -> None:
    store.set_upload_status(ID, "pending", filename="photo.png")
    assert store.get_upload_status(ID) == {"status": "pending", "result": None, "filename": "photo.png"}
    assert store.get_upload_status(OTHER_ID) == UNKNOWN


def test_a_failed_status_is_read_back(store: UploadStore) -> None:
    store.set_upload_status(ID, "failed", filename="photo.png")
    assert store.get_upload_status(ID) == {"status": "failed", "result": None, "filename": "photo.png"}


def test_filename_may_be_left_out(store: UploadStore) -> None:
    store.set_upload_status(ID, "pending")
    assert store.get_upload_status(ID) == {"status": "pending", "result": None, "filename": None}


def test_a_filename_that_is_no_utf_8_comes_back_as_it_was(store: UploadStore) -> None:
    store.set_upload_status(ID, "pending", filename="caf\udce9.png")
    assert store.get_upload_status(ID)["filename"] == "caf\udce9.png"


def test_completed_with_a_dict_as_it_is(store: UploadStore) -> None:
    result = {**REFERENCE, "more": {"ä": [1, None]}}
    store.set_upload_status(ID, "completed", result=result, filename="photo.png")
    assert store.get_upload_status(ID) == {"status": "completed", "result": result, "filename": "photo.png"}


@pytest.mark.parametrize(
    ("create_time", "stored"),
    [
        (datetime(2025, 1, 1, tzinfo=UTC), "2025-01-01T00:00:00Z"),
        ("2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        (None, None),
    ],
)
def test_completed_with_a_file_object_becomes_a_dict(
    store: UploadStore, make_file: type[File], create_time: Any, stored: str | None
) -> None:
    file = make_file(REFERENCE["uri"], REFERENCE["name"], create_time)
    store.set_upload_status(ID, "completed", result=file, filename="photo.png")
    answer = store.get_upload_status(ID)
    assert answer == {
        "status": "completed",
        "result": {**REFERENCE, "create_time": stored},
        "filename": "photo.png",
    }
    assert type(answer["result"]) is dict


def test_a_deleted_status_is_unknown(store: UploadStore) -> None:
    store.set_upload_status(ID, "completed", result=REFERENCE)
    store.set_upload_status(OTHER_ID, "pending")
    store.delete_upload_status(ID)
    assert store.get_upload_status(ID) == UNKNOWN
    assert store.get_upload_status(OTHER_ID)["status"] == "pending"


def test_deleting_a_missing_status_does_nothing(store: UploadStore) -> None:
    store.delete_upload_status(ID)
    assert store.get_all_upload_statuses() == {}


REFUSED = [
    None,
    "",
    "no-uuid",
    7,
    b"0f8fad5b-d9cb-469f-a165-70867728950e",
    f"{ID}\n",
    "{" + ID + "}",
    f"urn:uuid:{ID}",
    ID.replace("-", ""),
    "\n" + ID[1:],
    "*",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("upload_id", REFUSED, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("function", ["set", "get", "delete"])
def test_missing_or_malformed_id_is_refused_in_one_clear_line(
    store: UploadStore, function: str, upload_id: Any
) -> None:
    call: Callable[[Any], Any] = {
        "set": lambda upload_id: store.set_upload_status(upload_id, "pending"),
        "get": store.get_upload_status,
        "delete": store.delete_upload_status,
    }[function]
    with pytest.raises(InvalidUploadIdError) as refused:
        call(upload_id)
    message = str(refused.value)
    assert message.startswith("upload id: expected a UUID")
    assert "\n" not in message
    assert len(message) < 200
    assert repr(upload_id)[:50] in message
    assert isinstance(refused.value, ValueError)
    assert store.get_all_upload_statuses() == {}


def test_upper_case_id_is_accepted(store: UploadStore) -> None:
    store.set_upload_status(ID.upper(), "pending")
    assert store.get_upload_status(ID.upper())["status"] == "pending"


@pytest.mark.parametrize(("status", "result"), [("completed", REFERENCE), ("failed", None)])
def test_a_pending_status_is_replaced_by_a_final_one(
    store: UploadStore, status: str, result: dict[str, Any] | None
) -> None:
    store.set_upload_status(ID, "pending", filename="photo.png")
    store.set_upload_status(ID, status, result=result, filename="photo.png")
    assert store.get_upload_status(ID) == {"status": status, "result": result, "filename": "photo.png"}


def test_overwriting_replaces_the_whole_status(store: UploadStore) -> None:
    store.set_upload_status(ID, "completed", result=REFERENCE, filename="photo.png")
    store.set_upload_status(ID, "pending", filename="other.png")
    assert store.get_upload_status(ID) == {"status": "pending", "result": None, "filename": "other.png"}


def test_changing_a_returned_status_does_not_change_the_stored_one(store: UploadStore) -> None:
    store.set_upload_status(ID, "pending")
    store.get_upload_status(ID)["status"] = "failed"
    store.get_all_upload_statuses()[ID]["status"] = "failed"
    store.get_upload_status(OTHER_ID)["status"] = "failed"
    assert store.get_upload_status(ID)["status"] == "pending"
    assert store.get_upload_status(OTHER_ID) == UNKNOWN


def test_one_pod_creates_and_another_reads(kind: Kind, open_store: OpenStore) -> None:
    """Why the shared store exists: no other pod knows a local status."""
    pod_a, pod_b = open_store(), open_store()
    pod_a.set_upload_status(ID, "pending", filename="photo.png")
    seen_while_pending = pod_b.get_upload_status(ID)
    pod_a.set_upload_status(ID, "completed", result=REFERENCE, filename="photo.png")
    seen_at_the_end = pod_b.get_upload_status(ID)
    if kind.seen_by_other_pods:
        assert seen_while_pending == {"status": "pending", "result": None, "filename": "photo.png"}
        assert seen_at_the_end == {"status": "completed", "result": REFERENCE, "filename": "photo.png"}
    else:
        assert seen_while_pending == seen_at_the_end == UNKNOWN


def test_several_pods_read_one_upload(kind: Kind, open_store: OpenStore) -> None:
    writer, readers = open_store(), [open_store() for _ in range(5)]
    writer.set_upload_status(ID, "completed", result=REFERENCE)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda reader: reader.get_upload_status(ID)["status"], readers * 10))
    assert answers == ["completed" if kind.seen_by_other_pods else "unknown"] * 50


def test_delete_by_another_pod(kind: Kind, open_store: OpenStore) -> None:
    pod_a, pod_b = open_store(), open_store()
    pod_a.set_upload_status(ID, "completed", result=REFERENCE)
    pod_b.delete_upload_status(ID)
    expected = "unknown" if kind.seen_by_other_pods else "completed"
    assert pod_a.get_upload_status(ID)["status"] == expected


def test_many_concurrent_uploads(store: UploadStore) -> None:
    upload_ids = [str(uuid.UUID(int=number)) for number in range(200)]

    def upload(number: int) -> None:
        store.set_upload_status(upload_ids[number], "pending", filename=f"{number}.png")
        result = {**REFERENCE, "uri": f"https://files.test/{number}"}
        store.set_upload_status(upload_ids[number], "completed", result=result, filename=f"{number}.png")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(200)))
    for number, upload_id in enumerate(upload_ids):
        answer = store.get_upload_status(upload_id)
        assert answer["result"]["uri"] == f"https://files.test/{number}"
        assert answer["filename"] == f"{number}.png"
    assert len(store.get_all_upload_statuses()) == 200


def test_all_statuses(store: UploadStore) -> None:
    assert store.get_all_upload_statuses() == {}
    store.set_upload_status(ID, "completed", result=REFERENCE, filename="photo.png")
    store.set_upload_status(OTHER_ID, "pending", filename="other.png")
    assert store.get_all_upload_statuses() == {
        ID: {"status": "completed", "result": REFERENCE, "filename": "photo.png"},
        OTHER_ID: {"status": "pending", "result": None, "filename": "other.png"},
    }


def test_all_of_more_than_a_thousand_statuses(store: UploadStore) -> None:
    upload_ids = {str(uuid.UUID(int=number)) for number in range(2300)}
    for upload_id in upload_ids:
        store.set_upload_status(upload_id, "pending", filename=upload_id)
    everything = store.get_all_upload_statuses()
    assert set(everything) == upload_ids
    assert all(status["filename"] == upload_id for upload_id, status in everything.items())
