"""The model that a run's folder or an .npz file holds, at any image size."""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.models import build, npz_identification, npz_weights
from vit_tf.models import network as networks
from vit_tf.runs import stored_weights


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and the settings that it was trained with.

    Attributes:
        network: the built model, for inference.
        model: its description, from which it can be built again.
        image_size: pixels of its input, which may differ from those of its training.
        class_names: in label order; None where an .npz does not hold them.
        data: the run's data settings; None for an .npz.
        objective: the loss that the run minimised; None for an .npz.
        lines: what was loaded and changed, a line of text each.
        path: the run's folder or .npz, for messages.
    """

    network: networks.Network
    model: config.Model
    image_size: int
    class_names: tuple[str, ...] | None
    data: config.Data | None
    objective: config.Objective | None
    lines: tuple[str, ...]
    path: str = "this model"

    @property
    def num_classes(self) -> int:
        """Returns the number of logits; 0 where there is no last layer."""
        return self.network.num_classes

    @property
    def view(self) -> config.View:
        """Returns the size and crop of evaluation images, at the size it was built for."""
        return config.View(self.image_size, self.eval_crop)

    @property
    def eval_crop(self) -> config.EvalCrop:
        """Returns the run's own crop; of an .npz the whole image, squeezed to a square."""
        return self.data.eval_crop if self.data else config.EvalCrop.RESIZE

    @property
    def is_sigmoid(self) -> bool:
        """Returns whether each class was trained as a yes-no question of its own.

        An .npz does not say; False then, as for most released models.
        """
        return self.objective is not None and self.objective.loss is config.Loss.SIGMOID

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns a name for each class: its own, or its number."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def probabilities(self, logits: tf.Tensor | np.ndarray) -> tf.Tensor:
        """Returns probabilities of classes, of the shape and dtype of `logits`.

        Softmax, or the sigmoid of each where the run was trained so.

        Args:
            logits: float (..., classes).
        """
        return probabilities(logits, sigmoid=self.is_sigmoid)

    def require_pooled(self, use: str) -> None:
        """Refuses a model that gives logits for every token.

        Args:
            use: what needs one vector per image, such as 'evaluation'.

        Raises:
            errors.UserError: the model is not pooled.
        """
        if not self.network.pools:
            raise errors.UserError(
                f"{self.path}: gives logits for every token (model.pool="
                f"{self.model.pool}), {use} needs one vector per image"
            )


def probabilities(logits: tf.Tensor | np.ndarray, *, sigmoid: bool) -> tf.Tensor:
    """Returns probabilities of classes, of the shape and dtype of `logits`.

    Args:
        logits: float (..., classes).
        sigmoid: whether classes are independent; else they exclude each other.
    """
    return tf.sigmoid(logits) if sigmoid else tf.nn.softmax(logits)


def model_of(path: str, *, variant: str | None = None) -> config.Model:
    """Returns the description of a stored model, without loading its weights.

    Args:
        path: see `stored_weights.locate`.
        variant: for a file whose arrays are those of several variants.

    Raises:
        errors.UserError: no such file or run, or nothing that this library knows.
    """
    if stored_weights.locate(path).is_run:
        return stored_weights.read_run(path)[0].model
    return _recognised(path, variant)[0]


def trained_size(path: str, *, variant: str | None = None) -> int:
    """Returns the pixels of an image's side that a stored model was trained at.

    Args:
        path: see `stored_weights.locate`.
        variant: for a file whose arrays are those of several variants.

    Raises:
        errors.UserError: no such file or run, or nothing that this library knows.
    """
    if stored_weights.locate(path).is_run:
        return stored_weights.read_run(path)[0].data.image_size
    return _recognised(path, variant)[2]


def open_model(
    path: str,
    *,
    image_size: int | None = None,
    variant: str | None = None,
    dtype: str | None = None,
) -> LoadedModel:
    """Builds a stored model and loads its weights.

    Args:
        path: see `stored_weights.locate`; any path of tf.io.gfile.
        image_size: position embeddings are resized to it; None: as trained.
        variant: for a file whose arrays are those of several variants.
        dtype: a Keras dtype policy; None: Keras' default.

    Raises:
        errors.UserError: no such file or run, damaged, or nothing that this library
            knows.
    """
    file = stored_weights.weights_file(path)
    class_names = data = objective = None
    if stored_weights.locate(path).is_run:
        cfg, result = stored_weights.read_run(path)
        model, classes = cfg.model, len(result["class_names"])
        class_names = tuple(result["class_names"])
        data, objective, trained = cfg.data, cfg.objective, cfg.data.image_size
    else:
        model, classes, trained = _recognised(file, variant)
    size = trained if image_size is None else image_size
    network = build.build(model, num_classes=classes, image_size=size, dtype=dtype)
    lines = stored_weights.load_weights(network, file)
    return LoadedModel(
        network, model, size, class_names, data, objective, tuple(lines), path
    )


def run_around(path: str) -> str:
    """Returns the finished run that `path` is the weights.npz of, or `path` itself.

    The run's folder also holds class names, the view of images and the loss.
    """
    folder, name = os.path.split(path)
    there = tf.io.gfile.exists(os.path.join(folder, "result.json"))
    return (folder or ".") if name == "weights.npz" and there else path


def _recognised(file: str, variant: str | None = None) -> tuple[config.Model, int, int]:
    """Returns model, classes and pixels of an .npz."""
    with stored_weights.local_copy(file) as local:
        arrays, _ = npz_weights.read_npz(local)
    model = npz_identification.recognise(
        arrays, name=os.path.basename(file), variant=variant
    )
    classes = npz_identification.num_classes(arrays)
    return model, classes, npz_identification.image_size(arrays, model)
