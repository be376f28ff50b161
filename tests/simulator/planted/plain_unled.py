"""Plain code that does what the harness cannot control, each method in its own way."""

from __future__ import annotations

import _thread
import asyncio
import logging
import multiprocessing
import os
import select
import selectors
import signal
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import redis
import unnamed_library
from google import genai

import podrace


class Unled:
    def __init__(self) -> None:
        self.redis = redis.Redis()

    def sleeps_elsewhere(self) -> None:
        unnamed_library.poll()

    def starts_a_thread_elsewhere(self) -> None:
        unnamed_library.start_thread()

    def opens_a_connection(self) -> None:
        unnamed_library.talk()

    def looks_up_an_address(self) -> None:
        unnamed_library.look_up()

    def starts_a_process(self) -> None:
        unnamed_library.run_process()

    def starts_a_native_thread(self) -> None:
        unnamed_library.start_native_thread()

    def waits_for_a_real_lock(self) -> None:
        unnamed_library.hold(lambda: self.redis.incr("n"))

    def spins_elsewhere(self) -> None:
        unnamed_library.spin()

    def spins_on_the_clock(self) -> None:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass

    async def spins_on_the_loop(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + 1
        while loop.time() < until:
            await asyncio.sleep(0)

    def forks(self) -> None:
        if not os.fork():
            os._exit(0)

    def forks_a_worker(self) -> None:
        multiprocessing.get_context("spawn").Process(target=int).start()

    def runs_a_pool_of_processes(self) -> None:
        with ProcessPoolExecutor(1) as pool:
            pool.submit(int).result()

    def runs_a_command(self) -> None:
        os.system("true")

    def becomes_another_program(self) -> None:
        os.execlp("true", "true")

    def leaves_its_process(self) -> None:
        os._exit(0)

    def waits_for_a_socket(self) -> None:
        select.select([], [], [], 0.001)

    def waits_by_a_selector(self) -> None:
        selectors.DefaultSelector().select(0.001)

    def opens_a_port(self) -> None:
        with socket.socket() as own:
            own.bind(("127.0.0.1", 0))

    def sends_a_packet(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", ("127.0.0.1", 9))

    def asks_for_an_address(self) -> None:
        socket.gethostbyname("localhost")

    def sends_a_signal(self) -> None:
        os.kill(os.getpid(), 0)

    def sets_an_alarm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def starts_a_thread_below_threading(self) -> None:
        _thread.start_new_thread(int, ())

    async def opens_a_connection_by_asyncio(self) -> None:
        await asyncio.open_connection("127.0.0.1", 1)

    async def starts_a_process_by_asyncio(self) -> None:
        await asyncio.create_subprocess_exec("true")

    def talks_to_two_servers(self) -> None:
        redis.Redis(host="other.example.com").get("a")

    def talks_to_another_database(self) -> None:
        redis.from_url("redis://localhost/3").get("a")

    def talks_to_a_cluster(self) -> None:
        redis.RedisCluster(host="localhost")

    def makes_a_client_of_gemini(self) -> None:
        genai.Client(api_key="no secret").models.generate_content(model="x", contents="y")


class Prints:
    def __init__(self) -> None:
        self.redis = redis.Redis()

    def call(self) -> None:
        print("a line in every schedule")
        self.redis.get("a")

    def log(self) -> None:
        logging.getLogger("a service").handlers[:] = [logging.StreamHandler()]
        logging.getLogger("a service").warning("a line in every schedule")
        self.redis.get("a")


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Unled()


@podrace.own()
def prints(env: podrace.PodEnv) -> Any:
    return Prints()
