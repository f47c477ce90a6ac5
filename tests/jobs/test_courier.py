"""The courier, on real databases and real targets: signatures, failures, slow targets, names that change their mind."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from jobs.courier import OFFICE, POLL_SECONDS, STOP_SECONDS, Courier
from jobs.database import open_engine
from jobs.errors import StoreUnavailable
from jobs.posting import Postman
from jobs.store import Store
from jobs.tables import Delivery, Webhook
from jobs.targets import Resolver, check_url
from jobs.webhooks import DueDelivery, NewWebhook, Tried
from tests.jobs.support import Clock, make_line, make_settings, submit_one
from tests.support.hook_target import HookTarget, hook_target
from tests.support.services import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def target() -> Iterator[HookTarget]:
    with hook_target() as server:
        yield server


@pytest.fixture
def courier(store: Store) -> Courier:
    return make_courier(store)


def make_courier(store: Store, holder: str = "first", **postman: Any) -> Courier:
    posts = Postman(**{"allow_private": True, **postman})
    return Courier(store, store.settings, posts, holder=holder)


def listen(store: Store, url: str, **changes: Any) -> Webhook:
    return store.create_webhook(NewWebhook(url, ["job.cancelled", "batch.cancelled"], **changes))[0]


def only(store: Store, webhook: Webhook) -> Delivery:
    (row,), _ = store.deliveries(webhook.id)
    return row


def deliver(store: Store, courier: Courier, webhook: Webhook) -> dict[str, Any]:
    """Send a test event, and answer the history's newest entry."""
    before = store.test_webhook(webhook.id)
    courier.step()
    wait_until(lambda: store.delivery(webhook.id, before.id).history)
    return dict(store.delivery(webhook.id, before.id).history[-1])


def serving(*answers: Sequence[str]) -> Resolver:
    """A resolver that gives each answer once, the last one for ever."""
    left = list(answers)
    return lambda *_: left.pop(0) if len(left) > 1 else left[0]


# What arrives


def test_a_delivery_is_what_the_standard_says(store: Store, courier: Courier, target: HookTarget) -> None:
    webhook = listen(store, target.url + "?source=penstock")
    job_id = submit_one(store, prompt="a prompt that stays here")
    store.cancel(job_id)
    courier.step()
    wait_until(lambda: only(store, webhook).delivered_at)
    (received,) = target.received
    verified = Verifier(webhook.secret).verify(received.body, received.headers)
    assert verified == json.loads(received.body)
    assert set(verified) == {"type", "timestamp", "data"}
    assert (verified["type"], verified["data"]["id"]) == ("job.cancelled", job_id)
    assert received.path == "/hook?source=penstock"
    assert received.headers["webhook-id"] == only(store, webhook).id
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == f"127.0.0.1:{target.server_port}"
    assert b"stays here" not in received.body
    with pytest.raises(WebhookVerificationError):
        Verifier(webhook.secret).verify(received.body.replace(b"cancelled", b"succeeded"), received.headers)


def test_a_batch_that_ends_is_told_end_to_end(store: Store, courier: Courier, target: HookTarget) -> None:
    listen(store, target.url)
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    assert made.batch_id is not None
    store.cancel_batch(made.batch_id)
    courier.step()
    wait_until(lambda: target.received)
    told = json.loads(target.received[0].body)
    assert (told["type"], told["data"]["id"], told["data"]["counts"]["cancelled"]) == (
        "batch.cancelled",
        made.batch_id,
        3,
    )


def test_a_repeat_carries_the_same_id_and_body(
    store: Store, courier: Courier, target: HookTarget, clock: Clock
) -> None:
    webhook = listen(store, target.url)
    target.replies = [(500, {})]
    assert deliver(store, courier, webhook)["status"] == 500
    clock.move(10)
    courier.step()
    wait_until(lambda: only(store, webhook).delivered_at)
    first, second = target.received
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)


# What goes wrong


def test_a_redirect_is_a_failure_and_is_not_followed(store: Store, courier: Courier, target: HookTarget) -> None:
    with hook_target() as inside:
        target.replies = [(307, {"Location": inside.url}), (302, {"Location": "/elsewhere"})]
        webhook = listen(store, target.url)
        assert deliver(store, courier, webhook)["error"] == "redirect"
        assert deliver(store, courier, webhook)["error"] == "redirect"
        assert (len(target.received), inside.received) == (2, [])


def test_retry_after_moves_the_next_attempt(store: Store, courier: Courier, target: HookTarget, clock: Clock) -> None:
    webhook = listen(store, target.url)
    target.replies = [(503, {"Retry-After": "7200"})]
    deliver(store, courier, webhook)
    next_attempt_at = only(store, webhook).next_attempt_at
    assert next_attempt_at is not None
    assert (next_attempt_at - clock.now).total_seconds() == 7200


