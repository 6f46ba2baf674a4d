"""Flags of the tools that look into a trained model: which one, and its images."""

from absl import flags

from vit_tf import config

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A finished run's folder, or an .npz of any layout."
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "An image, a folder with images in it or below, or a prepared data set.",
)
_SPLIT = flags.DEFINE_string(
    "split", None, "Of the data set in --images. Default: test, else validation."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Pixels; position embeddings are resized. Default: as trained.",
    lower_bound=1,
)
_VARIANT = flags.DEFINE_string(
    "variant", None, "The model of an .npz whose arrays do not tell it."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where prepared data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
)


def check() -> None:
    """Refuses what can be refused before TensorFlow is loaded."""
    if CHECKPOINT.value is None:
        raise config.Refused(
            "--checkpoint is missing: name a finished run's folder or an .npz"
        )


def check_alone(why: str) -> None:
    """Refuses flags that choose images, or how the model takes them."""
    for flag in (IMAGES, _SPLIT, _IMAGE_SIZE, _VARIANT):
        if flag.value is not None:
            raise config.Refused(f"--{flag.name}: {why}; leave it out")


def open_subject(*, max_images: int, shown: int = 32):
    """The `subject.Subject` that the flags name, with progress on stderr."""
    from vit_tf.inspection import inspector
    from vit_tf.runtime import devices

    return inspector.open_stored(
        CHECKPOINT.value,
        images=IMAGES.value,
        machine=devices.start(config.Train()),
        max_images=max_images,
        image_size=_IMAGE_SIZE.value,
        variant=_VARIANT.value,
        split=_SPLIT.value,
        data_dir=DATA_DIR.value,
        shown=shown,
    )
