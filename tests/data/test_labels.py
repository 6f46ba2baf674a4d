"""Every label derived by hand, eagerly and inside a graph."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from vit_tf.data import labels


def _derive(label: labels.Label, features: dict) -> np.ndarray:
    """The label, which must be the same eagerly and in tf.data."""
    features = tf.nest.map_structure(tf.constant, features)
    eager = label.derive(features)
    (inside,) = tf.data.Dataset.from_tensors(features).map(label.derive)
    np.testing.assert_array_equal(eager, inside)
    assert eager.dtype == (tf.float32 if label.multi else tf.int32)
    return eager.numpy()


def _objects(**parts) -> dict:
    return {"objects": parts}


def test_a_stored_class_is_an_int32():
    assert _derive(labels.stored("kind"), {"kind": np.int64(7)}) == 7
    assert labels.stored("kind").names_key == "kind"


@pytest.mark.parametrize("count", range(3, 11))
def test_clevr_counts_objects_from_three(count):
    sizes = np.zeros(count, np.int64)
    assert _derive(labels.clevr_count(), _objects(size=sizes)) == count - 3


@pytest.mark.parametrize(
    "depths,label",
    [
        ([12.0, 7.9, 30.0], 0),
        ([8.0], 0),  # thresholds belong to the bin below
        ([8.01, 9.9], 1),
        ([8.5], 1),
        ([8.6], 2),
        ([9.0], 2),
        ([9.5], 3),
        ([9.51], 4),
        ([10.0], 4),
        ([10.01, 11.0, 99.0], 5),
        ([100.0], 5),
    ],
)
def test_clevr_bins_the_closest_object(depths, label):
    # The first two coordinates are pixels and must not count.
    coordinates = np.array([[1.0, 2.0, depth] for depth in depths], np.float32)
    features = _objects(pixel_coords=coordinates)
    assert _derive(labels.clevr_distance(), features) == label


CAR, VAN, TRUCK, PEDESTRIAN, DONT_CARE = 0, 1, 2, 3, 7


@pytest.mark.parametrize(
    "kinds,depths,label",
    [
        ([], [], 3),
        ([PEDESTRIAN, DONT_CARE], [2.0, -1000.0], 3),
        ([CAR], [5.0], 0),
        ([CAR], [8.0], 0),
        ([TRUCK, VAN], [30.0, 8.1], 1),
        ([VAN], [20.0], 1),
        ([PEDESTRIAN, CAR], [1.0, 20.5], 2),
        ([CAR], [999.0], 2),
        ([CAR], [-3.0], 0),  # beside the camera
    ],
)
def test_kitti_bins_the_closest_vehicle(kinds, depths, label):
    place = np.array([[0.0, 0.0, depth] for depth in depths], np.float32)
    features = _objects(type=np.array(kinds, np.int64), location=place.reshape(-1, 3))
    assert _derive(labels.kitti_distance(), features) == label


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    depths=st.lists(st.floats(0.125, 120, width=32), min_size=1, max_size=12)
)
def test_bins_are_those_of_the_authors_loop(depths):
    place = np.array([[0.0, 0.0, depth] for depth in depths], np.float32)
    closest = np.float32(min(depths))
    for label, thresholds in (
        (labels.clevr_distance(), (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)),
        (labels.kitti_distance(), (-100.0, 8.0, 20.0, 999.0)),
    ):
        features = _objects(
            pixel_coords=place, location=place, type=np.zeros(len(depths), np.int64)
        )
        expected = max(i for i, t in enumerate(thresholds) if np.float32(t) < closest)
        assert label.derive(tf.nest.map_structure(tf.constant, features)) == expected


@pytest.mark.parametrize("size,classes", [(2.0, 32), (2.5, 40)])
def test_dsprites_has_sixteen_groups(size, classes):
    label = labels.grouped("label_x", size)
    found = [int(label.derive({"label_x": tf.constant(c)})) for c in range(classes)]
    assert found == [int(np.floor(c / size)) for c in range(classes)]
    assert sorted(set(found)) == list(range(16))
    assert _derive(label, {"label_x": np.int64(classes - 1)}) == 15


@pytest.mark.parametrize("listed", [[], [2], [0, 4], [3, 3]])
def test_several_classes_are_ones_in_a_vector(listed):
    label = labels.multi_hot("real_label", 5)
    hot = _derive(label, {"real_label": np.array(listed, np.int64)})
    assert hot.tolist() == [float(c in listed) for c in range(5)]


@pytest.mark.parametrize("bad", [-1, 5, 1000])
def test_a_label_out_of_range_is_an_error(bad):
    with pytest.raises(tf.errors.InvalidArgumentError, match=labels.OUT_OF_RANGE):
        labels.check_range(tf.constant(bad), 5)
    for label, value in ((labels.multi_hot("k", 5), [1, bad]),):
        dataset = tf.data.Dataset.from_tensors({"k": np.array(value)}).map(label.derive)
        with pytest.raises(tf.errors.InvalidArgumentError, match="out of range"):
            list(dataset)
