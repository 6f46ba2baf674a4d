"""ImageNet-21k: from tar files or folders, cut off and resumed, whole or not at all."""

import hashlib
import io
import json
import os
import pathlib
import signal
import sqlite3
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tests.support import warm
from vit_tf import config, errors
from vit_tf.data import catalog, pipeline
from vit_tf.data.builders import imagenet21k
from vit_tf.data.preparation import shard_writer

# Not in sorted order, and from all over WordNet.
SYNSETS = [f"n{number:08d}" for number in (9_000_001, 1_440_764, 12_345, 3_931_044)]
PER_SYNSET = 6


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file, format="jpeg")
    return file.getvalue()


def _files() -> dict[str, bytes]:
    return {
        f"{synset}/{synset}_{number}.JPEG": _jpeg(100 * place + number)
        for place, synset in enumerate(SYNSETS)
        for number in range(PER_SYNSET)
    }


def _write_folders(root: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def _write_tars(root: pathlib.Path, files: dict[str, bytes], prefix="") -> pathlib.Path:
    root.mkdir(parents=True, exist_ok=True)
    for synset in {path.split("/")[0] for path in files}:
        with tarfile.open(root / f"{synset}.tar", "w") as tar:
            # Another order than in a folder, on purpose.
            for path in sorted(files, reverse=True):
                if path.startswith(synset):
                    member = tarfile.TarInfo(prefix + path.split("/")[1])
                    member.size = len(files[path])
                    tar.addfile(member, io.BytesIO(files[path]))
    return root


def _prepare(source, root, **options) -> pathlib.Path:
    options = {"partial": True, "num_shards": 4, **options}
    request = imagenet21k.Request(source=source and str(source), **options)
    imagenet21k.prepare(request, str(root))
    return root / "imagenet21k" / request.release / "1.0.0"


def _digests(home: pathlib.Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.iterdir()
    }


def _records(home: pathlib.Path) -> list[dict]:
    builder = tfds.builder_from_directory(home)
    decoders = {"image": tfds.decode.SkipDecoding()}
    data = builder.as_dataset(split="full", decoders=decoders, shuffle_files=False)
    return list(data.as_numpy_iterator())


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return _files()


@pytest.fixture(scope="module")
def tars(tmp_path_factory, images) -> pathlib.Path:
    return _write_tars(tmp_path_factory.mktemp("source") / "tars", images)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tars) -> pathlib.Path:
    """The data set, written in one go by one process."""
    return _prepare(tars, tmp_path_factory.mktemp("whole"))


def test_every_file_is_stored_as_it_is_under_its_synset(whole, images):
    records = _records(whole)
    stored = {r["file_name"].decode(): r["image"] for r in records}
    assert stored == images and len(records) == len(images)
    names = tfds.builder_from_directory(whole).info.features["label"].names
    assert names == sorted(SYNSETS)
    for record in records:
        assert record["file_name"].decode().startswith(names[record["label"]])


def test_the_order_is_the_one_that_tfds_shuffles_to(whole, images, tmp_path):
    class Plain(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = imagenet21k.features(tuple(sorted(SYNSETS)))
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"full": self._generate_examples()}

        def _generate_examples(self):
            for path, image in images.items():
                label = path.split("/")[0]
                yield path, {"image": image, "label": label, "file_name": path}

    builder = Plain(data_dir=tmp_path)
    builder.download_and_prepare()
    theirs = _records(pathlib.Path(builder.data_path))
    assert [r["file_name"] for r in theirs] == [r["file_name"] for r in _records(whole)]


@pytest.mark.parametrize("kind", ["folders", "tars with a folder inside", "both"])
def test_tars_and_folders_give_the_same_bytes(whole, images, tmp_path, kind):
    source = tmp_path / "source"
    if kind == "folders":
        _write_folders(source, images)
    elif kind == "both":
        first = {p: b for p, b in images.items() if p.startswith(SYNSETS[0])}
        _write_folders(source, first)
        _write_tars(source, {p: b for p, b in images.items() if p not in first})
    else:
        for synset in SYNSETS:
            inner = {p: b for p, b in images.items() if p.startswith(synset)}
            _write_tars(source, inner, prefix=f"./{synset}/")
    assert _digests(_prepare(source, tmp_path / "data")) == _digests(whole)


def test_splits_are_cut_from_full_and_streamed(whole):
    source = catalog.open_source("imagenet21k", str(whole.parents[2]))
    assert source.num_classes == len(SYNSETS) and source.version == "1.0.0"
    assert [source.num_examples(s) for s in ("full[:5]", "full[5:]")] == [5, 19]
    data = config.Data(
        name="imagenet21k", split="full[5:]", image_size=16, batch_size=8
    )
    (batch,) = pipeline.train_stream(source, data, seed=0).take(1)
    assert batch["image"].shape == (8, 16, 16, 3)
    assert tf.reduce_max(batch["label"]) < len(SYNSETS)


