"""Background uploads on asyncio, their statuses in a dict of the process: nothing here knows of podrace."""

import asyncio
import json
import time
import uuid

import redis.asyncio as aioredis
from google import genai


class Service:
    def __init__(self, deliver, timeout=10.0):
        self.redis = aioredis.Redis(host="redis.example.com", decode_responses=True)
        self.gemini = genai.Client(api_key="no secret")
        self.deliver = deliver
        self.timeout = timeout
        self.statuses = {}
        self.lock = asyncio.Lock()
        self.jobs = asyncio.Queue()
        self.worker = None
        self.tasks = set()

    async def add_message(self, user_id, text, images, message_id):
        if self.worker is None:
            self.worker = asyncio.create_task(self._work())
        placeholders = []
        for image in images:
            if isinstance(image, dict):
                placeholders.append(image)
                continue
            upload_id = str(uuid.uuid4())
            self.statuses[upload_id] = ("pending", None)
            await self.jobs.put((upload_id, str(image)))
            placeholders.append({"upload_uuid": upload_id, "filename": str(image), "pending": True})
        message = {"message_id": message_id, "text": text, "images": placeholders, "timestamp": time.time()}
        await self.redis.rpush(f"temp_messages:{user_id}", json.dumps(message))
        return placeholders

    async def _work(self):
        while True:
            upload_id, path = await self.jobs.get()
            task = asyncio.create_task(self._upload(upload_id, path))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _upload(self, upload_id, path):
        try:
            file = await asyncio.wait_for(self.gemini.aio.files.upload(file=path), self.timeout)
        except TimeoutError:
            result = ("failed", None)
        else:
            result = ("completed", file)
        async with self.lock:
            self.statuses[upload_id] = result

    async def absorb(self, user_id):
        lock, token = f"lock:{user_id}", str(uuid.uuid4())
        if not await self.redis.set(lock, token, nx=True, ex=30):
            return 0
        try:
            ready, parts = 0, []
            for item in await self.redis.lrange(f"temp_messages:{user_id}", 0, -1):
                message = json.loads(item)
                answers = [self.statuses.get(image["upload_uuid"], ("unknown", None)) for image in message["images"]]
                if any(status == "pending" for status, _ in answers):
                    break
                parts.append({"type": "text", "text": message["text"]})
                parts += [
                    {"type": "google_cloud_file_uri", "google_cloud_file_uri": file.uri} for _, file in answers if file
                ]
                ready += 1
            if ready:
                await asyncio.to_thread(self.deliver, user_id, parts)
                async with self.redis.pipeline(transaction=True) as pipe:
                    pipe.ltrim(f"temp_messages:{user_id}", ready, -1)
                    pipe.incrby(f"delivered:{user_id}", ready)
                    pipe.expire(f"delivered:{user_id}", 10)
                    await pipe.execute()
            return ready
        finally:
            await self.redis.delete(lock)

    async def upload_status(self, placeholder):
        status, result = self.statuses.get(placeholder["upload_uuid"], ("unknown", None))
        return {"status": status, "result": result}
