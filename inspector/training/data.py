"""The data sets of experiments/ and photos of one's own, whole in memory: no loader keeps a network waiting."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST, ImageFolder

from inspector.errors import ImageError, TrainingError, summarize_reason
from inspector.images.photo import Pixels, read_image
from inspector.images.preprocessing import Preprocessing, make_view
from inspector.training.recipe import Data

MAX_MEMORY = 8e9  # bytes
_ONE_OF = 8  # photos are test photos
_SHOWN = 10  # names in a sentence


@dataclass(frozen=True)
class Images:
    """Images in memory, or feature maps of theirs, and what they show."""

    pixels: Tensor  # (N, channels, H, W): 0-1 as the network takes it, or uint8 photos
    labels: Tensor  # (N,)
    mean: Tensor | None = None  # (3, 1, 1), of photos
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, which: Tensor | slice) -> Tensor:
        """What the network takes of these images."""
        chosen = self.pixels[which]
        return chosen if self.mean is None or self.std is None else (chosen / 255 - self.mean) / self.std


@dataclass(frozen=True)
class DataSet:
    """Training and test images, and what a model.json tells of them."""

    training: Images
    test: Images
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    examples: str
    source: str
    folder: Path | None = None  # of photos
    files: tuple[str, ...] = ()  # of the test photos, below the folder
    skipped: tuple[str, ...] = ()  # files that are no photos, a sentence each
    digest: str = ""  # of the names of all photos

    def balance(self) -> str:
        """How many there are of each class, in a sentence."""
        counts = torch.bincount(self.training.labels.cpu(), minlength=len(self.classes))
        tests = torch.bincount(self.test.labels.cpu(), minlength=len(self.classes))
        told = f"{len(self.classes)} classes, {len(self.training):,} training and {len(self.test):,} test images"
        least, most = int(counts.argmin()), int(counts.argmax())
        if counts[least] == counts[most] and tests.min() == tests.max():
            return f"{told}: {counts[0]:,} and {tests[0]:,} of each class."
        always = float(tests[most] / tests.sum())
        return (
            f"{told}: from {counts[least]:,} ({self.classes[least]}) to {counts[most]:,} ({self.classes[most]}) "
            f"training images a class. To answer {self.classes[most]} each time would have top-1 {always:.3f}."
        )


@dataclass(frozen=True)
class _Known:
    """A data set of torchvision."""

    title: str
    torchvision: type[MNIST]
    classes: tuple[str, ...]
    examples: str
    source: str


_KNOWN: dict[Data, _Known] = {
    "fashion_mnist": _Known(
        "Fashion-MNIST",
        FashionMNIST,
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        "fashion_mnist",
        "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 60,000 training images.",
    ),
    "mnist": _Known(
        "MNIST", MNIST, tuple("0123456789"), "none", "MNIST (LeCun, Cortes, Burges), 60,000 training images."
    ),
}


def read_known(name: Data, folder: Path, device: torch.device) -> DataSet:
    """A data set in torchvision's folder; fetched when it is not there."""
    known = _KNOWN[name]
    training, test = (_read_part(known, folder, training, device) for training in (True, False))
    plain = Preprocessing((28, 28), (0.0,), (1.0,), (28, 28))
    return DataSet(training, test, known.classes, plain, known.examples, known.source)


def _read_part(known: _Known, folder: Path, training: bool, device: torch.device) -> Images:
    raw = folder / known.torchvision.__name__ / "raw"
    try:
        read = known.torchvision(folder, train=training, download=True)
        pixels = read.data[:, None].to(device) / 255
    # torchvision tells broken files by assertions too.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise TrainingError(
            f"No {known.title} in {raw}, nor could it be fetched ({str(error) or 'the files are broken'}); "
            "a network connection or its four unzipped idx files there would do."
        ) from error
    return Images(pixels.to(memory_format=torch.channels_last), read.targets.to(device))


