"""What a stored model says of encoded images: a run, an .npz or an export, no server.

A run or an .npz sees images as `evaluation` shows them, pixel for pixel; an export
decodes by itself.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from vit_tf import config, errors, identity
from vit_tf.data import safe_decoding
from vit_tf.runs import loading, stored_weights
from vit_tf.runtime import filesystem
from vit_tf.serving import predictions

TOP = 5  # classes that are named where nobody asks for another number
SIGNATURE, INPUT = "serving_default", "image_bytes"


class Ask(Protocol):
    """Predicts encoded images.

    Attributes:
        identity: what the answers follow from.
    """

    identity: identity.Identity

    def __call__(self, encoded: Sequence[bytes]) -> list[predictions.Prediction]:
        """Returns the predictions of a batch, in its order."""
        ...


def open_stored(
    path: str,
    *,
    top: int | None = None,
    image_size: int | None = None,
    eval_crop: config.EvalCrop | None = None,
    variant: str | None = None,
) -> tuple[Ask, int]:
    """Opens what gives answers to images.

    Args:
        path: a finished run's folder, an .npz of any layout, or an export's folder,
            with or without the version, which else is the newest.
        top: classes of an answer; None: 5, or as many as there are.
        image_size: of a run or .npz, in pixels; None: as trained.
        eval_crop: of a run or .npz; None: the run's own, of an .npz `resize`.
        variant: of an .npz whose arrays fit several models.

    Returns:
        the function that answers, and the classes of each of its answers.

    Raises:
        errors.UserError: nothing there that can be opened, or a model without classes; a
            flag that an export cannot heed; more classes than there are.
    """
    folder = export_folder(path)
    if folder is None:
        return _of_checkpoint(path, top, image_size, eval_crop, variant)
    for name, value in (
        ("image_size", image_size),
        ("eval_crop", eval_crop),
        ("variant", variant),
    ):
        if value is not None:
            raise errors.UserError(
                f"--{name}={value}: {path} is an export, which says that itself; leave "
                "the flag out"
            )
    return _of_export(folder, top)


def export_folder(path: str) -> str | None:
    """Finds the folder with `saved_model.pb` that `path` or its newest version is."""
    with filesystem.reading(path):
        if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            return path
        if not tf.io.gfile.isdir(path):
            return None
        versions = [
            name.rstrip("/")
            for name in tf.io.gfile.listdir(path)
            if re.fullmatch(r"[0-9]+/?", name)
            and tf.io.gfile.exists(os.path.join(path, name, "saved_model.pb"))
        ]
    return os.path.join(path, max(versions, key=int)) if versions else None


def check_top(top: int | None, available: int, whose: str) -> int:
    """Chooses how many classes an answer has.

    Raises:
        errors.UserError: more than there are.
    """
    if top is not None and top > available:
        raise errors.UserError(
            f"--top={top}: {whose} has {available}; name at most that many"
        )
    return top or min(TOP, available)


def _of_checkpoint(
    path: str,
    top: int | None,
    image_size: int | None,
    eval_crop: config.EvalCrop | None,
    variant: str | None,
) -> tuple[Ask, int]:
    precision = None  # a run's own, so that its own numbers come out
    if stored_weights.locate(path).is_run:
        if variant is not None:
            raise errors.UserError(f"--variant: {path} is a run, which says what it is")
        precision = str(stored_weights.read_run(path)[0].train.precision)
    opened = loading.open_model(
        path, image_size=image_size, variant=variant, dtype=precision
    )
    if not opened.num_classes:
        raise errors.UserError(
            f"{path}: has no last layer, so it has no classes; transfer it first "
            "(tools.transfer)"
        )
    opened.require_pooled("a prediction")
    top = check_top(top, opened.num_classes, path)
    return _Stored(opened, eval_crop, top), top


class _Stored:
    """Answers of an opened run or .npz."""

    def __init__(
        self, opened: loading.LoadedModel, eval_crop: config.EvalCrop | None, top: int
    ):
        crop = eval_crop or opened.eval_crop
        data = config.View(image_size=opened.image_size, eval_crop=crop)
        network = opened.network
        self.names = np.array(opened.labels, object)
        self.shape = (data.image_size, data.image_size, 3)

        @tf.function(
            input_signature=[tf.TensorSpec((None, *self.shape), tf.float32)],
            autograph=False,
        )
        def judge(pixels):
            logits = network(tf.cast(pixels, network.compute_dtype), training=False)
            return tf.math.top_k(opened.probabilities(tf.cast(logits, tf.float32)), top)

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def views(encoded):
            return safe_decoding.views(
                encoded, data, max_pixels=safe_decoding.MAX_PIXELS
            )

        self.views, self.judge = views, judge
        self.identity = identity.Identity.of(
            weights=stored_weights.digest(opened.path),
            made_from=opened.path,
            settings={
                "top": top,
                "image_size": data.image_size,
                "eval_crop": crop,
                "precision": network.dtype_policy.name,
                "scores": "sigmoid" if opened.is_sigmoid else "softmax",
                "class_names": identity.digest_values(opened.labels),
            },
        )

    def __call__(self, encoded: Sequence[bytes]) -> list[predictions.Prediction]:
        """Predicts encoded images, in their order."""
        pixels, reasons = self.see(encoded)
        scores, labels = self.judge(pixels)
        return predictions.of_arrays(
            self.names[labels.numpy()], scores.numpy(), reasons
        )

    def see(self, encoded: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Decodes what the model is shown.

        Returns:
            float32 (n, size, size, 3) in [-1, 1], zeros where an image cannot be read,
            and n times an empty text or why it cannot.
        """
        # On the CPU, as in the stream of evaluation: a GPU rounds its own way.
        with tf.device("CPU:0"):
            pixels, reasons = self.views(tf.constant(list(encoded), tf.string))
        return pixels.numpy(), [reason.decode() for reason in reasons.numpy()]


