"""The page Concepts in a real browser: from stored features to a tested card, wide and narrow."""

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from page_checks import (
    assert_no_serious_violation,
    assert_nothing_is_cut_off,
    download_file,
    expect_heading,
    show_windows,
    wait_for_script,
)
from playwright.sync_api import Page, expect
from tiny_photos import BACKBONE, write_backbone, write_photos

import inspector
from inspector.datasets.concepts.files import write_concepts
from inspector.datasets.concepts.find import concepts
from inspector.datasets.concepts.model import ConceptOptions
from inspector.datasets.run import RunOptions, run_dataset

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory, user_models: Path) -> Path:
    """Write results with features of six photos of each of two classes, and add their network to the app."""
    folder = tmp_path_factory.mktemp("concepts")
    write_backbone(user_models)
    photos = write_photos(folder / "photos", {"a": 6, "b": 6}, (16, 16))
    run_dataset(photos, inspector.load(str(user_models / BACKBONE)), folder / "results", RunOptions(features=True))
    return folder / "results"


def make_url(app_url: str, results: Path, concept: str = "") -> str:
    return f"{app_url}/concepts?network={BACKBONE}&data={quote(str(results))}&concept={concept}"


def test_a_shortcut_is_found_flagged_and_tested(page: Page, app_url: str, features: Path) -> None:
    page.goto(make_url(app_url, features))
    page.get_by_role("button", name="Find concepts on 12 photos").click()
    expect_heading(page, "a")
    card = page.get_by_role("button", name="Open 0.1")
    wait_for_script(page)
    page.get_by_role("radiogroup", name="Flag of 0.1").get_by_text("shortcut").click()
    expect(page.get_by_text("Shortcuts: 0.1")).to_be_visible()
    wait_for_script(page)
    page.get_by_role("textbox", name="Name of 0.1").fill("<b>tag</b>")
    page.keyboard.press("Enter")
    expect(page.get_by_text("0.1 <b>tag</b>").first).to_be_visible()
    wait_for_script(page)
    card.click()
    expect_heading(page, "On a photo")
    expect(page).to_have_url(re.compile("concept=0.1"))
    expect(page.get_by_role("img", name=re.compile("^map of 0.1 on .*png$"))).to_be_visible()
    page.get_by_role("button", name="Test 0.1").click()
    expect(page.get_by_role("button", name="Test 0.1 again")).to_be_visible()
    report = download_file(page, "Download the report").decode()
    assert "0.1 &lt;b&gt;tag&lt;/b&gt;" in report
    assert "own that leave it" in report


def test_cards_are_whole_in_all_windows_and_can_be_read_by_all(
    page: Page, app_url: str, tmp_path: Path, features: Path
) -> None:
    write_concepts(features / "concepts", concepts(features, options=ConceptOptions(rank=3, seeds=1)))
    for width in show_windows(page, make_url(app_url, features), [(390, "light"), (1400, "dark"), (2560, "light")]):
        crops = page.locator(".inspector-crops")
        expect(crops).to_have_count(3)
        assert_nothing_is_cut_off(page)
        box = crops.first.get_by_role("img").first.bounding_box()
        assert box is not None
        assert 60 < box["width"] < 260, width
    page.goto(make_url(app_url, features, "0.2"))
    expect_heading(page, "On a photo")
    assert_no_serious_violation(page)
    assert_nothing_is_cut_off(page)
