"""The model that a run's folder or an .npz file holds, at any image size."""

import dataclasses
import os
from typing import Any

from vit_tf import config
from vit_tf.models import build, npz_identification, npz_weights
from vit_tf.runs import stored_weights


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
    return LoadedModel(network, model, size, class_names, data, objective, tuple(lines))


def run_around(path: str) -> str:
    """Returns the folder of the run that `path` names, or `path` where it names a file."""
    return stored_weights.locate(path).path


def _recognised(file: str, variant: str | None = None) -> tuple[config.Model, int, int]:
    """Model, classes and pixels of an .npz."""
    with stored_weights.local_copy(file) as local:
        arrays, _ = npz_weights.read_npz(local)
    model = npz_identification.recognise(
        arrays, name=os.path.basename(file), variant=variant
    )
    classes = npz_identification.num_classes(arrays)
    return model, classes, npz_identification.image_size(arrays, model)
