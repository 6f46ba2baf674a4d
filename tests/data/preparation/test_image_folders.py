"""What a folder of images may look like, and what is refused."""

import collections
import io
import os
import pathlib

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from tests.support import image_files as bad_files
from vit_tf import errors
from vit_tf.data import image_files, safe_decoding
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


@pytest.mark.parametrize("validation", ["val", "Valid", "validation", "Val", "DEV"])
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


def test_a_tenth_of_each_class_is_held_out_by_the_hash_of_the_path(tmp_path):
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(50)]
    names += ["rare/1.png", "rare/2.png", "once/1.png"]
    before = image_folders.list_folder(_make(tmp_path, *names))
    counts = collections.Counter(name for _, name in before.files["validation"])
    assert counts == {"a": 5, "b": 5, "rare": 1}
    assert sorted(before.paths) == sorted(names)
    assert image_folders.list_folder(str(tmp_path)) == before
    half = image_folders.list_folder(str(tmp_path), validation_share=0.5)
    assert set(before.files["validation"]) < set(half.files["validation"])
    assert len(half.files["validation"]) == 25 + 25 + 1


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    share=st.floats(0.01, 0.9),
)
def test_every_class_that_has_two_images_has_one_on_each_side(sizes, share):
    files = [
        (f"{k}/{n}.png", str(k)) for k, size in enumerate(sizes) for n in range(size)
    ]
    parts = image_folders.hold_out({"train": files}, share)
    assert sorted(parts["train"] + parts.get("validation", [])) == sorted(files)
    for k, size in enumerate(sizes):
        held = sum(name == str(k) for _, name in parts.get("validation", []))
        assert held == 0 if size == 1 else 1 <= held <= size - 1


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
    assert len(cut["validation"]) == 30
    _make(tmp_path, "val/a/1.png")
    with pytest.raises(errors.UserError, match="has a validation folder already"):
        image_folders.list_folder(folder, validation_share=0.3)


def test_other_files_are_counted_by_kind(tmp_path):
    folder = _make(tmp_path, "a/1.png", "b/1.png", "a/Thumbs.db", "b/x.gif", "a/y.GIF")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"")
    (tmp_path / "a" / "._1.png").write_bytes(b"")
    _make(tmp_path, ".git/x.png", "__MACOSX/y.png")
    (tmp_path / "README.md").write_text("")
    _make(tmp_path, "a/.ipynb_checkpoints/1.png", "a/scan.TIFF", "b/phone.heic")
    listing = image_folders.list_folder(folder, validation_share=0)
    assert listing.class_names == ("a", "b")
    kinds = {".db": 1, ".tiff": 1, ".heic": 1, ".md": 1}
    assert listing.ignored == {"hidden": 5, **kinds}
    assert len(listing.paths) == 4, "GIFs are images"
    _make(tmp_path, "loose.png")
    listing = image_folders.list_folder(folder, validation_share=0)
    assert listing.ignored == {"hidden": 5, **kinds, image_files.LOOSE: 1}


