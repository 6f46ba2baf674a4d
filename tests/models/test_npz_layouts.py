"""Every published layout of arrays: in, and where we write it, out again."""

import ml_dtypes
import numpy as np
import pytest

from tests.support import reference_resnet, reference_vit, twins
from vit_tf import errors
from vit_tf.models import npz_layouts, npz_weights

POSITIONS = npz_layouts.POSITIONS
LINEN = {
    "LayerNorm_0": "LayerNorm_0",
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


def _arrays(network):
    return npz_weights.released(twins.filled(network))


def _linen(arrays):
    """Our names to Flax Linen's, written out here."""
    found = {}
    for name, array in arrays.items():
        parts = name.split("/")
        if name.startswith("Transformer/encoderblock_"):
            parts[2] = LINEN[parts[2]]
        found["/".join(parts)] = array
    return found


def _big_vision(arrays, prefix="params/"):
    """Positions at the top and without the class token's, which joins the token."""
    found = _linen(arrays)
    table = found.pop(POSITIONS)
    if "cls" in found:
        found["cls"] = found["cls"] + table[:, :1]
        table = table[:, 1:]
    found["pos_embedding"] = table
    return {prefix + name: array for name, array in found.items()}


def _scanned(arrays):
    found = {k: v for k, v in arrays.items() if "/encoderblock_" not in k}
    blocks = [
        {k.split("encoderblock_")[1][2:]: v for k, v in arrays.items() if part in k}
        for part in ("encoderblock_0/", "encoderblock_1/")
    ]
    prefix = next(k for k in arrays if "encoderblock_0" in k).split("encoderblock_")[0]
    for name in blocks[0]:
        found[f"{prefix}encoderblock/{name}"] = np.stack([b[name] for b in blocks])
    return found


def _load(network, arrays, tmp_path, **options):
    np.savez(tmp_path / "file.npz", **arrays)
    return npz_weights.load_released(network, tmp_path / "file.npz", **options)


def _same_logits(network, arrays, **how):
    images = twins.images(network)
    want = reference_vit.forward(arrays, images, **how)["logits"]
    twins.close(network(images), want, 2e-5)


@pytest.mark.parametrize("pool", ["token", "gap", "map"])
@pytest.mark.parametrize("change", ["plain", "scanned", "two towers", "optimizer"])
def test_big_vision_files_give_the_same_logits(pool, change, tmp_path):
    arrays = _arrays(twins.transformer(pool=pool))
    stored = _big_vision(arrays)
    if change == "scanned":
        stored = _scanned(stored)
    if change == "two towers":
        stored = {k.replace("params/", "params/img/"): v for k, v in stored.items()}
        stored["params/txt/Embed_0/embedding"] = np.ones((4, 4), "float32")
    if change == "optimizer":  # a training checkpoint: what is no weight is not read
        for name in list(stored):
            moment = stored[name].astype(ml_dtypes.bfloat16)
            stored[f"opt/0/mu/{name.removeprefix('params/')}"] = moment
        stored["opt/0/count"] = np.int32(3)
        stored["opt/1"] = np.array(None, object)
        stored["chrono/accum_examples_seen"] = np.int64(4096)
        stored["chrono/accum_train_time"] = np.float64(1.5)
    network = twins.transformer(pool=pool)
    lines = _load(network, stored, tmp_path)
    assert any("Flax Linen" in line for line in lines)
    assert any("position embeddings: from pos_embedding" in line for line in lines)
    assert any("unstacked" in line for line in lines) == (change == "scanned")
    left_out = len([name for name in stored if name.startswith(("opt/", "chrono/"))])
    assert any(f"{left_out} others left out" in line for line in lines) == (
        change == "optimizer"
    )
    _same_logits(network, arrays)


def test_big_vision_without_a_table_is_sincos(tmp_path):
    stored = _big_vision(_arrays(twins.transformer(pool="gap")))
    del stored["params/pos_embedding"]
    network = twins.transformer(pool="gap", positions="sincos2d")
    _load(network, stored, tmp_path)
    _same_logits(network, npz_weights.released(network), sincos=True)


def test_linen_names_alone_are_understood(tmp_path):
    arrays = _arrays(twins.transformer())
    network = twins.transformer()
    _load(network, _linen(arrays), tmp_path)
    for name, array in npz_weights.released(network).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_big_vision_positions_are_resized_too(tmp_path):
    arrays = _arrays(twins.transformer())
    network = twins.transformer(size=24)
    lines = _load(network, _big_vision(arrays), tmp_path)
    assert any("4x4 to 6x6" in line for line in lines)
    table = npz_weights.resize_positions(arrays[POSITIONS], 37)
    _same_logits(network, arrays | {POSITIONS: table})


@pytest.mark.parametrize("pool", ["token", "gap", "map"])
def test_written_as_big_vision_it_reads_back(pool, tmp_path):
    arrays = _arrays(twins.transformer(pool=pool))
    written = npz_layouts.from_ours(arrays, npz_layouts.Layout.BIG_VISION)
    want = _big_vision(arrays)
    assert written.keys() == want.keys()
    for name, array in want.items():
        assert array.tobytes() == written[name].tobytes(), name
    network = twins.transformer(pool=pool)
    _load(network, written, tmp_path)
    _same_logits(network, arrays)
    # What came from big_vision goes back bit for bit.
    again = npz_layouts.from_ours(
        npz_weights.released(network), npz_layouts.Layout.BIG_VISION
    )
    for name, array in want.items():
        assert array.tobytes() == again[name].tobytes(), name


def test_bfloat16_stored_without_a_type_is_recovered(tmp_path):
    arrays = _arrays(twins.transformer())
    short = {k: v.astype(ml_dtypes.bfloat16) for k, v in arrays.items()}
    network = twins.transformer()
    np.savez(tmp_path / "file.npz", **short)
    with np.load(tmp_path / "file.npz") as stored:
        assert stored["cls"].dtype == np.dtype("V2")
    lines = npz_weights.load_released(network, tmp_path / "file.npz")
    assert any(f"bfloat16: {len(arrays)} arrays" in line for line in lines)
    for name, array in npz_weights.released(network).items():
        np.testing.assert_array_equal(array, short[name].astype("float32"))


def test_float16_is_widened(tmp_path):
    arrays = _arrays(twins.transformer())
    short = {k: v.astype(np.float16) for k, v in arrays.items()}
    network = twins.transformer()
    _load(network, short, tmp_path)
    for name, array in npz_weights.released(network).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, short[name].astype(np.float32))


