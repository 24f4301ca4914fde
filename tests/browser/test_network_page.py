"""The page Model in a real browser: the summary of a network, and an upload."""

import signal
import subprocess
import sys
from pathlib import Path

import hostile_onnx
import onnx
import pytest
import torch
from page_checks import assert_nothing_is_cut_off, show_windows
from playwright.sync_api import Page, expect
from torch import nn

pytestmark = pytest.mark.browser


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Write a training checkpoint of our CIFAR ResNet for three classes."""
    from inspector.networks.builtin import CifarResNet

    torch.manual_seed(0)
    state = {f"module.{name}": tensor for name, tensor in CifarResNet(classes=3).state_dict().items()}
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": state, "epoch": 3}, path)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    return path


def load(page: Page, checkpoint: Path, labels: Path | None = None, architecture: str | None = None) -> None:
    expect(page.get_by_role("heading", name="Load a network", exact=True)).to_be_visible()
    page.get_by_test_id("stFileUploader").filter(has_text="Checkpoint").locator("input").set_input_files(checkpoint)
    expect(page.get_by_text(checkpoint.name, exact=True)).to_be_visible()
    if labels is not None:
        choose(page, "Class names", "a file")
        field = page.get_by_test_id("stFileUploader").filter(has_text="File of class names")
        field.locator("input").set_input_files(labels)
        expect(page.get_by_text(labels.name, exact=True)).to_be_visible()
    if architecture is not None:
        choose(page, "Architecture", architecture)
    page.get_by_role("button", name="Load", exact=True).click()


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.keyboard.type(option)
    page.keyboard.press("Enter")


def test_a_link_opens_the_summary_of_a_network(page: Page, app_url: str) -> None:
    page.goto(f"{app_url}/model?network=fashion_gmp")
    expect(page.get_by_role("heading", name="fashion_gmp", exact=True)).to_be_visible()
    main = page.get_by_test_id("stMain")
    expect(main).to_contain_text("Pooling: max over 3 x 3 cells")
    expect(main).to_contain_text("It already pools")


def test_an_uploaded_network_is_used_in_this_session_and_no_other(page: Page, app_url: str, checkpoint: Path) -> None:
    page.goto(f"{app_url}/model")
    load(page, checkpoint, checkpoint.with_name("labels.txt"))  # cifar_resnet is found
    expect(page.get_by_text("mine (yours) is loaded, and chosen for all pages.")).to_be_visible()
    expect(page.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("mine (yours)")
    main = page.get_by_test_id("stMain")
    expect(main).to_contain_text("exact input 32x32, ImageNet mean and std")
    # The form is empty again.
    expect(page.get_by_text("mine.pth", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Load", exact=True)).to_have_count(0)
    page.get_by_role("link", name="Image").click()
    for name in ("ant", "bee", "cat", "exact"):
        expect(main).to_contain_text(name)

    stranger = page.context.new_page()
    stranger.goto(page.url)
    stranger.get_by_role("combobox", name="Model").click()
    expect(stranger.get_by_role("option", name="fashion_gap", exact=True)).to_be_visible()
    assert not [name for name in stranger.get_by_role("option").all_inner_texts() if "yours" in name]
    stranger.close()


def test_after_a_file_that_crashes_onnx_runtime_the_next_visitor_is_answered(
    page: Page, app_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.onnx"
    onnx.save(hostile_onnx.MODELS["divide"], path)
    run = "import onnxruntime, numpy; network = onnxruntime.InferenceSession({!r}); network.run(None, {{'x': {}}})"
    code = run.format(str(path), "numpy.zeros((1, 3, 32, 32), numpy.float32)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGFPE
    page.goto(f"{app_url}/model")
    load(page, path)
    expect(page.get_by_role("alert")).to_contain_text(
        "hostile.onnx is not run: its operator Div may divide integers by 0"
    )
    next_visitor = page.context.new_page()
    next_visitor.goto(f"{app_url}/?network=fashion_gap")
    expect(next_visitor.get_by_text("\u2713 exact").first).to_be_visible()
    next_visitor.close()


def test_a_checkpoint_that_would_run_code_or_does_not_fit_shows_one_error(
    page: Page, app_url: str, checkpoint: Path
) -> None:
    page.goto(f"{app_url}/model")
    load(page, checkpoint, architecture="torchvision:resnet18")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("do not fit torchvision:resnet18's architecture")
    whole = checkpoint.with_name("whole.pth")
    torch.save(nn.Linear(2, 2), whole)
    page.get_by_test_id("stFileUploader").filter(has_text="Checkpoint").locator("input").set_input_files(whole)
    expect(alert).to_contain_text("save model.state_dict() instead")
    assert "/dev" not in alert.inner_text()


def test_nothing_is_cut_off(page: Page, app_url: str) -> None:
    for _ in show_windows(page, f"{app_url}/model", [(390, "light"), (1400, "dark")]):
        expect(page.get_by_role("heading", name="Load a network", exact=True)).to_be_visible()
        assert_nothing_is_cut_off(page)
