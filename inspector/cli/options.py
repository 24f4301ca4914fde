"""The command line, and the options that several commands share. A command is a decorated function.

    from inspector.cli import options
    from inspector.cli.report import Report

    @options.command
    def explain(photo: Annotated[Path, typer.Argument()], *, network: options.NetworkOptions) -> Report: ...

A parameter whose type is a dataclass is a group of options: each field becomes an option of the command. A command that
returns a Report also has the options --json and --quiet.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_args

import typer
from typer import Option

from inspector.cli.console import progress
from inspector.cli.report import Report, run_command
from inspector.errors import InspectorError
from inspector.explain.kinds import OutputActivation, OutputChoice

if TYPE_CHECKING:
    from inspector.explain.class_names import ClassNames
    from inspector.explain.classifier import Classifier
    from inspector.images.preprocessing import PreprocessingOverrides

P = ParamSpec("P")
N = TypeVar("N", int, float)
R = TypeVar("R", Report, None)

_USUAL = "Default: as the network was trained."

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Exact class maps of classifiers that end in global pooling: how much each pixel contributes to each logit.",
    epilog="Exit status: 0 done; 1 an error, named in one sentence; 2 wrong command line; 3 a verdict is as bad as "
    "--fail-on says; 4 photos could not be read (one of several in `explain`, all in `batch` and `boxes`), the rest is "
    "written; 130 stopped by Ctrl-C.",
)

Model = Annotated[
    str,
    Option(
        "--model",
        "-m",
        help="Network: a name from `inspector models`, a folder (also of Hugging Face), `torchvision:resnet18`, "
        "`timm:resnet18`, or a file: a "
        "checkpoint (with --arch), .onnx, .keras, .h5, and with --trust .pt2 and TorchScript.",
    ),
]
Classes = Annotated[
    str,
    Option(
        "--classes",
        "-c",
        help="`topN` for the N classes with the highest logits, or names or numbers of classes, separated by commas.",
    ),
]
Finer = Annotated[
    int,
    Option(
        "--finer",
        help="How many times finer than the network's own grid: 2 or 4. The cells between those of the network are "
        "computed too; its own still sum to the logit.",
    ),
]
Backend = Annotated[
    str, Option(help="Runtime: `eager` (PyTorch), `auto`, `folded`, `compiled`, `onnxruntime`, `openvino`, `cuda`.")
]
Dtype = Annotated[
    str,
    Option(
        help="Precision of the backend: `float32`; `int8` (onnxruntime, openvino) or `bfloat16` (openvino), built and "
        "compared with photos of the data set."
    ),
]
Arch = Annotated[
    str | None,
    Option(
        help="Architecture of a checkpoint: `torchvision:NAME`, `timm:NAME`, one of Inspector's own, or with --trust "
        "`package.module:factory` of yours."
    ),
]
Labels = Annotated[
    Path | None,
    Option(
        help="File of class names: one per line, a CSV table, JSON (a list, {0: name}, {name: 0} or a config.json). Or "
        "`ImageNet-1k`, `CIFAR-10`, `CIFAR-100`, `Fashion-MNIST`, `MNIST`."
    ),
]
Size = Annotated[
    str | None,
    Option(
        help="Input size in pixels: `224`, `208x408` (height x width), or in `explain`, `boxes` and `localize` also "
        "`whole`, the whole photo with its shorter side as in the training, `whole:288` with a shorter side of 288 "
        "pixels, and `native`, the photo's own size. " + _USUAL
    ),
]
Mean = Annotated[
    str | None,
    Option(help=f"Mean of each channel, 0-1: `0.5,0.5,0.5`, or `0.5` for a grayscale network. {_USUAL}"),
]
Std = Annotated[str | None, Option(help="Standard deviation of each channel, in the form of --mean.")]
Output = Annotated[
    str | None,
    Option(
        help="Output that holds the logits, if the network returns several: an index, or a name such as `heads.age`."
    ),
]
Probability = Annotated[
    str | None,
    Option(
        help="What makes probabilities of the output: `softmax`, `sigmoid` (independent for each class), `identity` if "
        "it is probabilities already, or `none` for other values, as in regression. Default: what the network shows."
    ),
]
Unit = Annotated[str | None, Option(help="Unit of the values with --probability none, such as `years`.")]
Trust = Annotated[
    bool, Option("--trust", help="Run code in the file or of the architecture. Use it only for sources that you trust.")
]
Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        help="Replace an earlier result in --out once the new one is complete. Files of others are never replaced.",
    ),
]
FailOn = Annotated[
    str | None,
    Option(
        "--fail-on",
        metavar="VERDICT",
        help="Exit with status 3 if the class maps have this verdict or a worse one: `exact-for-this-image`, "
        "`not-unique` or `not-exact`.",
    ),
]
_AsJson = Annotated[bool, Option("--json", help="Print the result as JSON, and nothing else on standard output.")]
_Quiet = Annotated[bool, Option("--quiet", "-q", help="Print errors only.")]
Objects = Annotated[
    Path | None,
    Option(help="Objects on the photos: a CSV of boxes (file,x1,y1,x2,y2) in pixels, or a folder of masks."),
]


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Add a function to the command line as a command with the function's name. Return the function unchanged.

    Args:
        function: its parameters become the arguments and options of the command. If the type of a parameter is a
            dataclass, each field becomes an option. If it returns a Report, the command has --json and --quiet.
    """
    reports = signature(function).return_annotation in (Report, "Report")
    groups: dict[str, Any] = {}
    parameters: list[Parameter] = []
    for parameter in signature(function).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += signature(groups[parameter.name]).parameters.values()
        else:
            parameters.append(parameter)
    if reports:
        kind = Parameter.KEYWORD_ONLY
        parameters += [
            Parameter("as_json", kind, default=False, annotation=_AsJson),
            Parameter("quiet", kind, default=False, annotation=_Quiet),
        ]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
        as_json, quiet = values.pop("as_json", False), values.pop("quiet", False)
        run_command(lambda: function(**values), as_json, quiet)  # type: ignore[call-arg]

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    cli.command()(run)
    return function


