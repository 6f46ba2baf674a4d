"""A checkpoint as a SavedModel for TensorFlow Serving: whole and checked, or not there.

DIR/NAME/VERSION/ has, beside the graph, `assets/labels.txt`, requests that warm a
server up, `model_card.md` and `export.json`. A server that watches DIR/NAME loads a
version when its folder appears, which happens in one step at the end.
"""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from vit_tf import (
    config,
    export_check,
    files,
    model_card,
    native,
    opening,
    served,
)

_WARM_UP = "assets.extra/tf_serving_warmup_requests"
# What tools/serving/batching.config allows: each is traced and laid out once.
_WARM_UP_BATCHES = (1, 2, 4, 8, 16)


@dataclasses.dataclass(frozen=True)
class Request:
    """What to export.

    Attributes:
        checkpoint: a finished run's folder, or an .npz.
        to: the folder of all models.
        name: of this model; None: that of the checkpoint.
        options: how it is served; its view and its scores are replaced by the two
            below.
        eval_crop: None: the run's own, of an .npz resize.
        scores: None: as the run was trained, of an .npz softmax.
        variant: for an .npz whose arrays do not tell it.
        image_size: pixels; position embeddings are resized. None: as trained.
        labels: a file with a class name on each line; None: the run's own.
        license: what the card says of it.
        samples: image files to compare the export with the checkpoint on; empty:
            `export_check.sample_files`.
    """

    checkpoint: str
    to: str
    name: str | None = None
    options: served.Options = dataclasses.field(default_factory=served.Options)
    eval_crop: config.EvalCrop | None = None
    scores: served.Scores | None = None
    variant: str | None = None
    image_size: int | None = None
    labels: str | None = None
    license: str | None = None
    samples: tuple[bytes, ...] = ()


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written, where, and for the user to read."""

    path: str
    differences: tuple[export_check.Difference, ...]
    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checkpoint that is about to be exported, in any format."""

    request: Request
    name: str
    options: served.Options
    reference: opening.Opened  # in float32
    opened: opening.Opened  # in the precision of the export
    class_names: tuple[str, ...]
    samples: tuple[bytes, ...]
    wanted: dict[str, np.ndarray]


def prepare(request: Request) -> Prepared:
    """Opens the checkpoint and computes what an export has to agree with.

    Raises:
        config.Refused: no such checkpoint, labels that do not fit, a bad name.
    """
    name = request.name or _name_of(request.checkpoint)
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise config.Refused(
            f"name={name}: use letters, digits, '_', '-' and '.', as it stands in URLs"
        )
    how = {"image_size": request.image_size, "variant": request.variant}
    reference = opening.open_model(request.checkpoint, dtype="float32", **how)
    opened, precision = reference, request.options.precision
    if precision is not config.Precision.FLOAT32:
        opened = opening.open_model(request.checkpoint, dtype=str(precision), **how)
    options = dataclasses.replace(
        request.options,
        eval_crop=request.eval_crop or _crop_of(reference),
        scores=request.scores or _scores_of(reference),
    )
    samples = request.samples or tuple(export_check.sample_files())
    if not reference.network.pools:
        wanted = {}  # refused by name in `served`
    else:
        wanted = export_check.expected(reference, options, samples)
    return Prepared(
        request,
        name,
        options,
        reference,
        opened,
        _class_names(request, reference),
        samples,
        wanted,
    )


def saved_model(request: Request) -> Exported:
    """Writes the next version of a model.

    Raises:
        config.Refused: what `prepare` refuses, an export that disagrees with the
            checkpoint, or a folder that cannot be written. Nothing is left then.
    """
    this = prepare(request)
    folder = os.path.join(request.to, this.name)
    with files.refusing(folder):
        tf.io.gfile.makedirs(folder)
        version = next_version(folder)
        path = os.path.join(folder, str(version))
        # Not a number: no server takes it for a version.
        partial = os.path.join(folder, f"version-{version}.unfinished")
        files.remove(partial)
        try:
            exported = _write(this, partial, version)
            tf.io.gfile.rename(partial, path)
        except BaseException:
            with contextlib.suppress(tf.errors.OpError, OSError):
                files.remove(partial)
            raise
    return dataclasses.replace(exported, path=path)


def next_version(folder: str) -> int:
    """One more than the largest version in the folder of a model; 1 at first."""
    found = [name.rstrip("/") for name in tf.io.gfile.listdir(folder)]
    return 1 + max((int(name) for name in found if name.isdigit()), default=0)


