"""Makes data sets ready on disk: our own, one of TFDS, or a folder of images.

Safe to run twice; a preparation that is interrupted leaves nothing behind that
looks prepared.
"""

import contextlib
import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

import requests
import tensorflow_datasets as tfds
from rich import console, progress

from vit_tf import errors
from vit_tf.data import catalog, data_source, dataset_spec, integrity, manifest
from vit_tf.data.builders import digits, image_folder, objectnet, shapes
from vit_tf.data.preparation import folder_report, image_folders, verification
from vit_tf.runtime import filesystem

_PATIENCE = 20  # seconds until a server that does not answer is given up

# Everything else comes with TFDS.
_OWN = {
    "shapes": shapes.Shapes,
    "digits": digits.Digits,
    "objectnet": objectnet.Objectnet,
}


def list_datasets(root: catalog.Path) -> None:
    """Prints every known name, whether it is prepared, and what it needs by hand."""
    print(f"Data sets in {root}:")
    by_hand = []
    for name in catalog.list_names(root):
        spec = catalog.DATASETS.get(name)
        try:
            source = catalog.open_source(name, str(root))
            counts = data_source.count_splits(source.builder)
            state = f"prepared, {source.num_classes} classes, {counts}"
        except errors.UserError as refusal:
            others = " holds version " in str(refusal)
            state = "prepared by another version" if others else "not prepared"
            if spec and spec.manual_files:
                state += f", needs {', '.join(spec.manual_files)}"
        if spec and spec.manual_files:
            by_hand.append((name, spec))
        print(f"  {name:26} {state}")
    print(f"To put into {_find_manual(root)} before these are prepared:")
    for name, spec in by_hand:
        print(f"  {name:26} {', '.join(spec.manual_files)} from {spec.manual_page}")


def verify(name: str, root: catalog.Path, *, every: bool = False) -> None:
    """Prints how much of a prepared set was looked at and every problem in it.

    Args:
        name: as `datasets.open_source` takes it.
        root: where prepared data sets lie.
        every: looks at all records instead of a sample.

    Raises:
        errors.UserError: not prepared, or something is wrong with it.
    """
    source = catalog.open_source(name, str(root), check_rows=False)
    report = verification.verify(source, every=every, watch=_watch)
    for problem in report.problems:
        print(problem)
    for split, (read, count) in report.read.items():
        print(f"{name} {source.version} {split}: looked at {read:,} of {count:,}")
    if report.problems:
        number = len(report.problems)
        raise errors.UserError(
            f"{name}: {number} problem{'s'[: number > 1]} found, the first is: "
            f"{report.problems[0]}; remove {source.builder.data_path} and prepare it "
            "again"
        )
    whole = "" if every else " in this sample"
    print(f"{name}: nothing wrong{whole}")


def prepare_dataset(name: str, root: catalog.Path) -> None:
    """Prepares a data set of DATASETS, downloading what TFDS can download.

    Raises:
        errors.UserError: unknown name, files missing that must be fetched by hand,
            no network, no space.
    """
    if name not in catalog.DATASETS:
        hint = errors.nearest(name, catalog.DATASETS)
        raise errors.UserError(f"--dataset={name}: unknown{hint}")
    spec = catalog.DATASETS[name]
    home = catalog.find_home(name, root)
    if data_source.is_prepared(home):
        print(f"{name}: already prepared in {home}")
        return
    _check_manual(name, spec, _find_manual(root))
    if name in _OWN:
        _build(f"--dataset={name}", _OWN[name](data_dir=root))
        return
    builder = tfds.builder(f"{spec.tfds_name}:{spec.version}", data_dir=root)
    _check_network(name, builder, root)
    # Its downloaders and parsers fail in many ways, nearly all of them the
    # network's or the files'.
    _build(f"--dataset={name}", builder, failures=Exception)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderRequest:
    """How a folder of images is prepared.

    Attributes:
        folder: where the images are.
        name: what the data set is called.
        skip_corrupt: whether images that cannot be decoded are left out.
        validation_share, nested, unlabelled: see `image_folders.list_folder`.
        exif: whether images are turned as their EXIF data say.
        overwrite: whether a set of this name that was prepared from something else is
            replaced.
    """

    folder: str
    name: str | None
    skip_corrupt: bool = False
    validation_share: float | None = None
    nested: bool = False
    unlabelled: bool = False
    exif: bool = False
    overwrite: bool = False


def prepare_folder(request: FolderRequest, root: catalog.Path) -> catalog.Path | None:
    """Prepares a folder of images under a name.

    Returns:
        Where it is prepared; None where it was already, from the same files.

    Raises:
        errors.UserError: see `image_folders.list_folder`; also a bad name, a name that
            stands for other files or settings, and damaged files unless they are to be
            left out.
    """
    name = _check_name(request.name)
    listing = image_folders.list_folder(
        request.folder,
        request.validation_share,
        nested=request.nested,
        unlabelled=request.unlabelled,
    )
    home = root / image_folder.ImageFolder.name / name
    target = home / str(image_folder.ImageFolder.VERSION)
    if data_source.is_prepared(target):
        changes = _changes(target, listing, request)
        if not changes:
            print(f"{name}: already prepared in {target}")
            return None
        if not request.overwrite:
            raise errors.UserError(
                f"--name={name}: prepared from something else: {'; '.join(changes)}; "
                "choose another name, or replace it with --overwrite"
            )
    folder_report.print_listing(listing)
    bad = image_folders.find_unreadable(
        listing, lambda seen: _watch(seen, "Checking images", len(listing.paths))
    )
    if bad and not request.skip_corrupt:
        first, reason = next(iter(bad.items()))
        raise errors.UserError(
            f"--folder={request.folder}: {len(bad)} of {len(listing.paths)} images "
            f"cannot be read, the first is {first} ({reason}); mend or remove them, or "
            "leave them out with --skip_corrupt"
        )
    kept = image_folders.leave_out(listing, bad)
    chosen = image_folder.FolderConfig(
        name=name,
        listing=kept,
        skipped=bad,
        entries=manifest.describe(kept.folder, kept.files),
        exif=request.exif,
    )
    with _replacing(target):
        builder = image_folder.ImageFolder(config=chosen, data_dir=root)
        _build(f"--folder={request.folder}", builder)
    skipped = target / image_folder.SKIPPED_FILE
    folder_report.print_facts(chosen, str(skipped) if bad else None)
    return target


