"""The documentation: it loads nothing from elsewhere, and says what the API does."""

from __future__ import annotations

import base64
import hashlib
import re

from api.wire import JobObject
from tests.api.stage import Api, run_to_end


def test_the_docs_page_loads_nothing_from_another_host(api: Api) -> None:
    page = api.client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("http://www.w3.org", "")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) == 3
    for link in links:
        assert api.client.get(link).status_code == 200


def test_the_docs_page_runs_only_the_scripts_that_its_policy_names(api: Api) -> None:
    page = api.client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
    assert "unsafe" not in policy["script-src"]
    for script in re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy["script-src"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["default-src"] == "'none'"


def test_every_call_is_documented_with_its_refusals(api: Api) -> None:
    schema = api.client.get("/openapi.json").json()
    calls = {f"{method} {path}" for path, methods in schema["paths"].items() for method in methods}
    assert calls == {
        "post /v1/jobs",
        "get /v1/jobs",
        "get /v1/jobs/{job_id}",
        "delete /v1/jobs/{job_id}",
        "post /v1/jobs/{job_id}/cancel",
        "get /v1/jobs/{job_id}/events",
        "post /v1/files",
        "get /v1/files",
        "get /v1/files/{file_id}",
        "delete /v1/files/{file_id}",
        "get /v1/files/{file_id}/content",
        "post /v1/batches",
        "get /v1/batches",
        "get /v1/batches/{batch_id}",
        "post /v1/batches/{batch_id}/retry",
        "get /v1/batches/{batch_id}/events",
        "post /v1/batches/{batch_id}/cancel",
        "post /v1/jobs/{job_id}/replay",
        "post /v1/chat/completions",
        "post /v1/completions",
        "post /v1/responses",
        "get /v1/responses/{response_id}",
        "get /v1/responses/{response_id}/input_items",
        "post /v1/responses/{response_id}/cancel",
        "post /v1/webhooks",
        "get /v1/webhooks",
        "get /v1/webhooks/{webhook_id}",
        "post /v1/webhooks/{webhook_id}",
        "delete /v1/webhooks/{webhook_id}",
        "post /v1/webhooks/{webhook_id}/test",
        "get /v1/webhooks/{webhook_id}/deliveries",
        "get /v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
        "post /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry",
        "get /v1/models",
        "get /v1/models/{name}",
        "get /v1/workers",
        "get /v1/queues",
        "get /v1/recipes/{recipe_id}",
        "get /health/live",
        "get /health/ready",
    }
    assert all(call["summary"] for methods in schema["paths"].values() for call in methods.values())
    assert {"400", "401", "409", "413", "503"} <= set(schema["paths"]["/v1/jobs"]["post"]["responses"])
    assert "422" not in str([list(call["responses"]) for m in schema["paths"].values() for call in m.values()])


def test_every_reference_of_the_schema_leads_somewhere(api: Api) -> None:
    raw = api.client.get("/openapi.json").text
    schemas = api.client.get("/openapi.json").json()["components"]["schemas"]
    references = set(re.findall(r'"\$ref":\s*"#/components/schemas/([^"]+)"', raw))
    assert {"JobRequest", "ManyJobsRequest", "BatchRequest"} <= references
    assert references <= set(schemas)


def test_a_job_has_exactly_the_documented_fields(api: Api) -> None:
    job_id = api.submit()["id"]
    run_to_end(api.store, job_id)
    assert set(api.client.get(f"/v1/jobs/{job_id}").json()) == set(JobObject.model_fields)


def test_replies_carry_security_headers_and_no_cors(api: Api) -> None:
    reply = api.client.get("/v1/jobs", headers={"Origin": "https://example.com"})
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["X-Frame-Options"] == "DENY"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
    assert not [name for name in reply.headers if name.startswith("access-control")]
    preflight = api.client.options(
        "/v1/jobs", headers={"Origin": "https://x.y", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 405
