"""One HTTP request to the local Gemini Files API: read, told apart by what it asks, and its reply rendered.

Parsed here, not by http.server: its email parser costs more than all that we do for a request. What it
knows of the resumable upload protocol is what google-genai 3.4 sends.
"""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from simulator.files_store import STATUS_NAMES, RefusalError

READ_BYTES = 256 * 1024
ROUTE = re.compile(r"(/upload)?/v1(?:alpha|beta)?/files(/.+)?")  # google-genai 3.4 asks for v1 by default

Phase = Literal["start", "upload", "finalize", "query", "get", "list", "delete"]
# In this order, because "upload, finalize" is a finalize.
UPLOAD_PHASES: tuple[Phase, ...] = ("start", "query", "finalize", "upload")
METHODS: dict[tuple[str, str | None, bool], Phase] = {
    ("POST", "/upload", False): "start",  # or what the X-Goog-Upload-Command says
    ("GET", None, False): "list",
    ("GET", None, True): "get",
    ("DELETE", None, True): "delete",
}


class HangUpError(Exception):
    """End the connection without a reply."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One HTTP request being read: its head, and how much of its body is still to come."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    has_key: bool
    reader: io.BufferedReader
    body_left: int
    keep_alive: bool

    def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        chunk = self.reader.read1(min(self.body_left, limit_bytes))
        if not chunk:
            raise HangUpError  # the client is gone
        self.body_left -= len(chunk)
        return chunk


def whole_number(values: Mapping[str, str], key: str) -> int | None:
    text = values.get(key)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RefusalError(400, f"{key}: expected a whole number.")
    return int(text)


def read_call(reader: io.BufferedReader, connection: socket.socket) -> Call | None:
    """The next request of a connection; None where there is none or where it is no HTTP/1.1."""
    words = reader.readline(65536).split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline(65536)) not in (b"\r\n", b"\n", b""):
        key, _, value = line.decode("utf-8", "replace").partition(":")
        headers[key.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not line or "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        return None
    has_key = bool(headers.pop("x-goog-api-key", ""))  # only whether there is one: a key goes no further
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    target = urlsplit(words[1].decode("latin-1"))
    return Call(
        method=words[0].decode("latin-1"),
        path=target.path,
        query=dict(parse_qsl(target.query)),
        headers=headers,
        has_key=has_key,
        reader=reader,
        body_left=int(length),
        keep_alive=words[2] != b"HTTP/1.0" and headers.get("connection", "").lower() != "close",
    )


def phase_of(call: Call) -> Phase:
    route = ROUTE.fullmatch(call.path)
    if route is None or (call.method, route[1], bool(route[2])) not in METHODS:
        raise RefusalError(404, f"There is no {call.method} {call.path} here.")
    if call.method == "POST":
        commands = {word.strip() for word in call.headers.get("x-goog-upload-command", "").split(",")}
        for phase in UPLOAD_PHASES:
            if phase in commands:
                return phase
        raise RefusalError(400, "X-Goog-Upload-Command: expected start, query, upload or finalize.")
    return METHODS[call.method, route[1], bool(route[2])]


def render(code: int, body: dict[str, Any] | None, headers: dict[str, str], keep_alive: bool) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {code} {STATUS_NAMES.get(code, 'OK')}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    lines += ["Content-Type: application/json; charset=UTF-8", f"Content-Length: {len(content)}"]
    lines += [] if keep_alive else ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content
