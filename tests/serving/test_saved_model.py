"""An export answers as the checkpoint does, in TensorFlow's C++ runtime, or is refused."""

import collections
import dataclasses
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.support import image_files, tiny, twins, warm
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    record_files,
)
from vit_tf.inspection import measures
from vit_tf.runs import loading
from vit_tf.serving import (
    c_runtime,
    onnx_tflite,
    parity_check,
    saved_model,
    serving_signatures,
)

pytestmark = pytest.mark.skipif(
    not c_runtime.is_available(),
    reason="TensorFlow's C++ loader is known on Linux only",
)

SLOW = pytest.mark.slow

ATTENTIVE = serving_signatures.Options(attention=True, top_k=3)


@pytest.fixture(scope="module")
def exported(once, evaluated):
    """The folder of a model with one version: the tiny run's."""

    def make(folder):
        request = saved_model.Request(
            checkpoint=str(evaluated), to=str(folder), name="tiny", options=ATTENTIVE
        )
        saved_model.saved_model(request)

    return once("exported", make) / "tiny"


@pytest.fixture(scope="module")
def loaded(exported):
    with c_runtime.Model(str(exported / "1")) as model:
        yield model


@pytest.fixture(scope="module")
def opened(evaluated):
    return loading.open_model(str(evaluated), dtype="float32")


def _stream(data_dir, count):
    """The first images of the test split: as they are stored, and as they are shown."""
    source = catalog.open_source("digits", data_dir)
    rows = record_files.in_order(source, "test", None).take(count)
    rows = rows.map(lambda row: source.parse(row["record"])["image"])
    data = config.Data(image_size=16, eval_crop=config.EvalCrop.RESIZE)
    (batch,) = evaluation_stream.stream(
        source, data, "test", batch_size=count, keep=np.arange(count)
    )
    return list(rows.as_numpy_iterator()), batch["image"].numpy()


def test_every_signature_agrees_with_the_checkpoint(loaded, opened, data_dir):
    files, pixels = _stream(data_dir, 9)
    record = {}
    logits = opened.network(pixels, training=False, record=record)
    shares = tf.nn.softmax(logits).numpy()
    asked = np.array(files, object)
    of_files = loaded("serving_default", {"image_bytes": asked})
    of_images = loaded("serving_tensor", {"images": pixels})
    for found in (of_files, of_images):
        np.testing.assert_allclose(found["probabilities"], shares, atol=1e-6)
        best = np.argsort(-found["probabilities"], axis=1)[:, :3]
        assert [[int(c) for c in row] for row in found["classes"]] == best.tolist()
        np.testing.assert_array_equal(
            found["scores"], np.take_along_axis(found["probabilities"], best, axis=1)
        )
    np.testing.assert_array_equal(of_files["scores"], of_images["scores"])
    assert of_files["error"].tolist() == [b""] * 9
    features = loaded("features", {"image_bytes": asked})["features"]
    np.testing.assert_allclose(features, record["pooled"], atol=1e-5)
    attention = measures.attention_weights(opened.network, pixels)
    wanted = measures.rollout_map(measures.attention_rollout(attention))
    rollout = loaded("attention", {"image_bytes": asked})["rollout"]
    np.testing.assert_allclose(rollout, wanted, atol=1e-6)


def test_one_bad_file_is_reported_and_the_others_are_answered(loaded):
    good = image_files.readable()["png"]
    files = np.array([good, b"no image", good], object)
    found = loaded("serving_default", {"image_bytes": files})
    assert [bool(e) for e in found["error"]] == [False, True, False]
    assert found["classes"][1].tolist() == [b"", b"", b""]
    assert not found["probabilities"][1].any() and not found["scores"][1].any()
    np.testing.assert_array_equal(found["scores"][0], found["scores"][2])
    for signature in ("features", "attention"):
        found = loaded(signature, {"image_bytes": files})
        (output,) = set(found) - {"error"}
        assert not found[output][1].any() and found[output][0].any()