def test_the_hold_outs_are_disjoint_and_complete_at_the_real_size():
    lengths = [14_197_122 * i // 2048 for i in range(2049)]
    info = tfds.core.SplitInfo(
        name="full",
        shard_lengths=np.diff(lengths).tolist(),
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir="/nowhere",
            dataset_name="imagenet21k",
            split="full",
            filetype_suffix="tfrecord",
        ),
    )
    splits = tfds.core.SplitDict([info])
    row = catalog.DATASETS["imagenet21k"]
    train, validation = row.development
    train_again, test = row.final
    assert train == train_again
    sizes = [splits[part].num_examples for part in (test, validation, train)]
    assert sizes == [25_600, 25_600, 14_197_122 - 51_200]
    # Rows of the whole split: each part goes on where the one before it ends.
    starts = dict(zip(_file_names(splits), lengths, strict=False))
    end = 0
    for part in (test, validation, train):
        for file in splits[part].file_instructions:
            first = starts[file.filename.rsplit("/", 1)[-1]] + file.skip
            assert first == end
            end = first + file.take
    assert end == 14_197_122


def _file_names(splits: tfds.core.SplitDict) -> list[str]:
    return [pathlib.Path(path).name for path in splits["full"].filenames]


def test_prepared_twice_is_prepared_once(whole, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    _prepare(None, whole.parents[2])
    assert capsys.readouterr().out == f"imagenet21k: already prepared in {whole}\n"
    assert before == {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert [path.name for path in whole.parent.iterdir()] == ["1.0.0"]


@pytest.mark.parametrize(
    "what,number,processes",
    [
        pytest.param("listing", 3, 1, marks=pytest.mark.slow),
        ("record", 10, 1),
        # The first is the list of classes.
        pytest.param("note", 3, 1, marks=pytest.mark.slow),
        ("finish", 1, 1),
        pytest.param("result", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_as_if_never_killed(
    whole, tars, tmp_path, capsys, what, number, processes
):
    arguments = [what, str(number), str(tars), str(tmp_path), str(processes)]
    killed = warm.run("-m", "tests.support.killed_preparing", *arguments)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if what != "finish":
        with pytest.raises(errors.UserError, match="not prepared"):
            catalog.open_source("imagenet21k", str(tmp_path))
    home = _prepare(tars, tmp_path, num_processes=processes)
    assert _digests(home) == _digests(whole)
    assert [path.name for path in home.parent.iterdir()] == ["1.0.0"]
    said = capsys.readouterr().out
    if what in ("record", "result"):
        assert "Going on: " in said and " of 4 files are finished" in said


@pytest.fixture
def damaged(images, tmp_path) -> pathlib.Path:
    """Four files that are no image, each in its own way."""
    some = dict(images)
    first, second = sorted(SYNSETS)[:2]
    some[f"{first}/{first}_0.JPEG"] = b""
    some[f"{first}/{first}_1.JPEG"] = images[f"{first}/{first}_1.JPEG"][:200]
    some[f"{second}/notes.txt"] = b"these are the images of"
    some[f"{second}/{second}_2.JPEG"] = b"\xff\xd8\xff" + bytes(300)
    return _write_tars(tmp_path / "damaged", some)


def test_what_is_no_image_is_named_and_left_out_when_asked(damaged, tmp_path, capsys):
    root = tmp_path / "data"
    with pytest.raises(errors.UserError) as refusal:
        _prepare(damaged, root)
    line = str(refusal.value)
    first, second = sorted(SYNSETS)[:2]
    assert "4 of 25 images cannot be decoded" in line and "\n" not in line
    assert f"the first is {first}/{first}_0.JPEG (empty: no bytes)" in line
    expected = [
        f"{first}/{first}_0.JPEG\tempty: no bytes",
        f"{first}/{first}_1.JPEG\tdamaged: cannot be decoded",
        f"{second}/{second}_2.JPEG\tdamaged: cannot be decoded",
        f"{second}/notes.txt\tnot a JPEG, PNG, WebP, GIF or BMP file",
    ]
    work = root / "imagenet21k" / "fall11" / "work.1.0.0"
    assert (work / "unreadable.txt").read_text().splitlines() == expected
    with pytest.raises(errors.UserError, match="not prepared"):
        catalog.open_source("imagenet21k", str(root))

    home = _prepare(damaged, root, skip_corrupt=True)
    assert "full 21, 4 classes; skipped 4" in capsys.readouterr().out
    assert (home / "skipped.txt").read_text().splitlines() == expected
    assert len(_records(home)) == 21
    assert json.loads((home / "metadata.json").read_text())["skipped"] == 4


def test_a_file_mended_in_its_folder_is_taken_in(images, tmp_path):
    name = next(iter(images))
    source = _write_folders(tmp_path / "source", {**images, name: b""})
    with pytest.raises(errors.UserError, match="1 of 24 images cannot be decoded"):
        _prepare(source, tmp_path)
    (source / name).write_bytes(images[name])
    assert len(_records(_prepare(source, tmp_path))) == 24


def test_odd_members_of_a_tar_file_are_told(images, tmp_path):
    name = min(SYNSETS)
    source = _write_tars(tmp_path / "source", images)
    with tarfile.open(source / f"{name}.tar", "a") as tar:
        for path, kind in (
            (f"{name}_0.JPEG", tarfile.REGTYPE),
            ("link", tarfile.SYMTYPE),
            ("bad\udcff.JPEG", tarfile.REGTYPE),
        ):
            member = tarfile.TarInfo(path)
            member.type = kind
            tar.addfile(member)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    home = _prepare(source, tmp_path, skip_corrupt=True)
    assert (home / "skipped.txt").read_text().splitlines() == [
        f"{name}/bad\\xff.JPEG\tfile name is not UTF-8",
        f"{name}/link\tnot a plain file",
        f"{name}/{name}_0.JPEG\ta file of this name comes before it in the tar file",
    ]
    assert len(_records(home)) == 24


@pytest.mark.parametrize("cut", ["inside an image", "between images", "a header"])
def test_a_damaged_tar_file_is_named(images, tmp_path, cut):
    source = _write_tars(tmp_path / "source", images)
    path = source / f"{SYNSETS[1]}.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    if cut == "a header":
        content[offset + 148 : offset + 156] = b"\xff" * 8  # its check sum
        path.write_bytes(content)
    else:
        path.write_bytes(content[: offset - (700 if cut == "inside an image" else 0)])
    with pytest.raises(
        errors.UserError, match=f"{path} is a damaged tar file"
    ) as refusal:
        _prepare(source, tmp_path)
    assert "\n" not in str(refusal.value)
    _write_tars(source, images)  # fetched again, it is listed again
    assert len(_records(_prepare(source, tmp_path))) == 24


def test_a_source_that_changes_halfway_is_refused(images, tmp_path):
    bad = {**images, f"{SYNSETS[0]}/zero.JPEG": b""}
    source = _write_tars(tmp_path / "source", bad)
    with pytest.raises(errors.UserError, match="cannot be decoded"):
        _prepare(source, tmp_path)
    path = source / f"{SYNSETS[0]}.tar"
    os.utime(path, ns=(1, 1))
    with pytest.raises(errors.UserError, match=f"{SYNSETS[0]} has changed or moved"):
        _prepare(source, tmp_path)


def _list(path: pathlib.Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_class_list_settles_order_and_number(tars, tmp_path, capsys):
    names = ["n00000001 entity", "", *SYNSETS[::-1], "n99999999"]
    chosen = _list(tmp_path / "list", *names)
    home = _prepare(tars, tmp_path, class_list=chosen)
    said = capsys.readouterr().out
    assert "Classes without images: n00000001, n99999999" in said
    source = catalog.open_source("imagenet21k", str(tmp_path))
    assert source.num_classes == 6 and source.class_names[1:5] == tuple(SYNSETS[::-1])
    for record in _records(home):
        synset = record["file_name"].decode().split("/")[0]
        assert source.class_names[record["label"]] == synset


def test_synsets_that_are_not_in_the_list_are_left_out(tars, tmp_path, capsys):
    chosen = _list(tmp_path / "list", SYNSETS[0], SYNSETS[2])
    home = _prepare(tars, tmp_path, class_list=chosen)
    assert f"Left out, not in the class list: {SYNSETS[1]}" in capsys.readouterr().out
    assert len(_records(home)) == 2 * PER_SYNSET


def test_the_classes_of_released_heads():
    """Two labels of the head have no images; all others move up by one or two."""
    found = [f"n{number:08d}" for number in range(0, 21_841 * 700, 700)]
    assert not set(found) & set(imagenet21k.HEAD_ONLY)
    request = imagenet21k.Request(source="x", class_list="released")
    names = imagenet21k.choose_classes(request, tuple(found))
    assert len(names) == 21_843 and list(names) == sorted(names)
    assert set(names) - set(found) == set(imagenet21k.HEAD_ONLY)
    with pytest.raises(errors.UserError, match="whole of fall11 only"):
        request = imagenet21k.Request(source="x", class_list="released", partial=True)
        imagenet21k.choose_classes(request, tuple(found[:100]))


@pytest.mark.parametrize(
    "release,found,complaint",
    [
        ("imagenet21k", 21_840, "21,840 synsets, 1 fewer than the 21,841 of fall11"),
        ("imagenet21k", 21_843, "21,843 synsets, 2 more than the 21,841 of fall11"),
        ("imagenet21k/winter21", 21_841, "2,674 more than the 19,167 of winter21"),
    ],
)
def test_a_part_is_taken_for_the_whole_only_when_asked(release, found, complaint):
    names = tuple(f"n{number:08d}" for number in range(found))
    request = imagenet21k.Request(name=release, source="x")
    with pytest.raises(errors.UserError, match=f"{complaint}.*--partial"):
        imagenet21k.choose_classes(request, names)
    request = imagenet21k.Request(name=release, source="x", partial=True)
    assert imagenet21k.choose_classes(request, names) == names


def test_what_cannot_be_used_is_one_line(tars, tmp_path, images):
    def refused(complaint: str, source, **options) -> None:
        with pytest.raises(errors.UserError, match=complaint) as refusal:
            _prepare(source, tmp_path / "data", **options)
        assert "\n" not in str(refusal.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "n01440764.tar.part").write_bytes(b"")
    both = _write_tars(tmp_path / "both", images)
    _write_folders(both, images)
    hollow = tmp_path / "hollow" / "n01440764"
    hollow.mkdir(parents=True)
    refused("needs --source=FOLDER", None)
    refused("no such folder", tmp_path / "nowhere")
    refused("is a file.*unpack it first", tars / f"{SYNSETS[0]}.tar")
    refused("no synsets in it", tmp_path / "empty")
    refused("no synsets in it", tmp_path / "stray")
    refused("as a folder and as a tar file", both)
    refused("no files in its synsets", hollow.parent)
    refused("cannot be read", tars, class_list=str(tmp_path / "nowhere"))
    for lines, complaint in (
        (["n01440764", "tench"], "line 2: 'tench' is not a synset"),
        (["n01440764", "n01440764"], "line 2: 'n01440764' is twice"),
        ([], "names no synset"),
        ([SYNSETS[0][:-1] + "9"], "lacks 4 synsets"),
    ):
        refused(complaint, tars, class_list=_list(tmp_path / "list", *lines))


def test_other_classes_than_before_are_refused(damaged, tmp_path):
    with pytest.raises(errors.UserError, match="cannot be decoded"):
        _prepare(damaged, tmp_path)
    chosen = _list(tmp_path / "list", *SYNSETS)
    with pytest.raises(errors.UserError, match="begun with other classes"):
        _prepare(damaged, tmp_path, class_list=chosen)


def test_too_little_space_is_said_before_writing(tars, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(imagenet21k.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        errors.UserError, match="GB are still to be written, 0.0 GB are"
    ):
        _prepare(tars, tmp_path)
    assert not list(tmp_path.rglob("*.tfrecord*"))


def test_two_preparations_do_not_work_on_one_data_set(tars, tmp_path):
    work = tmp_path / "imagenet21k" / "fall11" / "work.1.0.0"
    work.mkdir(parents=True)
    other = sqlite3.connect(work / "lock.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(errors.UserError, match="another process is preparing"):
        _prepare(tars, tmp_path)
    other.close()
    _prepare(tars, tmp_path)


def test_a_full_disk_is_one_line_and_leaves_what_is_finished(
    tars, tmp_path, monkeypatch
):
    class Full(tf.io.TFRecordWriter):
        def write(self, record):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.tf.io, "TFRecordWriter", Full)
        with pytest.raises(errors.UserError, match="cannot write .*No space left"):
            _prepare(tars, tmp_path)
    assert len(_records(_prepare(tars, tmp_path))) == 24


def test_a_tar_file_cut_off_while_it_is_read_is_named(images, tmp_path, monkeypatch):
    source = _write_tars(tmp_path / "source", images)
    path = source / f"{SYNSETS[2]}.tar"
    check = imagenet21k.check_space

    def cut(*arguments):
        path.write_bytes(path.read_bytes()[:2000])
        check(*arguments)

    monkeypatch.setattr(imagenet21k, "check_space", cut)
    with pytest.raises(errors.UserError, match=f"{path} has changed"):
        _prepare(source, tmp_path)


def test_a_mistake_at_the_command_is_one_line(tars, tmp_path):
    done = warm.run(
        *("-m", "tools.prepare_data", "--dataset=imagenet21k"),
        *(f"--source={tars}", f"--data_dir={tmp_path}"),
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "holds 4 synsets, 21,837 fewer than the 21,841" in done.stderr
