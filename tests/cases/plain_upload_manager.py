"""Background uploads as in a service that was written for a single process: nothing here knows of podrace."""

import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)


class UploadManager:
    def __init__(self, client, max_workers=4, timeout=10):
        self.client = client
        self.executor = ThreadPoolExecutor(max_workers=max_workers)
        self.timeout = timeout
        self._statuses = {}
        self._lock = threading.Lock()

    def upload_file_async(self, filename):
        upload_uuid = str(uuid.uuid4())
        with self._lock:
            self._statuses[upload_uuid] = {"status": "pending", "result": None, "started": time.time()}
        self.executor.submit(self._upload, upload_uuid, filename)
        watcher = threading.Thread(target=self._give_up_after_timeout, args=(upload_uuid,), daemon=True)
        watcher.start()
        return {"upload_uuid": upload_uuid, "filename": filename, "pending": True}

    def get_upload_status(self, placeholder):
        with self._lock:
            status = self._statuses.get(placeholder["upload_uuid"], {"status": "unknown", "result": None})
            return {"status": status["status"], "result": status["result"]}

    def cleanup_resolved_upload(self, placeholder):
        with self._lock:
            self._statuses.pop(placeholder["upload_uuid"], None)

    def _upload(self, upload_uuid, filename):
        try:
            result = {"status": "completed", "result": self.client.files.upload(file=filename)}
        except Exception:
            logger.warning("upload of %s failed", filename, exc_info=True)
            result = {"status": "failed", "result": None}
        with self._lock:
            if self._statuses.get(upload_uuid, {}).get("status") == "pending":
                self._statuses[upload_uuid].update(result)

    def _give_up_after_timeout(self, upload_uuid):
        time.sleep(self.timeout)
        with self._lock:
            status = self._statuses.get(upload_uuid)
            if status is not None and status["status"] == "pending":
                status.update(status="failed", result=None)
