"""Exports a checkpoint: a SavedModel for TensorFlow Serving, or ONNX, or TFLite.

python -m tools.export --checkpoint=runs/photos --to=exports --name=vit
python -m tools.export --checkpoint=B_16-i1k-384.npz --to=exports --precision=bfloat16 \
    --labels=imagenet_classes.txt --attention
python -m tools.export --checkpoint=runs/photos --to=exports --format=onnx

Writes exports/vit/1, the next time exports/vit/2, each with its class names,
warm-up requests and a model card. Nothing is written unless it answers as the
checkpoint does. docs/serving.md goes on from here.
"""

import pathlib
import shlex
import typing

from absl import flags

from tools import command, next_steps
from tools.flags import model_flags, number_flags, path_flags
from vit_tf import config, errors

if typing.TYPE_CHECKING:
    from vit_tf.serving import serving_signatures

_PRECISIONS = {
    "float32": config.Precision.FLOAT32,
    "bfloat16": config.Precision.MIXED_BFLOAT16,
    "float16": config.Precision.MIXED_FLOAT16,
}

_CHECKPOINT = model_flags.define_checkpoint(
    "A finished run's folder, or an .npz.", required=True
)
_TO = path_flags.define_path(
    "to", None, "Folder of all exported models.", required=True
)
_NAME = flags.DEFINE_string("name", None, "Of the model. Default: the checkpoint's.")
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "onnx", "tflite"],
    "onnx and tflite take images, not files of them.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    list(_PRECISIONS),
    "Of weights and products; norms' sums and the last layer stay float32. bfloat16 is "
    "fast on CPUs with AMX, float16 on GPUs.",
)
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    "auto",
    ["auto", "constants", "variables"],
    "Constants of the graph are faster on CPUs; above 1.5 GiB they do not fit.",
)
_ATTENTION = flags.DEFINE_boolean(
    "attention", False, "Adds a signature that gives the attention rollout."
)
_TOP_K = number_flags.define_integer("top_k", 5, "Classes in an answer.")
_SCORES = flags.DEFINE_enum(
    "scores",
    None,
    ["softmax", "sigmoid"],
    "Default: as the run was trained; of an .npz softmax. The released ImageNet-21k "
    "weights were trained with sigmoid.",
)
_VIEW = model_flags.ViewFlags()
_LABELS = path_flags.define_path(
    "labels", None, "A file with a class name on each line. Default: the run's names."
)
_LICENSE = flags.DEFINE_string("license", None, "What the model card says of it.")
_MAX_PIXELS = number_flags.define_integer(
    "max_pixels", 64_000_000, "Of one file that is decoded."
)
_MAX_BATCH = number_flags.define_integer(
    "max_batch_size", 256, "Images in one request.", upper=number_flags.MAX_BATCH
)
_OVERWRITE = path_flags.define_overwrite("An ONNX or TFLite file")
_IMAGES = path_flags.define_path_list(
    "images",
    "Files to compare export and checkpoint on. Default: eight drawn pictures.",
)


def main() -> None:
    path_flags.check_readable(_LABELS)
    path_flags.check_folder(_TO)
    samples = tuple((name, _bytes_of(name)) for name in _IMAGES.value)
    command.load_tensorflow()
    from vit_tf.serving import onnx_tflite, saved_model, serving_signatures

    view = _VIEW()
    request = saved_model.Request(
        checkpoint=_CHECKPOINT.value,
        to=_TO.value,
        name=_NAME.value,
        options=serving_signatures.Options(
            precision=_PRECISIONS[_PRECISION.value],
            top_k=_TOP_K.value,
            attention=_ATTENTION.value,
            weights=serving_signatures.Weights(_WEIGHTS.value),
            max_pixels=_MAX_PIXELS.value,
            max_batch_size=_MAX_BATCH.value,
            eval_crop=view["eval_crop"],
            scores=_scores(),
        ),
        variant=view["variant"],
        image_size=view["image_size"],
        labels=_LABELS.value,
        license=_LICENSE.value,
        samples=samples,
        overwrite=_OVERWRITE.value,
    )
    with command.quiet_stderr():  # the runtimes tell what they load
        if _FORMAT.value == "saved_model":
            exported = saved_model.saved_model(request)
        else:
            exported = onnx_tflite.write(request, onnx_tflite.Format(_FORMAT.value))
    for line in exported.lines:
        print(line)
    print(f"wrote {exported.path}")
    if _FORMAT.value == "saved_model":
        next_steps.show(
            next_steps.command_line(
                "predict",
                checkpoint=str(exported.path),
                images="FOLDER",
                to="predictions.csv",
            ),
            f"tools/serving/check_model_server.sh {shlex.quote(str(exported.path))} "
            "FOLDER  # docs/serving.md has the server",
        )


def _scores() -> "serving_signatures.Scores | None":
    from vit_tf.serving import serving_signatures

    return None if _SCORES.value is None else serving_signatures.Scores(_SCORES.value)


def _bytes_of(name: str) -> bytes:
    try:
        return pathlib.Path(name).read_bytes()
    except OSError as error:
        raise errors.UserError(f"--images={name}: {error.strerror}") from None


if __name__ == "__main__":
    command.run(main)
