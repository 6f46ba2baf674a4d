"""The model that a run's folder or an .npz file holds, at any image size."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from vit_tf import config
from vit_tf.models import build, npz_identification, npz_weights
from vit_tf.runs import checkpoint


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and what is known of it.

    Attributes:
        network: the built model, in inference.
        model: what it is.
        image_size: pixels that it takes, which may not be those it was trained at.
        class_names: in label order; None where an .npz does not say.
        data: how the run showed images; None for an .npz.
        objective: what the run minimised; None for an .npz.
        lines: what was loaded and changed, for the user.
    """

    network: Any
    model: config.Model
    image_size: int
    class_names: tuple[str, ...] | None
    data: config.Data | None
    objective: config.Objective | None
    lines: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """0 where there is no last layer."""
        return self.network.num_classes

    @property
    def view(self) -> config.View:
        """How evaluation shows images: at the size that the model was opened at."""
        return config.View(self.image_size, self.eval_crop)

    @property
    def eval_crop(self) -> config.EvalCrop:
        """The run's own; of an .npz the whole image, squeezed."""
        return self.data.eval_crop if self.data else config.EvalCrop.RESIZE

    @property
    def is_sigmoid(self) -> bool:
        """Whether logits were trained one by one; of an .npz not that it says so."""
        return bool(self.objective) and self.objective.loss is config.Loss.SIGMOID

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each class: its own, or its number."""
        return self.class_names or tuple(map(str, range(self.num_classes)))


def model_of(path: str, *, variant: str | None = None) -> config.Model:
    """What is trained in a finished run or stands in an .npz, without its weights.

    Args:
        path: a run's folder or an .npz of any layout.
        variant: for an .npz whose arrays do not tell it.

    Raises:
        errors.UserError: no such file or run, or nothing that this library knows.
    """
    path = run_around(path)
    file = checkpoint.weights_file(path)
    if file != path:
        return checkpoint.read_run(path)[0].model
    return _recognised(file, variant)[0]


def open_model(
    path: str,
    *,
    image_size: int | None = None,
    variant: str | None = None,
    dtype: str | None = None,
) -> LoadedModel:
    """Builds the model of a finished run or an .npz and loads its weights.

    Args:
        path: a run's folder or an .npz of any layout; any path of tf.io.gfile.
        image_size: position embeddings are resized to it; None: as trained.
        variant: for an .npz whose arrays do not tell it.
        dtype: a Keras dtype policy; None: Keras' default.

    Raises:
        errors.UserError: no such file or run, damaged, or nothing that this library
            knows.
    """
    path = run_around(path)
    file = checkpoint.weights_file(path)
    class_names = data = objective = None
    if file != path:
        cfg, result = checkpoint.read_run(path)
        model, classes, size = cfg.model, len(result["class_names"]), None
        class_names = tuple(result["class_names"])
        data, objective = cfg.data, cfg.objective
        size = image_size or cfg.data.image_size
    else:
        model, classes, trained = _recognised(file, variant)
        size = image_size or trained
    network = build.build(model, num_classes=classes, image_size=size, dtype=dtype)
    lines = checkpoint.load_weights(network, file)
    return LoadedModel(network, model, size, class_names, data, objective, tuple(lines))


def run_around(path: str) -> str:
    """The finished run whose weights.npz `path` is, because it knows more; or `path`."""
    folder, name = os.path.split(path)
    there = tf.io.gfile.exists(os.path.join(folder, "result.json"))
    return (folder or ".") if name == "weights.npz" and there else path


def _recognised(file: str, variant: str | None = None) -> tuple[config.Model, int, int]:
    """Model, classes and pixels of an .npz."""
    with checkpoint.local_copy(file) as local:
        arrays, _ = npz_weights.read_npz(local)
    model = npz_identification.recognise(
        arrays, name=os.path.basename(file), variant=variant
    )
    classes = npz_identification.num_classes(arrays)
    return model, classes, npz_identification.image_size(arrays, model)
