"""The page Model: networks from files and by name are loaded, chosen, described, and removed again."""

import gc
import io
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest
from tiny_photos import BACKBONE, write_backbone
from torch import nn

from inspector import NetworkError
from inspector.networks.build import build
from inspector.ui.components.markdown import plain
from inspector.ui.pages import network_name
from inspector.ui.state import folders, keys, networks

NAMED = "torchvision:squeezenet1_1"


def _show_page() -> None:
    from inspector.ui.components.controls import show_errors
    from inspector.ui.pages import network
    from inspector.ui.state import top_bar

    with show_errors():
        network.show(top_bar.draw_bar().network)


def open_page(**link: str) -> AppTest:
    app = AppTest.from_function(_show_page, default_timeout=120)
    for key, value in link.items():
        app.query_params[key] = value
    return app.run()


def find(widgets: Sequence[Any], label: str) -> Any:
    """Return the last widget with a label: the bar stands before the page."""
    return [widget for widget in widgets if widget.label == label][-1]


def has(widgets: Sequence[Any], label: str) -> bool:
    return any(widget.label == label for widget in widgets)


def read_texts(app: AppTest) -> str:
    return "\n".join(one.value for one in [*app.markdown, *app.caption, *app.info, *app.success])


def read_errors(app: AppTest) -> list[str]:
    return [error.value.replace("\\", "") for error in app.error]


