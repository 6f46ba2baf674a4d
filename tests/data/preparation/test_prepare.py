"""The tool: prepares once, says so twice, refuses in one line."""

import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from PIL import Image

from tests.support import warm
from vit_tf import errors
from vit_tf.data import catalog
from vit_tf.data.builders import digits
from vit_tf.data.preparation import prepare


def _run(*arguments: str) -> subprocess.CompletedProcess:
    return warm.run("-m", "tools.prepare_data", *arguments)


def _images(folder: pathlib.Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)


@pytest.fixture
def pets(tmp_path) -> pathlib.Path:
    folder = tmp_path / "pets"
    names = (f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(20))
    _images(folder, *names)
    (folder / "cat" / "Thumbs.db").write_bytes(b"")
    return folder


def test_the_command_prepares_and_twice_is_once(tmp_path, capsys):
    first = _run("--dataset=digits", f"--data_dir={tmp_path}")
    assert first.returncode == 0, first.stderr
    home = tmp_path / "digits" / "1.0.0"
    assert f"Prepared in {home}: " in first.stdout
    assert "train (1,197)" in first.stdout
    written = {file: file.stat().st_mtime_ns for file in home.iterdir()}
    prepare.prepare_dataset("digits", catalog.Path(tmp_path))
    assert capsys.readouterr().out == f"digits: already prepared in {home}\n"
    assert written == {file: file.stat().st_mtime_ns for file in home.iterdir()}


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = _run("--dataset=digitz", f"--data_dir={tmp_path}")
    assert done.returncode == 2
    line = "error: --dataset=digitz: unknown (did you mean digits?)"
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr


def test_a_folder_goes_in_and_opens_by_its_name(tmp_path, pets, capsys):
    prepare.prepare_folder(str(pets), "pets", catalog.Path(tmp_path / "data"))
    said = capsys.readouterr().out
    assert "2 classes" in said and "1 .db" in said
    source = catalog.open_source("pets", str(tmp_path / "data"))
    counts = [source.num_examples(split) for split in ("train", "validation")]
    assert sum(counts) == 40 and source.class_names == ("cat", "dog")
    prepare.prepare_folder(str(pets), "pets", catalog.Path(tmp_path / "data"))
    assert "pets: already prepared in " in capsys.readouterr().out


