"""What does Inspector say of every torchvision classifier? Random weights: they change no head.

python benchmarks/torchvision_heads.py
"""

import torch
import typer
from report import table, write
from rich.progress import track
from torchvision import models

import inspector

SIZE = 224  # Swin, ViT and MaxViT take no other; Inception needs 299
HEADER = ("network", "pooling", "feature maps", "verdict", "residual (logits)", "reason")


def main() -> None:
    """Read the head of every network, split one random image, and write results/torchvision_heads.md."""
    rows = [row(name) for name in track(models.list_models(module=models))]
    exact = sum(line[3] == "exact" for line in rows)
    write(
        "torchvision_heads", "python benchmarks/torchvision_heads.py", f"{exact} of {len(rows)}.", table(HEADER, rows)
    )


def row(name: str) -> tuple[str, ...]:
    torch.manual_seed(0)
    # Their own initialisation takes minutes.
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **slow).eval()
    size = 299 if name == "inception_v3" else SIZE
    try:
        classifier = inspector.Classifier.wrap(network, size=size)
    except inspector.HeadError as error:
        return name, "", "", "refused", "", str(error)
    (maps,) = inspector.class_maps_of_batch(classifier, torch.randn(1, 3, size, size))
    shape = " x ".join(map(str, maps.feature_maps.shape))
    return name, classifier.head.pooling, shape, maps.verdict, f"{maps.residual:.1e}", ""


if __name__ == "__main__":
    typer.run(main)