@contextlib.contextmanager
def _replacing(target: catalog.Path) -> Iterator[None]:
    """Puts what is in the way aside, and back if nothing comes in its place."""
    if not target.exists():
        yield
        return
    aside = target.parent / "replaced.tmp"
    filesystem.remove(str(aside))
    target.rename(aside)
    try:
        yield
    except BaseException:
        filesystem.remove(str(target))
        aside.rename(target)
        raise
    filesystem.remove(str(aside))


def _find_manual(root: catalog.Path) -> catalog.Path:
    """Finds where TFDS looks for what was fetched by hand."""
    return root / "downloads" / "manual"


def _check_network(
    name: str, builder: tfds.core.DatasetBuilder, root: catalog.Path
) -> None:
    """Refuses at once what TFDS would try for minutes, with a warning for each try.

    Where something was downloaded before it may be all that is needed.
    """
    downloads = root / "downloads"
    if downloads.exists() and any(
        path.name not in ("manual", "extracted") for path in downloads.iterdir()
    ):
        return
    for url in list(builder.url_infos or {})[:1]:
        try:
            requests.head(url, timeout=_PATIENCE, allow_redirects=True)
        except requests.RequestException as error:
            host = urllib.parse.urlsplit(url).netloc
            raise errors.TryAgain(
                f"dataset={name}: {host} cannot be reached ({type(error).__name__}); "
                "check the network and the proxy, then run the same command again"
            ) from error


def _check_manual(
    name: str, spec: dataset_spec.DatasetSpec, manual: catalog.Path
) -> None:
    missing = [file for file in spec.manual_files if not (manual / file).exists()]
    if missing:
        raise errors.UserError(
            f"--dataset={name}: its owner lets nobody pass it on; download "
            f"{' and '.join(missing)} from {spec.manual_page} and put them into {manual}"
        )
    empty = [file for file in spec.manual_files if _is_empty(manual / file)]
    if empty:
        raise errors.UserError(
            f"--dataset={name}: {' and '.join(empty)} in {manual} is empty; download "
            f"it again from {spec.manual_page}"
        )


def _is_empty(path: catalog.Path) -> bool:
    return not any(path.iterdir()) if path.is_dir() else not path.stat().length


def _check_name(name: str | None) -> str:
    if not name:
        raise errors.UserError("--folder needs --name=NAME, the name of the data set")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise errors.UserError(
            f"--name={name}: need letters, digits and underscores, a letter first"
        )
    if name in catalog.DATASETS:
        raise errors.UserError(
            f"--name={name}: is a data set of its own; choose another"
        )
    return name


def _changes(
    target: catalog.Path, listing: image_folders.Listing, request: FolderRequest
) -> list[str]:
    """Compares a prepared set with what would be prepared now; a phrase for each."""
    try:
        known: Any = catalog.open_source(str(target)).builder.info.metadata
    except errors.UserError:
        if request.overwrite:  # replaces what is damaged, too
            return ["it is damaged"]
        raise
    if known["folder"] != str(listing.folder):
        return [f"from {known['folder']}"]
    skipped = target / image_folder.SKIPPED_FILE
    left_out = set()
    if skipped.exists():
        left_out = {line.split("\t")[0] for line in skipped.read_text().splitlines()}
    if not (target / manifest.FILE).exists():  # of an earlier version of this library
        phrase = (
            f"an earlier version prepared its {known['num_files']} images and did not "
            f"note their contents, the folder has {len(listing.paths)}"
        )
        return [phrase]
    before = json.loads(known["settings"])
    now = {**listing.settings, "exif": request.exif}
    changes = [
        f"--{name}={before.get(name)} against {value}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    try:
        entries = manifest.read((target / manifest.FILE).read_text())
    except ValueError:
        return [*changes, f"{target / manifest.FILE} is damaged"]
    files = {
        split: [file for file in content if file[0] not in left_out]
        for split, content in listing.files.items()
    }
    return changes + manifest.differences(entries, listing.folder, files)


def _watch(things: Iterable, what: str, total: int) -> Iterable:
    """Shows how many of the things are done."""
    shown = console.Console(stderr=True)
    return progress.track(things, what, total=total, console=shown, transient=True)


def _build(
    what: str,
    builder: tfds.core.DatasetBuilder,
    failures: type[Exception] = OSError,
) -> None:
    """Lets TFDS write the data set; it appears whole or not at all."""
    try:
        builder.download_and_prepare()
    except failures as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise errors.UserError(f"{what}: not prepared: {reason[:400]}") from error
    integrity.note(builder.data_path)
    print(f"Prepared in {builder.data_path}: {data_source.count_splits(builder)}")