@dataclass(frozen=True)
class NetworkOptions:
    """Options that complete the name of a network: architecture, class names, preprocessing, and trust."""

    arch: Arch = None
    labels: Labels = None
    size: Size = None
    mean: Mean = None
    std: Std = None
    resize: Annotated[
        str | None,
        Option(
            help="Size in pixels to which a photo is resized before it is cropped to --size: `256`, or `squeeze` to "
            "resize the whole photo to --size."
        ),
    ] = None
    interpolation: Annotated[str | None, Option(help="Interpolation of the resize: `bilinear` or `bicubic`.")] = None
    window: Annotated[
        str | None,
        Option(
            help="Values that become black and white in images of more than 8 bits: `0,4095`. Default: the range that "
            "the image uses."
        ),
    ] = None
    display: Annotated[
        str | None,
        Option(
            help="Channels that are shown as red, green and blue in images of more than three: `3,2,1`, counted from 0."
        ),
    ] = None
    output: Output = None
    device: Annotated[
        str | None,
        Option(help="Where the network runs: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for a GPU if there is one."),
    ] = None
    probability: Probability = None
    unit: Unit = None
    trust: Trust = False

    def load(self, model: str) -> "Classifier":
        """Load the network that --model names."""
        from inspector.explain.classifier import Classifier
        from inspector.networks.load import resolve

        loaded = resolve(model, self.arch, self.class_names(), self.overrides(), self.output_choice(), self.trust)
        for note in loaded.notes:
            progress.print(note)
        return Classifier.from_network(loaded, self.device)

    def output_choice(self) -> OutputChoice:
        """Return what the options say about the output of the network.

        Raises:
            InspectorError: --probability is no output activation.
        """
        if self.probability not in (None, *get_args(OutputActivation)):
            known = ", ".join(get_args(OutputActivation))
            raise InspectorError(f"--probability is {self.probability!r}. Use one of {known}.")
        return OutputChoice(self.output, self.probability, self.unit)  # type: ignore[arg-type]

    def class_names(self) -> "ClassNames | None":
        """Return the class names in the file --labels; None if the option was not given."""
        from inspector.networks.labels import read_labels

        return read_labels(self.labels) if self.labels else None

    def overrides(self) -> "PreprocessingOverrides":
        """Return the settings that replace settings of the default preprocessing; None where no option was given.

        Raises:
            InspectorError: an option cannot be parsed.
        """
        from inspector.images.preprocessing import PreprocessingOverrides

        if self.interpolation not in (None, "bilinear", "bicubic"):
            raise InspectorError(f"--interpolation is {self.interpolation!r}. Use bilinear or bicubic.")
        return PreprocessingOverrides(
            size=parse_size(self.size, "--size"),
            mean=_parse_numbers(self.mean, "--mean"),
            std=_parse_numbers(self.std, "--std"),
            resize=self.resize if self.resize == "squeeze" else parse_size(self.resize, "--resize"),
            interpolation=self.interpolation,  # type: ignore[arg-type]
            window=_parse_numbers(self.window, "--window", "two numbers such as 0,4095"),
            display=_parse_numbers(self.display, "--display", "three channel numbers such as 3,2,1", int),
        )


def parse_classes(classes: str, class_names: Sequence[str]) -> int | list[str]:
    """Parse --classes: "topN" gives the number N, any other text a list of class names or numbers.

    Args:
        classes: the text.
        class_names: names of all classes; commas in them separate no classes.
    """
    from inspector.explain.class_names import split_class_names

    top = re.fullmatch(r"top[ -]?(\d+)", classes.strip())
    return int(top[1]) if top else split_class_names(classes, class_names)


def parse_size(size: str | None, option: str) -> tuple[int, int] | None:
    """Parse (height, width) in pixels from text such as "224" or "208x408"; return None for None."""
    if size is None:
        return None
    sides = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if sides is None or not 0 < int(sides[1]) <= 8192 or not 0 < int(sides[2] or sides[1]) <= 8192:
        raise InspectorError(f"{option} is {size!r}. Use 224 or 208x408 (height x width, in pixels).")
    return int(sides[1]), int(sides[2] or sides[1])


def _parse_numbers(
    numbers: str | None,
    option: str,
    expected: str = "numbers such as 0.485,0.456,0.406",
    kind: Callable[[str], N] = float,  # type: ignore[assignment]
) -> tuple[N, ...] | None:
    try:
        return None if numbers is None else tuple(kind(number) for number in numbers.split(","))
    except ValueError:
        raise InspectorError(f"{option} is {numbers!r}. Use {expected}.") from None
