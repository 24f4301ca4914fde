"""Find the calls in a forward pass that pool feature maps: calls that reduce each channel to one value, or flatten.

Every function and method call on tensors is inspected, so a pooling is found whether it is a module, a function or a
method, whether it returns a tensor or values with indices, as ``x.flatten(2).max(2)``, and however the maps are laid
out (layouts.py). Several calls may pool together (composite_poolings.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.tracing.composite_poolings import CompositePoolings, TensorCall
from inspector.explain.tracing.layouts import FeatureLayout, GridFinder, PooledLayout, find_layouts
from inspector.explain.tracing.tensor_calls import (
    Handler,
    TensorNotes,
    call_unchanged,
    find_arguments,
    find_values,
    is_writing,
    op_name,
    replace_values,
)

# Functions that make a tensor of given values, whatever else they are given.
_FACTORIES: tuple[str, ...] = ("zeros", "ones", "full", "empty", "eye", "arange", "linspace")
_FACTORIES += ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
# These functions take (N, C, length) by definition, so tokens that they pool are on the last axis.
_SEQUENCE_POOLINGS = ("adaptive_avg_pool1d", "adaptive_max_pool1d", "avg_pool1d", "max_pool1d")
# The results of these functions are feature maps (N, C, h, w) by definition, so their last axes are a grid.
_SPATIAL_OPS = ("conv2d", "max_pool2d", "avg_pool2d", "batch_norm", "interpolate", "conv_transpose2d")
# A call that fits two layouts has two indices, which differ by this number. So an index means the same call and layout
# at every input size, also where only one size fits both.
_CHANNELS_LAST = 1_000_000


def call_number(index: int) -> int:
    """Return the number of the call that a pooling's index belongs to: calls are numbered in order."""
    return index % _CHANNELS_LAST


@dataclass(frozen=True, eq=False)
class PoolingCall:
    """A call that reduced each channel of feature maps to one value, or flattened them, read in one layout."""

    index: int  # number of such calls before it in the same pass; larger by a million if the channels are last
    source: Tensor  # the feature maps, in the network's own layout
    result: Tensor
    layout: FeatureLayout
    reapply: Callable[[Tensor], Tensor]  # pools other maps of this shape

    def feature_maps(self) -> Tensor:
        """Return a copy of the feature maps, (N, C, h, w)."""
        # A copy, because an in-place ReLU that follows would overwrite a view.
        return self.layout.feature_maps(self.source).detach().clone()

    def pooled(self) -> Tensor:
        """Return a copy of the pooled values: (N, C), or (N, C * h * w) where the maps were flattened."""
        return self.pooled_layout.read(self.result.detach()).clone()

    @property
    def pooled_layout(self) -> PooledLayout:
        """How the pooled values are laid out in the result."""
        is_flat = self.layout.channels == "last" and self.result[0].numel() == self.source[0].numel()
        # One cell has one order only.
        is_flat = is_flat and self.source[0].numel() > self.source.shape[-1]
        return PooledLayout(self.result.shape, (self.layout, self.source.shape) if is_flat else None)

    def per_channel_derivative(self) -> Tensor | None:
        """Compute d pooled / d feature maps if every pooled value depends on its own channel only.

        The gradient of a sum of pooled values, each with a sign s[c] of 1 or -1, is

            d (sum over c of s[c] * p[c]) / d F[d, y, x]  =  sum over c of  s[c] * dp[c] / dF[d, y, x]

        If p[c] depends on F[c] only, the right side is s[d] * dp[d] / dF[d, y, x]: the signed gradient is the plain one
        times s. Where channels mix, alternating signs give another gradient.

        Returns:
            Tensor (N, C, h, w); None if channels mix.
        """
        if self.layout.feature_maps(self.source).shape[1] != self.result[0].numel():
            return None
        with torch.inference_mode(False), torch.enable_grad():
            leaf = self.source.detach().clone().requires_grad_()
            pooled = self.reapply(leaf.clone()).flatten(1)
            if not pooled.requires_grad:
                return None
            (plain,) = torch.autograd.grad(pooled.sum(), leaf, retain_graph=True)
            signs = torch.ones_like(pooled)
            signs[:, ::2] = -1
            (signed,) = torch.autograd.grad(pooled, leaf, signs)
        # A root has no derivative at 0, as where a channel is 0 everywhere. Then no cell has a share.
        plain, signed = (self.layout.feature_maps(one.nan_to_num(0, 0, 0)) for one in (plain, signed))
        expected = plain * signs[..., None, None].to(plain)
        independent = torch.allclose(signed, expected, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))
        return plain if independent else None