def test_batches_of_any_size_have_the_same_answers(loaded):
    files = list(image_files.readable().values())
    whole = loaded("serving_default", {"image_bytes": np.array(files, object)})
    for i, file in enumerate(files):
        one = loaded("serving_default", {"image_bytes": np.array([file], object)})
        np.testing.assert_allclose(one["scores"][0], whole["scores"][i], atol=1e-6)
    none = loaded("serving_default", {"image_bytes": np.array([], object)})
    assert {k: v.shape for k, v in none.items()} == {
        "classes": (0, 3),
        "scores": (0, 3),
        "probabilities": (0, 10),
        "error": (0,),
    }


def test_too_large_a_batch_is_refused_and_the_next_one_answered(loaded):
    files = np.array([b"x"] * 257, object)
    with pytest.raises(errors.UserError, match="at most 256; send several"):
        loaded("serving_default", {"image_bytes": files})
    loaded("serving_default", {"image_bytes": files[:256]})


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=SLOW)], ids=str)
def test_mutated_files_never_stop_the_server(loaded, count):
    """In the C++ runtime, where a crash would end this process."""
    draw = np.random.default_rng(count + 1)
    files, reasons = list(image_files.readable().values()), 0
    for _ in range(0, count, 50):
        batch = [image_files.mutated(draw, files) for _ in range(50)]
        found = loaded("serving_default", {"image_bytes": np.array(batch, object)})
        assert np.isfinite(found["probabilities"]).all()
        bad = np.array([bool(error) for error in found["error"]])
        assert not found["scores"][bad].any() and found["scores"][~bad].all()
        reasons += bad.sum()
    print(f"{count} mutated files: {count - reasons} answered, {reasons} with a reason")
    assert count / 20 < reasons < count * 19 / 20


def test_a_folder_has_what_a_server_and_a_reader_need(exported, evaluated):
    folder = exported / "1"
    assert (folder / "assets" / "labels.txt").read_text().split() == list("0123456789")
    facts = json.loads((folder / "export.json").read_text())
    result = tiny.result(evaluated)
    assert facts["run"]["metrics"] == result["metrics"]
    assert facts["run"]["commit"] == result["commit"]
    assert facts["parameters"] == result["parameters"]
    assert facts["license"] is None
    card = (folder / "model_card.md").read_text()
    accuracy = next(m for m in result["metrics"] if m["name"] == "accuracy")
    assert f"{accuracy['value']:.4f} | {accuracy['count']:,}" in card
    assert "not stated" in card and result["commit"] in card
    assert sorted(os.listdir(exported)) == ["1"]


@pytest.mark.needs("tensorflow_serving")
def test_warm_up_requests_replay(exported, loaded):
    from tensorflow_serving.apis import prediction_log_pb2 as logs

    path = exported / "1" / "assets.extra" / "tf_serving_warmup_requests"
    sizes = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = logs.PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "tiny"
        files = tf.make_ndarray(request.inputs["image_bytes"])
        found = loaded(request.model_spec.signature_name, {"image_bytes": files})
        assert not any(found["error"])
        sizes.append(len(files))
    assert sizes == [1, 2, 4, 8, 16]


def _stored_bytes(folder) -> dict[str, int]:
    """Bytes of the constants of a graph, by dtype."""
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((pathlib.Path(folder) / "saved_model.pb").read_bytes())
    sizes = collections.Counter()
    for node in model.meta_graphs[0].graph_def.node:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            sizes[tf.as_dtype(tensor.dtype).name] += len(tensor.tensor_content)
    return sizes


