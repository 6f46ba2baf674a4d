"""Makes data sets ready on disk: our own, one of TFDS, or a folder of images.

Safe to run twice; a preparation that is interrupted leaves nothing behind that
looks prepared.
"""

import re
from collections.abc import Iterable

import tensorflow_datasets as tfds
from rich import console, progress

from vit_tf import config
from vit_tf.data import datasets, folders
from vit_tf.data.builders import digits, image_folder, shapes

# Everything else comes with TFDS.
_OWN = {"shapes": shapes.Shapes, "digits": digits.Digits}


def list_datasets(root: datasets.Path) -> None:
    """Prints every known name and whether it is prepared."""
    print(f"Data sets in {root}:")
    for name in datasets.list_names(root):
        try:
            source = datasets.open_source(name, str(root))
            splits = source.builder.info.splits.items()
            counts = ", ".join(
                f"{split} {info.num_examples:,}" for split, info in splits
            )
            state = f"prepared, {source.num_classes} classes, {counts}"
        except config.Refused:
            row = datasets.DATASETS.get(name)
            files = row.manual_files if row else ()
            state = "not prepared" + (f", needs {', '.join(files)}" if files else "")
        print(f"  {name:20} {state}")


def prepare_dataset(name: str, root: datasets.Path) -> None:
    """Prepares a row of DATASETS, downloading what TFDS can download.

    Raises:
        config.Refused: unknown name, files missing that must be fetched by hand,
            no network, no space.
    """
    if name not in datasets.DATASETS:
        hint = config.nearest(name, datasets.DATASETS)
        raise config.Refused(f"--dataset={name}: unknown{hint}")
    row = datasets.DATASETS[name]
    if datasets.is_prepared(root / row.tfds_name / row.version):
        print(f"{name}: already prepared in {root / row.tfds_name / row.version}")
        return
    manual = root / "downloads" / "manual"
    missing = [file for file in row.manual_files if not (manual / file).exists()]
    if missing:
        raise config.Refused(
            f"--dataset={name}: its owner lets nobody pass it on; download "
            f"{' and '.join(missing)} from there and put them into {manual}"
        )
    if name in _OWN:
        _build(f"--dataset={name}", _OWN[name](data_dir=root))
        return
    builder = tfds.builder(f"{row.tfds_name}:{row.version}", data_dir=root)
    # Its downloaders and parsers fail in many ways, nearly all of them the
    # network's or the files'.
    _build(f"--dataset={name}", builder, failures=Exception)


def prepare_folder(
    folder: str,
    name: str | None,
    root: datasets.Path,
    *,
    skip_corrupt: bool = False,
    validation_share: float | None = None,
) -> None:
    """Prepares a folder of images under a name.

    Raises:
        config.Refused: see `folders.list_folder`; also a bad or taken name, and
            damaged files unless `skip_corrupt`.
    """
    _check_name(name)
    listing = folders.list_folder(folder, validation_share)
    home = root / image_folder.ImageFolder.name / name
    target = home / str(image_folder.ImageFolder.VERSION)
    if datasets.is_prepared(target):
        _say_prepared(name, target, listing)
        return
    _report(listing)
    bad = folders.find_unreadable(listing, _watch(len(listing.paths)))
    if bad and not skip_corrupt:
        first, reason = next(iter(bad.items()))
        raise config.Refused(
            f"--folder={folder}: {len(bad)} of {len(listing.paths)} images cannot be "
            f"decoded, the first is {first} ({reason}); mend or remove them, or leave "
            "them out with --skip_corrupt"
        )
    chosen = image_folder.FolderConfig(
        name=name, listing=folders.leave_out(listing, bad), skipped=bad
    )
    _build(f"--folder={folder}", image_folder.ImageFolder(config=chosen, data_dir=root))
    if bad:
        skipped = target / image_folder.SKIPPED_FILE
        print(f"Skipped {len(bad)} damaged files, listed in {skipped}")


def _check_name(name: str | None) -> None:
    if not name:
        raise config.Refused("--folder needs --name=NAME, the name of the data set")
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise config.Refused(
            f"--name={name}: need letters, digits and underscores, a letter first"
        )
    if name in datasets.DATASETS:
        raise config.Refused(f"--name={name}: is a data set of its own; choose another")


def _say_prepared(name: str, target: datasets.Path, listing: folders.Listing) -> None:
    """Says that there is nothing to do, or refuses if it is not the same folder."""
    known = datasets.open_source(str(target)).builder.info.metadata
    if known["folder"] != str(listing.folder):
        raise config.Refused(
            f"--name={name}: already prepared from {known['folder']}; choose another "
            f"name, or remove {target}"
        )
    if known["num_files"] != len(listing.paths):
        raise config.Refused(
            f"--name={name}: prepared from {known['num_files']} images, the folder now "
            f"holds {len(listing.paths)}; remove {target} to prepare it again"
        )
    print(f"{name}: already prepared in {target}")


def _report(listing: folders.Listing) -> None:
    counts = ", ".join(
        f"{split} {len(files):,}" for split, files in listing.files.items()
    )
    print(f"{listing.folder}: {len(listing.class_names)} classes; images: {counts}")
    if listing.ignored:
        kinds = ", ".join(
            f"{n:,} {kind}" for kind, n in sorted(listing.ignored.items())
        )
        print(f"Ignored files that are no JPEG or PNG by their names: {kinds}")


def _watch(total: int):
    """Shows how many images are checked."""

    def watch(numbers: Iterable) -> Iterable:
        shown = console.Console(stderr=True)
        return progress.track(
            numbers, "Checking images", total=total, console=shown, transient=True
        )

    return watch


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
        raise config.Refused(f"{what}: not prepared: {reason[:400]}") from error
    counts = ", ".join(
        f"{split} {info.num_examples:,}" for split, info in builder.info.splits.items()
    )
    print(f"Prepared in {builder.data_path}: {counts}")
