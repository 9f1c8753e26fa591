"""The deployment files agree with each other, with Settings, with Celery and with their formats.

No Docker engine, cluster or systemd runs here: what only those can tell stays unknown.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml
from celery import Celery
from celery.bin.base import CLIContext
from celery.bin.worker import worker as celery_worker
from jsonschema import Draft202012Validator

from pocoflow.broker import KEY_PREFIX
from pocoflow.settings import PREFIX, Settings, mask_url

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ROOT / "workers"
SCHEMAS = ROOT / "tests" / "support" / "schemas"
UNIT_FILE = WORKERS / "systemd" / "pocoflow-worker@.service"
FILES = [ROOT / "docker-compose.yml", *(path for path in WORKERS.rglob("*") if path.is_file())]
README = (WORKERS / "README.md").read_text()


def _compose() -> dict[str, Any]:
    """Read the file as Compose does where nobody set a variable: `${NAME:-default}` is the default."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "docker-compose.yml").read_text()))


def _dockerfile() -> list[tuple[str, str]]:
    lines = [line for line in (WORKERS / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    instructions = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in instructions)]


def _unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    text = UNIT_FILE.read_text().replace("\\\n", " ")
    parser.read_string(text.replace("%i", "1").replace("%H", "host"))
    return parser["Service"]


