"""A tiny twin of every kind of network, and weights that leave no array idle."""

import numpy as np

from vit_tf.models import bit, vit

SIZES = {"width": 32, "depth": 2, "mlp_dim": 48, "num_heads": 4}


def transformer(*, size=16, classes=5, **settings):
    """A ViT with patches of 4, unless the settings say otherwise."""
    return vit.VisionTransformer(
        **{"patch_size": 4, "name": "twin", **SIZES, **settings},
        num_classes=classes,
        image_size=size,
    )


def hybrid(*, size=32, stem=(1, 2), **settings):
    return transformer(size=size, stem=stem, **{"patch_size": 1, **settings})


def resnet(*, size=40, classes=5, counts=(1, 2), **settings):
    return bit.BiT(
        **{"width_factor": 1, "name": "twin", **settings},
        counts=counts,
        num_classes=classes,
        image_size=size,
    )


# Every architecture and every kind of token, position and pool, each once.
TWINS = {
    "token": lambda **s: transformer(pre_logits=True, **s),
    "gap+sincos2d": lambda **s: transformer(pool="gap", positions="sincos2d", **s),
    "map": lambda **s: transformer(pool="map", **s),
    "unpooled": lambda **s: transformer(pool="unpooled", positions="nowhere", **s),
    "token_unpooled": lambda **s: transformer(pool="token_unpooled", **s),
    "2d": lambda **s: transformer(positions="2d", **s),
    "relative": lambda **s: transformer(positions="relative", **s),
    "every": lambda **s: transformer(positions_at="every", **s),
    "shared": lambda **s: transformer(positions_at="shared", pool="gap", **s),
    "2d@every": lambda **s: transformer(positions="2d", positions_at="every", **s),
    "hybrid": hybrid,
    "root": lambda **s: hybrid(stem=(), patch_size=2, **s),
    "axial": lambda **s: transformer(axial=True, pool="gap", **s),
    "resnet": resnet,
    "axial_resnet": lambda **s: resnet(size=24, axial=True, counts=(1, 1), **s),
}

# What reference_vit.forward cannot see in the arrays.
UNSEEN = {
    "gap+sincos2d": {"sincos": True},
    "unpooled": {"pool": "unpooled"},
    "token_unpooled": {"pool": "unpooled"},
    "shared": {"shared": True},
    "axial": {"axial": True},
}


def filled(network, seed=0, scale=0.2):
    """No weight stays zero, so that every array takes part."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        weight.assign(rng.standard_normal(weight.shape) * scale)
    return network


def images(network, batch=3, seed=9):
    size = network.image_size
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (batch, size, size, 3)).astype("float32")


def close(got, want, tolerance=1e-5):
    """To `tolerance` of the largest value."""
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * abs(want).max())
