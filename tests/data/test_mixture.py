"""Several sets in one stream: exact shares, pure in (seed, step), clear refusals."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support import tiny
from vit_tf import config, errors
from vit_tf.data import mixture, pipeline
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders
from vit_tf.training import loop, setup

# Grey levels by which a picture tells its set; the sets have 6 + 6, 3 + 3 and 2 + 2
# pictures in their two classes.
LEVELS = {"night": 20, "dusk": 120, "noon": 220}
SIZES = {"night": 6, "dusk": 3, "noon": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    for name, level in LEVELS.items():
        _prepare(root, name, level, SIZES[name], ("a", "b"))
    _prepare(root, "other", 0, 2, ("a", "c"))
    return str(root)


def _prepare(root, name, level, size, classes):
    for part in ("train", "test"):
        for kind in classes:
            for number in range(size):
                path = root / name / part / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                Image.fromarray(np.full((8, 8, 3), level + number, np.uint8)).save(
                    file, "png"
                )
                path.write_bytes(file.getvalue())
    listing = image_folders.list_folder(str(root / name))
    chosen = image_folder.FolderConfig(name=name, listing=listing)
    image_folder.ImageFolder(config=chosen, data_dir=root).download_and_prepare()


def _data(**changes):
    return config.Data(
        **{"image_size": 8, "batch_size": 12, "crop": "resize", "flip": False} | changes
    )


def _sets(mix, data, number, **options):
    """Which set each row of the first batches is of, and its row: (batches, rows)."""
    found = []
    stream = pipeline.train_stream(mix, data, seed=4, **options)
    for batch in stream.take(number):
        level = batch["image"].numpy()[:, 0, 0, 0] // 100
        found.append(list(zip(level.tolist(), batch["index"].numpy().tolist())))
    return found


def test_every_batch_has_the_shares_and_every_set_its_epochs(root):
    mix = mixture.open_all("night*3+dusk*2+noon", root)
    assert str(mix) == "night*3+dusk*2+noon"
    batches = _sets(mix, _data(), 12)
    for batch in batches:
        numbers = np.bincount([level for level, _ in batch])
        assert list(numbers) == [6, 4, 2]
        # Evenly: never more than two of night in a row.
        levels = "".join(str(level) for level, _ in batch)
        assert "000" not in levels and levels[:6] == levels[6:]
    for level, (name, size) in enumerate(SIZES.items()):
        rows = [row for batch in batches for where, row in batch if where == level]
        whole = len(rows) // (2 * size) * (2 * size)
        counts = np.bincount(rows[:whole])
        assert (counts == whole // (2 * size)).all(), name


def test_it_starts_anywhere_and_hosts_share_it(root):
    mix = mixture.open_all("night*2+dusk", root)
    whole = _sets(mix, _data(), 6)
    assert _sets(mix, _data(), 3, start_step=3) == whole[3:]
    parts = [
        _sets(mix, _data(), 6, num_hosts=2, num_replicas=2, host_index=host)
        for host in range(2)
    ]
    assert [a + b for a, b in zip(*parts)] == whole


def test_sets_of_one_size_have_orders_apart(root):
    mix = mixture.open_all("night+dusk", root)
    assert mixture.seed_of(4, 0) == 4
    assert len({mixture.seed_of(4, part) for part in range(50)}) == 50
    assert all(0 <= mixture.seed_of(4, part) < 2**31 for part in range(50))
    assert mix.sources[0].name == "night"


def test_one_set_is_what_it_was(root):
    mix = mixture.open_all("dusk", root)
    assert _sets(mix, _data(), 3) == _sets(mix.sources[0], _data(), 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("night+", "need NAME, or NAME"),
        ("night+night", "names a set twice"),
        ("night+other", "night and other have other classes"),
        ("night+nowhere", "'nowhere': unknown"),
        ("night*0+dusk", "with whole weights"),
        ("night*1.5+dusk", "with whole weights"),
    ],
)
def test_what_cannot_be_mixed_is_refused(root, name, words):
    with pytest.raises(errors.UserError, match=words) as refusal:
        mixture.open_all(name, root)
    assert "\n" not in str(refusal.value)


def test_a_batch_without_whole_periods_is_refused(root):
    mix = mixture.open_all("night*3+dusk*2", root)
    with pytest.raises(errors.UserError, match="batch_size=12.*near: 10, 15"):
        pipeline.train_stream(mix, _data(), seed=0)
    with pytest.raises(errors.UserError, match="hosts=5: not a multiple"):
        mix = mixture.open_all("night+dusk", root)
        data = _data(batch_size=10)
        pipeline.train_stream(mix, data, seed=0, num_hosts=2, num_replicas=2)


def test_a_run_trains_on_a_mixture_and_says_so(root, tmp_path):
    cfg = tiny.make(data__name="night+dusk", data__batch_size=4, train__length=3)
    result = loop.train(cfg, str(tmp_path), machine=tiny.one_device(), data_dir=root)
    assert result["dataset"] == "night 1.0.0 + dusk 1.0.0"
    assert result["metrics"][0]["count"] == 12  # night's test split
    cfg.train.unit, cfg.train.length = config.Unit.EPOCHS, 2
    sources = mixture.open_all(cfg.data.name, root)
    assert setup.prepare(cfg, tiny.one_device(), data_dir=root).total_steps == 9
    assert (
        tf.io.gfile.exists(str(tmp_path / "result.json")) and len(sources.sources) == 2
    )