def _of_export(folder: str, top: int | None) -> tuple[Ask, int]:
    """Returns what answers by the signature `serving_default` of an export."""
    try:
        loaded = tf.saved_model.load(folder)
    except (tf.errors.OpError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise errors.UserError(f"{folder}: cannot be loaded: {reason}") from error
    signature = loaded.signatures.get(SIGNATURE)
    outputs = set(signature.structured_outputs) if signature else set()
    if not {"classes", "scores"} <= outputs:
        raise errors.UserError(
            f"{folder}: no signature {SIGNATURE} with classes and scores; make one "
            "with tools.export"
        )
    given = signature.structured_outputs["scores"].shape[-1]
    top = check_top(top, given or (top or TOP), folder)
    return _Exported(folder, loaded, top), top


class _Exported:
    """Predicts with the signature `serving_default` of an export."""

    def __init__(self, folder: str, loaded: Any, top: int):
        # `loaded` stays referenced, because its variables die with it.
        self._folder, self._loaded, self._top = folder, loaded, top
        self.identity = identity.Identity.of(
            weights=_digest_export(folder), made_from=folder, settings={"top": top}
        )

    def __call__(self, encoded: Sequence[bytes]) -> list[predictions.Prediction]:
        """Predicts encoded images, in their order."""
        top, asked = self._top, tf.constant(list(encoded), tf.string)
        try:
            outputs = self._loaded.signatures[SIGNATURE](**{INPUT: asked})
        except tf.errors.InvalidArgumentError as error:
            reason = " ".join(error.message.split())
            raise errors.UserError(
                f"--batch_size={len(encoded)}: {self._folder} does not take it: {reason}"
            ) from None
        classes = [
            [name.decode("utf-8", "replace") for name in row[:top]]
            for row in outputs["classes"].numpy()
        ]
        reasons = [""] * len(encoded)
        if "error" in outputs:
            reasons = [e.decode("utf-8", "replace") for e in outputs["error"].numpy()]
        return predictions.of_arrays(
            classes, outputs["scores"].numpy()[:, :top], reasons
        )


def _digest_export(folder: str) -> str:
    """Returns the SHA-256 of an export's graph, variables and class names."""
    if "://" not in folder:
        return identity.digest_folder(folder)
    digests = {}
    with filesystem.reading(folder):
        for parent, _, names in tf.io.gfile.walk(folder):
            for name in names:
                path = os.path.join(parent, name)
                with tf.io.gfile.GFile(path, "rb") as file:
                    content = hashlib.sha256(file.read()).hexdigest()
                digests[path.removeprefix(folder).lstrip("/")] = content
    return identity.digest_values(digests)
