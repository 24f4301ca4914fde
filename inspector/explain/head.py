"""Find what follows the pooling, and verify it numerically.

With the results p of the poolings (branches.py) as free variables, the rest of the network is a function from p to the
logits. If that function is affine,

    logit[k] = bias[k] + sum over j of  weight[k, j] * p[j]

then its Jacobian is the weight and its value at p = 0 is the bias. If it is affine only while the statistics and gates
of an image are frozen (head_function.py), weight and bias are computed for every image. All of this, and that nothing
else of the image reaches the logits, is verified on other inputs than those it was computed from (head_checks.py).
Names and types of layers play no role.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from inspector.explain.branches import HeadBranch, find_branches
from inspector.explain.channel_function import find_channel_function
from inspector.explain.head_checks import (
    find_affine,
    find_verdict_per_image,
    refuse_other_paths,
)
from inspector.explain.head_function import HeadFunction, HeadRecording
from inspector.explain.kinds import Verdict
from inspector.explain.pooling import resample_averaging, resample_conserving
from inspector.explain.precision import TOLERANCE, find_product_type, find_tolerance, find_widest
from inspector.explain.tracing.forward import capture_and_record
from inspector.explain.tracing.preserve import preserve_state

_ZERO_NOTE = "All weights of the head are zero, so every class map is zero: a verdict says nothing until it is trained."


@dataclass(frozen=True, eq=False)
class Head:
    """How logits are computed from feature maps: the pooling, and the affine map that follows if there is one."""

    branches: tuple[HeadBranch, ...]
    weight: Tensor | None  # (K, P), P = C, or C * h * w if flattened; None if it depends on the image
    bias: Tensor | None  # (K,)
    classes: int  # K
    verdict: Verdict  # the best verdict that its class maps can get
    per_class: bool  # the weight is the identity, so each feature map is a class map
    tolerance: float = TOLERANCE  # residual that rounding explains, relative to the sum of all absolute summands
    note: str = ""  # what a user should know besides the verdict
    recording: HeadRecording = field(default_factory=HeadRecording)  # the ops after the pooling
    # Number, in the recording, of the result of a function of single channels that belongs to the pooling.
    moved: int | None = None

    @property
    def pooling(self) -> str:
        """The kind of pooling, or the kinds of all branches, such as "average + max"."""
        return " + ".join(dict.fromkeys(branch.pooling for branch in self.branches))

    @property
    def calls(self) -> tuple[int, ...]:
        """The index of each branch's pooling call."""
        return tuple(branch.call for branch in self.branches)

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of pooled values of each branch."""
        return tuple(branch.width for branch in self.branches)

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of a head that has them for every image."""
        assert self.weight is not None
        assert self.bias is not None
        return self.weight, self.bias

    @property
    def has_position_scores(self) -> bool:
        """Whether each cell has a score of its own, as if it alone were pooled."""
        return self.pooling in ("average", "max") and len(self.branches) == 1

    @property
    def finest_branch(self) -> HeadBranch:
        """The branch whose grid the class maps have."""
        return max(self.branches, key=lambda branch: branch.grid[0] * branch.grid[1])

    def lay_on_finest_grid(self, maps: Sequence[Tensor], average: bool = False) -> list[Tensor]:
        """Lay maps (..., h, w) of each branch on the finest of their grids, by the receptive fields of their cells.

        Every cell's value is divided among the cells that it covers, so sums stay. `average`: every cell gets the mean
        value of its area instead.
        """
        finest = max(range(len(maps)), key=lambda n: maps[n].shape[-2] * maps[n].shape[-1])
        resample, target = resample_averaging if average else resample_conserving, self.branches[finest].field
        laid = []
        for one, branch in zip(maps, self.branches, strict=True):
            fields = None if branch.field is None or target is None else (branch.field, target)
            laid.append(resample(one, maps[finest].shape[-2:], fields))
        return laid

    @property
    def needs_pooled(self) -> bool:
        """Whether the decomposition needs the pooled values besides the feature maps."""
        return self.weight is None or self.needs_derivative

    @property
    def needs_derivative(self) -> bool:
        """Whether the decomposition needs the derivative of the pooling."""
        return any(branch.pooling in ("linear", "other") for branch in self.branches)

    def head_function(self, network: nn.Module, inputs: Tensor) -> HeadFunction:
        """Return the head as a function from pooled values to logits.

        Args:
            network: the network that this head was found in.
            inputs: images (N, channels, H, W). Only their shape matters: the function does not depend on an image.
        """
        shape = tuple(inputs.shape[1:])
        return HeadFunction(network, shape, self.calls, self.widths, self.recording.current)