def test_hybrid_files_with_unsqueezed_group_norms(tmp_path):
    arrays = _arrays(twins.hybrid())
    stored = {
        f"opt/target/{name}": array.reshape(1, 1, 1, -1)
        if "/gn" in f"/{name}"
        else array
        for name, array in arrays.items()
    }
    network = twins.hybrid()
    lines = _load(network, stored, tmp_path)
    assert any("group norms" in line and "squeezed" in line for line in lines)
    _same_logits(network, arrays)


@pytest.mark.parametrize("head", ["keep", "reset"])
def test_bit_files_with_numbered_convolutions(head, tmp_path):
    arrays = _arrays(twins.resnet(classes=7))
    stored = {
        name.replace("standardized_conv2d/", f"standardized_conv2d_{i}/"): array
        for i, (name, array) in enumerate(arrays.items())
    }
    network = twins.resnet(classes=7 if head == "keep" else 5)
    lines = _load(network, stored, tmp_path, head=head)
    assert any("numbers left out" in line for line in lines)
    if head == "reset":
        assert any("head: left as initialised" in line for line in lines)
        assert not npz_weights.released(network)["resnet/head/conv2d/kernel"].any()
        return
    images = twins.images(network)
    twins.close(network(images), reference_resnet.bit(arrays, images)["logits"], 2e-5)


def test_names_of_a_hybrid_and_of_bit_are_the_released_ones():
    """Of vit_jax and of BiT's tf2jax.py."""
    hybrid = {n: a.shape for n, a in _arrays(twins.hybrid()).items()}
    for name, shape in {
        "conv_root/kernel": (7, 7, 3, 64),
        "gn_root/scale": (64,),
        "block1/unit1/conv1/kernel": (1, 1, 64, 64),
        "block1/unit1/conv_proj/kernel": (1, 1, 64, 256),
        "block1/unit1/gn_proj/bias": (256,),
        "block2/unit1/conv2/kernel": (3, 3, 128, 128),
        "block2/unit2/conv3/kernel": (1, 1, 128, 512),
        "block2/unit2/gn3/scale": (512,),
        "embedding/kernel": (1, 1, 512, 32),
    }.items():
        assert hybrid[name] == shape
    assert "block2/unit2/conv_proj/kernel" not in hybrid
    found = {n: a.shape for n, a in _arrays(twins.resnet()).items()}
    for name, shape in {
        "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 64),
        "resnet/block1/unit01/a/group_norm/gamma": (64,),
        "resnet/block1/unit01/a/proj/standardized_conv2d/kernel": (1, 1, 64, 256),
        "resnet/block2/unit01/a/standardized_conv2d/kernel": (1, 1, 256, 128),
        "resnet/block2/unit02/b/standardized_conv2d/kernel": (3, 3, 128, 128),
        "resnet/block2/unit02/c/group_norm/beta": (128,),
        "resnet/group_norm/gamma": (512,),
        "resnet/head/conv2d/kernel": (1, 1, 512, 5),
        "resnet/head/conv2d/bias": (5,),
    }.items():
        assert found[name] == shape
    assert "resnet/block2/unit02/a/proj/standardized_conv2d/kernel" not in found


@pytest.mark.parametrize("kind", ["2d", "2d@every", "every"])
def test_every_kind_of_table_is_resized(kind, tmp_path):
    arrays = _arrays(twins.TWINS[kind]())
    network = twins.TWINS[kind](size=24)
    lines = _load(network, arrays, tmp_path)
    assert lines.count("position embeddings: resized from 4x4 to 6x6") == 1
    got = npz_weights.released(network)
    where = np.linspace(0, 3, 6)
    for name in got:
        if name.endswith(("x_embedding", "y_embedding")):
            for column in range(16):
                want = np.interp(where, range(4), arrays[name][:, column])
                np.testing.assert_allclose(got[name][:, column], want, atol=1e-6)


def test_relative_offsets_fit_one_resolution(tmp_path):
    arrays = _arrays(twins.TWINS["relative"]())
    with pytest.raises(errors.UserError, match="of another shape: .*/relative"):
        _load(twins.TWINS["relative"](size=24), arrays, tmp_path)


def test_weights_of_another_architecture_list_the_first_mismatches(tmp_path):
    arrays = _arrays(twins.resnet())
    with pytest.raises(errors.UserError) as refusal:
        _load(twins.transformer(), arrays, tmp_path)
    message = str(refusal.value)
    assert "missing in the file" in message and "not in the model" in message
    assert "resnet/" in message and "\n" not in message
