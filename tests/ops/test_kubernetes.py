"""The manifests of `ops/k8s` hold to Kubernetes' schemas and to this house's rules, and KEDA's question is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psycopg
import pytest
import yaml

from jobs.database import open_engine
from jobs.settings import Settings
from jobs.store import Store
from ops.docker.make_secrets import SECRETS
from tests.jobs.support import claim, make_line, make_settings, submit_one
from tests.ops import compose
from tests.ops.kustomize import Document, build, containers, pod

ROOT = compose.ROOT / "ops" / "k8s"
OVERLAYS = {name: build(ROOT / "overlays" / name) for name in ("cpu", "gpu")}
EVERYTHING = [*OVERLAYS["cpu"], *build(ROOT / "components" / "monitoring")]
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")
KUBERNETES = "1.32.0"
"""The oldest version that is checked; the newest that the schemas know is the other."""

ROLES = ("api", "dispatcher", "flower", "worker")
FIELDS = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
PODS = [document for document in OVERLAYS["cpu"] if pod(document)]


def one(kind: str, name: str, documents: list[Document] | None = None) -> Document:
    (found,) = [
        document
        for document in documents or EVERYTHING
        if (document["kind"], document["metadata"]["name"]) == (kind, name)
    ]
    return found


def spec_of(role: str, documents: list[Document] | None = None) -> Document:
    found = pod(one("Deployment", role, documents))
    assert found is not None
    return found


def main_container(role: str, documents: list[Document] | None = None) -> Document:
    container: Document = spec_of(role, documents)["containers"][0]
    return container


def environment(container: Document) -> dict[str, str]:
    config = one("ConfigMap", "penstock")["data"] if "envFrom" in container else {}
    return {**config, **{entry["name"]: entry["value"] for entry in container.get("env", ())}}


# Schemas


@pytest.mark.parametrize("version", [KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_objects_hold_to_the_schemas_of_kubernetes(overlay: str, version: str) -> None:
    for document in OVERLAYS[overlay]:
        if not document["apiVersion"].startswith(CUSTOM):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_a_field_that_does_not_exist() -> None:
    broken = json.loads(json.dumps(one("Deployment", "api")))
    broken["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_kedas_objects_hold_to_what_keda_knows() -> None:
    schema = json.loads((Path(__file__).parent / "keda.schema.json").read_text())
    found = [document for document in EVERYTHING if document["apiVersion"].startswith("keda.sh/")]
    assert {document["kind"] for document in found} == {"ScaledObject", "TriggerAuthentication"}
    for document in found:
        jsonschema.validate(document, schema)
    behavior = one("ScaledObject", "worker")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2, "behavior": behavior}
    scaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "worker"}}
    kubernetes_validate.validate({**scaler, "spec": spec}, KUBERNETES, strict=True)


def builders() -> list[str]:
    """This house's builder, and kubectl's where there is one."""
    return ["ours", *(["kubectl"] if shutil.which("kubectl") else [])]


@pytest.mark.parametrize("builder", builders())
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_builds_the_same_objects_whoever_builds_it(overlay: str, builder: str) -> None:
    folder = ROOT / "overlays" / overlay
    if builder == "ours":
        found = build(folder)
    else:
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
        found = list(yaml.safe_load_all(done.stdout))

    def by_name(document: Document) -> tuple[str, str]:
        return document["kind"], document["metadata"]["name"]

    assert sorted(found, key=by_name) == sorted(OVERLAYS[overlay], key=by_name)


# Rights


@pytest.mark.parametrize("document", PODS, ids=lambda document: document["metadata"]["name"])
def test_a_pod_runs_without_rights_on_a_file_system_it_cannot_write(document: Document) -> None:
    spec = pod(document)
    assert spec is not None
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(document):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("document", PODS, ids=lambda document: document["metadata"]["name"])
def test_every_mount_has_its_volume_and_every_secret_is_one_that_is_made(document: Document) -> None:
    spec = pod(document)
    assert spec is not None
    templates = [template["metadata"]["name"] for template in document["spec"].get("volumeClaimTemplates", ())]
    volumes = {volume["name"] for volume in spec.get("volumes", ())} | set(templates)
    mounted = {mount["name"] for container in containers(document) for mount in container.get("volumeMounts", ())}
    assert mounted == volumes
    for volume in spec.get("volumes", ()):
        keys = {item["key"] for item in volume.get("secret", {}).get("items", ())}
        assert keys <= set(SECRETS)
        assert volume.get("secret", {}).get("secretName", "penstock") == "penstock"
        claim = volume.get("persistentVolumeClaim")
        assert claim is None or one("PersistentVolumeClaim", claim["claimName"])


@pytest.mark.parametrize("role", [*ROLES, "backup"])
def test_what_a_role_is_told_are_settings_and_the_files_it_names_are_mounted(role: str) -> None:
    document = one("CronJob", role) if role == "backup" else one("Deployment", role)
    spec = pod(document)
    assert spec is not None
    items = next(volume["secret"]["items"] for volume in spec["volumes"] if volume["name"] == "secrets")
    for container in containers(document):
        told = {name: value for name, value in environment(container).items() if name.startswith("PENSTOCK_")}
        assert {name.removesuffix("_FILE") for name in told} <= FIELDS
        files = {value.rpartition("/")[2] for value in told.values() if value.startswith("/run/secrets/penstock/")}
        assert files <= {item["path"] for item in items}
    assert spec["enableServiceLinks"] is False  # else a Service's PENSTOCK_… would be taken for a setting


def test_no_secret_is_written_in_a_manifest() -> None:
    assert not [document for document in EVERYTHING if document["kind"] == "Secret"]
    entries = [entry for document in PODS for container in containers(document) for entry in container.get("env", ())]
    secret = [entry["name"] for entry in entries if any(word in entry["name"] for word in ("PASSWORD", "KEY", "AUTH"))]
    assert {name for name in secret if not name.endswith("_FILE")} == set()


# Life and end


@pytest.mark.parametrize("role", ROLES)
def test_a_role_runs_its_command_on_its_image(role: str) -> None:
    container = main_container(role)
    assert container["command"] == ["penstock", role]
    assert container["image"] == f"registry.example.org/penstock/{role}:0.1.0"


@pytest.mark.parametrize("role", ["api", "dispatcher", "worker"])
def test_migrations_come_before_code(role: str) -> None:
    (first,) = spec_of(role)["initContainers"]
    assert first["command"] == compose.load()["services"]["migrate"]["command"]
    assert first["image"] == main_container(role)["image"]
    assert environment(first)["PENSTOCK_DATABASE_URL"].startswith("postgresql+psycopg://")


def test_a_worker_is_given_longer_than_its_drain() -> None:
    drain = int(environment(main_container("worker"))["PENSTOCK_DRAIN_SECONDS"])
    assert spec_of("worker")["terminationGracePeriodSeconds"] >= drain + 15


def test_the_api_leaves_the_load_balancer_before_it_stops() -> None:
    (_, seconds) = main_container("api")["lifecycle"]["preStop"]["exec"]["command"]
    probe = main_container("api")["readinessProbe"]
    assert probe["httpGet"]["path"] == "/health/ready"
    from api.server import DRAIN_SECONDS

    assert spec_of("api")["terminationGracePeriodSeconds"] > int(seconds) + DRAIN_SECONDS


def test_an_outage_of_the_database_restarts_nobody() -> None:
    for role in ROLES:
        probe = main_container(role)["livenessProbe"]
        assert "tcpSocket" in probe or probe["httpGet"]["path"] == "/health/live"


def test_a_first_start_may_fetch_a_model() -> None:
    probe = main_container("worker")["startupProbe"]
    assert probe["exec"]["command"] == ["python", "/opt/penstock/health.py", "worker"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 30 * 60


@pytest.mark.parametrize("role", ["api", "dispatcher", "worker"])
def test_a_node_that_is_emptied_leaves_enough_of_a_role(role: str) -> None:
    budget = one("PodDisruptionBudget", role)["spec"]
    deployment = one("Deployment", role)["spec"]
    assert budget["selector"] == deployment["selector"]
    assert budget["selector"]["matchLabels"].items() <= deployment["template"]["metadata"]["labels"].items()
    if role == "worker":
        assert budget["maxUnavailable"] == 1
        assert "replicas" not in deployment  # the autoscaler's
    else:
        assert budget["minAvailable"] < deployment["replicas"]


def test_the_gpu_overlay_gives_each_worker_one_and_never_needs_a_spare() -> None:
    worker = main_container("worker", OVERLAYS["gpu"])
    assert worker["image"].partition(":")[0].endswith("/worker-gpu")
    assert spec_of("worker", OVERLAYS["gpu"])["initContainers"][0]["image"] == worker["image"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(worker)["PENSTOCK_GPU_LAYERS"] == "-1"
    rolling = one("Deployment", "worker", OVERLAYS["gpu"])["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxUnavailable": 1, "maxSurge": 0}


# Networks


def test_nothing_is_open_that_no_policy_opens() -> None:
    assert one("NetworkPolicy", "nothing")["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_roles_and_the_scaler_reach_the_stores() -> None:
    for store, port in (("postgres", 5432), ("redis", 6379)):
        policies = [
            document["spec"]
            for document in EVERYTHING
            if document["kind"] == "NetworkPolicy"
            and document["spec"]["podSelector"].get("matchLabels") == {"app": store}
        ]
        sources = [source for spec in policies for rule in spec["ingress"] for source in rule["from"]]
        keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
        roles = {"podSelector": {"matchLabels": {"stores": "yes"}}}
        assert sources == ([keda, roles] if store == "postgres" else [roles]) or sources == [roles, keda]
        assert {rule["port"] for spec in policies for entry in spec["ingress"] for rule in entry["ports"]} == {port}
    for role in ROLES:
        assert one("Deployment", role)["spec"]["template"]["metadata"]["labels"] == {"app": role, "stores": "yes"}


def test_the_way_out_leads_to_no_private_address() -> None:
    (rule,) = one("NetworkPolicy", "roles-to-the-internet")["spec"]["egress"]
    (block,) = [target["ipBlock"] for target in rule["to"]]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(block["except"])


def test_metrics_are_scraped_where_they_are_served() -> None:
    ports = {
        role: port["containerPort"] for role in ROLES for port in main_container(role)["ports"] if role != "flower"
    }
    assert ports == {"api": 8000, "dispatcher": 9465, "worker": 9464}
    opened = one("NetworkPolicy", "prometheus-to-metrics")["spec"]["ingress"][0]["ports"]
    assert {rule["port"] for rule in opened} == set(ports.values())


# What KEDA asks


def queue_age(url: str) -> float:
    query = one("ScaledObject", "worker")["spec"]["triggers"][0]["metadata"]["query"]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        ((age,),) = connection.execute(query).fetchall()
    assert isinstance(age, float)
    return age


def test_keda_is_told_how_long_the_oldest_job_has_waited(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    store = Store(engine, settings=make_settings())
    assert queue_age(postgres_url) == 0
    first, second = submit_one(store), submit_one(store)
    with engine.begin() as connection:
        moved = "UPDATE jobs SET created_at = created_at - interval '{}', available_at = available_at - interval '{}'"
        connection.exec_driver_sql(moved.format("100 seconds", "100 seconds") + f" WHERE id = '{first}'")
    assert 100 <= queue_age(postgres_url) < 160
    claim(store, first)
    assert 0 <= queue_age(postgres_url) < 60  # the second one's
    with engine.begin() as connection:  # a retry that waits out its pause is nobody's lack of a worker
        later = "UPDATE jobs SET available_at = available_at + interval '1 hour' WHERE id = %(id)s"
        connection.exec_driver_sql(later, {"id": second})
    assert queue_age(postgres_url) == 0
    engine.dispose()


def test_kedas_question_costs_a_look_at_an_index_however_many_wait(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    store = Store(engine, settings=make_settings())
    store.submit([make_line()] * 3000, new_batch=True)
    query = one("ScaledObject", "worker")["spec"]["triggers"][0]["metadata"]["query"]
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("ANALYZE jobs")
        ((plan,),) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}").fetchall()
    assert max(_rows_read(plan[0]["Plan"])) <= 1
    engine.dispose()


def _rows_read(node: dict[str, Any]) -> list[float]:
    below = [rows for child in node.get("Plans", ()) for rows in _rows_read(child)]
    return [node["Actual Rows"] + node.get("Rows Removed by Filter", 0), *below]
