"""The google-genai client's files service, made from settings."""

from __future__ import annotations

import threading
from typing import Any


class GeminiFiles:
    """Uploads by the unmodified google-genai client, which is built at the first upload.

    `base_url=None` is Google's own address. `timeout_s` bounds each HTTP request; None waits for ever.
    The key is kept in the client alone and is in no message of ours.
    """

    def __init__(self, *, api_key: str, base_url: str | None = None, timeout_s: float | None = None) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: Any = None

    def upload(self, *, file: Any) -> Any:
        """Upload the file at a path, or an open one that has a `mime_type`. Returns google-genai's File."""
        mime_type = getattr(file, "mime_type", None)
        return self._files().upload(file=file, config={"mime_type": mime_type} if mime_type else None)

    def get(self, *, name: str) -> Any:
        """The File as it is now (`state`, `expiration_time`)."""
        return self._files().get(name=name)

    def delete(self, *, name: str) -> None:
        self._files().delete(name=name)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _files(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._make_client()
        return self._client.files

    def _make_client(self) -> Any:
        from google import genai
        from google.genai import types

        # A plain-http address has no certificate to check, and reading the machine's bundle of them
        # takes longer than all else here; neither does a local service sit behind a proxy.
        plain = {"verify": False, "trust_env": False} if (self._base_url or "").startswith("http://") else None
        return genai.Client(
            api_key=self._api_key,
            http_options=types.HttpOptions(
                base_url=self._base_url,
                timeout=None if self._timeout_s is None else int(self._timeout_s * 1000),
                client_args=plain,
                async_client_args=plain,
            ),
        )
