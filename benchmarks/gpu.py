"""The tables of backends.py on a GPU: all class maps beside the bare eager forward pass.

The GPU is waited for at the end of every call. Memory is the peak that torch allocates there above the network itself.

    python benchmarks/gpu.py
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from backends import HEADER, NETWORKS, built, compare, load, ours, products
from report import interleaved, table, write

import inspector
from inspector.explain.classifier import LoadedNetwork

BACKENDS = ("eager", "folded", "cuda", "cuda float16", "cuda bfloat16")


def main(
    networks: Annotated[str, typer.Option(help="Names with commas between them.")] = ",".join(NETWORKS),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each batch size.")] = 40,
) -> None:
    """Time all class maps through each backend on the GPU, and write results/gpu.md."""
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs an NVIDIA GPU that torch can use, and there is none.")
    rows: list[tuple[object, ...]] = []
    held: list[tuple[object, ...]] = []
    for name in networks.split(","):
        classifier = on_gpu(load(name))
        quick = built(classifier, BACKENDS)
        for batch in (1, 32, 256):
            inputs = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).cuda()
            contestants = {what: partial(waited_for, call) for what, call in ours(classifier, quick, inputs).items()}
            times = interleaved(contestants, rounds, warm_up=1, after_itself=True)
            rows += compare(name, batch, times, products(classifier, inputs))
            held += [(name, batch, what, peak_of(call)) for what, call in contestants.items()]
            print(table(HEADER, rows[-len(contestants) :]), flush=True)
    parts = (table(HEADER, rows), table(("network", "batch", "what", "peak above what was loaded, MB"), held))
    gpu = f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}."
    write("gpu", f"python benchmarks/gpu.py --networks {networks} --rounds {rounds}", gpu, *parts)


def on_gpu(classifier: inspector.Classifier) -> inspector.Classifier:
    """Wrapped anew, for the head's weight lies where the network does."""
    network, usual = classifier.network.cuda(), classifier.preprocessing
    return inspector.Classifier.from_network(LoadedNetwork(classifier.name, network, usual, classifier.class_names))


def waited_for(call: Callable[[], Any]) -> None:
    call()
    torch.cuda.synchronize()


def peak_of(call: Callable[[], None]) -> int:
    """The most that torch allocates on the GPU in a call, above what it holds before, in MB."""
    call()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) // 2**20


if __name__ == "__main__":
    typer.run(main)
