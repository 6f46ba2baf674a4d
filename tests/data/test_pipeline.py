"""The promises of the streams: pure, resumable, divisible, exact."""

import io
import pathlib
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st
from PIL import Image

from tests.support import fakes, tiny
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    failing_records,
    images,
    mixture,
    pipeline,
    record_files,
    record_store,
)
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders

SIZES = {"train": 90, "test": 37}


def _jpeg(number: int) -> bytes:
    """A picture of noise whose mean brightness is `number`."""
    rng = np.random.default_rng(number)
    shape = rng.integers(20, 40, 2)
    pixels = rng.integers(number, number + 30, (*shape, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=95)
    return file.getvalue()


def _prepare(root, name: str, damaged: tuple[str, ...] = ()) -> catalog.Source:
    """Two classes, 'dark' of even and 'light' of odd numbers, in five files."""
    folder = root / name
    for split, size in SIZES.items():
        for number in range(size):
            kind = "light" if number % 2 else "dark"
            path = folder / split / kind / f"{number:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_jpeg(number))
    listing = image_folders.list_folder(str(folder))
    for path in damaged:
        (folder / path).write_bytes(_jpeg(1)[:300])
    chosen = image_folder.FolderConfig(name=name, listing=listing)
    image_folder.ImageFolder(
        config=chosen, data_dir=root / "data"
    ).download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=5))
    return catalog.open_source(name, str(root / "data"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> catalog.Source:
    return _prepare(tmp_path_factory.mktemp("pipeline"), "pictures")


@pytest.fixture(params=["memory", "files"])
def path(request, monkeypatch) -> str:
    if request.param == "files":
        monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(record_store, "WINDOW_BYTES", 20_000)
    return request.param


def _data(**changes) -> config.Data:
    return config.Data(**{"image_size": 16, "batch_size": 24} | changes)


def _examples(source: catalog.Source, split: str) -> list[dict]:
    """What TFDS itself reads, file after file."""
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    return list(source.builder.as_dataset(split, read_config=read_config))


def _take(dataset: tf.data.Dataset, count: int) -> dict[str, np.ndarray]:
    """`count` elements, stacked."""
    elements = list(dataset.take(count).as_numpy_iterator())
    assert len(elements) == count
    return {key: np.stack([e[key] for e in elements]) for key in elements[0]}


def _assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_training_batches_have_static_shapes_and_types(source):
    stream = pipeline.train_stream(source, _data(), seed=0, num_replicas=3)
    assert stream.element_spec == {
        "image": tf.TensorSpec((8, 16, 16, 3), tf.uint8),
        "label": tf.TensorSpec((8,), tf.int32),
        "index": tf.TensorSpec((8,), tf.int64),
    }


def test_rows_hold_the_image_and_label_of_their_index(source, path):
    data = _data(crop=config.Crop.RESIZE, flip=False)
    examples = _examples(source, "train")
    batches = _take(pipeline.train_stream(source, data, seed=0), 5)
    for batch in range(5):
        for row, index in enumerate(batches["index"][batch]):
            assert batches["label"][batch, row] == examples[index]["label"]
            expected = np.rint(images.resize(examples[index]["image"], 16))
            np.testing.assert_array_equal(batches["image"][batch, row], expected)


def test_the_stream_is_a_function_of_seed_and_step(source, path):
    tf.random.set_seed(1)
    once = _take(pipeline.train_stream(source, _data(), seed=4), 9)
    tf.random.set_seed(2)
    _assert_same(_take(pipeline.train_stream(source, _data(), seed=4), 9), once)
    other = _take(pipeline.train_stream(source, _data(), seed=5), 9)
    assert (other["index"] != once["index"]).any()


def test_a_run_resumes_at_any_step(source, path):
    seed = 2**31 - 1
    whole = _take(pipeline.train_stream(source, _data(), seed=seed), 20)

    @hypothesis.settings(deadline=None, max_examples=6)
    @hypothesis.given(step=st.integers(1, 17))
    def check(step):
        rest = pipeline.train_stream(source, _data(), seed=seed, start_step=step)
        expected = {key: value[step : step + 3] for key, value in whole.items()}
        _assert_same(_take(rest, 3), expected)

    check()


def test_parallelism_changes_nothing(source, path, monkeypatch):
    usual = _take(pipeline.train_stream(source, _data(), seed=4), 6)
    for parallel in (1, 7):
        monkeypatch.setattr(pipeline, "PARALLEL", parallel)
        _assert_same(_take(pipeline.train_stream(source, _data(), seed=4), 6), usual)


@pytest.mark.parametrize("num_hosts,num_replicas", [(1, 3), (2, 4), (4, 8)])
def test_hosts_and_replicas_split_the_same_batch(source, path, num_hosts, num_replicas):
    whole = _take(pipeline.train_stream(source, _data(), seed=6, start_step=2), 5)
    local = num_replicas // num_hosts
    parts = []
    for host in range(num_hosts):
        stream = pipeline.train_stream(
            source,
            _data(),
            seed=6,
            start_step=2,
            num_hosts=num_hosts,
            host_index=host,
            num_replicas=num_replicas,
        )
        part = _take(stream, 5 * local)
        # Consecutive elements of a host are its replicas: (step, rows, ...).
        parts.append({k: v.reshape(5, -1, *v.shape[2:]) for k, v in part.items()})
    union = {key: np.concatenate([p[key] for p in parts], axis=1) for key in whole}
    _assert_same(union, whole)


def test_an_epoch_shows_every_example_once_and_anew(source, path):
    # 90 examples in batches of 24: epochs end inside batches.
    batches = _take(pipeline.train_stream(source, _data(), seed=0), 15)
    index = batches["index"].reshape(-1)
    images_seen = batches["image"].reshape(-1, 16, 16, 3)
    if path == "memory":
        for epoch in range(4):
            assert sorted(index[90 * epoch : 90 * (epoch + 1)]) == list(range(90))
    # From files, the lanes of a batch may be an example apart in an epoch.
    counts = np.bincount(index[: 4 * 90])
    assert counts.min() >= 3 and counts.max() <= 5 and (counts == 4).mean() > 0.8
    places = np.array([np.flatnonzero(index == i)[:2] for i in range(90)])
    first, second = images_seen[places[:, 0]], images_seen[places[:, 1]]
    same = (first == second).all(axis=(1, 2, 3))
    assert same.mean() < 0.1  # crops and flips are drawn again


def test_a_part_of_a_split_is_all_that_is_read(source, path):
    data = _data(split="train[:30]+train[60:75]", batch_size=15)
    batches = _take(pipeline.train_stream(source, data, seed=0), 6)
    assert (np.bincount(batches["index"].reshape(-1)) == [2] * 45).all()
    examples = _examples(source, data.split)
    for index, label in zip(
        batches["index"].reshape(-1), batches["label"].reshape(-1), strict=True
    ):
        assert label == examples[index]["label"]


def test_no_python_runs_in_the_graph(source, path):
    for stream in (
        pipeline.train_stream(source, _data(), seed=0),
        evaluation_stream.stream(source, _data(), "test", batch_size=8),
    ):
        graph = tf.raw_ops.DatasetToGraphV2(
            input_dataset=tf.data.experimental.to_variant(stream)
        )
        text = graph.numpy()
        assert b"DecodeAndCropJpeg" in text or b"DecodeImage" in text
        assert b"PyFunc" not in text and b"GeneratorDataset" not in text


@pytest.mark.parametrize("batch_size,replicas", [(8, 1), (10, 2), (37, 1), (64, 4)])
@pytest.mark.parametrize("split", ["test", "test[5:20]"])
def test_evaluation_gives_every_example_once(source, split, batch_size, replicas):
    stream = evaluation_stream.stream(
        source, _data(), split, batch_size=batch_size, num_replicas=replicas
    )
    elements = list(stream.as_numpy_iterator())
    assert len(elements) % replicas == 0
    assert all(e["mask"].shape == (batch_size // replicas,) for e in elements)
    joined = {k: np.concatenate([e[k] for e in elements]) for k in elements[0]}
    examples = _examples(source, split)
    num = len(examples)
    # Padding is less than one global batch and comes last.
    assert 0 <= len(joined["mask"]) - num < batch_size
    assert joined["mask"][:num].all() and not joined["mask"][num:].any()
    assert joined["index"].tolist() == [
        *range(num),
        *[-1] * (len(joined["mask"]) - num),
    ]
    assert joined["label"][:num].tolist() == [int(e["label"]) for e in examples]
    assert joined["image"].dtype == np.float32
    for image, example in zip(joined["image"], examples, strict=False):
        expected = images.to_model_range(images.resize(example["image"], 16))
        np.testing.assert_allclose(image, expected, atol=1e-6)


@pytest.mark.parametrize("crop", list(config.EvalCrop))
def test_evaluation_uses_the_configured_view(source, crop):
    data = _data(eval_crop=crop)
    (batch,) = evaluation_stream.stream(source, data, "test[:4]", batch_size=4)
    for row, example in enumerate(record_files.in_order(source, "test[:4]")):
        encoded = source.parse(example["record"])["image"]
        expected = images.evaluation_view(encoded, data)
        np.testing.assert_array_equal(batch["image"][row], expected)


@pytest.mark.parametrize("num_hosts", [2, 4])
@pytest.mark.parametrize("batch_size", [8, 16])
def test_hosts_evaluate_what_one_host_evaluates(source, num_hosts, batch_size):
    """Host by host, the rows of a batch and its padding are the same."""

    def indices(hosts, host):
        stream = evaluation_stream.stream(
            source,
            _data(),
            "test",
            batch_size=batch_size,
            num_hosts=hosts,
            host_index=host,
            num_replicas=4,
        )
        b = batch_size // 4
        found = np.stack([batch["index"].numpy() for batch in stream])
        return found.reshape(-1, 4 // hosts, b)  # (batches, its replicas, b)

    shares = [indices(num_hosts, host) for host in range(num_hosts)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), indices(1, 0))


def test_a_batch_that_does_not_divide_is_refused(source):
    with pytest.raises(
        errors.UserError, match="data.batch_size=100.*8 replicas.*96, 104"
    ):
        pipeline.train_stream(source, _data(batch_size=100), seed=0, num_replicas=8)
    with pytest.raises(errors.UserError, match="evals.batch_size=3.*near.*: 8$"):
        evaluation_stream.stream(source, _data(), "test", batch_size=3, num_replicas=8)


def test_unequal_hosts_are_an_error(source):
    for hosts, index, replicas in ((2, 0, 3), (2, 2, 4)):
        with pytest.raises(ValueError, match="same|as many replicas"):
            pipeline.train_stream(
                source,
                _data(),
                seed=0,
                num_hosts=hosts,
                host_index=index,
                num_replicas=replicas,
            )


def test_a_split_that_is_not_there_is_refused(source):
    with pytest.raises(errors.UserError, match="validation"):
        pipeline.train_stream(source, _data(split="validation"), seed=0)
    with pytest.raises(errors.UserError, match="validation"):
        evaluation_stream.stream(source, _data(), "validation", batch_size=8)


def test_corrupt_images_are_named(tmp_path, path):
    bad = ("train/dark/040.jpg", "test/light/011.jpg")
    source = _prepare(tmp_path, "broken", damaged=bad)
    stream = iter(pipeline.train_stream(source, _data(), seed=0))
    for step in range(4):
        found = failing_records.find_in_batch(source, _data(), seed=0, step=step)
        try:
            next(stream)
        except tf.errors.InvalidArgumentError:
            break
        assert found is None
    else:
        pytest.fail("the damaged image was decoded")
    assert found.startswith("train/dark/040.jpg (record ")
    assert found.endswith(" of broken 1.0.0 train) cannot be decoded")
    assert bad[1] in failing_records.find_in_split(source, _data(), "test")
    assert failing_records.find_in_split(source, _data(), "test[:1]") is None


def test_a_cut_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
    source = _prepare(tmp_path, "cut")
    shard = source.shards("train")[3].filename
    with open(shard, "r+b") as file:
        file.truncate(5000)
    stream = pipeline.train_stream(source, _data(), seed=0)
    with pytest.raises(tf.errors.DataLossError):
        _take(stream, 4)
    found = [
        failing_records.find_in_batch(source, _data(), seed=0, step=s) for s in range(4)
    ]
    assert any(line and shard in line for line in found)
    with open(source.shards("test")[0].filename, "r+b") as file:
        file.truncate(100)
    line = failing_records.find_in_split(source, _data(), "test")
    assert source.shards("test")[0].filename in line


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> catalog.Source:
    """ImageNet-ReaL with 0, 1, 2, 3, 4 labels of an image."""
    root = tmp_path_factory.mktemp("real")
    examples = fakes.drawn("imagenet2012_real", 5)
    for number, example in enumerate(examples):
        example["real_label"] = np.arange(number) * 7
    fakes.write("imagenet2012_real", root, {"validation": examples})
    return catalog.open_source("imagenet2012_real", str(root))


def test_several_labels_are_a_vector_of_ones(real):
    assert real.multi_label and real.num_classes == 1000
    stream = evaluation_stream.stream(real, _data(), "validation", batch_size=3)
    assert stream.element_spec["label"] == tf.TensorSpec((3, 1000), tf.float32)
    batches = list(stream.as_numpy_iterator())
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    expected = np.zeros((6, 1000))
    for number in range(5):
        expected[number, np.arange(number) * 7] = 1
    np.testing.assert_array_equal(joined["label"], expected)
    assert joined["mask"].tolist() == [True] * 5 + [False]


def test_several_labels_reach_training_batches(real, path):
    data = _data(split="validation", batch_size=4)
    stream = pipeline.train_stream(real, data, seed=0, num_replicas=2)
    assert stream.element_spec["label"] == tf.TensorSpec((2, 1000), tf.float32)
    batches = _take(stream, 5)
    for index, label in zip(
        batches["index"].reshape(-1), batches["label"].reshape(-1, 1000), strict=True
    ):
        assert np.flatnonzero(label).tolist() == [7 * i for i in range(index)]


def test_several_labels_cannot_be_shots(real):
    subset = config.Subset(amount=1, unit="shots")
    data = _data(split="validation", subset=subset)
    with pytest.raises(errors.UserError, match="imagenet2012_real has several labels"):
        pipeline.train_stream(real, data, seed=0)


def test_a_label_out_of_range_is_named(tmp_path):
    examples = fakes.drawn("vtab/clevr_count", 3)
    for number, example in zip((3, 12, 10), examples, strict=True):
        parts = example["objects"].items()
        example["objects"] = {k: np.resize(p, (number, *p.shape[1:])) for k, p in parts}
        example["file_name"] = f"scene{number}.png"
    fakes.write("vtab/clevr_count", tmp_path, {"train": examples})
    source = catalog.open_source("vtab/clevr_count", str(tmp_path))
    data = _data(batch_size=3)
    with pytest.raises(tf.errors.InvalidArgumentError):
        _take(pipeline.train_stream(source, data, seed=0), 1)
    line = (
        "scene12.png (record 1 of vtab/clevr_count 3.1.0 train) has a label out of "
        "range 0 to 7"
    )
    assert failing_records.find_in_batch(source, data, seed=0, step=0) == line
    assert failing_records.find_in_split(source, data, "train") == line
    shots = _data(subset=config.Subset(amount=1, unit="shots"))
    with pytest.raises(
        errors.UserError, match="a label is out of range 0 to 7; `python"
    ):
        pipeline.train_stream(source, shots, seed=0)


def test_a_strategy_gets_the_same_rows(source):
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )
    whole = _take(pipeline.train_stream(source, _data(), seed=6), 3)
    distributed = strategy.distribute_datasets_from_function(
        lambda context: pipeline.train_stream(
            source,
            _data(),
            seed=6,
            num_hosts=context.num_input_pipelines,
            host_index=context.input_pipeline_id,
            num_replicas=context.num_replicas_in_sync,
        )
    )
    for step, batch in zip(range(3), distributed):
        rows = np.concatenate(strategy.experimental_local_results(batch["index"]))
        np.testing.assert_array_equal(rows, whole["index"][step])


def _ahead(dataset) -> dict[str, list[str]]:
    """The nodes of a stream that work in parallel or ahead.

    Returns:
        The same for the stream as 'written' and as TensorFlow's pass for op determinism
        leaves it, 'run'. The pass is asked by its name, because what it logs differs
        between versions.
    """
    written = tf.data.experimental.to_variant(dataset)
    spec = tf.data.DatasetSpec.from_value(dataset).element_spec
    run = tf.raw_ops.OptimizeDatasetV2(
        input_dataset=written,
        optimizations_enabled=["make_deterministic"],
        optimizations_disabled=tf.constant([], tf.string),
        optimizations_default=tf.constant([], tf.string),
        output_types=[leaf.dtype for leaf in tf.nest.flatten(spec)],
        output_shapes=[leaf.shape for leaf in tf.nest.flatten(spec)],
    )
    return {"written": _asynchronous(written), "run": _asynchronous(run)}


def _asynchronous(variant) -> list[str]:
    ignore = 1  # of what is kept outside of the graph, such as a variable's value
    text = tf.raw_ops.DatasetToGraphV2(
        input_dataset=variant, external_state_policy=ignore
    )
    graph = tf.compat.v1.GraphDef.FromString(text.numpy())
    nodes = {node.name: node for node in graph.node}

    def is_ahead(node):
        if node.op != "PrefetchDataset":
            return node.op.startswith("Parallel")
        size = nodes[node.input[1].partition(":")[0]].attr["value"].tensor
        return tf.make_ndarray(size) != 0

    return sorted(node.op for node in graph.node if is_ahead(node))


def test_the_streams_run_in_parallel_and_ahead_under_op_determinism(
    tmp_path, monkeypatch
):
    """TensorFlow slows a stream down if a function in it keeps a state.

    Under `enable_op_determinism` it then maps one example after the other and never
    prefetches, which halves the rate on two cores. `Dataset.counter` is enough.
    """
    count = tf.Variable(0, dtype=tf.int64)

    def stateful(i):
        return i + count.assign_add(1)

    numbers = tf.data.Dataset.range(9).map(stateful, num_parallel_calls=2).prefetch(1)
    assert _ahead(numbers) == {
        "written": ["ParallelMapDatasetV2", "PrefetchDataset"],
        "run": [],
    }
    for name in ("pictures", "others"):
        _prepare(tmp_path, name)
    name = "pictures*3+others"
    sources = mixture.open_all(name, str(tmp_path / "data"))
    data = config.Data(name=name, image_size=16, batch_size=8, mixup=0.5)
    streams = {}
    for place, size in (("memory", record_store.IN_MEMORY_BYTES), ("files", 0)):
        monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", size)
        for kind, share in {
            "one host": {},
            "a host's share": {"start_step": 3, "num_hosts": 2, "num_replicas": 2},
            "replicas": {"num_replicas": 2},
        }.items():
            streams[place, kind] = _ahead(
                pipeline.train_stream(sources, data, seed=0, **share)
            )
    data.randaug_layers = 2
    streams["RandAugment"] = _ahead(pipeline.train_stream(sources, data, seed=0))
    streams["evaluation"] = _ahead(
        evaluation_stream.stream(sources.sources[0], data, "test", batch_size=8)
    )
    for stream, nodes in streams.items():
        assert nodes["run"] == nodes["written"], stream
        assert "PrefetchDataset" in nodes["run"], stream
        assert any(op.startswith("Parallel") for op in nodes["run"]), stream


_LONG = """
import sys
from vit_tf import config
from vit_tf.data import catalog, pipeline

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(l for l in lines if l.startswith("VmRSS")).split()[1]) // 1024

source = catalog.open_source("digits", sys.argv[1])
data = config.Data(name="digits", image_size=16, batch_size=100, randaug_layers=2)
stream = iter(pipeline.train_stream(source, data, seed=0))
found = []
for step in range(600):
    next(stream)
    if step in (99, 599):
        found.append(resident())
print(*found)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs /proc"
)
def test_memory_stays_flat_over_fifty_thousand_images(data_dir):
    """Resident MiB after 10,000 images and after 50,000 more."""
    done = subprocess.run(
        [sys.executable, "-c", _LONG, data_dir],
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    print(before, after)
    assert after < before + 40, (before, after)
