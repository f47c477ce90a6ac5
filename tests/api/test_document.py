"""The API keeps to its OpenAPI document: cases that schemathesis makes of it, every operation, every answer judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import schemathesis

from ops.fuzz.conformance import Findings, examine, settings
from tests.api.player import END, Player
from tests.api.stage import Api

SEED = 7
CASES_AN_OPERATION = 5


@pytest.fixture
def played(start_api: Callable[..., Api]) -> Iterator[Api]:
    """An application whose jobs end at once."""
    api = start_api()
    player = Player(api.store, api.writer, lambda _: ("Ice", END))
    yield api
    player.close()


def examined(api: Api, *phases: str) -> Findings:
    config = settings(seed=SEED, cases_an_operation=CASES_AN_OPERATION, phases=phases)
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.client.app, config=config)
    return examine(schema, Findings())


@pytest.mark.timeout(240)
def test_every_answer_is_one_that_the_document_describes(played: Api) -> None:
    findings = examined(played, "fuzzing")
    assert findings.failures == {}
    assert findings.num_server_errors == 0
    operations = played.client.get("/openapi.json").json()["paths"]
    assert findings.num_cases >= CASES_AN_OPERATION * len(operations)
    assert played.store.audit() == []
