"""What a user writes for podrace: how to build a pod of plain code, and which methods it has."""

from __future__ import annotations

from typing import Any

import podrace


@podrace.own("cases.plain_upload_manager", "cases.plain_accumulator")
def threaded(env: podrace.PodEnv) -> Any:
    from google import genai

    from cases.plain_accumulator import Accumulator
    from cases.plain_upload_manager import UploadManager

    uploads = UploadManager(genai.Client(api_key="no secret"))
    accumulator = Accumulator(uploads, env.memory.send, env.options["absorb_limit"])
    accumulator.upload_status = uploads.get_upload_status
    return accumulator


@podrace.own("cases.plain_async_uploads")
def asynchronous(env: podrace.PodEnv) -> Any:
    from cases.plain_async_uploads import Service

    return Service(env.memory.send)
