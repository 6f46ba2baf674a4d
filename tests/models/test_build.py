"""Exact parameter counts of every variant, and clear words for wrong sizes."""

import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_tf import config, config_values, errors
from vit_tf.models import build

# At 224 pixels, 1000 classes, no pre_logits: released models as in vit_jax's
# models_test.py; ResNets and hybrids never released are counted from their sizes.
COUNTS = {
    "ViT-Ti/16": 5_717_416,
    "ViT-S/32": 22_878_952,
    "ViT-S/16": 22_050_664,
    "ViT-b/32": 22_878_952,  # Figure 4's; heads of 64, our choice, make it S/32
    "ViT-B/32": 88_224_232,
    "ViT-B/16": 86_567_656,
    "ViT-B/8": 86_576_872,
    "ViT-L/32": 306_535_400,
    "ViT-L/16": 304_326_632,
    "ViT-H/14": 632_045_800,
    "R+ViT-Ti/16": 6_337_704,
    "R26+ViT-S/32": 36_431_912,
    "R26+ViT-B/32": 101_383_976,
    "R50+ViT-B/16": 98_659_112,
    "R50+ViT-B/32": 110_945_832,
    "R50+ViT-L/16": 316_483_624,
    "R50+ViT-L/32": 328_994_856,
    "R50x1": 25_549_352,
    "R50x2": 97_988_712,
    "R50x3": 217_319_080,
    "R101x1": 44_541_480,
    "R101x3": 387_934_888,
    "R152x1": 60_185_128,
    "R152x2": 236_335_208,
    "R152x4": 936_533_224,
    "R200x3": 568_633_000,
}
# Nobody published a count. Held against the closed form below.
UNPUBLISHED = {
    "ViT-M/32": {"width": 512, "mlp_dim": 2048, "depth": 12},
    "ViT-M/16": {"width": 512, "mlp_dim": 2048, "depth": 12},
    "ViT-So400m/14": {"width": 1152, "mlp_dim": 4304, "depth": 27},
    "ViT-g/14": {"width": 1408, "mlp_dim": 6144, "depth": 40},
    "ViT-G/14": {"width": 1664, "mlp_dim": 8192, "depth": 48},
    "Axial-ViT-B/32": {"width": 768, "mlp_dim": 3072, "depth": 24, "pool": "gap"},
    "Axial-ViT-B/16": {"width": 768, "mlp_dim": 3072, "depth": 24, "pool": "gap"},
}
GAP_COUNTS = {
    "ViT-S/16": 22_049_896,
    "ViT-S/32": 22_878_184,
    "ViT-B/16": 86_566_120,
    "ViT-B/32": 88_222_696,
}
# ImageNet-21k's 21,843 classes, computed from the sizes.
RESNET_21K_COUNTS = {
    "R50x1": 68_256_659,
    "R50x2": 183_382_483,
    "R50x3": 345_399_315,
    "R101x1": 87_248_787,
    "R101x3": 516_015_123,
    "R152x2": 321_728_979,
    "R152x4": 1_107_299_923,
}
BACKBONE_COUNTS = {
    "ViT-Ti/16": 5_524_416,
    "ViT-S/16": 21_665_664,
    "ViT-B/32": 87_455_232,
    "ViT-B/16": 85_798_656,
    "ViT-L/32": 305_510_400,
    "ViT-L/16": 303_301_632,
    "ViT-H/14": 630_764_800,
    "ViT-g/14": 1_011_202_432,
    "ViT-G/14": 1_842_775_680,
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
    network = build.outline(model, num_classes=num_classes, image_size=image_size)
    return sum(math.prod(weight.shape) for weight in network.weights)


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts(variant):
    assert _count(config.Model(variant=variant)) == COUNTS[variant]


@pytest.mark.parametrize("variant", UNPUBLISHED)
def test_parameter_counts_that_nobody_published(variant):
    model = config.Model(**({"pool": "token"} | UNPUBLISHED[variant]))
    patch = int(variant.rsplit("/", 1)[1])
    want = _closed_form(model, patch, 1000, 224)
    assert _count(config.Model(variant=variant)) == want


def test_an_axial_resnet_has_the_count_of_its_parts():
    """R50x1 with the 3 x 3 kernels taken out and two axes of attention put in."""
    want, length = COUNTS["R50x1"], 56
    for stage, units in enumerate((3, 4, 6, 3)):
        f = 64 * 2**stage
        for unit in range(units):
            queries, values = f // 16, f // 8  # of each of the eight heads
            kernels = 2 * f * f  # queries f/2, keys f/2, values f
            offsets = (2 * length - 1) * (2 * queries + values)
            want += 2 * (kernels + offsets + 2 * f) - 9 * f * f
            if stage and not unit:
                length //= 2
    assert _count(config.Model(variant="AxialResNet50")) == want


@pytest.mark.parametrize("variant", RESNET_21K_COUNTS)
def test_parameter_counts_of_resnets_with_the_classes_of_imagenet_21k(variant):
    model = config.Model(variant=variant)
    assert _count(model, num_classes=21_843) == RESNET_21K_COUNTS[variant]


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


@pytest.mark.parametrize(("pool", "count"), [("token", 21_390), ("unpooled", 21_370)])
def test_the_authors_testing_models(pool, count):
    model = config.Model(
        variant="ViT-mu/16", width=10, mlp_dim=10, num_heads=2, depth=1, pool=pool
    )
    network = build.build(model, num_classes=1000, image_size=224)
    assert network.count_params() == count


@pytest.mark.slow
def test_the_largest_variant_is_really_made():
    network = build.build(
        config.Model(variant="ViT-H/14"), num_classes=1000, image_size=224
    )
    assert network.count_params() == COUNTS["ViT-H/14"]


def _closed_form(model, patch, classes, size):
    """What the sizes in `model` add up to."""
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
    pool=st.sampled_from([config.Pool.TOKEN, config.Pool.GAP]),
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
        pool=config.Pool.MAP,
        positions=config.Positions.LEARNED_2D,
        positions_at=config.PositionsAt.EVERY,
        pre_logits=True,
        head_bias=-6.9,
        dropout=0.1,
        attention_dropout=0.2,
        stochastic_depth=0.3,
        stochastic_depth_rescale=False,
        remat=True,
    )
    network = build.build(model, num_classes=5, image_size=8, dtype="mixed_bfloat16")
    got = network.get_config()
    plain = config_values.fields(config.Model())
    for name, value in config_values.fields(model).items():
        if name != "variant":
            assert got[name] == value != plain[name], name
    assert (got["num_classes"], got["image_size"], got["patch_size"]) == (5, 8, 4)
    assert network.dtype_policy.name == "mixed_bfloat16"
    assert network.classifier.bias.numpy() == pytest.approx([-6.9] * 5)
    assert network.name == "ViT-mu_4"


