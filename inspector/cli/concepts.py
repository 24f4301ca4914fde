"""Commands `concepts`, `transplant` and `repair`: what a network reads for each class, a test, a repaired head."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from inspector.cli import options
from inspector.cli.console import make_progress, print_written, progress, screen
from inspector.cli.report import Report
from inspector.errors import ExportError, InspectorError, translate_errors
from inspector.files import check_new_folder, write_atomic

if TYPE_CHECKING:
    from inspector.datasets.concepts.files import ConceptFlag
    from inspector.datasets.concepts.model import ConceptCard, Concepts
    from inspector.datasets.concepts.outcomes import ConceptTrial
    from inspector.datasets.features import StoredFeatures

_Results = Annotated[Path, Argument(help="The folder that `inspector batch --features` wrote.", show_default=False)]
_Model = Annotated[
    str | None, Option("--model", "-m", help="The network of the results. Default: the name that they have.")
]


@options.command
def concepts(
    results: _Results,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder for the files. Default: RESULTS/concepts.")] = None,
    *,
    classes: Annotated[
        str | None, Option(help="Class names or numbers, with commas. Default: all with at least five photos.")
    ] = None,
    rank: Annotated[
        int | None,
        Option(help="Concepts per class. Default: 6 to 10, chosen by what the rest still holds.", min=1, max=100),
    ] = None,
    seed: Annotated[int, Option(help="Seed of the factorization and of the held-out photos.", min=0)] = 0,
    seeds: Annotated[
        int, Option(help="Factorizations that are compared for the stability of each concept.", min=1)
    ] = 3,
    held_out: Annotated[float, Option(help="Share of each class's photos that are kept for `repair`.")] = 0.25,
    objects: options.Objects = None,
    report: Annotated[
        Path | None, Option(help="Also write the cards as one HTML file, which opens offline.", show_default=False)
    ] = None,
    flag: Annotated[
        list[str] | None,
        Option(
            help="Flag a concept that was found before, such as `3.1=shortcut` (class 3, concept 1): object, context, "
            "shortcut, unclear or none; a name may follow: `3.1=shortcut:ruler`. Can be repeated."
        ),
    ] = None,
) -> Report:
    """Find what a network reads for each class: concepts, which add up to its logits.

    Each concept is a part of the evidence for the class. Its twelve strongest positions show what it is.

    Examples:
    * `inspector batch photos -m flowers17_gap --features -o results` and then `inspector concepts results`

    * `inspector concepts results --classes Daisy --objects boxes.csv`

    * `inspector concepts results --flag '3.1=shortcut:ruler'`
    """
    from inspector.datasets.concepts import files

    out = out or results / files.FOLDER
    if flag:
        if any(value is not None for value in (classes, rank, objects, report)):
            raise InspectorError(
                "--flag is for concepts that were found before, and cannot be used with --classes, --rank, --objects "
                "or --report. Use two commands."
            )
        return _flag_concepts(out, flag)
    with progress.status("Opening the features ..."):
        from inspector.analysis.localization import read_regions
        from inspector.datasets.concepts import find
        from inspector.datasets.concepts.model import ConceptOptions
        from inspector.datasets.features import read_features
        from inspector.explain.class_names import split_class_names

        how = ConceptOptions(rank, seed, seeds, held_out)
        regions = read_regions(objects) if objects else None
        stored = read_features(results)
        chosen = None if classes is None else split_class_names(classes, stored.results.class_names)
    with make_progress(transient=True) as bar:
        task = bar.add_task("Finding concepts", total=1.0)
        found = find.concepts(
            stored, chosen, how, objects=regions, on_progress=lambda done: bar.update(task, completed=done)
        )
    path = files.write_concepts(out, found)
    flags = _read_flags_that_fit(out / files.FLAGS_FILE, found)
    if report is not None:
        with progress.status("Writing the report ..."):
            _write_report(report, stored, found, out, files.read_flags(out / files.FLAGS_FILE, found) if flags else {})
    for one in found.classes:
        _print_class(one.name, one.cards, flags)
        rest = f"rest {one.terms.rest:+.2f} (against {one.terms.against:+.2f}, common {one.terms.common:+.2f}, left "
        screen.print(
            f"{rest}{one.terms.left:+.2f}), bias {one.terms.bias:+.2f}: mean logit {one.terms.logit:.2f}",
            soft_wrap=True,
        )
    for sentence in found.skipped:
        screen.print(sentence, style="yellow", soft_wrap=True)
    print_written(path)
    if report is not None:
        print_written(report)
    return Report({"folder": out, **files.describe_concepts(found)})


def _flag_concepts(out: Path, texts: list[str]) -> Report:
    from inspector.datasets.concepts import files

    found = files.read_concepts(out)
    path = out / files.FLAGS_FILE
    wanted = []
    for text in texts:
        key, equals, rest = text.partition("=")
        flag, colon, name = rest.partition(":")
        if not equals or flag not in ("none", *files.FLAGS):
            raise InspectorError(
                f"--flag is {text!r:.60}. Use 3.1=shortcut, with one of {', '.join(files.FLAGS)}, none."
            )
        wanted.append((found.find_card(key).key, None if flag == "none" else flag, name if colon else None))
    flags: dict[str, files.ConceptFlag] = {}
    for change in wanted:  # once all of them are right
        flags = files.change_flag(path, found, *change)  # type: ignore[arg-type]
    for key, one in flags.items():
        screen.print(f"{key} {one.flag or 'no flag'} {one.name}".rstrip())
    print_written(path)
    return Report({"file": path, "flags": {key: {"flag": one.flag, "name": one.name} for key, one in flags.items()}})


def _write_report(
    path: Path, stored: "StoredFeatures", found: "Concepts", folder: Path, flags: "Mapping[str, ConceptFlag]"
) -> None:
    from inspector.datasets.concepts.outcomes import TRIALS_FILE, read_trials
    from inspector.datasets.concepts.report import make_concept_report

    trials = list(read_trials(folder / TRIALS_FILE, found).values())
    with translate_errors(ExportError, f"Cannot write {path}: {{reason}}."):
        write_atomic(path, make_concept_report(stored, found, flags, trials=trials).encode())


def _read_flags_that_fit(path: Path, found: "Concepts") -> dict[str, str]:
    """Return the flags of these concepts by their keys; none, with a note, if the file is of other concepts."""
    from inspector.datasets.concepts.files import read_flags

    try:
        return {key: " ".join(filter(None, (one.flag, one.name))) for key, one in read_flags(path, found).items()}
    except InspectorError as error:
        progress.print(str(error), soft_wrap=True)
        return {}


def _print_class(name: str, cards: "tuple[ConceptCard, ...]", flags: dict[str, str]) -> None:
    table = Table(box=None, header_style="bold", title=name, title_justify="left")
    for heading in ("concept", "logits", "photos", "stability", "inside", "strongest on"):
        table.add_column(heading, justify="left" if heading == "strongest on" else "right")
    for card in cards:
        first = card.positions[0] if card.positions else None
        table.add_row(
            card.key,
            f"{card.contribution:+.2f}",
            f"{card.photos} of {card.of_photos}",
            "" if card.stability is None else f"{card.stability:.2f}",
            "" if card.inside is None else f"{card.inside:.0%}",
            ("" if first is None else f"{Path(first.path).name} {first.cell}") + f" {flags.get(card.key, '')}".rstrip(),
        )
    screen.print(table)


@options.command
def transplant(
    results: _Results,
    keys: Annotated[
        list[str], Argument(help="Concepts to test, such as 3.1 (class 3, concept 1).", show_default=False)
    ],
    *,
    model: _Model = None,
    photos: Annotated[int, Option(help="Photos that are changed, at most.", min=1)] = 60,
    places: Annotated[int, Option(help="Places at which a part is pasted, per photo.", min=1)] = 3,
    removal: Annotated[str, Option(help="How a concept is removed: `inpaint` or `blur`.")] = "inpaint",
    seed: Annotated[int, Option(help="Seed of photos and places.", min=0)] = 0,
    network: options.NetworkOptions,
) -> Report:
    """Test concepts: paste them into photos of other classes, remove them from their own, and count what changes.

    Each rate is reported beside that of random parts or regions of the same size, with 95 % confidence intervals.

    Examples:
    * `inspector concepts results` and then `inspector transplant results 3.1 3.2`
    """
    if removal not in ("inpaint", "blur"):
        raise InspectorError(f"--removal is {removal!r:.40}. Use inpaint or blur.")
    with progress.status("Loading the network ..."):
        from inspector.datasets.concepts import files
        from inspector.datasets.concepts.outcomes import (
            TRIALS_FILE,
            TrialOptions,
            add_trial,
            describe_trial,
            read_trials,
        )
        from inspector.datasets.concepts.trials import measure_concept
        from inspector.datasets.features import read_features

        stored, found = read_features(results), files.read_concepts(results / files.FOLDER)
        files.check_concepts(found, stored)
        path = results / files.FOLDER / TRIALS_FILE
        read_trials(path, found)
        keys = [found.find_card(key).key for key in keys]  # before anything is measured
        classifier = network.load(_choose_model(model, stored))
    how = TrialOptions(photos, places, removal, seed)  # type: ignore[arg-type]
    rows = []
    with make_progress(transient=True) as bar:
        for key in keys:
            task = bar.add_task(f"Testing {key}", total=1.0)
            trial = measure_concept(
                classifier,
                stored,
                found,
                key,
                how,
                on_progress=lambda done, passes, task=task: bar.update(task, completed=done, total=passes),  # type: ignore[misc]
            )
            rows.append(trial)
            _print_trial(trial, stored.results.class_names[found.find_card(key).k])
            add_trial(path, found, trial)
    print_written(path)
    return Report({row.key: describe_trial(row) for row in rows})


def _print_trial(trial: "ConceptTrial", name: str) -> None:
    screen.print(f"{trial.key} {name}")
    added = f"  other photos that become it: {trial.added}; with random parts {trial.added_random}"
    removed = f"  own photos that leave it: {trial.removed}; without random regions {trial.removed_random}"
    screen.print(f"{added}\n{removed}", soft_wrap=True)


@options.command
def repair(
    results: _Results,
    out: Annotated[Path, Option("--out", "-o", help="New folder for the repaired network and its report.")],
    *,
    flags: Annotated[
        Path | None, Option(help="File of flags. Default: RESULTS/concepts/flags.json.", show_default=False)
    ] = None,
    model: _Model = None,
    without: Annotated[
        Path | None,
        Option(
            help="File with the paths of photos that have the shortcut, one per line. A head fitted without them is an "
            "upper bound for the repair."
        ),
    ] = None,
    photos: Annotated[int, Option(help="Photos per concept that a part is pasted into, at most.", min=1)] = 60,
    overwrite: options.Overwrite = False,
    network: options.NetworkOptions,
) -> Report:
    """Repair the last layer: fit it again without the concepts that are flagged as shortcuts, and measure it.

    The new folder can be named wherever a network can. All numbers are of photos that were neither flagged nor fitted.

    Examples:
    * `inspector concepts results --flag '3.1=shortcut'` and then `inspector repair results -o repaired`

    * `inspector explain photo.jpg --model repaired -o explained`
    """
    check_new_folder(out, is_ours=_is_ours if overwrite else None)
    with progress.status("Loading the network ..."):
        from inspector.datasets.concepts import files
        from inspector.datasets.concepts.outcomes import TRIALS_FILE, TrialOptions, read_trials
        from inspector.datasets.concepts.repair import describe_repair, read_photo_list, repair_head
        from inspector.datasets.concepts.repaired_network import write_repaired_network
        from inspector.datasets.concepts.report import make_concept_report
        from inspector.datasets.features import read_features

        stored, found = read_features(results), files.read_concepts(results / files.FOLDER)
        files.check_concepts(found, stored)
        path = flags or results / files.FOLDER / files.FLAGS_FILE
        if flags is not None and not flags.is_file():
            raise InspectorError(f"There is no file {flags}. Use a flags.json of `inspector concepts --flag`.")
        flagged = files.read_flags(path, found)
        trials = list(read_trials(results / files.FOLDER / TRIALS_FILE, found).values())
        known = read_photo_list(without) if without else []
        source = _choose_model(model, stored)
        classifier = network.load(source)
    with make_progress(transient=True) as bar:
        task = bar.add_task("Repairing", total=1.0)
        repaired = repair_head(
            classifier,
            stored,
            found,
            flagged,
            without=known,
            trials=TrialOptions(photos),
            on_progress=lambda done: bar.update(task, completed=done),
        )
    about = describe_repair(repaired, found, stored)
    with progress.status("Writing the network and the report ..."):
        classes = [found.find_card(key).k for key in repaired.flagged]
        page = make_concept_report(stored, found, flagged, classes=classes, trials=trials, repair=repaired)
        write_repaired_network(
            out,
            classifier,
            source,
            repaired.head,
            about,
            network.arch,
            {"report.html": page.encode()},
            _is_ours if overwrite else None,
        )
    table = Table(box=None, header_style="bold")
    for heading in ("head", "accuracy", "recall", *(f"become {key}" for key in repaired.flagged)):
        table.add_column(heading)
    for name, scores in repaired.scores.items():
        added = (str(scores.added[key]) for key in repaired.flagged)
        table.add_row(name, str(scores.accuracy), f"{scores.mean_recall:.1%}", *added)
    screen.print(table)
    held_out = sum(one.held_out for one in repaired.changed)
    screen.print(f"{len(repaired.changed)} photos changed their class, {held_out} of them held out", soft_wrap=True)
    print_written(out)
    return Report({"folder": out, **about})


def _choose_model(model: str | None, stored: "StoredFeatures") -> str:
    """Return the name of the network of results.

    Raises:
        InspectorError: no network has the name that the results have, as that of a checkpoint.
    """
    from inspector.networks.catalog import LIBRARIES, find_model_folder

    name = model or str(stored.results.about["network"])
    if model is None and not name.startswith(LIBRARIES) and find_model_folder(name) is None:
        raise InspectorError(
            f"The results are of {name}, which is no network with a name here. Name its file with --model, and with "
            "the options of `inspector batch`."
        )
    return name


def _is_ours(name: str) -> bool:
    return name in ("model.json", "weights.safetensors", "repair.json", "report.html")
