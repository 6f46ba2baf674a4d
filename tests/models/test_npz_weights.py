"""The released .npz layout: exact names, exact round trips, loud refusals."""

import errno
import io
import os
import pickle
import zipfile

import keras
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import reference_vit
from vit_tf import config
from vit_tf.models import build, npz_weights

POSITIONS = "Transformer/posembed_input/pos_embedding"


def _model(*, classes=5, size=16, **fields):
    model = config.Model(**{"variant": "ViT-mu/4", "depth": 2, **fields})
    return build.build(model, num_classes=classes, image_size=size)


def _random(arrays, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(np.shape(a)) * 0.2).astype("float32")
        for name, a in arrays.items()
    }


def _file(tmp_path, arrays, name="file.npz"):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


def _same(model, arrays):
    ours = npz_weights.released(model)
    assert ours.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array, name)


def _images(size, batch=2):
    rng = np.random.default_rng(3)
    return rng.uniform(-1, 1, (batch, size, size, 3)).astype("float32")


# The released layout, written out: D = 32, M = 128, 2 heads, patch 4, 17 tokens.
_ATTENTION = "MultiHeadDotProductAttention_1"
_IN = {"kernel": (32, 2, 16), "bias": (2, 16)}
_NORM = {"scale": (32,), "bias": (32,)}
_BLOCK = {
    "LayerNorm_0": _NORM,
    f"{_ATTENTION}/query": _IN,
    f"{_ATTENTION}/key": _IN,
    f"{_ATTENTION}/value": _IN,
    f"{_ATTENTION}/out": {"kernel": (2, 16, 32), "bias": (32,)},
    "LayerNorm_2": _NORM,
    "MlpBlock_3/Dense_0": {"kernel": (32, 128), "bias": (128,)},
    "MlpBlock_3/Dense_1": {"kernel": (128, 32), "bias": (32,)},
}
LAYOUT = {
    "cls": (1, 1, 32),
    "embedding/kernel": (4, 4, 3, 32),
    "embedding/bias": (32,),
    POSITIONS: (1, 17, 32),
    "Transformer/encoder_norm/scale": (32,),
    "Transformer/encoder_norm/bias": (32,),
    "pre_logits/kernel": (32, 32),
    "pre_logits/bias": (32,),
    "head/kernel": (32, 5),
    "head/bias": (5,),
} | {
    f"Transformer/encoderblock_{i}/{layer}/{name}": shape
    for i in range(2)
    for layer, arrays in _BLOCK.items()
    for name, shape in arrays.items()
}


def test_names_and_shapes_are_the_released_ones():
    arrays = npz_weights.released(_model(pre_logits=True))
    assert {name: array.shape for name, array in arrays.items()} == LAYOUT
    assert {array.dtype.name for array in arrays.values()} == {"float32"}


def test_gap_models_have_no_class_token():
    gap = npz_weights.released(_model(pool="gap"))
    token = npz_weights.released(_model())
    assert token.keys() - gap.keys() == {"cls"}
    assert gap[POSITIONS].shape == (1, 16, 32)


# Round trips -------------------------------------------------------------------


@pytest.mark.parametrize("pre_logits", [False, True])
@pytest.mark.parametrize("pool", ["token", "gap"])
@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_a_file_gives_the_reference_logits_and_comes_out_bit_for_bit(
    pool, pre_logits, prefix, tmp_path
):
    model = _model(pool=pool, pre_logits=pre_logits)
    arrays = _random(npz_weights.released(model))
    stored = {prefix + name: array for name, array in arrays.items()}
    if prefix:  # the optimizer's state lies beside the weights, and is not read
        stored["opt/state/step"] = np.int32(7)
    lines = npz_weights.load_released(model, _file(tmp_path, stored))
    assert f"{len(arrays)} arrays loaded" in lines[0]
    assert len(lines) == (2 if prefix else 1)
    _same(model, arrays)
    got, want = model(_images(16)), reference_vit.forward(arrays, _images(16))
    scale = abs(want["logits"]).max()
    np.testing.assert_allclose(got, want["logits"], rtol=0, atol=1e-5 * scale)

    npz_weights.save_released(model, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        assert set(out.files) == set(arrays)
        for name, array in arrays.items():
            assert out[name].dtype == array.dtype
            assert out[name].tobytes() == array.tobytes(), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.npz", "out.npz"]


def test_a_file_object_is_read_too(tmp_path):
    model = _model()
    arrays = _random(npz_weights.released(model))
    opened = io.BytesIO(_file(tmp_path, arrays).read_bytes())
    npz_weights.load_released(model, opened)
    _same(model, arrays)


def test_bfloat16_models_hold_the_same_float32_arrays(tmp_path):
    arrays = _random(npz_weights.released(_model()))
    model = build.build(
        config.Model(variant="ViT-mu/4", depth=2),
        num_classes=5,
        image_size=16,
        dtype="mixed_bfloat16",
    )
    npz_weights.load_released(model, _file(tmp_path, arrays))
    _same(model, arrays)


# Position embeddings -----------------------------------------------------------


@pytest.mark.parametrize("pool", ["token", "gap"])
@pytest.mark.parametrize("size", [8, 24, 36])
def test_another_resolution_gives_the_reference_logits(pool, size, tmp_path):
    arrays = _random(npz_weights.released(_model(pool=pool)))
    model = _model(pool=pool, size=size)
    lines = npz_weights.load_released(model, _file(tmp_path, arrays))
    assert f"resized from 4x4 to {size // 4}x{size // 4}" in lines[1]
    table, first = arrays[POSITIONS].astype("float64"), int(pool == "token")
    grid = table[0, first:].reshape(4, 4, 32)
    zoomed = scipy.ndimage.zoom(grid, (size / 16, size / 16, 1), order=1)
    table = np.concatenate([table[:, :first], zoomed.reshape(1, -1, 32)], axis=1)
    want = reference_vit.forward(arrays | {POSITIONS: table}, _images(size))["logits"]
    got = model(_images(size))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * abs(want).max())


