"""Flags of the tools that look into a trained model: which one, and its images."""

import typing

from absl import flags

from tools.flags import data_flags, model_flags
from vit_tf import config, errors

if typing.TYPE_CHECKING:
    from vit_tf.inspection import inspector

flags.disclaim_key_flags()


class InspectionFlags:
    """Defines --checkpoint, --images and how they are opened."""

    def __init__(self):
        self._checkpoint = model_flags.define_checkpoint()
        self._images = data_flags.define_images()
        self._split = flags.DEFINE_string(
            "split",
            None,
            "Of the data set in --images. Default: test, else validation.",
        )
        self._image_size = model_flags.define_image_size()
        self._variant = model_flags.define_variant()
        self._data_dir = data_flags.define_data_dir()

    @property
    def data_dir(self) -> str | None:
        """Where prepared data sets lie; None: the default."""
        return self._data_dir.value

    @property
    def images(self) -> str | None:
        """What --images names."""
        return self._images.value

    @property
    def checkpoint(self) -> str:
        """What --checkpoint names; `check` refuses that it is missing."""
        return self._checkpoint.value

    def check(self) -> None:
        """Refuses a missing --checkpoint, before TensorFlow is loaded.

        Raises:
            errors.UserError: it is missing.
        """
        if self._checkpoint.value is None:
            raise errors.UserError(
                "--checkpoint is missing: name a finished run's folder or an .npz"
            )

    def check_alone(self, why: str) -> None:
        """Refuses flags that choose images, or how the model takes them."""
        for flag in (self._images, self._split, self._image_size, self._variant):
            if flag.value is not None:
                raise errors.UserError(f"--{flag.name}: {why}; leave it out")

    def open(self, *, max_images: int, shown: int = 32) -> "inspector.Inspector":
        """Opens the model and its images, with progress on stderr."""
        from vit_tf.inspection import inspector
        from vit_tf.runtime import devices

        return inspector.open_stored(
            self.checkpoint,
            images=self.images,
            machine=devices.start(config.Train()),
            max_images=max_images,
            image_size=self._image_size.value,
            variant=self._variant.value,
            split=self._split.value,
            data_dir=self.data_dir,
            shown=shown,
        )
