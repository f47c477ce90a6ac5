"""Hostile requests, made from a seed: each kind of abuse on every route that writes.

The generator knows the API's routes and nothing of its inside. An attack may be one that has to be taken (text that
looks like a control token is text); what all of them share is that no answer may be a server error.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ops.fuzz.schemas import BOMBS
from ops.fuzz.wire import JSON, Attack

CONTROL_MARKS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>", "<s>", "</s>", "<unk>")
_TEXTS = (
    "\u202eevil\u202c", "\u2066\u2067\u2068\u2069", "a\u0300" * 500, "\ufeff", "\uffff\ufffe", "🏒" * 50,
    "\U0010ffff" * 50, "\x01\x02\x1b[31m", "\r\nX-Injected: yes", "' OR 1=1; --", "{{7*7}}{% raise %}", "%s%n%d",
    "\\u0000", "../../etc/passwd", "<script>alert(1)</script>", "\u0130\u0131", "\ud83c\udfd2", "\t" * 200,
)  # fmt: skip
_NUMBERS: tuple[object, ...] = (
    10**30, -(10**30), 2**63, 2**64, 2**31, -1, 0, 1e308, -1e308, 1e-320, 0.1, "7", True, None, [], {}, 10**4000,
)  # fmt: skip
_LITERALS = ("NaN", "Infinity", "-Infinity", "1e999", "-0", "01", "1.", "0x10", "1_000")
_NUMERIC = {
    "/v1/jobs": (
        "max_tokens", "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "repeat_last_n", "seed", "logprobs",
        "deadline_seconds", "max_attempts",
    ),
    "/v1/chat/completions": ("max_tokens", "n", "top_logprobs", "seed", "temperature", "top_p", "top_k"),
    "/v1/completions": ("max_tokens", "n", "logprobs", "seed", "temperature"),
    "/v1/responses": ("max_output_tokens", "temperature", "top_p", "top_logprobs"),
}  # fmt: skip
_BODIES: Mapping[str, Mapping[str, Any]] = {
    "/v1/jobs": {"prompt": "ice", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "ice"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "ice", "max_tokens": 2},
    "/v1/responses": {"input": "ice", "max_output_tokens": 2},
    "/v1/batches": {"input_file_id": "file-" + "0" * 32, "endpoint": "/v1/jobs"},
    "/v1/webhooks": {"url": "https://example.com/hook", "events": ["job.succeeded"]},
}
_IDS = ("job_" + "0" * 32, "..", "%00", "%2e%2e%2f", "job_" + "0" * 5000, "%ff%fe", "a%0d%0ab", "*", "job_%F0%9F%8F%92")
_ACTIONS = (
    ("POST", "/v1/jobs/{}/cancel"), ("POST", "/v1/jobs/{}/replay"), ("POST", "/v1/batches/{}/cancel"),
    ("POST", "/v1/batches/{}/retry"), ("POST", "/v1/responses/{}/cancel"), ("POST", "/v1/webhooks/{}/test"),
    ("DELETE", "/v1/files/{}"), ("DELETE", "/v1/webhooks/{}"), ("POST", "/v1/webhooks/{}/deliveries/{}/retry"),
    ("GET", "/v1/jobs/{}"), ("GET", "/v1/jobs/{}/events"), ("GET", "/v1/files/{}/content"), ("GET", "/v1/models/{}"),
)  # fmt: skip
_LISTS = ("/v1/jobs", "/v1/files", "/v1/batches", "/v1/webhooks")
_URLS = (
    "http://169.254.169.254/latest", "http://127.0.0.1:22/", "file:///etc/passwd", "gopher://x", "http://[::1]/",
    "http://0x7f000001/", "http://2130706433/", "https://user:pw@example.com/", "https://", "javascript:alert(1)",
    "https://example.com:99999/", "https://exa\u202emple.com/", "https://xn--a.example/", "http://localhost/",
    "https://" + "a" * 3000 + ".com/", "https://example.com/\r\nX: y", "https://.example.com", "https://[fe80::1%25lo]/",
)  # fmt: skip
_QUERIES = (
    "limit=" + "9" * 5000, "limit=-1", "limit=1e9", "limit=%00", "after=%00", "after=' OR 1=1", "after=%ff",
    "&".join(f"p{n}=1" for n in range(2000)), "limit=1&limit=2", "state[]=x", "state=queued&state=x", "a" * 9000,
    "after=" + "x" * 9000, "%=%&%%%", "limit=١", "order=asc;drop", "purpose=\u202e", "batch_id=%00", "__proto__=1",
)  # fmt: skip
FILE_HEAD = '--{0}\r\nContent-Disposition: form-data; name="file"; filename="{1}"\r\n\r\n'
PURPOSE = '--{0}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'

Dice = random.Random
Make = Callable[[Dice], Attack]


def attacks(seed: int, number: int) -> Iterator[Attack]:
    """So many attacks, of every kind in turn; the same for the same seed."""
    dice = random.Random(seed)
    for index in range(number):
        yield KINDS[index % len(KINDS)](dice)


def _post(kind: str, path: str, body: object, **more: Any) -> Attack:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Attack(kind, "POST", path, data, {**JSON, **more.pop("headers", {})}, **more)


def _number(dice: Dice) -> Attack:
    path = dice.choice(list(_NUMERIC))
    name = dice.choice(_NUMERIC[path])
    return _post("number", path, {**_BODIES[path], name: dice.choice(_NUMBERS)})


def _literal(dice: Dice) -> Attack:
    path = dice.choice(list(_NUMERIC))
    raw = json.dumps({**_BODIES[path], dice.choice(_NUMERIC[path]): "@"}).replace('"@"', dice.choice(_LITERALS))
    return _post("literal", path, raw.encode())


def _deep(dice: Dice) -> Attack:
    path = dice.choice(list(_BODIES))
    depth = dice.choice([65, 1_000, 100_000])
    opening, closing = dice.choice([("[", "]"), ('{"a":', "}")])
    raw = json.dumps({**_BODIES[path], "metadata": "@"}).replace('"@"', opening * depth + "1" + closing * depth)
    return _post("deep", path, raw.encode(), refused=True)


def _control(dice: Dice) -> Attack:
    """Text that looks like a control token: it is taken, and is text."""
    text = " ".join(dice.choice(CONTROL_MARKS) for _ in range(dice.randint(1, 6)))
    chat = [{"role": "user", "content": f"ice {text}"}]
    path = dice.choice(["/v1/jobs", "/v1/chat/completions"])
    return _post("control", path, {"messages": chat, "max_tokens": 2, "metadata": {"hostile": "control"}})


def _text(dice: Dice) -> Attack:
    text = dice.choice(_TEXTS)
    path, name = dice.choice([("/v1/jobs", "prompt"), ("/v1/completions", "prompt"), ("/v1/responses", "input")])
    body = {**_BODIES[path], name: text}
    if path == "/v1/jobs":
        body["metadata"] = {text[:60]: text[:500]}
    return _post("text", path, body)


def _unstorable(dice: Dice) -> Attack:
    path = dice.choice(list(_BODIES))
    bad = dice.choice([rb"\u0000", rb"\ud800", rb"\udfff\ud800"])
    name = dice.choice(list(_BODIES[path]))
    raw = json.dumps({**_BODIES[path], name: "@"}).encode().replace(b"@", b"x" + bad)
    return _post("unstorable", path, raw, refused=True, field=name)


def _not_utf8(dice: Dice) -> Attack:
    path = dice.choice(list(_BODIES))
    raw = json.dumps({**_BODIES[path], "model": "@"}).encode()
    bad = dice.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
    return _post("not utf-8", path, raw.replace(b"@", bad), refused=True)


def _damaged(dice: Dice) -> Attack:
    path = dice.choice(list(_BODIES))
    raw = json.dumps(_BODIES[path]).encode()
    at = dice.randrange(len(raw))
    raw = dice.choice([raw[:at], b"\xef\xbb\xbf" + raw, raw + b"}", b"", b"null", b"[]", raw[:at] + b"\x00" + raw[at:]])
    return _post("damaged", path, raw, refused=True)


def _gigantic(dice: Dice) -> Attack:
    name, value = dice.choice(
        [
            ("logit_bias", {str(n): 1 for n in range(32_000)}),
            ("logit_bias", {"9" * 5000: 1}),
            ("stop", ["x" * 100_000]),
            ("stop", ["a"] * 100_000),
            ("metadata", {f"k{n}": "v" for n in range(20_000)}),
            ("metadata", {"k" * 100_000: "v"}),
            ("model", "m" * 1_000_000),
            ("x" * 500_000, 1),
        ]
    )
    path = dice.choice(["/v1/jobs", "/v1/chat/completions", "/v1/completions"])
    refused = name != "logit_bias" or len(str(value)) < 10_000
    return _post(
        "gigantic", path, {**_BODIES[path], name: value}, refused=refused, field=name[:20] if refused else None
    )


def _schema(dice: Dice) -> Attack:
    """Schemas and patterns that no grammar can be made of in bounded time and memory; a few may be taken."""
    name = dice.choice(sorted(BOMBS))
    wanted = {"type": "json_schema", "json_schema": {"name": "bomb", "schema": BOMBS[name]()}}
    path = dice.choice(["/v1/jobs", "/v1/chat/completions"])
    return _post(f"schema {name}", path, {**_BODIES[path], "response_format": wanted}, field="response_format")


def _compressed(dice: Dice) -> Attack:
    """A hundred megabytes of nothing in a hundred kilobytes."""
    path = dice.choice([*_BODIES, "/v1/files"])
    encoding = dice.choice(["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-unknown"])
    kind = {"Content-Type": "multipart/form-data; boundary=b"} if path == "/v1/files" else JSON
    plain = b" " * 20_000_000
    body = gzip.compress(plain, 1, mtime=0) if encoding.startswith("gzip") else zlib.compress(plain, 1)
    headers = {**kind, "Content-Encoding": encoding}
    return Attack("compressed", "POST", path, body, headers, field="Content-Encoding", refused=True)


def _header(dice: Dice) -> Attack:
    path = dice.choice(list(_BODIES))
    name, value = dice.choice(
        [
            ("Idempotency-Key", "\x7f"), ("Idempotency-Key", "k" * 5000), ("Idempotency-Key", "ä ö"),
            ("Authorization", "Bearer " + "x" * 20_000), ("Authorization", "Basic !!!"), ("Content-Type", "text/plain"),
            ("Content-Type", "application/json; charset=utf-16"), ("Content-Type", ";;;="), ("Accept", "x" * 9000),
            ("x-stainless-retry-count", "9" * 5000), ("x-stainless-retry-count", "-1"), ("Cookie", "a=b;" * 3000),
            ("X-Forwarded-For", "' OR 1=1"), ("Expect", "100-continue"), ("Range", "bytes=" + "0-1," * 2000),
            ("X-" + "H" * 4000, "v"),
        ]
    )  # fmt: skip
    return _post(
        "header", path, _BODIES[path], headers={name: value}, broken_http=len(name + value) > 8000 or "\x7f" in value
    )


def _http(dice: Dice) -> Attack:
    """What is hardly HTTP: lengths that lie, two lengths, chunks that are none."""
    path = dice.choice([*_BODIES, "/v1/files"])
    raw = json.dumps(_BODIES.get(path, {})).encode()
    headers: dict[str, str] = dice.choice(
        [
            {"Content-Length": "-1"}, {"Content-Length": "9" * 40}, {"Content-Length": "12abc"},
            {"Content-Length": str(len(raw) // 2)}, {"Content-Length": "0"}, {"Transfer-Encoding": "chunked"},
            {"Transfer-Encoding": "chunked", "Content-Length": "5"}, {"Transfer-Encoding": "gzip"},
            {"Host": "a\x00b"}, {"Bad Header": "x"}, {"X-Null": "a\x00b"}, {"Upgrade": "websocket"},
        ]
    )  # fmt: skip
    return Attack("http", "POST", path, raw, {**JSON, **headers}, broken_http=True)


def _path(dice: Dice) -> Attack:
    method, shape = dice.choice(_ACTIONS)
    path = shape.format(*(dice.choice(_IDS) for _ in range(shape.count("{}"))))
    return Attack("path", method, path, b"", {})


def _stray(dice: Dice) -> Attack:
    path = dice.choice(
        [
            "/../../etc/passwd", "/v1/../../../etc/passwd", "/docs/assets/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc",
            "/docs/assets/%2e%2e%2f%2e%2e%2fapp.py", "//v1//jobs", "/v1/jobs/", "/v1/jobs%00", "/" + "a/" * 3000, "*",
            "/docs/assets/%00", "/v1/jobs;x=y", "/V1/JOBS", "/v1/files/../jobs", "/%c0%ae%c0%ae/etc", "/docs/assets/..",
        ]
    )  # fmt: skip
    method = dice.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
    return Attack("stray", method, path, b"", {}, broken_http=path == "*")


def _query(dice: Dice) -> Attack:
    query = dice.choice(_QUERIES).encode().decode("latin-1").replace(" ", "+")
    return Attack(
        "query",
        "GET",
        f"{dice.choice(_LISTS)}?{query}",
        b"",
        {},
        broken_http=not query.isascii() or len(query) > 60_000,
    )


def _form(dice: Dice) -> Attack:
    """A form that is none, or none that is taken."""
    boundary = dice.choice(["b", "-" * 60, "b" * 70, "x y", ""])
    whole = FILE_HEAD.format(boundary, "f") + "x\r\n" + PURPOSE.format(boundary) + f"--{boundary}--\r\n"
    body = dice.choice(
        [
            whole[: dice.randrange(len(whole))],
            PURPOSE.format(boundary) * 40 + whole,
            whole.replace('name="purpose"', 'name="' + "p" * 5000 + '"'),
            whole.replace('"purpose"', '"purpose"; name="file"'),
            whole.replace("batch", "x" * 100_000),
            whole.replace("\r\n\r\n", "\r\n" + "X-H: v\r\n" * 500 + "\r\n", 1),
            whole.replace('"f"', '"../../../etc/passwd\x00"'),
            whole.replace("form-data", "attachment"),
            FILE_HEAD.format(boundary, "f") * 3 + f"--{boundary}--\r\n",
            f"--{boundary}--\r\n",
            "\x00" * 10_000,
            "",
        ]
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return Attack("form", "POST", "/v1/files", body.encode("utf-8"), headers)


def _lines(dice: Dice) -> Attack:
    """A file of hostile lines: taken, each of them a job or an error."""
    lines = [dice.choice(KINDS[:9])(dice) for _ in range(dice.randint(1, 6))]
    data = b"\n".join(
        b'{"custom_id":"%d","method":"POST","url":"%s","body":%s}' % (n, line.path.encode(), line.body)
        for n, line in enumerate(lines)
    )
    ends = dice.choice([b"\n", b"\r\n", b"\r", b""])
    return upload("lines", dice.choice([b"", b"\xef\xbb\xbf"]) + data + ends)


def upload(kind: str, data: bytes, **more: Any) -> Attack:
    """A whole form with this file."""
    body = FILE_HEAD.format("b", "f.jsonl").encode() + data + b"\r\n" + PURPOSE.format("b").encode() + b"--b--\r\n"
    return Attack(kind, "POST", "/v1/files", body, {"Content-Type": "multipart/form-data; boundary=b"}, **more)


def _hook(dice: Dice) -> Attack:
    change: dict[str, Any] = dice.choice(
        [{"url": dice.choice(_URLS)}] * 3 + [{"events": ["x"] * 10_000}, {"events": []}, {"description": "d" * 100_000}]
    )
    return _post("webhook", "/v1/webhooks", {**_BODIES["/v1/webhooks"], **change})


def _batch(dice: Dice) -> Attack:
    change: dict[str, Any] = dice.choice(
        [
            {"completion_window": "9" * 400 + "d"}, {"completion_window": "-1h"}, {"completion_window": "1e400h"},
            {"metadata": {"weight": "NaN"}}, {"metadata": {"weight": "1e999"}}, {"metadata": {"output_order": "\x7f"}},
            {"output_expires_after": {"anchor": "created_at", "seconds": 10**20}}, {"input_file_id": "../../x"},
            {"input_file_id": "file-" + "0" * 100_000}, {"endpoint": ["/v1/jobs"]}, {"endpoint": "/v1/jobs\x00"},
        ]
    )  # fmt: skip
    return _post("batch", "/v1/batches", {**_BODIES["/v1/batches"], **change}, refused=True)


def _many(dice: Dice) -> Attack:
    jobs: object = dice.choice(
        [[_BODIES["/v1/jobs"]] * 5_000, [{"prompt": ""}] * 500, [[[[]]]], {"a": 1}, [{}] * 1000, "x" * 1_000_000]
    )
    return _post("many", "/v1/jobs", {"jobs": jobs}, refused=True, field="jobs")


KINDS: tuple[Make, ...] = (
    _number, _literal, _deep, _control, _text, _unstorable, _not_utf8, _damaged, _schema, _gigantic, _compressed,
    _header, _http, _path, _stray, _query, _form, _lines, _hook, _batch, _many,
)  # fmt: skip
"""The first nine are bodies that may stand in a line of a file too."""
