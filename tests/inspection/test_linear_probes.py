"""Linear probes: what each layer knows, by the closed form of ridge.py."""

import dataclasses

import numpy as np
import pytest

from tests.support import tiny, twins
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    labels,
)
from vit_tf.evaluation import ridge_regression
from vit_tf.inspection import image_sets, linear_probes
from vit_tf.models import vit

DATA = config.Data(image_size=16)


def _probe(model, source, **changes):
    return linear_probes.probe(
        model,
        source,
        DATA,
        splits=("train", "test"),
        machine=tiny.one_device(),
        **{"max_images": 150, **changes},
    )


def _block(model, source, split, keep):
    """Class tokens of block 0 and labels, image by image."""
    stream = evaluation_stream.stream(
        source, DATA, split, batch_size=len(keep), keep=keep
    )
    (batch,) = stream
    record = {}
    model(batch["image"], training=False, record=record)
    return np.asarray(record[vit.BLOCK.format(0)])[:, 0], batch["label"].numpy()


def test_a_probe_is_ridge_regression_on_a_layer(data_dir):
    model = twins.filled(twins.transformer(classes=10), scale=0.3)
    source = catalog.open_source("digits", data_dir)
    got = _probe(model, source)
    assert got.accuracy.shape == got.l2.shape == (model.num_blocks + 2,)
    assert (got.train, got.test) == (150, 150)
    known, asked = (
        _block(model, source, s, image_sets.choose(source.num_examples(s), 150))
        for s in ("train", "test")
    )
    solved = ridge_regression.Ridge(*known, num_classes=10)
    told = {
        l2: (solved.leave_one_out(l2).argmax(1) == known[1]).mean()
        for l2 in linear_probes.L2S
    }
    assert told[got.l2[1]] == max(told.values())
    right = solved.predict(asked[0], [got.l2[1]])[0] == asked[1]
    assert got.accuracy[1] == pytest.approx(right.mean())
    assert got.accuracy.max() > 2 * got.chance, "random features tell digits apart"
    assert got.chance == np.bincount(asked[1]).max() / 150


def test_several_labels_are_refused(data_dir):
    source = catalog.open_source("digits", data_dir)
    spec = dataclasses.replace(source.spec, label=labels.multi_hot("label", 10))
    source = dataclasses.replace(source, spec=spec)
    with pytest.raises(errors.UserError, match="several labels"):
        _probe(twins.transformer(classes=10), source)
    with pytest.raises(errors.UserError, match="a ResNet has no tokens"):
        _probe(twins.TWINS["resnet"](), source)
