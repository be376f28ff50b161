"""Every bad input is answered with the exit code that says whose fault it is, and one line that says why.

The table comes first: what is typed, what is in the folder, the exit code, and what the line says. Each row is run
in this process, in a folder of its own; what needs a process of its own is in test_endings.py.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from podrace.simulator.app.cli import main
from podrace.simulator.fleets import watchdog

Content = str | bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Row:
    """`says` is part of the line on standard error, or, for a verdict (codes 0, 1 and 3), in what is printed."""

    name: str
    typed: str
    code: int
    says: str
    files: Mapping[str, Content] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def folder(path: Path) -> None:
    path.mkdir()


def link(to: str) -> Callable[[Path], None]:
    return lambda path: os.symlink(to, path)


LONG = "x" * 300
EXPLORE = "explore --scenario foreign-pod"
SAVED: dict[str, Any] = {
    "target": "local",
    "scenario": "foreign-pod",
    "seed": 7,
    "retries": 0,
    "verdict": "violated",
    "words": "lost",
    "faults": 0,
    "preemptions": 0,
    "sentence": "image-1 is lost",
    "decisions": [["A", "go", ""]],
    "version": 2,
}

USAGE = {
    "": "Usage: podrace",
    "nope": "No such command 'nope'. Try podrace --help.",
    "--nope": "No such option '--nope'",
    "scenarios extra": "unexpected extra argument (extra). Try podrace scenarios --help.",
    "explore": "Missing option '--scenario'",
    "explore --scenario": "'--scenario' requires an argument",
    "explore extra": "Try podrace explore --help.",
    "matrix extra": "unexpected extra argument (extra)",
    "replay": "Missing argument 'FILE'",
    "replay a b": "unexpected extra argument (b)",
    "report": "Missing argument 'RUN...'",
    "bench-compare": "Missing argument 'BEFORE'",
    "bench-compare a": "Missing argument 'AFTER'",
    "bench-compare a b c": "unexpected extra argument (c)",
    "reproduce extra": "unexpected extra argument (extra)",
    "reproduce --nope": "No such option '--nope'",
    "check": "Missing argument 'TARGET|FILE'. Try podrace check --help.",
    "check nope": "target 'nope': expected local, shared, durable, or module:factory",
    "check ..a:b": "target '..a:b': expected the form module:name",
    "check local --scenario nope": "scenario 'nope': there is none",
    "check h --model nope": "'nope' is not one of 'register', 'cas-register', 'upload-status'",
    "check h --model register": "history h: expected a file, found none",
    "check /dev/zero --model register": "history /dev/zero: expected a file, found none",
    "check h --model register --states 0": "0 is not in the range x>=1",
    "check local --json": "--json: expected --model beside it",
    "check local --states 5": "--states: expected --model beside it",
    "check h --model register --scenario x": "--scenario and --model: expected one of them",
    "check h --model register --seed 5": "--seed and --model: expected one of them",
    # fleets that run free
    "run extra": "unexpected extra argument (extra)",
    "run --target nope": "target 'nope': expected local, shared, durable, or module:factory",
    "run --then nope": "target 'nope': expected local, shared, durable, or module:factory",
    "run --pods 0": "0 is not in the range 1<=x<=64",
    "run --pods two": "'two' is not a valid whole number",
    "run --users 4001": "4001 is not in the range 1<=x<=4000",
    "run --messages 0": "0 is not in the range 1<=x<=10000000",
    "run --messages 1e3": "'1e3' is not a valid whole number",
    "run --duration -1": "-1.0 is not in the range x>=0.0",
    "run --duration nan": "nan is no finite number",
    "run --duration inf": "inf is no finite number",
    "run --faults ''": "'': expected names with commas between them",
    "run --faults nope": "fault 'nope': there is none; expected all, none, or some of noop, kill",
    "run --faults kill,kill": "kill stands there twice",
    "run --faults all,kill": "fault 'all': expected it alone, or some of noop, kill",
    "run --faults kill,none": "fault 'none': expected it alone, or some of noop, kill",
    "run --duration -0.0001": "-0.0001 is not in the range x>=0.0",
    "run --faults killé": "fault 'killé': there is none",
    "run --messages ''": "'' is not a valid whole number",
    "matrix --fleets --scenarios nope": "scenario 'nope': there is none",
    "matrix --fleets --redis-url redis://127.0.0.1:1": "runs of whole fleets break servers",
    "matrix --accept": "--accept needs --expect FILE",
    f"{EXPLORE} --target class:def": "cannot import class: No module named 'class'",
    f"{EXPLORE} --target __main__:x": "module __main__ has no x",
    f"{EXPLORE} --target podrace:Nope": "module podrace has no Nope",
    "run --persistence x": "'x' is not one of 'always', 'everysec', 'none'",
    "run --workload x": "workload 'x': expected the form module:name",
    "run --workload os:name": "workload 'os:name': expected a podrace.Workload, got str",
    "run --workload os:nothing": "module os has no nothing",
    "run --scenario nope": "scenario 'nope': expected all, or some of restart",
    "run --scenario all,restart": "scenario 'all': expected all, or some of restart",
    "run --scenario all --then local": "--then and --scenario: expected one of them",
    "run --scenario all --pods 2": "--pods and --scenario: expected one of them",
    "run --scenario all --redis-url redis://127.0.0.1:1": "runs of whole fleets break servers",
    "run --run-dir ''": "expected a path, got nothing",
    f"run --run-dir {LONG}": "File name too long",
    # where cells are explored
    "matrix --workers 0": "0 is not in the range 1<=x<=256",
    "matrix --workers x": "'x' is not a valid whole number",
    "matrix --scenarios foreign-pod --scheduler ''": "scheduler '': expected a Dask scheduler",
    "matrix --scenarios foreign-pod --scheduler tcp://127.0.0.1:1": "expected a Dask scheduler, got OSError",
    "matrix --scenarios foreign-pod --scheduler nope": "scheduler 'nope': expected a Dask scheduler",
    "matrix --scheduler tcp://127.0.0.1:1 --workers 2": "--workers and --scheduler: expected one of them",
    "matrix --scheduler tcp://127.0.0.1:1 --redis-url redis://127.0.0.1:1": "--redis-url and --scheduler: expected one",
    "dead-letters": "Missing option '--redis-url'",
    "init a b": "unexpected extra argument (b)",
    "init ''": "expected a path, got nothing",
    "init my-wallet.py": "example my-wallet.py: expected a name that can be imported, such as wallet.py",
    "init wallet": "example wallet: expected a name that can be imported",
    "init __init__.py": "example __init__.py: expected a name that can be imported",
    f"init {LONG}.py": "expected a new file that can be written: File name too long",
    "init 1.py": "example 1.py: expected a name that can be imported",
    "init .py": "example .py: expected a name that can be imported",
    "init 'a b.py'": "example a b.py: expected a name that can be imported",
    "init class.py": "example class.py: expected a name that can be imported",
    "init podrace.py": "example podrace.py: expected a name that no other module has",
    "init json.py": "example json.py: expected a name that no other module has",
    "init redis.py": "example redis.py: expected a name that no other module has",
    "init nowhere/wallet.py": "example nowhere/wallet.py: expected a new file that can be written: No such file",
    # numbers
    "reproduce --pods": "'--pods' requires an argument",
    "reproduce --pods ''": "'' is not a valid whole number",
    "reproduce --pods two": "'two' is not a valid whole number",
    "reproduce --pods nan": "'nan' is not a valid whole number",
    "reproduce --pods 1.5": "'1.5' is not a valid whole number",
    "reproduce --pods 0": "0 is not in the range 1<=x<=64",
    "reproduce --pods -1": "-1 is not in the range 1<=x<=64",
    "reproduce --pods 65": "65 is not in the range 1<=x<=64",
    "reproduce --uploads 0": "0 is not in the range 1<=x<=100000",
    "reproduce --uploads 100001": "100001 is not in the range 1<=x<=100000",
    "reproduce --uploads 1e3": "'1e3' is not a valid whole number",
    "reproduce --seed -1": "-1 is not in the range x>=0",
    "reproduce --seed x": "'x' is not a valid whole number",
    f"{EXPLORE} --seed 0x7": "'0x7' is not a valid whole number",
    f"{EXPLORE} --budget nan": "nan is no finite number",
    f"{EXPLORE} --budget inf": "inf is no finite number",
    f"{EXPLORE} --budget -inf": "-inf is not in the range x>=0.1",
    f"{EXPLORE} --budget 1e400": "1e400 is no finite number",
    f"{EXPLORE} --budget 0": "0.0 is not in the range x>=0.1",
    f"{EXPLORE} --budget -5": "-5.0 is not in the range x>=0.1",
    f"{EXPLORE} --budget x": "'x' is not a valid number",
    f"{EXPLORE} --budget ''": "'' is not a valid number",
    "matrix --budget nan": "nan is no finite number",
    "matrix --budget inf": "inf is no finite number",
    f"{EXPLORE} --preemptions -1": "-1 is not in the range 0<=x<=8",
    f"{EXPLORE} --preemptions 9": "9 is not in the range 0<=x<=8",
    f"{EXPLORE} --preemptions nan": "'nan' is not a valid whole number",
    f"{EXPLORE} --faults -1": "-1 is not in the range 0<=x<=4",
    f"{EXPLORE} --faults 5": "5 is not in the range 0<=x<=4",
    f"{EXPLORE} --faults 0.5": "'0.5' is not a valid whole number",
    "bench-compare a b --limit nan": "nan is no finite number",
    "bench-compare a b --limit inf": "inf is no finite number",
    "bench-compare a b --limit 0.5": "0.5 is not in the range x>=1.0",
    "bench-compare a b --limit -1": "-1.0 is not in the range x>=1.0",
    "bench-compare a b --limit x": "'x' is not a valid number",
    "bench-compare a b --seed -1": "-1 is not in the range x>=0",
    # an empty text instead of a path or a name
    "reproduce --run-dir ''": "expected a path, got nothing",
    f"{EXPLORE} --run-dir ''": "expected a path, got nothing",
    "matrix --run-dir ''": "expected a path, got nothing",
    "replay f --run-dir ''": "expected a path, got nothing",
    "reproduce --images ''": "expected a path, got nothing",
    f"{EXPLORE} --expect ''": "expected a path, got nothing",
    "replay ''": "expected a path, got nothing",
    "report ''": "expected a path, got nothing",
    "report a --out ''": "expected a path, got nothing",
    "bench-compare '' b": "expected a path, got nothing",
    "bench-compare a ''": "expected a path, got nothing",
    "matrix --scenarios ''": "'': expected names with commas between them",
    "matrix --scenarios ,": "',': expected names with commas between them",
    "matrix --targets ''": "'': expected names with commas between them",
    "matrix --targets local,,shared": "'local,,shared': expected names with commas between them",
    "reproduce --redis-url ''": "server '': expected a Redis or Valkey that this run may use",
    "explore --scenario ''": "scenario '': there is none",
    f"{EXPLORE} --target ''": "target '': expected local, shared, durable, or module:factory",
    # the same twice
    "matrix --targets local,local": "local stands there twice",
    "matrix --targets local,podrace.reference.targets:local": "target 'local' is named twice",
    "matrix --scenarios foreign-pod,foreign-pod": "foreign-pod stands there twice",
    # unknown names
    "explore --scenario nope": "scenario 'nope': there is none; near it:",
    "explore --scenario foreign": "near it: foreign-pod",
    "matrix --scenarios foreign-pod,nope": "scenario 'nope': there is none",
    "explore --scenario nope:ONE": "cannot import nope: No module named 'nope'",
    "explore --scenario ..a:b": "scenario '..a:b': expected the form module:name",
    "explore --scenario os:name": "scenario 'os:name': expected a podrace.Scenario, got str",
    "explore --scenario os:nothing": "module os has no nothing",
    f"{EXPLORE} --target nope": "target 'nope': expected local, shared, durable, or module:factory",
    f"{EXPLORE} --target ..a:b": "target '..a:b': expected the form module:name",
    f"{EXPLORE} --target .a:b": "target '.a:b': expected the form module:name",
    f"{EXPLORE} --target a:": "target 'a:': expected the form module:name",
    f"{EXPLORE} --target :b": "target ':b': expected the form module:name",
    f"{EXPLORE} --target a:b:c": "target 'a:b:c': expected the form module:name",
    f"{EXPLORE} --target 'a b:c'": "target 'a b:c': expected the form module:name",
    f"{EXPLORE} --target a/b.py:pod": "target 'a/b.py:pod': expected the form module:name",
    f"{EXPLORE} --target mine.py:pod": "cannot import mine.py: No module named 'mine'",
    f"{EXPLORE} --target nothing.here:made": "No module named 'nothing'",
    f"{EXPLORE} --target os:nothing": "module os has no nothing",
    f"{EXPLORE} --target os:name": "expected a factory that takes a PodEnv, got str",
    "matrix --targets nope": "target 'nope': expected local, shared, durable, or module:factory",
    "replay f --fleet nope": "'nope' is not one of 'inline', 'processes'",
    "report a --format nope": "'nope' is not one of 'html', 'markdown', 'junit', 'svg'",
    f"{EXPLORE} --accept": "--accept needs --expect FILE, which it writes",
    "report a --format svg --out -": "expected --out FOLDER, got -",
    # places that cannot be read or written
    "reproduce --images nope": "images nope: expected a PNG or JPEG file or a folder of them, nothing is there",
    "reproduce --images .": "images .: expected a folder with PNG or JPEG files, found none",
    "reproduce --images /dev/zero": "image /dev/zero: expected a PNG or JPEG file",
    f"{EXPLORE} --run-dir /proc/x": "run folder /proc/x: expected a folder that can be written",
    f"{EXPLORE} --run-dir /dev/null/x": "run folder /dev/null/x: expected a folder that can be written",
    f"{EXPLORE} --run-dir {LONG}": "File name too long",
    "replay nope": "counterexample nope: expected a *.podrace.json file, found none",
    "replay .": "counterexample .: expected a *.podrace.json file, found none",
    "replay /dev/zero": "counterexample /dev/zero: expected a *.podrace.json file, found none",
    "replay /proc/version": "counterexample /proc/version: expected a *.podrace.json file",
    f"{EXPLORE} --expect nope": "expectations nope: expected a file that --accept has written",
    f"{EXPLORE} --expect nowhere/f --accept": "expectations nowhere/f: expected a folder that is there",
    f"{EXPLORE} --expect .": "expectations .: expected a file that --accept has written",
    f"{EXPLORE} --expect /dev/zero": "expectations /dev/zero: expected a file that --accept has written",
    f"{EXPLORE} --expect /dev/zero --accept": "expectations /dev/zero: expected a file that --accept has written",
    "report . --out .": "report .: expected a place that can be written: Is a directory",
    "report . --out /proc/x": "report /proc/x: expected a place that can be written",
    "report . --out /dev/full": "report /dev/full: expected a place that can be written: No space left on device",
    "bench-compare a b": "a: there is no such file",
    "bench-compare . b": ".: expected a regular file",
    "bench-compare /dev/zero b": "/dev/zero: expected a regular file",
    "bench-compare /dev/null b": "/dev/null: expected a regular file",
    "bench-compare a b --accept": "b: there is no such file",
}
"""What is typed in an empty folder, and what the line says; the exit code is 2."""

URLS = {
    "http://localhost": "another form than redis://host:port/db",
    "redis": "another form than redis://host:port/db",
    "localhost:6379": "another form than redis://host:port/db",
    "redis://localhost:port": "another form than redis://host:port/db",
    "redis://localhost:99999": "another form than redis://host:port/db",
    "redis://localhost:0": "another form than redis://host:port/db",
    "redis://localhost/x": "another form than redis://host:port/db",
    "redis://[::1": "another form than redis://host:port/db",
    "redis://127.0.0.1:1/-1": "another form than redis://host:port/db",
    "redis://..:1": "check the options in the URL's query",
    "unix:///tmp": "Connection refused",
    "redis://127.0.0.1:1?password=hunter2": "'redis://127.0.0.1:1?password=***'",
    "unix://": "another form than redis://host:port/db",
    "unix:///nothing/here.sock": "No such file or directory",
    "unix:///dev/null": "Connection refused",
    "redis://127.0.0.1:1": "Connection refused",
    "redis://127.0.0.1:1?socket_timeout=x": "check the options in the URL's query",
    "redis://127.0.0.1:1?nope=1": "check the options in the URL's query",
    "rediss://127.0.0.1:1": "Connection refused",
    "redis://user:hunter2@127.0.0.1:1": "'redis://user:***@127.0.0.1:1'",
    "http://user:hunter2@localhost": "'http://user:***@localhost'",
}
"""What --redis-url is, and what the line says: the same for each command."""

SEVERAL_NODES = {
    "http://x": "redis+sentinel://host:port,…/NAME or redis+cluster://host:port",
    "redis+cluster://x": "expected host:port, or several of them",
    "redis+cluster://127.0.0.1:1": "no node of a Cluster answers; correct --redis-url or PODRACE_REDIS_URL",
    "redis+sentinel://127.0.0.1:1": "expected redis+sentinel://host:port,…/NAME",
    "redis+sentinel://127.0.0.1:1/main": "no Sentinel that answers knows a primary of that name",
}
"""The same for dead-letters, which can also use Sentinels or a Cluster."""

DAMAGED: dict[str, Content] = {
    "null": "null",
    "a number": "7",
    "a list": "[]",
    "a text": '"x"',
    "an empty object": "{}",
    "100,000 brackets": "[" * 100_000,
    "not JSON": "hello",
    "nothing": "",
    "NaN": "NaN",
    "UTF-16": "null".encode("utf-16"),
    "Latin-1": "ä".encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a null byte": "\0",
    "a pipe": os.mkfifo,
    "a folder": folder,
    "a link to itself": link("f"),
    "a link to nothing": link("nothing"),
    "a link to a device": link("/dev/zero"),
}
"""Damaged contents of one of our files, written to the file `f`."""

CHANGED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no target": ({"target": ""}, 2, "target '': expected local, shared, durable, or module:factory"),
    "a relative target": ({"target": "..a:b"}, 2, "expected the form module:name"),
    "a target that has gone": ({"target": "gone:pod"}, 2, "cannot import gone: No module named 'gone'"),
    "a number for a target": ({"target": 5}, 2, "damaged: target: Input should be a valid string"),
    "a scenario that has gone": ({"scenario": "gone"}, 2, "scenario 'gone': there is none"),
    "a relative scenario": ({"scenario": "..a:b"}, 2, "expected the form module:name"),
    "a negative seed": ({"seed": -1}, 2, "damaged: seed"),
    "a word for a seed": ({"seed": "x"}, 2, "damaged: seed"),
    "a huge seed": ({"seed": 1e30}, 2, "damaged: seed"),
    "no number for a seed": ({"seed": float("nan")}, 2, "damaged: seed"),
    "negative retries": ({"retries": -1}, 2, "damaged: retries"),
    "retries without an end": ({"retries": 10**9}, 2, "damaged: retries"),
    "a verdict of nobody's": ({"verdict": "x"}, 2, "damaged: verdict"),
    "a counterexample that holds": ({"verdict": "holds"}, 2, "damaged: verdict"),
    "no words": ({"words": None}, 2, "damaged: words"),
    "no decisions": ({"decisions": None}, 2, "damaged: decisions"),
    "a decision of half a character": (
        {"decisions": [["A", "\ud800", ""]]},
        2,
        "damaged: decisions.0.1: Value error, 'utf-8' codec can't encode character",
    ),
    "a version that is true": ({"version": True}, 2, "damaged: version: Input should be 2"),
    "negative faults": ({"faults": -1}, 2, "damaged: faults"),
    "a target of 10,000 letters": ({"target": "a." * 5000 + "b:c"}, 2, "a.a.a…"),
    "a scenario of two lines": ({"scenario": "a\nb"}, 2, "scenario 'a\\nb': there is none"),
    "half a decision": ({"decisions": [["A"]]}, 2, "damaged: decisions.0.1"),
    "an older version": ({"version": 1}, 2, "damaged: version"),
    "a later version": ({"version": 3}, 2, "damaged: version"),
    "a field too many": ({"extra": 1}, 2, "damaged: extra"),
    "a pod of nobody's": ({"decisions": [["Z", "go", ""]]}, 3, "Z is not where the schedule has it"),
    "an action of nobody's": ({"decisions": [["A", "nope", ""]]}, 3, "the target has changed since this was found"),
    "100,000 decisions": ({"decisions": [["A", "go", ""]] * 100_000}, 3, "the target has changed since"),
}
"""Changed fields of a counterexample, the exit code, and what the line says."""

MODULES = {
    "raises ValueError": ("raise ValueError('x')", 2, "cannot import mine: it raised ValueError: x"),
    "raises without words": ("raise ValueError", 2, "cannot import mine: it raised ValueError"),
    "is no Python": ("x = = 1", 2, "cannot import mine: it raised SyntaxError: invalid syntax (mine.py, line 1)"),
    "holds a null byte": ("\0", 2, "cannot import mine: it raised SyntaxError"),
    "exits": ("raise SystemExit(5)", 2, "cannot import mine: it raised SystemExit: 5"),
    "interrupts itself": ("raise KeyboardInterrupt", 2, "cannot import mine: it raised KeyboardInterrupt"),
    "exits as if all were well": ("import sys; sys.exit(0)", 2, "cannot import mine: it raised SystemExit: 0"),
    "raises a BaseException": ("raise BaseException('q')", 2, "cannot import mine: it raised BaseException: q"),
    "imports what is not there": ("import nothing_here", 2, "cannot import mine: No module named 'nothing_here'"),
    "recurses": ("def f(): f()\nf()", 2, "cannot import mine: it raised RecursionError"),
    "runs out of memory": ("raise MemoryError('m')", 2, "cannot import mine: it raised MemoryError: m"),
    "raises what has no text": (
        "class E(Exception):\n def __str__(self): raise OSError\nraise E",
        2,
        "cannot import mine: it raised E: its text cannot be made, which raised OSError",
    ),
    "raises what rings": ("raise ValueError('\\x1b[31m\\x07')", 2, r"it raised ValueError: \x1b[31m\x07"),
    "has another coding": ("# coding: nope", 2, "it raised SyntaxError: unknown encoding: nope"),
    "raises what has no text in its factory": (
        "class E(Exception):\n def __str__(self): raise OSError\ndef pod(env): raise E",
        3,
        "the target's factory raised E: its text cannot be made",
    ),
    "raises two lines": ("raise ValueError('a\\nb')", 2, "it raised ValueError: a b"),
    "imports itself": ("import mine", 2, "module mine has no pod"),
    "has no factory": ("", 2, "module mine has no pod"),
    "has None": ("pod = None", 2, "expected a factory that takes a PodEnv, got NoneType"),
    "has a number": ("pod = 5", 2, "expected a factory that takes a PodEnv, got int"),
    "makes nothing": ("pod = lambda env: None", 3, "the target's factory returned NoneType"),
    "makes it later": ("async def pod(env): pass", 3, "the target's factory returned coroutine"),
    "takes nothing": ("def pod(): pass", 3, "the target's factory raised TypeError: pod() takes 0 positional"),
    "is a class that takes nothing": ("class pod: pass", 3, "the target's factory raised TypeError"),
    "raises in its factory": ("def pod(env): raise ValueError('x')", 3, "the target's factory raised ValueError: x"),
    "raises two lines in its factory": (
        "def pod(env): raise ValueError('a\\nb')",
        3,
        "the target's factory raised ValueError: a b, at mine.py:1",
    ),
    "exits in its factory": ("def pod(env): raise SystemExit", 3, "A raised SystemExit: expected the target to return"),
    "interrupts itself in its factory": (
        "def pod(env): raise KeyboardInterrupt",
        3,
        "A raised KeyboardInterrupt: expected the target to return",
    ),
    "recurses in its factory": ("def pod(env): return pod(env)", 3, "the target's factory raised RecursionError"),
    "has kept another clock since it was imported": (
        "import time\ndef pod(env, clock=time.time): return clock()",
        3,
        "the target reads a clock that is not the run's, at mine.py:2 in pod: that cannot be led",
    ),
    "has kept another clock in a dataclass": (
        "import dataclasses, time\n@dataclasses.dataclass\nclass Job:\n"
        "    made: float = dataclasses.field(default_factory=time.time)\ndef pod(env): return Job()",
        3,
        "the target reads a clock that is not the run's, at <string>:",
    ),
    "makes an object": ("def pod(env): return object()", 3, "the pod (object) has no method add_message"),
    "makes a generator": ("def pod(env): yield", 3, "the pod (generator) has no method add_message"),
    "wants another service": ("def pod(env): env.mail", 3, "the environment has no mail; its services: gemini, memory"),
}
"""The text of mine.py, of which `pod` is the target, the exit code, and what the line says."""

POD = """
import datetime, os, random, socket, sys, time
from podrace import Call, Scenario
class Pod:
    def __init__(self, env):
        self.env, self.redis, self.key = env, env.redis, env.prefix + "k"
    def go(self):
        {body}
