"""Place the cells of a head's feature maps: where the operations put them, and whether they were measured to be there.

Every branch of a head has a place of its own. A map that sums the branches is placed only if all of them are.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from inspector.errors import NetworkError
from inspector.explain.branches import HeadBranch
from inspector.explain.head import Head
from inspector.explain.places import Capture, PlaceCheck, capture_feature_maps, check_places
from inspector.explain.receptive_field import ReceptiveField, make_even_field
from inspector.explain.tracing.receptive_field import find_receptive_fields

_FEW, _MANY = 3, 12  # cells along an axis: below _FEW, larger inputs are measured first, with up to _MANY cells
_LARGEST = 4  # times the input size


def place_head(network: nn.Module, example: Tensor, head: Head, known: ReceptiveField | None = None) -> Head:
    """Give the branches of a head the receptive fields of their cells, with what was measured about their place.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        head: the head of the network.
        known: receptive fields that were read elsewhere. Default: they follow from the operations of the network.
    """
    fields = find_receptive_fields(network, example, head.calls) if known is None else [known] * len(head.branches)
    return replace(head, branches=place_branches(network, example, head.branches, fields))


def place_branches(
    network: nn.Module, example: Tensor, branches: Sequence[HeadBranch], fields: Sequence[ReceptiveField]
) -> tuple[HeadBranch, ...]:
    """Give the branches of a head the receptive fields of their cells, with what was measured about their place.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
        branches: the poolings.
        fields: the receptive fields that follow from the operations of the network.

    Returns:
        The branches with their fields; `misplaced` says why the place of the cells is unknown. Where cells see more
        pixels than the operations let expect, their size is infinite.
    """

    def capture(image: Tensor) -> list[Tensor]:
        return capture_feature_maps(network, image, [branch.call for branch in branches])

    grids = [branch.grid for branch in branches]
    few = min((cells for grid in grids for cells in grid if cells > 1), default=_FEW)
    enlarged = None
    if few < _FEW:
        # Two cells that both see the whole image cannot be distinguished. More cells of the same network can.
        enlarged = _check_enlarged(capture, example, fields, grids, min(_LARGEST, -(-_MANY // few)))
    checks = enlarged or check_places(capture, example, fields)
    if enlarged is None and few < _MANY and any(check.misplaced for check in checks):
        enlarged = _check_enlarged(capture, example, fields, grids, min(_LARGEST, -(-_MANY // few))) or checks
        checks = [more if more.misplaced is None else own for own, more in zip(checks, enlarged, strict=True)]
    placed = (_apply(check, field) for check, field in zip(checks, fields, strict=True))
    return tuple(replace(branch, field=field) for branch, field in zip(branches, placed, strict=True))


def place_branches_again(
    network: nn.Module, example: Tensor, branches: Sequence[HeadBranch], shift: tuple[float, float]
) -> tuple[HeadBranch, ...]:
    """Place the branches of a head for inputs of another size.

    What was measured holds for all sizes. Cells that see the whole image may divide it evenly, and then lie elsewhere
    now, so the operations of the network are followed again. Other cells keep their stride and center.

    Args:
        network: the network.
        example: an input of the new size.
        branches: the poolings, placed at another size.
        shift: (y, x) from the center of a receptive field to that of its cell, in pixels of the input.
    """
    if not any(branch.field is not None and math.isinf(branch.field.y.size) for branch in branches):
        return tuple(branches)
    found = find_receptive_fields(network, example, [branch.call for branch in branches])
    return move_branches([_carry_over(*pair) for pair in zip(branches, found, strict=True)], shift)


def _carry_over(branch: HeadBranch, field: ReceptiveField) -> HeadBranch:
    """Return the branch with its field at another size, and what was measured about it."""
    measured = branch.field
    assert measured is not None, "the classifier places all branches"
    y, x = (replace(new, size=old.size) for new, old in ((field.y, measured.y), (field.x, measured.x)))
    return replace(branch, field=replace(measured, y=y, x=x))


def move_branches(branches: Sequence[HeadBranch], shift: tuple[float, float]) -> tuple[HeadBranch, ...]:
    """Return branches whose cells are moved by (y, x) pixels of the input."""
    moved = []
    for branch in branches:
        field = branch.field
        assert field is not None, "the classifier places all branches"
        axes = zip((field.y, field.x), shift, strict=True)
        y, x = (replace(axis, centre=axis.centre + by) for axis, by in axes)
        moved.append(replace(branch, field=replace(field, y=y, x=x)))
    return tuple(moved)


def join_fields(branches: Sequence[HeadBranch]) -> ReceptiveField:
    """Return the receptive fields of a map that sums those of all branches, on the finest of their grids.

    Its place is unknown if that of one branch is, or if a branch has cells beyond the finest grid.
    """
    placed = [(branch.grid, branch.field) for branch in branches if branch.field is not None]
    grid, finest = max(placed, key=lambda one: one[0][0] * one[0][1])
    reasons = [field.misplaced for _, field in placed if field.misplaced is not None]
    if not reasons and any(_exceeds(one, field, grid, finest) for one, field in placed):
        reasons = ["its poolings have cells in different parts of the photo"]
    return replace(finest, misplaced=reasons[0] if reasons else None)


def _exceeds(
    grid: tuple[int, int], field: ReceptiveField, finest_grid: tuple[int, int], finest: ReceptiveField
) -> bool:
    """Tell whether the centers of the outermost cells are beyond the finest grid by more than half of their stride."""
    for cells, axis, count, own in zip(grid, (field.y, field.x), finest_grid, (finest.y, finest.x), strict=True):
        first, last = axis.centre, axis.centre + (cells - 1) * axis.stride
        start, end = own.centre - own.stride / 2, own.centre + (count - 0.5) * own.stride
        if first < start - axis.stride / 2 or last > end + axis.stride / 2:
            return True
    return False


def _check_enlarged(
    capture: Capture, example: Tensor, fields: Sequence[ReceptiveField], grids: Sequence[tuple[int, int]], factor: int
) -> list[PlaceCheck] | None:
    """Check the places with larger inputs; None if the network does not take them."""
    size = [side * factor for side in example.shape[2:]]
    larger = example.new_zeros(*example.shape[:2], *size)
    try:
        maps = capture(larger)
    except NetworkError:
        return None
    enlarged = []
    for field, grid, one in zip(fields, grids, maps, strict=True):
        even = field == make_even_field(example.shape[2:], grid)
        enlarged.append(make_even_field(size, one.shape[2:]) if even else field)
    if any(one.shape[2] <= grid[0] and one.shape[3] <= grid[1] for one, grid in zip(maps, grids, strict=True)):
        return None
    return check_places(capture, larger, enlarged)


def _apply(check: PlaceCheck, field: ReceptiveField) -> ReceptiveField:
    if check.sees_more:
        field = replace(field, y=replace(field.y, size=math.inf), x=replace(field.x, size=math.inf))
    return replace(field, misplaced=check.misplaced)
