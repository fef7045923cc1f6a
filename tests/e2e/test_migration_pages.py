"""Each page on coming from another server, command by command, as somebody would who comes."""

import shutil
from pathlib import Path

import pytest

from tests.pages import Page

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "migrating").glob("*.md"))

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_page_says_is_what_happens(page: Path, tmp_path: Path) -> None:
    assert Page(page, tmp_path).run() >= 3
