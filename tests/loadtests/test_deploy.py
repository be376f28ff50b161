"""The compose file and the manifests: their schema, and each container's command, run as a process on this machine.

No cluster and no container is started. The schemas are those of the Compose specification, in compose-spec, and of
Kubernetes' API, in lightkube's models.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from lightkube.models.apps_v1 import Deployment
from lightkube.models.core_v1 import Service
from msgspec import ValidationError

from podrace.simulator.servers.embedded import server_binary

DEPLOY = Path(__file__).parent.parent.parent / "loadtests/deploy"
ROOT = DEPLOY.parent.parent
ENTRYPOINT = re.compile(r"ENTRYPOINT (\[.*\])")
Start = Callable[..., "subprocess.Popen[str]"]


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def entrypoint() -> list[str]:
    found = ENTRYPOINT.search((DEPLOY / "Dockerfile").read_text())
    assert found is not None
    words: list[str] = yaml.safe_load(found[1])
    return words


def compose_commands() -> dict[str, list[str]]:
    return {
        name: [*service.get("entrypoint", entrypoint() if "build" in service else ()), *service.get("command", ())]
        for name, service in compose()["services"].items()
    }


def kubernetes_commands() -> dict[str, list[str]]:
    containers = [
        container
        for (kind, _), each in manifests().items()
        if kind == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    return {
        one["name"]: [*one.get("command", entrypoint() if "podrace" in one["image"] else ()), *one.get("args", ())]
        for one in containers
    }


def wrong_in_kubernetes(found: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """What does not fit together in manifests that the schema may still take."""
    wrong = []
    deployments = {name: each for (kind, name), each in found.items() if kind == "Deployment"}
    for name, each in deployments.items():
        if each["spec"]["selector"]["matchLabels"] != each["spec"]["template"]["metadata"]["labels"]:
            wrong.append(f"{name}: its selector is not its template's labels")
    for (kind, name), each in found.items():
        if kind != "Service":
            continue
        chosen = [one for one in deployments.values()
                  if one["spec"]["selector"]["matchLabels"] == each["spec"]["selector"]]  # fmt: skip
        ports = {port["containerPort"] for one in chosen
                 for container in one["spec"]["template"]["spec"]["containers"]
                 for port in container.get("ports", ())}  # fmt: skip
        missing = {port.get("targetPort", port["port"]) for port in each["spec"]["ports"]} - ports
        if missing:
            wrong.append(f"{name}: nobody listens on {missing}")
    return wrong


def test_the_manifests_fit_together() -> None:
    assert wrong_in_kubernetes(manifests()) == []


def test_manifests_that_do_not_fit_together_are_told() -> None:
    found = manifests()
    found["Service", "load-redis"]["spec"]["ports"][0]["port"] = 1
    found["Deployment", "load-worker"]["spec"]["selector"]["matchLabels"]["app"] = "other"
    assert wrong_in_kubernetes(found) == [
        "load-worker: its selector is not its template's labels", "load-redis: nobody listens on {1}",
    ]  # fmt: skip


def unknown_to_kubernetes(manifest: dict[str, Any]) -> bool:
    """Whether it has a field that its kind has not. ValidationError for one that is missing, or of another type."""
    model = {"Deployment": Deployment, "Service": Service}[manifest["kind"]]
    return bool(model.from_dict(manifest).to_dict() != manifest)


def test_kubernetes_schema_takes_the_manifests() -> None:
    assert [unknown_to_kubernetes(each) for each in manifests().values()] == [False] * 7


def test_kubernetes_schema_refuses_what_is_wrong() -> None:
    wrong = manifests()["Deployment", "load-redis"]
    container = wrong["spec"]["template"]["spec"]["containers"][0]
    container["readinesProbe"] = container.pop("readinessProbe")
    assert unknown_to_kubernetes(wrong)
    container["ports"] = [{"containerPort": "6379"}]
    with pytest.raises(ValidationError, match="containerPort"):
        unknown_to_kubernetes(wrong)


def wrong_in_compose(document: dict[str, Any]) -> str:
    try:
        PyCompose.from_yaml(yaml.safe_dump(document)).validate()  # its own reader knows no merged keys
    except ValueError as error:
        return str(error)
    return ""


def test_the_compose_specification_takes_the_file() -> None:
    assert wrong_in_compose(compose()) == ""


@pytest.mark.parametrize(
    ("service", "key", "value", "message"),
    [
        ("redis", "helthcheck", {}, "helthcheck"),
        ("redis", "ports", 7, "expected a set"),
        ("worker", "depends_on", {"master": {"condition": "sometimes"}}, "unknown variant `sometimes`"),
        ("master", "networks", ["elsewhere"], "elsewhere"),
    ],
)
def test_the_compose_specification_refuses_what_is_wrong(service: str, key: str, value: Any, message: str) -> None:
    document = compose()
    document["services"][service][key] = value
    assert message in wrong_in_compose(document)


def test_only_the_page_is_published_and_only_here() -> None:
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"master": ["127.0.0.1:8089:8089"]}
    assert all("type" not in each["spec"] for (kind, _), each in manifests().items() if kind == "Service")


@pytest.mark.parametrize("commands", [compose_commands, kubernetes_commands])
def test_the_hosts_that_a_command_names_are_there(commands: Callable[[], dict[str, list[str]]]) -> None:
    there = {name for kind, name in manifests() if kind == "Service"} | set(compose()["services"])
    named = re.findall(r"(?:://|--master-host=)([\w-]+)", " ".join(map(" ".join, commands().values())))
    assert len(named) == 3
    assert set(named) <= there


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("commands", [compose_commands, kubernetes_commands])
def test_each_containers_command_runs(
    locust: Start,
    tmp_path: Path,
    free_port: Callable[[], str],
    processes: ExitStack,
    commands: Callable[[], dict[str, list[str]]],
) -> None:
    """As it stands there, but on loopback and on free ports; Redis' by the embedded server's program."""
    found, port, files_port, redis_port = commands(), free_port(), free_port(), free_port()
    assert set(found) == {"redis", "files-api", "master", "worker"}
    program, *rest = found["redis"]
    assert program == "redis-server"
    redis = processes.enter_context(
        subprocess.Popen([server_binary(), *rest, "--bind", "127.0.0.1", "--port", redis_port], cwd=tmp_path,
                         stdout=subprocess.PIPE, text=True)
    )  # fmt: skip
    processes.callback(redis.terminate)
    assert redis.stdout is not None
    assert any("Ready to accept connections" in line for line in redis.stdout)

    def here(command: list[str]) -> list[str]:
        text = (
            "\n".join(command).replace("0.0.0.0", "127.0.0.1").replace("=*", "=127.0.0.1").replace("8080", files_port)
        )
        text = re.sub(r"redis://[\w-]+:6379", f"redis://127.0.0.1:{redis_port}", text)
        return re.sub(r"(://|--master-host=)(?:load-)?(?:files-api|master)", r"\g<1>127.0.0.1", text).split("\n")

    program, *rest = here(found["files-api"])
    assert program == "python"
    files_api = processes.enter_context(
        subprocess.Popen([sys.executable, *rest], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    processes.callback(files_api.terminate)
    assert files_api.stdout is not None
    assert f"127.0.0.1:{files_port}" in files_api.stdout.readline()
    before = entrypoint()
    assert before == ["locust", "-f", "loadtests/locustfile.py"]
    (tmp_path / "slo.toml").write_text("error_rate = 1.0\n")
    headless = ["--headless", "--users", "6", "--spawn-rate", "6", "--run-time", "5s", "--only-summary",
                "--slo", "slo.toml"]  # fmt: skip
    assert found["master"][:3] == found["worker"][:3] == before
    master = locust(*here(found["master"])[3:], "--master-bind-port", port, *headless)
    worker = locust(*here(found["worker"])[3:], "--master-port", port)
    out, err = master.communicate(timeout=50)
    assert master.returncode == 0, out + err
    assert "shared load-upload: holds" in out
    worker.communicate(timeout=50)
    assert worker.returncode == 0
