"""`tools.predict`: a run, an .npz and an export answer as evaluation does."""

import csv
import json
import re
import shutil
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import image_files, stand_in, tiny, warm
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    record_files,
    safe_decoding,
)
from vit_tf.evaluation import evaluators
from vit_tf.objectives import classification
from vit_tf.runs import conversion, loading, stored_weights
from vit_tf.serving import predictor

COUNT = 24  # images of the test split that are looked at


def _drawn(source):
    """The first images of the split, as they are stored."""
    rows = record_files.in_order(source, "test", None).take(COUNT)
    rows = rows.map(lambda row: source.parse(row["record"])["image"])
    return list(rows.as_numpy_iterator())


def _shown(source, **changes):
    """What evaluation shows of the same images."""
    data = config.Data(image_size=16, **changes)
    stream = evaluation_stream.stream(
        source, data, "test", batch_size=COUNT, keep=np.arange(COUNT)
    )
    (batch,) = stream
    return batch


@pytest.fixture(scope="module")
def digits(data_dir):
    return catalog.open_source("digits", data_dir)


@pytest.fixture(scope="module")
def folder(once, digits):
    """The images as files, and two that are none."""

    def make(folder):
        for i, image in enumerate(_drawn(digits)):
            (folder / f"{i:02}.png").write_bytes(image)
        (folder / "cut.png").write_bytes(image[:60])
        (folder / "text.jpg").write_text("no image")

    return once("digit_files", make)


@pytest.fixture(scope="module")
def encoded(folder):
    return [(folder / f"{i:02}.png").read_bytes() for i in range(COUNT)]


@pytest.mark.parametrize("crop", list(config.EvalCrop))
def test_images_are_shown_as_evaluation_shows_them(evaluated, digits, encoded, crop):
    ask, _ = predictor.open_stored(str(evaluated), eval_crop=crop)
    pixels, errors = ask.see(encoded)
    np.testing.assert_array_equal(pixels, _shown(digits, eval_crop=crop)["image"])
    assert errors == [""] * COUNT


def test_a_run_says_what_its_evaluation_says(evaluated, digits, encoded):
    """Its classes and their probabilities, for any batches."""
    ask, top = predictor.open_stored(str(evaluated), top=10)
    assert top == 10
    said = [answer for i in range(0, COUNT, 7) for answer in ask(encoded[i : i + 7])]
    cfg, _ = stored_weights.read_run(str(evaluated))
    judge = evaluators.Classification(
        model=loading.open_model(str(evaluated)).network,
        objective=classification.Classification(cfg.objective, num_classes=10),
        strategy=tf.distribute.get_strategy(),
        processes=tiny.one_device().processes,
    )
    found = judge.predict(digits, cfg.data, f"test[:{COUNT}]", batch_size=8)
    assert [int(a.classes[0]) for a in said] == found.predicted.tolist()
    np.testing.assert_allclose([a.scores[0] for a in said], found.confidence, rtol=1e-5)
    for answer in said:
        assert sorted(answer.classes) == sorted(map(str, range(10)))
        assert list(answer.scores) == sorted(answer.scores, reverse=True)
        assert sum(answer.scores) == pytest.approx(1, rel=1e-5)