@pytest.mark.parametrize(
    ("precision", "stored"),
    [
        ("mixed_bfloat16", "constants"),
        pytest.param("float32", "variables", marks=SLOW),
        pytest.param("float32", "constants", marks=SLOW),
        pytest.param("mixed_float16", "constants", marks=SLOW),
        pytest.param("mixed_float16", "variables", marks=SLOW),
        pytest.param("mixed_bfloat16", "variables", marks=SLOW),
    ],
)
def test_every_precision_and_place_of_weights(evaluated, tmp_path, precision, stored):
    options = serving_signatures.Options(
        precision=config.Precision(precision),
        weights=serving_signatures.Weights(stored),
    )
    request = saved_model.Request(str(evaluated), str(tmp_path), options=options)
    done = saved_model.saved_model(request)
    assert all(d.size <= d.limit for d in done.differences)
    network = loading.open_model(str(evaluated)).network
    encoder = sum(block.count_params() for block in network.blocks)
    sizes, dtype = _stored_bytes(done.path), precision.removeprefix("mixed_")
    if stored == "variables":
        assert sum(sizes.values()) < encoder
        return
    # Each number of the encoder once, and in this dtype, whatever signatures use it.
    # (A graph has a few numbers of its own.)
    bytes_each, everything = tf.as_dtype(dtype).size, network.count_params() + 100
    assert bytes_each * encoder <= sizes[dtype] <= bytes_each * everything


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("token", marks=SLOW),
        "resnet",
        pytest.param("gap+sincos2d", marks=SLOW),
        pytest.param("hybrid", marks=SLOW),
        pytest.param("map", marks=SLOW),
        pytest.param("relative", marks=SLOW),
        pytest.param("2d@every", marks=SLOW),
        pytest.param("axial", marks=SLOW),
    ],
)
def test_every_kind_of_network_is_exported(tmp_path, kind):
    """`saved_model` itself compares all signatures with the checkpoint."""
    model = twins.filled(twins.TWINS[kind]())
    attends = kind != "resnet"
    this = _prepared(model, tmp_path, serving_signatures.Options(attention=attends))
    found = saved_model.write(this, str(tmp_path / "out"), 1).differences
    assert len(found) == (4 if attends else 3)


def _prepared(model, folder, options):
    """A network that was made here, as if it had been opened."""
    known = loading.LoadedModel(
        network=model,
        model=config.Model(variant="ViT-Ti/16"),
        image_size=model.image_size,
        class_names=None,
        data=None,
        objective=None,
        lines=(),
    )
    files, options = parity_check.sample_files(3), options.of(known)
    return saved_model.Prepared(
        request=saved_model.Request(checkpoint="twin.npz", to=str(folder)),
        name="twin",
        options=options,
        reference=known,
        opened=known,
        class_names=tuple("abcde"),
        samples=tuple((str(i), file) for i, file in enumerate(files)),
        wanted=parity_check.expected(known, options, files),
        digest="",
    )


def test_an_export_that_disagrees_is_not_written(evaluated, tmp_path, monkeypatch):
    real = parity_check.expected

    def other(*arguments):
        found = real(*arguments)
        return found | {"features": found["features"] + 0.01}

    monkeypatch.setattr(parity_check, "expected", other)
    request = saved_model.Request(str(evaluated), str(tmp_path), name="tiny")
    with pytest.raises(errors.UserError, match="features/features differs by"):
        saved_model.saved_model(request)
    assert os.listdir(tmp_path / "tiny") == []


def test_versions_count_up_past_those_that_were_withdrawn(tmp_path):
    for name in ("1", "7", "version-20.abc.unfinished", "notes"):
        (tmp_path / name).mkdir()
    assert saved_model.next_version(str(tmp_path)) == 8
    (tmp_path / "9.withdrawn").mkdir()
    assert saved_model.next_version(str(tmp_path)) == 10


