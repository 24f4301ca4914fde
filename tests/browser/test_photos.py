"""The photo and the network are those of all pages, and an upload is never lost."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from page_checks import wait_for_script
from playwright.sync_api import Locator, Page, expect

from inspector.images.examples import list_examples

pytestmark = pytest.mark.browser

COFFEE, CAT = (list_examples("photos")[name] for name in ("Coffee", "Cat"))
PAGES = ("Layers", "Compare", "Model", "Dataset", "Training runs", "About", "Image")


def own(page: Page, name: str) -> Locator:
    return page.get_by_role("radio", name=f"your photo {name}", exact=True)


def open_app(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_role("radio", name="example Cat", exact=True)).to_be_visible()


def give_file(page: Page, event: str, path: Path, name: str, kind: str) -> None:
    """Drop or paste a file anywhere on the page, as the browser does."""
    page.evaluate(
        """([event, data, name, kind]) => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: kind }));
            const made = event === "paste"
                ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
                : new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true });
            document.querySelector("[data-testid=stMain]").dispatchEvent(made);
        }""",
        [event, base64.b64encode(path.read_bytes()).decode(), name, kind],
    )


def test_an_upload_is_there_on_every_page_and_after_a_reload(page: Page, app_url: str) -> None:
    open_app(page, app_url)
    page.locator(".st-key-uploader input[type=file]").set_input_files(
        {"name": "mine.jfif", "mimeType": "image/jpeg", "buffer": COFFEE.read_bytes()}
    )
    expect(own(page, "mine.jfif")).to_be_checked()
    for title in PAGES:
        page.get_by_test_id("stTopNavLink").filter(has_text=title).click()
        expect(page).to_have_title(f"{title} - Inspector")
        expect(own(page, "mine.jfif")).to_be_checked()
        wait_for_script(page)
    assert "upload=" in page.url
    page.reload()
    expect(own(page, "mine.jfif")).to_be_checked()
    expect(page.get_by_test_id("stAlert")).to_have_count(0)


def test_a_link_without_its_photo_says_which_it_was(page: Page, app_url: str) -> None:
    open_app(page, f"{app_url}/?upload=0123456789ab-holiday.jpg&network=nowhere")
    alerts = page.get_by_test_id("stAlert")
    expect(alerts.filter(has_text="made with holiday.jpg (SHA-256 0123456789ab...), which is not here")).to_be_visible()
    expect(alerts.filter(has_text="The link names the model 'nowhere', which is not offered here.")).to_be_visible()
    page.get_by_role("radio", name="example Coffee").click()
    expect(alerts.filter(has_text="holiday.jpg")).to_have_count(0)
    assert "example=Coffee" in page.url


def test_a_link_reopens_its_view_once_its_photo_is_there(page: Page, app_url: str) -> None:
    digest = hashlib.sha256(COFFEE.read_bytes()).hexdigest()
    link = f"{app_url}/?upload={digest[:12]}-{COFFEE.name}&class=cup"
    open_app(page, link)
    note = page.get_by_test_id("stAlert").filter(has_text="Add that photo, and open the link again.")
    expect(note).to_be_visible()
    page.locator(".st-key-uploader input[type=file]").set_input_files(COFFEE)
    expect(own(page, COFFEE.name)).to_be_checked()
    expect(note).to_have_count(0)
    page.goto(link)
    expect(own(page, COFFEE.name)).to_be_checked()
    expect(page.get_by_role("heading", name="Why cup rather than nothing", exact=True)).to_be_visible()


def test_photos_are_pasted_dropped_chosen_and_removed(page: Page, app_url: str) -> None:
    open_app(page, app_url)
    give_file(page, "paste", CAT, "image.png", "image/png")
    pasted = page.get_by_role("radio", name="your photo pasted")
    expect(pasted).to_be_checked()
    give_file(page, "drop", COFFEE, "dropped.png", "image/png")
    expect(own(page, "dropped.png")).to_be_checked()
    pasted.click()
    expect(pasted).to_be_checked()
    page.get_by_role("button", name="remove dropped.png").click()
    expect(own(page, "dropped.png")).to_have_count(0)
    expect(pasted).to_be_checked()


def test_old_addresses_open_the_new_pages_and_back_leaves_with_one_press(page: Page, app_url: str) -> None:
    for old, title in {
        "channels": "Layers",
        "methods": "Compare",
        "network": "Model",
        "laboratory": "Training runs",
    }.items():
        page.goto(f"{app_url}/{old}?network=fashion_gap")
        expect(page).to_have_title(f"{title} - Inspector")
        assert "network=fashion_gap" in page.url
    page.goto("about:blank")
    open_app(page, app_url)
    page.get_by_role("radio", name="example Coffee").click()
    page.get_by_role("radio", name="whole photo").click()
    expect(page).to_have_url(re.compile("whole"))
    page.get_by_test_id("stTopNavLink").filter(has_text="About").click()
    expect(page).to_have_title("About - Inspector")
    expect(page).to_have_url(re.compile("/about"))
    page.go_back()
    expect(page).to_have_title("Image - Inspector")
    expect(page.get_by_role("radio", name="example Coffee")).to_be_checked()
    page.go_back()
    assert page.url == "about:blank"
