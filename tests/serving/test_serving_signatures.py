"""What a graph stores, and in which dtype; what `export` compares is not tested again."""

import pytest

from tests.support import twins
from vit_tf import config, errors
from vit_tf.runs import loading
from vit_tf.serving import fused_encoder, serving_signatures


@pytest.mark.parametrize("kind", ["token", "map", "hybrid", "resnet", "axial"])
def test_every_variable_has_the_dtype_that_it_is_read_in(kind):
    """Keras' own names, which `served._dtypes` uses, mean what they did."""
    model = twins.TWINS[kind](dtype="mixed_bfloat16")
    dtypes = {
        v.path: serving_signatures.read_dtypes(model)[id(v)] for v in model.variables
    }
    # Standardised convolutions and their norms work in float32.
    low = set() if kind == "resnet" else {"bfloat16"}
    assert set(dtypes.values()) == {"float32"} | low
    for path, dtype in dtypes.items():
        whole = any(
            part in path for part in ("/head/", "pre_logits", "MAPHead", "Norm")
        )
        if whole:
            assert dtype == "float32", path
        elif "encoderblock" in path or "/embedding/" in path:
            assert dtype == "bfloat16", path


def _opened(model):
    return loading.LoadedModel(
        network=model,
        model=config.Model(variant="ViT-Ti/16"),
        image_size=model.image_size,
        class_names=None,
        data=None,
        objective=None,
        lines=(),
    )


def test_weights_that_a_graph_cannot_hold_stay_variables(monkeypatch, tmp_path):
    """Those of the encoder count twice where attention reads them beside."""
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    opened = _opened(twins.TWINS["token"]())
    size = 4 * opened.network.count_params()
    for attention, limit, fits in (
        (False, size, True),
        (False, size - 1, False),
        (True, size, False),
        (True, 2 * size, True),
    ):
        monkeypatch.setattr(serving_signatures, "MAX_CONSTANT_BYTES", limit)
        options = serving_signatures.Options(attention=attention)
        assert (
            serving_signatures.ServedModel(opened, options, str(labels)).as_constants
            == fits
        )
        forced = serving_signatures.Options(
            attention=attention, weights=serving_signatures.Weights.CONSTANTS
        )
        if not fits:
            with pytest.raises(errors.UserError, match="use weights=variables"):
                serving_signatures.ServedModel(opened, forced, str(labels))


def test_what_has_no_such_answer_is_refused(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    with pytest.raises(errors.UserError, match="gives logits for every token"):
        serving_signatures.ServedModel(
            _opened(twins.TWINS["unpooled"]()),
            serving_signatures.Options(),
            str(labels),
        )
    resnet = _opened(twins.TWINS["resnet"]())
    found = serving_signatures.ServedModel(
        resnet, serving_signatures.Options(attention=True), str(labels)
    )
    with pytest.raises(errors.UserError, match="attends to nothing"):
        found.signatures()


@pytest.mark.parametrize("kind", sorted(twins.TWINS))
def test_only_plain_encoders_are_fused(kind):
    plain = {"token", "gap+sincos2d", "map", "unpooled", "token_unpooled", "2d"}
    plain |= {"hybrid", "root"}
    assert fused_encoder.fits(twins.TWINS[kind]()) == (kind in plain)
