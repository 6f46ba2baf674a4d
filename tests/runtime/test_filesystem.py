"""Files are whole or not there, and a failed write is one line."""

import pytest

from tests.support import hanging_proxy
from vit_tf import errors
from vit_tf.runs import stored_weights
from vit_tf.runtime import filesystem
from vit_tf.serving import predictor


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.json"
    filesystem.write_whole(str(path), "old")
    filesystem.write_whole(str(path), "new")
    assert filesystem.read(str(path)) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    filesystem.write_whole(str(path), "old")

    def broken(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(filesystem.tf.io.gfile, "rename", broken)
    with pytest.raises(errors.UserError, match=r"a\.json: No space left .*free some"):
        filesystem.write_whole(str(path), "new")
    assert filesystem.read(str(path)) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_several_may_write_one_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    rename = filesystem.tf.io.gfile.rename

    def slow(*arguments, **options):
        monkeypatch.setattr(filesystem.tf.io.gfile, "rename", rename)
        filesystem.write_whole(
            str(path), "another's"
        )  # between our write and our rename
        rename(*arguments, **options)

    monkeypatch.setattr(filesystem.tf.io.gfile, "rename", slow)
    filesystem.write_whole(str(path), "ours")
    assert filesystem.read(str(path)) == "ours"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_append_and_remove(tmp_path):
    path = tmp_path / "folder" / "rows"
    path.parent.mkdir()
    for text in ("a\n", "b\n"):
        filesystem.append(str(path), text)
    assert filesystem.read(str(path)) == "a\nb\n"
    filesystem.remove(str(path.parent))
    filesystem.remove(str(path.parent))  # not there any more, which is fine
    assert not path.parent.exists()
    with pytest.raises(errors.UserError, match="cannot write"):
        filesystem.append(str(tmp_path / "nowhere" / "rows"), "a")


@pytest.fixture
def hanging(monkeypatch):
    """Every connection leaves through a proxy that never answers."""
    with hanging_proxy.listening() as proxy:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(filesystem, "STORE_SECONDS", 0.2)
        filesystem.check_reachable.cache_clear()
        yield
    filesystem.check_reachable.cache_clear()


@pytest.mark.parametrize(
    "use",
    [
        stored_weights.locate,
        predictor.export_folder,
        lambda path: filesystem.write_whole(path, "text"),
        lambda path: filesystem.read_json(path, "mend it"),
    ],
    ids=["locate", "export_folder", "write_whole", "read_json"],
)
def test_a_store_behind_a_hanging_proxy_is_one_line_and_asked_once(hanging, use):
    """TensorFlow itself would try for minutes: this test would not end in time."""
    with pytest.raises(errors.TryAgain, match="gs://some: the store cannot") as caught:
        use("gs://some/thing")
    assert "\n" not in str(caught.value) and "check the network" in str(caught.value)


def test_places_on_this_machine_are_not_asked_for(hanging, tmp_path):
    filesystem.write_whole(str(tmp_path / "a"), "text")
    with filesystem.reading(str(tmp_path / "a")):
        assert filesystem.read(str(tmp_path / "a")) == "text"