@pytest.mark.parametrize(
    "paths,complaint",
    [
        ([], "no class folders"),
        (["1.png"], "no class folders"),
        (["a/x.txt", "b/y.txt"], r"no images \(.jpg, .*there are 2 .txt"),
        (["a/1.png", "b/x.txt"], r"only one class folder \(a\) has images"),
        (["a/1.png"], r"only one class folder \(a\) has images"),
        (["caf\u00e9/1.png", "cafe\u0301/1.png"], "one class name .* two spellings"),
        (["set/train/a/1.png", "set/test/a/1.png"], "point --folder at .*set"),
        (["train/a/1.png", "val/a/1.png", "validation/a/1.png"], "val and validation"),
        (["train/a/1.png", "Train/a/1.png"], "both the train split"),
        (["train/a/1.png", "train/b/1.png", "cats/1.png"], "cats beside the split"),
        (["train/a/1.png", "train/b/1.png", "test/1.png"], "test beside the split"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], "train has not: c"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, paths, complaint):
    with pytest.raises(errors.UserError, match=complaint) as refusal:
        image_folders.list_folder(_make(tmp_path, *paths))
    assert "\n" not in str(refusal.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(errors.UserError, match="no such folder"):
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
        "a/cut.jpg": safe_decoding.DAMAGED,
        "a/cut.png": safe_decoding.DAMAGED,
        "b/empty.jpg": safe_decoding.EMPTY,
        "b/page.jpg": safe_decoding.UNKNOWN,
        "b/gone.jpg": "No such file or directory",
        strange: "file name is not UTF-8",
    }
    assert (
        len(seen) == 13
    )  # those with a known beginning or none, for the progress display
    left = image_folders.leave_out(listing, found)
    assert sorted(left.paths) == sorted(set(listing.paths) - set(found))


def test_leaving_out_must_not_empty_a_class(tmp_path):
    listing = image_folders.list_folder(
        _make(tmp_path, "a/1.png", "b/1.png", "b/2.png"), 0
    )
    assert image_folders.leave_out(listing, ["b/1.png"]).paths == ["a/1.png", "b/2.png"]
    with pytest.raises(errors.UserError, match="no readable image for class b"):
        image_folders.leave_out(listing, ["b/1.png", "b/2.png"])


def test_every_class_keeps_an_image_to_train_on(tmp_path):
    for number in range(40):
        path = tmp_path / f"class{number:02}" / "only.png"
        path.parent.mkdir()
        path.write_bytes(b"x")
    listing = image_folders.list_folder(str(tmp_path), 0.5)
    assert {name for _, name in listing.files["train"]} == set(listing.class_names)
    assert not listing.files.get("validation")


def test_an_empty_class_is_left_out_and_named(tmp_path):
    folder = _make(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "c").mkdir()
    listing = image_folders.list_folder(folder, 0)
    assert (listing.class_names, listing.empty) == (("a", "b"), ("c",))


def test_classes_may_lie_deeper(tmp_path):
    folder = _make(tmp_path, "pets/cat/1.png", "pets/dog/1.png", "wild/fox/1.png")
    assert image_folders.list_folder(folder, 0).class_names == ("pets", "wild")
    listing = image_folders.list_folder(folder, 0, nested=True)
    assert listing.class_names == ("pets/cat", "pets/dog", "wild/fox")


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["1.png", "deep/2.png", "3.jpg"], {"train": 2, "validation": 1}),
        (["train/1.png", "valid/2.png"], {"train": 1, "validation": 1}),
    ],
)
def test_images_without_classes_have_one(tmp_path, paths, splits):
    share = None if "1.png" in paths else 0
    listing = image_folders.list_folder(
        _make(tmp_path, *paths), share and 0.3, unlabelled=True
    )
    assert listing.class_names == (image_folders.UNLABELLED,)
    assert {split: len(files) for split, files in listing.files.items()} == splits


def test_names_are_spelled_in_one_way(tmp_path):
    folder = _make(tmp_path, "cafe\u0301/1.png", "b /1.png")
    assert image_folders.list_folder(folder, 0).class_names == ("b", "caf\u00e9")


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    _make(tmp_path / "elsewhere", "x.png")
    folder = _make(tmp_path / "photos", "a/1.png", "b/1.png")
    (tmp_path / "photos" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "b" / "loop").symlink_to(tmp_path / "photos")
    listing = image_folders.list_folder(folder, 0)
    assert sorted(listing.paths) == ["a/1.png", "a/more/x.png", "b/1.png"]
    assert listing.ignored == {image_files.LOOP: 1}


def test_what_prediction_refuses_is_refused_here(tmp_path):
    folder = _make(tmp_path, "a/1.png", "b/1.png")
    rows = tf.io.encode_png(np.zeros((9000, 2, 3), np.uint8)).numpy()
    (tmp_path / "a" / "narrow.png").write_bytes(rows)
    (tmp_path / "a" / "bomb.png").write_bytes(bad_files.png_bomb())
    table = io.BytesIO()
    Image.effect_noise((8, 8), 50).convert("P", palette=1).save(table, "BMP")
    (tmp_path / "b" / "table.bmp").write_bytes(table.getvalue())
    (tmp_path / "b" / "moving.webp").write_bytes(bad_files.animated_webp())
    reasons = image_folders.find_unreadable(image_folders.list_folder(folder, 0))
    assert reasons.pop("a/bomb.png").startswith("too large: 60000 x 60000")
    assert reasons == {
        "a/narrow.png": safe_decoding.NARROW,
        "b/moving.webp": safe_decoding.ANIMATED,
        "b/table.bmp": safe_decoding.TABLE,
    }
