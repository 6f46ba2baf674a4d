"""Figures drawn while a model trains: they are there, and change nothing."""

import pathlib
import shutil

import numpy as np
import pytest

from tests.support import tiny
from vit_tf import errors
from vit_tf.inspection import figures, training_hooks
from vit_tf.studies import training

DRAWN = {"filters", "position", "distance", "entropy", "rollout", "layers"}
RUN = {"train__length": 8, "optim__polyak": 0.5, "model__dropout": 0.1}


def _train(folder, data_dir, machine=None, **changes):
    cfg = tiny.make(**RUN, **changes)
    training.train(
        cfg, str(folder), machine=machine or tiny.one_device(), data_dir=data_dir
    )
    return pathlib.Path(folder)


@pytest.fixture(scope="module")
def drawn(once, data_dir):
    """A run that drew after steps 4 and 8, which is its last; for reading."""
    return once("drawn", lambda f: _train(f, data_dir, evals__draw_every_steps=4))


def _arrays(folder, step, name):
    home = folder / training_hooks.FOLDER / f"step_{step:08d}"
    with np.load(home / f"{name}.npz") as arrays:
        return dict(arrays)


def test_figures_are_written_every_k_steps(drawn):
    homes = sorted((drawn / training_hooks.FOLDER).glob("step_*"))
    assert [home.name for home in homes] == ["step_00000004", "step_00000008"]
    for home in homes:
        names = {path.name for path in home.iterdir()}
        assert names == {f"{n}.{k}" for n in DRAWN for k in ("png", "svg", "npz")}
    assert tiny.shown(drawn / training_hooks.FOLDER) == {
        (step, name): 1 for step in (4, 8) for name in DRAWN
    }
    early, late = (_arrays(drawn, s, "position")["cosine_similarity"] for s in (4, 8))
    assert np.abs(early - late).max() > 1e-4, "the model has learned meanwhile"
    assert _arrays(drawn, 4, "rollout")["rollout"].shape == (8, 2, 2)
    assert set(figures.NAMES) == DRAWN | {"probes"}


def test_drawing_changes_no_number_of_a_run(drawn, tmp_path, data_dir):
    plain = _train(tmp_path / "plain", data_dir)
    ours, theirs = tiny.newest_state(drawn), tiny.newest_state(plain)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert tiny.rows(drawn) == tiny.rows(plain)
    assert not (plain / training_hooks.FOLDER).exists()


@pytest.mark.slow
def test_a_resumed_run_draws_the_same_again(drawn, tmp_path, data_dir):
    cut = tmp_path / "cut"
    shutil.copytree(drawn, cut)
    for path in (cut / "result.json", cut / "checkpoints" / "step_00000008"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = _arrays(cut, 8, "distance")  # drawn after the checkpoint that is left
    _train(cut, data_dir, evals__draw_every_steps=4)
    after = _arrays(cut, 8, "distance")
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert tiny.shown(cut / training_hooks.FOLDER) == tiny.shown(
        drawn / training_hooks.FOLDER
    ), "no picture twice"


def test_figures_are_of_the_average(drawn):
    """As evaluations: what is drawn is what the run leaves."""
    with np.load(drawn / "weights.npz") as weights:
        table = weights["Transformer/posembed_input/pos_embedding"][0, 1:]
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    got = _arrays(drawn, 8, "position")["cosine_similarity"]
    np.testing.assert_allclose(got, table @ table.T, atol=1e-5)


@pytest.mark.slow
def test_replicas_and_bfloat16_draw_too(tmp_path, data_dir):
    found = _train(
        tmp_path,
        data_dir,
        machine=tiny.mirrored(2),
        evals__draw_every_steps=8,
        train__precision="mixed_bfloat16",
    )
    distance = _arrays(found, 8, "distance")["distance_pixels"]
    assert np.isfinite(distance).all() and (distance > 0).all()


def test_without_a_split_there_is_nothing_to_draw(tmp_path, data_dir):
    with pytest.raises(errors.UserError, match="draw_every_steps=3: draws images of"):
        _train(tmp_path, data_dir, evals__draw_every_steps=3, evals__splits="")
