"""What `import vit_tf` hands out: models to load, make, train and measure."""

import dataclasses
import functools
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pydantic
import tensorflow as tf
from PIL import Image

from vit_tf import config, config_values, errors
from vit_tf.data import safe_decoding
from vit_tf.evaluation import evaluate as evaluation
from vit_tf.inspection import measures
from vit_tf.models import build
from vit_tf.runs import loading
from vit_tf.runtime import devices
from vit_tf.studies import training

_AT_A_TIME = 32  # images that the network computes at once

# One image: a file, its bytes, pixels (height, width, 3) uint8, or Pillow's.
Picture = str | os.PathLike | bytes | np.ndarray | Image.Image


class Model:
    """A model with its weights, from `load`: predicts, and shows what it looks at.

    Images are shown to it as evaluation shows them. They are paths, encoded bytes,
    arrays (height, width, 3) of bytes, or Pillow images, of any size; or an array
    (batch, size, size, 3) of floats in [-1, 1] that `preprocess` has made.

    Attributes:
        keras_model: the network, a `keras.Model` from floats in [-1, 1] to logits.
        class_names: in label order; numbers where the file has no names.
        image_size: pixels along one side that it takes.
        lines: what was loaded and changed, a line of text each.
    """

    def __init__(self, loaded: loading.LoadedModel):
        self._loaded = loaded
        self.keras_model: keras.Model = loaded.network
        self.class_names, self.image_size = loaded.labels, loaded.image_size
        self.lines = loaded.lines

    def __repr__(self) -> str:
        return (
            f"<vit_tf.Model {self._loaded.model.variant} at {self.image_size} pixels, "
            f"{self._loaded.num_classes} classes, from {self._loaded.path}>"
        )

    def preprocess(
        self, images: Picture | Sequence[Picture] | np.ndarray
    ) -> np.ndarray:
        """Returns images as the network takes them: float32 (batch, size, size, 3).

        Raises:
            errors.UserError: an image that cannot be read, by its place and why.
        """
        if isinstance(images, np.ndarray) and _is_ready(images, self.image_size):
            low, high = images.min(initial=0), images.max(initial=0)
            if low < -1.001 or high > 1.001:
                raise errors.UserError(
                    f"images: floats from {low:g} to {high:g}; need [-1, 1], as "
                    "preprocess() gives, or bytes"
                )
            return images.astype(np.float32)
        encoded = [_encoded(image) for image in _listed(images)]
        with tf.device("CPU:0"):
            pixels, problems = self._views(tf.constant(encoded, tf.string))
        for number, problem in enumerate(problems.numpy()):
            if problem:
                raise errors.UserError(f"images[{number}]: {problem.decode()}")
        return pixels.numpy()

    @functools.cached_property
    def _views(self) -> Any:
        view = self._loaded.view

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def views(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return safe_decoding.views(
                encoded, view, max_pixels=safe_decoding.MAX_PIXELS
            )

        return views

    def logits(self, images: Picture | Sequence[Picture] | np.ndarray) -> np.ndarray:
        """Returns what the last layer gives: float32 (batch, classes)."""
        return self._by_parts(images, lambda x: self.keras_model(x, training=False))

    def _by_parts(self, images: Any, compute: Callable[[Any], Any]) -> np.ndarray:
        """Computes a few images at a time, so that many need no more memory."""
        given = images if _is_batch(images) else _listed(images)
        parts = [
            _array(compute(keras.ops.convert_to_tensor(self.preprocess(part))))
            for part in (
                given[i : i + _AT_A_TIME] for i in range(0, len(given), _AT_A_TIME)
            )
        ]
        if not parts:
            raise errors.UserError("images: none given")
        return np.concatenate(parts)

    def predict(
        self, images: Picture | Sequence[Picture] | np.ndarray, top: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Returns for each image its likeliest classes: [(name, probability), ...].

        Args:
            images: see the class.
            top: how many, best first; all where there are fewer.

        Raises:
            errors.UserError: an image that cannot be read; a model without classes.
        """
        if top < 1:
            raise errors.UserError(f"top={top}: need 1 or more", field="top")
        if not self._loaded.num_classes:
            raise errors.UserError(
                f"{self._loaded.path}: has no last layer, so it has no classes; use "
                "features(), or transfer it first"
            )
        self._loaded.require_pooled("a prediction")
        scores = np.asarray(self._loaded.probabilities(self.logits(images)))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return [
            [(self.class_names[i], float(row[i])) for i in best]
            for row, best in zip(scores, order)
        ]

    def features(
        self,
        images: Picture | Sequence[Picture] | np.ndarray,
        layer: str | None = None,
    ) -> np.ndarray:
        """Returns features of images, for a classifier or a search of one's own.

        Args:
            images: see the class.
            layer: None: what the last layer reads, (batch, width). Else a named result
                of the forward pass: 'block_3' (batch, tokens, width), 'encoded',
                'pooled', 'positioned', ...

        Raises:
            errors.UserError: no result of that name.
        """
        network = self._loaded.network
        if layer is None:
            return self._by_parts(images, lambda x: network.forward(x)[0])

        def named(pixels: Any) -> Any:
            record: dict[str, Any] = {}
            network(pixels, training=False, record=record)
            if layer not in record:
                raise errors.UserError(
                    f"layer={layer}: no such result{errors.nearest(layer, record)}"
                )
            return record[layer]

        return self._by_parts(images, named)

    def attention(
        self, images: Picture | Sequence[Picture] | np.ndarray
    ) -> list[np.ndarray]:
        """Returns the attention of every block: (batch, heads, T, T), rows sum to 1.

        T tokens: the class token, where there is one, then the patches in raster order.

        Raises:
            errors.UserError: a model without attention.
        """
        measures.check_tokens(self.keras_model)
        return measures.attention_weights(self.keras_model, self.preprocess(images))

    def attention_map(
        self, images: Picture | Sequence[Picture] | np.ndarray
    ) -> np.ndarray:
        """Returns where each image is looked at, by attention rollout (Figure 6, D.7).

        Returns:
            float64 (batch, g, g), a number for each patch.
        """
        rollout = measures.attention_rollout(self.attention(images))
        return measures.rollout_map(rollout)


def load(
    path: str | os.PathLike,
    *,
    image_size: int | None = None,
    variant: str | None = None,
) -> Model:
    """Loads a model with its weights.

    Args:
        path: a run's folder, a checkpoint inside one (`RUN@best`, `RUN@step_400`), or
            an .npz of any published layout.
        image_size: pixels; position embeddings are resized. None: as trained.
        variant: of a file whose arrays are those of several variants.

    Raises:
        errors.UserError: no such file or run, damaged, or nothing that is known here.
    """
    return Model(
        loading.open_model(os.fspath(path), image_size=image_size, variant=variant)
    )


def create(
    variant: str,
    *,
    num_classes: int,
    image_size: int = 224,
    **settings: Any,
) -> keras.Model:
    """Makes a model with random weights: a `keras.Model` from [-1, 1] to logits.

    >>> model = create("ViT-mu/16", num_classes=10, image_size=32)
    >>> model.count_params()
    37898

    Args:
        variant: a name of `list_models`, such as 'ViT-B/16', 'R50+ViT-B/16', 'R50x1'.
        num_classes: width of the logits; 0: no last layer, features come out.
        image_size: pixels along one side.
        **settings: other fields of `vit_tf.config.Model`, such as dropout=0.1.

    Raises:
        errors.UserError: no such variant, setting or size.
    """
    known = [field.name for field in dataclasses.fields(config.Model)]
    for name in settings:
        if name not in known:
            raise errors.UserError(
                f"{name}: no setting of a model{errors.nearest(name, known)}",
                field=name,
            )
    try:
        described = config.Model(variant=variant, **settings)
    except pydantic.ValidationError as error:
        raise errors.UserError(config_values.first_problem(error)) from None
    return build.build(described, num_classes=num_classes, image_size=image_size)


def list_models() -> list[str]:
    """Lists the variants of the paper and of later releases; other patches work too.

    >>> "ViT-B/16" in list_models()
    True
    """
    return list(build.names())


def train(
    cfg: config.Config,
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
) -> dict[str, Any] | None:
    """Trains, evaluates and records one run; resumes it if it was cut off.

    Args:
        cfg: what to train.
        workdir: the run's folder.
        data_dir: where prepared data sets lie; None: the TFDS default.

    Returns:
        What result.json holds, or None when a signal stopped the run early.

    Raises:
        errors.UserError: trouble that the user can mend, in one line.
    """
    machine = devices.start(cfg.train)
    return training.train(cfg, os.fspath(workdir), machine=machine, data_dir=data_dir)


def evaluate(
    checkpoint: str | os.PathLike,
    datasets: Sequence[str],
    *,
    measures: Sequence[str] = ("accuracy",),
    split: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Measures a stored model on prepared data sets, every example once.

    Args:
        checkpoint: see `load`.
        datasets: names of prepared data sets.
        measures: such as accuracy, top5_accuracy, nll, ece.
        split: None: test, else validation.
        image_size: pixels; None: as trained.
        batch_size: images at once; the numbers do not depend on it.
        data_dir: where prepared data sets lie; None: the TFDS default.

    Returns:
        A report; its 'metrics' are dicts of dataset, split, name, value and count.

    Raises:
        errors.UserError: no such model, data set or measure; other classes.
    """
    request = evaluation.Request(
        checkpoint=os.fspath(checkpoint),
        names=tuple(datasets),
        evaluators=tuple(measures),
        split=split,
        image_size=image_size,
        batch_size=batch_size,
        data_dir=data_dir,
    )
    return evaluation.evaluate(request, devices.start(config.Train()))


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def _is_batch(images: Any) -> bool:
    return isinstance(images, np.ndarray) and images.ndim == 4


def _is_ready(images: np.ndarray, size: int) -> bool:
    return (
        images.ndim == 4
        and images.dtype.kind == "f"
        and images.shape[1:3]
        == (
            size,
            size,
        )
    )


def _listed(images: Any) -> list[Picture]:
    """Returns one image or several as a list."""
    single = isinstance(images, (str, os.PathLike, bytes, Image.Image))
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        return [images]
    return list(images)


def _encoded(image: Any) -> bytes:
    """Returns the bytes of an image file; of pixels as PNG, which loses nothing."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        try:
            with open(image, "rb") as file:
                return file.read()
        except OSError as error:
            raise errors.UserError(f"{image}: {error.strerror}") from None
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise errors.UserError(
                f"an array {image.shape} of {image.dtype}: need (height, width, 3) of "
                "uint8, or what preprocess() gives"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise errors.UserError(
            f"a {type(image).__name__}: need a path, bytes, an array or a Pillow image"
        )
    out = io.BytesIO()
    image.convert("RGB").save(out, "PNG")
    return out.getvalue()