def _env_example() -> dict[str, str]:
    lines = (WORKERS / "worker.env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and line[0] != "#")


COMPOSE = _compose()
SERVICES = COMPOSE["services"]
DOCKERFILE = _dockerfile()
IMAGE = dict(DOCKERFILE)  # of each instruction the last one, which is the one that counts
UNIT = _unit()
MANIFESTS = {
    (path.name, document["kind"]): document
    for path in sorted((WORKERS / "k8s").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
KUSTOMIZATION = MANIFESTS.pop(("kustomization.yaml", "Kustomization"))
SECRET = MANIFESTS["secret.example.yaml", "Secret"]["stringData"]
POD = MANIFESTS["deployment.yaml", "Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
SCALED = MANIFESTS["keda.yaml", "ScaledObject"]["spec"]

# The order of the columns in the table of README.md.
ENVIRONMENTS = {
    "worker.env.example": _env_example(),
    "docker-compose.yml": SERVICES["worker"]["environment"],
    "k8s": MANIFESTS["configmap.yaml", "ConfigMap"]["data"]
    | {entry["name"]: SECRET[entry["valueFrom"]["secretKeyRef"]["key"]] for entry in CONTAINER["env"]},
}
COMMANDS = {
    "worker.env.example": shlex.split(
        UNIT["ExecStart"].replace("$WORKER_OPTS", ENVIRONMENTS["worker.env.example"]["WORKER_OPTS"])
    ),
    "docker-compose.yml": SERVICES["worker"]["command"],
    "k8s": CONTAINER["args"],
    "Dockerfile": json.loads(IMAGE["CMD"]),
}
README_COMMANDS = re.findall(r"^celery .+$", README, re.MULTILINE)
STOP_S = [
    int(UNIT["TimeoutStopSec"]),
    int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")),
    POD["terminationGracePeriodSeconds"],
]
HEALTH_CHECK = SERVICES["worker"]["healthcheck"]["test"][1:]


class Worker(NamedTuple):
    """What Celery made of a command line."""

    options: dict[str, Any]
    conf: Any


def worker_of(command: list[str]) -> Worker:
    """Parse a command as Celery does, without starting anything; raises click.UsageError or KeyError."""
    assert [Path(command[0]).name, *command[1:3]] == ["celery", "--app=pocoflow.workers", "worker"]
    app = Celery(set_as_current=False)
    shared = CLIContext(app, no_color=True, workdir=None)
    context = celery_worker.make_context("worker", command[3:], obj=shared)
    app.conf.update(app.loader.cmdline_config_parser(context.args, namespace="worker"))
    return Worker(context.params, app.conf)


def problems(document: Any, schema: dict[str, Any]) -> list[str]:
    errors = Draft202012Validator(schema).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in errors]


def health_check(**environment: str) -> int:
    given = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | environment
    return subprocess.run(
        [sys.executable, *HEALTH_CHECK[1:]], cwd=ROOT, env=given, capture_output=True, check=False
    ).returncode


def test_the_compose_file_follows_the_compose_specification() -> None:
    assert problems(COMPOSE, json.loads((SCHEMAS / "compose-spec.json").read_text())) == []


@pytest.mark.parametrize("key", MANIFESTS, ids=" ".join)
def test_each_manifest_follows_the_schema_of_its_kind(key: tuple[str, str]) -> None:
    manifest = MANIFESTS[key]
    file, kind, checked = {
        "v1": ("kubernetes-1.33.json", "io.k8s.api.core.v1.", manifest),
        "apps/v1": ("kubernetes-1.33.json", "io.k8s.api.apps.v1.", manifest),
        "keda.sh/v1alpha1": ("keda.json", "", manifest.get("spec")),
    }[manifest["apiVersion"]]
    schema = json.loads((SCHEMAS / file).read_text())

    assert problems(checked, schema | {"$ref": f"#/$defs/{kind}{manifest['kind']}"}) == []


@pytest.mark.parametrize("place", ENVIRONMENTS)
def test_the_environment_is_one_that_settings_take(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in ENVIRONMENTS[place].items() if name.startswith(PREFIX)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    settings = Settings.load()

    assert {PREFIX + name.upper() for name in settings.model_fields_set} == set(given)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_setting_that_does_not_exist(path: Path) -> None:
    service_link = {"POCOFLOW_REDIS_PORT"}  # stands in a comment as an example of what is not a setting

    named = set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", path.read_text()))

    assert named - service_link <= {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize(
    "command", [*COMMANDS.values(), *map(shlex.split, README_COMMANDS)], ids=[*COMMANDS, *README_COMMANDS]
)
def test_each_worker_command_is_one_that_celery_takes(command: list[str]) -> None:
    assert worker_of(command).options["concurrency"]
    assert importlib.util.find_spec("pocoflow.workers")


def test_a_mistyped_worker_command_is_refused() -> None:
    with pytest.raises(click.UsageError):
        worker_of(["celery", "--app=pocoflow.workers", "worker", "--concurency=4"])
    with pytest.raises(KeyError):
        worker_of(["celery", "--app=pocoflow.workers", "worker", "worker.soft_shutdown=20"])


def test_all_places_start_the_worker_alike() -> None:
    options = [worker_of(command).options | {"hostname": None} for command in COMMANDS.values()]

    assert options == [options[0]] * len(options)


def test_sigterm_is_a_soft_shutdown_with_ten_seconds_to_spare() -> None:
    soft_s = {worker_of(command).conf.worker_soft_shutdown_timeout for command in COMMANDS.values()}

    assert 0 < max(soft_s) <= min(STOP_S) - 10
    assert "REMAP_SIGTERM=SIGQUIT" in IMAGE["ENV"].split()
    assert IMAGE["STOPSIGNAL"] == "SIGTERM"
    assert (UNIT["Environment"], UNIT["KillSignal"]) == ("REMAP_SIGTERM=SIGQUIT", "SIGTERM")
    assert UNIT["KillMode"] == "mixed"  # Celery's children must not get the signal themselves


def test_the_table_in_the_readme_says_what_the_files_say() -> None:
    _header, *rows = re.findall(r"^\| ([^|\n]+) \|((?:[^|\n]+\|){3}[^|\n]+)\|$", README, re.MULTILINE)
    table = {name.strip("`"): [cell.strip(" `") for cell in cells.split("|")] for name, cells in rows}
    places = list(ENVIRONMENTS)
    workers = [worker_of(COMMANDS[place]) for place in places]

    expected = {}
    for name, default in Settings().shown().items():
        given = [ENVIRONMENTS[place].get(PREFIX + name.upper(), "default") for place in places]
        shown = [mask_url(value) if "://" in value else value for value in given]
        expected[PREFIX + name.upper()] = [default or "(empty)", *shown]
    for name in ("EMBEDDED_THREADS", "FAULTS", "EFFECT_LOG"):  # not for workers, and for testing only
        del expected[PREFIX + name]
    expected["--concurrency"] = ["all cores", *(str(worker.options["concurrency"]) for worker in workers)]
    soft_s = [f"{worker.conf.worker_soft_shutdown_timeout:g}" for worker in workers]
    expected["worker.soft_shutdown_timeout"] = ["0", *soft_s]
    expected["time to stop"] = ["", *map(str, STOP_S)]
    assert table == expected


@pytest.mark.parametrize("url", ["POCOFLOW_DATABASE_URL", "POCOFLOW_BROKER_URL"])
def test_the_urls_in_compose_lead_to_a_healthy_service_with_that_password(url: str) -> None:
    value = SERVICES["worker"]["environment"][url]
    password, host = re.fullmatch(r".+://\w*:([\w-]+)@(\w+):\d+/\w+", value).groups()

    assert password in SERVICES[host]["environment"].values()
    assert SERVICES["worker"]["depends_on"][host] == {"condition": "service_healthy"}
    assert "healthcheck" in SERVICES[host]


def test_compose_opens_ports_to_this_host_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values()]
    images += [rest.split()[0] for word, rest in DOCKERFILE if word == "FROM"]

    for image in [*images, CONTAINER["image"]]:
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", image), image
        assert not image.endswith(":latest")


def test_the_image_runs_as_the_user_that_kubernetes_expects() -> None:
    assert IMAGE["USER"] == f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}"
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert SERVICES["worker"]["read_only"] is True


def test_what_the_image_copies_exists_and_passes_the_dockerignore() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    copies = [rest.split() for word, rest in DOCKERFILE if word == "COPY" and "--from" not in rest]
    sources = [source for *some, _ in copies for source in some]

    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [f"!{source}" for source in sources if f"!{source}" not in rules] == []
    assert rules[1] == "*"


def test_no_password_is_committed() -> None:
    text = "\n".join(path.read_text() for path in FILES)
    text = re.sub(r"\$\{(?:POSTGRES|REDIS)_PASSWORD:-(.*?)\}", r"\1", text)
    in_urls = re.findall(r"://\w*:([^@\s]+)@", text)
    assigned = re.findall(r"(?:PASSWORD|AUTH)[:=] *([^\s#]+)", text)

    assert set(in_urls + assigned) <= {"CHANGE-ME", "dev-only", "***", "..."}
    assert not any(path.name in {".env", "worker.env", "secret.yaml"} for path in FILES)
    assert "secret.example.yaml" not in KUSTOMIZATION["resources"]


def test_the_kustomization_has_every_manifest_that_every_cluster_takes() -> None:
    optional = {"keda.yaml", "secret.example.yaml"}
    name, tag = CONTAINER["image"].rsplit(":", 1)

    assert set(KUSTOMIZATION["resources"]) == {file for file, _ in MANIFESTS} - optional
    assert KUSTOMIZATION["images"] == [{"name": name, "newTag": tag}]
    metadata = [manifest["metadata"] for manifest in MANIFESTS.values()]
    assert {data.get("namespace", data["name"]) for data in metadata} == {"pocoflow"}


def test_keda_watches_the_list_of_the_queue_and_leaves_a_worker_to_sweep() -> None:
    trigger = SCALED["triggers"][0]["metadata"]
    host, _, _ = trigger["address"].partition(".")

    assert trigger["listName"] == KEY_PREFIX + ENVIRONMENTS["k8s"]["POCOFLOW_QUEUE"]
    assert f"@{host}:6379/{trigger['databaseIndex']}" in ENVIRONMENTS["k8s"]["POCOFLOW_BROKER_URL"]
    assert trigger["listLength"] == str(worker_of(COMMANDS["k8s"]).options["concurrency"])
    assert SCALED["minReplicaCount"] >= 1
    assert SECRET["REDIS_PASSWORD"] in SECRET["POCOFLOW_BROKER_URL"]
    assert POD["enableServiceLinks"] is False


def test_the_health_check_wants_a_database_and_a_broker(redis_url: str, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"

    assert CONTAINER["readinessProbe"]["exec"]["command"] == HEALTH_CHECK
    assert health_check(POCOFLOW_DATABASE_URL=database, POCOFLOW_BROKER_URL=redis_url) == 0
    assert health_check(POCOFLOW_DATABASE_URL=database, POCOFLOW_BROKER_URL="redis://127.0.0.1:1/0") != 0
    assert health_check(POCOFLOW_DATABASE_URL=f"sqlite:///{tmp_path}", POCOFLOW_BROKER_URL=redis_url) != 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = UNIT["ExecStart"].split()[0]
    copy = tmp_path / UNIT_FILE.name
    # The program must exist on the machine that asks.
    copy.write_text(UNIT_FILE.read_text().replace(program, sys.executable))

    told = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)

    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_the_unit_shuts_the_worker_in() -> None:
    wanted = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes"}

    assert {key: UNIT[key] for key in wanted} == wanted
    assert UNIT["User"] == "pocoflow"
    assert UNIT["OOMPolicy"] == "continue"  # the kernel killing one child must not stop the others
