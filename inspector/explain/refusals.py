"""Find out why no pooling of a network can be explained, to say the true reason."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inspector.explain.tracing.forward import forward_logits
from inspector.explain.tracing.tensor_calls import find_arguments, op_name

_USE = "Use a network that ends in global average or global max pooling, or in flatten and Linear."
_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


def explain_missing_pooling(network: nn.Module, example: Tensor) -> str:
    """Return in one or two sentences why no pooling of two-dimensional feature maps reaches a network's logits.

    Args:
        network: any classifier.
        example: an input (1, channels, H, W).
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return (
            "No pooling was found, because the network is a TorchScript program, whose operations cannot be followed. "
            "Give Inspector the network that was scripted or traced, with its weights."
        )
    seen = _Seen()
    with torch.no_grad():
        forward_logits(network, example, seen.handle)
    if seen.is_quantized:
        return (
            "No pooling was found, because the network computes in quantized integers (int8), which class maps do not "
            "support. Use the network before quantization, in float32."
        )
    if seen.axes == 3:
        return (
            "No spatial map reaches the logits: the network pools over three axes, such as time or depth besides "
            "height and width. Class maps need feature maps with two axes, of one image."
        )
    if seen.axes == 1:
        return (
            "No spatial map reaches the logits: the network pools a sequence, whose cells lie on one axis. Class maps "
            "need feature maps with two axes, of one image."
        )
    if seen.has_attention:
        return (
            "No pooling was found: attention takes the feature maps to the logits (a class token or attention "
            f"pooling), so no logit is a sum over cells. {_USE}"
        )
    return (
        "No pooling was found: no operation on the way to the logits reduces each channel of a feature map to one "
        f"value. {_USE}"
    )


class _Seen:
    """A handler that notes what a network does instead of pooling two-dimensional feature maps."""

    def __init__(self) -> None:
        self.is_quantized = False
        self.has_attention = False
        self.axes: int | None = None  # number of axes over which maps were last pooled, if not two

    def handle(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function, and note what it does."""
        result = function(*args, **kwargs)
        given = find_arguments(args, kwargs)
        self.is_quantized |= any(tensor.is_quantized for tensor in given)
        self.has_attention |= op_name(function) in _ATTENTION
        if isinstance(result, Tensor) and given and result.ndim > 1:
            source, channels = given[0].shape, result[:1].numel()
            one_per_channel = source[:2] == result.shape[:2] and channels == result.shape[1]
            if one_per_channel and len(source) in (3, 5) and source.numel() > result.numel():
                self.axes = len(source) - 2
        return result
