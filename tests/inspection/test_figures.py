"""Every figure that a model can have is drawn with its numbers; the others say why."""

import numpy as np
import pytest

from tests.support import tiny, twins
from vit_tf import errors
from vit_tf.inspection import figures, image_sets, inspector, linear_probes, measures


def _subject(name, number=5, **changes):
    model = twins.filled(twins.TWINS[name]())
    pixels = twins.images(model, batch=number)
    shown = image_sets.Gallery(pixels, ("photo",) * number, None, "places", number)
    return inspector.Inspector(model, name, shown, **changes)


def _outcome(seen):
    """The figures by name, and what is said of the others."""
    found = list(figures.draw_all(seen))
    drawn = {f.name: f for f in found if isinstance(f, figures.Figure)}
    return drawn, [str(f) for f in found if isinstance(f, errors.UserError)]


def test_all_figures_of_a_model_with_their_arrays(tmp_path):
    probes = linear_probes.Probes(np.full(4, 0.5), np.ones(4), 30, 20, 0.1)
    seen = _subject("hybrid", probe=lambda: probes)
    drawn, refused = _outcome(seen)
    assert not refused and tuple(drawn) == figures.NAMES
    model = seen.network
    want = {
        "filters": ("components", (28, 7, 7, 3)),
        "position": ("cosine_similarity", (model.grid**2,) * 2),
        "distance": ("distance_pixels", (model.num_blocks, model.num_heads)),
        "entropy": ("entropy_nats_of_images", (5, model.num_blocks, model.num_heads)),
        "rollout": ("rollout", (5, model.grid, model.grid)),
        "layers": ("linear_cka", (model.num_blocks + 1,) * 2),
        "probes": ("accuracy", (4,)),
    }
    for name, (key, shape) in want.items():
        paths = drawn[name].write(str(tmp_path / "deep"))
        assert [path.rsplit(".", 1)[1] for path in paths] == ["png", "svg", "npz"]
        with np.load(tmp_path / "deep" / f"{name}.npz") as arrays:
            assert arrays[key].shape == shape, name
    weights = measures.attention_weights(model, seen.images.pixels)
    np.testing.assert_allclose(
        drawn["distance"].arrays["distance_pixels"],
        measures.mean_attention_distance(weights, patch_size=model.token_stride),
        rtol=1e-4,
    )
    assert model.token_stride > model.patch_size, "of a hybrid, in pixels of the image"


def test_a_reference_line_is_uniform_attention():
    axes = figures.draw(_subject("gap+sincos2d"), "entropy").drawing.axes[0]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(np.log(16))


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("token", "the class token"),
        ("token_unpooled", "the class token"),
        ("gap+sincos2d", "the output (mean of all tokens)"),
        ("map", "the mean of all tokens"),
        ("unpooled", "the mean of all tokens"),
    ],
)
def test_a_rollout_says_whose_attention_it_is(name, reader):
    seen = _subject(name, number=1)
    assert measures.rollout_reader(seen.network) == reader
    title = figures.draw(seen, "rollout").drawing.axes[0].get_title()
    # In one line or two, as the figure is wide.
    words = " ".join(title.split())
    assert f"{name}: attention from {reader} to the input" in words


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("resnet", {"position", "distance", "entropy", "rollout", "layers", "probes"}),
        ("relative", {"position", "probes"}),
        ("unpooled", {"position", "probes"}),
    ],
)
def test_what_a_model_cannot_have_is_said(name, missing):
    drawn, refused = _outcome(_subject(name))
    assert {line.split(":")[0] for line in refused} == missing
    assert set(drawn) == set(figures.NAMES) - missing


def test_one_image_and_none():
    drawn, refused = _outcome(_subject("token", number=1))
    assert "layers: comparing layers needs 4 images or more, got 1" in refused
    assert "rollout" in drawn
    seen = inspector.Inspector(twins.TWINS["token"](), "name")
    drawn, refused = _outcome(seen)
    assert set(drawn) == {"filters", "position"}
    assert "rollout: needs images: name them with --images" in refused


def test_captions_say_what_the_model_tells(evaluated, data_dir):
    seen = inspector.open_stored(
        str(evaluated),
        images="digits",
        machine=tiny.one_device(),
        max_images=9,
        data_dir=data_dir,
    )
    for caption, row, label in zip(
        figures.captions(seen), seen.probabilities, seen.images.labels
    ):
        told = str(row.argmax())
        assert caption.split()[0] == told
        assert ("(is " in caption) == (told != str(label))
    assert figures.captions(_subject("unpooled")) == ["photo"] * 5