def test_names_sigmoid_and_view_are_the_runs_own(evaluated, encoded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    text = (run / "config.json").read_text()
    for old, new in (('"softmax"', '"sigmoid"'), ('"resize"', '"central"')):
        assert old in text
        text = text.replace(old, new)
    (run / "config.json").write_text(text)
    result = tiny.result(evaluated) | {"class_names": list("abcdefghij")}
    (run / "result.json").write_text(json.dumps(result))
    own, _ = predictor.open_stored(str(run), top=10)
    other, _ = predictor.open_stored(
        str(evaluated), top=10, eval_crop=config.EvalCrop.CENTRAL
    )
    for ours, theirs in zip(own(encoded), other(encoded), strict=True):
        assert list(ours.classes) == ["abcdefghij"[int(c)] for c in theirs.classes]
        odds = np.array(ours.scores) / (1 - np.array(ours.scores))
        np.testing.assert_allclose(odds / odds.sum(), theirs.scores, rtol=1e-4)


def test_an_npz_and_another_size(evaluated, encoded, tmp_path):
    path = shutil.copy(evaluated / "weights.npz", tmp_path)
    run, _ = predictor.open_stored(str(evaluated))
    alone, top = predictor.open_stored(path)
    assert top == predictor.TOP
    assert alone(encoded) == run(encoded)  # digits' names are numbers
    larger, _ = predictor.open_stored(path, image_size=24)
    assert larger.see([stand_in.png((9, 9, 9))])[0].shape == (1, 24, 24, 3)
    assert larger(encoded) != alone(encoded)


def test_bad_images_have_reasons_and_leave_the_others_alone(evaluated, encoded):
    ask, _ = predictor.open_stored(str(evaluated))
    good = encoded[:2]
    bomb = bytearray(stand_in.png((1, 2, 3)))
    bomb[16:24] = (12000).to_bytes(4, "big") * 2  # width and height, by the header
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    bad = [b"", b"text", good[0][:60], bytes(bomb), b"GIF89a", b"\xff\xd8\xff\xe0"]
    bad.append(stand_in.drawn("WEBP")[:40])
    said = ask([good[0], *bad, good[1]])
    assert [said[0], said[-1]] == ask(good)
    reasons = [answer.error for answer in said[1:-1]]
    assert reasons[:3] == [
        safe_decoding.EMPTY,
        safe_decoding.UNKNOWN,
        safe_decoding.DAMAGED,
    ]
    assert reasons[3].startswith(f"{safe_decoding.TOO_LARGE}: 12000 x 12000 pixels")
    assert reasons[4:] == [safe_decoding.DAMAGED] * 3
    assert all(a.classes == a.scores == () for a in said[1:-1])
    assert ask([]) == []
    whole = [stand_in.drawn(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")]
    assert [answer.error for answer in ask(whole)] == [""] * 5


@pytest.fixture(scope="module")
def asked(evaluated):
    return predictor.open_stored(str(evaluated))[0]


@settings(max_examples=150, deadline=None)
@given(
    at=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255),
    cut=st.floats(0.1, 1),
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]),
)
def test_no_mutated_image_ends_the_batch(asked, at, bits, cut, kind):
    image = bytearray(stand_in.drawn(kind))
    image[int(at * len(image))] ^= bits
    good = stand_in.png((200, 0, 0))
    said = asked([bytes(image[: int(cut * len(image))]), good])
    assert said[1].error == "" and len(said) == 2
    assert bool(said[0].error) != bool(said[0].classes)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_the_command_writes_the_table_and_goes_on(evaluated, folder, tmp_path, kind):
    to = tmp_path / f"found.{kind}"
    command = [
        "-m",
        "tools.predict",
        f"--checkpoint={evaluated}",
        f"--images={folder}",
        f"--to={to}",
        "--batch_size=5",
    ]
    done = warm.run(*command)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == f"26 images in {to}, 2 of them unreadable (see column error)\n"
    )
    content = to.read_bytes()
    to.write_bytes(content[:-200])
    done = warm.run(*command)
    assert done.returncode == 0, done.stderr
    assert to.read_bytes() == content
    assert "had their row before" in done.stdout
    with open(to, newline="") as file:
        rows = list(csv.DictReader(file) if kind == "csv" else map(json.loads, file))
    assert [row["file"] for row in rows] == [str(p) for p in sorted(folder.iterdir())]
    ask, _ = predictor.open_stored(str(evaluated))
    said = ask([path.read_bytes() for path in sorted(folder.iterdir())])
    for row, answer in zip(rows, said, strict=True):
        assert row.get("error", "") == answer.error
        if not answer.error:
            assert row["class_5"] == answer.classes[4]
            assert float(row["score_1"]) == pytest.approx(answer.scores[0], rel=1e-5)


def test_a_table_of_another_checkpoint_or_view_is_refused(evaluated, folder, tmp_path):
    other = tmp_path / "other.npz"
    conversion.convert(str(evaluated), str(other))
    with np.load(other) as arrays:
        np.savez(other, **{k: v * 1.01 for k, v in arrays.items()})
    to, copied = tmp_path / "found.csv", tmp_path / "same"
    shutil.copytree(evaluated, copied)

    def predict(checkpoint, *more):
        images = f"--images={folder / '00.png'}"
        return warm.run(
            "-m",
            "tools.predict",
            f"--checkpoint={checkpoint}",
            images,
            f"--to={to}",
            *more,
        )

    assert predict(evaluated).returncode == 0
    content = to.read_bytes()
    done = predict(copied)  # the same weights in another place
    assert done.returncode == 0 and "1 had their row before" in done.stdout
    for checkpoint, more, reason in (
        (other, [], "weights: .* against"),
        (evaluated, ["--eval_crop=central"], "eval_crop: resize against central"),
        (evaluated, ["--image_size=24"], "image_size: 16 against 24"),
    ):
        done = predict(checkpoint, *more)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert re.search(reason, line) and "--overwrite" in line, line
        assert to.read_bytes() == content
    done = predict(other, "--overwrite")
    assert done.returncode == 0 and "before" not in done.stdout
    assert to.read_bytes() != content


