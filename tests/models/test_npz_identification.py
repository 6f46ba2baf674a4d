import numpy as np
import pytest

from vit_tf import config
from vit_tf.models import build, npz_identification, npz_weights

AXIAL = [name for name in build.names() if name.startswith("Axial-")]
# One of each kind; the others, of which only the sizes differ, are slow together.
KINDS = ("ViT-Ti/16", "ViT-b/32", "R+ViT-Ti/16", "R26+ViT-S/32", "R50x1")
VARIANTS = [
    pytest.param(name, marks=[] if name in KINDS else pytest.mark.slow)
    for name in build.names()
    if name not in AXIAL
]


def _arrays(model, *, classes=10, image_size=224):
    """Names and shapes of a model's weights; nothing is allocated."""
    network = build.outline(model, num_classes=classes, image_size=image_size)
    prefix = f"{network.path}/"
    return {
        w.path.removeprefix(prefix): np.broadcast_to(np.float32(0), w.shape)
        for w in network.weights
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_told_from_its_arrays(variant):
    model = config.Model(variant=variant)
    arrays = _arrays(model)
    found = npz_identification.recognise(arrays, name="weights.npz")
    # The halved B of Figure 4 has the sizes of S.
    assert found.variant == variant.replace("ViT-b/32", "ViT-S/32")
    assert (found.depth, found.width, found.mlp_dim, found.num_heads) == (None,) * 4
    assert npz_identification.num_classes(arrays) == 10
    assert npz_identification.image_size(arrays, found) == 224
    again = _arrays(found)
    assert {n: a.shape for n, a in again.items()} == {
        n: a.shape for n, a in arrays.items()
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"pool": "gap", "positions": "sincos2d", "pre_logits": True},
        {"pool": "map"},
        {"positions": "2d"},
        {"positions": "relative"},
        {"depth": 3, "width": 48, "num_heads": 3},
        {"variant": "R+ViT-Ti/16", "depth": 2},
        {"variant": "R8+ViT-S/8", "depth": 2},
        {"variant": "R14x1", "width": 32},
        {"variant": "R26x1", "width": 96},
    ],
)
def test_tokens_positions_heads_and_free_sizes_are_told(fields):
    model = config.Model(**{"variant": "ViT-mu/8"} | fields)
    arrays = _arrays(model, image_size=64)
    found = npz_identification.recognise(arrays, name="weights.npz")
    again = _arrays(found, image_size=64)
    assert {n: a.shape for n, a in again.items()} == {
        n: a.shape for n, a in arrays.items()
    }


def test_an_axial_transformer_has_to_be_named():
    variant = AXIAL[0]
    arrays = _arrays(config.Model(variant=variant))
    with pytest.raises(config.Refused, match="weights.npz: an axial or a deep"):
        npz_identification.recognise(arrays, name="weights.npz")
    found = npz_identification.recognise(arrays, name="weights.npz", variant=variant)
    assert found.variant == variant


def test_what_is_no_model_is_refused_with_its_arrays():
    arrays = {"conv1/weight": np.zeros((3, 3))}
    with pytest.raises(config.Refused, match="x.npz: neither .* conv1/weight"):
        npz_identification.recognise(arrays, name="x.npz")


def test_a_file_without_a_head_has_no_classes():
    arrays = _arrays(config.Model(variant="ViT-mu/8"), classes=0, image_size=32)
    assert npz_identification.num_classes(arrays) == 0
    assert npz_identification.image_size(arrays, config.Model(variant="ViT-mu/8")) == 32


def test_weights_read_back_are_recognised(tmp_path):
    model = config.Model(variant="ViT-mu/8")
    network = build.build(model, num_classes=3, image_size=32)
    npz_weights.save_released(network, tmp_path / "w.npz")
    arrays, _ = npz_weights.read_npz(tmp_path / "w.npz")
    found = npz_identification.recognise(arrays, name="w.npz")
    assert (found.variant, npz_identification.num_classes(arrays)) == ("ViT-mu/8", 3)
