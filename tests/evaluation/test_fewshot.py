"""Few-shot accuracies: exact for any batch and replicas, in training and beside it."""

import json
import shutil

import numpy as np
import pytest
from sklearn import linear_model

from tests.support import fakes, tiny, twins
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
)
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders
from vit_tf.evaluation import evaluators, fewshot, inference
from vit_tf.models import build, npz_weights
from vit_tf.studies import training

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def _paint(root, name, **counts):
    """A prepared folder of noisy flat colours: images of each class of a split."""
    rng = np.random.default_rng(len(name))
    for split, count in counts.items():
        for kind, colour in COLOURS.items():
            for number in range(count):
                path = root / name / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.array(colour) + rng.integers(-25, 25, (20, 24, 3))
                path.write_bytes(tiny.tf.io.encode_png(pixels.astype("uint8")).numpy())
    listing = image_folders.list_folder(str(root / name))
    chosen = image_folder.FolderConfig(name=name, listing=listing)
    builder = image_folder.ImageFolder(config=chosen, data_dir=str(root / "data"))
    builder.download_and_prepare()


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("painted")
    _paint(root, "colours", train=6, test=4)
    _paint(root, "few", train=3, validation=2)
    _paint(root, "alone", test=2)
    return str(root / "data")


def _model(size=16, **settings):
    described = config.Model(variant="ViT-mu/8", **settings)
    return twins.filled(build.build(described, num_classes=5, image_size=size)), (
        described
    )


def _few_shot(data_dir, names, machine=None, **settings):
    """The evaluation of the same random weights."""
    machine = machine or tiny.one_device()
    sets = config.FewShot(datasets=names, **{"shots": (1, 3), **settings})
    with machine.strategy.scope():
        model, described = _model()
    tasks = fewshot.open_tasks(sets, data_dir)
    return fewshot.FewShot(
        sets, tasks, model=model, model_config=described, machine=machine
    )


def test_classes_that_are_apart_are_told(painted):
    scores = _few_shot(painted, ("colours",)).evaluate(batch_size=8)
    assert [(s.shots, s.mean, s.std, s.count) for s in scores] == [
        (1, 1.0, 0.0, 12),
        (3, 1.0, 0.0, 12),
    ]
    assert scores[1].metric == evaluators.Metric("colours/test", "3shot", 1.0, 12)


def test_it_is_the_authors_measure(data_dir):
    """With scikit-learn's ridge, from all images and the network's own record."""
    found = _few_shot(data_dir, ("digits",), shots=(5,), num_seeds=2)
    (score,) = found.evaluate(batch_size=64)
    source = found.tasks[0].source
    x, y = _read(found.model, source, "train")
    x_test, y_test = _read(found.model, source, "test")
    want = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.where(y == c)[0])[:5] for c in range(10)]
        rows = np.concatenate(rows)
        mean, std = x[rows].mean(axis=0), x[rows].std(axis=0) + 1e-5
        known, asked = (_pad((part - mean) / std) for part in (x[rows], x_test))
        ridge = linear_model.Ridge(alpha=1024.0, fit_intercept=False)
        ridge.fit(known, 2.0 * np.eye(10)[y[rows]] - 1)
        want.append(np.mean(ridge.predict(asked).argmax(axis=1) == y_test))
    assert score.values == pytest.approx(want, abs=1e-9)
    assert score.mean == pytest.approx(np.mean(want))
    assert score.std == pytest.approx(np.std(want, ddof=1))


def _read(model, source, split):
    """Features and labels of a whole split in one batch."""
    view = config.Data(image_size=16, eval_crop="square_central")
    count = source.num_examples(split)
    (batch,) = evaluation_stream.stream(source, view, split, batch_size=count)
    record = {}
    model(batch["image"], training=False, record=record)
    return record["pooled"].numpy().astype("float64"), batch["label"].numpy()


def _pad(features):
    return np.pad(features, ((0, 0), (0, 1)), constant_values=100.0)


def test_batches_and_replicas_change_nothing(data_dir):
    kinds = [(1, 400), (1, 7), (2, 30)]
    found = []
    for devices, batch_size in kinds:
        machine = tiny.one_device() if devices == 1 else tiny.mirrored(devices)
        evaluation = _few_shot(
            data_dir, ("digits",), machine, l2=(1024.0, 1e-2), shots=(2, 5)
        )
        found.append(evaluation.evaluate(batch_size=batch_size))
    assert [s.count for s in found[0]] == [400, 400]
    assert all(scores == found[0] for scores in found)