class PoolingCallDetector:
    """A handler that passes each pooling call of a forward pass to `on_call`, whose answer replaces the result.

    The call itself goes through `handler`. One detector serves one pass. A call that fits several layouts is passed
    once for each, the later ones with the answer to the earlier ones as their result.
    """

    def __init__(self, on_call: Callable[[PoolingCall], Tensor], handler: Handler = call_unchanged) -> None:
        self._on_call, self._handler = on_call, handler
        self._found = 0
        self._grids = GridFinder()
        self._composites = CompositePoolings()
        # Tensors computed from parameters and new tensors only (e.g. a resized position embedding, or the mask of
        # attention in windows). They are not counted, since how many there are depends on the input size.
        self._constants = TensorNotes[bool]()
        # The image, and all that is computed from it. Any other tensor is stored by the network, computed from such
        # tensors, or the result of a function that cannot be followed.
        self._from_image = TensorNotes[bool]()
        # Tensors computed from pooled values only. They have one position per channel, whatever their shape: a norm
        # over (N, 1, 1, C) does not pool a map of 1 x C cells.
        self._pooled = TensorNotes[bool]()

    def __call__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and pass the call to `on_call` if it pools feature maps."""
        output = self._handler(function, args, kwargs)
        given, result = find_arguments(args, kwargs), find_values(output)
        variable = [tensor for tensor in given if not self._is_constant(tensor)]
        if isinstance(output, Tensor) and ((given and not variable) or op_name(function) in _FACTORIES):
            self._constants[output] = True
        elif variable and is_writing(function, kwargs):
            written = kwargs.get("out", args[0] if args else None)
            for tensor in (written, getattr(written, "_base", None)):  # it may hold values of the image now
                self._constants.discard(tensor)
        variable = [tensor for tensor in variable if tensor.is_floating_point() and not self._is_stored_number(tensor)]
        if result is None or not variable:
            return output
        if self._grids.note_image(variable[0]):
            self._from_image[variable[0]] = True
        call = TensorCall(function, args, kwargs, output, variable)
        is_pooled = self._is_pooled(variable)
        answer = self._report(call, result, is_pooled)
        is_pooling = answer is not None
        answer = result if answer is None else answer
        if any(tensor in self._from_image for tensor in variable):
            self._from_image[answer] = True
        self._composites.note(call, answer, is_pooled, is_pooling)
        if is_pooled or (is_pooling and result.numel() < variable[0].numel()):
            self._pooled[answer] = True
        elif result.ndim == 4 and op_name(function) in _SPATIAL_OPS:
            self._grids.note_maps(result)
        return output if answer is result else replace_values(output, answer)

    def _report(self, call: TensorCall, result: Tensor, is_pooled: bool) -> Tensor | None:
        """Pass a call to `on_call` in every layout that its shapes fit; return the answer, None if it is no pooling."""
        for composite in self._composites.find(call, is_pooled):
            is_sequence = op_name(call.function) in _SEQUENCE_POOLINGS
            layouts = find_layouts(composite.maps.shape, result.shape, self._grids, is_sequence)
            if not layouts:
                continue
            for layout in layouts:
                index = self._found + (_CHANNELS_LAST if layout.channels == "last" else 0)
                result = self._on_call(PoolingCall(index, composite.maps, result, layout, composite.apply))
            self._found += 1
            return result
        return None

    def _is_stored_number(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is one number that the network stores, such as an exponent in a buffer."""
        return tensor.numel() == 1 and tensor not in self._from_image

    def _is_pooled(self, tensors: Sequence[Tensor]) -> bool:
        """Tell whether tensors are pooled values, or buffers of the network that are no larger than these."""
        largest = max((tensor.numel() for tensor in tensors if tensor in self._pooled), default=0)
        others = [tensor for tensor in tensors if tensor not in self._pooled]
        return largest > 0 and all(other not in self._from_image and other.numel() <= largest for other in others)

    def _is_constant(self, tensor: Tensor) -> bool:
        return isinstance(tensor, nn.Parameter) or tensor in self._constants