def test_corrupt_files_are_refused_or_left_out(tmp_path, pets, capsys):
    root = catalog.Path(tmp_path / "data")
    whole = (pets / "dog" / "7.jpg").read_bytes()
    (pets / "dog" / "7.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "3.jpg").write_bytes(b"")
    with pytest.raises(errors.UserError) as refusal:
        prepare.prepare_folder(str(pets), "pets", root, validation_share=0.0)
    line = str(refusal.value)
    assert "2 of 40 images cannot be decoded" in line and "\n" not in line
    assert "cat/3.jpg (empty file)" in line and "--skip_corrupt" in line
    with pytest.raises(errors.UserError, match="unknown"):
        catalog.open_source("pets", str(root))

    prepare.prepare_folder(
        str(pets), "pets", root, validation_share=0.0, skip_corrupt=True
    )
    assert "Skipped 2 damaged files, listed in " in capsys.readouterr().out
    assert catalog.open_source("pets", str(root)).num_examples("train") == 38
    skipped = root / "image_folder" / "pets" / "1.0.0" / "skipped.txt"
    assert skipped.read_text().splitlines() == [
        "cat/3.jpg\tempty file",
        "dog/7.jpg\tdamaged or cut off",
    ]


def test_a_name_stands_for_one_folder(tmp_path, pets):
    root = catalog.Path(tmp_path / "data")
    prepare.prepare_folder(str(pets), "pets", root)
    _images(tmp_path / "others", "a/1.png", "b/1.png")
    with pytest.raises(errors.UserError, match="already prepared from .*pets; choose"):
        prepare.prepare_folder(str(tmp_path / "others"), "pets", root)
    _images(pets, "dog/new.png")
    with pytest.raises(errors.UserError, match="from 40 images.* now holds 41; remove"):
        prepare.prepare_folder(str(pets), "pets", root)


@pytest.mark.parametrize(
    "name,complaint",
    [
        (None, "needs --name=NAME"),
        ("my pets", "letters, digits"),
        ("../x", "letters, digits"),
        ("1.0.0", "letters, digits"),
        ("cifar10", "data set of its own"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, pets, name, complaint):
    with pytest.raises(errors.UserError, match=complaint):
        prepare.prepare_folder(str(pets), name, catalog.Path(tmp_path))


def test_data_to_fetch_by_hand_says_what_goes_where(tmp_path):
    with pytest.raises(errors.UserError) as refusal:
        prepare.prepare_dataset("imagenet2012", catalog.Path(tmp_path))
    line = str(refusal.value)
    for part in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"):
        assert part in line
    assert line.endswith(str(tmp_path / "downloads" / "manual"))
    assert not (tmp_path / "imagenet2012").exists()


def test_an_empty_manual_file_is_named(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_val.tar").write_bytes(b"")
    with pytest.raises(errors.UserError, match="img_val.tar in .* is empty; download"):
        prepare.prepare_dataset("imagenet2012_real", catalog.Path(tmp_path))


def test_the_list_names_another_version(tmp_path, data_dir, capsys):
    shutil.copytree(f"{data_dir}/digits/1.0.0", tmp_path / "digits" / "0.9.0")
    prepare.list_datasets(catalog.Path(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.split()[0] == "digits")
    assert line.endswith("prepared by another version")


def test_a_failing_download_is_one_line(tmp_path, monkeypatch):
    class Failing:
        url_infos = None

        def download_and_prepare(self):
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(prepare.tfds, "builder", lambda *_, **__: Failing())
    with pytest.raises(errors.UserError) as refusal:
        prepare.prepare_dataset("cifar10", catalog.Path(tmp_path))
    line = "--dataset=cifar10: not prepared: ConnectionError: no route to host"
    assert str(refusal.value) == line


def test_the_list_shows_what_is_prepared(tmp_path, pets, capsys):
    root = catalog.Path(tmp_path)
    prepare.prepare_folder(str(pets), "pets", root, validation_share=0.0)
    capsys.readouterr()
    prepare.list_datasets(root)
    lines = capsys.readouterr().out.splitlines()[1:]
    middle = next(i for i, line in enumerate(lines) if line.startswith("To put into"))
    lines, by_hand = lines[:middle], lines[middle:]
    assert str(tmp_path / "downloads" / "manual") in by_hand[0]
    where = {line.split()[0]: line for line in by_hand[1:]}
    assert set(where) == {
        name for name, row in catalog.DATASETS.items() if row.manual_files
    }
    assert "NWPU-RESISC45 from https://" in where["vtab/resisc45"]
    states = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    assert states["pets"] == "prepared, 2 classes, train (40)"
    assert states["digits"] == "not prepared"
    assert states["imagenet2012"].startswith("not prepared, needs ILSVRC2012_img_train")
    assert set(catalog.DATASETS) < set(states)


def test_killed_while_preparing_is_as_if_never_begun(tmp_path):
    process = warm.start(
        "-m", "tools.prepare_data", "--dataset=shapes", f"--data_dir={tmp_path}"
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("shapes/incomplete.*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with pytest.raises(errors.UserError, match="shapes: not prepared"):
        catalog.open_source("shapes", str(tmp_path))


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digits.Image, "fromarray", fail)
    with pytest.raises(
        errors.UserError, match="not prepared: .*No space left on device"
    ):
        prepare.prepare_dataset("digits", catalog.Path(tmp_path))
    with pytest.raises(errors.UserError, match="not prepared in"):
        catalog.open_source("digits", str(tmp_path))
    monkeypatch.undo()
    prepare.prepare_dataset("digits", catalog.Path(tmp_path))
    assert catalog.open_source("digits", str(tmp_path)).num_examples("test") == 400
