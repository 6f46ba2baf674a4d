"""A checkpoint as ONNX or TFLite: images in [-1, 1] to logits and probabilities.

Without file decoding, which these runtimes do not have: the caller resizes and scales.
Each file is loaded into its own runtime and compared with the checkpoint before it is
kept.
"""

import contextlib
import dataclasses
import enum
import importlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config, errors, identity
from vit_tf.runtime import filesystem
from vit_tf.serving import (
    model_card,
    parity_check,
    preprocessing,
    saved_model,
    serving_signatures,
)

BATCH_AXIS = "batch"  # the name of the axis of any length, in ONNX
_OPSET = 18  # of ONNX; onnxruntime 1.14 and newer


class Format(enum.StrEnum):
    """Files for other runtimes."""

    ONNX = "onnx"
    TFLITE = "tflite"


NEEDED = {
    Format.ONNX: ("tf2onnx", "onnxruntime"),
    Format.TFLITE: ("ai_edge_litert",),
}

# Batch of images -> outputs by name.
_Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def write(request: saved_model.Request, kind: Format) -> saved_model.Exported:
    """Writes DIR/NAME.onnx or DIR/NAME.tflite, and a card beside it.

    The file itself holds class names and how images are prepared, see `_metadata`.

    Raises:
        errors.UserError: something else made the file that is there, a package is missing, the precision does not exist there, the
            file disagrees with the checkpoint, or cannot be written.
    """
    _check(request, kind)
    this = saved_model.prepare(request)
    path = os.path.join(request.to, f"{this.name}.{kind}")
    made_by = this.identity(str(kind))
    if not request.overwrite:
        _refuse_other(path, made_by)
    with tempfile.TemporaryDirectory() as scratch:
        local = os.path.join(scratch, f"{this.name}.{kind}")
        graph = _graph(this, kind, scratch)
        convert = {Format.ONNX: _to_onnx, Format.TFLITE: _to_tflite}[kind]
        convert(graph, this, local)
        load = {Format.ONNX: _onnx, Format.TFLITE: _tflite}[kind]
        differences = _compare(load(local), this)
        with filesystem.refusing(request.to):
            tf.io.gfile.makedirs(request.to)
            tf.io.gfile.copy(local, path + ".unfinished", overwrite=True)
            tf.io.gfile.rename(path + ".unfinished", path, overwrite=True)
    facts = model_card.facts(
        checkpoint=os.path.basename(os.path.normpath(request.checkpoint)),
        name=this.name,
        version=str(kind),
        opened=this.opened,
        options=this.options,
        result=saved_model.result_of(request.checkpoint),
        class_names=this.class_names,
        license=request.license,
        made_by=made_by,
        differences=differences,
        signatures=["images"],
        weights=None,
    )
    filesystem.write_whole(path + ".json", json.dumps(facts, indent=2) + "\n")
    filesystem.write_whole(path + ".md", model_card.text(facts))
    lines = [
        f"{d.name} agrees with the checkpoint: {d.size:.2g} (allowed {d.limit:g})"
        for d in differences
    ]
    return saved_model.Exported(path, tuple(differences), (*this.opened.lines, *lines))


def _check(request: saved_model.Request, kind: Format) -> None:
    """Refuses, before a model is opened, what the format or this machine lacks.

    The request first: what is wrong with it does not depend on what is installed.
    """
    precision = request.options.precision
    allowed = {config.Precision.FLOAT32}
    if kind is Format.TFLITE:
        allowed.add(config.Precision.MIXED_FLOAT16)
    if precision not in allowed:
        names = " or ".join(sorted(map(str, allowed)))
        raise errors.UserError(f"format={kind}: precision {precision}; it has {names}")
    usual = serving_signatures.Options()
    for field in dataclasses.fields(usual):
        if field.name in ("precision", "eval_crop", "scores"):
            continue
        if getattr(usual, field.name) != getattr(request.options, field.name):
            raise errors.UserError(
                f"format={kind}: has no {field.name}; leave it out, or use "
                "format=saved_model"
            )
    for name in NEEDED[kind]:
        try:
            importlib.import_module(name)
        except ImportError:
            raise errors.UserError(
                f"format={kind}: needs {name}; pip install -r requirements-serving.txt"
            ) from None


