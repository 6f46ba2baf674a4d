"""Prepares a data set on disk: our own, one of TFDS, or a folder of images.

  python -m tools.prepare_data --list
  python -m tools.prepare_data --dataset=shapes
  python -m tools.prepare_data --folder=PATH --name=NAME
  python -m tools.prepare_data --verify --name=NAME
  python -m tools.prepare_data --verify --all --dataset=vtab/clevr_count
  python -m tools.prepare_data --dataset=imagenet21k --source=PATH --num_processes=16

Safe to run twice; a preparation that is interrupted leaves nothing behind that
looks prepared. That of imagenet21k goes on where it was interrupted.
"""

from absl import flags, logging

from tools import command, next_steps
from tools.flags import data_flags, number_flags, path_flags
from vit_tf import errors

_DATASET = flags.DEFINE_string("dataset", None, "A data set by name; see --list.")
_FOLDER = path_flags.define_path(
    "folder",
    None,
    "A folder of class folders with image files (JPEG, PNG, WebP, GIF, BMP), or of "
    "split folders (train, test, val, valid, validation or dev, in any case) that hold "
    "class folders.",
)
_NAME = flags.DEFINE_string(
    "name", None, "What to call the folder's data set, or which one to verify."
)
_SKIP_CORRUPT = flags.DEFINE_bool(
    "skip_corrupt", False, "Leave out image files that cannot be decoded."
)
_NESTED = flags.DEFINE_bool(
    "nested",
    False,
    "Every folder with images in it is a class, named by its path: 'animals/cat'.",
)
_UNLABELLED = flags.DEFINE_bool(
    "unlabelled",
    False,
    "The folder has images and no classes, for training that reads no label.",
)
_EXIF = flags.DEFINE_bool(
    "exif", False, "Turn images upright as their EXIF data say, stored as PNG."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite",
    False,
    "Replace the set of this name if it was prepared from other files or settings.",
)
_SOURCE = path_flags.define_path(
    "source",
    None,
    "imagenet21k: the folder of the unpacked release, with a tar file (n01440764.tar) "
    "or a folder for each synset.",
)
_CLASS_LIST = path_flags.define_path(
    "class_list",
    None,
    "imagenet21k: a file with one synset a line, which settles the labels; or "
    "'released' for the 21,843 classes of released checkpoints. Default: the synsets "
    "that are there, sorted.",
)
_PARTIAL = flags.DEFINE_bool(
    "partial", False, "imagenet21k: go on without the whole release."
)
_NUM_PROCESSES = number_flags.define_integer(
    "num_processes",
    1,
    "imagenet21k: how many processes read, check and write.",
    upper=1_024,
)
_VALIDATION_SHARE = number_flags.define_float(
    "validation_share",
    None,
    "Share of each class's training images to hold out as split 'validation', chosen "
    "by the hash of their paths. Default: 0.1 without split folders, 0 with them.",
    lower=0.0,
    upper=0.9,
)
_DATA_DIR = data_flags.define_data_dir()
_LIST = flags.DEFINE_bool("list", False, "Show the data sets and which are prepared.")
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Compare counts of the prepared data set --dataset or --name with the table, decode "
    "a sample of its records and list those that are damaged.",
)
_SHEET_IMAGES, _SHEET_PIXELS = 32, 128
_ALL = flags.DEFINE_bool("all", False, "With --verify: every record, not a sample.")


