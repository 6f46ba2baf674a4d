"""Subsets: exact counts, nested, the same every time, and streamed like any set."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    pipeline,
    record_files,
    record_store,
    subsets,
)
from vit_tf.data.builders import digits

TOTAL = 1197  # examples of 'train'


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> catalog.Source:
    root = tmp_path_factory.mktemp("subsets")
    digits.Digits(data_dir=root).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=7)
    )
    return catalog.open_source("digits", str(root))


@pytest.fixture(params=["memory", "files"])
def path(request, monkeypatch) -> str:
    if request.param == "files":
        monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(record_store, "WINDOW_BYTES", 30 * 190)
    return request.param


def _data(amount=None, unit="fraction", seed=0, **changes) -> config.Data:
    subset = config.Subset(amount=amount, unit=unit, seed=seed)
    usual = {"image_size": 8, "batch_size": 10, "crop": "resize", "subset": subset}
    return config.Data(**usual | changes)


def _take(source, data, batches: int, **changes) -> dict[str, np.ndarray]:
    stream = pipeline.train_stream(source, data, **{"seed": 3} | changes)
    elements = list(stream.take(batches).as_numpy_iterator())
    return {key: np.stack([e[key] for e in elements]) for key in elements[0]}


def test_without_a_subset_everything_is_read(source):
    assert subsets.choose(source, _data()) is None
    assert subsets.count(source, _data()) == TOTAL


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    counts=st.lists(st.integers(1, TOTAL), min_size=2, max_size=2),
    seed=st.integers(0, 2**31 - 1),
)
def test_counts_are_exact_and_smaller_subsets_lie_in_larger(source, counts, seed):
    small, large = (
        subsets.choose(source, _data(count, "examples", seed))
        for count in sorted(counts)
    )
    assert [len(small), len(large)] == sorted(counts)
    assert (np.diff(large) > 0).all() and 0 <= large[0] and large[-1] < TOTAL
    assert set(small) <= set(large)
    same = subsets.choose(source, _data(len(small) / TOTAL, "fraction", seed))
    np.testing.assert_array_equal(small, same)


@pytest.mark.parametrize(
    "amount,split,count",
    [
        (1.0, "train", 1197),
        (0.1, "train", 119),
        (0.29, "train[:100]", 29),  # 0.29 * 100 is a little less than 29
        (1e-3, "train", 1),
    ],
)
def test_fractions_round_down(source, amount, split, count):
    assert subsets.count(source, _data(amount, split=split)) == count


def test_another_seed_is_another_subset(source):
    first, second = (
        set(subsets.choose(source, _data(100, "examples", seed))) for seed in (0, 1)
    )
    assert len(first & second) < 30


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shots_are_those_of_the_authors_and_nested(source, seed):
    labels = subsets.read_labels(source, "train")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(np.where(labels == c)[0]) for c in range(10)]
    chosen = {}
    for shots in (1, 5, 25):
        chosen[shots] = subsets.choose(source, _data(shots, "shots", seed))
        expected = np.concatenate([order[:shots] for order in orders])
        np.testing.assert_array_equal(chosen[shots], np.sort(expected))
        assert np.bincount(labels[chosen[shots]]).tolist() == [shots] * 10
    assert set(chosen[1]) < set(chosen[5]) < set(chosen[25])


def test_labels_are_read_in_file_order(source):
    rows = record_files.in_order(source, "train[100:200]")
    expected = [int(source.parse(row["record"])["label"]) for row in rows]
    assert subsets.read_labels(source, "train[100:200]").tolist() == expected


@pytest.mark.parametrize(
    "amount,unit,split,complaint",
    [
        (1.5, "fraction", "train", "1.5: more than the whole.*unit=examples"),
        (1e-6, "fraction", "train", "is 0 of the 1,197 examples"),
        (1198, "examples", "train", "is 1,198 of the 1,197 examples.*need 1 to 1,197"),
        (2.5, "examples", "train", "whole number of examples"),
        (0.5, "shots", "train", "whole number of shots"),
        (500, "shots", "train", r"class '\d' \(label \d\) has only 11\d examples"),
        (1, "shots", "train[:3]", "has only 0 examples in 'train.:3.' of digits"),
    ],
)
def test_what_cannot_be_is_refused(source, amount, unit, split, complaint):
    with pytest.raises(errors.UserError, match=complaint) as refusal:
        pipeline.train_stream(source, _data(amount, unit, split=split), seed=0)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("amount,unit", [(0.05, "fraction"), (73, "examples")])
def test_an_epoch_is_the_subset(source, path, amount, unit):
    data = _data(amount, unit)
    chosen = subsets.choose(source, data)
    index = _take(source, data, 20)["index"].reshape(-1)
    epochs = len(index) // len(chosen)
    assert set(index) == set(chosen)
    counts = np.bincount(index[: epochs * len(chosen)])[chosen]
    if path == "memory":
        assert (counts == epochs).all()
        assert sorted(index[: len(chosen)]) == chosen.tolist()
    # From files, the lanes of a batch may be an example apart in an epoch.
    assert counts.min() >= epochs - 1 and counts.max() <= epochs + 1
    assert index[: len(chosen)].tolist() != index[len(chosen) :][: len(chosen)].tolist()


def test_rows_of_a_subset_are_the_rows_of_the_split(source, path):
    data = _data(2, "shots", flip=False)
    batches = _take(source, data, 4)
    examples = list(evaluation_stream.stream(source, data, "train", batch_size=1))
    for index, label, image in zip(
        *(
            batches[key].reshape(-1, *batches[key].shape[2:])
            for key in ("index", "label", "image")
        ),
        strict=True,
    ):
        assert examples[index]["index"].numpy().tolist() == [index]
        assert examples[index]["label"].numpy().tolist() == [label]
        shown = np.rint(examples[index]["image"][0] * 127.5 + 127.5)
        np.testing.assert_array_equal(image, shown)


def test_a_run_on_a_subset_resumes_at_any_step(source, path):
    data = _data(0.06)  # 71 examples in batches of 10
    whole = _take(source, data, 30)

    @hypothesis.settings(deadline=None, max_examples=5)
    @hypothesis.given(step=st.integers(1, 26))
    def check(step):
        rest = _take(source, data, 3, start_step=step)
        for key, value in whole.items():
            np.testing.assert_array_equal(value[step : step + 3], rest[key])

    check()
    parts = [
        _take(source, data, 30, num_hosts=2, host_index=h, num_replicas=2)
        for h in range(2)
    ]
    joined = np.concatenate([part["index"] for part in parts], axis=1)
    np.testing.assert_array_equal(joined, whole["index"])


def test_memory_holds_the_subset_only(source, monkeypatch):
    sizes = []
    load = record_files.load_rows

    def watched(*arguments):
        loaded = load(*arguments)
        sizes.append(len(loaded["record"]))
        return loaded

    monkeypatch.setattr(record_files, "load_rows", watched)
    _take(source, _data(30, "examples"), 1)
    # Small enough for memory although the split is not.
    monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 40 * 200)
    _take(source, _data(30, "examples"), 1)
    assert sizes == [30, 30]
    _take(source, _data(), 1)
    assert len(sizes) == 2


def test_files_without_chosen_rows_are_not_opened(source, path):
    first = source.shards("train")[0].take
    keep = np.arange(5, first, 7)
    shards = record_files.Shards(source, "train", keep)
    assert len(shards.paths) == 1 and shards.counts.tolist() == [len(keep)]
    rows = [int(row["index"]) for row in record_files.in_order(source, "train", keep)]
    assert rows == keep.tolist()
    share = record_store.Share(batch_size=1, first=0, count=1)
    rows = record_store.shuffled(
        source, "train", seed=0, start=0, share=share, keep=keep
    )
    assert sorted(int(r["index"]) for r in rows.take(len(keep))) == keep.tolist()


def test_evaluations_see_everything(source):
    data = _data(1, "shots")
    batches = evaluation_stream.stream(source, data, "test", batch_size=100)
    assert sum(int(tf.reduce_sum(tf.cast(b["mask"], tf.int32))) for b in batches) == 400
