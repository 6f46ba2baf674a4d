"""DATASETS: the known data sets, with pinned versions; opens prepared ones.

To add a data set, add a spec. Opening never downloads: `tools.prepare_data` does.
"""

import os

from vit_tf import errors
from vit_tf.data import data_source, dataset_spec, labels, vtab_catalog
from vit_tf.data.builders import (
    digits,
    image_folder,
    imagenet21k,
    objectnet,
    shapes,
)

Path = data_source.Path
Source = data_source.Source  # what `open_source` gives

_IMAGENET_PAGE = "https://image-net.org/download-images (after registration)"

# Splits of B.1.1: 2 % of CIFAR, 1 % of ImageNet, 10 % of Pets and Flowers; of the
# few-shot sets big_vision's (common_fewshot.py). Counts are those of TFDS' catalogue.
DATASETS: dict[str, dataset_spec.DatasetSpec] = {
    "shapes": dataset_spec.DatasetSpec(
        tfds_name="shapes",
        version=str(shapes.Shapes.VERSION),
        num_classes=len(shapes.FORMS),
        development=("train", "validation"),
        final=("train", "test"),
    ),
    "digits": dataset_spec.DatasetSpec(
        tfds_name="digits",
        version=str(digits.Digits.VERSION),
        num_classes=10,
        counts={"train": 1197, "validation": 200, "test": 400},
        development=("train", "validation"),
        final=("train", "test"),
    ),
    "cifar10": dataset_spec.DatasetSpec(
        tfds_name="cifar10",
        version="3.0.2",
        num_classes=10,
        counts={"train": 50_000, "test": 10_000},
        development=("train[:98%]", "train[98%:]"),
        final=("train", "test"),
    ),
    "cifar100": dataset_spec.DatasetSpec(
        tfds_name="cifar100",
        version="3.0.2",
        num_classes=100,
        counts={"train": 50_000, "test": 10_000},
        development=("train[:98%]", "train[98%:]"),
        final=("train", "test"),
        few_shot=("train", "test"),
    ),
    "imagenet2012": dataset_spec.DatasetSpec(
        tfds_name="imagenet2012",
        version="5.1.0",
        num_classes=1000,
        counts={"train": 1_281_167, "validation": 50_000},
        development=("train[:99%]", "train[99%:]"),
        final=("train", "validation"),
        few_shot=("train[:65000]", "validation"),  # at least 30 images of a class
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        manual_page=_IMAGENET_PAGE,
    ),
    "imagenet2012_10pct": dataset_spec.DatasetSpec(
        tfds_name="imagenet2012_subset/10pct",
        version="5.0.0",
        num_classes=1000,
        counts={"train": 128_116, "validation": 50_000},
        few_shot=("train", "validation"),
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
        manual_page=_IMAGENET_PAGE,
    ),
    "imagenet2012_real": dataset_spec.DatasetSpec(
        tfds_name="imagenet2012_real",
        version="1.0.0",
        num_classes=1000,
        counts={"validation": 50_000},
        final=(None, "validation"),
        label=labels.multi_hot("real_label", 1000),
        manual_files=("ILSVRC2012_img_val.tar",),
        manual_page=_IMAGENET_PAGE,
    ),
    "imagenet_v2": dataset_spec.DatasetSpec(
        tfds_name="imagenet_v2/matched-frequency",
        version="3.0.0",
        num_classes=1000,
        counts={"test": 10_000},
        final=(None, "test"),
    ),
    "objectnet": dataset_spec.DatasetSpec(
        tfds_name="objectnet",
        version=str(objectnet.Objectnet.VERSION),
        num_classes=1000,
        counts={"test": 18_574},
        final=(None, "test"),
        label=labels.multi_hot("labels", 1000),
        redraw=objectnet.cut_border,
        manual_files=("objectnet-1.0",),
        manual_page="https://objectnet.dev/download.html (a zip, unpacked)",
    ),
    **{
        name: dataset_spec.DatasetSpec(
            tfds_name=f"{imagenet21k.NAME}/{release}",
            version=imagenet21k.VERSION,
            num_classes=0,  # whoever prepares it decides
            development=imagenet21k.DEVELOPMENT,
            final=imagenet21k.FINAL,
        )
        for name, release in imagenet21k.RELEASES.items()
    },
    "oxford_iiit_pet": dataset_spec.DatasetSpec(
        tfds_name="oxford_iiit_pet",
        version="4.0.0",
        num_classes=37,
        counts={"train": 3680, "test": 3669},
        development=("train[:90%]", "train[90%:]"),
        final=("train", "test"),
        few_shot=("train", "test"),
    ),
    "oxford_flowers102": dataset_spec.DatasetSpec(
        tfds_name="oxford_flowers102",
        version="2.1.1",
        num_classes=102,
        counts={"train": 1020, "validation": 1020, "test": 6149},
        development=("train[:90%]", "train[90%:]"),
        final=("train", "test"),
    ),
    "caltech101": dataset_spec.DatasetSpec(
        tfds_name="caltech101",
        version="3.0.2",
        num_classes=102,
        counts={"train": 3060, "test": 6084},
        few_shot=("train", "test"),
    ),
    "cars196": dataset_spec.DatasetSpec(
        tfds_name="cars196",
        version="2.1.0",
        num_classes=196,
        counts={"train": 8144, "test": 8041},
        few_shot=("train", "test"),
    ),
    "dtd": dataset_spec.DatasetSpec(
        tfds_name="dtd",
        version="3.0.1",
        num_classes=47,
        counts={"train": 1880, "validation": 1880, "test": 1880},
        few_shot=("train", "test"),
    ),
    "uc_merced": dataset_spec.DatasetSpec(
        tfds_name="uc_merced",
        version="2.0.0",
        num_classes=21,
        counts={"train": 2100},
        few_shot=("train[:1000]", "train[1000:]"),
    ),
    "caltech_birds2011": dataset_spec.DatasetSpec(
        tfds_name="caltech_birds2011",
        version="0.2.0",
        num_classes=200,
        counts={"train": 5994, "test": 5794},
        few_shot=("train", "test"),
    ),
    "colorectal_histology": dataset_spec.DatasetSpec(
        tfds_name="colorectal_histology",
        version="2.0.0",
        num_classes=8,
        counts={"train": 5000},
        few_shot=("train[:2000]", "train[2000:]"),
    ),
    **vtab_catalog.TASKS,
}