def test_another_model_under_the_same_name_is_said(tmp_path):
    """It will answer the clients of the last one."""
    facts = {"model": "ViT-B/16", "class_names": ["a"], "image_size": 224}
    for version, changes in (("3", {}), ("4", {}), ("5", {"class_names": ["b"]})):
        (tmp_path / version).mkdir()
        told = json.dumps(facts | {"signatures": ["features"]} | changes)
        (tmp_path / version / "export.json").write_text(told)
    for version in (3, 4):  # the first there is, and the same again
        assert saved_model.compare_versions(str(tmp_path), version) == []
    (line,) = saved_model.compare_versions(str(tmp_path), 5)
    assert "version 5 takes the place of version 4 and has another class_names" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "name=a/b: use letters"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"labels": "missing.txt"}, "missing.txt"),
        ({"image_size": 17}, "17"),
    ],
)
def test_what_cannot_be_exported_is_refused(evaluated, tmp_path, changes, words):
    given = {"checkpoint": str(evaluated), "to": str(tmp_path / "to")} | changes
    with pytest.raises(errors.UserError, match=words):
        saved_model.saved_model(saved_model.Request(**given))
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"one\ntwo\n", "2 lines, and the model has 10 classes"),
        (b"a\nb\n\nd\ne\nf\ng\nh\ni\nj\n", "class 2 is called ''"),
        (b"caf\xe9\n" * 10, "is not UTF-8"),
    ],
)
def test_labels_that_do_not_fit_are_refused(evaluated, tmp_path, text, words):
    (tmp_path / "names.txt").write_bytes(text)
    request = saved_model.Request(
        str(evaluated), str(tmp_path), labels=str(tmp_path / "names.txt")
    )
    with pytest.raises(errors.UserError, match=words):
        saved_model.saved_model(request)


def test_names_of_all_kinds_the_smallest_batch_and_no_warm_up(
    evaluated, tmp_path, without
):
    without("tensorflow_serving", "tensorflow_serving.apis")
    names = ["é", "a b", " padded ", "0", "二", "x,y", '"q"', "#", "\\n", "tab\tin"]
    (tmp_path / "names.txt").write_text("\r\n".join(names) + "\r\n", newline="")
    options = serving_signatures.Options(max_batch_size=1, top_k=10)
    done = saved_model.saved_model(
        saved_model.Request(
            str(evaluated),
            str(tmp_path),
            name="named",
            options=options,
            labels=str(tmp_path / "names.txt"),
        )
    )
    with c_runtime.Model(done.path) as model:
        file = np.array([image_files.readable()["png"]], object)
        found = model("serving_default", {"image_bytes": file})
    order = np.argsort(-found["probabilities"][0])
    assert [c.decode() for c in found["classes"][0]] == [names[i] for i in order]
    (line,) = [line for line in done.lines if "warm-up" in line]
    assert "tensorflow-serving-api is not installed (pip install" in line
    assert not (pathlib.Path(done.path) / "assets.extra").exists()


def test_samples_that_cannot_be_read_are_named(evaluated, tmp_path):
    request = saved_model.Request(
        str(evaluated), str(tmp_path), samples=(("notes.txt", b"no image"),)
    )
    with pytest.raises(errors.UserError, match=r"notes.txt: not a JPEG.*name other"):
        saved_model.saved_model(request)
    small = serving_signatures.Options(max_pixels=50_000)
    request = saved_model.Request(str(evaluated), str(tmp_path), options=small)
    with pytest.raises(
        errors.UserError, match="drawn picture .: too large.*raise --max"
    ):
        saved_model.saved_model(request)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.needs(*onnx_tflite.NEEDED[kind]))
        for kind in onnx_tflite.Format
    ],
)
def test_other_formats_agree_with_the_checkpoint(evaluated, tmp_path, kind):
    request = saved_model.Request(str(evaluated), str(tmp_path), name="tiny")
    done = onnx_tflite.write(request, kind)
    assert {d.name for d in done.differences} == {"logits", "probabilities"}
    assert all(d.size <= d.limit for d in done.differences)
    card = (tmp_path / f"tiny.{kind}.md").read_text()
    assert "`images`: float32 images" in card and "JPEG" not in card
    assert "without antialiasing" in card and "(x - 127.5) / 127.5" in card
    assert sorted(os.listdir(tmp_path)) == [
        f"tiny.{kind}{e}" for e in ("", ".json", ".md")
    ]
    facts = json.loads((tmp_path / f"tiny.{kind}.json").read_text())
    metadata = _read_metadata(done.path, kind)
    assert json.loads(metadata["class_names"]) == [str(n) for n in range(10)]
    assert json.loads(metadata["preprocessing"]) == facts["preprocessing"]
    assert json.loads(metadata["identity"]) == facts["identity"]