def _write(this: Prepared, folder: str, version: int) -> Exported:
    with tempfile.TemporaryDirectory() as scratch:
        labels = os.path.join(scratch, "labels.txt")
        files.write_whole(labels, "".join(f"{n}\n" for n in this.class_names) or "\n")
        graph = served.Served(this.opened, this.options, labels)
        signatures = graph.signatures()
        archive = keras.export.ExportArchive()
        if graph.table is not None:
            archive.track(graph.table)
        for name, signature in signatures.items():
            archive.add_endpoint(name, signature.function, [signature.input])
        archive.write_out(folder, verbose=False)
    differences = _check(this, folder, list(signatures))
    lines = list(this.opened.lines)
    lines += [
        f"{d.name} agrees with the checkpoint: {d.size:.2g} (allowed {d.limit:g})"
        for d in differences
    ]
    lines.append(_write_warm_up(this, folder, "serving_default"))
    facts = model_card.facts(
        checkpoint=os.path.basename(os.path.normpath(this.request.checkpoint)),
        name=this.name,
        version=version,
        opened=this.opened,
        options=this.options,
        result=result_of(this.request.checkpoint),
        class_names=this.class_names,
        license=this.request.license,
        differences=differences,
        signatures=list(signatures),
        as_constants=graph.as_constants,
    )
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    files.write_whole(os.path.join(folder, "export.json"), text)
    files.write_whole(os.path.join(folder, "model_card.md"), model_card.text(facts))
    return Exported(folder, tuple(differences), tuple(lines))


def _check(
    this: Prepared, folder: str, signatures: Sequence[str]
) -> list[export_check.Difference]:
    """Loads what was written as a server would, where its runtime is at hand."""
    compare = (signatures, this.wanted, this.samples, this.options.precision)
    if native.is_available() and "://" not in folder:
        with native.Model(folder) as model:
            return export_check.compare(model, *compare)
    loaded = tf.saved_model.load(folder)

    def run(signature, inputs):
        function = loaded.signatures[signature]
        tensors = {name: tf.constant(list(array)) for name, array in inputs.items()}
        return {k: v.numpy() for k, v in function(**tensors).items()}

    return export_check.compare(run, *compare)


def _write_warm_up(this: Prepared, folder: str, signature: str) -> str:
    """Requests that a server answers once before it takes others (TensorFlow Serving)."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return (
            "no warm-up requests: tensorflow-serving-api is not installed "
            "(pip install -r requirements-serving.txt)"
        )
    path = os.path.join(folder, _WARM_UP)
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for count in _WARM_UP_BATCHES:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = this.name
            request.model_spec.signature_name = signature
            batch = [this.samples[i % len(this.samples)] for i in range(count)]
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(batch))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
    sizes = ", ".join(map(str, _WARM_UP_BATCHES))
    return f"warm-up requests of {sizes} images for {signature}"


def _class_names(request: Request, opened: opening.Opened) -> tuple[str, ...]:
    """By label: from the file, from the run, or the numbers."""
    count = opened.num_classes
    if request.labels is None:
        return opened.class_names or tuple(map(str, range(count)))
    with files.reading(request.labels):
        names = tuple(files.read(request.labels).splitlines())
    if len(names) != count:
        raise config.Refused(
            f"{request.labels}: {len(names)} lines, and the model has {count} classes; "
            "put one name on each line, in the order of the labels"
        )
    return names


def _name_of(checkpoint: str) -> str:
    path = os.path.normpath(checkpoint)
    folder, name = os.path.split(path)
    if name == "weights.npz":
        name = os.path.basename(folder)
    return re.sub(r"[^\w.-]+", "_", name.removesuffix(".npz"))


def _crop_of(opened: opening.Opened) -> config.EvalCrop:
    return opened.data.eval_crop if opened.data else config.EvalCrop.RESIZE


def _scores_of(opened: opening.Opened) -> served.Scores:
    sigmoid = opened.objective and opened.objective.loss is config.Loss.SIGMOID
    return served.Scores.SIGMOID if sigmoid else served.Scores.SOFTMAX


def result_of(checkpoint: str) -> dict | None:
    """What the run left; None of an .npz."""
    folder = checkpoint
    if os.path.basename(folder) == "weights.npz":
        folder = os.path.dirname(folder)
    path = os.path.join(folder, "result.json")
    return json.loads(files.read(path)) if tf.io.gfile.exists(path) else None
