"""`docker-compose.yml` holds to the specification's schema and to this house's rules."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobs.settings import Settings
from ops.docker import make_secrets
from tests.ops import compose

SERVICES: dict[str, Any] = compose.load()["services"]
OURS = ["api", "dispatcher", "flower", "migrate", "worker", "worker-gpu"]
LASTING = sorted(set(SERVICES) - {"migrate"})
FIELDS = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
FIELDS |= {f"{name}_FILE" for name in FIELDS}
MONITORING = ["grafana", "prometheus"]


def _schema_errors(document: dict[str, Any]) -> list[str]:
    # The specification's own schema, as check-jsonschema ships it.
    schema = json.loads(
        resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    )
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [f"{error.json_path}: {error.message}" for error in validator(schema).iter_errors(document)]


def test_the_file_is_valid_compose() -> None:
    assert _schema_errors(compose.load()) == []
    assert "version" not in compose.load()


def test_the_schema_refuses_what_compose_would_refuse() -> None:
    broken = copy.deepcopy(compose.load())
    broken["services"]["api"]["healtcheck"] = {}
    assert _schema_errors(broken)


def test_the_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {"redis", "postgres", *OURS, *MONITORING}


def test_workers_and_monitoring_are_chosen_by_profile_and_the_example_chooses_processors() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "worker": ["cpu"],
        "worker-gpu": ["gpu"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    assert "\nCOMPOSE_PROFILES=cpu\n" in (compose.ROOT / "ops/docker/env.example").read_text()


def test_only_pages_and_the_api_are_published_and_on_loopback_unless_told() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api", "flower", *MONITORING}
    assert all(port["host_ip"] == "127.0.0.1" for ports in published.values() for port in ports)
    assert not any(service.get("network_mode") for service in SERVICES.values())


def test_no_variable_but_the_apis_own_opens_a_port_beyond_loopback() -> None:
    everything_set = compose.ENVIRONMENT | dict.fromkeys(compose.variables() - set(compose.ENVIRONMENT), "0.0.0.0")
    services = compose.load(everything_set)["services"]
    opened = {
        name
        for name, service in services.items()
        for port in service.get("ports", ())
        if port["host_ip"] != "127.0.0.1"
    }
    assert opened == {"api"}


def test_secrets_are_files_and_each_is_mounted_only_where_it_is_read() -> None:
    document = compose.load()
    assert {name: secret["file"] for name, secret in document["secrets"].items()} == {
        name: f"ops/docker/secrets/{name}" for name in compose.SECRETS
    }
    mounted = {name: set(service.get("secrets", ())) for name, service in SERVICES.items()}
    read = {
        name: set(re.findall(rf"{compose.SECRETS_FOLDER}(\w+)", json.dumps(service)))
        for name, service in SERVICES.items()
    }
    scrapers = {"prometheus": {"metrics_key"}}  # its file names it
    assert mounted == {name: secrets | scrapers.get(name, set()) for name, secrets in read.items()}


def test_no_secret_is_a_value_of_the_file() -> None:
    keys = {key for service in SERVICES.values() for key in service["environment"]}
    named = {key for key in keys if re.search("PASSWORD|KEYS?$|KEYS?_FILE|AUTH|TOKEN", key)}
    assert {key for key in named if not key.endswith("_FILE")} == set()


def test_the_secrets_are_made_once_and_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, environment = tmp_path / "secrets", tmp_path / ".env"
    assert make_secrets.main(folder, environment) == 0
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == set(compose.SECRETS)
    assert all(len(secret) > 20 for secret in made.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o444 for path in folder.iterdir()} == {0o444}  # the container's user is another one
    environment.write_text("MINE=1\n")
    make_secrets.main(folder, environment)
    assert {path.name: path.read_text() for path in folder.iterdir()} == made
    assert environment.read_text() == "MINE=1\n"
    assert not any(secret.strip() in capsys.readouterr().out for secret in made.values())


def test_secrets_come_into_no_image_and_no_commit() -> None:
    assert "ops/docker/secrets" in (compose.ROOT / ".dockerignore").read_text().splitlines()
    assert "ops/docker/secrets/" in (compose.ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("role", ["redis", "postgres"])
def test_redis_and_postgres_are_on_a_network_without_a_way_out(role: str) -> None:
    assert SERVICES[role]["networks"] == ["backend"]
    assert compose.load()["networks"]["backend"] == {"internal": True}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_service_has_a_health_check_and_is_started_again(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert compose.seconds(check["timeout"]) < compose.seconds(check["interval"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_reaps_its_children_bounds_its_log_and_can_be_scaled(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["logging"]["options"]["max-size"]
    assert "container_name" not in service


@pytest.mark.parametrize("name", [*OURS, *MONITORING])
def test_our_services_have_no_rights_and_cannot_write_to_their_image(name: str) -> None:
    service = SERVICES[name]
    assert name in MONITORING or re.fullmatch(r"[1-9]\d+:[1-9]\d+", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_is_given_longer_than_its_drain(name: str) -> None:
    drain = float(SERVICES[name]["environment"]["PENSTOCK_DRAIN_SECONDS"])
    assert compose.seconds(SERVICES[name]["stop_grace_period"]) >= drain + 15


@pytest.mark.parametrize("name", sorted(set(OURS) - {"migrate"}))
def test_nothing_of_ours_starts_before_the_tables_are_there(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {
        "redis": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


@pytest.mark.parametrize("name", sorted(set(OURS) - {"migrate"}))
def test_the_command_is_the_penstock_role_and_the_check_is_the_roles_own(name: str) -> None:
    role = name.removesuffix("-gpu")
    assert SERVICES[name]["command"] == ["penstock", role]
    assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "python", "/opt/penstock/health.py", role]


@pytest.mark.parametrize("name", OURS)
def test_the_environment_makes_settings(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for secret in SERVICES[name]["secrets"]:
        (tmp_path / secret).write_text(compose.SECRETS[secret] + "\n")
    environment = {key: value for key, value in SERVICES[name]["environment"].items() if key.startswith("PENSTOCK_")}
    assert set(environment) <= FIELDS
    for key, value in environment.items():
        monkeypatch.setenv(key, value.replace(compose.SECRETS_FOLDER, f"{tmp_path}/"))
    settings = Settings()
    assert settings.redis_url == "redis://redis:6379/0"
    wanted = f"postgresql+psycopg://penstock:{compose.SECRETS['postgres_password']}@postgres:5432/penstock"
    assert settings.resolved_database_url == wanted


def test_what_an_operator_sets_for_all_reaches_every_role() -> None:
    # A job without `model` asks for the API's default: were it not the workers', no job would ever be accepted.
    shared = (
        "DATABASE_URL",
        "REDIS_URL",
        "MODEL",
        "LOG_LEVEL",
        "LEASE_SECONDS",
        "MAX_ATTEMPTS",
        "RETRY_BACKOFF_SECONDS",
    )
    told = compose.ENVIRONMENT | {"PENSTOCK_MODEL": "demo", "PENSTOCK_LEASE_SECONDS": "9", "PENSTOCK_MAX_ATTEMPTS": "5"}
    services = compose.load(told | {"PENSTOCK_RETRY_BACKOFF_SECONDS": "2"})["services"]
    seen = {tuple(services[name]["environment"][f"PENSTOCK_{key}"] for key in shared) for name in OURS}
    assert len(seen) == 1
    assert next(iter(seen))[2:] == ("demo", "info", "9", "5", "2")


def test_every_penstock_variable_is_a_setting() -> None:
    assert {name for name in compose.variables() if name.startswith("PENSTOCK_")} <= FIELDS
    names = re.findall(r"\bPENSTOCK_[A-Z_]+\b", compose.COMPOSE_FILE.read_text())
    assert set(names) <= FIELDS


def test_the_example_environment_names_every_variable_it_needs_and_none_it_does_not_know() -> None:
    lines = (compose.ROOT / "ops/docker/env.example").read_text().splitlines()
    needed = {match[1] for line in lines if (match := re.match(r"([A-Z_]+)=", line))}
    offered = {match[1] for line in lines if (match := re.match(r"# ([A-Z_]+)=", line))}
    handed_through = set(re.findall(r"^  +([A-Z_]+):$", compose.COMPOSE_FILE.read_text(), re.MULTILINE))
    assert needed == {"COMPOSE_PROFILES"}
    assert offered <= compose.variables() | handed_through


def test_every_network_and_named_volume_is_declared_and_used() -> None:
    document = compose.load()
    networks = {network for service in SERVICES.values() for network in service["networks"]}
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    folders = {volume for volume in volumes if volume.startswith("./")}
    assert networks == set(document["networks"])
    assert volumes - folders == set(document["volumes"])
    assert all((compose.ROOT / folder).exists() for folder in folders)


def test_data_and_models_outlive_a_container() -> None:
    assert {name: service["volumes"] for name, service in SERVICES.items() if "volumes" in service} == {
        "redis": ["redis-data:/data"],
        "postgres": ["postgres-data:/var/lib/postgresql/data"],
        "api": ["files:/var/lib/penstock/files"],
        "dispatcher": ["files:/var/lib/penstock/files"],
        "worker": ["models:/var/cache/penstock"],
        "worker-gpu": ["models:/var/cache/penstock"],
        "flower": ["flower:/var/lib/penstock/flower"],
        "prometheus": [
            "./ops/monitoring/prometheus.yml:/etc/prometheus/prometheus.yml:ro",
            "./ops/dashboards:/etc/prometheus/rules:ro",
            "prometheus-data:/prometheus",
        ],
        "grafana": [
            "./ops/monitoring/grafana:/etc/grafana/provisioning:ro",
            "./ops/dashboards:/etc/grafana/dashboards:ro",
            "grafana-data:/var/lib/grafana",
        ],
    }
    assert SERVICES["worker"]["environment"]["HF_HOME"].startswith("/var/cache/penstock/")
    assert SERVICES["flower"]["environment"]["PENSTOCK_FLOWER_DB"].startswith("/var/lib/penstock/flower/")


def test_the_api_and_the_clerk_keep_files_in_one_place_that_the_dispatcher_can_reach() -> None:
    for environment in (compose.ENVIRONMENT, compose.ENVIRONMENT | {"PENSTOCK_FILES_URL": "s3://a-bucket/files"}):
        services = compose.load(environment)["services"]
        places = {services[name]["environment"]["PENSTOCK_FILES_URL"] for name in ("api", "dispatcher")}
        assert places == {environment.get("PENSTOCK_FILES_URL", "/var/lib/penstock/files")}
    assert "front" in SERVICES["dispatcher"]["networks"]


def test_redis_appends_to_a_file_and_refuses_when_full() -> None:
    options = SERVICES["redis"]["command"]
    pairs = dict(zip(options[1::2], options[2::2], strict=True))
    assert pairs["--appendonly"] == "yes"
    assert pairs["--appendfsync"] == "everysec"
    assert pairs["--maxmemory-policy"] == "noeviction"


def test_the_gpu_worker_reserves_a_gpu_and_uses_it() -> None:
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert SERVICES["worker-gpu"]["environment"]["PENSTOCK_GPU_LAYERS"] == "-1"
