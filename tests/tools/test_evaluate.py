"""`tools.evaluate`: a run's own numbers come out again, and what cannot be is said."""

import json
import shutil

import numpy as np
import pytest

from tests.support import fakes, tiny, twins, warm
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
)
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders
from vit_tf.evaluation import evaluate, evaluators
from vit_tf.models import build, npz_weights
from vit_tf.runs import conversion, loading

MEASURES = tuple(map(str, evaluate.MEASURES))
SHOTS = config.FewShot(shots=(2, 5), num_seeds=2)


def _evaluate(checkpoint, data_dir, machine=None, names=("digits",), **changes):
    request = evaluate.Request(
        checkpoint=str(checkpoint), names=names, data_dir=data_dir, **changes
    )
    return evaluate.evaluate(request, machine or tiny.one_device())


def _numbers(report):
    return {
        (m["dataset"], m["image_size"], m["name"]): m["value"]
        for m in report["metrics"]
    }


def _own(workdir):
    """The numbers that the run itself left, as `_numbers` has them."""
    return {
        ("digits", 16, m["name"]): m["value"] for m in tiny.result(workdir)["metrics"]
    }


def _command(*arguments):
    return warm.run("-m", "tools.evaluate", *map(str, arguments))


def test_the_command_repeats_the_numbers_of_the_run(evaluated, data_dir, tmp_path):
    done = _command(
        f"--checkpoint={evaluated}",
        "--dataset=digits",
        f"--data_dir={data_dir}",
        f"--evaluators={','.join(MEASURES)},fewshot",
        "--fewshot_shots=2,5",
        "--fewshot_seeds=2",
        f"--json={tmp_path / 'report.json'}",
        "--num_devices=2",
        "--batch_size=30",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    got, want = _numbers(report), _own(evaluated)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name
    assert report["fingerprint"] == tiny.result(evaluated)["fingerprint"]
    assert report["checkpoint"] == str(evaluated)
    assert report["device"] == "2 virtual CPU devices"
    assert {"commit", "versions", "config"} <= report.keys()
    accuracy = want["digits", 16, "accuracy"]
    assert (
        f"digits/test      16  accuracy         {accuracy:.4f}     400" in done.stdout
    )
    assert "the worst 10 of 10 classes" in done.stdout
    assert f"{want['digits', 16, '5shot']:7.4f}" in done.stdout
    classes = report["classes_of"]["digits"]
    assert sum(c["count"] for c in classes) == 400
    mean = np.mean([c["accuracy"] for c in classes])
    assert mean == pytest.approx(want["digits", 16, "class_accuracy"])
    for score in report["few_shot"]:
        assert score["mean"] == pytest.approx(np.mean(score["values"]))
        assert len(score["values"]) == 2


def test_a_report_of_something_else_is_refused_before_work(
    evaluated, data_dir, tmp_path
):
    to = tmp_path / "report.json"

    def measure(*more):
        return _command(
            f"--checkpoint={evaluated}",
            "--dataset=digits",
            f"--data_dir={data_dir}",
            "--split=test[:40]",
            f"--json={to}",
            *more,
        )

    to.touch()  # as mktemp leaves it
    assert measure("--evaluators=accuracy").returncode == 0
    assert measure("--evaluators=accuracy", "--batch_size=7").returncode == 0
    content = to.read_bytes()
    for more, reason in (
        (["--evaluators=nll"], 'evaluators: ["accuracy"] against ["nll"]'),
        (["--evaluators=accuracy", "--eval_crop=central"], "eval_crop: resize against"),
        (["--evaluators=accuracy", "--split=test[40:]"], "splits: "),
    ):
        done = measure(*more)
        assert done.returncode == 2 and "accuracy  " not in done.stdout
        (line,) = done.stderr.strip().splitlines()
        assert reason in line and "--overwrite" in line
        assert to.read_bytes() == content
    to.write_text("notes")
    done = measure("--evaluators=nll")
    assert done.returncode == 2 and "nothing says what made it" in done.stderr
    assert to.read_text() == "notes"
    assert measure("--evaluators=nll", "--overwrite").returncode == 0
    assert json.loads(to.read_text())["identity"]["settings"]["evaluators"] == ["nll"]


def test_an_npz_of_the_run_has_the_same_numbers(evaluated, data_dir, tmp_path):
    path = shutil.copy(evaluated / "weights.npz", tmp_path)
    asked = ("accuracy", "top5_accuracy", "class_accuracy", "nll", "ece", "fewshot")
    report = _evaluate(path, data_dir, evaluators=asked, few_shot=SHOTS)
    want = _own(evaluated)
    del want["digits", 16, "loss"]
    assert _numbers(report) == pytest.approx(want, rel=1e-6)
    assert report["config"] is None and report["eval_crop"] == "resize"
    with pytest.raises(errors.UserError, match="loss: .*weights.npz does not say"):
        _evaluate(path, data_dir, evaluators=("loss",))


def test_the_weights_in_a_runs_folder_are_the_run(evaluated, data_dir):
    report = _evaluate(evaluated / "weights.npz", data_dir, evaluators=("loss",))
    assert _numbers(report).items() <= _own(evaluated).items()


def test_a_run_is_shown_images_as_it_was(evaluated, data_dir, tmp_path):
    shutil.copytree(evaluated, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"resize"', '"central"'))
    own = _evaluate(tmp_path / "run", data_dir, evaluators=("nll",))
    assert own["eval_crop"] == "central"
    views = [
        _numbers(_evaluate(evaluated, data_dir, evaluators=("nll",), eval_crop=crop))
        for crop in (config.EvalCrop.CENTRAL, config.EvalCrop.RESIZE)
    ]
    assert _numbers(own) == views[0] != views[1]


def test_resolutions_are_the_model_at_each_size(evaluated, data_dir):
    asked = ("nll", "resolution")
    report = _evaluate(evaluated, data_dir, evaluators=asked, resolutions=(8, 16, 24))
    got = _numbers(report)
    assert [size for _, size, _ in got] == [16, 8, 24]
    assert got["digits", 16, "nll"] == pytest.approx(
        _own(evaluated)["digits", 16, "nll"]
    )
    alone = _evaluate(evaluated, data_dir, evaluators=("nll",), image_size=24)
    assert got["digits", 24, "nll"] == _numbers(alone)["digits", 24, "nll"]
    only = _evaluate(evaluated, data_dir, evaluators=("resolution",), resolutions=(24,))
    assert list(_numbers(only)) == [("digits", 24, "accuracy")]


def test_sizes_are_refused_before_the_first_pass(evaluated, data_dir, monkeypatch):
    monkeypatch.setattr(
        evaluators.Classification, "predict", lambda *_, **__: pytest.fail("a pass")
    )
    asked = ("accuracy", "resolution")
    with pytest.raises(errors.UserError, match="image size 20: .* nearest .* 16, 24"):
        _evaluate(evaluated, data_dir, evaluators=asked, resolutions=(24, 20))
    with pytest.raises(errors.UserError, match="resolution go together"):
        _evaluate(evaluated, data_dir, resolutions=(24,))


def _imagenet_model(tmp_path):
    described = config.Model(variant="ViT-mu/8")
    network = twins.filled(build.build(described, num_classes=1000, image_size=16))
    npz_weights.save_released(network, tmp_path / "i1k.npz")
    return network, tmp_path / "i1k.npz"


def test_real_counts_images_with_a_label_and_any_label_as_right(tmp_path):
    network, path = _imagenet_model(tmp_path)
    examples = fakes.drawn("imagenet2012_real", 8)
    fakes.write("imagenet2012_real", tmp_path, {"validation": examples})
    source = catalog.open_source("imagenet2012_real", str(tmp_path))
    stream = evaluation_stream.stream(
        source, config.Data(image_size=16), "validation", batch_size=8
    )
    (batch,) = stream
    order = np.argsort(-network(batch["image"]).numpy(), axis=1)
    # Right among several; right alone; among the five likeliest; wrong; and no label.
    labels = [[999 - order[0, 0], order[0, 0]], [order[1, 0]], [order[2, 4]]]
    labels += [[order[3, 5]], [], [], [], []]
    for example, known in zip(examples, labels):
        example["real_label"] = np.array(known, np.int64)
    fakes.write("imagenet2012_real", tmp_path, {"validation": examples})
    changes = {"data_dir": str(tmp_path), "names": ("imagenet2012_real",)}
    report = _evaluate(path, evaluators=("accuracy", "top5_accuracy"), **changes)
    found = {m["name"]: (m["value"], m["count"]) for m in report["metrics"]}
    assert found == {"accuracy": (0.5, 4), "top5_accuracy": (0.75, 4)}
    assert report["metrics"][0]["split"] == "validation"
    with pytest.raises(errors.UserError, match="class_accuracy: .* several labels"):
        _evaluate(path, evaluators=("class_accuracy",), **changes)


def _folder(root, names):
    """A prepared folder with one image of each class."""
    for name in names:
        path = root / "letters" / "test" / name / "0.png"
        path.parent.mkdir(parents=True)
        pixels = np.zeros((16, 16, 3), np.uint8)
        path.write_bytes(tiny.tf.io.encode_png(pixels).numpy())
    listing = image_folders.list_folder(str(root / "letters"))
    chosen = image_folder.FolderConfig(name="letters", listing=listing)
    data_dir = str(root / "data")
    image_folder.ImageFolder(config=chosen, data_dir=data_dir).download_and_prepare()
    return data_dir


def test_other_classes_are_refused(evaluated, data_dir, tmp_path):
    _, path = _imagenet_model(tmp_path)
    with pytest.raises(errors.UserError, match="has 1000 classes, digits has 10,"):
        _evaluate(path, data_dir)
    letters = _folder(tmp_path, "abcdefghij")
    # The run's classes are numbers, which are nobody's names.
    assert (
        _evaluate(evaluated, letters, names=("letters",))["metrics"][0]["count"] == 10
    )
    shutil.copytree(evaluated, tmp_path / "run")
    result = tiny.result(evaluated) | {"class_names": list("abczefghij")}
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    with pytest.raises(
        errors.UserError, match="letters: 'd' of its 10 classes are none of the model's"
    ):
        _evaluate(tmp_path / "run", letters, names=("letters",))


def test_classes_are_matched_by_their_names(evaluated, tmp_path):
    """A set with some of the classes, in another order and spelling, is measured."""
    letters = _folder(tmp_path, ["caf\u00e9", "b", "d"])
    shutil.copytree(evaluated, tmp_path / "run")
    names = [*"zyx", "cafe\u0301", *"wvdubt"]  # 'b' is 8, 'd' is 6, 'café' is 3
    result = tiny.result(evaluated) | {"class_names": names}
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    report = _evaluate(tmp_path / "run", letters, names=("letters",))
    (line,) = report["notes"]
    assert "matched by their names; it has no image of 'z', 'y', 'x' and 4 more" in line
    # All images are black, so that one class is answered for each of them.
    network = loading.open_model(str(tmp_path / "run")).network
    answer = int(np.argmax(network(-np.ones((1, 16, 16, 3), np.float32))[0]))
    found = {m["name"]: (m["value"], m["count"]) for m in report["metrics"]}
    assert found["accuracy"] == (pytest.approx((answer in (8, 6, 3)) / 3), 3)


def test_a_model_without_names_says_what_its_labels_are_taken_for(tmp_path, evaluated):
    letters = _folder(tmp_path, "abcdefghij")
    path = f"{evaluated}/weights.npz"
    shutil.copy(path, tmp_path / "alone.npz")
    report = _evaluate(
        tmp_path / "alone.npz", letters, names=("letters",), evaluators=("accuracy",)
    )
    (line,) = report["notes"]
    assert (
        "names no classes; its label is taken 0 for 'a', 1 for 'b', 2 for 'c', ..."
        in line
    )


def test_what_is_not_measured_is_said(tmp_path, evaluated, data_dir):
    for kind in "abcdefghij":
        for number in range(3):
            path = tmp_path / "letters" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                tiny.tf.io.encode_png(np.zeros((16, 16, 3), np.uint8)).numpy()
            )
    listing = image_folders.list_folder(str(tmp_path / "letters"))
    chosen = image_folder.FolderConfig(name="letters", listing=listing)
    image_folder.ImageFolder(
        config=chosen, data_dir=str(tmp_path)
    ).download_and_prepare()
    report = _evaluate(evaluated, str(tmp_path), names=("letters",))
    (line,) = report["notes"]
    assert line.startswith(
        "letters: measured is validation (10 images), not train (20)"
    )
    whole = _evaluate(
        evaluated, str(tmp_path), names=("letters",), split="train+validation"
    )
    assert whole["metrics"][0]["count"] == 30 and whole["notes"] == []
    assert _evaluate(evaluated, data_dir)["notes"] == []


def test_without_a_head_there_are_few_shots_only(evaluated, data_dir, tmp_path):
    path = str(tmp_path / "body.npz")
    conversion.convert(str(evaluated), path, keep_head=False)
    with pytest.raises(errors.UserError, match="has no last layer; .*fewshot needs no"):
        _evaluate(path, data_dir)
    report = _evaluate(path, data_dir, evaluators=("fewshot",), few_shot=SHOTS)
    want = {k: v for k, v in _own(evaluated).items() if k[2].endswith("shot")}
    assert _numbers(report) == pytest.approx(want)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluators": ("acuracy",)}, "evaluators=acuracy: .* mean accuracy"),
        ({"evaluators": ()}, "--evaluators is empty"),
        ({"split": "tset"}, "no split 'tset'"),
        ({"names": ("digit",)}, "did you mean digits"),
        ({"checkpoint": "nowhere"}, "nowhere: no such file or folder"),
        ({"variant": "ViT-mu/8"}, "--variant: .* names its variant"),
        ({"image_size": 20}, "image size 20"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(evaluated, data_dir, changes, said):
    with pytest.raises(errors.UserError, match=said) as caught:
        _evaluate(changes.pop("checkpoint", evaluated), data_dir, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--fewshot_shots=1,x", "--fewshot_shots=1,x: need whole numbers above 0"),
        ("--l2=-1", "--l2=-1: need numbers above 0"),
        ("--json=nowhere/report.json", "--json=nowhere/report.json: no such folder"),
        ("--eval_crop=middle", "middle"),
        ("--evaluator=nll", "--evaluator: no such flag (did you mean evaluators?)"),
    ],
)
def test_wrong_flags_are_one_line(flag, said):
    done = _command("--checkpoint=x", "--dataset=digits", flag)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and said in line
