"""Plain code that does what the harness cannot control, each method in its own way."""

from __future__ import annotations

import _thread
import asyncio
import builtins
import ctypes
import fcntl
import http.cookiejar
import importlib.util
import logging
import multiprocessing
import os
import resource
import runpy
import select
import selectors
import signal
import socket
import ssl
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
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

    def looks_up_an_address_by_its_name(self) -> None:
        unnamed_library.look_up_by_its_name()

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

    def sends_itself_a_signal(self) -> None:
        signal.raise_signal(signal.SIGURG)

    def interrupts_the_main_thread(self) -> None:
        _thread.interrupt_main(signal.SIGURG)

    def waits_for_a_process(self) -> None:
        os.waitpid(-1, os.WNOHANG)

    def sleeps_in_c(self) -> None:
        ctypes.CDLL(None).usleep(1)

    def sleeps_in_c_by_a_loader(self) -> None:
        ctypes.cdll.LoadLibrary("libc.so.6").usleep(1)

    def sleeps_in_c_by_python_itself(self) -> None:
        ctypes.pythonapi.sched_yield()

    def talks_by_a_pair_of_sockets(self) -> None:
        socket.socketpair()

    def talks_by_a_pipe(self) -> None:
        multiprocessing.Pipe()

    def waits_for_a_process_event(self) -> None:
        multiprocessing.Event().wait(0.001)

    def takes_a_process_lock(self) -> None:
        multiprocessing.get_context("fork").Lock().acquire(timeout=0.001)

    def asks_a_process_queue(self) -> None:
        multiprocessing.Queue().empty()

    def shares_a_value(self) -> None:
        multiprocessing.Value("i")

    def locks_a_file(self) -> None:
        with open(__file__, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)

    def locks_a_part_of_a_file(self) -> None:
        with open(__file__, encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_SH)

    def asks_how_old_a_file_is(self) -> float:
        return time.time() - os.path.getmtime(__file__)

    def asks_a_path_how_old_it_is(self) -> bool:
        return Path(__file__).stat().st_mtime < time.time()

    def asks_the_system_how_old_a_file_is(self) -> bool:
        return os.stat(__file__).st_mtime_ns < time.time_ns()

    def asks_by_number_how_old_a_file_is(self) -> bool:
        return os.stat(__file__)[8] < time.time()

    def asks_how_long_it_worked(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_utime

    def asks_for_the_times_of_its_process(self) -> float:
        return os.times().elapsed

    def asks_how_busy_the_machine_is(self) -> float:
        return os.getloadavg()[0]

    def draws_bytes_by_ssl(self) -> bytes:
        return ssl.RAND_bytes(1)

    def reads_the_clock_of_the_process(self) -> float:
        return float(builtins.__import__("time").time())

    def reads_the_clock_through_a_library(self) -> float:
        return http.cookiejar.time.time()  # type: ignore[attr-defined]

    def runs_a_file(self) -> None:
        runpy.run_path(__file__)

    def makes_a_module_of_a_file(self) -> None:
        spec = importlib.util.spec_from_file_location("plug_in", __file__)
        assert spec is not None
        importlib.util.module_from_spec(spec)

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