def read_weight_again(network: nn.Module, example: Tensor, head: Head) -> Head | None:
    """Read what follows the poolings of a known head anew, after the weights of the network changed.

    The poolings stay as they were found. That nothing else reaches the logits is verified with every photo, whose sums
    are compared with the network's logits.

    Args:
        network: the network that the head was found in.
        example: an input (1, channels, H, W).
        head: the head before the change.

    Returns:
        The head with its weight of now; None if it had one, and has none any more.

    Raises:
        NetworkError: the network does not run, or does not reach the poolings.
    """
    captured, logits, ops = capture_and_record(network, example, head.calls)
    pooled = torch.cat([one.pooled_values for one in captured], 1)
    function = HeadFunction(network, tuple(example.shape[1:]), head.calls, head.widths).with_ops(ops, pooled)
    recording = HeadRecording(function.recorded)
    if head.weight is None:
        return replace(head, recording=recording)
    wide = function.convert_constants(find_widest(example.device))
    affine = find_affine(function, wide, [pooled], [logits], head.tolerance)
    return None if affine is None else replace(_with_affine(head, *affine), recording=recording)


def _with_affine(head: Head, weight: Tensor, bias: Tensor) -> Head:
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    per_class = len(head.branches) == 1 and weight.shape == identity.shape and torch.equal(weight, identity)
    return replace(head, weight=weight, bias=bias, per_class=per_class, note="" if weight.any() else _ZERO_NOTE)


def find_head(network: nn.Module, example: Tensor) -> Head:
    """Find the head of a network.

    Args:
        network: any classifier; no name or type of a layer is used. What it keeps between passes is left as it is, and
            so is torch's stream of random numbers.
        example: an input (1, channels, H, W).

    Returns:
        The head, with a weight if what follows the pooling is affine for every image.

    Raises:
        HeadError: no pooling reaches the logits, or something besides the pooled values does.
    """
    with preserve_state(network):
        branches, passes = find_branches(network, example)
        calls, widths = tuple(branch.call for branch in branches), tuple(branch.width for branch in branches)
        captured, logits, ops = capture_and_record(network, example, calls)
        function = HeadFunction(network, tuple(example.shape[1:]), calls, widths).with_ops(ops, passes[0].pooled)
        recording = HeadRecording(function.recorded)
        refuse_other_paths(function, passes)
        dtypes = frozenset() if ops is None else ops.dtypes
        tensors = [logits, *(one.feature_maps for one in captured)]
        tolerance = find_tolerance(dtypes | set(map(find_product_type, tensors)))
        wide = function.convert_constants(find_widest(example.device))
        affine = None
        if all(branch.pooling != "other" for branch in branches):
            values, outputs = [one.pooled for one in passes], [one.logits for one in passes]
            affine = find_affine(function, wide, values, outputs, tolerance)
        if affine is None:
            verdict, moved = find_verdict_per_image(wide, branches, passes), None
            if verdict == "not unique":
                moved = find_channel_function(function, passes, tolerance)
            if moved is not None:
                verdict, branches = "exact for this image", (replace(branches[0], pooling="max"),)
            return Head(branches, None, None, logits.shape[1], verdict, False, tolerance, "", recording, moved)
        head = Head(branches, None, None, logits.shape[1], "exact", False, tolerance, "", recording)
        return _with_affine(head, *affine)