def main() -> None:
    _check_flags()
    if not (_LIST.value or _VERIFY.value):
        path_flags.check_folder(_DATA_DIR)
    command.load_tensorflow()
    from vit_tf.data import catalog
    from vit_tf.data.builders import imagenet21k
    from vit_tf.data.preparation import prepare

    # TFDS logs every file it writes, and warns of configs that it does not know.
    logging.set_verbosity(logging.ERROR if _FOLDER.value else logging.WARNING)
    root = catalog.find_data_dir(_DATA_DIR.value)
    if _VERIFY.value:
        name = _DATASET.value or _NAME.value
        prepare.verify(name, root, every=_ALL.value)
    elif _LIST.value:
        prepare.list_datasets(root)
    elif _DATASET.value in imagenet21k.RELEASES:
        request = imagenet21k.Request(
            name=_DATASET.value,
            source=_SOURCE.value,
            class_list=_CLASS_LIST.value,
            partial=_PARTIAL.value,
            skip_corrupt=_SKIP_CORRUPT.value,
            num_processes=_NUM_PROCESSES.value,
        )
        imagenet21k.prepare(request, str(root))
    elif _DATASET.value:
        prepare.prepare_dataset(_DATASET.value, root)
        _show_next(_DATASET.value)
    else:
        request = prepare.FolderRequest(
            folder=_FOLDER.value,
            name=_NAME.value,
            skip_corrupt=_SKIP_CORRUPT.value,
            validation_share=_VALIDATION_SHARE.value,
            nested=_NESTED.value,
            unlabelled=_UNLABELLED.value,
            exif=_EXIF.value,
            overwrite=_OVERWRITE.value,
        )
        made = prepare.prepare_folder(request, root)
        if made is not None:
            _draw_sheet(_NAME.value, made)
        _show_next(_NAME.value)


def _draw_sheet(name: str, home) -> None:
    """Draws some images of the prepared set, with their classes."""
    import numpy as np

    from vit_tf import config
    from vit_tf.data import catalog
    from vit_tf.inspection import image_sets, plot_text, run_plots

    source = catalog.open_source(str(home))
    view, names = config.View(_SHEET_PIXELS), source.class_names
    split = next(iter(source.builder.info.splits))
    shown = image_sets.of_split(source, view, split, max_images=_SHEET_IMAGES)
    labels = np.zeros(len(shown.pixels), int) if shown.labels is None else shown.labels
    captions = [plot_text.clean(names[label]) for label in labels]
    path = home / "contact_sheet.png"
    title = f"{name} {split}: {len(captions)} of {shown.total:,} images"
    run_plots.contact_sheet(shown.pixels / 2 + 0.5, captions, path, title=title)
    print(f"  Some of them as a picture: {path}")


def _show_next(name: str) -> None:
    """Shows what a prepared data set is good for."""
    given = {"dataset": name, "data_dir": _DATA_DIR.value}
    next_steps.show(
        next_steps.command_line("prepare_data", name=name, data_dir=_DATA_DIR.value)
        + " --verify",
        next_steps.command_line(
            "transfer", start_from="FILE.npz", **given, workdir=f"runs/{name}"
        ),
        next_steps.command_line("evaluate", checkpoint="FILE.npz", **given)
        + " --evaluators=fewshot",
    )


def _check_flags() -> None:
    if _VERIFY.value:
        if bool(_DATASET.value) == bool(_NAME.value) or _LIST.value or _FOLDER.value:
            raise errors.UserError(
                "--verify needs one of --dataset=NAME and --name=NAME"
            )
        return
    if _ALL.value:
        raise errors.UserError("--all: goes with --verify only")
    asked = [bool(_LIST.value), bool(_DATASET.value), bool(_FOLDER.value)]
    if sum(asked) != 1:
        raise errors.UserError("need one of --dataset=NAME, --folder=PATH and --list")
    in_21k = (_DATASET.value or "").startswith("imagenet21k")
    for flag in (_NAME, _VALIDATION_SHARE):
        if flag.value is not None and not _FOLDER.value:
            raise errors.UserError(f"--{flag.name}: is for --folder only")
    for flag in (_SOURCE, _CLASS_LIST, _PARTIAL):
        if flag.value and not in_21k:
            raise errors.UserError(f"--{flag.name}: is for --dataset=imagenet21k only")
    if _SKIP_CORRUPT.value and not (_FOLDER.value or in_21k):
        raise errors.UserError(
            "--skip_corrupt: is for --folder and --dataset=imagenet21k only"
        )


if __name__ == "__main__":
    command.run(main)
