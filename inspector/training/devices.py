"""Choose the device for training: one device, or under torchrun one device per process (DistributedDataParallel)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from inspector.errors import TrainingError
from inspector.explain.device import find_device


@contextmanager
def join_processes(name: str) -> Iterator[torch.device]:
    """Yield the device of this process. Under torchrun, also join the process group; each process has its own GPU."""
    if "LOCAL_RANK" not in os.environ:
        yield find_device(name, TrainingError)
        return
    on_gpu = find_device(name.split(":")[0], TrainingError).type == "cuda"
    device = find_device(f"cuda:{os.environ['LOCAL_RANK']}", TrainingError) if on_gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Return whether this process is the first one: only the first process prints and writes files."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def parallelize(network: nn.Module) -> nn.Module:
    """Wrap the network so that its gradients are averaged over all processes; without torchrun return it unchanged."""
    return nn.parallel.DistributedDataParallel(network) if distributed.is_initialized() else network


def split_batch(batch: Tensor) -> tuple[Tensor, float]:
    """Return the part of a batch (N,) for this process, and the weight to multiply its mean loss by.

    With these weights, the average over all processes is the mean loss of the whole batch.
    """
    if not distributed.is_initialized() or len(batch) < (processes := distributed.get_world_size()):
        return batch, 1.0
    part = batch[distributed.get_rank() :: processes]
    return part, len(part) * processes / len(batch)


def average_losses(losses: Tensor) -> Tensor:
    """Average each loss over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(losses)
        losses = losses / distributed.get_world_size()
    return losses
