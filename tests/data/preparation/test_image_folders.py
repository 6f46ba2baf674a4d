"""What a folder of images may look like, and what is refused."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from vit_tf import config
from vit_tf.data.preparation import image_folders

PNG = tf.io.encode_png(np.zeros((4, 4, 3), np.uint8)).numpy()


def _make(root: pathlib.Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return str(root)


def test_class_folders_alone(tmp_path):
    folder = _make(
        tmp_path, "dog/b.png", "cat/deep/er/a.JPEG", "dog/a.jpg", "cat/c.PNG"
    )
    listing = image_folders.list_folder(folder, validation_share=0)
    assert listing.class_names == ("cat", "dog")
    assert listing.files == {
        "train": [
            ("cat/c.PNG", "cat"),
            ("cat/deep/er/a.JPEG", "cat"),
            ("dog/a.jpg", "dog"),
            ("dog/b.png", "dog"),
        ]
    }
    assert listing.ignored == {}


@pytest.mark.parametrize("validation", ["val", "validation", "Val"])
def test_split_folders(tmp_path, validation):
    names = [
        f"{split}/{kind}/1.png"
        for split in ("train", "Test", validation)
        for kind in "ab"
    ]
    listing = image_folders.list_folder(_make(tmp_path, *names))
    assert listing.files == {
        "train": [("train/a/1.png", "a"), ("train/b/1.png", "b")],
        "test": [("Test/a/1.png", "a"), ("Test/b/1.png", "b")],
        "validation": [(f"{validation}/{kind}/1.png", kind) for kind in "ab"],
    }


def test_a_tenth_is_held_out_by_the_hash_of_the_path(tmp_path):
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(300)]
    before = image_folders.list_folder(_make(tmp_path, *names))
    assert 35 <= len(before.files["validation"]) <= 90  # 60 expected, sd 7.3
    assert sorted(before.paths) == sorted(names)
    more = [f"a/more{number}.png" for number in range(100)]
    after = image_folders.list_folder(_make(tmp_path, *more))
    for split in ("train", "validation"):
        assert set(before.files[split]) <= set(after.files[split])
    half = image_folders.list_folder(str(tmp_path), validation_share=0.5)
    assert 290 <= len(half.files["validation"]) <= 410
    assert set(after.files["validation"]) <= set(half.files["validation"])


def test_split_folders_are_left_as_they_are_unless_asked(tmp_path):
    names = [
        f"{split}/{k}/{n}.png"
        for split in ("train", "test")
        for k in "ab"
        for n in range(50)
    ]
    folder = _make(tmp_path, *names)
    assert list(image_folders.list_folder(folder).files) == ["test", "train"]
    cut = image_folders.list_folder(folder, validation_share=0.3).files
    assert len(cut["test"]) == 100
    assert len(cut["train"]) + len(cut["validation"]) == 100
    assert 12 <= len(cut["validation"]) <= 48
    _make(tmp_path, "val/a/1.png")
    with pytest.raises(config.Refused, match="has a validation folder already"):
        image_folders.list_folder(folder, validation_share=0.3)


def test_other_files_are_counted_by_kind(tmp_path):
    folder = _make(tmp_path, "a/1.png", "b/1.png", "a/Thumbs.db", "b/x.gif", "a/y.GIF")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    (tmp_path / "a" / "._1.png").write_bytes(b"")
    _make(tmp_path, ".git/x.png", "__MACOSX/y.png")
    (tmp_path / "README.md").write_text("")
    listing = image_folders.list_folder(folder, validation_share=0)
    assert listing.class_names == ("a", "b")
    assert listing.ignored == {".DS_Store": 1, ".db": 1, ".gif": 2, ".png": 1}


@pytest.mark.parametrize(
    "paths,complaint",
    [
        ([], "no class folders"),
        (["1.png"], "no class folders"),
        (["a/x.txt", "b/y.txt"], r"no images \(.jpg, .jpeg, .png\)"),
        (["a/1.png", "b/x.txt"], "no images .* for class b"),
        (["a/1.png"], r"only one class folder \(a\)"),
        (["set/train/a/1.png", "set/test/a/1.png"], "point --folder at .*set"),
        (["train/a/1.png", "val/a/1.png", "validation/a/1.png"], "val and validation"),
        (["train/a/1.png", "Train/a/1.png"], "both the train split"),
        (["train/a/1.png", "train/b/1.png", "cats/1.png"], "cats beside the split"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "test beside the split"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "train has not: c"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, paths, complaint):
    with pytest.raises(config.Refused, match=complaint) as refusal:
        image_folders.list_folder(_make(tmp_path, *paths))
    assert "\n" not in str(refusal.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(config.Refused, match="no such folder"):
        image_folders.list_folder(str(tmp_path / "nothing"))


def test_a_class_may_be_called_train(tmp_path):
    listing = image_folders.list_folder(_make(tmp_path, "train/1.png", "bus/1.png"), 0)
    assert listing.class_names == ("bus", "train")


def test_damaged_files_are_found_with_the_reason(tmp_path):
    folder = _make(tmp_path, *(f"{kind}/{n}.png" for kind in "ab" for n in range(5)))
    rng = np.random.default_rng(0)
    jpeg = tf.io.encode_jpeg(rng.integers(0, 256, (64, 64, 3), np.uint8)).numpy()
    contents = {
        "a/good.jpg": jpeg,
        "a/cut.jpg": jpeg[: len(jpeg) // 2],
        "a/cut.png": PNG[:-20],
        "b/empty.jpg": b"",
        "b/page.jpg": b"<html>not found</html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    strange = os.fsdecode(b"a/\xff.png")
    (tmp_path / strange).write_bytes(PNG)
    listing = image_folders.list_folder(folder)
    seen = []

    def watch(numbers):
        for number in numbers:
            seen.append(number)
            yield number

    found = image_folders.find_unreadable(listing, watch)
    assert found == {
        "a/cut.jpg": "damaged or cut off",
        "a/cut.png": "damaged or cut off",
        "b/empty.jpg": "empty file",
        "b/page.jpg": "not a JPEG or PNG image",
        "b/gone.jpg": "No such file or directory",
        strange: "file name is not UTF-8",
    }
    assert len(seen) == 11  # the readable ones, for the progress display
    left = image_folders.leave_out(listing, found)
    assert sorted(left.paths) == sorted(set(listing.paths) - set(found))


def test_leaving_out_must_not_empty_a_class(tmp_path):
    listing = image_folders.list_folder(
        _make(tmp_path, "a/1.png", "b/1.png", "b/2.png"), 0
    )
    assert image_folders.leave_out(listing, ["b/1.png"]).paths == ["a/1.png", "b/2.png"]
    with pytest.raises(config.Refused, match="no readable image for class b"):
        image_folders.leave_out(listing, ["b/1.png", "b/2.png"])


def test_every_class_keeps_an_image_to_train_on(tmp_path):
    for number in range(40):
        path = tmp_path / f"class{number:02}" / "only.png"
        path.parent.mkdir()
        path.write_bytes(b"x")
    listing = image_folders.list_folder(str(tmp_path), 0.5)
    assert {name for _, name in listing.files["train"]} == set(listing.class_names)
    assert not listing.files.get("validation")
