"""ObjectNet's images of the 113 classes that ImageNet has too, under ImageNet's labels.

Reads the unpacked `objectnet-1.0` (images/FOLDER/*.png and mappings/). A class can
stand for several of ImageNet's, so that an example has a list of labels.
"""

import json
import os
from collections.abc import Iterator

import tensorflow as tf
import tensorflow_datasets as tfds

from vit_tf import errors

_NUM_CLASSES = 1000


class Objectnet(tfds.core.GeneratorBasedBuilder):
    """One split, 'test'. Images are stored as they are, with their red border."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir should contain objectnet-1.0, unpacked"

    def _info(self) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(num_classes=_NUM_CLASSES)
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "labels": tfds.features.Sequence(label),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"test": self._generate_examples(dl_manager.manual_dir)}

    def _generate_examples(self, manual_dir: os.PathLike) -> Iterator[tuple[str, dict]]:
        home = tfds.core.Path(manual_dir) / "objectnet-1.0"
        for folder, labels in sorted(map_folders(home / "mappings").items()):
            paths = sorted((home / "images" / folder).glob("*.png"))
            if not paths:
                raise errors.UserError(f"{home / 'images' / folder}: no .png images")
            for path in paths:
                name = f"{folder}/{path.name}"
                example = {"image": path.read_bytes(), "labels": labels}
                yield name, {**example, "file_name": name}


def map_folders(mappings: tfds.core.Path) -> dict[str, list[int]]:
    """Returns which of ImageNet's labels (TFDS's order) are right for each folder.

    The files say: folder -> ObjectNet's class -> ImageNet's names, joined by '; ' ->
    the line of each name -> the label whose number leads to that line.

    Raises:
        errors.UserError: the files do not fit together.
    """

    def read(name: str) -> dict:
        return json.loads((mappings / f"{name}.json").read_text())

    numbers = {int(k): int(v) for k, v in read("pytorch_to_imagenet_2012_id").items()}
    names = (mappings / "imagenet_to_label_2012_v2").read_text().splitlines()
    names = [name.strip() for name in names]
    # Some readers count the lines from 0 and some from 1; the numbers themselves tell.
    first = min(numbers.values())
    if sorted(numbers.values()) != list(range(first, first + len(names))):
        raise errors.UserError(
            f"{mappings}: pytorch_to_imagenet_2012_id.json does not number the lines "
            "of imagenet_to_label_2012_v2"
        )
    label_of = {names[number - first]: label for label, number in numbers.items()}
    folder_of = {v: k for k, v in read("folder_to_objectnet_label").items()}
    labels = {}
    for kind, joined in read("objectnet_to_imagenet_1k").items():
        wanted = [name.strip() for name in joined.split("; ")]
        unclear = [name for name in wanted if names.count(name) != 1]
        if unclear or kind not in folder_of:
            raise errors.UserError(
                f"{mappings}: {kind!r} of objectnet_to_imagenet_1k.json has no folder, "
                f"or not one line each for {', '.join(wanted)}"
            )
        labels[folder_of[kind]] = sorted(label_of[name] for name in wanted)
    return labels


def cut_border(encoded: tf.Tensor) -> tf.Tensor:
    """Takes off the red border of one pixel, as the owners demand when testing."""
    pixels = tf.io.decode_png(encoded, channels=3)
    return tf.io.encode_png(pixels[1:-1, 1:-1], compression=1)
