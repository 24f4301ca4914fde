"""Attribution methods with a value per pixel of the input.

Some of these methods claim a sum of their values:

    integrated gradients, DeepLIFT, SHAP         sum = logit - logit of the baseline
    LRP                                          sum = logit - contribution of the biases
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from captum.attr import LRP, DeepLift, GuidedBackprop, InputXGradient, IntegratedGradients, Occlusion, Saliency
from torch import Tensor
from torch.nn import functional

from inspector.analysis.attribution import captum_modules
from inspector.analysis.attribution.cams import compute_grad_cam
from inspector.analysis.attribution.case import CHUNK, Case, Completeness, MethodResult
from inspector.errors import AttributionError
from inspector.explain.tracing.forward import forward

STEPS = 50  # steps along the path of integrated gradients: Captum's default
DRAWS = 33  # random draws of SmoothGrad and Gradient SHAP; a multiple of 3, the number of SHAP's baselines
WINDOWS = 7  # occlusion windows along each side of the input; a window moves by half its size


def _run_captum(case: Case, attribute: Callable[[Tensor], Any]) -> Tensor:
    """Run a method of Captum, and return its values summed over the channels of the input, (H, W)."""
    leaf = case.inputs.clone().requires_grad_()
    # Captum warns about every hook that it sets.
    with warnings.catch_warnings(), captum_modules.extend_captum_tables():
        warnings.simplefilter("ignore", UserWarning)
        values: Tensor = attribute(leaf).detach().sum((0, 1))
    return values


def compute_saliency(case: Case) -> MethodResult:
    """Compute each pixel's largest absolute gradient over the channels (Simonyan et al., arXiv 1312.6034, 2013)."""
    leaf = case.inputs.clone().requires_grad_()
    return MethodResult(Saliency(case.compute_logits).attribute(leaf).detach()[0].amax(0))


def compute_smooth_grad(case: Case) -> MethodResult:
    """Compute saliency from the mean gradient of noisy copies of the image (Smilkov et al., arXiv 1706.03825, 2017).

    The standard deviation of the noise is 15 % of the range of the input (maximum minus minimum).
    """
    generator = torch.Generator().manual_seed(0)
    deviation = 0.15 * float(case.inputs.max() - case.inputs.min())
    total = torch.zeros_like(case.inputs)
    for draws in torch.arange(DRAWS).split(CHUNK):
        noise = torch.randn(len(draws), *case.inputs.shape[1:], generator=generator).to(case.inputs)
        total += case.compute_gradients(case.inputs + deviation * noise).sum(0, keepdim=True)
    return MethodResult((total / DRAWS)[0].abs().amax(0))


def compute_input_x_gradient(case: Case) -> MethodResult:
    """Compute input times gradient (Shrikumar et al., arXiv 1605.01713, 2016)."""
    return MethodResult(_run_captum(case, InputXGradient(case.compute_logits).attribute))


def compute_integrated_gradients(case: Case) -> MethodResult:
    """Compute integrated gradients, with the mean color as baseline (Sundararajan et al., ICML 2017)."""
    method: Any = IntegratedGradients(case.compute_logits)
    values = _run_captum(case, lambda leaf: method.attribute(leaf, n_steps=STEPS, internal_batch_size=CHUNK))
    return MethodResult(values, _compute_difference(case, torch.zeros_like(case.inputs)))


def compute_gradient_shap(case: Case) -> MethodResult:
    """Compute Gradient SHAP, the expectation of integrated gradients over baselines (Lundberg and Lee, NeurIPS 2017).

    Captum's version draws from the global random generators, which all threads share. This version uses its own.
    """
    generator = torch.Generator().manual_seed(0)
    baselines, total, turns = _make_uniform_baselines(case), torch.zeros_like(case.inputs), torch.arange(DRAWS)
    # Baselines take turns, and each part of the path gets one random point: independent draws would vary more.
    points = (turns + torch.rand(DRAWS, generator=generator)) / DRAWS
    for turn, fractions in zip(turns.split(CHUNK), points.to(case.inputs).split(CHUNK), strict=True):
        chosen = baselines[turn % len(baselines)]
        path = case.inputs - chosen
        gradients = case.compute_gradients(chosen + fractions[:, None, None, None] * path)
        total += (gradients * path).sum(0, keepdim=True)
    target = _compute_difference(case, baselines)
    return MethodResult((total / DRAWS).sum((0, 1)), target, f"An estimate from {DRAWS} draws.")


