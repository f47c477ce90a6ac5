"""Every page is run from its first block to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks_of, name_of, system_of
from tests.docs.running import Page, System
from tests.support.text_clients import environment_of_clients

RUN = [page for page in PAGES if any(block.runs for block in blocks_of(page))]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_does_what_it_says(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    system: System = request.getfixturevalue(system_of(page))
    Page(page, system, tmp_path, environment_of_clients() if page.stem == "use-other-clients" else {}).run()
