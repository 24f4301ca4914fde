"""Check class maps of networks of other libraries against numbers that Inspector does not compute.

Each network has random weights; biases, norms and layer scales are randomized too, so that nothing is zero by chance.
Three checks use the plain network only:

    sum        map + bias of every class is the logit of the network's own pass
    position   one position of the feature maps before pooling is set to zero in a pass: the logits change by minus
                the class maps there (by the recomputed maximum for max pooling)
    place      noise in one corner of the image changes the class maps (the feature maps, where the weights of the head
               depend on the image) most in this corner, for all four corners and three seeds; wrong if some corner
               answers less than the average corner does to noise in its own place, with every seed; "no answer"
               otherwise: with random weights, many networks answer to any change everywhere

    pip install -e '.[bench,keras,timm,transformers]'
    python benchmarks/foreign_networks.py                      # all libraries; writes docs/foreign_networks.md
    python benchmarks/foreign_networks.py timm --limit 20      # prints only
"""

import importlib
import json
import multiprocessing
import os
import re
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from report import format_table, write_results
from rich.progress import track
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

import inspector
from inspector.explain.pooling import POOL

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
LIBRARIES = ("torchvision", "timm", "pytorchcv", "transformers", "keras")
SIZES = ((224, 224), (160, 224), (256, 192), (192, 256))  # tried from another start for each network
TOLERANCE = 1e-4  # of the sum of the absolute values of all summands
LEAST_PREFERENCE = 0.97  # of a corner of the map for noise in its own corner of the image; 1 is none
TASKS_PER_PROCESS = 25  # then a new process, as some libraries keep what they built

Check = Literal["right", "wrong", "no answer", ""]  # "": does not apply


@dataclass(frozen=True)
class Row:
    """What was found for one network."""

    library: str
    network: str
    size: str = ""
    pooling: str = ""
    grid: str = ""
    verdict: str = "refused"
    sum: Check = ""
    position: Check = ""
    place: Check = ""
    remark: str = ""

    @property
    def wrong(self) -> bool:
        """Whether something that was claimed is not so."""
        claimed = self.verdict in ("exact", "exact for this image")
        return (claimed and self.sum == "wrong") or "wrong" in (self.position, self.place) or self.verdict == "crashed"