def _make_uniform_baselines(case: Case) -> Tensor:
    """Make three images of one color each, (3, channels, H, W): the mean color, black and white."""
    preprocessing = case.classifier.preprocessing
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocessing.mean, preprocessing.std))
    colors = torch.stack([torch.zeros_like(mean), -mean / std, (1 - mean) / std]).to(case.inputs)
    return colors[:, :, None, None].expand(-1, *case.inputs.shape[1:])


def _compute_difference(case: Case, baselines: Tensor) -> float:
    """Compute the logit of the image minus the mean logit of the baselines."""
    with torch.no_grad():
        logits = case.compute_logits(torch.cat([case.inputs, baselines]))
    return float(logits[0] - logits[1:].mean())


def compute_occlusion(case: Case) -> MethodResult:
    """Compute the drop of the logit if a window of the mean color covers the image (Zeiler and Fergus, ECCV 2014)."""
    channels, *size = case.inputs.shape[1:]
    height, width = (max(1, side // WINDOWS) for side in size)
    stride = (channels, max(1, height // 2), max(1, width // 2))
    method: Any = Occlusion(case.compute_logits)
    with torch.no_grad():
        values = method.attribute(case.inputs, (channels, height, width), stride, perturbations_per_eval=CHUNK)
    # All channels of a pixel have the same value, so take the first channel.
    return MethodResult(values[0, 0], note=f"Windows of {height} x {width} pixels.")


def compute_deep_lift(case: Case) -> MethodResult:
    """Compute DeepLIFT (rescale rule), with an image of the mean color as baseline (Shrikumar et al., ICML 2017)."""
    method: Any = DeepLift(_make_modular(case, captum_modules.choose_nonlinearity))
    values = _run_captum(case, lambda leaf: method.attribute(leaf, torch.zeros_like(leaf), target=case.k))
    target = _compute_difference(case, torch.zeros_like(case.inputs))
    complete = Completeness(float(values.double().sum()), target, "").holds
    note = "" if complete else "It has no rule for products and normalization (gates, attention, LayerNorm)."
    return MethodResult(values, target, note)


def compute_guided_grad_cam(case: Case) -> MethodResult:
    """Compute guided backpropagation times Grad-CAM (Selvaraju et al., ICCV 2017)."""
    modular = _make_modular(case, captum_modules.choose_relu)
    if not modular.calls:
        raise AttributionError("Guided Grad-CAM changes the gradient of ReLU layers, and this network has none.")
    method: Any = GuidedBackprop(modular)
    guided = _run_captum(case, lambda leaf: method.attribute(leaf, target=case.k))
    coarse = compute_grad_cam(case).values[None, None]
    return MethodResult(guided * functional.interpolate(coarse, guided.shape, mode="bilinear")[0, 0])


def compute_lrp(case: Case) -> MethodResult:
    """Compute layer-wise relevance propagation with the epsilon rule (Bach et al., PLoS ONE 2015)."""
    method: Any = LRP(_make_modular(case, captum_modules.choose_affine_or_relu))
    values = _run_captum(case, lambda leaf: method.attribute(leaf, target=case.k))
    with torch.no_grad():
        target = float(case.compute_logits(case.inputs))
    note = (
        "The difference is the contribution of the biases. If ReLU and max pooling are the only nonlinear layers, this "
        "is input x gradient (Ancona et al., ICLR 2018)."
    )
    return MethodResult(values, target, note)


def _make_modular(case: Case, choose_module: captum_modules.ChooseModule) -> captum_modules.ModularNetwork:
    modular = captum_modules.ModularNetwork(case.network, choose_module)
    case.count_images(2)
    logits = modular(case.inputs.clone().requires_grad_())
    if not torch.allclose(logits, forward(case.network, case.inputs), rtol=1e-3, atol=1e-3):
        raise AttributionError("Captum's hooks change the logits of this network, so the method cannot be used.")
    return modular
