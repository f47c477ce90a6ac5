"""The units of `ops/systemd`: they start the roles after the tables, without rights, and end them in good order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.settings import Settings
from ops.docker.make_secrets import SECRETS
from tests.ops.units import FOLDER, environment, load, parse

ROLES = {
    "api": "penstock-api.service",
    "dispatcher": "penstock-dispatcher.service",
    "worker": "penstock-worker@.service",
    "flower": "penstock-flower.service",
}
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
FIELDS = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
HARDENED = {
    "User": "penstock",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectKernelTunables": "yes",
    "RestrictNamespaces": "yes",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}


def verified_by() -> list[str]:
    """This house's parser, and systemd's own where it is installed."""
    return ["ours", *(["systemd"] if shutil.which("systemd-analyze") else [])]


@pytest.mark.parametrize("verifier", verified_by())
def test_the_units_are_valid(verifier: str, tmp_path: Path) -> None:
    names = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".service", ".target", ".timer"})
    if verifier == "ours":
        assert all("Unit" in load(name) for name in names)
        return
    for name in names:  # the programs are not installed here
        text = re.sub(r"^ExecStart=/opt/\S+", "ExecStart=/bin/true", (FOLDER / name).read_text(), flags=re.MULTILINE)
        (tmp_path / name.replace("@.", "@0.")).write_text(text)
    paths = sorted(tmp_path.iterdir())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_directive_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="NoNewPriviledges"):
        parse("[Service]\nNoNewPriviledges=yes\n")


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_started_after_the_tables_and_again_when_it_dies(role: str) -> None:
    unit = load(ROLES[role])
    assert unit["Service"]["ExecStart"] == [f"/opt/penstock/bin/penstock {role}"]
    assert unit["Unit"]["Requires"] == ["penstock-migrate.service"]
    assert "penstock-migrate.service" in unit["Unit"]["After"][0].split()
    assert unit["Service"]["Restart"] == ["always"]
    assert unit["Install"]["WantedBy"] == ["penstock.target"]
    assert unit["Unit"]["PartOf"] == ["penstock.target"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_has_no_rights(name: str) -> None:
    service = load(name)["Service"]
    assert {key: service[key][0] for key in HARDENED} == HARDENED


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_are_credentials_that_settings_read(name: str) -> None:
    service = load(name)["Service"]
    credentials = [entry.partition(":") for entry in service.get("LoadCredential", ())]
    assert all(path == f"/etc/penstock/credentials/{credential}" for credential, _, path in credentials)
    told = dict(entry.split("=", 1) for entry in service.get("Environment", ()))
    files = {key: value for key, value in told.items() if key.endswith("_FILE")}
    assert files == {f"PENSTOCK_{credential.upper()}_FILE": f"%d/{credential}" for credential, _, _ in credentials}
    settings = {key.removesuffix("_FILE") for key in told if key.startswith("PENSTOCK_")}
    assert settings <= FIELDS


def test_the_environment_makes_settings_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER / "penstock.env").read_text()
    told = environment(text)
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    assert Settings().resolved_database_url == told["PENSTOCK_DATABASE_URL"]
    assert set(told) <= FIELDS
    named = set(re.findall(r"^#   (\w+)   ", text, re.MULTILINE))
    assert named == {"database_password", "api_keys", "flower_basic_auth", "metrics_key"}
    assert {name.replace("database_", "postgres_") for name in named} <= set(SECRETS)


def test_a_worker_is_given_longer_than_its_drain_and_sees_gpus() -> None:
    service = load(ROLES["worker"])["Service"]
    drain = int(dict(entry.split("=", 1) for entry in service["Environment"])["PENSTOCK_DRAIN_SECONDS"])
    assert int(service["TimeoutStopSec"][0]) >= drain + 15
    assert service["PrivateDevices"] == ["no"]
    assert service["KillMode"] == ["mixed"]


def test_a_worker_may_build_its_attention_in_its_own_cache_and_load_it() -> None:
    service = load(ROLES["worker"])["Service"]
    told = dict(entry.split("=", 1) for entry in service["Environment"])
    assert (told["XDG_CACHE_HOME"], service["CacheDirectory"]) == ("/var/cache", ["penstock"])
    hidden = {"MemoryDenyWriteExecute", "NoExecPaths", "InaccessiblePaths", "ProcSubset"}
    assert not hidden & set(service), "it runs a compiler, loads what that wrote, and reads /proc/cpuinfo"


def test_a_backup_is_made_each_night_and_the_newest_are_kept() -> None:
    service = load("penstock-backup.service")["Service"]
    assert "/opt/penstock/bin/penstock backup " in service["ExecStart"][0]
    assert service["ReadWritePaths"] == ["/var/backups/penstock"]
    assert load("penstock-backup.timer")["Timer"]["Persistent"] == ["true"]
