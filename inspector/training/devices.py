"""Where training runs: on one device, or on several under torchrun, a process each (DistributedDataParallel)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from inspector.errors import TrainingError


def find_device(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda, or cuda:1; TrainingError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise TrainingError(f"--device is {name!r}; auto, cpu, cuda or cuda:1 would do.")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = "no GPU" if count == 0 else "one GPU" if count == 1 else f"{count} GPUs"
        raise TrainingError(f"--device is {name!r}, but torch sees {there} here; cpu or auto would do.")
    return torch.device(name)


@contextmanager
def join_processes(name: str) -> Iterator[torch.device]:
    """The device of this process: of a name, or under torchrun one of several, a process each."""
    if "LOCAL_RANK" not in os.environ:
        yield find_device(name)
        return
    on_gpu = find_device(name.split(":")[0]).type == "cuda"
    device = find_device(f"cuda:{os.environ['LOCAL_RANK']}") if on_gpu else torch.device("cpu")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that shows and writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def parallelize(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over all processes."""
    return nn.parallel.DistributedDataParallel(network) if distributed.is_initialized() else network


def share(batch: Tensor) -> tuple[Tensor, float]:
    """This process's part of a batch (N,), and what its mean loss counts, so that all parts average to the batch's."""
    if not distributed.is_initialized() or len(batch) < (processes := distributed.get_world_size()):
        return batch, 1.0
    part = batch[distributed.get_rank() :: processes]
    return part, len(part) * processes / len(batch)


def average_losses(losses: Tensor) -> Tensor:
    """The mean over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(losses)
        losses = losses / distributed.get_world_size()
    return losses
