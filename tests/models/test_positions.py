"""Position embeddings: where they are added, how many, and what they start as."""

import numpy as np
import pytest

from tests.support import twins
from vit_tf.models import positions, vit


def test_sine_cosine_is_the_authors_formula():
    table = positions.sine_cosine_table(3, 8)
    assert table.shape == (9, 8)
    x, y = 2, 1  # row 1, column 2
    w = [1.0, 1e-4]
    want = [*np.sin(x * np.array(w)), *np.cos(x * np.array(w))]
    want += [*np.sin(y * np.array(w)), *np.cos(y * np.array(w))]
    np.testing.assert_allclose(table[y * 3 + x], want)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"positions": "nowhere"}, set()),
        ({"positions": "sincos2d"}, set()),
        ({}, {"posembed_input/pos_embedding"}),
        ({"positions_at": "shared"}, {"posembed_input/pos_embedding"}),
        (
            {"positions_at": "every"},
            {"posembed_input/pos_embedding", "posembed_1/pos_embedding"},
        ),
        (
            {"positions": "2d"},
            {f"posembed_input/{n}_embedding" for n in ("x", "y", "cls")},
        ),
        (
            {"positions": "2d", "pool": "gap"},
            {f"posembed_input/{n}_embedding" for n in ("x", "y")},
        ),
    ],
)
def test_which_tables_there_are(settings, names):
    network = twins.transformer(**settings)
    found = {w.path for w in network.weights if "embed" in w.path.split("/")[-2]}
    want = {f"twin/Transformer/{name}" for name in names}
    assert found - {"twin/embedding/kernel", "twin/embedding/bias"} == want
    for weight in network.weights:
        if weight.path in want and weight.shape[-2] > 1:
            assert 0.012 < weight.numpy().std() < 0.028


@pytest.mark.parametrize("positions_at", ["stem", "every", "shared"])
def test_a_bag_of_patches_has_no_order_and_positions_give_it_one(positions_at):
    def change(**settings):
        network = twins.filled(twins.transformer(pool="gap", **settings))
        images = twins.images(network)
        turned = images[:, :, ::-1].reshape(3, 16, 4, 4, 3)[:, :, :, ::-1]
        turned = turned.reshape(images.shape)  # patches mirrored, insides as before
        return np.abs(network(images) - network(turned)).max()

    assert change(positions="nowhere") < 1e-4
    assert change(positions="1d", positions_at=positions_at) > 1e-3


def test_the_first_table_of_every_layer_stands_at_the_stem():
    """So no token gets two at once, and 'every' begins as 'stem' does."""
    network = twins.filled(twins.transformer(positions_at="every"))
    record = {}
    network(twins.images(network), record=record)
    table = network.positions[0].pos_embedding
    plain = record[vit.POSITIONED][:, 1:] - table[:, 1:]
    np.testing.assert_allclose(plain, record[vit.PATCHES], atol=1e-5)
    assert len(network.positions) == network.depth
