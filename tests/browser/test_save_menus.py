"""Every menu that saves a picture, on every page but Image (test_class_maps_page.py): its files open."""

import hashlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from made_up_results import Image as MadeUp
from made_up_results import make_about, write_results
from page_checks import open_saved_files, wait_for_script
from PIL import Image
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

# Address -> the keys of its menus. The page Dataset comes with results of its own.
PAGES = {
    "layers?": ["layer picture"],
    "layers?view=channels": ["contribution chart", "channel picture"],
    "compare?view=networks": ["networks picture"],
    "compare?view=methods&methods=Saliency": ["method picture", "insertion chart", "deletion chart"],
    "runs?": ["accuracy chart", "loss chart", "confusion chart", "average picture", "runs picture"],
    "dataset?": ["image picture", "average picture", "confusion picture", "gallery picture"],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write results of two photos, a cat that was predicted as dog and a dog."""
    folder = tmp_path_factory.mktemp("two photos")
    images = []
    for name in ("cat", "dog"):
        path = folder / f"{name}.png"
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        maps = {1: np.ones((2, 3)), 0: np.zeros((2, 3))}
        images.append(MadeUp(str(path), maps, int(name == "dog"), None, (40, 60), (0, 0, 60, 40), sha256=sha256))
    return write_results(folder / "results", images, make_about(("cat", "dog"), (2, 3)), each=2)


def open_menu(page: Page, key: str) -> Locator:
    """Open the menu with this key and return what it shows."""
    wait_for_script(page)
    page.locator(f".st-key-{key.replace(' ', '-')}-menu button").first.click()
    return page.get_by_test_id("stPopoverBody")


@pytest.mark.parametrize("address", PAGES)
def test_the_files_of_every_menu_open(page: Page, app_url: str, results: Path, address: str) -> None:
    data = f"data={quote(str(results))}" if address.startswith("dataset") else ""
    page.goto(f"{app_url}/{address}&network=fashion_gap&example=Bag&{data}")
    for key in PAGES[address]:
        menu = open_menu(page, key)
        expect(menu.get_by_test_id("stCode")).to_be_visible()
        open_saved_files(page, menu, 200)
        page.keyboard.press("Escape")
        expect(page.get_by_test_id("stPopoverBody")).to_have_count(0)
    expect(page.locator("[class*=st-key-][class*=-menu]")).to_have_count(len(PAGES[address]))
