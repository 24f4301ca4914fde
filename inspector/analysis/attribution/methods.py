"""The table of attribution methods: the exact class map and others to compare it with.

Class activation maps are weighted sums of the feature maps before the pooling (`cams.py`). The other methods give a
value per pixel of the input (`pixels.py`). Some methods claim that their values sum to a target, which is verified for
every map:

    exact map, HiResCAM                          sum = logit - bias
    integrated gradients, DeepLIFT, SHAP         sum = logit - logit of the baseline
    LRP                                          sum = logit - contribution of the biases
"""

import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from inspector.analysis.attribution import cams, pixels
from inspector.analysis.attribution.case import Attribution, Case, Completeness, Method, OnProgress, ShouldStop
from inspector.errors import AttributionError, Cancelled, translate_errors
from inspector.explain.classifier import Classifier, check_classifier
from inspector.explain.receptive_field import PIXELS
from inspector.explain.tracing.forward import copy_sharing_parameters, eval_mode


def compute_attribution(
    classifier: Classifier,
    inputs: Tensor,
    k: str | int,
    name: str,
    on_progress: OnProgress = lambda done: None,
    should_stop: ShouldStop = lambda: False,
) -> Attribution:
    """Compute the attribution map of one method. Random steps have fixed seeds.

    Args:
        classifier: any classifier.
        inputs: normalized image (1, channels, H, W).
        k: name or index of the class.
        name: name of the method, a key of METHODS.
        on_progress: is called with the share of the work that is done, 0-1.
        should_stop: is called before each pass; true stops the method.

    Raises:
        AttributionError: there is no method of this name, or it does not apply to the network.
        Cancelled: `should_stop` returned true.
    """
    check_classifier(classifier)
    if name not in METHODS:
        raise AttributionError(f"No method {name!r}. Expected one of {', '.join(METHODS)}.")
    method, passed = METHODS[name], 0

    def count_images(images: int) -> None:
        nonlocal passed
        if should_stop():
            raise Cancelled(f"{name} was stopped.")
        passed += images
        on_progress(min(1.0, passed / method.images))

    start = time.perf_counter()
    # Leave inference mode, because its tensors cannot have gradients.
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(classifier.network):
        network = _copy_without_gradients(classifier.network)
        case = Case(classifier, network, inputs.clone(), classifier.class_index(k), count_images)
        with translate_errors(AttributionError, f"{name} does not apply to {classifier.name}: {{reason}}."):
            result = method.compute(case)
    values, completeness = result.values.detach(), None
    if result.target is not None and method.target is not None:
        completeness = Completeness(float(values.double().sum()), result.target, method.target)
    note = result.note if values.any() else "It is zero everywhere: nothing is left after its ReLU."
    field = classifier.receptive_field if method.grid == "cells" else PIXELS
    return Attribution(name, values, method.unit, time.perf_counter() - start, completeness, note, field, method.grid)


def _copy_without_gradients(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters share the original's values and require no gradients.

    If the network cannot be copied, return it unchanged.
    """
    copy = copy_sharing_parameters(network)
    for module in () if copy is None else copy.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.data, requires_grad=False)
    return network if copy is None else copy


LOGITS, SENSITIVITY, ARBITRARY = "logits", "logits per unit of input", "arbitrary unit"
BIAS, DIFFERENCE = "logit minus bias", "logit minus logit of the baseline"
# fmt: off
METHODS: Mapping[str, Method] = {
    "Exact map": Method(cams.compute_exact_map, "cells", LOGITS, BIAS, "Zhou et al., CVPR 2016", 1,
        "Contribution of every cell to the logit, by the weights of the head."),
    "Grad-CAM": Method(cams.compute_grad_cam, "cells", LOGITS, None, "Selvaraju et al., ICCV 2017", 1,
        "Feature maps weighted by their mean gradient, without negative values."),
    "Grad-CAM++": Method(cams.compute_grad_cam_plus_plus, "cells", ARBITRARY, None, "Chattopadhay et al., WACV 2018", 1,
        "Grad-CAM with larger weights for cells with positive gradients."),
    "HiResCAM": Method(cams.compute_hires_cam, "cells", LOGITS, BIAS, "Draelos and Carin, 2020", 2,
        "Feature maps times their gradient, cell by cell."),
    "LayerCAM": Method(cams.compute_layer_cam, "cells", LOGITS, None, "Jiang et al., TIP 2021", 1,
        "Feature maps times their positive gradients, cell by cell."),
    "Ablation-CAM": Method(cams.compute_ablation_cam, "cells", ARBITRARY, None, "Desai and Ramaswamy, WACV 2020", 1,
        "Feature maps weighted by the drop of the logit without each of them."),
    "Score-CAM": Method(cams.compute_score_cam, "cells", ARBITRARY, None, "Wang et al., CVPR Workshops 2020",
        cams.SCORED_CHANNELS,
        "Feature maps weighted by the probability of the class for the photo masked by each of them."),
    "Saliency": Method(pixels.compute_saliency, "pixels", SENSITIVITY, None, "Simonyan et al., 2013", 1,
        "Absolute gradient of the logit at each pixel."),
    "SmoothGrad": Method(pixels.compute_smooth_grad, "pixels", SENSITIVITY, None, "Smilkov et al., 2017", pixels.DRAWS,
        "Mean gradient over copies of the photo with noise."),
    "Input x gradient": Method(pixels.compute_input_x_gradient, "pixels", LOGITS, None, "Shrikumar et al., 2016", 1,
        "First-order estimate of the contribution of each pixel."),
    "Integrated gradients": Method(pixels.compute_integrated_gradients, "pixels", LOGITS, DIFFERENCE,
        "Sundararajan et al., ICML 2017", pixels.STEPS + 2,
        "Gradient along the path from an image of the mean color, times the path."),
    "Gradient SHAP": Method(pixels.compute_gradient_shap, "pixels", LOGITS, "logit minus mean logit of the baselines",
        "Lundberg and Lee, NeurIPS 2017", pixels.DRAWS + 4,
        "Integrated gradients from black, white and the mean color, at random points of the path."),
    "DeepLIFT": Method(pixels.compute_deep_lift, "pixels", LOGITS, DIFFERENCE, "Shrikumar et al., ICML 2017", 4,
        "Difference from an image of the mean color, propagated back layer by layer."),
    "LRP": Method(pixels.compute_lrp, "pixels", LOGITS, "logit", "Bach et al., PLoS ONE 2015", 3,
        "The logit, propagated back layer by layer in proportion to the inputs (epsilon rule)."),
    "Guided Grad-CAM": Method(pixels.compute_guided_grad_cam, "pixels", ARBITRARY, None,
        "Selvaraju et al., ICCV 2017", 3,
        "Gradients that pass ReLU layers only where positive, times Grad-CAM."),
    "Occlusion": Method(pixels.compute_occlusion, "pixels", LOGITS, None, "Zeiler and Fergus, ECCV 2014",
        (2 * pixels.WINDOWS) ** 2,
        "Drop of the logit where a window of the mean color covers the photo."),
}
# fmt: on
