"""Makes data sets ready on disk: our own, one of TFDS, or a folder of images.

Safe to run twice; a preparation that is interrupted leaves nothing behind that
looks prepared.
"""

import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

import requests
import tensorflow_datasets as tfds
from rich import console, progress

from vit_tf import errors
from vit_tf.data import catalog, data_source, dataset_spec
from vit_tf.data.builders import digits, image_folder, objectnet, shapes
from vit_tf.data.preparation import image_folders, verification

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
    source = catalog.open_source(name, str(root))
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


def prepare_folder(
    folder: str,
    name: str | None,
    root: catalog.Path,
    *,
    skip_corrupt: bool = False,
    validation_share: float | None = None,
) -> None:
    """Prepares a folder of images under a name.

    Raises:
        errors.UserError: see `folders.list_folder`; also a bad or taken name, and
            damaged files unless `skip_corrupt`.
    """
    name = _check_name(name)
    listing = image_folders.list_folder(folder, validation_share)
    home = root / image_folder.ImageFolder.name / name
    target = home / str(image_folder.ImageFolder.VERSION)
    if data_source.is_prepared(target):
        _say_prepared(name, target, listing)
        return
    _report(listing)
    bad = image_folders.find_unreadable(
        listing, lambda seen: _watch(seen, "Checking images", len(listing.paths))
    )
    if bad and not skip_corrupt:
        first, reason = next(iter(bad.items()))
        raise errors.UserError(
            f"--folder={folder}: {len(bad)} of {len(listing.paths)} images cannot be "
            f"decoded, the first is {first} ({reason}); mend or remove them, or leave "
            "them out with --skip_corrupt"
        )
    chosen = image_folder.FolderConfig(
        name=name, listing=image_folders.leave_out(listing, bad), skipped=bad
    )
    _build(f"--folder={folder}", image_folder.ImageFolder(config=chosen, data_dir=root))
    if bad:
        skipped = target / image_folder.SKIPPED_FILE
        print(f"Skipped {len(bad)} damaged files, listed in {skipped}")


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


def _say_prepared(
    name: str, target: catalog.Path, listing: image_folders.Listing
) -> None:
    """Says that there is nothing to do, or refuses if it is not the same folder."""
    known: Any = catalog.open_source(str(target)).builder.info.metadata
    if known["folder"] != str(listing.folder):
        raise errors.UserError(
            f"--name={name}: already prepared from {known['folder']}; choose another "
            f"name, or remove {target}"
        )
    if known["num_files"] != len(listing.paths):
        raise errors.UserError(
            f"--name={name}: prepared from {known['num_files']} images, the folder now "
            f"holds {len(listing.paths)}; remove {target} to prepare it again"
        )
    print(f"{name}: already prepared in {target}")


def _report(listing: image_folders.Listing) -> None:
    counts = ", ".join(
        f"{split} {len(files):,}" for split, files in listing.files.items()
    )
    print(f"{listing.folder}: {len(listing.class_names)} classes; images: {counts}")
    if listing.ignored:
        kinds = ", ".join(
            f"{n:,} {kind}" for kind, n in sorted(listing.ignored.items())
        )
        print(f"Ignored files that are no JPEG or PNG by their names: {kinds}")


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
    print(f"Prepared in {builder.data_path}: {data_source.count_splits(builder)}")