def test_each_family_takes_its_own_pool():
    pools = {
        "ViT-mu/4": "token",
        "R+ViT-mu/16": "token",
        "Axial-ViT-mu/4": "gap",
    }
    for variant, pool in pools.items():
        network = build.build(
            config.Model(variant=variant), num_classes=2, image_size=32
        )
        assert network.get_config()["pool"] == pool


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dropout", 0.1),
        ("pool", "token"),
        ("pre_logits", True),
        ("depth", 3),
        ("positions", "2d"),
        ("stochastic_depth", 0.1),
    ],
)
def test_what_a_resnet_does_not_have_is_refused(field, value):
    model = config.Model(variant="R50x1", **{field: value})
    with pytest.raises(errors.UserError, match=f"model.{field}=.*R50x1 is a ResNet"):
        build.build(model, num_classes=2, image_size=64)


def test_a_narrow_resnet_is_a_wide_one_of_another_root():
    """R14x2 and R14x1 with a root of 128 are one network; half the root, a quarter."""
    twice, same, half = (
        build.outline(config.Model(**sizes), num_classes=0, image_size=32)
        for sizes in (
            {"variant": "R14x2"},
            {"variant": "R14x1", "width": 128},
            {"variant": "R14x1"},
        )
    )
    assert [w.shape for w in twice.weights] == [w.shape for w in same.weights]
    kernels = [w for w in twice.weights if len(w.shape) == 4][1:]  # not the root's
    halves = [w for w in half.weights if len(w.shape) == 4][1:]
    assert [math.prod(w.shape) for w in kernels] == [
        4 * math.prod(w.shape) for w in halves
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"variant": "Axial-ViT-mu/4", "pool": "token"}, "use pool=gap"),
        ({"variant": "Axial-ViT-mu/4", "positions": "relative"}, "one row or column"),
        ({"positions": "nowhere", "positions_at": "every"}, "leave positions_at=stem"),
        ({"positions": "relative", "positions_at": "shared"}, "positions_at=stem"),
        ({"positions": "2d", "width": 15, "num_heads": 3}, "must be even"),
        ({"positions": "sincos2d", "width": 18, "num_heads": 3}, "multiple of 4"),
        ({"variant": "R14x1", "width": 48}, "width=48: .* a multiple of 32"),
        ({"variant": "AxialResNet50", "width": 32}, "model.width=32: .* no such part"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(fields, words):
    model = config.Model(**{"variant": "ViT-mu/4", **fields})
    with pytest.raises(errors.UserError, match=words) as refusal:
        build.build(model, num_classes=2, image_size=16)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variant", "size", "words"),
    [
        ("ViT-B/32", 20, "nearest that are: 32"),
        ("R50+ViT-B/16", 100, "total stride 16; the nearest that are: 96, 112"),
        ("R50+ViT-B/32", 16, "total stride 32; the nearest that are: 32"),
        ("R+ViT-Ti/16", 48, "total stride 32; the nearest that are: 32, 64"),
        ("R50x1", 16, "smaller than the 32 pixels"),
    ],
)
def test_an_image_too_small_or_between_sizes_is_refused(variant, size, words):
    with pytest.raises(errors.UserError, match=words):
        _count(config.Model(variant=variant), image_size=size)