@settings(max_examples=60, deadline=None)
@given(old=st.integers(1, 20), new=st.integers(1, 20), cls=st.booleans())
def test_resizing_is_scipys_zoom_of_order_one(old, new, cls):
    rng = np.random.default_rng(old * 100 + new)
    table = rng.standard_normal((1, old * old + cls, 3))
    got = npz_weights.resize_positions(table, new * new + cls)
    factor = new / old
    grid = table[0, int(cls) :].reshape(old, old, 3)
    zoomed = scipy.ndimage.zoom(grid, (factor, factor, 1), order=1)
    assert zoomed.shape == (new, new, 3)
    np.testing.assert_allclose(
        got[0, int(cls) :].reshape(new, new, 3), zoomed, atol=1e-12
    )
    np.testing.assert_array_equal(got[:, : int(cls)], table[:, : int(cls)])


@given(old=st.integers(2, 40), new=st.integers(2, 40), cls=st.booleans())
def test_a_ramp_stays_a_ramp_from_corner_to_corner(old, new, cls):
    rows, columns = np.indices((old, old)).reshape(2, -1)
    grid = np.stack([rows, columns, np.ones(old * old)], axis=1)
    table = np.concatenate([np.full((int(cls), 3), -5.0), grid])[None]
    got = npz_weights.resize_positions(table, new * new + cls)[0, int(cls) :]
    ramp = np.linspace(0, old - 1, new)
    np.testing.assert_allclose(got[:, 0].reshape(new, new), ramp[:, None] + 0 * ramp)
    np.testing.assert_allclose(got[:, 1].reshape(new, new), 0 * ramp[:, None] + ramp)
    np.testing.assert_allclose(got[:, 2], 1)


@pytest.mark.parametrize(("rows", "tokens"), [(17, 16), (16, 17), (15, 16), (17, 24)])
def test_resizing_goes_from_square_to_square(rows, tokens):
    with pytest.raises(ValueError, match=f"{rows} rows to {tokens}"):
        npz_weights.resize_positions(np.zeros((1, rows, 2)), tokens)


# A new head --------------------------------------------------------------------


def test_reset_keeps_the_fresh_head_and_says_so(tmp_path):
    given_arrays = _random(npz_weights.released(_model(classes=9, pre_logits=True)))
    model = _model(head_bias=-2.5, size=24)
    lines = npz_weights.load_released(
        model, _file(tmp_path, given_arrays), head=npz_weights.Head.RESET
    )
    arrays = npz_weights.released(model)
    assert not arrays["head/kernel"].any() and (arrays["head/bias"] == -2.5).all()
    for name, array in arrays.items():
        if name != POSITIONS and not name.startswith("head/"):
            np.testing.assert_array_equal(array, given_arrays[name])
    loaded, head, pre_logits, positions = lines
    assert f"{len(arrays) - 2} arrays loaded" in loaded
    assert "head: left as initialised" in head and "[5, 9]" in head
    assert "pre_logits: in the file, not in the model, dropped" in pre_logits
    assert "4x4 to 6x6" in positions


def test_reset_also_when_the_classes_agree_or_there_are_none(tmp_path):
    path = _file(tmp_path, _random(npz_weights.released(_model(pre_logits=True))))
    model = _model(pre_logits=True)
    npz_weights.load_released(model, path, head="reset")
    assert not npz_weights.released(model)["head/kernel"].any()
    assert npz_weights.released(model)["pre_logits/kernel"].any()
    npz_weights.load_released(_model(classes=0), path, head="reset")


def test_a_zero_head_is_pointed_out(tmp_path):
    arrays = _random(npz_weights.released(_model()))
    arrays["head/kernel"] *= 0
    lines = npz_weights.load_released(_model(), _file(tmp_path, arrays))
    assert "head/kernel is all zeros" in lines[-1]


# Refusals ----------------------------------------------------------------------


