"""TASKS: the 19 tasks of VTAB-1k (task_adaptation), to be opened as 'vtab/NAME'.

Their splits and exceptions stand in `vit_tf/data/vtab_splits.py`.
"""

import dataclasses

import tensorflow as tf

from vit_tf.data import dataset_spec, labels, vtab_splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(dataset_spec.DatasetSpec):
    """A DatasetSpec with what VTAB and the paper add to it.

    Attributes:
        column: the task's name in the paper's Table 9.
    """

    column: str


def _brighten(encoded: tf.Tensor) -> tf.Tensor:
    """Scales 0 and 1, which dSprites stores, to 0 and 255, as VTAB's own code does."""
    pixels = tf.io.decode_png(encoded, channels=1)
    return tf.io.encode_png(pixels * tf.constant(255, tf.uint8), compression=1)


def _dsprites(column: str, label: labels.Label) -> dict:
    return {
        "column": column,
        "tfds_name": "dsprites",
        "version": "2.0.0",
        "num_classes": 16,
        "counts": {"train": 737_280},
        "label": label,
        "redraw": _brighten,
    }


def _clevr(column: str, num_classes: int, label: labels.Label) -> dict:
    return {
        "column": column,
        "tfds_name": "clevr",
        "version": "3.1.0",
        "num_classes": num_classes,
        "counts": {"train": 70_000, "validation": 15_000, "test": 15_000},
        "label": label,
    }


def _smallnorb(column: str, num_classes: int, key: str) -> dict:
    return {
        "column": column,
        "tfds_name": "smallnorb",
        "version": "2.0.0",
        "num_classes": num_classes,
        "counts": {"train": 24_300, "test": 24_300},
        "label": labels.stored(key),
    }


# In the order of Table 9. Pets: VTAB pins 3.x, which TFDS cannot build any more;
# 4.0.0 replaces a few corrupt images.
_NAMED = {
    "caltech101": {
        "column": "Caltech101",
        "tfds_name": "caltech101",
        "version": "3.0.2",
        "num_classes": 102,
        "counts": {"train": 3060, "test": 6084},
    },
    "cifar100": {
        "column": "CIFAR-100",
        "tfds_name": "cifar100",
        "version": "3.0.2",
        "num_classes": 100,
        "counts": {"train": 50_000, "test": 10_000},
    },
    "dtd": {
        "column": "DTD",
        "tfds_name": "dtd",
        "version": "3.0.1",
        "num_classes": 47,
        "counts": {"train": 1880, "validation": 1880, "test": 1880},
    },
    "flowers102": {
        "column": "Flowers102",
        "tfds_name": "oxford_flowers102",
        "version": "2.1.1",
        "num_classes": 102,
        "counts": {"train": 1020, "validation": 1020, "test": 6149},
    },
    "pets": {
        "column": "Pets",
        "tfds_name": "oxford_iiit_pet",
        "version": "4.0.0",
        "num_classes": 37,
        "counts": {"train": 3680, "test": 3669},
    },
    "sun397": {
        "column": "Sun397",
        "tfds_name": "sun397/tfds",
        "version": "4.0.0",
        "num_classes": 397,
        "counts": {"train": 76_128, "validation": 10_875, "test": 21_750},
    },
    "svhn": {
        "column": "SVHN",
        "tfds_name": "svhn_cropped",
        "version": "3.1.0",
        "num_classes": 10,
        "counts": {"train": 73_257, "test": 26_032},
    },
    "camelyon": {
        "column": "Camelyon",
        "tfds_name": "patch_camelyon",
        "version": "2.0.0",
        "num_classes": 2,
        "counts": {"train": 262_144, "validation": 32_768, "test": 32_768},
    },
    "eurosat": {
        "column": "EuroSAT",
        "tfds_name": "eurosat/rgb",
        "version": "2.0.0",
        "num_classes": 10,
        "counts": {"train": 27_000},
    },
    "resisc45": {
        "column": "Resisc45",
        "tfds_name": "resisc45",
        "version": "3.0.0",
        "num_classes": 45,
        "counts": {"train": 31_500},
        "manual_files": ("NWPU-RESISC45",),
        "manual_page": "https://1drv.ms/u/s!AmgKYzARBl5ca3HNaHIlzp_IXjs (a rar, unpacked)",
    },
    "retinopathy": {
        "column": "Retinopathy",
        "tfds_name": "diabetic_retinopathy_detection/btgraham-300",
        "version": "3.0.0",
        "num_classes": 5,
        "counts": {"train": 35_126, "validation": 10_906, "test": 42_670},
        "manual_files": ("train", "test", "sample", "trainLabels.csv"),
        "manual_page": "https://www.kaggle.com/c/diabetic-retinopathy-detection/data "
        "(train.zip, test.zip and sample.zip unpacked into folders of these names)",
    },
    "clevr_count": _clevr("Clevr-Count", 8, labels.clevr_count()),
    "clevr_distance": _clevr("Clevr-Dist", 6, labels.clevr_distance()),
    "dmlab": {
        "column": "DMLab",
        "tfds_name": "dmlab",
        "version": "2.0.1",
        "num_classes": 6,
        "counts": {"train": 65_550, "validation": 22_628, "test": 22_735},
    },
    "dsprites_location": _dsprites("dSpr-Loc", labels.grouped("label_x_position", 2.0)),
    "dsprites_orientation": _dsprites(
        "dSpr-Ori", labels.grouped("label_orientation", 2.5)
    ),
    "kitti_distance": {
        "column": "KITTI-Dist",
        "tfds_name": "kitti",
        "version": "3.1.0",
        "num_classes": 4,
        "counts": {"train": 6347, "validation": 423, "test": 711},
        "label": labels.kitti_distance(),
    },
    "smallnorb_azimuth": _smallnorb("sNORB-Azim", 18, "label_azimuth"),
    "smallnorb_elevation": _smallnorb("sNORB-Elev", 9, "label_elevation"),
}

TASKS = {
    f"vtab/{name}": Task(
        protocol=protocol,
        development=(protocol.train800, protocol.val200),
        final=(protocol.train800val200, protocol.test),
        **_NAMED[name],
    )
    for name, protocol in vtab_splits.TASKS.items()
}
