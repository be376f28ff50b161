"""What `durable` takes in: options, ids, placeholders and images, checked before anything is written. No Redis here."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from podrace.reference.status import Placeholder, checked_upload_id, is_pending_placeholder
from podrace.reference.upload_manager import compress_image

MAX_ID_BYTES = 512
"""Of a user's or a message's id: it becomes part of keys' names."""

FILE_LIFE_S = 47 * 3600
"""Gemini keeps a file for 48 h; the last hour is margin for clocks that differ, and for sending."""

_SIGNATURES = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
    (0, b"GIF8", "image/gif"),
    (4, b"ftyphei", "image/heic"),
    (4, b"ftypmif1", "image/heif"),
)


class InvalidInputError(ValueError):
    """Nothing was accepted: the text says what was expected, and what came instead."""


class KeptBytesError(ValueError):
    """Nothing was accepted: the user's waiting images would be larger than `max_kept_bytes`."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a pod; `from_options` leaves out what belongs to other targets."""

    max_workers: int = 4
    absorb_limit: int = 20
    """Fewest ready messages that begin a batch."""
    batch_limit: int = 100
    """Most messages of one batch."""
    compress: bool = True
    lease_s: float = 15.0
    """How long a dead pod holds a user up."""
    upload_timeout_s: float = 30.0
    """An upload of which Gemini takes nothing for so long is given up, and tried again by whoever absorbs next."""
    absorb_timeout_s: float = 300.0
    """A batch that the memory agent has not recorded within so long may be claimed by another pod."""
    upload_attempts: int = 4
    send_attempts: int = 3
    """Refusals by the memory agent after which a batch is taken apart, and a message alone becomes a dead letter."""
    retry_s: float = 0.5
    """The first pause before another attempt; each further one is twice as long, up to 5 s."""
    max_image_bytes: int = 20 * 2**20
    max_kept_bytes: int = 200 * 2**20
    """Of all images of one user that are kept in Redis."""
    keep_bytes: bool = True
    """Until the acknowledgement. Else an upload whose pod dies, or whose file Gemini drops, is named as missing."""
    remember_s: float = 3600.0
    """For how long an acknowledged message is known: longer than callers retry, and than clocks differ."""
    file_life_s: float = FILE_LIFE_S
    """For how long a file may be sent after its upload began."""
    durability: str = "warn"
    """Where the server may lose what it acknowledged: `refuse` to start, `warn`, or `off` (do not look)."""
    wait_replicas: int = 0
    replica_timeout_s: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.keep_bytes, bool):
            raise ValueError(f"option keep_bytes: expected True or False, got {self.keep_bytes!r}")
        if self.durability not in ("refuse", "warn", "off"):
            raise ValueError(f"option durability: expected refuse, warn or off, got {self.durability!r}")
        if self.lease_s <= 0 or self.remember_s < self.lease_s:
            raise ValueError("options lease_s, remember_s: expected 0 < lease_s <= remember_s")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Settings:
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in options.items() if name in names})


DEFAULTS = Settings()


@dataclass(frozen=True)
class NewMessage:
    """A checked message. `images` is what the record holds: placeholders, and files that were resolved already.

    `new` are the placeholders of images that came with it, and their bytes, read now: the files may go.
    """

    user_id: str
    message_id: str
    text: str
    images: tuple[dict[str, Any], ...]
    new: tuple[tuple[Placeholder, bytes], ...]
    again: tuple[Placeholder, ...]
    """Placeholders of earlier messages that this one shows again."""

    def record(self) -> bytes:
        return orjson.dumps({"message_id": self.message_id, "text": self.text, "images": self.images})


def new_placeholder(upload_id: str, filename: str, user_id: str, message_id: str) -> Placeholder:
    return {
        "upload_uuid": upload_id,
        "filename": filename,
        "pending": True,
        "user_id": user_id,
        "message_id": message_id,
    }


def checked_placeholder(placeholder: object, user_id: str | None = None) -> Placeholder:
    """A placeholder that `durable` made, of this user where one is named."""
    if not isinstance(placeholder, dict) or not is_pending_placeholder(placeholder):
        raise InvalidInputError(f"placeholder: expected what add_message returned, got {_shown(placeholder)}")
    try:
        checked_upload_id(placeholder["upload_uuid"])
        owner = checked_id(placeholder.get("user_id"), "user id")
        checked_id(placeholder.get("message_id"), "message id")
    except ValueError as error:
        raise InvalidInputError(f"placeholder {_shown(placeholder)}: {error}") from None
    if user_id is not None and owner != user_id:
        raise InvalidInputError(f"placeholder {_shown(placeholder)}: it is not of user {_shown(user_id)}")
    return placeholder


