"""The report on one photo in a real browser, opened from a file, without the network."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from page_checks import assert_drawn_as_in_python, assert_no_serious_violation
from playwright.sync_api import Browser, Page, expect

from inspector import ClassMaps, class_maps, load
from inspector.analysis.masking import make_mask, mask_at_head
from inspector.images.examples import list_examples
from inspector.output.report import make_report

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=hacked=1><script>hacked=1</script>"


@pytest.fixture(scope="module")
def boot() -> ClassMaps:
    """Return class maps of an ankle boot, by a network whose second best class has a hostile name."""
    maps = class_maps(load("fashion_gap"), list_examples("fashion_mnist")["Ankle boot"])
    names = list(maps.classifier.class_names)
    names[maps.top(2)[1][0]] = HOSTILE
    return replace(maps, classifier=replace(maps.classifier, class_names=tuple(names)))


@pytest.fixture
def report(chromium: Browser, boot: ClassMaps, tmp_path: Path) -> Iterator[Page]:
    """Return the report in a tab without a network, which notes errors."""
    path = tmp_path / "report.html"
    path.write_text(make_report(boot, boot.figure_content(3)), "utf-8")
    context = chromium.new_context(offline=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    expect(page.get_by_role("img", name="class map: Ankle boot", exact=True)).to_be_visible()
    yield page
    assert errors == []
    context.close()


def test_the_viewer_of_a_report_answers_without_a_server(report: Page, boot: ClassMaps) -> None:
    viewer, top = report.locator(".inspector-viewer"), boot.top(1)[0][0]
    assert_drawn_as_in_python(viewer, boot, top)
    report.get_by_label("Any class", exact=True).fill("trouser")
    report.keyboard.press("Enter")
    expect(report.get_by_role("heading", name="Why Trouser rather than nothing")).to_be_visible()
    report.get_by_label("Raw grid").check()
    report.get_by_label("Colors").select_option("PuOr_r")
    report.get_by_role("radio", name="color", exact=True).click()
    k = boot.classifier.class_names.index("Trouser")
    assert_drawn_as_in_python(viewer, boot, k, smooth=False, colormap="PuOr_r", gray=False)
    report.get_by_role("radio", name="Ankle boot, probability").click()
    report.get_by_role("radio", name="mask cells").click()
    viewer.locator(".inspector-photo").press("ArrowUp")
    viewer.locator(".inspector-photo").press("Enter")
    row, column = divmod(int(boot.values[top].argmax()), boot.values.shape[2])
    expect(viewer.locator(".inspector-line")).to_contain_text(f"Row {row}, column {column}: ")
    expect(viewer.locator(".chosen")).to_contain_text("Strongest channels for Ankle boot: ")
    logit = float(mask_at_head(boot, make_mask(boot, [(row, column)])).logits[top])
    expect(viewer.locator(".what-if tr").nth(1)).to_contain_text(f"{logit:.3f}")
    # What needs the network again is not there.
    for label in ("Cells", "Boxes"):
        expect(viewer.get_by_role("radiogroup", name=label)).to_have_count(0)
    expect(viewer.get_by_text("run again")).to_have_count(0)
    report.get_by_role("radio", name="top class per cell").click()
    expect(viewer.get_by_role("listitem").first).to_be_visible()


def test_a_name_with_html_in_it_is_only_text(report: Page) -> None:
    report.get_by_role("radio", name="onerror").click()
    expect(report.get_by_role("heading", name=f"Why {HOSTILE} rather than nothing")).to_be_visible()
    report.get_by_role("radio", name="top class per cell").click()
    assert report.evaluate("typeof hacked") == "undefined"
    assert report.locator("img[src=x]").count() == 0


def test_a_report_is_accessible_and_nothing_is_cut_off(report: Page) -> None:
    for width, scheme in ((360, "dark"), (2560, "light")):
        report.set_viewport_size({"width": width, "height": 900})
        report.emulate_media(color_scheme=scheme)
        assert report.evaluate("document.documentElement.scrollWidth") <= width
        assert_no_serious_violation(report)
