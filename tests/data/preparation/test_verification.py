"""--verify: counts, files and records; everything wrong is named."""

import io
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tests.support import fakes, warm
from vit_tf import errors
from vit_tf.data import catalog
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders, prepare, verification


@pytest.fixture
def digits_dir(tmp_path, data_dir) -> pathlib.Path:
    shutil.copytree(f"{data_dir}/digits", tmp_path / "digits")
    return tmp_path


def _file(root: pathlib.Path, split: str = "train") -> pathlib.Path:
    (path,) = (root / "digits" / "1.0.0").glob(f"*{split}.tfrecord*")
    return path


def _verify(root: pathlib.Path, **how) -> verification.Report:
    return verification.verify(
        catalog.open_source("digits", str(root), check_rows=False), **how
    )


def test_a_whole_set_has_no_problems(data_dir, capsys):
    every = _verify(data_dir, every=True)
    assert every.problems == []
    assert every.read == {
        "train": (1197, 1197),
        "validation": (200, 200),
        "test": (400, 400),
    }
    sample = _verify(data_dir)
    assert sample.problems == []
    for split, (read, count) in sample.read.items():
        assert 0 < read <= verification.SAMPLE_RECORDS < count, split
    prepare.verify("digits", catalog.Path(data_dir))
    assert "digits: nothing wrong in this sample" in capsys.readouterr().out


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("damage", ["empty", "gone", "cut", "cut between records"])
def test_a_damaged_file_is_named(digits_dir, damage, every):
    path = _file(digits_dir)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[:-10])
    else:
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        path.write_bytes(content[: -len(records[-1]) - 16])
    problems = _verify(digits_dir, every=every).problems
    reason = {
        "empty": "empty file",
        "gone": "missing",
        "cut": "cut off or altered at record 1196",
        "cut between records": "holds 1,196 records, dataset_info.json says 1,197",
    }[damage]
    assert problems == [f"{path}: {reason}"]


def test_altered_bytes_are_found_when_everything_is_read(digits_dir):
    path = _file(digits_dir)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    (problem,) = _verify(digits_dir, every=True).problems
    assert problem.startswith(f"{path}: altered at record ")


def test_counts_are_those_of_the_table(digits_dir):
    info = digits_dir / "digits" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"400"', '"399"'))
    problems = _verify(digits_dir).problems
    assert problems[0] == "split test: 399 examples, need 400"
    assert "holds 400 records, dataset_info.json says 399" in problems[1]


def test_a_label_out_of_range_is_named(tmp_path):
    examples = fakes.drawn("vtab/clevr_count", 3)
    for number, example in zip((3, 1, 10), examples, strict=True):
        parts = example["objects"].items()
        example["objects"] = {
            key: np.resize(p, (number, *p.shape[1:])) for key, p in parts
        }
        example["file_name"] = f"scene{number}.png"
    fakes.write("vtab/clevr_count", tmp_path, {"train": examples})
    source = catalog.open_source("vtab/clevr_count", str(tmp_path))
    problems = verification.verify(source).problems
    assert problems[-1] == (
        "scene1.png (record 1 of vtab/clevr_count 3.1.0 train): label out of range 0 "
        "to 7"
    )
    assert "split train: 3 examples, need 70,000" in problems


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """A folder, prepared while two of its files were being damaged."""
    folder = tmp_path / "pictures"
    for number in range(30):
        path = folder / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).save(file, "png")
        path.write_bytes(file.getvalue())
    listing = image_folders.list_folder(str(folder))
    (folder / "train" / "a" / "4.png").write_bytes(b"")
    whole = (folder / "train" / "b" / "7.png").read_bytes()
    (folder / "train" / "b" / "7.png").write_bytes(whole[:60])
    chosen = image_folder.FolderConfig(name="pictures", listing=listing)
    image_folder.ImageFolder(config=chosen, data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3)
    )
    return tmp_path


def test_corrupt_records_are_listed_by_name(pictures, capsys):
    with pytest.raises(errors.UserError) as refusal:
        prepare.verify("pictures", catalog.Path(pictures), every=True)
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("train/a/4.png (record ") for line in said)
    assert any(
        line.startswith("train/b/7.png (")
        and line.endswith("damaged: cannot be decoded")
        for line in said
    )
    assert "pictures 1.0.0 train: looked at 30 of 30" in said
    line = str(refusal.value)
    assert line.startswith("pictures: 2 problems found, the first is: train/")
    assert "\n" not in line and "prepare it again" in line


def test_examples_of_a_folder_are_as_many_as_its_files(pictures):
    info = pictures / "image_folder" / "pictures" / "1.0.0"
    metadata = info / "metadata.json"
    metadata.write_text(metadata.read_text().replace("30", "31"))
    source = catalog.open_source("pictures", str(pictures))
    (first, *_) = verification.verify(source).problems
    assert first == "30 examples of 31 files, of which 0 were left out"
    (info / image_folder.SKIPPED_FILE).write_text("train/a/99.png\tempty file\n")
    problems = verification.verify(source).problems
    assert not [line for line in problems if "files" in line]


@pytest.mark.slow
def test_the_command_ends_with_2_when_something_is_wrong(digits_dir):
    def run(*flags):
        return warm.run("-m", "tools.prepare_data", *flags, f"--data_dir={digits_dir}")

    fine = run("--verify", "--dataset=digits")
    assert fine.returncode == 0, fine.stderr
    _file(digits_dir).write_bytes(b"")
    bad = run("--verify", "--name=digits", "--all")
    assert bad.returncode == 2
    assert bad.stderr.splitlines()[-1].startswith("error: digits: 1 problem found")
    for flags in (["--verify"], ["--all", "--dataset=digits"]):
        assert run(*flags).returncode == 2
