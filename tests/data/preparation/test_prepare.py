"""The tool: prepares once, says so twice, refuses in one line."""

import os
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
from vit_tf.data import catalog, safe_decoding
from vit_tf.data.builders import digits
from vit_tf.data.preparation import prepare


def _run(*arguments: str) -> subprocess.CompletedProcess:
    return warm.run("-m", "tools.prepare_data", *arguments)


def _images(folder: pathlib.Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)


def _prepare(folder, name, root, **changes):
    request = prepare.FolderRequest(folder=str(folder), name=name, **changes)
    return prepare.prepare_folder(request, catalog.Path(root))


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
    _prepare(pets, "pets", tmp_path / "data")
    said = capsys.readouterr().out
    assert "2 classes" in said and "1 .db" in said
    source = catalog.open_source("pets", str(tmp_path / "data"))
    counts = [source.num_examples(split) for split in ("train", "validation")]
    assert sum(counts) == 40 and source.class_names == ("cat", "dog")
    _prepare(pets, "pets", tmp_path / "data")
    assert "pets: already prepared in " in capsys.readouterr().out


def test_corrupt_files_are_refused_or_left_out(tmp_path, pets, capsys):
    root = catalog.Path(tmp_path / "data")
    whole = (pets / "dog" / "7.jpg").read_bytes()
    (pets / "dog" / "7.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "3.jpg").write_bytes(b"")
    with pytest.raises(errors.UserError) as refusal:
        _prepare(pets, "pets", root, validation_share=0.0)
    line = str(refusal.value)
    assert "2 of 40 images cannot be read" in line and "\n" not in line
    assert "cat/3.jpg (empty: no bytes)" in line and "--skip_corrupt" in line
    with pytest.raises(errors.UserError, match="unknown"):
        catalog.open_source("pets", str(root))

    _prepare(pets, "pets", root, validation_share=0.0, skip_corrupt=True)
    assert "Skipped 2 damaged files, listed in " in capsys.readouterr().out
    assert catalog.open_source("pets", str(root)).num_examples("train") == 38
    skipped = root / "image_folder" / "pets" / "1.0.0" / "skipped.txt"
    assert skipped.read_text().splitlines() == [
        "cat/3.jpg\tempty: no bytes",
        f"dog/7.jpg\t{safe_decoding.DAMAGED}",
    ]


def test_a_name_stands_for_one_folder(tmp_path, pets):
    root = catalog.Path(tmp_path / "data")
    _prepare(pets, "pets", root)
    _images(tmp_path / "others", "a/1.png", "b/1.png")
    with pytest.raises(errors.UserError, match="from .*pets; choose another name"):
        _prepare(tmp_path / "others", "pets", root)
    _prepare(tmp_path / "others", "pets", root, overwrite=True)
    assert catalog.open_source("pets", str(root)).class_names == ("a", "b")


def _relabel(pets):
    for number in range(5):
        (pets / "cat" / f"{number}.jpg").rename(pets / "dog" / f"cat{number}.jpg")


def _exchange(pets):
    """Same names, sizes and number of files: two images change their classes."""
    one, two = pets / "cat" / "1.jpg", pets / "dog" / "1.jpg"
    first, second = one.read_bytes(), two.read_bytes()
    longer = max(len(first), len(second))
    one.write_bytes(second.ljust(longer, b"\0"))
    two.write_bytes(first.ljust(longer, b"\0"))


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (_relabel, {}, "5 new .*; 5 gone"),
        (_exchange, {}, "2 changed .such as cat/1.jpg"),
        (lambda pets: _images(pets, "dog/new.png"), {}, "1 new .such as dog/new.png"),
        (lambda pets: (pets / "dog/3.jpg").unlink(), {}, "1 gone .such as dog/3.jpg"),
        (
            lambda pets: None,
            {"validation_share": 0.5},
            "--validation_share=0.1 against",
        ),
        (lambda pets: None, {"exif": True}, "--exif=False against True"),
        (lambda pets: None, {"nested": True}, "--nested=False against True"),
    ],
)
def test_what_was_prepared_from_something_else_is_not_taken_for_it(
    tmp_path, pets, change, settings, said
):
    root = catalog.Path(tmp_path / "data")
    for kind in ("cat", "dog"):  # of equal sizes, so that sizes alone show nothing
        for path in (pets / kind).glob("*.jpg"):
            path.write_bytes(path.read_bytes().ljust(4096, b"\0"))
    _prepare(pets, "pets", root)
    before = catalog.open_source("pets", str(root)).content_digest
    change(pets)
    with pytest.raises(errors.UserError, match=said) as refusal:
        _prepare(pets, "pets", root, **settings)
    assert "--overwrite" in str(refusal.value) and "\n" not in str(refusal.value)
    assert catalog.open_source("pets", str(root)).content_digest == before
    _prepare(pets, "pets", root, **settings, overwrite=True)
    assert catalog.open_source("pets", str(root)).content_digest != before
    assert _prepare(pets, "pets", root, **settings) is None, "it is prepared now"


