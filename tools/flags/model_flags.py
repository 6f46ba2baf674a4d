"""Flags that say which stored model is meant, and how it is shown images."""

import typing

from absl import flags

from tools.flags import number_flags, path_flags
from vit_tf import config, errors

flags.disclaim_key_flags()


def define_checkpoint(
    help_text: str = "A finished run's folder, or an .npz of any layout.",
    *,
    required: bool = False,
) -> flags.FlagHolder[str]:
    """Defines --checkpoint."""
    return path_flags.define_path("checkpoint", None, help_text, required=required)


def define_start_from(
    help_text: str = "A finished run's folder or a released .npz.",
    *,
    required: bool = False,
) -> flags.FlagHolder[str]:
    """Defines --start_from."""
    return path_flags.define_path("start_from", None, help_text, required=required)


def define_variant(
    help_text: str = "The model of an .npz whose arrays do not tell it.",
    default: str | None = None,
) -> flags.FlagHolder[str]:
    """Defines --variant, the paper's name of a model."""
    return flags.DEFINE_string("variant", default, help_text)


def define_image_size(
    help_text: str = "Pixels; position embeddings are resized. Default: as trained.",
    default: int | None = None,
) -> flags.FlagHolder[int]:
    """Defines --image_size, the side of a square image."""
    return number_flags.define_integer(
        "image_size", default, help_text, upper=number_flags.MAX_PIXELS
    )


def define_batch_size(default: int, help_text: str) -> flags.FlagHolder[int]:
    """Defines --batch_size."""
    return number_flags.define_integer(
        "batch_size", default, help_text, upper=number_flags.MAX_BATCH
    )


class View(typing.TypedDict):
    """How a stored model is opened and shown images.

    Attributes:
        image_size: pixels; None: as trained.
        eval_crop: the view; None: the run's own, of an .npz `resize`.
        variant: of an .npz whose arrays do not tell it.
    """

    image_size: int | None
    eval_crop: config.EvalCrop | None
    variant: str | None


class ViewFlags:
    """Defines --image_size, --eval_crop and --variant; called, reads them."""

    def __init__(self):
        self._image_size = define_image_size()
        self._eval_crop = flags.DEFINE_enum(
            "eval_crop",
            None,
            [str(crop) for crop in config.EvalCrop],
            "The view of an image. Default: the run's own; of an .npz resize.",
        )
        self._variant = define_variant()

    def __call__(self) -> View:
        crop = self._eval_crop.value
        return View(
            image_size=self._image_size.value,
            eval_crop=None if crop is None else config.EvalCrop(crop),
            variant=self._variant.value,
        )


def model_of(path: str, variant: str | None) -> tuple[config.Model, int]:
    """Returns the model of --start_from without its weights, and its pixels.

    Raises:
        errors.UserError: no such file or run, or nothing that this library knows.
    """
    from vit_tf.runs import loading

    try:
        model = loading.model_of(path, variant=variant)
        return model, loading.trained_size(path, variant=variant)
    except errors.UserError as refusal:
        raise type(refusal)(f"--start_from={refusal}") from None