def find_data_dir(data_dir: str | None = None) -> Path:
    """Returns `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def open_source(
    name: str, data_dir: str | None = None, *, check_rows: bool = True
) -> Source:
    """Opens a prepared data set without reading its images.

    Args:
        name: a key of DATASETS, the name given to a folder of images by
            `tools.prepare_data`, or a path to any directory that TFDS prepared.
        data_dir: where prepared data sets lie; see `find_data_dir`.
        check_rows: see `data_source.open_directory`.

    Raises:
        errors.UserError: unknown, damaged, not prepared, or prepared by another version; the
            line says the command that prepares it.
    """
    root = find_data_dir(data_dir)
    if name in DATASETS:
        return _open_known(name, root, check_rows)
    imported = root / image_folder.ImageFolder.name / name
    if not name.startswith((".", "/", "~")) and data_source.list_versions(imported):
        return _open_folder(name, imported, check_rows)
    for directory in (root / name, Path(name).expanduser()):
        if name and (newest := data_source.find_newest(directory)) is not None:
            return data_source.open_directory(name, newest, check_rows=check_rows)
    raise errors.UserError(
        f"data set {name!r}: unknown{errors.nearest(name, list_names(root))}; need a "
        f"data set of vit_tf/data/catalog.py, class folders of images prepared in {root} by "
        f"`python -m tools.prepare_data --folder=PATH --name={name}`, or a path that "
        f"holds dataset_info.json"
    )


def list_names(root: Path) -> list[str]:
    """Returns every name that `open_source` knows: of DATASETS and prepared folders."""
    imported = root / image_folder.ImageFolder.name
    folders = (
        sorted(path.name for path in imported.iterdir()) if imported.exists() else []
    )
    ready = (name for name in folders if data_source.list_versions(imported / name))
    return [*DATASETS, *ready]


def find_home(name: str, root: Path) -> Path:
    """Returns where the pinned version of a data set is, or will be, prepared."""
    spec = DATASETS[name]
    return root / spec.tfds_name / spec.version


def _open_known(name: str, root: Path, check_rows: bool) -> Source:
    spec, directory = DATASETS[name], find_home(name, root)
    if data_source.is_prepared(directory):
        return data_source.open_directory(name, directory, spec, check_rows=check_rows)
    others = data_source.list_versions(directory.parent)
    state = (
        f"{directory.parent} holds version {', '.join(others)}, need"
        if others
        else f"not prepared in {root}: need"
    )
    raise errors.UserError(
        f"{name}: {state} {spec.version}; run "
        f"`python -m tools.prepare_data --dataset={name} --data_dir={root}`"
    )


def _open_folder(name: str, home: Path, check_rows: bool) -> Source:
    version = str(image_folder.ImageFolder.VERSION)
    if version not in (versions := data_source.list_versions(home)):
        raise errors.UserError(
            f"{name}: {home} holds version {', '.join(versions)}, this code "
            f"reads {version}; run `python -m tools.prepare_data --folder=PATH "
            f"--name={name}` again"
        )
    return data_source.open_directory(name, home / version, check_rows=check_rows)
