"""The files service without HTTP: what a pod calls in place of google-genai's `client.files`."""

from __future__ import annotations

import copy
import io
import mimetypes
import os
import time
from collections.abc import Iterator
from typing import Any

from podrace.simulator.servers.files_api.store import (
    STATUS_NAMES,
    Clock,
    FileRecord,
    FileStore,
    Identify,
    RefusalError,
    owner_of,
)


class InProcessFiles:
    """The service as one API key sees it; `now`, `identify` and `processing_s` are FileStore's.

    `store` is the harness's: `.files()`, `.change(name, state="FAILED")`, `.processing_s = 5.0`. Pods get the
    errors of google-genai: ClientError where the service refuses, FileNotFoundError, ValueError for an unknown
    MIME type, UnicodeEncodeError for a file name that is not ASCII. Thread-safe.
    """

    url = "http://files.invalid"

    def __init__(self, *, now: Clock = time.time, identify: Identify | None = None, processing_s: float = 0.0) -> None:
        self.store = FileStore(now, identify, processing_s, _client_error)
        self._owner = ""

    def with_key(self, key: str) -> InProcessFiles:
        """The same service, for pods with another API key."""
        other = copy.copy(self)
        other._owner = owner_of(key)
        return other

    def files(self) -> dict[str, FileRecord]:
        """Every stored file, whichever key's, by its name, `files/...`; oldest first."""
        return self.store.files()

    def upload(self, *, file: str | os.PathLike[str] | io.IOBase, config: Any = None) -> FileRecord:
        """Store the file at a path, or what is left to read of a binary file.

        `config` may hold `name`, `display_name` and `mime_type`: a dict, or google-genai's UploadFileConfig.
        """
        asked = config if isinstance(config, dict) else vars(config) if config else {}
        name, mime_type = asked.get("name"), asked.get("mime_type")
        path = None if isinstance(file, io.IOBase) else os.fspath(file)
        if path is not None and not os.path.isfile(path):
            raise FileNotFoundError(f"{file} is not a valid file path.")
        mime_type = mime_type or getattr(file, "mime_type", None) or (path and mimetypes.guess_type(path)[0])
        if not mime_type:
            raise ValueError(f"Unknown mime type: {file}: expected a known suffix, or `mime_type` in the config")
        os.path.basename(path or "").encode("ascii")  # a header of google-genai's, which fails so on any other letter
        return self.store.add(
            file.read() if isinstance(file, io.IOBase) else _content(file),
            name=name if name is None else _full(name),
            owner=self._owner,
            base_url=self.url,
            display_name=asked.get("display_name"),
            mime_type=mime_type,
        )

    def get(self, *, name: str, config: Any = None) -> FileRecord:
        """The file as it is now. ClientError for one that is gone (404) or another key's (403)."""
        return self.store.get(_full(name), self._owner)

    def delete(self, *, name: str, config: Any = None) -> None:
        """Errors as get's."""
        self.store.get(_full(name), self._owner, delete=True)

    def list(self, *, config: Any = None) -> Iterator[FileRecord]:
        """This key's files, oldest first."""
        return iter(self.store.files(self._owner).values())


def unavailable(code: int = 503) -> Exception:
    """What google-genai raises where the service answers with that HTTP status."""
    from google.genai.errors import ClientError, ServerError

    message = "The service is currently unavailable."
    kind = ServerError if code >= 500 else ClientError
    return kind(code, {"error": {"code": code, "message": message, "status": STATUS_NAMES.get(code, "UNKNOWN")}})


def _content(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb", buffering=0) as opened:
        return opened.read()


def _full(name: str) -> str:
    return name if name.startswith("files/") else f"files/{name}"


def _client_error(code: int, message: str) -> Exception:
    from google.genai.errors import ClientError  # takes a second to load, and nothing else here needs it

    return ClientError(code, RefusalError(code, message).body)