def pod(env): return Pod(env)
ONE = Scenario("one", lines={{"A": [Call("go", "go", ())]}})
"""
NO_CALL = "no call succeeds in any schedule, there is nothing to judge"
BODIES = {
    "raises": (
        "raise ValueError('x')",
        3,
        "no call succeeds in any schedule, there is nothing to judge: ValueError: x",
    ),
    "exits": ("sys.exit(3)", 3, "A raised SystemExit: expected the target to return or to raise an Exception"),
    "raises a BaseException": ("raise BaseException", 3, "A raised BaseException"),
    "interrupts itself": ("raise KeyboardInterrupt", 3, "A raised KeyboardInterrupt: expected the target to return"),
    "recurses": ("self.go()", 3, f"{NO_CALL}: RecursionError"),
    "speaks past its environment": (
        "with socket.socket(socket.AF_UNIX) as it: it.connect('/nothing')",
        3,
        "the target opens a connection of its own, at mine.py:8 in go: that cannot be led",
    ),
    "is not deterministic": (
        "self.redis.set(self.key, str(datetime.datetime.now()), ex=5)",
        3,
        "the target is not deterministic",
    ),
    "draws at random, which changes nothing in these schedules": (
        "return random.random() < 2",
        3,
        "the target draws at random, at mine.py:8 in go: that cannot be led; use env.rng",
    ),
    "reads another clock, which changes nothing in these schedules": (
        "return time.time() > 0",
        3,
        "the target reads a clock that is not the run's, at mine.py:8 in go: that cannot be led; use env.runtime.now()",
    ),
    "sets a variable of the process": (
        "os.environ['PODRACE_X'] = '1'",
        3,
        "the target changes what all pods of one process would share",
    ),
    "changes the server": ("self.redis.config_set('maxmemory', 0)", 3, "the target sends CONFIG SET, which changes"),
    "closes others' connections": (
        "self.redis.execute_command('CLIENT', 'KILL', 'TYPE', 'normal')",
        3,
        "the target sends CLIENT KILL, which changes the server itself",
    ),
    "lets nobody write": ("self.redis.client_pause(10**9)", 3, "the target sends CLIENT PAUSE, which changes"),
    "stops the server": ("self.redis.shutdown()", 3, "the target sends SHUTDOWN, which changes the server itself"),
    "changes the server in a script": (
        "self.redis.eval(\"return redis.call('CONFIG', 'SET', 'maxmemory', '0')\", 0)",
        3,
        "the target sends CONFIG, which changes the server itself",
    ),
    "never ends": ("while True: self.redis.ping()", 3, "did not finish within"),
    "sleeps for ever": ("while True: self.env.runtime.sleep(1)", 3, f"{NO_CALL}: none ever ended"),
    "waits for ever": ("self.redis.blpop(self.key, 0)", 1, "stuck"),
    "leaves a key": ("self.redis.set(self.key, 1)", 1, "leaked"),
    "sends no command": ("self.redis.execute_command('NOPE')", 3, "unknown command"),
    "asks for what is not there": ("self.env.nothing.go()", 3, "the environment has no nothing"),
    "ends its connection": ("self.redis.execute_command('QUIT')", 3, "the target sends QUIT, which changes"),
    "returns what cannot be sent": ("return lambda: 1", 3, ""),
}
"""The body of a call, the exit code, and what the line says."""

SCENARIO = """
from podrace import Call, Finding, Scenario, Workload
class Pod:
    def __init__(self, env):
        self.env, self.key = env, env.prefix + "k"
    def go(self):
        self.env.redis.set(self.key, 1, ex=5)
    def send(self):
        self.env.mail.send()
