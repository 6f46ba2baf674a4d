"""Files are whole or not there, and a failed write is one line."""

import pytest

from vit_tf import config
from vit_tf.runtime import filesystem


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
    with pytest.raises(config.Refused, match=r"a\.json: No space left .*free some"):
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
    with pytest.raises(config.Refused, match="cannot write"):
        filesystem.append(str(tmp_path / "nowhere" / "rows"), "a")
