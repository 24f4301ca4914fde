"""Cells respond at their places, or their place is said to be unknown: measured, whatever the operations are called."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from inspector.explain.head import find_head
from inspector.explain.places import place_branches
from inspector.explain.tracing.forward import noise_input
from inspector.explain.tracing.receptive_field import ReceptiveField, find_receptive_field

Step = Callable[[Tensor], Tensor]


class Network(nn.Module):
    """Two convolutions and global average pooling, with a step before the convolutions and one after."""

    def __init__(self, before: Step = lambda x: x, after: Step = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.fc, self.before, self.after = nn.Linear(12, 5), before, after

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.after(self.body(self.before(images))).mean((2, 3)))
        return logits


def place(network: nn.Module, size: tuple[int, int] = (40, 56)) -> tuple[ReceptiveField, ...]:
    example = noise_input(network.eval(), (1, 3, *size))
    head = find_head(network, example)
    fields = [find_receptive_field(network, example, call) for call in head.calls]
    return place_branches(network, example, head.calls, fields)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(40, 56), (64, 64), (8, 8), (9, 33), (5, 5)])
def test_cells_of_a_plain_network_are_in_their_place(size: tuple[int, int], dtype: torch.dtype) -> None:
    (field,) = place(Network().to(dtype), size)
    assert field.misplaced is None
    assert field.y.size == 7


def test_a_roll_that_is_undone_leaves_the_place_known() -> None:
    (field,) = place(Network(lambda x: x.roll(8, 3), lambda x: x.roll(-2, 3)))
    assert field.misplaced is None


def shuffled(cells: int) -> Tensor:
    return torch.randperm(cells, generator=torch.Generator().manual_seed(0))


MOVES: dict[str, Step] = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "turned": lambda x: torch.rot90(x, 1, (2, 3)),
    "transposed": lambda x: x.transpose(2, 3),
    "permuted": lambda x: x.permute(0, 1, 3, 2),
    "rolled": lambda x: x.roll(16, 3),
    "both sides averaged": lambda x: (x + x.flip(3)) / 2,
    "two side by side": lambda x: torch.cat([x, x.flip(3)], 3),
    "tokens in another order": lambda x: x.flatten(2)[:, :, shuffled(x[0, 0].numel())].view_as(x),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("where", ["image", "maps"])
@pytest.mark.parametrize("size", [(40, 56), (48, 48)])
def test_the_place_of_moved_cells_is_unknown(move: str, where: str, size: tuple[int, int]) -> None:
    step = MOVES[move]
    network = Network(step) if where == "image" else Network(after=step)
    assert all(field.misplaced for field in place(network, size))


def test_a_mirror_is_told_with_its_direction() -> None:
    (field,) = place(Network(lambda x: x.flip(3)))
    assert field.misplaced == "the cells respond to the opposite side of the photo, left and right exchanged"


def test_every_branch_has_its_own_place() -> None:
    class BothSides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, images: Tensor) -> Tensor:
            both: Tensor = self.network(images) + self.network(images.flip(3))
            return both

    plain, mirrored = place(BothSides())
    assert plain.misplaced is None
    assert mirrored.misplaced is not None
