"""Exact parameter counts of every variant, and clear words for wrong sizes."""

import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_tf import config
from vit_tf.models import build

# paper.md 1.2: 1000 classes at 224 pixels, no pre_logits layer.
COUNTS = {
    "ViT-Ti/16": 5_717_416,
    "ViT-S/32": 22_878_952,
    "ViT-S/16": 22_050_664,
    "ViT-B/32": 88_224_232,
    "ViT-B/16": 86_567_656,
    "ViT-B/8": 86_576_872,
    "ViT-L/32": 306_535_400,
    "ViT-L/16": 304_326_632,
    "ViT-H/14": 632_045_800,
}
GAP_COUNTS = {
    "ViT-S/16": 22_049_896,
    "ViT-S/32": 22_878_184,
    "ViT-B/16": 86_566_120,
    "ViT-B/32": 88_222_696,
}
BACKBONE_COUNTS = {
    "ViT-Ti/16": 5_524_416,
    "ViT-S/16": 21_665_664,
    "ViT-B/32": 87_455_232,
    "ViT-B/16": 85_798_656,
    "ViT-L/32": 305_510_400,
    "ViT-L/16": 303_301_632,
    "ViT-H/14": 630_764_800,
}
# The paper's pre-training head: a tanh layer and 21,843 classes.
PRETRAINING_COUNTS = {
    "ViT-B/32": 104_843_091,
    "ViT-B/16": 103_186_515,
    "ViT-L/32": 328_949_075,
    "ViT-L/16": 326_740_307,
    "ViT-H/14": 660_385_363,
}


def _count(model, num_classes=1000, image_size=224):
    """Parameters of a network whose arrays are never made."""
    with keras.StatelessScope(initialize_variables=False):
        network = build.build(model, num_classes=num_classes, image_size=image_size)
        return sum(math.prod(weight.shape) for weight in network.weights)


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts(variant):
    assert _count(config.Model(variant=variant)) == COUNTS[variant]


@pytest.mark.parametrize("variant", GAP_COUNTS)
def test_parameter_counts_of_global_average_pooling(variant):
    model = config.Model(variant=variant, pool=config.Pool.GAP)
    assert _count(model) == GAP_COUNTS[variant]


@pytest.mark.parametrize("variant", BACKBONE_COUNTS)
def test_parameter_counts_without_a_head(variant):
    model = config.Model(variant=variant)
    assert _count(model, num_classes=0) == BACKBONE_COUNTS[variant]


@pytest.mark.parametrize("variant", PRETRAINING_COUNTS)
def test_parameter_counts_with_the_papers_pretraining_head(variant):
    model = config.Model(variant=variant, pre_logits=True)
    assert _count(model, num_classes=21_843) == PRETRAINING_COUNTS[variant]


def test_the_authors_testing_model():
    model = config.Model(
        variant="ViT-mu/16", width=10, mlp_dim=10, num_heads=2, depth=1
    )
    network = build.build(model, num_classes=1000, image_size=224)
    assert network.count_params() == 21_390


@pytest.mark.slow
def test_the_largest_variant_is_really_made():
    network = build.build(
        config.Model(variant="ViT-H/14"), num_classes=1000, image_size=224
    )
    assert network.count_params() == COUNTS["ViT-H/14"]


def _closed_form(model, patch, classes, size):
    """paper.md 1.2, for the sizes in `model`."""
    D, M, L = model.width, model.mlp_dim, model.depth
    token = model.pool is config.Pool.TOKEN
    N = (size // patch) ** 2
    return (
        patch * patch * 3 * D
        + D
        + (D if token else 0)
        + (N + token) * D
        + L * (4 * D * D + 4 * D + 2 * D * M + M + D + 4 * D)
        + 2 * D
        + (D * D + D if model.pre_logits else 0)
        + (D * classes + classes if classes else 0)
    )


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 4),
    head_width=st.integers(1, 8),
    mlp_dim=st.integers(1, 40),
    depth=st.integers(1, 3),
    patch=st.integers(1, 8),
    grid=st.integers(1, 4),
    classes=st.integers(0, 12),
    pool=st.sampled_from(config.Pool),
    pre_logits=st.booleans(),
)
def test_free_sizes_have_the_closed_forms_count(
    heads, head_width, mlp_dim, depth, patch, grid, classes, pool, pre_logits
):
    model = config.Model(
        variant=f"ViT-mu/{patch}",
        width=heads * head_width,
        num_heads=heads,
        mlp_dim=mlp_dim,
        depth=depth,
        pool=pool,
        pre_logits=pre_logits,
    )
    network = build.build(model, num_classes=classes, image_size=patch * grid)
    want = _closed_form(model, patch, classes, patch * grid)
    assert network.count_params() == want


def test_every_field_of_the_config_reaches_the_network():
    model = config.Model(
        variant="ViT-mu/4",
        depth=2,
        width=12,
        mlp_dim=20,
        num_heads=3,
        pool=config.Pool.GAP,
        pre_logits=True,
        head_bias=-6.9,
        dropout=0.1,
        attention_dropout=0.2,
    )
    network = build.build(model, num_classes=5, image_size=8, dtype="mixed_bfloat16")
    got = network.get_config()
    for name in ("depth", "width", "mlp_dim", "num_heads", "pre_logits", "head_bias"):
        assert got[name] == getattr(model, name)
    assert (got["dropout"], got["attention_dropout"]) == (0.1, 0.2)
    assert (got["pool"], got["patch_size"]) == ("gap", 4)
    assert (got["num_classes"], got["image_size"]) == (5, 8)
    assert network.dtype_policy.name == "mixed_bfloat16"
    assert network.classifier.bias.numpy() == pytest.approx([-6.9] * 5)
    assert network.name == "ViT-mu_4"


def test_names_are_the_published_variants_and_all_build():
    assert set(build.names()) == set(COUNTS)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("ViT-b/16", "did you mean ViT-B/16?"),
        ("vit-s/32", "did you mean ViT-S/32?"),
        ("ViT-B16", "did you mean ViT-B/16?"),
        ("ViT-X/16", "size one of mu, Ti, S, B, L, H"),
        ("ViT-B/0", "ViT-<size>/<patch>"),
        ("resnet50", "ViT-<size>/<patch>"),
        ("ViT-B/16\n", "ViT-<size>/<patch>"),
    ],
)
def test_an_unknown_variant_is_refused_in_one_line(variant, words):
    with pytest.raises(config.Refused) as refusal:
        build.build(config.Model(variant=variant), num_classes=2, image_size=32)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "patch", "near"),
    [(224, 15, "210, 225"), (384, 14, "378, 392"), (8, 16, "16"), (33, 32, "32, 64")],
)
def test_an_image_size_that_does_not_divide_names_its_neighbours(size, patch, near):
    with pytest.raises(config.Refused) as refusal:
        model = config.Model(variant=f"ViT-mu/{patch}")
        build.build(model, num_classes=2, image_size=size)
    message = str(refusal.value)
    assert message.endswith(f": {near}") and "\n" not in message
    assert f"image size {size}" in message and f"patch size {patch}" in message


def test_a_width_that_its_heads_do_not_divide_is_refused():
    with pytest.raises(config.Refused, match="width 32: .* num_heads 5"):
        build.build(
            config.Model(variant="ViT-mu/4", num_heads=5), num_classes=2, image_size=8
        )