def save(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def make_checkpoint(classes: int = 3) -> bytes:
    torch.manual_seed(0)
    state = {f"module.{name}": one for name, one in build("cifar_resnet", classes).state_dict().items()}
    return save({"state_dict": state, "epoch": 3})


def upload(app: AppTest, content: bytes, name: str = "mine.pth") -> AppTest:
    find(app.file_uploader, "Checkpoint").set_value((name, content, "application/octet-stream"))
    return app.run()


def press(app: AppTest, label: str) -> AppTest:
    find(app.button, label).click()
    return app.run()


def test_a_loaded_network_is_chosen_and_described_and_the_form_is_empty_again() -> None:
    app = upload(open_page(), make_checkpoint())
    assert find(app.selectbox, "Architecture").value == "cifar_resnet"
    assert "All names and shapes of the weights fit cifar_resnet." in read_texts(app)
    press(app, "Load")
    assert not app.exception
    assert not app.error
    assert find(app.selectbox, "Model").value == "mine (yours)"
    assert app.query_params[keys.NETWORK] == "mine (yours)"
    assert app.subheader[0].value == "mine"
    texts = read_texts(app)
    assert ":green-badge[exact] input 32x32, ImageNet mean and std" in texts
    assert "mine.pth does not say how photos are preprocessed." in texts
    assert "mine (yours) is loaded, and chosen for all pages." in texts
    assert find(app.file_uploader, "Checkpoint").value is None
    assert not has(app.selectbox, "Architecture")
    assert "is loaded, and chosen" not in read_texts(app.run())
    # A second load begins anew: its file is another one.
    upload(app, make_checkpoint(2), "other.pth")
    press(app, "Load")
    assert find(app.selectbox, "Model").value == "other (yours)"


@pytest.mark.parametrize(("preset", "first"), [("CIFAR-10", "airplane"), ("Fashion-MNIST", "T-shirt/top")])
def test_class_names_of_a_data_set_are_offered(preset: str, first: str) -> None:
    app = upload(open_page(), make_checkpoint(10))
    find(app.selectbox, "Class names").set_value(preset).run()
    press(app, "Load")
    choice = app.session_state[keys.OWN_NETWORKS]["mine (yours)"]
    assert choice.load().class_names[0] == first


def test_class_names_of_another_data_set_are_refused_in_one_sentence() -> None:
    app = upload(open_page(), make_checkpoint(3))
    find(app.selectbox, "Class names").set_value("CIFAR-100").run()
    press(app, "Load")
    assert read_errors(app) == [
        "CIFAR-100 has 100 names, the network 3 classes. Give one name for each class, in the order of the network's "
        "outputs."
    ]
    assert find(app.selectbox, "Model").value == "efficientnet_lite0"


def test_a_network_is_not_loaded_before_its_file_of_class_names_is_there() -> None:
    app = upload(open_page(), make_checkpoint())
    find(app.selectbox, "Class names").set_value("a file")
    press(app, "Load")  # before the button was drawn again
    assert not app.exception
    assert keys.OWN_NETWORKS not in app.session_state
    assert find(app.button, "Load").disabled
    assert find(app.button, "Load").help == "First choose the file of class names."
    find(app.file_uploader, "File of class names").set_value(("labels.txt", b"ant\nbee\ncat\n", "text/plain")).run()
    assert not find(app.button, "Load").disabled


def test_class_names_of_a_file_are_read() -> None:
    app = upload(open_page(), make_checkpoint())
    find(app.selectbox, "Class names").set_value("a file").run()
    find(app.file_uploader, "File of class names").set_value(("labels.txt", b"ant\nbee\ncat\n", "text/plain")).run()
    press(app, "Load")
    assert app.session_state[keys.OWN_NETWORKS]["mine (yours)"].load().class_names == ("ant", "bee", "cat")


def test_weights_that_fit_nothing_have_no_architecture_chosen_for_them() -> None:
    app = upload(open_page(), save({"a.weight": torch.zeros(3, 3)}))
    assert find(app.selectbox, "Architecture").value is None
    assert "The weights fit no architecture" in read_texts(app)
    press(app, "Load")
    assert read_errors(app) == ["mine.pth contains weights but no architecture. Choose the architecture."]


def test_a_file_that_would_run_code_is_refused_at_once() -> None:
    app = upload(open_page(), save(nn.Linear(2, 2)), "whole.pth")
    assert len(app.error) == 1
    assert "save model.state_dict() instead" in app.error[0].value
    assert "whole.pth" in app.error[0].value
    assert not has(app.button, "Load")
    assert not app.exception


def test_a_removed_network_is_gone_from_the_list_and_from_memory() -> None:
    app = upload(open_page(), make_checkpoint())
    press(app, "Load")
    network = weakref.ref(app.session_state[keys.OWN_NETWORKS]["mine (yours)"].load().network)
    press(app, "Remove")
    assert not app.exception
    assert find(app.selectbox, "Model").value != "mine (yours)"
    assert not app.session_state[keys.OWN_NETWORKS]
    assert not has(app.button, "Remove")
    del app
    gc.collect()
    assert network() is None


def test_a_fourth_network_takes_the_place_of_the_first() -> None:
    app = open_page()
    for number in range(networks.MAX_PRIVATE + 1):
        press(upload(app, make_checkpoint(), f"net{number}.pth"), "Load")
    own = app.session_state[keys.OWN_NETWORKS]
    assert list(own) == [f"net{number} (yours)" for number in range(1, networks.MAX_PRIVATE + 1)]


def test_another_network_of_the_session_can_be_used() -> None:
    app = open_page()
    for name in ("one.pth", "two.pth"):
        press(upload(app, make_checkpoint(), name), "Load")
    next(button for button in app.button if button.key == "use one (yours)").click().run()
    assert find(app.selectbox, "Model").value == "one (yours)"
    assert app.subheader[0].value == "one"


def list_names(monkeypatch: pytest.MonkeyPatch, names: dict[str, bool]) -> None:
    monkeypatch.setattr(network_name, "list_pretrained", lambda: names)
    network_name._list_pretrained.clear()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub folder of torch that holds made up weights of one network."""
    path = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir()
    torch.manual_seed(0)
    torch.save(build(NAMED).state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    list_names(monkeypatch, {NAMED: True, "torchvision:resnet18": False})
    yield path
    network_name._list_pretrained.clear()


def choose_name(app: AppTest, name: str) -> AppTest:
    find(app.segmented_control, "From").set_value("torchvision or timm").run()
    find(app.selectbox, "Network").set_value(name).run()
    return press(app, "Load")


def test_a_network_is_loaded_by_its_name(hub: Path) -> None:
    app = choose_name(open_page(), NAMED)
    assert not app.exception
    assert not app.error
    assert find(app.selectbox, "Model").value == NAMED
    assert app.subheader[0].value == plain(NAMED)
    assert "input 224x224, ImageNet mean and std" in read_texts(app)
    # A link opens it in another session, without a download.
    assert open_page(network=NAMED).subheader[0].value == plain(NAMED)


def test_a_name_without_its_library_is_completed(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_names(monkeypatch, {"SqueezeNet1_1": False})  # as typed: AppTest types no new options
    app = choose_name(open_page(), "SqueezeNet1_1")
    assert find(app.selectbox, "Model").value == NAMED


def test_offline_is_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, on_progress: object) -> None:
        raise NetworkError(f"The weights of {name} could not be downloaded.")

    monkeypatch.setattr(network_name, "download_weights", refuse)
    app = choose_name(open_page(), "torchvision:resnet18")
    assert read_errors(app) == ["The weights of torchvision:resnet18 could not be downloaded."]
    assert not app.exception
    assert find(app.selectbox, "Model").value == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("/etc/passwd", " is no name of a network of torchvision or timm. Use torchvision:NAME or timm:NAME."),
        ("timm:no_such_network", "timm has no classifier 'no_such_network'."),
    ],
)
def test_another_text_is_no_path_and_no_network(
    hub: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    list_names(monkeypatch, {name: False})  # as typed: AppTest types no new options
    app = choose_name(open_page(), name)
    assert [sentence in error for error in read_errors(app)] == [True]


def test_an_app_for_others_reads_no_folders_and_downloads_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "is_open", lambda: False)
    monkeypatch.setattr(network_name, "download_weights", lambda *arguments: pytest.fail("it downloads"))
    app = open_page()
    assert find(app.segmented_control, "From").options == ["File", "torchvision or timm"]
    find(app.segmented_control, "From").set_value("torchvision or timm").run()
    assert find(app.selectbox, "Network").options == [f"{NAMED} (on this machine)"]
    list_names(monkeypatch, {"torchvision:resnet18": True})  # it was removed after it was listed
    choose_name(app.run(), "torchvision:resnet18")
    assert read_errors(app) == [
        "The weights of torchvision:resnet18 are not on this machine. Load it on the page Model."
    ]


@pytest.mark.parametrize("name", ["torchvision:no_such_network", "timm:../../x", "torchvision:", "timm:\0"])
def test_a_link_with_an_unknown_name_is_one_sentence(name: str) -> None:
    app = open_page(network=name)
    assert not app.exception
    assert len(app.error) == 1
    assert has(app.segmented_control, "From")


def test_a_folder_that_holds_no_network_is_one_sentence(tmp_path: Path) -> None:
    app = open_page()
    find(app.segmented_control, "From").set_value("Folder").run()
    press(app, "Load")
    assert read_errors(app) == ["No folder. Type the path of one first."]
    find(app.text_input, "Folder").set_value(str(tmp_path)).run()
    press(app, "Load")
    assert read_errors(app) == [
        f"{tmp_path} is no folder of a network: it has neither model.json nor config.json. Check its path."
    ]
    folder = write_backbone(tmp_path / "runs") / BACKBONE
    find(app.text_input, "Folder").set_value(str(folder)).run()
    press(app, "Load")
    assert not app.exception
    assert app.session_state[keys.OWN_NETWORKS].keys() == {BACKBONE}
