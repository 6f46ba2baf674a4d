"""Images to look at: a file, a folder of any shape, or a split of a data set."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    data_source,
    evaluation_stream,
    failing_records,
    image_files,
    safe_decoding,
)

_BATCH = 64  # read at a time


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images as a model is shown them.

    Attributes:
        pixels: (images, size, size, 3) float32 in [-1, 1].
        names: of each, to show to a person.
        labels: the class of each; None where it is not known.
        origin: where they come from, in words.
        total: how many there were to choose from.
    """

    pixels: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    origin: str
    total: int

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yields the pixels in batches as even as can be, of `size` images at most.

        Of `size` 7 or more, none has fewer than four images if there are four.
        """
        yield from np.array_split(self.pixels, -(-len(self.pixels) // size))


def load(
    place: str,
    view: config.View,
    *,
    max_images: int,
    split: str | None = None,
    data_dir: str | None = None,
) -> tuple[Gallery, data_source.Source | None]:
    """Reads images in the evaluation view of `data`; and the data set, if it is one.

    Args:
        place: an image, a folder with images in it or below, or what
            `datasets.open_source` knows.
        view: size and crop.
        max_images: at most so many, drawn by chance and always the same.
        split: of a data set; None: test, else validation, else train.

    Raises:
        errors.UserError: no such place, nothing in it, or an image that cannot be
            read, by its name and why.
    """
    path = pathlib.Path(place).expanduser()
    if path.exists() and data_source.find_newest(catalog.Path(path)) is None:
        if split is not None:
            raise errors.UserError(f"--split={split}: {place} is no prepared data set")
        return _from_files(place, path, view, max_images), None
    try:
        source = catalog.open_source(place, data_dir)
    except errors.UserError as refusal:
        raise errors.UserError(
            f"--images={place}: no such file or folder, nor a data set: {refusal}"
        ) from None
    split = split or usual_split(source)
    return of_split(source, view, split, max_images=max_images), source


def of_split(
    source: data_source.Source, view: config.View, split: str, *, max_images: int
) -> Gallery:
    """Shows images of one split of an opened data set in the same way."""
    total = source.num_examples(split)
    keep = choose(total, max_images)
    stream = evaluation_stream.stream(
        source, view, split, batch_size=min(len(keep), _BATCH), keep=keep
    )
    try:
        batches = [{k: v.numpy() for k, v in batch.items()} for batch in stream]
    except tf.errors.InvalidArgumentError as error:
        culprit = failing_records.find_in_split(source, view, split, keep)
        raise errors.UserError(f"{culprit}: leave it out") from error
    real = np.concatenate([batch["mask"] for batch in batches])
    pixels, labels, rows = (
        np.concatenate([batch[name] for batch in batches])[real]
        for name in ("image", "label", "index")
    )
    return Gallery(
        pixels,
        tuple(f"{split} {row}" for row in rows),
        None if source.multi_label else labels,
        f"{source.name} {split}",
        total,
    )


def usual_split(source: data_source.Source) -> str:
    """Chooses of the stored splits the one that models are judged by."""
    stored = list(source.builder.info.splits)
    return next((s for s in ("test", "validation") if s in stored), stored[0])


def choose(total: int, wanted: int) -> np.ndarray:
    """Rows of `total`, sorted: all, or `wanted` of them drawn by chance once for all."""
    if total <= wanted:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).permutation(total)[:wanted])


def _from_files(
    place: str, path: pathlib.Path, view: config.View, max_images: int
) -> Gallery:
    files = [path]  # one that is named itself may have any name
    if not path.is_file():
        seen = image_files.walk(str(path), _pass_on)
        files = sorted(path / file for file in seen.files)
    if not files:
        raise errors.UserError(
            f"--images={place}: no images; need files ending in "
            f"{', '.join(image_files.EXTENSIONS)}"
        )
    chosen = [files[row] for row in choose(len(files), max_images)]
    return Gallery(
        _views(chosen, view),
        tuple(file.stem for file in chosen),
        None,
        path.name,
        len(files),
    )


def _pass_on(error: OSError) -> None:
    raise errors.UserError(f"--images: {error.filename}: {error.strerror}") from None


def _views(chosen: list[pathlib.Path], view: config.View) -> np.ndarray:
    """Views of image files that nobody has checked, (number, size, size, 3)."""
    views, show = [], _viewer(view)
    for first in range(0, len(chosen), _BATCH):
        part = chosen[first : first + _BATCH]
        # On the CPU, as in the stream of evaluation: a GPU rounds its own way.
        with tf.device("CPU:0"):
            pixels, problems = show(tf.constant([_read(file) for file in part]))
        for file, problem in zip(part, problems.numpy()):
            if problem:
                _refuse(file, problem.decode())
        views.append(pixels.numpy())
    return np.concatenate(views)


@functools.cache
def _viewer(view: config.View):
    """Traces `safe_decoding.views` once, which takes longer than to read a few images."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def show(encoded: tf.Tensor):
        return safe_decoding.views(encoded, view, max_pixels=safe_decoding.MAX_PIXELS)

    return show


def _read(file: pathlib.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        _refuse(file, error.strerror)


def _refuse(file: pathlib.Path, problem: str) -> None:
    raise errors.UserError(f"--images: {file}: {problem}; mend it or take it away")
