"""Describe the heads of all torchvision classifiers, and of one network of every family in timm.

The networks have random weights, which do not change the head. The public functions of the package make each row.

    python benchmarks/heads.py torchvision
    python benchmarks/heads.py timm
"""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from report import format_table, write_results
from rich.progress import track
from torch import nn
from torchvision import models

import inspector

HEADER = (
    "network",
    "pooling",
    "feature maps",
    "after the pooling",
    "verdict",
    "residual (logits)",
    "relative residual",
    "reason",
)
SIZE = 224  # the only size of many networks
OTHER_SIZES = {"inception_v3": 299}
DOCS = Path(__file__).parent.parent / "docs"
TIMM = Path(__file__).with_name("timm_families.txt")


def main(library: str) -> None:
    """Describe every network, compute the class maps of one random image, and write docs/<library>.md."""
    names, build = {"torchvision": _list_torchvision, "timm": _list_timm}[library]()
    rows = [describe_network(name, build) for name in track(names)]
    verdicts = Counter(line[4] for line in rows)
    summary = (
        f"{len(rows)} networks: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()) + "."
    )
    command = f"python benchmarks/heads.py {library}"
    opening = (
        f"At the end of this page you know which networks of {library} have class maps, which of these are exact, and"
    )
    title = f"Networks of {library}\n\n{opening} why the others are not."
    write_results(library, command, summary, format_table(HEADER, rows), folder=DOCS, title=title)


def _list_torchvision() -> tuple[list[str], Callable[[str], nn.Module]]:
    # The weight initialization of these two takes minutes.
    slow = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
    return models.list_models(module=models), lambda name: models.get_model(name, weights=None, **slow.get(name, {}))


def _list_timm() -> tuple[list[str], Callable[[str], nn.Module]]:
    import timm

    return TIMM.read_text().split(), lambda name: timm.create_model(name, pretrained=False)


def describe_network(name: str, build: Callable[[str], nn.Module]) -> tuple[str, ...]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(name).eval()
    settings = getattr(network, "pretrained_cfg", {})
    size = OTHER_SIZES.get(name) or settings.get("input_size", (3, SIZE, SIZE))[1:]
    try:
        classifier = inspector.Classifier.wrap(network, size=size)
    except inspector.InspectorError as error:
        return name, "", "", "", "none", "", "", str(error)
    (maps,) = inspector.class_maps_of_batch(classifier, torch.randn(1, 3, *classifier.preprocessing.size))
    summary = inspector.describe(classifier, sizes=())
    shape = " x ".join(map(str, maps.feature_maps.shape))
    total = maps.values.abs().sum((1, 2)) + maps.bias.abs()
    share = (maps.values.sum((1, 2)) + maps.bias - maps.logits).abs() / (total + 1)
    after = ", ".join(summary.after)
    return name, classifier.head.pooling, shape, after, maps.verdict, f"{maps.residual:.1e}", f"{share.max():.1e}", ""


if __name__ == "__main__":
    typer.run(main)
