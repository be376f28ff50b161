"""Input that `durable` refuses: each gets one clear error, and nothing is half-accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference import durable_input
from podrace.reference.durable import DurablePod
from podrace.reference.durable_dead_letters import DeadLetters
from podrace.reference.durable_input import mime_type
from podrace.reference.memory import MemoryLedger

if TYPE_CHECKING:
    from tests.conftest import VirtualRuntime
    from tests.reference.conftest import Gemini

MakePod = Callable[..., DurablePod]

HOSTILE = [
    "*",
    "?",
    "{}",
    "}{",
    "a:b",
    "a\nb",
    "a b",
    "[a-z]",
    "\\",
    "%7B",
    "ä€😀",
    "\x00",
    "x" * 512,
    "queue",
    "'\"",
    "../a",
]
BAD_IDS = [None, "", 7, b"ann", ["ann"], "x" * 513, "ä" * 257, "x" * 2**20, "\ud800"]


def of_a_pod(client: redis.Redis) -> list[bytes]:
    return sorted(client.keys("*"))


@pytest.mark.parametrize("user", HOSTILE)
def test_special_characters_in_ids_have_no_effect(
    pod: DurablePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, redis_client: redis.Redis, user: str
) -> None:
    others = [other for other in HOSTILE if other != user]
    for other in others[:3]:
        pod.add_message(other, "other", [], user)
    (placeholder,) = pod.add_message(user, "1", [png], user)
    pod.add_message(user, "2", [placeholder], f"{user[:200]}*")
    runtime.run()
    assert pod.upload_status(placeholder)["status"] == "completed"
    assert pod.absorb(user) == 2
    ((_, recorded_user, parts),) = ledger.batches()
    assert recorded_user == user
    assert [part["type"] for part in parts] == ["text", "google_cloud_file_uri"] * 2
    for key in redis_client.scan_iter():
        assert key.count(b"{") == key.count(b"}") == 1, "braces in an id must not change the hash tag"
        assert key.isascii()
        assert b"\n" not in key
    for other in others[:3]:
        assert pod.absorb(other) == 1


@pytest.mark.parametrize("bad", BAD_IDS, ids=lambda bad: repr(bad)[:12])
def test_invalid_ids_are_refused(
    pod: DurablePod, redis_client: redis.Redis, letters: DeadLetters, png: Path, bad: Any
) -> None:
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("user id", lambda: pod.add_message(bad, "1", [png], "m1")),
        ("message id", lambda: pod.add_message("ann", "1", [png], bad)),
        ("user id", lambda: pod.absorb(bad)),
        ("user id", lambda: letters.requeue(bad, "m1")),
        ("message id", lambda: letters.requeue("ann", bad)),
    ]
    for what, call in calls:
        with pytest.raises(durable_input.InvalidInputError, match=f"^{what}: expected a text of 1 to 512") as refused:
            call()
        assert len(str(refused.value)) < 250
    assert of_a_pod(redis_client) == []


@pytest.mark.parametrize("bad", [None, 7, b"text", "\ud800"])
def test_invalid_texts_are_refused(pod: DurablePod, redis_client: redis.Redis, bad: Any) -> None:
    with pytest.raises(durable_input.InvalidInputError, match=r"^text: expected a str"):
        pod.add_message("ann", bad, [], "m1")
    assert of_a_pod(redis_client) == []


def test_invalid_images_are_refused(
    make_durable: MakePod, redis_client: redis.Redis, png: Path, tmp_path: Path, runtime: VirtualRuntime
) -> None:
    pod = make_durable(options={"max_image_bytes": png.stat().st_size})
    large = tmp_path / "large.png"
    large.write_bytes(png.read_bytes() + b"x")
    text = tmp_path / "text.png"
    text.write_text("no image")
    (of_bob,) = pod.add_message("bob", "1", [png], "m1")
    before = of_a_pod(redis_client)
    bad: list[tuple[Any, str]] = [
        (tmp_path / "gone.png", "cannot be read: "),
        (tmp_path, "cannot be read: it is no file"),
        ("a\x00b", "cannot be read: "),
        (None, "cannot be read: "),
        (large, "expected at most [0-9]+ bytes, got "),
        (text, "expected PNG, JPEG, "),
        (of_bob, "it is not of user 'ann'"),
        ({**of_bob, "user_id": "ann"}, "are forgotten; hand in the files again"),
        ({**of_bob, "user_id": "ann", "upload_uuid": "x"}, "upload id: expected a UUID"),
        ({"pending": True}, "placeholder: expected what add_message returned"),
        ({"uri": 7}, "expected a file, a placeholder, or a dict with a uri"),
        ({"uri": "u", "more": object()}, "not JSON serializable"),
    ]
    for image, said in bad:
        with pytest.raises(durable_input.InvalidInputError, match=said):
            pod.add_message("ann", "1", [png, image], "m1")
    assert of_a_pod(redis_client) == before
    assert pod.add_message("ann", "1", [png], "m1"), "a refused message must be accepted when it is handed in again"


@pytest.mark.parametrize("bad", [None, "image.png", b"image.png", 7])
def test_a_value_that_is_no_list_of_images_is_refused(pod: DurablePod, redis_client: redis.Redis, bad: Any) -> None:
    with pytest.raises(durable_input.InvalidInputError, match="images: expected a list"):
        pod.add_message("ann", "1", bad, "m1")
    assert of_a_pod(redis_client) == []


def test_the_status_of_an_invalid_placeholder_is_refused(pod: DurablePod) -> None:
    with pytest.raises(durable_input.InvalidInputError):
        pod.upload_status({"upload_uuid": "0f8fad5b-d9cb-469f-a165-70867728950e", "filename": "a", "pending": True})
    with pytest.raises(durable_input.InvalidInputError):
        pod.upload_statuses([{}])
    with pytest.raises(durable_input.InvalidInputError):
        pod.wait_for_upload({"upload_uuid": "x", "pending": True})


def test_kept_bytes_of_a_user_are_limited(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis, ledger: MemoryLedger
) -> None:
    pod = make_durable(options={"max_kept_bytes": 2 * png.stat().st_size})
    pod.add_message("ann", "1", [png, png], "m1")
    pod.add_message("ann", "text needs no room", [], "m2")
    pod.add_message("bob", "has room of his own", [png], "m1")
    with pytest.raises(durable_input.KeptBytesError):
        pod.add_message("ann", "3", [png], "m3")
    assert redis_client.lrange("mirix:durable:{ann}:queue", 0, -1) == [b"m1", b"m2"]
    runtime.run()
    assert pod.absorb("ann") == 2
    pod.add_message("ann", "3", [png, png], "m3")
    with pytest.raises(durable_input.KeptBytesError):
        pod.add_message("ann", "4", [png], "m4")


@pytest.mark.parametrize("keep", [True, False])
def test_the_option_keep_bytes_decides_whether_image_bytes_are_kept(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis, keep: bool
) -> None:
    pod = make_durable(options={"keep_bytes": keep})
    pod.add_message("ann", "1", [png], "m1")
    kept = "mirix:durable:{ann}:bytes"
    assert redis_client.hlen(kept) == keep
    runtime.run()
    assert redis_client.hlen(kept) == keep
    assert int(redis_client.hget("mirix:durable:{ann}:state", "kept") or 0) == keep * png.stat().st_size
    assert pod.absorb("ann") == 1
    assert redis_client.hlen(kept) == 0
    assert int(redis_client.hget("mirix:durable:{ann}:state", "kept") or 0) == 0


def test_images_are_compressed_before_they_are_kept(
    make_durable: MakePod, runtime: VirtualRuntime, make_image: Callable[..., Path], gemini: Gemini, corrupt_png: Path
) -> None:
    pod = make_durable(options={"compress": True})
    large = make_image("large.png", size=(4000, 100))
    pod.add_message("ann", "1", [large, corrupt_png], "m1")
    runtime.run()
    assert mime_type(gemini.contents[0]) == "image/jpeg"
    assert gemini.contents[1] == corrupt_png.read_bytes()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x89PNG\r\n\x1a\nrest", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF0000WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"\x00\x00\x00\x18ftypheic", "image/heic"),
        (b"\x00\x00\x00\x18ftypmif1", "image/heif"),
        (b"", None),
        (b"%PDF", None),
    ],
)
def test_the_type_of_an_image_is_recognised_from_its_bytes(content: bytes, expected: str | None) -> None:
    assert mime_type(content) == expected
