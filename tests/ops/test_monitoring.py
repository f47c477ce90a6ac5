"""What Prometheus and Grafana are told agrees with the services that docker-compose.yml has."""

from __future__ import annotations

from typing import Any

import yaml

from tests.ops import compose

SERVICES: dict[str, Any] = compose.load()["services"]
FOLDER = compose.ROOT / "ops" / "monitoring"
PROMETHEUS: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())


def _mounts(service: str) -> dict[str, str]:
    """Path in the container → path in the repository, for what is mounted read-only."""
    volumes = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return {target: source for source, target, *rest in volumes if rest == ["ro"]}


def test_every_role_with_metrics_is_scraped_where_it_serves_them() -> None:
    found = {}
    for job in PROMETHEUS["scrape_configs"]:
        for config in job.get("dns_sd_configs", ()):
            found |= dict.fromkeys(config["names"], config["port"])
        for config in job.get("static_configs", ()):
            found |= {target.split(":")[0]: int(target.split(":")[1]) for target in config["targets"]}
    told = {
        name: int(service["environment"]["PENSTOCK_METRICS_PORT"])
        for name, service in SERVICES.items()
        if "PENSTOCK_METRICS_PORT" in service.get("environment", {})
    }
    assert found == told | {"api": int(SERVICES["api"]["environment"]["PENSTOCK_PORT"])}
    assert told == {"dispatcher": 9465, "worker": 9464, "worker-gpu": 9464}


def test_prometheus_brings_the_key_and_shares_a_network_with_what_it_scrapes() -> None:
    for job in PROMETHEUS["scrape_configs"]:
        assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}
    assert "metrics_key" in SERVICES["prometheus"]["secrets"]
    for name in ("api", "dispatcher", "worker", "worker-gpu"):
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_prometheus_reads_its_rules_and_grafana_its_dashboards_where_the_repository_has_them() -> None:
    (pattern,) = PROMETHEUS["rule_files"]
    assert _mounts("prometheus")[pattern.rpartition("/")[0]] == "./ops/dashboards"
    (provider,) = yaml.safe_load((FOLDER / "grafana/dashboards/penstock.yml").read_text())["providers"]
    assert _mounts("grafana")[provider["options"]["path"]] == "./ops/dashboards"
    assert _mounts("grafana")["/etc/grafana/provisioning"] == "./ops/monitoring/grafana"


def test_grafana_asks_the_prometheus_of_the_file() -> None:
    (source,) = yaml.safe_load((FOLDER / "grafana/datasources/prometheus.yml").read_text())["datasources"]
    port = SERVICES["prometheus"]["ports"][0]["target"]
    assert (source["type"], source["url"]) == ("prometheus", f"http://prometheus:{port}")
    assert source["isDefault"] is True


def test_grafana_and_prometheus_tell_nobody_outside() -> None:
    told = SERVICES["grafana"]["environment"]
    assert {key: value for key, value in told.items() if "ANALYTICS" in key} == {
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    }