def pod(env): return Pod(env)
class Mail(Workload):
    def services(self, now, given): {services}
class Mailbox:
    def send(self): {mail}
def check(run): {check}
ONE = Scenario("one", {{"A": [Call("c", "{call}")]}}, workload=Mail(), checks=[check])
X = ONE  # between colons that is an emoji, to rich
"""
SOUND = {"services": "return {'mail': Mailbox()}", "mail": "return 1", "check": "return []", "call": "go"}
THEIRS = "the scenario's own code raised"
SCENARIOS = {
    "raises in its check": ({"check": "raise ValueError('x')"}, f"{THEIRS} ValueError: x, at mine.py:15 in check"),
    "fails in a library": ({"check": "int('x')"}, f"{THEIRS} ValueError: invalid literal"),
    "exits in its check as if all were well": ({"check": "raise SystemExit(0)"}, f"{THEIRS} SystemExit: 0, at mine.py"),
    "interrupts itself in its check": ({"check": "raise KeyboardInterrupt"}, f"{THEIRS} KeyboardInterrupt, at mine.py"),
    "has a check that returns nothing": (
        {"check": "pass"},
        "scenario mine:ONE: its check check returned NoneType",
    ),
    "has a check that finds words": (
        {"check": "yield 'lost'"},
        "scenario mine:ONE: its check check found str",
    ),
    "raises in its services": ({"services": "raise OSError('x')"}, f"{THEIRS} OSError: x, at mine.py:12 in services"),
    "has a service that interrupts": (
        {"mail": "raise KeyboardInterrupt", "call": "send"},
        "A raised KeyboardInterrupt",
    ),
}
"""A change in a scenario of one's own, and what the line says; there is no verdict."""


