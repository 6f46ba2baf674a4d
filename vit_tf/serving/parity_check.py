"""Whether an export answers as the checkpoint does, on the same image files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import images
from vit_tf.inspection import measures
from vit_tf.models import network
from vit_tf.runs import loading
from vit_tf.serving import serving_signatures

# What may differ, as a share: of an array's norm, or of probability 1. Rounding to 8
# bits of mantissa in every layer costs features of ViT-B/16 about 1 %; a wrong crop,
# order or weight costs far more than these.
LIMITS = {
    config.Precision.FLOAT32: 1e-4,
    config.Precision.MIXED_FLOAT16: 0.02,
    config.Precision.MIXED_BFLOAT16: 0.06,
}

# (signature, inputs) -> outputs, of a loaded export.
Run = Callable[[str, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """One output of one signature.

    Attributes:
        name: signature and output, such as 'features/features'.
        size: norm of the difference over that of the checkpoint's array; of
            probabilities the largest difference.
        limit: what it may be.
    """

    name: str
    size: float
    limit: float


def sample_files(count: int = 8) -> list[bytes]:
    """Makes image files with soft shapes and noise: JPEG and PNG,
    upright and wide, fixed.
    """
    draw = np.random.default_rng(0)
    files = []
    for i in range(count):
        height, width = (int(n) for n in draw.integers(180, 420, 2))
        coarse = draw.uniform(0, 255, (1, 6, 8, 3))
        picture = tf.image.resize(coarse, (height, width), method="bicubic")[0]
        picture += draw.normal(0, 12, (height, width, 3))
        pixels = tf.cast(tf.clip_by_value(picture, 0, 255), tf.uint8)
        encode = tf.io.encode_jpeg if i % 2 else tf.io.encode_png
        files.append(encode(pixels).numpy())
    return files


def expected(
    reference: loading.LoadedModel,
    options: serving_signatures.Options,
    files: Sequence[bytes],
) -> dict[str, np.ndarray]:
    """Computes what the checkpoint gives in float32, by name of output."""
    view = options.view(reference)
    pixels = tf.stack([images.evaluation_view(tf.constant(f), view) for f in files])
    record: dict[str, Any] = {}
    logits = reference.network(pixels, training=False, record=record)
    sigmoid = options.scores is serving_signatures.Scores.SIGMOID
    squash = tf.nn.sigmoid if sigmoid else tf.nn.softmax
    outputs = {
        "images": pixels.numpy(),
        "logits": np.asarray(logits),
        "features": np.asarray(record.get(network.PRE_LOGITS, record[network.POOLED])),
        "probabilities": squash(logits).numpy(),
    }
    if options.attention:
        weights = measures.attention_weights(reference.network, pixels)
        outputs["rollout"] = measures.rollout_map(measures.attention_rollout(weights))
    return outputs


def compare(
    run: Run,
    signatures: Sequence[str],
    wanted: Mapping[str, np.ndarray],
    files: Sequence[bytes],
    *,
    options: serving_signatures.Options,
    class_names: Sequence[str],
) -> list[Difference]:
    """Compares every signature with what the checkpoint gave.

    Raises:
        errors.UserError: an output differs by more than its limit, naming it; a class
            has another name.
    """
    differences, limit = [], LIMITS[options.precision]
    for name in signatures:
        whole = {"image_bytes": np.array(list(files), object)}
        if name == "serving_tensor":
            whole = {"images": wanted["images"]}
        outputs = _in_slices(run, name, whole, options.max_batch_size)
        for output in ("features", "probabilities", "rollout", "logits"):
            if output in outputs:
                size = difference(outputs[output], wanted[output], output)
                differences.append(Difference(f"{name}/{output}", size, limit))
        if "classes" in outputs:
            best = outputs["probabilities"].argmax(axis=1)
            best_names = [text.decode() for text in outputs["classes"][:, 0]]
            if best_names != [class_names[label] for label in best]:
                raise errors.UserError(
                    f"{name}/classes: the best are called {best_names}, which are not the "
                    "names of these labels; nothing was written. Please report it"
                )
    refuse_large(differences)
    return differences


def _in_slices(run: Run, name: str, inputs, most: int) -> dict[str, np.ndarray]:
    """Runs at most so many rows at once, as any client of this export has to."""
    count = len(next(iter(inputs.values())))
    parts = [
        run(name, {key: array[i : i + most] for key, array in inputs.items()})
        for i in range(0, count, most)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def difference(given: np.ndarray, wanted: np.ndarray, output: str) -> float:
    """Computes `Difference.size`; not a number where anything is not finite."""
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    if given.shape != wanted.shape:
        return float("nan")
    gap = np.abs(given - wanted)
    if output == "probabilities":
        return float(gap.max())
    return float(np.linalg.norm(gap) / max(np.linalg.norm(wanted), 1e-12))


def refuse_large(differences: Sequence[Difference]) -> None:
    """Raises errors.UserError if one of them is above its limit, or not a number."""
    for d in differences:
        if not d.size <= d.limit:
            raise errors.UserError(
                f"the export does not agree with the checkpoint: {d.name} differs by "
                f"{d.size:.3g}, allowed is {d.limit:g}; nothing was written. Export in "
                "float32, or report it with the checkpoint"
            )