def test_every_registered_variant_has_its_count_above():
    assert set(build.names()) == {*COUNTS, *UNPUBLISHED, "AxialResNet50"}


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("ViT-b/16", "did you mean ViT-B/16?"),
        ("R50+ViT-B/8", "did you mean R50+ViT-B/"),
        ("R50-ViT-L/16", "did you mean R50+ViT-L/16?"),
        ("R101+ViT-B/16", "did you mean R50+ViT-B/16?"),
        ("R51x1", "did you mean R50x1?"),
        ("r50x1", "did you mean R50x1?"),
        ("R50x0", "did you mean R50x"),
        ("AxialViT-B/32", "did you mean Axial-ViT-B/32?"),
        ("R50+Axial-ViT-B/16", "did you mean"),
        ("vit-s/32", "did you mean ViT-S/32?"),
        ("ViT-B16", "did you mean ViT-B/16?"),
        ("ViT-X/16", "size one of mu, Ti, S, b, M, B, L, So400m, H, g, G"),
        ("ViT-B/0", "ViT-<size>/<patch>"),
        ("resnet50", "ViT-<size>/<patch>"),
        ("ViT-B/16\n", "ViT-<size>/<patch>"),
    ],
)
def test_an_unknown_variant_is_refused_in_one_line(variant, words):
    with pytest.raises(errors.UserError) as refusal:
        build.build(config.Model(variant=variant), num_classes=2, image_size=32)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "patch", "near"),
    [(224, 15, "210, 225"), (384, 14, "378, 392"), (8, 16, "16"), (33, 32, "32, 64")],
)
def test_an_image_size_that_does_not_divide_names_its_neighbours(size, patch, near):
    with pytest.raises(errors.UserError) as refusal:
        model = config.Model(variant=f"ViT-mu/{patch}")
        build.build(model, num_classes=2, image_size=size)
    message = str(refusal.value)
    assert message.endswith(f": {near}") and "\n" not in message
    assert f"image size {size}" in message and f"patch size {patch}" in message


def test_a_width_that_its_heads_do_not_divide_is_refused():
    with pytest.raises(errors.UserError, match="width 32: .* num_heads 5"):
        build.build(
            config.Model(variant="ViT-mu/4", num_heads=5), num_classes=2, image_size=8
        )


def test_an_outline_is_never_allocated():
    """Not even by a later symbolic call, which makes what Keras has waiting."""
    network = build.outline(
        config.Model(variant="ViT-mu/4"), num_classes=2, image_size=8
    )
    small = build.build(config.Model(variant="ViT-mu/4"), num_classes=2, image_size=8)
    keras.Model(inputs := keras.Input((8, 8, 3)), small(inputs))
    assert small.weights[0]._value is not None
    assert all(weight._value is None for weight in network.weights)
