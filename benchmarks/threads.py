"""Test many threads at once, on small networks with heads of all kinds: every result is that of one thread alone.

Each call is chosen at random: class maps of a photo or a batch, feature maps of a layer, an attribution method, masking
at the head, a summary, finding the head anew, a folded copy, or writing the network for another runtime. The results
are compared with those of one thread, to 1e-6 in logits.

    python benchmarks/threads.py --calls 10000 --threads 16
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import torch
import typer
from report import format_table, write_results
from torch import Tensor, nn
from torch.nn import functional as F

import inspector
from inspector.analysis.attribution.methods import METHODS, compute_attribution
from inspector.analysis.layers import compute_layer_maps, list_layers
from inspector.analysis.masking import mask_at_head
from inspector.explain.backends.export_graph import feature_graph

SIZE, CHANNELS, CLASSES = (32, 40), 12, 5
# Exporting takes seconds, so it is rare. Captum's methods run one after the other, so they are rare too.
WEIGHTS = {"class maps": 40, "batch": 20, "layers": 10, "masking": 10, "load": 6, "describe": 6, "folded": 4}
WEIGHTS |= {"methods": 3, "export": 1}
METHOD_NAMES = ("Grad-CAM", "Ablation-CAM", "HiResCAM", "Input x gradient")


class LayerNormalized(nn.Module):
    """Layer normalization written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(1, keepdim=True)
        return centered * torch.rsqrt(centered.square().mean(1, keepdim=True) + 1e-5)


class GeneralizedMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-6).pow(3), x.shape[2:]).pow(1 / 3).flatten(1)


POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
HEADS: dict[str, Callable[[], list[nn.Module]]] = {
    "affine": lambda: [*POOL, nn.Linear(CHANNELS, CLASSES)],
    "max": lambda: [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES)],
    "LayerNorm": lambda: [*POOL, nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CLASSES)],
    "LayerNorm by hand": lambda: [*POOL, LayerNormalized(), nn.Linear(CHANNELS, CLASSES)],
    "ReLU MLP": lambda: [*POOL, nn.Linear(CHANNELS, 16), nn.ReLU(), nn.Linear(16, CLASSES)],
    "hard-swish": lambda: [*POOL, nn.Linear(CHANNELS, 16), nn.Hardswish(), nn.Linear(16, CLASSES)],
    "GELU": lambda: [*POOL, nn.Linear(CHANNELS, 16), nn.GELU(), nn.Linear(16, CLASSES)],
    "generalized mean": lambda: [GeneralizedMean(), nn.Linear(CHANNELS, CLASSES)],
    "flatten": lambda: [nn.Flatten(), nn.Linear(CHANNELS * 80, 16), nn.ReLU(), nn.Linear(16, CLASSES)],
}


def make_network(head: str) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, CHANNELS, 3, 2, 1), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return nn.Sequential(*body, *HEADS[head]()).eval()


def main(
    calls: Annotated[int, typer.Option(min=1)] = 10_000,
    threads: Annotated[int, typer.Option(min=2)] = 16,
    seed: int = 0,
) -> None:
    """Run the calls and write results/threads.md."""
    torch.set_num_threads(1)
    work = make_calls()
    alone = {name: call() for name, call in work.items()}
    chosen = random.Random(seed)
    names = list(work)
    weights = [WEIGHTS[kind] for kind, _ in names]
    order = chosen.choices(names, weights, k=calls)
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        outcomes = list(pool.map(lambda name: compare(work[name], alone[name]), order))
    seconds = time.perf_counter() - start
    rows = []
    for kind in WEIGHTS:
        of_kind = [outcome for (own, _), outcome in zip(order, outcomes, strict=True) if own == kind]
        rows.append((kind, len(of_kind), sum(outcome == "" for outcome in of_kind)))
    failures = Counter(f"{kind}: {outcome}" for (kind, _), outcome in zip(order, outcomes, strict=True) if outcome)
    command = f"python benchmarks/threads.py --calls {calls} --threads {threads} --seed {seed}"
    listed = "\n".join(f"- {count} x {text}" for text, count in failures.most_common(20)) or "No call failed."
    summary = f"{calls} calls on {threads} threads in {seconds:.0f} s."
    write_results("threads", command, summary, format_table(("call", "calls", "as one thread alone"), rows), listed)
    if failures:
        raise typer.Exit(1)


def make_calls() -> dict[tuple[str, str], Callable[[], list[Tensor]]]:
    """Return what the threads call, by kind and head: functions that return tensors."""
    photo = inspector.read_image(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    work: dict[tuple[str, str], Callable[[], list[Tensor]]] = {}
    for head in HEADS:
        network = make_network(head)
        classifier = inspector.Classifier.wrap(network, size=SIZE)
        inputs = classifier.noise_input(3)
        layer, names = list_layers(classifier)[2], list_names(classifier)
        work |= {
            ("class maps", head): lambda c=classifier: of_maps(inspector.class_maps(c, photo)),
            ("batch", head): lambda c=classifier, x=inputs: [
                value for maps in inspector.class_maps_of_batch(c, x) for value in of_maps(maps)
            ],
            ("layers", head): lambda c=classifier, one=layer: [compute_layer_maps(c, photo, one).maps],
            ("load", head): lambda n=network, x=inputs: of_maps(
                inspector.class_maps_of_batch(inspector.Classifier.wrap(n, size=SIZE), x[:1])[0]
            ),
            ("describe", head): lambda c=classifier: [torch.tensor(len(inspector.describe(c).layers))],
            ("methods", head): lambda c=classifier, x=inputs, names=names: [
                compute_attribution(c, x[:1], 1, name).values for name in names
            ],
        }
        if not classifier.head.needs_derivative:
            work |= {
                ("masking", head): lambda c=classifier: [mask_first_row(inspector.class_maps(c, photo))],
                ("folded", head): lambda c=classifier, x=inputs: of_maps(
                    inspector.class_maps_of_batch(inspector.accelerate(c, "folded"), x[:1])[0]
                ),
                ("export", head): lambda c=classifier, x=inputs: list(feature_graph(c)(x)),
            }
    return work


def list_names(classifier: inspector.Classifier) -> list[str]:
    """Return the methods for a network. Ablation-CAM refuses a generalized mean: zero removes no channel there."""
    is_mean = any(branch.pooling == "other" for branch in classifier.head.branches)
    return [name for name in METHOD_NAMES if name in METHODS and not (is_mean and name == "Ablation-CAM")]


def of_maps(maps: inspector.ClassMaps) -> list[Tensor]:
    assert maps.verdict == maps.classifier.head.verdict, maps.verdict
    return [maps.values, maps.bias, maps.logits]


def mask_first_row(maps: inspector.ClassMaps) -> Tensor:
    mask = torch.zeros(maps.values.shape[1:], dtype=torch.bool)
    mask[0] = True
    return mask_at_head(maps, mask).logits


def compare(call: Callable[[], list[Tensor]], expected: list[Tensor]) -> str:
    """Return what is wrong with the result of a call; "" if nothing is."""
    try:
        for value, alone in zip(call(), expected, strict=True):
            error, scale = float((value - alone).abs().max()), float(alone.abs().max())
            if not error <= 1e-6 * max(1, scale):
                return f"another result, by {error:.1e} of {scale:.1e}"
    except Exception as error:  # whatever a thread raises is a failure to count
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


if __name__ == "__main__":
    typer.run(main)
