"""Open the first page in Streamlit's simulator, and read what it sends to its viewer."""

import json
from typing import Any

from streamlit.testing.v1 import AppTest

OTHERS = {None: "nothing", -1: "mean of all classes"}


def open_page(**link: str) -> AppTest:
    """Run the page with a link: of fashion_gap and an ankle boot, unless it names others."""
    app = AppTest.from_function(_page, default_timeout=120)
    for name, value in ({"network": "fashion_gap", "example": "Ankle boot"} | link).items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def _page() -> None:
    from inspector.ui.pages import class_maps
    from inspector.ui.state.top_bar import draw_bar, read_arrays

    class_maps.show(*read_arrays(draw_bar()))


def read_viewer(app: AppTest, component: str = "class_viewer") -> dict[str, Any]:
    """Return the data of the viewer, or of the class strip below it."""
    (found,) = (one for one in app.get("bidi_component") if one.proto.component_name == f"inspector.{component}")
    data: dict[str, Any]
    (data,) = json.loads(found.proto.json)
    return data


def has_viewer(app: AppTest) -> bool:
    """Tell whether the page shows a map."""
    return any(one.proto.component_name == "inspector.class_viewer" for one in app.get("bidi_component"))


def read_title(app: AppTest) -> str:
    """Return the heading of the map, as in "Why tiger cat rather than nothing"."""
    data = read_viewer(app)
    names, state = data["names"], data["state"]
    other = OTHERS[state["against"]] if state["against"] in OTHERS else names[state["against"]]
    return f"Why {names[state['k']]} rather than {other}"
