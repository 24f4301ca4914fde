"""Make the tables of backends.py on a GPU: all class maps relative to the bare eager forward pass.

Every timed call ends with a synchronization of the GPU. Memory is the peak that torch allocates on the GPU, above the
network itself.

    python benchmarks/gpu.py
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from backends import (
    HEADER,
    NETWORKS,
    build_backends,
    compare_times,
    count_matrix_products,
    load_classifier,
    make_inspector_calls,
)
from report import format_table, time_interleaved, write_results

import inspector
from inspector.explain.classifier import LoadedNetwork

BACKENDS = ("eager", "folded", "cuda", "cuda float16", "cuda bfloat16")


def main(
    networks: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(NETWORKS),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at each batch size.")] = 40,
) -> None:
    """Time all class maps through each backend on the GPU, and write results/gpu.md."""
    if not torch.cuda.is_available():
        sys.exit("This benchmark needs an NVIDIA GPU that torch can use; none was found.")
    rows: list[tuple[object, ...]] = []
    peaks: list[tuple[object, ...]] = []
    for name in networks.split(","):
        classifier = move_to_gpu(load_classifier(name))
        accelerated = build_backends(classifier, BACKENDS)
        for batch in (1, 32, 256):
            inputs = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).cuda()
            contestants = {
                what: partial(call_and_synchronize, call)
                for what, call in make_inspector_calls(classifier, accelerated, inputs).items()
            }
            times = time_interleaved(contestants, rounds, warm_up=1, untimed_call_first=True)
            rows += compare_times(name, batch, times, count_matrix_products(classifier, inputs))
            peaks += [(name, batch, what, measure_gpu_peak(call)) for what, call in contestants.items()]
            print(format_table(HEADER, rows[-len(contestants) :]), flush=True)
    parts = (
        format_table(HEADER, rows),
        format_table(("network", "batch", "computation", "peak memory above baseline, MB"), peaks),
    )
    gpu = f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}."
    write_results("gpu", f"python benchmarks/gpu.py --networks {networks} --rounds {rounds}", gpu, *parts)


def move_to_gpu(classifier: inspector.Classifier) -> inspector.Classifier:
    """Move the network to the GPU and wrap it again, so that the weight of the head is on the GPU too."""
    network, preprocessing = classifier.network.cuda(), classifier.preprocessing
    return inspector.Classifier.from_network(
        LoadedNetwork(classifier.name, network, preprocessing, classifier.class_names)
    )


def call_and_synchronize(call: Callable[[], Any]) -> None:
    call()
    torch.cuda.synchronize()


def measure_gpu_peak(call: Callable[[], None]) -> int:
    """Measure the peak memory that torch allocates on the GPU in a call, in MB above the allocation before it."""
    call()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) // 2**20


if __name__ == "__main__":
    typer.run(main)