SHAPES = {
    "lines={}": "no call succeeds",
    "lines=[Call('c', 'go')]": "scenario one: lines: expected a dict such as",
    "lines={'A': Call('c', 'go')}": "scenario one: lines, A: expected a list of podrace.Call, got Call",
    "lines={'A': ['go']}": "scenario one: lines, A: expected a list of podrace.Call, got 'go'",
    "lines={1: [Call('c', 'go')]}": 'scenario one: lines: expected pods named by texts such as "A", got 1',
    "lines={'': [Call('c', 'go')]}": "scenario one: lines: expected pods named by texts",
    "lines={'A': [Call('c', 'go'), Call('c', 'go')]}": "scenario one: two calls are named 'c'",
    "lines={'A': [Call(5, 'go')]}": "scenario one: the name of a call: expected a text, got 5",
    "lines={'A': [Call('', 'go')]}": "scenario one: the name of a call: expected a text, got ''",
    "lines={'A': [Call('c', 5)]}": "call c: method: expected the name of a method, got 5",
    "lines={'A': [Call('c', 'go', 'xy')]}": "call c: args: expected a tuple, got 'xy'",
    "lines={'A': [Call('c', 'go', 5)]}": "call c: args: expected a tuple, got 5",
    "lines={'A': [Call('c', 'go', after='c')]}": "call c: after: expected a tuple of names of calls, got 'c'",
    "lines={'A': [Call('c', 'go', after=('d',))]}": "call c: there is no call 'd'",
    "lines={'A': [Call('c', 'go', (Ref('d'),))]}": "call c: there is no call 'd'",
    "faults=[Kill]": "scenario one: faults: expected a list of faults such as Kill(), got <class",
    "faults=['kill']": "scenario one: faults: expected a list of faults such as Kill(), got 'kill'",
    "faults=Kill()": "scenario one: faults: expected a list of faults such as Kill(), got Kill",
    "checks=len": "scenario one: checks: expected a list of functions, got builtin_function_or_method",
    "checks=['x']": "scenario one: checks: expected a list of functions, got 'x'",
    "keeps='k*'": "scenario one: keeps: expected a list of patterns of keys, got 'k*'",
    "keeps=[5]": "scenario one: keeps: expected a list of patterns of keys, got 5",
    "workload='uploads'": "scenario one: workload: expected a podrace.Workload, got 'uploads'",
    "workload=Workload": "scenario one: workload: expected a podrace.Workload, got <class",
    "options=[1]": "scenario one: options: expected a dict, got list",
    "retries=5": "scenario one: retries: expected whole numbers from 0, got 5",
    "retries=()": "scenario one: retries: expected at least one number, got tuple",
    "lines={'A': [Call('a', 'go', after=('a',))]}": "scenario one: calls wait for each other: 'a', 'a'",
    "lines={'A': [Call('a', 'go', (Ref('b'),)), Call('b', 'go')]}": "one: calls wait for each other: 'a', 'b', 'a'",
    "name=None": "scenario None: its name: expected a text",
    "name=''": "scenario '': its name: expected a text",
    "checks=[lambda: []]": "scenario mine:ONE: its check <lambda> cannot be called with a Run: ",
    "checks=[lambda run: [Finding('broken', 'x', 'y')]]": "kind of a finding: expected one of lost,",
    "checks=[lambda run: [Finding('lost', 'x', 5)]]": "subject and sentence of a finding: expected texts",
}
"""A part of a scenario of one's own that has another shape, and what the line says: 3 for a check, otherwise 2."""
SHAPED = """
from podrace import *
class Pod:
    def __init__(self, env): self.env = env
    def go(self): self.env.redis.set(self.env.prefix + "k", 1, ex=5)
def pod(env): return Pod(env)
ONE = Scenario(**(dict(name="one", lines={{"A": [Call("c", "go")]}}) | dict({part})))
"""