def test_a_gone_target_hears_nothing_more(store: Store, courier: Courier, target: HookTarget, clock: Clock) -> None:
    webhook = listen(store, target.url)
    target.replies = [(410, {})]
    deliver(store, courier, webhook)
    assert store.get_webhook(webhook.id).disabled_at is not None
    store.cancel(submit_one(store))
    clock.move(100_000)
    assert courier.step() == 0
    assert len(target.received) == 1


def test_nobody_listens_there(store: Store, courier: Courier) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    entry = deliver(store, courier, listen(store, f"http://127.0.0.1:{port}/"))
    assert (entry["status"], entry["error"]) == (None, "connection_failed")


@contextmanager
def speaking(speak: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A target that speaks its own way; its URL."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                speak(connection, over)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        over.set()
        thread.join()


def test_a_target_that_speaks_no_http_is_told_apart(store: Store, courier: Courier) -> None:
    with speaking(lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")) as url:
        assert deliver(store, courier, listen(store, url))["error"] == "invalid_reply"


def say_nothing(_: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def say_a_little_now_and_then(connection: socket.socket, over: threading.Event) -> None:
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not over.wait(0.02):
            connection.sendall(b"x")
    except OSError:
        pass  # Hung up on, as it should be.


@pytest.mark.parametrize("speak", [say_nothing, say_a_little_now_and_then])
def test_a_target_that_never_ends_its_reply_is_cut_off(
    store: Store, speak: Callable[[socket.socket, threading.Event], None]
) -> None:
    store.settings = store.settings.model_copy(update={"webhook_timeout_seconds": 0.3})
    with speaking(speak) as url:
        assert deliver(store, make_courier(store), listen(store, url))["error"] == "timeout"


def test_nothing_is_sent_once_the_time_of_an_attempt_is_over(target: HookTarget) -> None:
    tried = Postman(allow_private=True).post(target.url, {}, b"{}", until=time.monotonic() - 1)
    assert (tried.error, target.received) == ("timeout", [])


def test_failures_are_logged_by_id_and_never_by_url(store: Store, courier: Courier, target: HookTarget) -> None:
    webhook = listen(store, target.url + "?token=hush")
    target.replies = [(500, {"X-Said": "hush"})]
    courier.step()  # takes the office, and says so
    with structlog.testing.capture_logs() as logs:
        deliver(store, courier, webhook)
        wait_until(lambda: logs)
    (line,) = logs
    row = only(store, webhook)
    assert row.next_attempt_at is not None
    assert (line["event"], line["id"], line["status"]) == ("delivery_failed", row.id, 500)
    assert line["next"] == row.next_attempt_at.isoformat()
    assert "hush" not in str(line)
    assert "127.0.0.1" not in str(line)


# Where it may go


def test_a_name_that_turned_inside_since_the_webhook_was_made_is_refused(store: Store, target: HookTarget) -> None:
    url = f"http://rebind.example:{target.server_port}/hook"
    resolve = serving(["8.8.8.8"], ["127.0.0.1"])
    check_url(url, allow_private=False, resolve=resolve)
    entry = deliver(store, make_courier(store, allow_private=False, resolve=resolve), listen(store, url))
    assert (entry["error"], entry["status"], target.received) == ("address_not_allowed", None, [])


def test_the_connection_goes_to_the_very_address_that_was_judged(store: Store, target: HookTarget) -> None:
    def once(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    asked: list[tuple[str, int]] = []
    webhook = listen(store, f"http://pinned.example:{target.server_port}/hook")
    assert deliver(store, make_courier(store, resolve=once), webhook)["status"] == 204
    assert asked == [("pinned.example", target.server_port)]
    assert target.received[0].headers["host"] == f"pinned.example:{target.server_port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"])
def test_loopback_is_refused_at_delivery_too(store: Store, target: HookTarget, host: str) -> None:
    webhook = listen(store, f"http://{host}:{target.server_port}/hook")
    entry = deliver(store, make_courier(store, allow_private=False), webhook)
    assert (entry["error"], target.received) == ("address_not_allowed", [])


def test_the_environments_proxy_is_not_used(
    store: Store, courier: Courier, target: HookTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert deliver(store, courier, listen(store, target.url))["status"] == 204


def test_the_next_address_is_tried_where_one_cannot_be_reached(store: Store, target: HookTarget) -> None:
    webhook = listen(store, f"http://two.example:{target.server_port}/hook")
    courier = make_courier(store, resolve=serving(["::1", "127.0.0.1"]))
    assert deliver(store, courier, webhook)["status"] == 204


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(("certified", "error"), [("target.example", None), ("other.example", "tls_failed")])
def test_https_is_verified_for_the_name_of_the_url(
    store: Store, authority: trustme.CA, certified: str, error: str | None
) -> None:
    served, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(certified).configure_cert(served)
    authority.configure_trust(trusted)
    asked: list[str | None] = []
    served.sni_callback = lambda _, name, __: asked.append(name)
    with hook_target(served) as target:
        webhook = listen(store, f"https://target.example:{target.server_port}/hook")
        courier = make_courier(store, resolve=serving(["127.0.0.1"]), ssl_context=trusted)
        assert deliver(store, courier, webhook)["error"] == error
        assert (asked, len(target.received)) == (["target.example"], 0 if error else 1)


def test_an_unknown_authority_is_refused(store: Store, courier: Courier, authority: trustme.CA) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    with hook_target(served) as target:
        assert deliver(store, courier, listen(store, target.url))["error"] == "tls_failed"


# Many at once, and who does it


def test_a_slow_target_does_not_hold_the_others(store: Store, courier: Courier, target: HookTarget) -> None:
    with hook_target() as slow:
        slow.held.clear()
        stuck, quick = listen(store, slow.url), listen(store, target.url)
        for _ in range(50):
            store.test_webhook(stuck.id)
        courier.step()
        wait_until(lambda: slow.received)
        for _ in range(5):
            assert deliver(store, courier, quick)["status"] == 204
        slow.held.set()
        wait_until(lambda: (courier.step(), len(slow.received) == 50)[1])
        wait_until(lambda: all(row.delivered_at for row in store.deliveries(stuck.id, limit=100)[0]))


def test_of_two_couriers_one_works_and_the_other_takes_over(
    store: Store, courier: Courier, target: HookTarget, clock: Clock
) -> None:
    webhook = listen(store, target.url)
    second = make_courier(store, "second")
    deliver(store, courier, webhook)
    store.test_webhook(webhook.id)
    assert second.step() == 0
    clock.move(store.settings.leader_seconds + 1)
    third = make_courier(store, "third")
    assert third.step() == 1


def test_a_courier_runs_until_it_is_told_to_stop_and_leaves_its_office(store: Store, target: HookTarget) -> None:
    webhook, stop = listen(store, target.url), threading.Event()
    thread = threading.Thread(target=make_courier(store).run, args=(stop,))
    thread.start()
    for _ in range(20):
        store.test_webhook(webhook.id)
    wait_until(lambda: all(row.delivered_at for row in store.deliveries(webhook.id, limit=100)[0]))
    stop.set()
    thread.join(POLL_SECONDS + STOP_SECONDS + 5)
    assert not thread.is_alive()
    assert len({one.headers["webhook-id"] for one in target.received}) == len(target.received) == 20
    assert store.hold_office(OFFICE, "somebody else")


def test_deliveries_that_a_killed_courier_had_in_hand_arrive(store: Store, target: HookTarget, clock: Clock) -> None:
    webhook = listen(store, target.url)
    store.test_webhook(webhook.id)
    store.due_deliveries(10)  # Claimed, and never heard of again.
    clock.move(100)
    make_courier(store).step()
    wait_until(lambda: only(store, webhook).delivered_at)
    assert [entry["error"] for entry in only(store, webhook).history] == ["interrupted", None]


def test_an_outage_of_the_database_while_noting_is_waited_out(
    store: Store, courier: Courier, target: HookTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, refusals = store.note_delivery, [1, 2]

    def note_or_refuse(due: DueDelivery, tried: Tried) -> object:
        if refusals:
            refusals.pop()
            raise StoreUnavailable("away")
        return note(due, tried)

    monkeypatch.setattr(store, "note_delivery", note_or_refuse)
    assert deliver(store, courier, listen(store, target.url))["status"] == 204
    assert len(target.received) == 1


@pytest.mark.parametrize("allowed", [True, False])
def test_the_dispatchers_process_delivers_what_the_operator_allows(
    sqlite_url: str, redis_url: str, target: HookTarget, allowed: bool
) -> None:
    engine = open_engine(sqlite_url)
    store = Store(engine, settings=make_settings())
    webhook = listen(store, target.url + "?token=hush")
    store.cancel(submit_one(store))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_DATABASE_URL": sqlite_url,
        "PENSTOCK_REDIS_URL": redis_url,
        "PENSTOCK_WEBHOOK_ALLOW_PRIVATE": str(allowed),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.dispatcher"], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: only(store, webhook).history, seconds=30)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert (process.returncode, len(target.received)) == (0, int(allowed))
    assert only(store, webhook).history[0]["error"] == (None if allowed else "address_not_allowed")
    assert ("delivery_failed" in log) is not allowed
    assert "hush" not in log
    assert store.hold_office(OFFICE, "somebody else")
    engine.dispose()