def test_an_export_answers_by_its_signature(tmp_path):
    stand_in.save(tmp_path / "vit", 9)
    stand_in.save(tmp_path / "vit", 10, names=("rot", "grün", "blau"))
    (tmp_path / "vit" / "11").mkdir()  # being copied: nothing in it yet
    color = (250, 30, 60)
    for path, name in (("vit", "rot"), ("vit/10", "rot"), ("vit/9", "red")):
        ask, top = predictor.open_stored(str(tmp_path / path))
        assert top == 2
        good, bad = ask([stand_in.png(color), b"no image"])
        assert good.classes[0] == name
        assert good.scores[0] == pytest.approx(stand_in.answer(color)[0][1], rel=1e-5)
        assert bad.error == "not an image that this reads"
    one, top = predictor.open_stored(str(tmp_path / "vit"), top=1)
    assert top == 1 and one([stand_in.png(color)])[0].classes == ("rot",)


def _other_export(folder):
    module = tf.Module()
    module.f = tf.function(lambda x: x, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, folder, {"serving_default": module.f})


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("nowhere", {}, "nowhere: no such file or folder"),
        ("run", {"variant": "ViT-mu/8"}, "--variant: .* says what it is"),
        ("run", {"top": 11}, "--top=11: .* has 10"),
        ("body.npz", {}, "has no last layer"),
        ("tokens", {}, "logits for every token"),
        ("vit", {"top": 3}, "--top=3: .* has 2"),
        ("vit", {"image_size": 32}, "--image_size=32: .* is an export"),
        ("other", {}, "no signature serving_default with classes and scores"),
        ("broken", {}, "broken: cannot be loaded"),
    ],
)
def test_what_cannot_be_opened_is_one_line(evaluated, tmp_path, path, changes, said):
    place = evaluated if path == "run" else tmp_path / path
    if path == "body.npz":
        conversion.convert(str(evaluated), str(place), keep_head=False)
    if path == "tokens":
        shutil.copytree(evaluated, place)
        text = (place / "config.json").read_text()
        assert '"pool": null' in text
        text = text.replace('"pool": null', '"pool": "token_unpooled"')
        (place / "config.json").write_text(text)
    if path == "vit":
        stand_in.save(place)
    if path == "other":
        _other_export(str(place))
    if path == "broken":
        place.mkdir()
        (place / "saved_model.pb").write_bytes(b"\0no export")
    with pytest.raises(errors.UserError, match=said) as caught:
        predictor.open_stored(str(place), **changes)
    assert "\n" not in str(caught.value)


def test_exif_turns_what_a_camera_took_on_its_side(evaluated, tmp_path):
    image = image_files.picture(40, 24)
    side = PIL.Image.Exif()
    side[0x0112] = 6
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(image_files.encoded(image, "PNG", exif=side))
    (photos / "b.png").write_bytes(image_files.encoded(image, "PNG"))
    (photos / "c.png").write_bytes(
        image_files.encoded(image.transpose(PIL.Image.Transpose.ROTATE_270), "PNG")
    )
    (photos / "d.jpg").write_bytes(b"\xff\xd8\xff no image")
    (photos / "e.png").write_bytes(image_files.png_bomb())

    def predict(table, *more):
        done = warm.run(
            *("-m", "tools.predict", f"--checkpoint={evaluated}", f"--images={photos}"),
            f"--to={tmp_path / table}",
            *more,
        )
        rows = []
        if done.returncode == 0:
            rows = list(csv.DictReader((tmp_path / table).read_text().splitlines()))
        return done, [{**row, "file": ""} for row in rows]

    done, (a, b, c, d, e) = predict("stored.csv")
    assert a == b != c and d["error"] and e["error"].startswith("too large")
    assert "1 images carry a rotation (EXIF): shown as stored" in done.stdout
    done, upright = predict("upright.csv", "--exif")
    assert upright == [c, b, c, d, e]
    assert "1 images carry a rotation (EXIF): turned upright" in done.stdout
    done, _ = predict("stored.csv", "--exif")
    assert done.returncode == 2 and "exif" in done.stderr.splitlines()[-1]