def _refuse_other(path: str, made_by: identity.Identity) -> None:
    """Refuses to replace the export of another checkpoint or of other settings."""
    if not tf.io.gfile.exists(path):
        return
    before = None
    with contextlib.suppress(errors.UserError):  # as good as none
        facts = filesystem.read_json(path + ".json", "export again")
        before = identity.Identity.from_json(facts.get("identity"))
    remedy = "choose another --name or --to, or replace it with --overwrite"
    identity.refuse_other(path, before, made_by, remedy=remedy)


def _metadata(this: saved_model.Prepared, kind: Format) -> dict[str, str]:
    """Returns what a file says of itself: names and texts, most of them JSON."""
    recipe = preprocessing.recipe(this.options.view(this.reference))
    metadata = {
        "name": this.name,
        "class_names": json.dumps(this.class_names, ensure_ascii=False),
        "preprocessing": json.dumps(recipe.facts()),
        "identity": json.dumps(this.identity(str(kind)).to_json()),
    }
    if this.request.license:
        metadata["license"] = this.request.license
    return metadata


def _graph(this: saved_model.Prepared, kind: Format, scratch: str) -> Any:
    """Traces images -> logits and probabilities, by the model's own layers in float32."""
    gib = 4 * this.reference.network.count_params() / 2**30
    if gib * 2**30 > serving_signatures.MAX_CONSTANT_BYTES:
        raise errors.UserError(
            f"format={kind}: the weights take {gib:.2f} GiB and such a file ends at 2; "
            "use format=saved_model"
        )
    # Each converter knows one of the two.
    weights = {
        Format.ONNX: serving_signatures.Weights.VARIABLES,
        Format.TFLITE: serving_signatures.Weights.CONSTANTS,
    }[kind]
    labels = os.path.join(scratch, "labels.txt")
    filesystem.write_whole(labels, "\n".join(this.class_names) + "\n")
    options = dataclasses.replace(
        this.options,
        precision=config.Precision.FLOAT32,
        weights=weights,
    )
    model = serving_signatures.ServedModel(this.reference, options, labels, fuses=False)
    size = this.reference.image_size

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), name="images")])
    def graph(images):
        if not model.num_classes:
            return model.features(images)
        logits = model.logits(images)
        return {"logits": logits, "probabilities": model.squash(logits)}

    return graph


def _to_onnx(
    graph: Any,
    this: saved_model.Prepared,
    path: str,
) -> None:
    import tf2onnx  # pyright: ignore[reportMissingImports]

    model, _ = tf2onnx.convert.from_function(
        graph, input_signature=graph.input_signature, opset=_OPSET
    )
    # The converter numbers the axis that it knows nothing of.
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH_AXIS
    for key, value in _metadata(this, Format.ONNX).items():
        model.metadata_props.add(key=key, value=value)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


def _to_tflite(
    graph: Any,
    this: saved_model.Prepared,
    path: str,
) -> None:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()], this.reference.network
    )
    if this.options.precision is config.Precision.MIXED_FLOAT16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    with open(path, "wb") as file:
        file.write(converter.convert())
    # A zip archive behind the model, as TensorFlow Lite packs its associated files
    # (tensorflow.org/lite/models/metadata): readers of the model do not see it.
    metadata = _metadata(this, Format.TFLITE)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "".join(f"{n}\n" for n in this.class_names))
        archive.writestr("metadata.json", json.dumps(metadata, indent=2) + "\n")


def _onnx(path: str) -> _Run:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {given.name: images})))


def _tflite(path: str) -> _Run:
    from ai_edge_litert import (  # pyright: ignore[reportMissingImports]
        interpreter,
    )

    run = interpreter.Interpreter(path).get_signature_runner()
    return lambda images: run(images=images)


def _compare(run: _Run, this: saved_model.Prepared) -> list[parity_check.Difference]:
    """Compares the file's outputs with the checkpoint's."""
    outputs = run(this.wanted["images"])
    limit = parity_check.LIMITS[this.options.precision]
    differences = [
        parity_check.Difference(
            name, parity_check.difference(array, this.wanted[name], name), limit
        )
        for name, array in outputs.items()
    ]
    parity_check.refuse_large(differences)
    return differences