def test_a_copy_of_the_same_files_is_the_same(tmp_path, pets):
    """Times change when files are copied; their content does not."""
    root = tmp_path / "data"
    _prepare(pets, "pets", root)
    for path in pets.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    assert _prepare(pets, "pets", root) is None


def test_a_damaged_set_can_be_replaced(tmp_path, pets):
    root = tmp_path / "data"
    home = _prepare(pets, "pets", root)
    (home / "features.json").write_text("null")
    with pytest.raises(errors.UserError, match="features.json has changed"):
        _prepare(pets, "pets", root)
    _prepare(pets, "pets", root, overwrite=True)
    assert catalog.open_source("pets", str(root)).class_names == ("cat", "dog")


def test_a_failed_replacement_leaves_what_was_there(tmp_path, pets, monkeypatch):
    root = tmp_path / "data"
    _prepare(pets, "pets", root)
    before = catalog.open_source("pets", str(root)).content_digest
    _relabel(pets)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare.image_folder.ImageFolder, "_generate_examples", fail)
    with pytest.raises(errors.UserError, match="No space left"):
        _prepare(pets, "pets", root, overwrite=True)
    assert catalog.open_source("pets", str(root)).content_digest == before


def test_the_report_says_what_looks_wrong(tmp_path, pets, capsys):
    twin = (pets / "cat" / "0.jpg").read_bytes()
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            folder = pets / split / kind
            folder.mkdir(parents=True)
            for path in (pets / kind).glob("1*.jpg"):
                (folder / f"{split}{path.name}").write_bytes(
                    path.read_bytes() + split.encode()
                )
        (pets / split / "cat" / f"{split}.jpg").write_bytes(twin)
    side = Image.new("RGB", (40, 20))
    exif = side.getexif()
    exif[0x0112] = 6
    side.save(pets / "train" / "dog" / "phone.jpg", exif=exif)
    shutil.rmtree(pets / "cat")
    shutil.rmtree(pets / "dog")
    root = tmp_path / "data"
    _prepare(pets, "pets", root)
    said = capsys.readouterr().out
    assert "train: 24 images of 2 classes, from 12 (cat) to 12 (dog)" in said
    assert "46 JPEG" not in said and "47 JPEG; width 32, 32, 40" in said
    assert "1 images carry a rotation (EXIF): shown as stored; --exif" in said
    assert "1 images lie in more than one split" in said
    assert "train/cat/train.jpg (train) = test/cat/test.jpg (test)" in said or (
        "test/cat/test.jpg (test) = train/cat/train.jpg (train)" in said
    )
    _prepare(pets, "pets", root, exif=True, overwrite=True)
    assert "turned upright" in capsys.readouterr().out
    source = catalog.open_source("pets", str(root))
    shapes = {image_shape(source, "train", name) for name in ("phone.jpg",)}
    assert shapes == {(40, 20)}


def image_shape(source, split, name):
    """Height and width of a stored image, by the name of its file."""
    for example in source.builder.as_dataset(split=split):
        if example["file_name"].numpy().decode().endswith(name):
            return tuple(example["image"].shape[:2])
    raise AssertionError(name)


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
        _prepare(pets, name, tmp_path)


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
    _prepare(pets, "pets", root, validation_share=0.0)
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