def _refused(model, path, **options):
    """The message, after checking that it is one line and nothing was loaded."""
    before = npz_weights.released(model)
    with pytest.raises(config.Refused) as refusal:
        npz_weights.load_released(model, path, **options)
    _same(model, before)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_missing_extra_and_misshaped_arrays_are_listed_and_refused(tmp_path):
    arrays = _random(npz_weights.released(_model(depth=3)))
    for i in range(2):
        arrays.pop(f"Transformer/encoderblock_{i}/LayerNorm_0/scale")
    arrays["embedding/bias"] = np.zeros(33, "float32")
    message = _refused(_model(), _file(tmp_path, arrays))
    assert "2 missing in the file: Transformer/encoderblock_0/LayerNorm_0/sc" in message
    assert "16 not in the model: Transformer/encoderblock_2/LayerNorm_0/sc" in message
    assert "and 13 more" in message
    assert "1 of another shape: embedding/bias (file (33,), model (32,))" in message
    assert "head=reset" not in message


@pytest.mark.parametrize("name", list(LAYOUT))
def test_any_missing_array_is_refused(name, tmp_path):
    arrays = _random(npz_weights.released(_model(pre_logits=True)))
    del arrays[name]
    message = _refused(_model(pre_logits=True), _file(tmp_path, arrays))
    assert f"1 missing in the file: {name}" in message


@pytest.mark.parametrize(
    "fields", [{"classes": 9}, {"pre_logits": True}, {"classes": 9, "pre_logits": True}]
)
def test_where_only_the_head_differs_the_remedy_is_named(fields, tmp_path):
    path = _file(tmp_path, _random(npz_weights.released(_model(**fields))))
    message = _refused(_model(), path)
    assert "head=reset" in message and "start_from" in message
    npz_weights.load_released(_model(), path, head=npz_weights.Head.RESET)


def test_a_class_token_more_or_less_is_refused(tmp_path):
    gap = _file(tmp_path, _random(npz_weights.released(_model(pool="gap"))), "gap.npz")
    token = _file(tmp_path, _random(npz_weights.released(_model())), "token.npz")
    assert "1 missing in the file: cls" in _refused(_model(), gap)
    message = _refused(_model(pool="gap", size=24), token)
    assert "1 not in the model: cls" in message and f"shape: {POSITIONS}" in message
    for size in (16, 24):
        assert POSITIONS in _refused(_model(size=size), gap, head="reset")


def _arrays():
    return {"cls": np.zeros((1, 1, 4), "float32"), "head/bias": np.ones(3, "float32")}


def _npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy():
    file = io.BytesIO()
    np.save(file, np.ones(4))
    return file.getvalue()


def _zip(name, text):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, text)
    return file.getvalue()


_OBJECTS = _arrays() | {"cls": np.array([{"a": 1}, print], dtype=object)}
DAMAGED = {
    "empty": b"",
    "text": b"<html>404 Not Found</html>",
    "truncated": _npz(_arrays())[:-40],
    "half": _npz({"cls": np.zeros(9999, "float32")})[:20_000],
    "flipped": _npz({"cls": np.zeros(999, "float32")}).replace(bytes(64), b"x" * 64, 1),
    "pickle": pickle.dumps({"cls": 1}),
    "objects": _npz(_OBJECTS),
    "one array": _npy(),
    "integers": _npz({"cls": np.arange(3)}),
    "raw void": _npz({"cls": np.zeros(3, "V2")}),
    "strings": _npz({"cls": np.array(["a"])}),
    "no npy inside": _zip("cls", "hello"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_whole_npz_is_refused_in_one_line(kind, tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(DAMAGED[kind])
    assert str(path) in _refused(_model(), path)


_RAN = []


def _explode():
    _RAN.append(1)


class _Bomb:
    def __reduce__(self):
        return _explode, ()


def test_a_pickle_inside_is_not_run(tmp_path):
    bomb = np.empty(1, dtype=object)
    bomb[0] = _Bomb()
    path = _file(tmp_path, _arrays() | {"cls": bomb})
    assert "Object arrays" in _refused(_model(), path)
    assert not _RAN
    with np.load(path, allow_pickle=True) as archive:
        archive["cls"]
    assert _RAN == [1]  # it would have


def test_missing_files_and_folders_are_refused(tmp_path):
    missing = tmp_path / "nowhere.npz"
    assert "No such file" in _refused(_model(), missing)
    assert "Is a directory" in _refused(_model(), tmp_path)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_no_truncation_is_read(data):
    whole = _npz(_arrays())
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(config.Refused) as refusal:
        npz_weights.read_npz(io.BytesIO(whole[:cut]))
    assert "\n" not in str(refusal.value)


def test_a_save_replaces_the_file_in_one_go(tmp_path):
    model, path = _model(), tmp_path / "weights.npz"
    npz_weights.save_released(model, path)
    old = path.read_bytes()
    with open(path, "rb") as reader:  # begun before the new file, reads the old one
        for weight in model.weights:
            weight.assign(keras.ops.ones_like(weight))
        npz_weights.save_released(model, path)
        assert reader.read() == old != path.read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = _model(), tmp_path / "weights.npz"
    npz_weights.save_released(model, path)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for weight in model.weights:
        weight.assign(keras.ops.ones_like(weight))
    with pytest.raises(config.Refused, match="No space left on device"):
        npz_weights.save_released(model, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["weights.npz"]
    with pytest.raises(config.Refused, match="No such file"):
        npz_weights.save_released(model, tmp_path / "no" / "weights.npz")
