"""A folder of images, one sub-folder per class, as a TFDS data set.

Image files are stored as they are, byte for byte, under their file names; with `exif`
those that a camera took on its side are stored upright, as PNG.
"""

import dataclasses
import json
import typing
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from vit_tf.data import manifest
from vit_tf.data.preparation import image_facts, image_folders

SKIPPED_FILE = "skipped.txt"


@dataclasses.dataclass
class FolderConfig(tfds.core.BuilderConfig):
    """A listing under a name.

    Attributes:
        listing: the images.
        skipped: the files that it leaves out, and why.
        entries: of the manifest, one for each image.
        exif: whether images are turned as their EXIF data say.
    """

    # TFDS prints configs that it does not know; these two can be very long.
    listing: image_folders.Listing | None = dataclasses.field(default=None, repr=False)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    entries: list[manifest.Entry] = dataclasses.field(default_factory=list, repr=False)
    exif: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Returns what decides the content beside the files."""
        return {**self.listing.settings, "exif": self.exif} if self.listing else {}


class ImageFolder(tfds.core.GeneratorBasedBuilder):
    """Built as ImageFolder(config=FolderConfig(name=..., listing=...))."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def _config(self) -> FolderConfig:
        return typing.cast(FolderConfig, self.builder_config)

    @property
    def _listing(self) -> image_folders.Listing:
        if self._config.listing is None:
            raise ValueError("ImageFolder: needs a config with a listing")
        return self._config.listing

    def _info(self) -> tfds.core.DatasetInfo:
        listing = self._listing
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {listing.folder}",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=listing.class_names),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(
                folder=str(listing.folder),
                num_files=len(listing.paths) + len(self._config.skipped),
                settings=json.dumps(self._config.settings, sort_keys=True),
                content_digest=manifest.digest(
                    self._config.entries, self._config.settings
                ),
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        skipped = self._config.skipped
        # Written where TFDS assembles the data set: they appear together.
        lines = manifest.write(self._config.entries)
        (self.data_path / manifest.FILE).write_bytes(lines)
        if skipped:
            lines = [f"{path}\t{reason}\n" for path, reason in skipped.items()]
            text = "".join(lines).encode("utf-8", "backslashreplace")
            (self.data_path / SKIPPED_FILE).write_bytes(text)
        return {split: self._generate_examples(split) for split in self._listing.files}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        listing = self._listing
        for path, class_name in listing.files[split]:
            encoded = (listing.folder / path).read_bytes()
            if self._config.exif:
                encoded = image_facts.upright(encoded)
            yield path, {"image": encoded, "label": class_name, "file_name": path}