COUNTED = {
    "counts that are words": {"counts": {"lost": "many"}},
    "counts below 0": {"counts": {"lost": -1}},
    "counts of nan": {"counts": {"lost": float("nan")}},
    "counts in a list": {"counts": [1]},
    "schedules that are words": {"schedules": {"run": "x"}},
    "schedules that are a number": {"schedules": 7},
    "a verdict of nobody's": {"verdict": "nope"},
    "a time of nan": {"elapsed_s": float("nan")},
    "a time of words": {"elapsed_s": "x"},
}
"""Changed fields of a cell of a result."""
CELL = {"target": "local", "scenario": "foreign-pod", "verdict": "violated", "expected": "violated", "words": "lost"}


def rows() -> Iterator[Row]:
    """All rows of the table."""
    for typed, says in USAGE.items():
        yield Row(typed or "nothing", typed, 2, says)
    for url, says in URLS.items():
        yield Row(f"--redis-url {url}", f"{EXPLORE} --redis-url {url}", 2, says)
        yield Row(f"dead-letters --redis-url {url}", f"dead-letters --redis-url {url}", 2, says)
    for url, says in SEVERAL_NODES.items():
        yield Row(f"dead-letters of several nodes, {url}", f"dead-letters --redis-url {url}", 2, says)
    for command in ("reproduce", "run", "matrix", "replay f"):
        typed = f"{command} --redis-url http://localhost"
        yield Row(typed, typed, 2, URLS["http://localhost"], {"f": json.dumps(SAVED)})
    yield Row("PODRACE_REDIS_URL", EXPLORE, 2, "PODRACE_REDIS_URL", {}, {"PODRACE_REDIS_URL": "http://x"})
    for name, content in DAMAGED.items():
        files = {"f": content}
        yield Row(f"replay {name}", "replay f", 2, "counterexample f: ", files)
        yield Row(f"report on {name}", "report f", 3, "left out: f: ", files)
        yield Row(f"bench-compare {name}", "bench-compare f f", 2, "f: ", files)
        yield Row(f"check a history of {name}", "check f --model register", 2, ": expected ", files)
        yield Row(f"--expect {name}", f"{EXPLORE} --expect f", 2, "expectations f: ", files)
        ratios = {"g": json.dumps({"ratios": {"set": 1.1}})}
        if "link" not in name and name != "nothing":
            yield Row(f"bench-compare --accept onto {name}", "bench-compare f g --accept", 2, "f: ", files | ratios)
    for name, (changed, code, says) in CHANGED.items():
        text = json.dumps(SAVED | changed)
        yield Row(f"replay {name}", "replay f --fleet inline", code, says, {"f": text})
    for name, (text, code, says) in MODULES.items():
        yield Row(f"a module that {name}", f"{EXPLORE} --target mine:pod", code, says, {"mine.py": text})
    for name, (body, code, says) in BODIES.items():
        files = {"mine.py": POD.format(body=body)}
        yield Row(f"a call that {name}", "explore --target mine:pod --scenario mine:ONE", code, says, files)
    for name, (changed_code, says) in SCENARIOS.items():
        files = {"mine.py": SCENARIO.format(**SOUND | changed_code)}
        typed = "explore --target mine:pod --scenario mine:ONE"
        yield Row(f"a scenario that {name}", typed, 3, f"inconclusive: {says}", files)
        typed = "matrix --targets mine:pod,mine:Pod --scenarios mine:X --workers 2"
        yield Row(
            f"a scenario that {name}, on two workers",
            typed,
            3,
            f"mine:Pod mine:X: {says.replace('mine:ONE', 'mine:X')}",
            files,
        )
    for part, says in SHAPES.items():
        files = {"mine.py": SHAPED.format(part=part)}
        code = 3 if "lambda" in part or part == "lines={}" else 2
        yield Row(f"a scenario with {part}", "explore --target mine:pod --scenario mine:ONE", code, says, files)
    for name, changed in COUNTED.items():
        document = {"version": 1, "command": ["matrix"], "seed": 7, "run": "r", "cells": [CELL | changed]}
        yield Row(f"report of {name}", "report f", 3, "left out: f: cell 1: damaged: ", {"f": json.dumps(document)})
    for columns in ("", "0", "1", "-5", "abc", "²", "9" * 30):
        typed = "explore --target mine:pod --scenario mine:ONE"
        files = {"mine.py": POD.format(body="raise ValueError")}
        yield Row(f"COLUMNS={columns}", typed, 3, NO_CALL, files, {"COLUMNS": columns})
    text = (
        "class pod:\n def __init__(s, env): 0\n def __repr__(s): raise OSError('r')\n def add_message(s, *_): return s"
    )
    text += "\n def upload_status(s, _): return s\n def absorb(s, _): return s"
    yield Row(
        "check a pod that has no text", "check mine:pod", 3, f"{THEIRS} OSError: r, at mine.py", {"mine.py": text}
    )
    spins = "A did not come back within 1 s, at mine.py:8 in go: it blocks, or loops, outside its environment"
    blocks = "the target sleeps, at mine.py:8 in go: that cannot be led; use runtime.sleep"
    for name, body, says in (("blocks", "time.sleep(60)", blocks), ("spins", "while True: pass", spins)):
        files = {"mine.py": POD.format(body=body)}
        command = "explore --target mine:pod --scenario mine:ONE --budget 0.5"
        yield Row(f"a call that {name}", command, 3, says, files)
    closes = "the target closes a file descriptor that it has not opened, at mine.py:8 in go"
    for body in ("os.close(2)", "os.closerange(0, 64)", "os.dup2(os.open('mine.py', 0), 1)"):
        files = {"mine.py": POD.format(body=f"import os; {body}")}
        yield Row(f"a call of {body}", "explore --target mine:pod --scenario mine:ONE", 3, closes, files)
    shares = "the target changes what all pods of one process would share, at mine.py:8 in go"
    for name, body, says in (
        (
            "ignores alarms",
            "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)",
            "the target handles or sends signals, at mine.py:8 in go",
        ),
        ("leaves something to the exit", "import atexit; atexit.register(lambda: 1 / 0)", shares),
        ("is nice", "os.nice(5)", shares),
        ("sets the mask of files", "os.umask(0o777)", shares),
        ("sets the limit of recursion", "sys.setrecursionlimit(60)", shares),
        ("limits the process", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))", shares),
        ("returns what holds itself", "d = {}; d['d'] = d; return d", "cannot be compared: RecursionError"),
    ):
        files = {"mine.py": POD.format(body=body)}
        yield Row(f"a call that {name}", "explore --target mine:pod --scenario mine:ONE", 3, says, files)
    files = {"mine.py": POD.format(body="self.redis.connection_pool = None; self.redis.get(self.key)")}
    yield Row(
        "a call that drops its connections",
        "explore --target mine:pod --scenario mine:ONE",
        3,
        "holds in one process, but on processes of its own the call go ended as `fail`: AttributeError",
        files,
    )
    busy = "called at mine.py:8 in go: a script, or a command, that does not end keeps the server busy"
    for written in ("", "redis.call('SET', KEYS[1], 1) "):
        loop = f'self.env.redis.eval("{written}while true do end", 1, self.env.prefix + "k")'
        files = {"mine.py": POD.format(body=loop)}
        for typed in ("explore --budget 0.5 --target", "matrix --budget 0.5 --targets shared,", "check"):
            command = (
                f"{typed}{'' if typed.endswith(',') else ' '}mine:pod --scenario{'s' * ('matrix' in typed)} mine:ONE"
            )
            yield Row(f"{typed}: a script without an end {written}", command, 3, busy, files)
    yield from results()