@pytest.mark.parametrize("pre_logits", [False, True])
def test_features_are_what_enters_the_head(pre_logits):
    model, _ = _model(pre_logits=pre_logits)
    images, record = twins.images(model), {}
    model(images, record=record)
    batch = {"image": tiny.tf.constant(images), "label": tiny.tf.zeros(3, "int32")}
    got = fewshot.features(model, batch)["features"].numpy()
    want = record["pre_logits" if pre_logits else "pooled"]
    np.testing.assert_allclose(got, want, atol=1e-5)
    arrays = npz_weights.released(model)
    twins.close(got @ arrays["head/kernel"] + arrays["head/bias"], record["logits"])


def test_one_pass_over_every_split_and_one_program_for_all(painted, monkeypatch):
    seen = []
    over = inference.InferencePass.over

    def counting(self, source, data, split, **changes):
        rows = over(self, source, data, split, **changes)
        seen.append((source.name, split, len(rows["label"]), data.eval_crop.value))
        return rows

    monkeypatch.setattr(inference.InferencePass, "over", counting)
    found = _few_shot(painted, ("colours", "few"), l2=(1.0, 4.0), num_seeds=1)
    assert found.names == [
        "colours/test/1shot",
        "colours/test/3shot",
        "few/validation/1shot",
        "few/validation/3shot",
    ]
    scores = found.evaluate(batch_size=4)
    assert [f"{s.dataset}/{s.split}/{s.shots}shot" for s in scores] == found.names
    # Of train only the 3 shots of 3 classes are looked at.
    assert seen == [
        ("colours", "train", 9, "square_central"),
        ("colours", "test", 12, "square_central"),
        ("few", "train", 9, "square_central"),
        ("few", "validation", 6, "square_central"),
    ]
    assert found.inference_pass.step.experimental_get_tracing_count() == 1


def test_each_set_takes_the_l2_that_is_best_on_the_others(painted, monkeypatch):
    found = _few_shot(painted, ("colours", "few"), shots=(3,), l2=(1.0, 2.0, 4.0))
    assert found.l2s == [4.0, 2.0, 1.0]
    tables = iter(
        [
            {3: np.array([[[0.1, 0.9, 0.2], [0, 0, 0]], [[0.3, 0.5, 0.2], [0, 0, 0]]])},
            {3: np.array([[[0.8, 0.1, 0.8], [0, 0, 0]], [[0.6, 0.1, 0.6], [0, 0, 0]]])},
        ]
    )
    monkeypatch.setattr(found, "accuracies", lambda *_: next(tables))
    ours, theirs = found.evaluate(batch_size=4)
    assert (ours.l2, ours.values) == (4.0, (0.1, 0.3))  # of equals the strongest
    assert (theirs.l2, theirs.values) == (2.0, (0.1, 0.1))


def test_a_set_that_is_alone_takes_what_tells_its_own_shots(data_dir, monkeypatch):
    found = _few_shot(data_dir, ("digits",), shots=(3,), l2=(1e6, 1.0, 1e-6))
    task = found.tasks[0]
    known = found.features(task, "train", 100)["features"]
    means = []
    for l2 in found.l2s:
        hits = []
        for draw in task.draws.values():
            x, y = known[draw].astype(np.float64), task.labels[draw]
            x = _pad((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5))
            for i in range(len(x)):
                rest = np.arange(len(x)) != i
                ridge = linear_model.Ridge(alpha=l2, fit_intercept=False, solver="svd")
                ridge.fit(x[rest], 2.0 * np.eye(10)[y[rest]] - 1)
                hits.append(ridge.predict(x[i : i + 1]).argmax() == y[i])
        means.append(np.mean(hits))
    (table,) = found.accuracies(task, 100).values()
    assert len(set(means)) > 1
    np.testing.assert_allclose(table[:, 1].mean(axis=0), means)
    # And not what is best on the images that are reported.
    table[:, 0], table[:, 1] = [0.9, 0.1, 0.2], [0.0, 0.5, 0.1]
    monkeypatch.setattr(found, "accuracies", lambda *_: {3: table})
    (score,) = found.evaluate(batch_size=100)
    assert (score.l2, score.mean) == (found.l2s[1], pytest.approx(0.1))


