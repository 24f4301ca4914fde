"""The page of class maps in a real browser: upload -> map -> download."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from inspector.examples import examples

pytestmark = pytest.mark.browser

CAT = examples("photos")["Cat"]
COFFEE = examples("photos")["Coffee"]


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", name=text, exact=True)).to_be_visible()


def downloaded(page: Page, label: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name=label, exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_upload_to_map_to_download(page: Page, app_url: str) -> None:
    page.goto(app_url)
    heading(page, "tiger cat")
    page.locator("input[type=file]").set_input_files(COFFEE)
    heading(page, "espresso")
    expect(page.get_by_role("img", name="class map: espresso")).to_be_visible()
    assert "exact" in page.get_by_test_id("stMain").inner_text()

    with Image.open(io.BytesIO(downloaded(page, "PNG"))) as figure:
        assert figure.width > 1000
    assert downloaded(page, "PDF").startswith(b"%PDF")
    assert b"espresso" in downloaded(page, "SVG")
    numbers = np.load(io.BytesIO(downloaded(page, "NPZ")))
    assert numbers["class_names"][numbers["logits"].argmax()] == "espresso"
    assert np.allclose(numbers["values"].sum((1, 2)) + numbers["bias"], numbers["logits"], atol=1e-4)
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "All (ZIP)"))) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["photo"]["name"] == COFFEE.name


def test_a_link_reopens_what_was_seen(page: Page, app_url: str) -> None:
    page.goto(app_url)
    heading(page, "tiger cat")
    page.get_by_role("radio", name="against the average").click()
    heading(page, "tiger cat against the average class")
    page.get_by_role("combobox", name="Class").click()
    page.keyboard.type("golden ret")
    page.keyboard.press("Enter")
    heading(page, "golden retriever against the average class")
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    heading(page, "golden retriever against the average class")


def test_a_broken_upload_gets_one_sentence(page: Page, app_url: str) -> None:
    page.goto(app_url)
    heading(page, "tiger cat")
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:5000]}
    page.locator("input[type=file]").set_input_files(broken)
    expect(page.get_by_role("alert")).to_contain_text("broken.jpg is broken or cut off")
    expect(page.get_by_role("heading", name="tiger cat", exact=True)).to_have_count(0)


@pytest.mark.parametrize("width", [380, 800, 1400, 2560])
def test_nothing_is_cut_off_at_any_width(page: Page, app_url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{app_url}/?network=fashion_gap")
    heading(page, "All class maps before pooling")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth + 1")
    image = page.get_by_role("img", name="class map: Ankle boot").bounding_box()
    assert image is not None
    assert image["x"] >= 0
    assert image["x"] + image["width"] <= width


def test_sessions_do_not_see_each_others_photos(chromium: Browser, app_url: str) -> None:
    photos = [(CAT, "tiger cat"), (COFFEE, "espresso")] * 2
    contexts = [chromium.new_context() for _ in photos]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(app_url)
    for page in pages:
        heading(page, "tiger cat")
    for page, (photo, _) in zip(pages, photos, strict=True):
        page.locator("input[type=file]").set_input_files(photo)
    for page, (photo, name) in zip(pages, photos, strict=True):
        expect(page.get_by_test_id("stSidebar").get_by_text(photo.name)).to_be_visible()
        heading(page, name)
    for context in contexts:
        context.close()