def results() -> Iterator[Row]:
    """Results that are there already, and things that are in the way."""
    there: dict[str, Content] = {"r": folder, "r/result.json": "{}"}
    for command in ("reproduce", EXPLORE, "matrix --scenarios foreign-pod"):
        yield Row(
            f"{command} over a result", f"{command} --run-dir r", 2, "run folder r: it holds a result already", there
        )
        yield Row(f"{command} into a file", f"{command} --run-dir f", 2, "run folder f: expected a folder", {"f": ""})
        yield Row(f"{command} below a file", f"{command} --run-dir f/r", 2, "run folder f/r: expected", {"f": ""})
    over = "it holds something else than a report of podrace"
    for form in ("html", "markdown", "junit"):
        yield Row(f"report {form} over a file", f"report . --format {form} --out f", 2, over, {"f": "notes"})
    yield Row(
        "report svg over a file", "report x.podrace.json --format svg --out f", 2, "report f", {"f": "notes"} | SHOWN
    )
    yield Row(
        "bench-compare --accept over a file",
        "bench-compare f g --accept",
        2,
        "f: expected JSON",
        {"f": "notes", "g": json.dumps({"ratios": {"set": 1.1}})},
    )
    yield Row("init over a file", "init", 2, "example wallet.py: expected a new file", {"wallet.py": "mine"})
    yield Row("report into a pipe", "report . --out p", 2, "report p: expected a place that", {"p": os.mkfifo})
    yield Row("report through a link to nothing", "report . --out f", 2, "report f: expected", {"f": link("no/x")})
    yield Row(
        "--expect through a link to nothing",
        f"{EXPLORE} --expect f --accept",
        2,
        "expectations f: expected a folder that is there",
        {"f": link("no/x")},
    )
    yield Row("report of a text", "report f", 3, "left out: f: expected JSON", {"f": "notes"})
    yield Row("images of another kind", "reproduce --images f", 2, "expected a PNG or JPEG file, got f", {"f": ""})
    yield Row("images of another ending", "reproduce --images f.gif", 2, "JPEG file, got f.gif", {"f.gif": ""})
    yield Row("report of nothing", "report .", 3, "left out: .: holds none of result.json")
    yield Row("report of what is missing", "report gone", 3, "left out: gone: there is no such file or folder")
    yield Row("report of what is missing, and more", "report gone x.podrace.json", 3, "left out: gone", SHOWN)
    yield Row(
        "report of a pipe in a run",
        "report r",
        3,
        "result.json: expected a regular file",
        {"r": folder, "r/result.json": os.mkfifo},
    )
    yield Row(
        "report of a device in a run",
        "report r",
        3,
        "result.json: expected a regular file",
        {"r": folder, "r/result.json": link("/dev/zero")},
    )
    for name, content in (("a pipe", os.mkfifo), ("a device", link("/dev/zero")), ("a text", "text")):
        expected = "image f.png: expected a PNG or JPEG file"
        yield Row(f"images that are {name}", "reproduce --images f.png", 2, expected, {"f.png": content})
    files = {"d": folder, "d/f.png": os.mkfifo}
    yield Row("a folder with a pipe", "reproduce --images d", 2, "image d/f.png: expected a PNG or JPEG file", files)


SHOWN: Mapping[str, Content] = {"x.podrace.json": json.dumps(SAVED)}
ROWS = tuple(rows())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; modules that are imported from it are forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(watchdog, "STEP_WITHIN_S", 1.0)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_every_bad_input_is_answered(
    row: Row, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in row.files.items():
        if callable(content):
            content(place / name)
        else:
            (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, value in row.environment.items():
        monkeypatch.setenv(name, value)
    before = set(place.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(row.typed))
    out, err = capsys.readouterr()
    assert ended.value.code == row.code, (out, err)
    assert row.says in " ".join((out + err).split())
    assert "Traceback" not in out + err
    assert "hunter2" not in out + err
    if row.code == 2:
        assert (out, set(place.rglob("*"))) == ("", before)
        assert row.typed == "" or (err.startswith("podrace: ") and err.endswith("\n") and err.count("\n") == 1), err
    else:
        assert all(line.startswith("podrace: ") for line in err.splitlines()), err


def test_the_table_has_no_row_twice() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 220