def test_another_size_sees_resized_positions(painted):
    found = _few_shot(painted, ("colours",), image_size=24)
    assert found.size == 24 and found.feature_model.image_size == 24
    found.evaluate(batch_size=8)
    twins.filled(found.model, seed=1)  # as training would change it
    found.evaluate(batch_size=8)
    ours, theirs = (npz_weights.released(m) for m in (found.model, found.feature_model))
    name = "Transformer/posembed_input/pos_embedding"
    want = npz_weights.resize_positions(ours[name], 10)
    np.testing.assert_array_equal(theirs[name], want)
    np.testing.assert_array_equal(theirs["cls"], ours["cls"])
    with pytest.raises(errors.UserError, match="image size 20: not a multiple"):
        _few_shot(painted, ("colours",), image_size=20)


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (("few",), {"shots": (1, 4)}, "few: class 'blue' .label 0. has only 3 .* 4 sh"),
        (("alone",), {}, "alone: .* needs the splits train and test, .* test .6"),
        (("nowhere",), {}, "data set 'nowhere': unknown"),
        (("colours",), {"l2": (1.0, 2.0)}, "colours alone .* give one l2, shots of 2"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_a_line(painted, names, settings, said):
    with pytest.raises(errors.UserError, match=said) as caught:
        _few_shot(painted, names, **settings)
    assert "\n" not in str(caught.value)


def test_several_labels_of_an_image_are_refused(tmp_path):
    examples = fakes.drawn("imagenet2012_real", 2)
    fakes.write("imagenet2012_real", tmp_path, {"validation": examples})
    with pytest.raises(errors.UserError, match="imagenet2012_real: .* several labels"):
        _few_shot(str(tmp_path), ("imagenet2012_real",))


def test_rows_know_their_few_shot_splits():
    """Those of big_vision's common_fewshot.py."""
    known = {n: r.few_shot for n, r in catalog.DATASETS.items() if r.few_shot}
    assert known["uc_merced"] == ("train[:1000]", "train[1000:]")
    assert known["imagenet2012"] == ("train[:65000]", "validation")
    assert {"caltech101", "cars196", "cifar100", "dtd", "oxford_iiit_pet"} <= set(known)


# In training.


def _few_shot_rows(workdir):
    return [r for r in tiny.rows(workdir) if r.get("name", "").endswith("shot")]


def test_a_run_has_them_among_its_numbers(evaluated):
    rows = _few_shot_rows(evaluated)
    assert [(r["step"], r["split"], r["name"], r["count"]) for r in rows] == [
        (step, "digits/test", name, 400)
        for step in (4, 8)
        for name in ("2shot", "5shot")
    ]
    metrics = json.loads((evaluated / "result.json").read_text())["metrics"]
    assert [m["name"] for m in metrics[-2:]] == ["2shot", "5shot"]
    assert [m["value"] for m in metrics[-2:]] == [r["value"] for r in rows[2:]]


def test_a_resumed_run_has_the_same(evaluated, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(evaluated, workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(max((workdir / "checkpoints").glob("step_*")))
    cfg = tiny.make(**tiny.EVALUATED)
    training.train(cfg, str(workdir), machine=tiny.one_device(), data_dir=data_dir)
    assert tiny.rows(workdir) == tiny.rows(evaluated)
    assert tiny.result(workdir)["metrics"] == tiny.result(evaluated)["metrics"]


def test_the_best_checkpoint_may_go_by_them(evaluated, tmp_path, data_dir):
    values = [r["value"] for r in _few_shot_rows(evaluated) if r["name"] == "5shot"]
    best = {4, 8} if values[0] >= values[1] else {8}
    kept = {int(p.name[5:]) for p in (evaluated / "checkpoints").iterdir()}
    assert kept == best
    cfg = tiny.make(**tiny.EVALUATED | {"train__keep_best": "digits/test/6shot"})
    with pytest.raises(errors.UserError, match="digits/test/6shot: not evaluated"):
        training.train(cfg, str(tmp_path), machine=tiny.one_device(), data_dir=data_dir)


def test_a_missing_set_is_refused_before_training(tmp_path, data_dir):
    cfg = tiny.make(evals__few_shot__datasets="digits,cifar100")
    with pytest.raises(errors.UserError, match="cifar100: not prepared"):
        training.train(cfg, str(tmp_path), machine=tiny.one_device(), data_dir=data_dir)
    assert not (tmp_path / "metrics.jsonl").exists()
