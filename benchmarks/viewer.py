"""Measure how large the viewer without a server is: in the report, and in a notebook.

The report is that of `inspector explain`, the notebook's output that of `maps.widget()`. The columns before them are
what both hold: the photo, the maps of all classes with their names, the channels of the cells, and the code.

    python benchmarks/viewer.py
"""

import json

import typer
from report import format_table, write_results

import inspector
from inspector.images.examples import list_examples
from inspector.output.manifest import make_manifest
from inspector.output.report import make_report
from inspector.output.standalone import list_page_parts, make_standalone_data

CASES = {
    "efficientnet_lite0": ("photos", "Cat"),
    "flowers17_gap": ("photos", "Cat"),
    "fashion_gap": ("fashion_mnist", "Bag"),
}


def main() -> None:
    """Measure the sizes, and write results/viewer.md."""
    rows = []
    for network, (folder, name) in CASES.items():
        maps = inspector.class_maps(inspector.load(network), list_examples(folder)[name])
        shown = maps.figure_content()
        data = make_standalone_data(maps, shown)
        parts = [data.pop("photo"), [data.pop("classes"), data.pop("names")], data.pop("channels")]
        code = list_page_parts()
        sizes = [len(json.dumps(part)) for part in parts] + [sum(map(len, code.values()))]
        report = make_report(maps, shown, manifest=make_manifest(maps, shown))
        widget = maps.widget()
        output = widget._repr_mimebundle_()[0]["text/html"]
        rows.append([network, len(maps.logits), *(round(size / 1000) for size in (*sizes, len(report), len(output)))])
    sizes_of = ("photo", "maps and names", "channels", "code", "report.html", "output of maps.widget()")
    header = ("network", "classes", *(f"{part} (kB)" for part in sizes_of))
    write_results("viewer", "python benchmarks/viewer.py", format_table(header, rows))


if __name__ == "__main__":
    typer.run(main)
