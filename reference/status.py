"""Upload statuses: their states, their JSON form, file references and errors. Pure functions only."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from typing import Any

import orjson

PENDING = "pending"
COMPLETED = "completed"
FAILED = "failed"
UNKNOWN = "unknown"

DEFAULT_TTL_S = 3600
"""Uploads finish within about 10 s; the rest is margin for absorbing, and a bound on leaks."""

Status = dict[str, Any]
"""`{"status": str, "result": dict | None, "filename": str | None}`: what a store answers."""

Placeholder = dict[str, Any]
"""`{"upload_uuid": str, "filename": str, "pending": True}`: what stands for an image in a message."""


# uuid.UUID() also takes braces, "urn:uuid:" and white space among the digits; and every status access pays for this.
_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class InvalidUploadIdError(ValueError):
    """The caller's fault, and definite: the upload id is missing or no UUID, and nothing was done."""


class UploadFailedError(RuntimeError):
    """The upload that was waited for has failed."""


def checked_upload_id(upload_id: object) -> str:
    """The id itself where it is a UUID in its usual form; InvalidUploadIdError where it is not."""
    if isinstance(upload_id, str) and _is_uuid(upload_id):
        return upload_id
    shown = repr(upload_id)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    raise InvalidUploadIdError(f"upload id: expected a UUID such as {uuid.UUID(int=0)}, got {shown}")


def unknown() -> Status:
    """The answer for what is not there."""
    return {"status": UNKNOWN, "result": None, "filename": None}


def file_reference(result: Any) -> dict[str, Any] | None:
    """The dict form of a Gemini file; a dict (or None) goes through as it is."""
    if result is None or isinstance(result, dict):
        return result
    create_time: Any = getattr(result, "create_time", None)
    return {
        "type": "google_cloud",
        "uri": result.uri,
        "name": result.name,
        "create_time": create_time.isoformat().replace("+00:00", "Z")
        if isinstance(create_time, datetime)
        else create_time,
    }


def encode(status: str, *, result: Any, filename: str | None, timestamp: float) -> bytes:
    """The stored JSON. `timestamp` is in seconds since the epoch."""
    stored = {"status": status, "filename": filename, "timestamp": timestamp, "result": file_reference(result)}
    try:
        return orjson.dumps(stored)
    except TypeError:  # a file name that is no UTF-8: only json has a form for that
        return json.dumps(stored).encode()


def decode(value: bytes | str | None) -> Status:
    """What a stored value says; None (no value) is `unknown`. Raises ValueError where the JSON is damaged."""
    if value is None:
        return unknown()
    try:
        stored = orjson.loads(value)
    except ValueError:
        stored = json.loads(value)
    return {"status": stored["status"], "result": stored.get("result"), "filename": stored.get("filename")}


def is_pending_placeholder(value: object) -> bool:
    """True for what `upload_file_async` returned; anything else has been resolved already."""
    return isinstance(value, dict) and bool(value.get("pending")) and "upload_uuid" in value