def main(
    libraries: Annotated[list[str] | None, typer.Argument()] = None,
    limit: int = 0,
    rows: Path | None = None,
    jobs: int = 2,
) -> None:
    """Check the networks of some libraries; all of them, and no limit, write the table in docs/.

    Args:
        libraries: names of libraries. Default: all.
        limit: check only so many networks of each.
        rows: keep the rows in this file, and go on there after an interruption.
        jobs: number of processes.
    """
    chosen = libraries or list(LIBRARIES)
    path = rows or Path(tempfile.mkstemp(suffix=".jsonl")[1])
    done = [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
    names = [(library, name) for library in chosen for name in list_networks(library)[: limit or None]]
    left = [one for one in names if one not in {(row.library, row.network) for row in done}]
    os.environ |= {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, maxtasksperchild=TASKS_PER_PROCESS) as pool, path.open("a") as file:
        for row in track(pool.imap_unordered(check_named, left), total=len(left)):
            done.append(row)
            file.write(json.dumps(asdict(row)) + "\n")
            file.flush()
            if row.wrong:
                print(row)
    done.sort(key=lambda row: (LIBRARIES.index(row.library), names.index((row.library, row.network))))
    parts = _summarize(done), *(_format_library(library, done) for library in chosen)
    if libraries or limit:
        print(*parts, sep="\n\n")
    else:
        write_results(
            "foreign_networks",
            "python benchmarks/foreign_networks.py",
            *parts,
            folder=DOCS,
            title="Networks of five libraries\n\nAt the end of this page you know which networks of five libraries "
            "have class maps, which of these are exact, and why the others are not.",
        )


def _summarize(rows: Sequence[Row]) -> str:
    verdicts = Counter(row.verdict for row in rows)
    checks = [
        f"{sum(getattr(row, check) == 'right' for row in rows)} of {check}" for check in ("sum", "position", "place")
    ]
    return (
        f"{len(rows)} networks: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()) + ". "
        f"Checks that were right: {', '.join(checks)}. **{sum(row.wrong for row in rows)} wrong.**"
    )


def _format_library(library: str, rows: Sequence[Row]) -> str:
    header = ("network", "input", "pooling", "grid", "verdict", "sum", "position", "place", "remark")
    cells = [tuple(asdict(row).values())[1:] for row in rows if row.library == library]
    return f"## {library}\n\n" + format_table(header, cells)


# Lists of networks, and how each is built.


def list_networks(library: str) -> list[str]:
    """Return the names of a library's networks that are checked."""
    if library == "torchvision":
        from torchvision import models

        large = ("vit_h", "vit_l", "regnet_y_128gf", "regnet_y_32gf", "convnext_large", "efficientnet_v2_l", "b6", "b7")
        return [name for name in models.list_models(module=models) if not any(one in name for one in large)]
    if library == "transformers":
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as names

        # Language models, a wrapper around timm, what takes no images, and what needs a GPU.
        skipped = ("shieldgemma2", "imagegpt", "timm_wrapper", "perceiver", "siglip2", "dinat")
        classes = [
            (name, one if isinstance(one, tuple) else (one,)) for name, one in names.items() if name not in skipped
        ]
        return [f"{name}/{one}" for name, several in classes for one in several]
    if library == "keras":
        return _list_keras()
    return (HERE / f"{library}_networks.txt").read_text().split()


def _list_keras() -> list[str]:
    os.environ["KERAS_BACKEND"] = "torch"
    from keras import applications

    large = ("Large", "XLarge", "Base", "V2L", "V2M", "B5", "B6", "B7", "152", "201")
    broken = "NASNetMobile"  # Keras refuses to build it on torch
    names = [name for name in dir(applications) if name[0].isupper() and not name.endswith((*large, broken))]
    return [f"{name}/{head}" for name in names for head in ("its own head", "GlobalMaxPooling2D", "Flatten")]


def build(library: str, name: str, size: tuple[int, int]) -> nn.Module:
    """Build a network for an input size where its size is fixed by its weights; else for any size."""
    if library == "torchvision":
        from torchvision import models

        # The weight initialization of these two takes minutes.
        slow = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
        return models.get_model(name, weights=None, **slow.get(name, {}))
    if library == "timm":
        return importlib.import_module("timm").create_model(name)
    if library == "pytorchcv":
        return importlib.import_module("pytorchcv.model_provider").get_model(name, pretrained=False)
    return _build_keras(name, size) if library == "keras" else _build_transformers(name)


def _build_keras(name: str, size: tuple[int, int]) -> nn.Module:
    from keras import Model, applications, layers

    from inspector.networks.keras_model import wrap_keras

    name, head = name.split("/")
    make = getattr(applications, name)
    if head == "its own head":
        return wrap_keras(make(weights=None, classes=10))
    body = make(weights=None, include_top=False, input_shape=(*size, 3))
    pooled = getattr(layers, head)()(body.output)
    return wrap_keras(Model(body.input, layers.Dense(10)(pooled)))


def _build_transformers(name: str) -> nn.Module:
    import transformers

    name, class_name = name.split("/")
    config = transformers.AutoConfig.for_model(name)
    vision = getattr(config, "vision_config", config)
    for field in ("num_hidden_layers", "num_encoder_blocks"):
        if isinstance(getattr(vision, field, None), int) and not hasattr(vision, "depths"):
            setattr(vision, field, min(2, getattr(vision, field)))
            break
    network: nn.Module = getattr(transformers, class_name)(config)
    return network


def randomize(network: nn.Module, image: Tensor, seed: int = 0) -> None:
    """Move biases, norms and layer scales away from their start, and layers away from zero.

    Batch normalization gets the statistics of an image, moved likewise. Otherwise the values of a deep network with
    random weights fall below rounding, and so would the response to any pixel.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.is_floating_point() and (tensor.ndim <= 1 or not tensor.any()):
                tensor.add_(0.1 * noise(tensor))
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        try:
            network(torch.cat([image, image.flip(3)]))
        finally:
            for norm in norms:
                norm.eval()
        for name, tensor in network.named_buffers():
            if name.endswith("running_mean"):
                tensor.add_(0.1 * noise(tensor))
            elif name.endswith("running_var"):
                tensor.mul_((0.3 * noise(tensor)).exp())
            elif tensor.dtype == torch.int64 and tensor.ndim == 1 and not tensor.any():
                # Channels that training chooses (CondenseNet): before it, all are the first, and their weights cancel.
                tensor.copy_(torch.randperm(len(tensor), generator=generator))


# The checks.


def check_named(named: tuple[str, str]) -> Row:
    """Build a network, and check it at the first size on which it runs."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    library, name = named
    try:
        return _check_at_some_size(library, name)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        remark = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return Row(library, name, verdict="crashed", remark=_one_line(remark))


def _check_at_some_size(library: str, name: str) -> Row:
    start = sum(map(ord, name)) % len(SIZES)
    sizes = [*SIZES[start:], *SIZES[:start]]
    torch.manual_seed(0)
    network = build(library, name, sizes[0]).eval()
    first, last = _own_sizes(network)
    sizes = [*first, *sizes, *last]
    for size in sizes:
        image = _make_image(network, size)
        try:
            randomize(network, image)
        except Exception:  # the library's own pass does not run at this size, and may leave the network changed
            torch.manual_seed(0)
            network = build(library, name, sizes[0]).eval()
            continue
        return check_network(library, name, network, image)
    return Row(library, name, remark="The network runs at none of the sizes tried.", verdict="not run")


def _own_sizes(network: nn.Module) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the size that the network names as its only one, and the size that it names as its usual one."""
    settings = getattr(network, "pretrained_cfg", None) or {}  # timm
    usual = [tuple(settings["input_size"][1:])] if "input_size" in settings else []
    if settings.get("fixed_input_size"):
        return usual, []
    config = getattr(network, "config", None)  # transformers
    named = getattr(getattr(config, "vision_config", config), "image_size", None)
    own = getattr(network, "in_size", None) or getattr(network, "size", None) or named  # pytorchcv, Keras
    own = (own, own) if isinstance(own, int) else own
    return ([tuple(own)] if own and tuple(own) != (224, 224) else []), usual


def _make_image(network: nn.Module, size: tuple[int, int]) -> Tensor:
    channels = next((p.shape[1] for p in network.parameters() if p.ndim == 4), 3)
    channels = 1 if channels == 1 and getattr(network, "in_channels", 3) == 1 else 3
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(1, channels, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size, mode="bilinear")
    return smooth + 0.5 * torch.randn(1, channels, *size, generator=generator)


def plain_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Return the output (K,) of the network's own pass: the first of several, the logits of a mapping."""
    output: Any = network(image)
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values())))
    output = output[0] if isinstance(output, tuple | list) else output
    return output.flatten(1)[0].double()


