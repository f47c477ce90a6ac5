"""Files: uploads that are checked while they arrive, their bytes, their lists, their end."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from jobs.checked import CheckedLine, read
from jobs.store import Store
from tests.api.batch_stage import CHAT, chat_line, created, job_line, jsonl, office, upload, uploaded
from tests.api.stage import CONTEXT_TOKENS, MODEL, Api, LiveServer
from tests.support.services import wait_until


def checked(api: Api, file_id: str) -> list[CheckedLine]:
    name = api.store.get_file(file_id).checked_object
    assert name is not None
    return list(read(api.services.vault.read(name)))


def stored(api: Api | LiveServer, home: Path) -> list[Path]:
    return [path for path in (home / "files").rglob("*") if path.is_file()]


def assert_refused(api: Api, reply: Any, status: int, param: str | None, code: str | None = None) -> None:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert code in (None, error["code"])
    assert api.store.list_files()[0] == []
    assert stored(api, api.settings.home) == []


def test_a_file_is_kept_byte_for_byte(api: Api) -> None:
    data = jsonl([chat_line("a"), b"", b"  ", job_line("b")]).replace(b"\n", b"\r\n")
    reply = upload(api, data)
    file = reply.json()
    assert reply.status_code == 200
    assert (file["object"], file["purpose"], file["filename"], file["status"]) == (
        "file",
        "batch",
        "in.jsonl",
        "processed",
    )
    assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (file["lines"], file["expires_at"], file["complete"]) == ({"total": 2, "invalid": 0}, None, True)
    assert api.client.get(f"/v1/files/{file['id']}").json() == file
    assert api.client.get(f"/v1/files/{file['id']}/content").content == data


def test_lines_are_numbered_as_an_editor_does_and_checked_into_jobs(api: Api) -> None:
    file = uploaded(api, [chat_line("a", seed=7), b"", job_line("b", temperature=0), chat_line("c", url="/v1/nowhere")])
    first, second, third = checked(api, file["id"])
    assert (first.number, first.custom_id, first.url) == (1, "a", CHAT)
    assert first.job is not None
    assert (first.job["seed"], first.job["model"]) == (7, MODEL)
    assert first.job["parameters"]["repeat_penalty"] == 1.0
    assert second.job is not None
    assert (second.number, second.job["prompt"], second.job["seed"]) == (3, "Ice", None)
    assert second.job["parameters"]["repeat_penalty"] == 1.2
    assert third.error is not None
    assert (third.number, third.custom_id, third.error["code"], third.error["param"]) == (4, "c", "invalid_url", "url")
    assert third.error["message"].startswith("line 4: url: must be one of")
    assert file["lines"] == {"total": 3, "invalid": 1}
    assert api.store.get_file(file["id"]).urls == {CHAT: 1, "/v1/jobs": 1}


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b'"text"', "invalid_type", None),
        (b'{"custom_id": "\xff"}', "invalid_utf8", None),
        (b'{"custom_id": "a\\u0000"}', "invalid_text", "custom_id"),
        (b"[" * 5000, "invalid_json", None),
        (b'{"a": ' * 80 + b"1" + b"}" * 80, "invalid_json", None),
        ({}, "missing_field", "custom_id"),
        (chat_line("a") | {"custom_id": 7}, "invalid_type", "custom_id"),
        (chat_line("a") | {"custom_id": ""}, "invalid_value", "custom_id"),
        (chat_line("a") | {"custom_id": "x" * 513}, "invalid_value", "custom_id"),
        (chat_line("a") | {"method": "GET"}, "invalid_value", "method"),
        (chat_line("a") | {"url": ["x"]}, "invalid_url", "url"),
        (chat_line("a") | {"body": "text"}, "invalid_type", "body"),
        (chat_line("a") | {"more": 1}, "unknown_field", "more"),
        (chat_line("a", temperature="hot"), "invalid_type", "body.temperature"),
        (chat_line("a", max_tokens=10_000), "context_length_exceeded", "body.max_tokens"),
        (chat_line("a", model="gpt-4o"), "model_not_found", "body.model"),
        (chat_line("a", n=2), "unsupported_value", "body.n"),
        (chat_line("a", stream=True), "unsupported_value", "body.stream"),
        (
            chat_line("a", url="/v1/completions") | {"body": {"prompt": ["b", "c"]}},
            "unsupported_value",
            "body.prompt",
        ),
        (job_line("a", priority="interactive"), "invalid_value", "body.priority"),
        (job_line("a", prompt=""), "empty_prompt", "body.prompt"),
        (chat_line("a", messages=[]), "invalid_value", "body.messages"),
    ],
)
def test_a_line_that_cannot_run_is_named_with_its_number_and_field(
    api: Api, line: Any, code: str, param: str | None
) -> None:
    file = uploaded(api, [chat_line("good"), line])
    good, bad = checked(api, file["id"])
    assert good.error is None
    assert bad.error is not None
    assert (bad.number, bad.error["code"], bad.error["param"]) == (2, code, param)
    assert bad.error["message"].startswith("line 2: ")


def test_a_custom_id_that_came_before_names_the_first_line(api: Api) -> None:
    file = uploaded(
        api, [chat_line("a"), chat_line("b"), chat_line("a"), chat_line("c") | {"method": "GET"}, chat_line("c")]
    )
    errors = [line.error for line in checked(api, file["id"])]
    assert [error and error["code"] for error in errors] == [
        None,
        None,
        "duplicate_custom_id",
        "invalid_value",
        "duplicate_custom_id",
    ]
    assert errors[2] is not None
    assert errors[2]["message"] == "line 3: custom_id: line 1 has the same one."


def test_lines_with_a_long_common_beginning_stand_together(api: Api) -> None:
    shared = "ice " * 70
    lines = [chat_line("a"), *(job_line(str(n), prompt=f"{shared}{n}", max_tokens=1) for n in range(2)), chat_line("b")]
    lines.append(job_line("last", prompt=f"{shared}last", max_tokens=1))
    assert [line.order for line in checked(api, uploaded(api, lines)["id"])] == [1, 2, 2, 4, 2]


def test_a_byte_order_mark_is_taken(api: Api) -> None:
    file = upload(api, b"\xef\xbb\xbf" + jsonl([chat_line("a")])).json()
    assert file["lines"] == {"total": 1, "invalid": 0}


def test_a_line_over_the_limit_is_refused_and_the_others_run(start_api: Callable[..., Api]) -> None:
    api = start_api(max_line_bytes=4096)
    file = uploaded(api, [chat_line("a"), b"x" * 4097, b"y" * 100_000, chat_line("b")])
    errors = [line.error for line in checked(api, file["id"])]
    assert [error and error["code"] for error in errors] == [None, "line_too_long", "line_too_long", None]
    assert "4096" in str(errors[1])


def test_the_purpose_may_come_after_the_file(api: Api) -> None:
    data = jsonl([chat_line("a")])
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x/../in.jsonl"\r\n\r\n' + data
    body += b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    reply = api.client.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert (reply.status_code, reply.json()["bytes"], reply.json()["filename"]) == (200, len(data), "in.jsonl")


def test_an_expiry_is_kept(api: Api) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = upload(api, jsonl([chat_line("a")]), **fields).json()
    assert file["expires_at"] - file["created_at"] == 3600


@pytest.mark.parametrize(
    ("data", "fields", "status", "param", "code"),
    [
        (b"", {}, 400, "file", "empty_file"),
        (b"\n \n", {}, 400, "file", "empty_file"),
        (jsonl([{}]), {"purpose": "fine-tune"}, 400, "purpose", None),
        (jsonl([{}]), {"colour": "red"}, 400, "colour", "unknown_field"),
        (jsonl([{}]), {"purpose": "x" * 2000}, 400, "purpose", None),
        (jsonl([{}]), {"expires_after[anchor]": "now"}, 400, "expires_after.anchor", None),
        (jsonl([{}]), {"expires_after[anchor]": "created_at"}, 400, "expires_after.seconds", None),
        (
            jsonl([{}]),
            {"expires_after[anchor]": "created_at", "expires_after[seconds]": "-1"},
            400,
            "expires_after.seconds",
            None,
        ),
        (gzip.compress(jsonl([{}])), {}, 415, "file", "unsupported_media_type"),
    ],
)
def test_a_wrong_upload_is_refused_and_leaves_nothing(
    api: Api, data: bytes, fields: dict[str, str], status: int, param: str, code: str | None
) -> None:
    assert_refused(api, upload(api, data, **fields), status, param, code)


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
            400,
            "file",
            "missing_field",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n--b--\r\n',
            400,
            "purpose",
            None,
        ),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n', 400, None, "invalid_form"),
        (b"no form at all", 400, None, "invalid_form"),
        (b"", 400, None, "invalid_form"),
    ],
)
def test_a_broken_form_is_refused_and_leaves_nothing(
    api: Api, body: bytes, status: int, param: str | None, code: str | None
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_refused(api, api.client.post("/v1/files", content=body, headers=headers), status, param, code)


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"Content-Type": "application/json"}, "Content-Type"),
        ({"Content-Type": "multipart/form-data"}, "Content-Type"),
        ({"Content-Type": "multipart/form-data; boundary=b", "Content-Encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_another_kind_of_body_is_refused(api: Api, headers: dict[str, str], param: str) -> None:
    assert_refused(api, api.client.post("/v1/files", content=b"{}", headers=headers), 415, param)


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused_and_leaves_nothing(start_api: Callable[..., Api], announced: bool) -> None:
    api = start_api(max_file_bytes=100_000, max_body_bytes=1024)
    data = jsonl([chat_line("a")] * 2000)
    if announced:
        assert_refused(api, upload(api, data), 413, "file", "file_too_large")
        return
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + data + b"\r\n--b--\r\n"
    pieces = (form[start : start + 5000] for start in range(0, len(form), 5000))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert_refused(api, api.client.post("/v1/files", content=pieces, headers=headers), 413, "file", "file_too_large")


def test_a_file_of_too_many_lines_is_refused(start_api: Callable[..., Api]) -> None:
    api = start_api(max_batch_lines=3)
    assert_refused(api, upload(api, jsonl([chat_line(str(n)) for n in range(4)])), 400, "file", "too_many_lines")
    assert uploaded(api, [chat_line(str(n)) for n in range(3)])["lines"]["total"] == 3


def test_a_file_may_be_larger_than_any_other_body(start_api: Callable[..., Api]) -> None:
    api = start_api(max_body_bytes=2048)
    assert uploaded(api, [chat_line(str(n)) for n in range(100)])["bytes"] > 2048


def test_an_upload_whose_client_goes_away_leaves_nothing(start_server: Callable[..., LiveServer]) -> None:
    live = start_server()
    home = live.server.app.state.services.settings.home
    url = urlsplit(live.server.url)
    head = f"POST /v1/files HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 100000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    with socket.create_connection((url.hostname, url.port or 0)) as connection:
        connection.sendall(head.encode() + part + jsonl([chat_line(str(n)) for n in range(5000)]))
        wait_until(lambda: len(stored(live, home)) == 2)
    wait_until(lambda: stored(live, home) == [])
    assert live.store.list_files()[0] == []


def test_without_a_known_model_an_upload_waits(start_api: Callable[..., Api]) -> None:
    reply = upload(start_api(announced=False), jsonl([chat_line("a")]))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unknown")
    assert reply.headers["Retry-After"]


def test_a_storage_that_cannot_serve_is_an_outage(start_api: Callable[..., Api], tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    api = start_api(files_url=str(tmp_path / "blocked" / "files"))
    reply = upload(api, jsonl([chat_line("a")]))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_unavailable")


# Twice


def test_the_same_key_and_file_make_one_file(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    first, again = (upload(api, jsonl([chat_line("a")]), headers=headers) for _ in range(2))
    assert again.json() == first.json()
    assert (again.headers["Idempotent-Replayed"], len(stored(api, api.settings.home))) == ("true", 2)
    other = upload(api, jsonl([chat_line("b")]), headers=headers)
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    assert len(stored(api, api.settings.home)) == 2


def test_a_clients_own_retry_makes_no_second_file_and_an_honest_second_call_does(api: Api) -> None:
    data = jsonl([chat_line("a")])
    first = upload(api, data).json()["id"]
    assert upload(api, data, headers={"x-stainless-retry-count": "1"}).json()["id"] == first
    assert upload(api, data, headers={"x-stainless-retry-count": "0"}).json()["id"] != first


# Lists, keys, the end


def test_files_are_listed_page_by_page_in_either_order(api: Api) -> None:
    ids = [uploaded(api, [chat_line(str(n))])["id"] for n in range(3)]
    page = api.client.get("/v1/files?limit=2").json()
    assert [file["id"] for file in page["data"]] == ids[:0:-1]
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[2], ids[1], True)
    rest = api.client.get(f"/v1/files?limit=2&after={page['last_id']}").json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert [file["id"] for file in api.client.get("/v1/files?order=asc").json()["data"]] == ids
    assert api.client.get("/v1/files?purpose=batch_output").json()["data"] == []
    assert api.client.get("/v1/files?after=file-x").json()["error"]["param"] == "after"


def test_another_keys_file_is_not_there(start_api: Callable[..., Api]) -> None:
    api = start_api(api_keys=("one", "two"))
    api.client.headers["Authorization"] = "Bearer one"
    file_id = uploaded(api, [chat_line("a")])["id"]
    api.client.headers["Authorization"] = "Bearer two"
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert api.client.request(method, f"/v1/files/{file_id}{path}").status_code == 404
    assert api.client.get("/v1/files").json()["data"] == []
    del api.client.headers["Authorization"]
    assert upload(api, b"").status_code == 401


def test_a_deleted_file_is_gone(api: Api) -> None:
    file_id = uploaded(api, [chat_line("a")])["id"]
    assert api.client.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    assert api.client.get(f"/v1/files/{file_id}").status_code == 404
    assert api.client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_a_file_that_a_batch_still_needs_is_not_deleted(api: Api) -> None:
    batch = created(api, [chat_line("a")])
    reply = api.client.delete(f"/v1/files/{batch['input_file_id']}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "file_in_use")
    office(api).work()
    assert api.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200


@pytest.mark.parametrize("file_id", ["x", "file-zz", "file-" + "0" * 32, "file-%00"])
def test_a_file_that_does_not_exist_is_not_found(api: Api, file_id: str) -> None:
    assert api.client.get(f"/v1/files/{file_id}").status_code == 404


# Ranges


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, 999),
        ("bytes=-7", 992, 999),
        ("bytes=990-5000", 990, 999),
        ("bytes=-5000", 0, 999),
    ],
)
def test_a_range_is_served(api: Api, asked: str, start: int, end: int) -> None:
    data = b"x" * 998 + b"\n"
    file_id = upload(api, data).json()["id"]
    reply = api.client.get(f"/v1/files/{file_id}/content", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (206, data[start:end])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end - 1}/999"
    assert (reply.headers["Accept-Ranges"], reply.headers["Content-Length"]) == ("bytes", str(end - start))
    assert "X-Incomplete" not in reply.headers


@pytest.mark.parametrize("asked", ["bytes=4-", "bytes=4-9", "bytes=-0", "bytes=99999999999999999-"])
def test_a_range_beyond_the_end_is_refused_with_the_length(api: Api, asked: str) -> None:
    file_id = upload(api, b"abc\n").json()["id"]
    reply = api.client.get(f"/v1/files/{file_id}/content", headers={"Range": asked})
    assert (reply.status_code, reply.headers["Content-Range"]) == (416, "bytes */4")
    assert reply.json()["error"]["param"] == "Range"


@pytest.mark.parametrize("asked", ["bytes=3-1", "bytes=0-1,3-4", "lines=0-1", "bytes=-", "bytes=x-"])
def test_a_range_that_is_none_is_ignored(api: Api, asked: str) -> None:
    file_id = upload(api, b"abc\n").json()["id"]
    reply = api.client.get(f"/v1/files/{file_id}/content", headers={"Range": asked})
    assert (reply.status_code, reply.content) == (200, b"abc\n")


def test_a_tag_saves_what_is_known(api: Api) -> None:
    file_id = upload(api, b"abc\n").json()["id"]
    url = f"/v1/files/{file_id}/content"
    tag = api.client.get(url).headers["ETag"]
    assert api.client.get(url, headers={"If-None-Match": tag}).status_code == 304
    ranged = {"Range": "bytes=1-"}
    assert api.client.get(url, headers=ranged | {"If-Range": tag}).content == b"bc\n"
    assert api.client.get(url, headers=ranged | {"If-Range": '"another"'}).status_code == 200


def test_results_grow_under_a_reader_and_their_bytes_stay(api: Api) -> None:
    clerk = office(api)
    batch = created(api, [chat_line(str(n)) for n in range(6)])
    clerk.work()
    clerk.run(batch["id"], leave=3)
    clerk.work()
    file_id = api.client.get(f"/v1/batches/{batch['id']}").json()["output_file_id"]
    url = f"/v1/files/{file_id}/content"
    half = api.client.get(url)
    assert (half.status_code, half.headers["X-Incomplete"], half.text.count("\n")) == (200, "true", 3)
    assert api.client.get(f"/v1/files/{file_id}").json()["status"] == "uploaded"
    assert api.client.get(url, headers={"Range": f"bytes={len(half.content)}-"}).status_code == 416
    clerk.run(batch["id"])
    clerk.work()
    rest = api.client.get(url, headers={"Range": f"bytes={len(half.content)}-", "If-Range": half.headers["ETag"]})
    whole = api.client.get(url)
    assert (rest.status_code, whole.status_code) == (206, 200)
    assert "X-Incomplete" not in whole.headers
    assert half.content + rest.content == whole.content
    assert len([json.loads(line) for line in whole.text.splitlines()]) == 6


def test_a_batch_after_another_model_was_loaded_checks_its_lines_again(
    api: Api, vocabulary_bytes: bytes, announce: Callable[[Store], None]
) -> None:
    long = job_line("long", prompt="ice " * 100, max_tokens=100)
    file = uploaded(api, [chat_line("a"), long])
    assert file["lines"]["invalid"] == 0
    api.store.announce_model(MODEL, "1" * 64, CONTEXT_TOKENS // 2, vocabulary_bytes)
    api.services.catalog._served_until = 0.0
    reply = api.client.post("/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/jobs"})
    assert (reply.status_code, reply.json()["status"]) == (200, "failed")
    assert api.client.get(f"/v1/files/{file['id']}").json()["lines"] == {"total": 2, "invalid": 1}
