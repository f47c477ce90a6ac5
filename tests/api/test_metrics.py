"""The API's own metrics: who may read them, and what they say."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.api.stage import Api, LiveServer
from tests.support.services import wait_until

StartApi = Callable[..., Api]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def values(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and the values of their labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_on_loopback_without_keys_they_are_open(api: Api) -> None:
    assert api.client.get("/metrics").status_code == 200


def test_with_keys_they_are_closed_to_owners(start_api: StartApi) -> None:
    client = start_api(api_keys=("a-key",)).client
    for headers in ({}, bearer("a-key")):
        refused = client.get("/metrics", headers=headers)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_metrics_key"


def test_the_key_of_scrapers_opens_them_and_nothing_else(start_api: StartApi) -> None:
    client = start_api(api_keys=("a-key",), metrics_key="scraper").client
    assert client.get("/metrics", headers=bearer("scraper")).status_code == 200
    assert client.get("/metrics", headers=bearer("a-key")).status_code == 401
    assert client.get("/v1/jobs", headers=bearer("scraper")).status_code == 401


def test_a_key_of_scrapers_counts_without_other_keys_too(start_api: StartApi) -> None:
    assert start_api(metrics_key="scraper").client.get("/metrics").status_code == 401


def test_requests_are_told_apart_by_pattern_and_never_by_id(api: Api) -> None:
    job_id = api.submit()["id"]
    api.client.get(f"/v1/jobs/{job_id}")
    api.client.get("/v1/jobs/job_nobody")
    api.client.get("/no/such/page")
    api.client.request("BREW", "/v1/jobs")
    text = api.client.get("/metrics").text
    seen = values(text)
    assert seen["penstock_http_requests_total", ("POST", "/v1/jobs", "202")] == 1
    assert seen["penstock_http_requests_total", ("GET", "/v1/jobs/{job_id}", "200")] == 1
    assert seen["penstock_http_requests_total", ("GET", "/v1/jobs/{job_id}", "404")] == 1
    assert seen["penstock_http_requests_total", ("GET", "none", "404")] == 1
    assert not {job_id, "nobody", "BREW", "such"} & set(text.replace('"', " ").split())


def test_what_waits_is_told(api: Api) -> None:
    for _ in range(3):
        api.submit()
    seen = values(api.client.get("/metrics").text)
    assert seen["penstock_queue_jobs", ("interactive",)] == 3
    assert seen["penstock_jobs_accepted_total", ("interactive",)] == 3
    assert seen["penstock_database_up", ()] == 1


def test_a_reader_is_counted_while_it_reads(live: LiveServer) -> None:
    job_id = live.submit()

    def readers() -> float:
        return values(live.client.get("/metrics").text)["penstock_sse_readers", ()]

    with live.follow(job_id) as frames:
        next(frames)
        assert readers() == 1
    wait_until(lambda: readers() == 0)


def test_metrics_are_no_part_of_the_documented_api(api: Api) -> None:
    assert "/metrics" not in api.client.get("/openapi.json").json()["paths"]
