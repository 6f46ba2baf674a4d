"""VTAB's tasks: the paper's names, splits and exceptions; all load offline."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.support import fakes
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    pipeline,
    record_files,
    record_store,
    vtab_catalog,
)

# Task: classes, examples of the part of train that 800 are from, where the 200 are
# from, and the test set's size (task_adaptation).
PAPER = {
    "caltech101": (102, "train[2754:2954]", 6084),
    "cifar100": (100, "train[45000:45200]", 10000),
    "dtd": (47, "validation[:200]", 1880),
    "flowers102": (102, "validation[:200]", 6149),
    "pets": (37, "train[2944:3144]", 3669),
    "sun397": (397, "validation[:200]", 21750),
    "svhn": (10, "train[65931:66131]", 26032),
    "camelyon": (2, "validation[:200]", 32768),
    "eurosat": (10, "train[16200:16400]", 5400),
    "resisc45": (45, "train[18900:19100]", 6300),
    "retinopathy": (5, "validation[:200]", 42670),
    "clevr_count": (8, "train[63000:63200]", 15000),
    "clevr_distance": (6, "train[63000:63200]", 15000),
    "dmlab": (6, "validation[:200]", 22735),
    "dsprites_location": (16, "train[589824:590024]", 73728),
    "dsprites_orientation": (16, "train[589824:590024]", 73728),
    "kitti_distance": (4, "validation[:200]", 711),
    "smallnorb_azimuth": (18, "test[:200]", 12150),
    "smallnorb_elevation": (9, "test[:200]", 12150),
}
COLUMNS = [
    "Caltech101",
    "CIFAR-100",
    "DTD",
    "Flowers102",
    "Pets",
    "Sun397",
    "SVHN",
    "Camelyon",
    "EuroSAT",
    "Resisc45",
    "Retinopathy",
    "Clevr-Count",
    "Clevr-Dist",
    "DMLab",
    "dSpr-Loc",
    "dSpr-Ori",
    "KITTI-Dist",
    "sNORB-Azim",
    "sNORB-Elev",
]


def _open(name, root):
    """With TFDS' real counts, in three uneven files each; without records."""
    counts = vtab_catalog.TASKS[name].counts
    files = {k: (n // 3, n // 5, n - n // 3 - n // 5) for k, n in counts.items()}
    fakes.write_metadata(name, root, files)
    return catalog.open_source(name, str(root))


def test_the_tasks_are_the_columns_of_table_9():
    assert [name.removeprefix("vtab/") for name in vtab_catalog.TASKS] == list(PAPER)
    assert [task.column for task in vtab_catalog.TASKS.values()] == COLUMNS
    assert vtab_catalog.TASKS.items() <= catalog.DATASETS.items()


def test_exceptions_to_flips_and_crops():
    tasks = {
        name.removeprefix("vtab/"): task for name, task in vtab_catalog.TASKS.items()
    }
    assert {name for name, task in tasks.items() if not task.protocol.flip} == {
        "dsprites_orientation",
        "smallnorb_azimuth",
        "dsprites_location",
    }
    assert {name for name, task in tasks.items() if not task.protocol.crop} == {
        "clevr_count",
        "clevr_distance",
        "dmlab",
        "kitti_distance",
        "dsprites_location",
    }


@pytest.mark.parametrize("name", vtab_catalog.TASKS)
def test_splits_have_the_sizes_of_the_paper(name, tmp_path):
    task, source = vtab_catalog.TASKS[name], _open(name, tmp_path)
    classes, val200, test = PAPER[name.removeprefix("vtab/")]
    assert task.num_classes == classes and task.protocol.val200 == val200
    assert task.protocol.train800val200 == f"train[:800]+{val200}"
    assert task.development == (task.protocol.train800, task.protocol.val200)
    assert task.final == (task.protocol.train800val200, task.protocol.test)
    sizes = [source.num_examples(split) for split in (*task.development, *task.final)]
    assert sizes == [800, 200, 1000, test]
    # No part is in another: a sum with an example twice is refused.
    assert (
        source.num_examples(f"{task.protocol.train800val200}+{task.protocol.test}")
        == 1000 + test
    )


@pytest.mark.parametrize("name", vtab_catalog.TASKS)
def test_tasks_load_offline(name, tmp_path):
    examples = fakes.drawn(name, 4)
    for number, example in enumerate(examples):
        if "clevr" in name:  # mock_data draws more objects than CLEVR has
            parts = example["objects"].items()
            example["objects"] = {key: part[: 3 + number] for key, part in parts}
    fakes.write(name, tmp_path, {"train": examples})
    source = catalog.open_source(name, str(tmp_path))
    stream = evaluation_stream.stream(
        source, config.Data(image_size=8), "train", batch_size=4
    )
    (batch,) = stream
    assert batch["image"].shape == (4, 8, 8, 3) and batch["mask"].numpy().all()
    label = batch["label"].numpy()
    assert label.dtype == np.int32
    assert (label >= 0).all() and (label < source.num_classes).all()
    assert len(source.class_names) == source.num_classes
    if stored := source.spec.label.names_key:
        assert label.tolist() == [example[stored] for example in examples]
    if "clevr_count" in name:
        assert label.tolist() == [0, 1, 2, 3]


def test_only_what_is_needed_is_parsed(tmp_path):
    (example,) = fakes.drawn("vtab/clevr_count", 1)
    fakes.write("vtab/clevr_count", tmp_path, {"train": [example]})
    source = catalog.open_source("vtab/clevr_count", str(tmp_path))
    graph = tf.function(source.parse).get_concrete_function(
        tf.TensorSpec((), tf.string)
    )
    keys = {
        key
        for node in graph.graph.as_graph_def().node
        if node.op == "Const" and node.attr["value"].tensor.dtype == tf.string
        for key in node.attr["value"].tensor.string_val
    }
    assert keys >= {b"image", b"objects/size"}
    assert not [key for key in keys if b"question" in key or b"coords" in key]


@pytest.mark.parametrize("name", ["vtab/dsprites_location", "vtab/smallnorb_azimuth"])
def test_grey_images_have_three_equal_channels_and_the_full_range(name, tmp_path):
    examples = fakes.drawn(name, 2)
    if "dsprites" in name:
        for example in examples:
            example["image"] = example["image"] % 2
    fakes.write(name, tmp_path, {"train": examples})
    source = catalog.open_source(name, str(tmp_path))
    size = examples[0]["image"].shape[0]
    for stream in (
        evaluation_stream.stream(
            source, config.Data(image_size=size), "train", batch_size=2
        ),
    ):
        (batch,) = stream
        pixels = np.rint(batch["image"] * 127.5 + 127.5)
        factor = 255 if "dsprites" in name else 1
        for image, example in zip(pixels, examples, strict=True):
            expected = np.tile(example["image"].astype(int) * factor, (1, 1, 3))
            np.testing.assert_array_equal(image, expected)


@pytest.fixture(scope="module")
def caltech(tmp_path_factory) -> catalog.Source:
    """As many records as the real one, each a pixel that tells its number."""
    root = tmp_path_factory.mktemp("caltech")

    def example(number: int, split: str) -> dict:
        pixel = np.array([[[number // 256, number % 256, 0]]], np.uint8)
        name = f"{split}{number}.jpg"
        return {"image": pixel, "image/file_name": name, "label": number % 102}

    counts = {"train": 3060, "test": 300}
    splits = {k: [example(i, k) for i in range(n)] for k, n in counts.items()}
    fakes.write("vtab/caltech101", root, splits, shards=4)
    return catalog.open_source("vtab/caltech101", str(root))


def _names(source, split, rows) -> list[str]:
    return [source.describe(row["record"], split, 0).split(".jpg")[0] for row in rows]


@pytest.mark.parametrize("where", ["memory", "files"])
def test_a_sum_of_splits_is_read_in_order_and_shuffled(caltech, where, monkeypatch):
    if where == "files":
        monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
    split = vtab_catalog.TASKS["vtab/caltech101"].protocol.train800val200
    expected = [f"train{n}" for n in (*range(800), *range(2754, 2954))]
    in_order = list(record_files.in_order(caltech, split))
    assert _names(caltech, split, in_order) == expected
    assert [int(row["index"]) for row in in_order] == list(range(1000))
    share = record_store.Share(batch_size=100, first=0, count=100)
    rows = record_store.shuffled(caltech, split, seed=1, start=700, share=share)
    rows = list(rows.take(1300))
    for row in rows[::100]:
        assert row["record"] == in_order[int(row["index"])]["record"]
    epoch = sorted(int(row["index"]) for row in rows[300:])
    assert epoch == list(range(1000))


def test_a_task_trains_on_its_thousand_examples(caltech):
    split = vtab_catalog.TASKS["vtab/caltech101"].protocol.train800val200
    data = config.Data(split=split, image_size=4, batch_size=250, crop="resize")
    seen, labels = [], []
    for batch in pipeline.train_stream(caltech, data, seed=0).take(4):
        seen += batch["index"].numpy().tolist()
        labels += batch["label"].numpy().tolist()
    assert sorted(seen) == list(range(1000))
    numbers = [*range(800), *range(2754, 2954)]
    assert labels == [numbers[index] % 102 for index in seen]


def test_a_manual_task_says_where_its_files_go(tmp_path):
    from vit_tf.data.preparation import prepare

    for name, file in (("resisc45", "NWPU-RESISC45"), ("retinopathy", "trainLabels")):
        with pytest.raises(errors.UserError, match=file) as refusal:
            prepare.prepare_dataset(f"vtab/{name}", catalog.Path(tmp_path))
        assert str(tmp_path / "downloads" / "manual") in str(refusal.value)
        assert "https://" in str(refusal.value)


def test_kitti_is_read_in_the_version_that_the_benchmark_names(tmp_path):
    row = vtab_catalog.TASKS["vtab/kitti_distance"]
    assert (row.tfds_name, row.version) == ("kitti", "3.1.0")
    assert str(tfds.builder_cls("kitti").VERSION) != "3.1.0"
    home = tmp_path / "kitti" / "3.3.0"
    home.mkdir(parents=True)
    (home / "dataset_info.json").write_text("{}")
    with pytest.raises(errors.UserError, match="holds version 3.3.0, need 3.1.0"):
        catalog.open_source("vtab/kitti_distance", str(tmp_path))