def read_photos(folder: Path, preprocessing: Preprocessing, device: torch.device) -> DataSet:
    """The photos of a folder of class folders, at the input size; every eighth of a class, drawn by chance, is a test.

    Files that cannot be read as images are skipped and listed. The split is the same each time, whatever the seed of a
    run. TrainingError for a folder without two classes, or a class without two photos.
    """
    classes, samples = _list_photos(folder)
    height, width = preprocessing.size
    if (needed := len(samples) * 3 * height * width) > MAX_MEMORY:
        raise TrainingError(
            f"The {len(samples):,} photos in {folder} take {needed / 1e9:.0f} GB at {height}x{width}, and at most "
            f"{MAX_MEMORY / 1e9:.0f} GB are kept in memory: a smaller input size or fewer photos would do."
        )

    def read(path: str) -> Pixels | ImageError:
        try:
            # Through the inspector's own door, so that it is trained on what its maps are later drawn for.
            return make_view(read_image(path), preprocessing).pixels
        except ImageError as error:
            return error

    def below(path: str) -> str:
        return Path(path).relative_to(folder).as_posix()

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
        read_ones = list(pool.map(read, (path for path, _ in samples)))
    skipped = [
        f"{below(path)}: {one}"
        for (path, _), one in zip(samples, read_ones, strict=True)
        if isinstance(one, ImageError)
    ]
    kept = [
        (below(path), torch.from_numpy(one.copy()), label)  # torch wants to write
        for (path, label), one in zip(samples, read_ones, strict=True)
        if not isinstance(one, ImageError)
    ]
    tests = _draw_tests([label for _, _, label in kept], classes, folder)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def part(test: bool) -> Images:
        chosen = [one for number, one in enumerate(kept) if (number in tests) == test]
        pixels = torch.stack([pixels for _, pixels, _ in chosen]).permute(0, 3, 1, 2)  # channels last, as they lie
        return Images(pixels.to(device), torch.tensor([label for *_, label in chosen], device=device), mean, std)

    files = tuple(file for number, (file, *_) in enumerate(kept) if number in tests)
    digest = hashlib.sha256("\n".join(file for file, *_ in kept).encode()).hexdigest()[:16]
    source = f"{len(kept) - len(tests):,} photos of {folder.resolve().name}."
    return DataSet(
        part(False), part(True), classes, preprocessing, "photos", source, folder, files, tuple(skipped), digest
    )


def _list_photos(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    if not folder.is_dir():
        raise TrainingError(f"There is no folder {folder}; one with a folder of photos for each class would do.")

    def is_shown(path: str) -> bool:
        return not any(part.startswith(".") for part in Path(path).relative_to(folder).parts)

    try:
        # Hidden files and folders (.DS_Store) are nobody's photos; what else is none is told when it is read.
        listed = ImageFolder(str(folder), is_valid_file=is_shown, allow_empty=True)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder} holds no class folders ({summarize_reason(error)}).") from error
    classes = tuple(name for name in listed.classes if not name.startswith("."))
    number = {listed.class_to_idx[name]: k for k, name in enumerate(classes)}
    if len(classes) < 2:
        found = f"one class folder only, {classes[0]}" if classes else "no class folders"
        raise TrainingError(f"{folder} holds {found}; a folder of photos for each of two classes or more would do.")
    return classes, [(path, number[label]) for path, label in listed.samples]


def _draw_tests(labels: list[int], classes: tuple[str, ...], folder: Path) -> set[int]:
    """Which photos test, by number."""
    drawn: set[int] = set()
    generator = torch.Generator().manual_seed(0)
    of_class = [[number for number, label in enumerate(labels) if label == k] for k in range(len(classes))]
    if few := [name for name, numbers in zip(classes, of_class, strict=True) if len(numbers) < 2]:
        more = ", ..." if len(few) > _SHOWN else ""
        raise TrainingError(
            f"Too few photos that can be read in {folder} of {', '.join(few[:_SHOWN])}{more}: a class needs one to "
            "train on and one to test. Remove the folder, or add photos."
        )
    for numbers in of_class:
        order = torch.randperm(len(numbers), generator=generator).tolist()
        drawn.update(numbers[i] for i in order[: max(1, round(len(numbers) / _ONE_OF))])
    return drawn
