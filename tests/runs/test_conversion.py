"""Weights through `tools.convert`: layouts, heads, resolutions, and clear refusals."""

import numpy as np
import pytest

from tests.support import reference_vit, tiny, twins, warm
from vit_tf import config, errors
from vit_tf.models import build, npz_weights
from vit_tf.runs import conversion
from vit_tf.studies import training


def _network(size=16, **fields):
    model = config.Model(**{"variant": "ViT-mu/4", "depth": 1, **fields})
    return twins.filled(build.build(model, num_classes=5, image_size=size))


@pytest.fixture
def source(tmp_path):
    network = _network(pre_logits=True)
    npz_weights.save_released(network, tmp_path / "source.npz")
    return network, str(tmp_path / "source.npz")


def _read(path):
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_there_and_back_again_bit_for_bit(source, tmp_path):
    network, path = source
    there, back = str(tmp_path / "there.npz"), str(tmp_path / "back.npz")
    lines = conversion.convert(path, there, layout="big_vision")
    assert f"{len(network.weights)} arrays" in lines[0]
    assert (
        lines[-1]
        == f"{there}: {len(network.weights)} arrays written, layout big_vision"
    )
    assert all(name.startswith("params/") for name in _read(there))
    conversion.convert(there, back)
    conversion.convert(back, there, layout="big_vision")
    conversion.convert(there, str(tmp_path / "again.npz"))
    first, second = _read(back), _read(tmp_path / "again.npz")
    assert first.keys() == npz_weights.released(network).keys()
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name
    images = twins.images(network)
    want = reference_vit.forward(first, images)["logits"]
    twins.close(network(images), want, 2e-5)


def test_released_to_released_changes_no_bit(source, tmp_path):
    network, path = source
    conversion.convert(path, str(tmp_path / "out.npz"))
    for name, array in _read(tmp_path / "out.npz").items():
        assert array.tobytes() == npz_weights.released(network)[name].tobytes(), name


def test_a_dropped_head_is_gone(source, tmp_path):
    _, path = source
    lines = conversion.convert(path, str(tmp_path / "out.npz"), keep_head=False)
    assert "head: 4 arrays dropped" in lines
    assert not [n for n in _read(tmp_path / "out.npz") if n.startswith(("head", "pre"))]


def test_another_resolution(tmp_path):
    network = twins.filled(
        build.build(config.Model(variant="ViT-mu/4"), num_classes=5, image_size=16)
    )
    npz_weights.save_released(network, tmp_path / "a.npz")
    lines = conversion.convert(
        str(tmp_path / "a.npz"),
        str(tmp_path / "b.npz"),
        variant="ViT-mu/4",
        image_size=24,
    )
    assert "fits ViT-mu/4 at 24 pixels" in lines
    assert "position embeddings: resized from 4x4 to 6x6" in lines
    name = "Transformer/posembed_input/pos_embedding"
    before, after = _read(tmp_path / "a.npz"), _read(tmp_path / "b.npz")
    np.testing.assert_array_equal(
        after[name], npz_weights.resize_positions(before[name], 37)
    )


@pytest.mark.parametrize("kind", ["map", "2d", "gap+sincos2d", "token"])
def test_the_model_is_recognised_by_its_arrays(kind, tmp_path):
    sizes = {"depth": 1, "mlp_dim": 128, "num_heads": 2}
    npz_weights.save_released(
        twins.filled(twins.TWINS[kind](size=224, **sizes)), tmp_path / "a.npz"
    )
    lines = conversion.convert(
        str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), variant="ViT-mu/4"
    )
    assert "fits ViT-mu/4 at 224 pixels" in lines
    for name, array in _read(tmp_path / "a.npz").items():
        assert array.tobytes() == _read(tmp_path / "b.npz")[name].tobytes(), name


def test_the_wrong_variant_is_refused_and_nothing_is_written(source, tmp_path):
    _, path = source
    with pytest.raises(errors.UserError, match="do not fit"):
        conversion.convert(path, str(tmp_path / "out.npz"), variant="ViT-Ti/16")
    assert not (tmp_path / "out.npz").exists()


def test_a_resnet_is_no_vit(source, tmp_path):
    _, path = source
    with pytest.raises(
        errors.UserError, match="do not fit R50x1: .* missing in the fi"
    ):
        conversion.convert(path, str(tmp_path / "out.npz"), variant="R50x1")
    npz_weights.save_released(twins.filled(twins.resnet()), tmp_path / "bit.npz")
    bit = str(tmp_path / "bit.npz")
    with pytest.raises(errors.UserError, match="in the released layout"):
        conversion.convert(bit, str(tmp_path / "out.npz"), layout="big_vision")


def test_a_failed_write_leaves_nothing(source, tmp_path):
    _, path = source
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.UserError, match="cannot write"):
        conversion.convert(path, str(tmp_path / "folder"))
    with pytest.raises(errors.UserError, match="no such folder; make it first"):
        conversion.convert(path, str(tmp_path / "nowhere" / "out.npz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "source.npz"]


def test_a_run_folder_is_read(tmp_path, data_dir):
    cfg = tiny.make(train__length=2, optim__warmup_steps=0)
    training.train(
        cfg, str(tmp_path / "run"), machine=tiny.one_device(), data_dir=data_dir
    )
    conversion.convert(str(tmp_path / "run"), str(tmp_path / "out.npz"))
    want = _read(tmp_path / "run" / "weights.npz")
    for name, array in _read(tmp_path / "out.npz").items():
        assert array.tobytes() == want[name].tobytes()


def _run(*arguments, tool="tools.convert"):
    return warm.run("-m", tool, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from=nowhere.npz", "--to=x.npz"], "nowhere.npz: no such file"),
        (
            ["--from=s3://bucket/x.npz", "--to=x.npz"],
            "s3://bucket/x.npz: cannot be read",
        ),
        (["--from=README.md", "--to=x.npz"], "not an .npz"),
        (["--from=tests", "--to=x.npz"], "no finished run there"),
        (["--from=a.npz", "--to=b.npz", "--image_size=384"], "needs --variant"),
        (["--from=a.npz"], "--to must have a value"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = _run(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.strip().count("\n") == 0


def test_the_command_prints_what_it_did(source, tmp_path):
    _, path = source
    done = _run(f"--from={path}", f"--to={tmp_path / 'out.npz'}", "--head=drop")
    assert done.returncode == 0, done.stderr
    assert "head: 4 arrays dropped" in done.stdout and "written" in done.stdout


def test_the_list_of_models():
    done = _run("--list", tool="tools.benchmark")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[1:-1]} == set(build.names())
    (row,) = [line for line in lines if line.startswith("ViT-B/16 ")]
    assert row.split()[1:4] == ["86,567,656", "197", "17.56"]
    assert "AugReg" in row