def check_network(library: str, name: str, network: nn.Module, image: Tensor) -> Row:
    """Compare the class maps of one network with what its own passes give."""
    row = partial(Row, library, name, "x".join(map(str, image.shape[2:])))
    channels = image.shape[1]
    try:
        classifier = inspector.Classifier.wrap(
            network, size=image.shape[2:], mean=[0.0] * channels, std=[1.0] * channels
        )
        (maps,) = inspector.class_maps_of_batch(classifier, image)
    except inspector.InspectorError as error:
        return row(remark=_one_line(str(error)))
    with torch.no_grad():
        activation = _find_activation(plain_logits(network, image), maps)
        testable = maps.verdict == "exact" and activation is not None
        position = _check_position(network, image, classifier, maps, activation) if testable else ""
        misplaced = classifier.receptive_field.misplaced
        place = "" if misplaced else _check_place(classifier, image, maps)
    return row(
        pooling=classifier.head.pooling,
        grid=" x ".join(map(str, maps.values.shape[1:])),
        verdict=maps.verdict,
        sum=_judge(activation is not None),
        position=position,
        place=place,
        remark=f"Place unknown: {_one_line(misplaced)}" if misplaced else "",
    )


def _judge(right: bool) -> Check:
    return "right" if right else "wrong"


# How a network may turn its logits into its output, each with its inverse up to a constant.
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda logits: logits, lambda output: output),
    "softmax": (lambda logits: logits.softmax(0), lambda output: output.log() - output.log().mean()),
    "log_softmax": (lambda logits: logits.log_softmax(0), lambda output: output - output.mean()),
    "sigmoid": (lambda logits: logits.sigmoid(), lambda output: output.logit()),
}


def _find_activation(output: Tensor, maps: inspector.ClassMaps) -> str | None:
    """Return the activation with which map + bias of every class gives the network's output; None if none does."""
    sums = maps.values.double().sum((1, 2)) + maps.bias.double()
    total = maps.values.double().abs().sum((1, 2)) + maps.bias.double().abs() + 1
    fits = {
        name: ((activate(sums) - output).abs() / total).max() <= TOLERANCE
        for name, (activate, _) in _ACTIVATIONS.items()
    }
    return next((name for name, fit in fits.items() if fit), None)


class _ReplaceFeatureMaps(TorchFunctionMode):
    """Hand every function other feature maps wherever an argument equals the given ones, in any layout."""

    def __init__(self, feature_maps: Tensor, replacement: Tensor) -> None:
        super().__init__()
        self.pairs = [(layout(feature_maps), layout(replacement)) for layout in _LAYOUTS]
        self.replaced = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "size", "dim", "equal", "shape"):
            return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map(self._replace, (tuple(args), kwargs or {}))
        return func(*args, **kwargs)

    def _replace(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != self.pairs[0][0].dtype or isinstance(value, nn.Parameter):
            return value
        for old, new in self.pairs:
            if value.shape == old.shape and torch.equal(value, old):
                self.replaced = True
                return new.clone()
        return value


# (N, C, h, w) as it may stand in a network.
_LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda maps: maps,
    lambda maps: maps.permute(0, 2, 3, 1),
    lambda maps: maps.flatten(2),
    lambda maps: maps.flatten(2).transpose(1, 2),
    lambda maps: maps.flatten(1),
)


