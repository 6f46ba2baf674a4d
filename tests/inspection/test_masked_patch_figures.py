"""Pictures of masked patches: what is in them, and when a run draws them."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.support import tiny
from vit_tf import errors
from vit_tf.evaluation import evaluators
from vit_tf.inspection import masked_patch_figures
from vit_tf.objectives import masked_patches


@pytest.fixture(scope="module")
def panels(masked, data_dir):
    return masked_patch_figures.of_run(
        str(masked), number=5, machine=tiny.one_device(), data_dir=data_dir
    )


def test_panels_differ_in_corrupted_patches_only(panels):
    assert list(panels) == ["image", "corrupted", "predicted", "target"]
    cut = {
        name: of.reshape(5, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5)
        for name, of in panels.items()
    }
    plan = masked_patches.corruption(masked_patches.fixed(tf.range(5), 4), 2)
    chosen = (plan.places.numpy() < 2).reshape(5, 2, 2)
    for name, of in cut.items():
        assert of.dtype == np.uint8
        np.testing.assert_array_equal(of[~chosen], cut["image"][~chosen], name)
    masked = plan.masked.numpy().reshape(5, 2, 2)
    assert masked.any() and (cut["corrupted"][masked] == 127).all()
    for patch, original in zip(cut["target"][chosen], cut["image"][chosen]):
        assert (patch == patch[0, 0]).all()  # one colour, the middle of its bin
        gap = np.abs(patch[0, 0] - original.mean(axis=(0, 1)))
        assert gap.max() <= 17
    assert {
        len(np.unique(p.reshape(-1, 3), axis=0)) for p in cut["predicted"][chosen]
    } == {1}


def test_panels_stand_side_by_side(panels):
    picture = masked_patch_figures.side_by_side(panels)
    cell = 96 + 2 * 2  # with a white edge
    assert picture.dtype == np.uint8 and picture.shape == (5 * cell, 4 * cell, 3)
    image = picture[cell + 2 : 2 * cell - 2 : 6, cell + 2 : 2 * cell - 2 : 6]
    np.testing.assert_array_equal(image, panels["corrupted"][1])
    assert (picture[::cell] == 255).all()


def test_a_run_draws_as_often_as_it_says_and_at_the_end(masked):
    name = "masked patches: image, corrupted, predicted, target"
    assert tiny.shown(masked / masked_patch_figures.FOLDER) == {
        (6, name): 1,
        (8, name): 1,
    }
    with tf.io.gfile.GFile(str(masked / masked_patch_figures.FILE), "rb") as file:
        drawn = tf.io.decode_png(file.read())
    assert drawn.shape == (8 * 100, 4 * 100, 3)


def test_nothing_is_drawn_of_classification_or_without_a_split():
    cfg = tiny.make(**tiny.MASKED)
    assert _due(cfg, masked=True) == [6, 8]
    cfg.evals.draw_every_steps = None
    assert _due(cfg, masked=True) == [8]
    assert _due(tiny.make(evals__draw_every_steps=2), masked=False) == []
    cfg.evals.splits = ()
    assert _due(cfg, masked=True) == []


def _due(cfg, *, masked):
    """The steps of nine after which a run draws masked patches."""
    kind = evaluators.MaskedPatches if masked else evaluators.Classification
    made = masked_patch_figures.draw_masked_patches(
        cfg, None, evaluator=object.__new__(kind), source=None, total_steps=8
    )
    return [step for step in range(9) if any(step in hook.when for hook in made)]


def test_what_has_no_masked_patches_is_refused(masked, evaluated, tmp_path):
    machine = tiny.one_device()
    with pytest.raises(errors.UserError, match="name a run that was"):
        masked_patch_figures.of_run(str(evaluated), number=1, machine=machine)
    alone = shutil.copy(masked / "weights.npz", tmp_path)  # beside no run
    with pytest.raises(errors.UserError, match="name a run's folder"):
        masked_patch_figures.of_run(alone, number=1, machine=machine)
