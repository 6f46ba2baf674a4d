"""Flags that say where prepared data sets lie, and which are meant."""

from absl import flags

from tools.flags import path_flags

flags.disclaim_key_flags()


def define_data_dir(
    help_text: str = (
        "Where prepared data sets lie; by default $TFDS_DATA_DIR or "
        "~/tensorflow_datasets."
    ),
) -> flags.FlagHolder[str]:
    """Defines --data_dir."""
    return path_flags.define_path("data_dir", None, help_text)


def define_images(*, repeated: bool = False) -> flags.FlagHolder:
    """Defines --images: one path or data set, or with `repeated` several paths."""
    if repeated:
        return path_flags.define_paths(
            "images", "A folder, a file or a pattern; may be repeated.", required=True
        )
    return path_flags.define_path(
        "images",
        None,
        "An image, a folder with images in it or below, or a prepared data set.",
    )
