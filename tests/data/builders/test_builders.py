"""What our own data sets hold, and that labels need looking at the image."""

import io
import json
import pathlib

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image
from sklearn import discriminant_analysis

from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
)
from vit_tf.data.builders import digits, image_folder, objectnet, shapes
from vit_tf.data.preparation import image_folders, prepare


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """3,000 shapes."""
    blocks = [shapes.draw("train", block) for block in range(6)]
    images, labels = zip(*blocks, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Of a linear classifier, on the half that it was not fitted to."""
    features = features.reshape(len(features), -1).astype(np.float64)
    half = len(labels) // 2
    model = discriminant_analysis.LinearDiscriminantAnalysis()
    model.fit(features[:half], labels[:half])
    return model.score(features[half:], labels[half:])


def test_shapes_are_drawn_the_same_every_time():
    first, labels = shapes.draw("test", 3)
    again, _ = shapes.draw("test", 3)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (500, 48, 48, 3) and first.dtype == np.uint8
    assert (np.bincount(labels) == 50).all() and len(shapes.FORMS) == 10
    for other in (shapes.draw("test", 2), shapes.draw("train", 3)):
        assert (other[0] != first).any(axis=(1, 2, 3)).all()


def test_all_shapes_of_a_block_differ(drawn):
    images, _ = drawn
    assert len({image.tobytes() for image in images}) == len(images)


# 1,500 held-out images at chance 0.1: three standard deviations are 0.023.
def test_colour_does_not_tell_the_class(drawn):
    images, labels = drawn
    assert _accuracy(images.mean(axis=(1, 2)), labels) < 0.135


def test_brightness_and_contrast_do_not_tell_the_class(drawn):
    images, labels = drawn
    grey = images.mean(axis=-1)
    spread = [grey.mean((1, 2)), grey.std((1, 2)), grey.min((1, 2)), grey.max((1, 2))]
    assert _accuracy(np.stack(spread, axis=1), labels) < 0.135


def test_most_classes_are_not_told_by_a_sum_over_pixels(drawn):
    images, labels = drawn
    assert _accuracy(images[:, 2::4, 2::4].mean(axis=-1), labels) < 0.6


@pytest.fixture(scope="module")
def alpha() -> np.ndarray:
    """How much of each pixel of `drawn` the figure covers."""
    covers = []
    draw = shapes.figure_alpha

    def keep(rng, labels):
        covers.append(draw(rng, labels))
        return covers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "figure_alpha", keep)
        for block in range(6):
            shapes.draw("train", block)
    return np.concatenate(covers)


def test_figures_are_lighter_than_their_ground(drawn, alpha):
    grey = drawn[0].mean(axis=-1)
    figure, ground = (
        (grey * cover).sum((1, 2)) / cover.sum((1, 2)) for cover in (alpha, 1 - alpha)
    )
    assert (figure - ground).min() > 25  # of 255


def test_the_figure_is_there_to_be_seen(drawn, alpha):
    """The label is the form: without its ground a figure is easy to name."""
    _, labels = drawn
    area = alpha.sum(axis=(1, 2)) / 48**2
    assert area.min() > 0.05 and area.max() < 0.25
    # Forms end inside the image.
    assert alpha[:, [0, -1]].mean() < 1e-3 and alpha[:, :, [0, -1]].mean() < 1e-3
    means = np.array([area[labels == label].mean() for label in range(10)])
    np.testing.assert_allclose(means, means.mean(), rtol=0.05)
    assert _accuracy(area[:, None], labels) < 0.135
    # Moments about the centre do not change with place, size and rotation.
    y, x = np.mgrid[:48, :48]
    centre_y = (alpha * y).sum((1, 2)) / alpha.sum((1, 2))
    centre_x = (alpha * x).sum((1, 2)) / alpha.sum((1, 2))
    radius = np.hypot(
        y - centre_y[:, None, None], x - centre_x[:, None, None]
    ) / np.sqrt(48**2 * area[:, None, None])
    bins = np.stack(
        [
            (alpha * ((radius >= low) & (radius < low + 0.1))).sum((1, 2))
            / alpha.sum((1, 2))
            for low in np.arange(0, 1, 0.1)
        ],
        axis=1,
    )
    assert _accuracy(bins, labels) > 0.7
    centres = np.stack([centre_y, centre_x], axis=1)
    assert _accuracy(centres, labels) < 0.135


def test_forms_have_the_area_of_the_unit_circle():
    axis = np.linspace(-2.5, 2.5, 1001)
    u, v = np.meshgrid(axis, axis)
    for name, distance in shapes.FORMS.items():
        scale = shapes.unit_of(name).scale
        area = (distance(u / scale, v / scale) < 0).mean() * 25
        assert area == pytest.approx(np.pi, rel=0.01), name


def test_prepared_shapes_are_the_drawn_ones(tmp_path, monkeypatch):
    sizes = {"train": 520, "validation": 30, "test": 20}
    monkeypatch.setattr(shapes, "SPLIT_SIZES", sizes)
    shapes.Shapes(data_dir=tmp_path).download_and_prepare()
    source = catalog.open_source("shapes", str(tmp_path))
    assert {split: source.num_examples(split) for split in sizes} == sizes
    assert source.class_names == tuple(shapes.FORMS)
    for split in ("validation", "test"):
        images, labels = shapes.draw(split, 0)
        images = images[: sizes[split]].astype(int)
        for example in source.builder.as_dataset(split):
            difference = np.abs(images - example["image"].numpy()).mean(axis=(1, 2, 3))
            row = difference.argmin()
            assert difference[row] < 4 < np.delete(difference, row).min()  # JPEG's loss
            assert example["label"] == labels[row]


def test_digits_are_the_1797_scans(data_dir):
    source = catalog.open_source("digits", data_dir)
    assert digits.SPLIT_SIZES == {
        split: source.num_examples(split) for split in ("train", "validation", "test")
    }
    scans = sklearn.datasets.load_digits()
    expected = sorted(
        (label, np.rint(image * 255 / 16).astype(np.uint8).tobytes())
        for label, image in zip(scans.target.tolist(), scans.images, strict=True)
    )
    found = sorted(
        (int(example["label"]), example["image"].numpy().tobytes())
        for example in source.builder.as_dataset("train+validation+test")
    )
    assert found == expected
    assert max(max(image) for _, image in found) == 255


def test_digits_keep_the_classes_shares(data_dir):
    source = catalog.open_source("digits", data_dir)
    for split, size in digits.SPLIT_SIZES.items():
        labels = [int(e["label"]) for e in source.builder.as_dataset(split)]
        shares = np.bincount(sklearn.datasets.load_digits().target) / 1797
        assert np.abs(np.bincount(labels) - shares * size).max() <= 1


def test_imported_images_keep_bytes_label_and_name(tmp_path):
    rng = np.random.default_rng(0)
    contents = {}
    for number in range(12):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, (8 + number, 9, 3), dtype=np.uint8)
        extension = ("jpeg", "png")[number % 2]
        Image.fromarray(pixels).save(file, extension)
        path = f"{'ab'[number % 3 > 0]}/pict\u00fcre {number}.{extension.upper()}"
        contents[path] = file.getvalue()
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(contents[path])
    listing = image_folders.list_folder(str(tmp_path / "in"), validation_share=0.3)
    gone = listing.files["train"][0][0]
    chosen = image_folder.FolderConfig(
        name="pets",
        listing=image_folders.leave_out(listing, [gone]),
        skipped={gone: "blurred"},
    )
    image_folder.ImageFolder(config=chosen, data_dir=tmp_path).download_and_prepare()

    source = catalog.open_source("pets", str(tmp_path))
    assert source.class_names == ("a", "b") and source.version == "1.0.0"
    seen = {}
    for split, files in listing.files.items():
        for shard in source.shards(split):
            for record in tf.data.TFRecordDataset(shard.filename):
                parsed = source.parse(record)
                path = source.describe(record, split, 0).split(" (record")[0]
                assert source.class_names[int(parsed["label"])] == path[0]
                assert (path, path[0]) in files
                seen[path] = parsed["image"].numpy()
    assert contents.pop(gone) and seen == contents
    skipped = tmp_path / "image_folder" / "pets" / "1.0.0" / "skipped.txt"
    assert skipped.read_text() == f"{gone}\tblurred\n"
    assert source.builder.info.metadata["num_files"] == 12


def _write_objectnet(manual: pathlib.Path, *, first: int = 0) -> pathlib.Path:
    """Three classes, two of which ImageNet (of four classes here) has as well."""
    home = manual / "objectnet-1.0"
    mappings = home / "mappings"
    mappings.mkdir(parents=True)
    # Lines are in another order than labels: label 0 is on the third line, ...
    (mappings / "imagenet_to_label_2012_v2").write_text("clock\nbike\ncrane\ncrane\n")
    lines = {"0": 2 + first, "1": 0 + first, "2": 3 + first, "3": 1 + first}
    for name, content in {
        "pytorch_to_imagenet_2012_id": lines,
        "folder_to_objectnet_label": {"alarm_clock": "Alarm clock", "cycle": "Bicycle"},
        "objectnet_to_imagenet_1k": {"Alarm clock": "clock; bike", "Bicycle": "bike"},
    }.items():
        (mappings / f"{name}.json").write_text(json.dumps(content))
    for folder in ("alarm_clock", "cycle", "air_freshener"):
        (home / "images" / folder).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((8, 10, 3), 40 * number + 20, np.uint8)
            pixels[[0, -1]] = pixels[:, [0, -1]] = (255, 0, 0)
            Image.fromarray(pixels).save(home / "images" / folder / f"{number}.png")
    return home


@pytest.mark.parametrize("first", [0, 1])
def test_objectnet_folders_map_to_labels_of_imagenet(tmp_path, first):
    home = _write_objectnet(tmp_path, first=first)
    mappings = catalog.Path(home / "mappings")
    assert objectnet.map_folders(mappings) == {"alarm_clock": [1, 3], "cycle": [3]}


def test_objectnet_maps_that_do_not_fit_are_refused(tmp_path):
    home = _write_objectnet(tmp_path)
    classes = home / "mappings" / "objectnet_to_imagenet_1k.json"
    for bad in ({"Bicycle": "crane"}, {"Bicycle": "bik"}, {"Chair": "bike"}):
        classes.write_text(json.dumps(bad))
        with pytest.raises(errors.UserError, match="not one line each for"):
            objectnet.map_folders(catalog.Path(home / "mappings"))
    numbers = home / "mappings" / "pytorch_to_imagenet_2012_id.json"
    numbers.write_text(json.dumps({"0": 2, "1": 9}))
    with pytest.raises(errors.UserError, match="does not number the lines"):
        objectnet.map_folders(catalog.Path(home / "mappings"))


def test_objectnet_goes_in_and_comes_out_without_its_border(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    _write_objectnet(manual)
    prepare.prepare_dataset("objectnet", catalog.Path(tmp_path))
    source = catalog.open_source("objectnet", str(tmp_path))
    assert source.num_examples("test") == 4  # air fresheners are not in ImageNet
    data = config.Data(image_size=6)
    (batch,) = evaluation_stream.stream(source, data, "test", batch_size=4)
    listed = [np.flatnonzero(label).tolist() for label in batch["label"].numpy()]
    assert sorted(listed) == [[1, 3], [1, 3], [3], [3]]
    pixels = np.rint(batch["image"].numpy() * 127.5 + 127.5)
    assert {tuple(np.unique(image)) for image in pixels} == {(20,), (60,)}


def test_an_objectnet_folder_without_images_is_refused(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    home = _write_objectnet(manual)
    for path in (home / "images" / "cycle").iterdir():
        path.unlink()
    with pytest.raises(errors.UserError, match="cycle: no .png images"):
        prepare.prepare_dataset("objectnet", catalog.Path(tmp_path))