def _read_metadata(path, kind):
    """What a file says of itself, by readers that are not ours."""
    if kind is onnx_tflite.Format.ONNX:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for tensor in (*session.get_inputs(), *session.get_outputs()):
            assert tensor.shape[0] == "batch"
        return session.get_modelmeta().custom_metadata_map
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == list("0123456789")
        return json.loads(archive.read("metadata.json"))


@pytest.mark.needs("tf2onnx", "onnxruntime")
def test_the_file_of_another_checkpoint_or_setting_is_refused(evaluated, tmp_path):
    def write(**changes):
        request = saved_model.Request(str(evaluated), str(tmp_path), name="tiny")
        request = dataclasses.replace(request, **changes)
        return onnx_tflite.write(request, onnx_tflite.Format.ONNX)

    path = tmp_path / "tiny.onnx"
    write()
    content = path.read_bytes()
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{n}\n" for n in "abcdefghij"))
    for changes, reason in (
        ({"labels": str(names)}, "class_names: "),
        ({"image_size": 24}, "image_size: 16 against 24"),
    ):
        with pytest.raises(errors.UserError, match=f"{reason}.*--overwrite"):
            write(**changes)
        assert path.read_bytes() == content
    write()  # the same again
    write(labels=str(names), overwrite=True)
    assert path.read_bytes() != content
    (tmp_path / "tiny.onnx.json").unlink()
    with pytest.raises(errors.UserError, match="nothing says what made it"):
        write()


def test_other_formats_refuse_what_they_lack(evaluated, tmp_path):
    options = serving_signatures.Options(precision=config.Precision.MIXED_BFLOAT16)
    request = saved_model.Request(str(evaluated), str(tmp_path), options=options)
    for kind in onnx_tflite.Format:
        with pytest.raises(errors.UserError, match="precision mixed_bfloat16; it has"):
            onnx_tflite.write(request, kind)


@pytest.mark.parametrize("kind", list(onnx_tflite.Format))
def test_other_formats_name_the_package_that_is_missing(
    evaluated, tmp_path, without, kind
):
    needed = onnx_tflite.NEEDED[kind][0]
    without(needed)
    request = saved_model.Request(str(evaluated), str(tmp_path))
    with pytest.raises(errors.UserError, match=f"needs {needed}; pip install -r requ"):
        onnx_tflite.write(request, kind)
    assert os.listdir(tmp_path) == []


def test_other_formats_say_what_they_take(evaluated, tmp_path):
    options = serving_signatures.Options(top_k=3)
    request = saved_model.Request(str(evaluated), str(tmp_path), options=options)
    with pytest.raises(errors.UserError, match="format=onnx: has no top_k"):
        onnx_tflite.write(request, onnx_tflite.Format.ONNX)


def test_the_command_exports_and_answers(evaluated, tmp_path):
    done = warm.run(
        *("-m", "tools.export", f"--checkpoint={evaluated}", f"--to={tmp_path}"),
        *("--name=vit", "--precision=bfloat16", "--license=CC0"),
    )
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/vit/1" in done.stdout.splitlines()
    assert "License: CC0." in (tmp_path / "vit/1/model_card.md").read_text()
    wrong = warm.run("-m", "tools.export", f"--checkpoint={tmp_path}", "--to=x")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