def _check_position(
    network: nn.Module, image: Tensor, classifier: Any, maps: inspector.ClassMaps, activation: str
) -> Check:
    """Set one position of the feature maps of each branch to zero; "" where that cannot be done or read."""
    invert, centered = _ACTIVATIONS[activation][1], activation in ("softmax", "log_softmax")
    before, results = invert(plain_logits(network, image)), []
    if not before.isfinite().all():
        return ""  # probabilities of 0 and 1 have no finite logits
    weights = maps.decomposition.weight(range(len(before))).double().split(classifier.head.widths, 1)
    for branch, weight in zip(maps.decomposition.branches, weights, strict=True):
        feature_maps = branch.feature_maps
        energy = feature_maps.abs().sum(0)
        for y, x in {divmod(int(energy.argmax()), energy.shape[1]), (0, energy.shape[1] - 1)}:
            changed = feature_maps.clone()
            changed[:, y, x] = 0
            mode = _ReplaceFeatureMaps(feature_maps[None], changed[None])
            with mode:
                after = invert(plain_logits(network, image))
            if not mode.replaced:
                return ""
            if branch.pooling == "average" and len(weights) == 1:
                expected = -maps.values[:, y, x].double()
            elif branch.pooling in POOL:
                pool = POOL[branch.pooling]
                expected = weight @ (pool(changed[None].double()) - pool(feature_maps[None].double()))[0]
            else:
                expected = -(branch.shares()[:, y, x].double() * weight).sum(1)
            expected = expected - expected.mean() if centered else expected
            allowed = 1e-3 * expected.abs().max() + 1e-5 * (before.abs().max() + 1)
            results.append(bool(((after - before - expected).abs() <= allowed).all()))
    return _judge(all(results))


def _check_place(classifier: Any, image: Tensor, maps: inspector.ClassMaps) -> Check:
    """Put noise into each corner of the image: the map must change most, against its usual change, in this corner."""
    height, width = maps.values.shape[1:]
    if min(height, width) < 3:
        return ""
    # Where the weights depend on the image, a change anywhere changes the map of every cell: compare the feature maps.
    branches = maps.decomposition.branches
    if maps.verdict != "exact" and len(branches) > 1:
        return ""
    read = (
        (lambda one: one.values)
        if maps.verdict == "exact"
        else (lambda one: one.decomposition.branches[0].feature_maps)
    )
    rows, columns = image.shape[2] // 4, image.shape[3] // 4
    half = {"top": slice(0, height // 2), "bottom": slice(-(height // 2), None)}
    side = {"left": slice(0, width // 2), "right": slice(-(width // 2), None)}
    corners = [(y, x) for y in half for x in side]
    tables = []  # for each seed, how much each corner of the map changes (columns) by noise in each corner of the image
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        responses = []
        for y, x in corners:
            disturbed = image.clone()
            where = slice(rows) if y == "top" else slice(-rows, None)
            patch = disturbed[:, :, where, slice(columns) if x == "left" else slice(-columns, None)]
            patch += 2 * torch.randn(patch.shape, generator=generator)
            (after,) = inspector.class_maps_of_batch(classifier, disturbed)
            change = (read(after) - read(maps)).abs().sum(0)
            responses.append(torch.stack([change[half[p], side[q]].mean() for p, q in corners]))
        tables.append(torch.stack(responses))
    expected = torch.arange(4)
    if torch.stack([(table / table.mean(0)).argmax(1) == expected for table in tables]).float().mean() > 0.9:
        return "right"
    # Networks with random weights answer to some changes, and in some corners, more than to others, and often alike
    # everywhere. So compare how much a corner prefers its own change to those of the other corners.
    logs = torch.stack(tables).log()
    preference = logs - logs.mean(1, keepdim=True) - logs.mean(2, keepdim=True) + logs.mean((1, 2), keepdim=True)
    answers_less = preference.exp().diagonal(dim1=1, dim2=2) < LEAST_PREFERENCE  # (seeds, corners)
    return "wrong" if bool(answers_less.all(0).any()) else "no answer"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "/")[:300]


if __name__ == "__main__":
    typer.run(main)
