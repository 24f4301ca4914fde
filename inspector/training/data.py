"""Read data sets for training into memory: Fashion-MNIST, MNIST, or a folder with one folder of photos per class."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import MNIST, FashionMNIST, ImageFolder

from inspector.errors import ImageError, TrainingError, summarize_reason
from inspector.images.photo import read_image
from inspector.images.preprocessing import Preprocessing, make_view
from inspector.training.recipe import Data

MAX_MEMORY = 8e9  # bytes that photos or feature maps may take in memory
_TEST_SHARE = 1 / 8  # share of the photos of each class that become test photos
_SHOWN_NAMES = 10  # largest number of class names in an error message


@dataclass(frozen=True)
class Images:
    """Images in memory, or the feature maps of images, with the labels."""

    pixels: Tensor  # (N, channels, H, W): uint8 photos, or floats that are the network input already
    labels: Tensor  # (N,), class numbers
    mean: Tensor | None = None  # (3, 1, 1), to normalize photos; None: `pixels` need no change
    std: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, indices: Tensor | slice) -> Tensor:
        """Return the network input of some images, (n, channels, H, W)."""
        chosen = self.pixels[indices]
        return chosen if self.mean is None or self.std is None else (chosen / 255 - self.mean) / self.std


@dataclass(frozen=True)
class DataSet:
    """Training and test images, with the facts about them that model.json records."""

    training: Images
    test: Images
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    examples: str
    source: str
    folder: Path | None = None  # folder of the photos; None if the data set is not a photo folder
    files: tuple[str, ...] = ()  # paths of the test photos, relative to the folder
    skipped: tuple[str, ...] = ()  # per file that cannot be read: its path and the reason
    digest: str = ""  # hash of the names of all photos

    def describe_balance(self) -> str:
        """Describe in one or two sentences how many images each class has."""
        counts, tests = (part.labels.cpu().bincount(minlength=len(self.classes)) for part in (self.training, self.test))
        text = f"{len(self.classes)} classes, {len(self.training):,} training and {len(self.test):,} test images"
        least, most = int(counts.argmin()), int(counts.argmax())
        if counts[least] == counts[most] and tests.min() == tests.max():
            return f"{text}: {counts[0]:,} and {tests[0]:,} of each class."
        always = float(tests[most] / tests.sum())
        return (
            f"{text}: from {counts[least]:,} ({self.classes[least]}) to {counts[most]:,} ({self.classes[most]}) "
            f"training images per class. Always predicting {self.classes[most]} gives top-1 {always:.3f}."
        )


@dataclass(frozen=True)
class _TorchvisionDataSet:
    """A data set that torchvision can read."""

    title: str
    authors: str  # names, and the year if known
    torchvision: type[MNIST]
    classes: tuple[str, ...]
    examples: str


_DATA_SETS: dict[Data, _TorchvisionDataSet] = {
    "fashion_mnist": _TorchvisionDataSet(
        "Fashion-MNIST", "Xiao, Rasul, Vollgraf 2017", FashionMNIST, tuple(FashionMNIST.classes), "fashion_mnist"
    ),
    "mnist": _TorchvisionDataSet("MNIST", "LeCun, Cortes, Burges", MNIST, tuple("0123456789"), "none"),
}


def read_torchvision_data(name: Data, folder: Path, device: torch.device) -> DataSet:
    """Read a data set in torchvision's layout from a folder. If its files are missing, download them first.

    Raises:
        TrainingError: the files are missing and cannot be downloaded, or are broken.
    """
    known = _DATA_SETS[name]
    training, test = (_read_part(known, folder, training, device) for training in (True, False))
    plain = Preprocessing((28, 28), (0.0,), (1.0,), (28, 28))
    source = f"{known.title} ({known.authors}), 60,000 training images."
    return DataSet(training, test, known.classes, plain, known.examples, source)


def _read_part(known: _TorchvisionDataSet, folder: Path, training: bool, device: torch.device) -> Images:
    raw = folder / known.torchvision.__name__ / "raw"
    try:
        read = known.torchvision(folder, train=training, download=True)
        pixels = read.data[:, None].to(device) / 255
    # torchvision raises AssertionError for some broken files.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        raise TrainingError(
            f"No {known.title} in {raw}, and it could not be downloaded ({str(error) or 'the files are broken'}). "
            "Use a network connection, or put its four unzipped idx files there."
        ) from error
    return Images(pixels.to(memory_format=torch.channels_last), read.targets.to(device))


def read_photos(folder: Path, preprocessing: Preprocessing, device: torch.device) -> DataSet:
    """Read photos from a folder with one folder per class, and crop and resize them to the network's input size.

    A random eighth of each class becomes the test set. This split depends on the files only, not on the seed of a run.
    Files that cannot be read as images are skipped and listed.

    Raises:
        TrainingError: there are fewer than two classes, a class has fewer than two photos, or the photos do not fit in
            memory.
    """
    classes, samples = _list_photos(folder)
    height, width = preprocessing.size
    if (needed := len(samples) * 3 * height * width) > MAX_MEMORY:
        raise TrainingError(
            f"The {len(samples):,} photos in {folder} take {needed / 1e9:.0f} GB at {height}x{width}, but at most "
            f"{MAX_MEMORY / 1e9:.0f} GB are kept in memory. Use a smaller input size or fewer photos."
        )

    def read(sample: tuple[str, int]) -> tuple[str, Tensor | ImageError, int]:
        path, label = sample
        file = Path(path).relative_to(folder).as_posix()
        try:
            # Read and crop as for class maps, so that the network trains on the same pixels that the maps explain.
            pixels = make_view(read_image(path), preprocessing).pixels
        except ImageError as error:
            return file, error, label
        return file, torch.from_numpy(pixels.copy()), label  # torch needs a writable array

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads: Pillow decodes without the interpreter lock
        photos = list(pool.map(read, samples))
    skipped = tuple(f"{file}: {error}" for file, error, _ in photos if isinstance(error, ImageError))
    kept = [(file, pixels, label) for file, pixels, label in photos if isinstance(pixels, Tensor)]
    tests = _draw_tests([label for _, _, label in kept], classes, folder)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def select_part(test: bool) -> Images:
        chosen = [one for number, one in enumerate(kept) if (number in tests) == test]
        # permute does not move data, so the memory layout stays channels-last.
        pixels = torch.stack([pixels for _, pixels, _ in chosen]).permute(0, 3, 1, 2)
        return Images(pixels.to(device), torch.tensor([label for *_, label in chosen], device=device), mean, std)

    files = tuple(kept[number][0] for number in sorted(tests))
    digest = hashlib.sha256("\n".join(file for file, *_ in kept).encode()).hexdigest()[:16]
    source = f"{len(kept) - len(tests):,} photos of {folder.resolve().name}."
    training, test = select_part(False), select_part(True)
    return DataSet(training, test, classes, preprocessing, "photos", source, folder, files, skipped, digest)


def _list_photos(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    if not folder.is_dir():
        raise TrainingError(f"No folder {folder}. Use a folder that has one folder of photos per class.")

    def is_shown(path: str) -> bool:
        return not any(part.startswith(".") for part in Path(path).relative_to(folder).parts)

    try:
        # Ignore hidden files (.DS_Store) silently. Other files that are no photos are reported later, as skipped.
        listed = ImageFolder(str(folder), is_valid_file=is_shown, allow_empty=True)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder} holds no class folders ({summarize_reason(error)}).") from error
    classes = tuple(name for name in listed.classes if not name.startswith("."))
    number = {listed.class_to_idx[name]: k for k, name in enumerate(classes)}
    if len(classes) < 2:
        found = f"only one class folder, {classes[0]}" if classes else "no class folders"
        raise TrainingError(f"{folder} holds {found}. Use at least two folders, each with the photos of one class.")
    return classes, [(path, number[label]) for path, label in listed.samples]


def _draw_tests(labels: list[int], classes: tuple[str, ...], folder: Path) -> set[int]:
    """Choose the test photos at random, separately for each class; return their indices."""
    drawn: set[int] = set()
    generator = torch.Generator().manual_seed(0)
    of_class = [[number for number, label in enumerate(labels) if label == k] for k in range(len(classes))]
    if few := [name for name, numbers in zip(classes, of_class, strict=True) if len(numbers) < 2]:
        more = ", ..." if len(few) > _SHOWN_NAMES else ""
        raise TrainingError(
            f"Too few readable photos in {folder} for {', '.join(few[:_SHOWN_NAMES])}{more}: a class needs at least "
            "one training photo and one test photo. Add photos, or remove the folder."
        )
    for numbers in of_class:
        order = torch.randperm(len(numbers), generator=generator).tolist()
        drawn.update(numbers[i] for i in order[: max(1, round(len(numbers) * _TEST_SHARE))])
    return drawn