def read_message(
    user_id: object,
    text: object,
    images: Sequence[Path | str | Mapping[str, Any]],
    message_id: object,
    settings: Settings,
) -> NewMessage:
    """Check a message and read its images. Raises InvalidInputError, before anything is written."""
    user = checked_id(user_id, "user id")
    message = checked_id(message_id, "message id")
    if not isinstance(text, str) or _bytes_of(text) is None:
        raise InvalidInputError(f"text: expected a str that UTF-8 can hold, got {_shown(text)}")
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise InvalidInputError(f"images: expected a list of files and placeholders, got {_shown(images)}")
    shown: list[dict[str, Any]] = []
    new: list[tuple[Placeholder, bytes]] = []
    again: list[Placeholder] = []
    for position, image in enumerate(images):
        if isinstance(image, Mapping):
            shown.append(_known_image(dict(image), user))
            if image.get("pending"):
                again.append(shown[-1])
            continue
        filename = str(image).encode("utf-8", "replace").decode()
        placeholder = new_placeholder(_upload_id(user, message, position), filename, user, message)
        shown.append(placeholder)
        new.append((placeholder, read_image(image, settings)))
    return NewMessage(user, message, text, tuple(shown), tuple(new), tuple(again))


def read_image(image: Path | str, settings: Settings) -> bytes:
    """The image's bytes, compressed where that is asked for and possible."""
    compressed = None
    try:
        compressed = compress_image(str(image)) if settings.compress else None
        # A pipe is refused, not waited for.
        opened = os.open(compressed or image, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            state = os.fstat(opened)
            if not stat.S_ISREG(state.st_mode):
                raise FileNotFoundError("it is no file")
            size = state.st_size
            content = os.read(opened, size) if size <= settings.max_image_bytes else b""
        finally:
            os.close(opened)
    except (OSError, TypeError, ValueError) as error:
        raise InvalidInputError(f"image {_shown(image)}: cannot be read: {error}") from error
    finally:
        if compressed:
            Path(compressed).unlink(missing_ok=True)
    if size > settings.max_image_bytes:
        most = settings.max_image_bytes
        raise InvalidInputError(f"image {_shown(image)}: expected at most {most} bytes, got {size}")
    if mime_type(content) is None:
        raise InvalidInputError(f"image {_shown(image)}: expected PNG, JPEG, WebP, GIF, HEIC or HEIF, got none of them")
    return content


def mime_type(content: bytes) -> str | None:
    """By the first bytes: names lie, and what is compressed has another kind than its name says."""
    return next((kind for at, sign, kind in _SIGNATURES if content[at : at + len(sign)] == sign), None)


def _upload_id(user_id: str, message_id: str, position: int) -> str:
    """Made from the message's: an accept that is sent again makes the same one. In the form of a UUID, version 8."""
    name = f"{len(user_id)} {user_id} {len(message_id)} {message_id} {position}"
    digits = sha256(name.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def _known_image(image: dict[str, Any], user_id: str) -> dict[str, Any]:
    if image.get("pending"):
        return checked_placeholder(image, user_id)
    try:
        orjson.dumps(image)
    except TypeError as error:
        raise InvalidInputError(f"image {_shown(image)}: {error}") from None
    if not isinstance(image.get("uri"), str):
        raise InvalidInputError(f"image {_shown(image)}: expected a file, a placeholder, or a dict with a uri")
    return image


def checked_id(value: object, noun: str) -> str:
    """The id of a user or a message; `noun` says which."""
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES and value.isascii():
        return value  # each read of a status passes here
    encoded = _bytes_of(value) if isinstance(value, str) else None
    if not encoded or len(encoded) > MAX_ID_BYTES:
        raise InvalidInputError(f"{noun}: expected a text of 1 to {MAX_ID_BYTES} bytes of UTF-8, got {_shown(value)}")
    assert isinstance(value, str)
    return value


def _bytes_of(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def _shown(value: object) -> str:
    """A value in an error: short, whatever it is."""
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:40]!r}... ({len(value)} characters)"
    shown = repr(value)
    return shown if len(shown) <= 120 else shown[:117] + "..."
