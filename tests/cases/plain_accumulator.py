"""Messages wait in Redis until their images are uploaded: nothing here knows of podrace."""

import json
import time
import uuid

import redis


class Accumulator:
    def __init__(self, uploads, deliver, limit=1):
        self.redis = redis.Redis(host="redis.example.com", decode_responses=True)
        self.uploads = uploads
        self.deliver = deliver
        self.limit = limit

    def add_message(self, user_id, text, images, message_id):
        placeholders = [
            image if isinstance(image, dict) else self.uploads.upload_file_async(str(image)) for image in images
        ]
        message = {"message_id": message_id, "text": text, "images": placeholders, "timestamp": time.time()}
        self.redis.rpush(f"temp_messages:{user_id}", json.dumps(message))
        return placeholders

    def absorb(self, user_id):
        if len(self._ready(user_id)) < self.limit:
            return 0
        lock, token = f"lock:{user_id}", str(uuid.uuid4())
        if not self.redis.set(lock, token, nx=True, ex=30):
            return 0
        try:
            ready = self._ready(user_id)
            if ready:
                self.deliver(user_id, [part for message, files in ready for part in self._parts(message, files)])
                for message, _ in ready:
                    for placeholder in message["images"]:
                        self.uploads.cleanup_resolved_upload(placeholder)
                self.redis.ltrim(f"temp_messages:{user_id}", len(ready), -1)
            return len(ready)
        finally:
            self.redis.delete(lock)

    @staticmethod
    def _parts(message, files):
        yield {"type": "text", "text": message["text"]}
        for file in files:
            yield {"type": "google_cloud_file_uri", "google_cloud_file_uri": file.uri}

    def _ready(self, user_id):
        ready = []
        for item in self.redis.lrange(f"temp_messages:{user_id}", 0, -1):
            message = json.loads(item)
            answers = [self.uploads.get_upload_status(image) for image in message["images"]]
            if any(answer["status"] == "pending" for answer in answers):
                break
            ready.append((message, [answer["result"] for answer in answers if answer["status"] == "completed"]))
        return ready
