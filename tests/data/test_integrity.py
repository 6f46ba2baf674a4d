"""A prepared set whose own files were damaged is refused in one line that names them."""

import json
import shutil

import hypothesis
import pytest
from hypothesis import strategies as st

from vit_tf import errors
from vit_tf.data import catalog, integrity

DESCRIPTION = ("features.json", "dataset_info.json")


@pytest.fixture
def copied(data_dir, tmp_path):
    """A data folder with `digits`, noted as `tools.prepare_data` does, and its home."""
    shutil.copytree(data_dir, tmp_path / "data")
    home = tmp_path / "data" / "digits" / "1.0.0"
    integrity.note(integrity.Path(home))
    return tmp_path / "data", home


def _open(root):
    return catalog.open_source("digits", str(root))


def test_a_whole_set_opens(copied):
    root, home = copied
    (home / "contact_sheet.png").write_bytes(b"drawn later")
    assert _open(root).num_examples("train") == 1197


@hypothesis.settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(draw=st.data())
def test_any_changed_byte_of_the_description_is_refused(copied, draw):
    root, home = copied
    names = [p.name for p in home.iterdir() if p.suffix in (".json", ".txt")]
    path = home / draw.draw(st.sampled_from(sorted(names)))
    whole = path.read_bytes()
    place = draw.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= draw.draw(st.integers(1, 255))
    try:
        path.write_bytes(bytes(changed))
        with pytest.raises(errors.UserError) as refusal:
            _open(root)
        assert path.name in str(refusal.value) and "\n" not in str(refusal.value)
        path.write_bytes(whole[:place])
        with pytest.raises(errors.UserError, match="prepare"):
            _open(root)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", DESCRIPTION)
@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "{", '{"a": 1}', "\0\1"])
def test_without_notes_a_description_that_cannot_be_is_one_line(copied, name, content):
    """Sets that TFDS prepared elsewhere have no notes of ours."""
    root, home = copied
    (home / integrity.FILE).unlink()
    (home / name).write_text(content)
    with pytest.raises(errors.UserError) as refusal:
        assert _open(root).class_names
    assert "\n" not in str(refusal.value) and "digits" in str(refusal.value)


def test_without_notes_other_numbers_of_rows_or_names_are_refused(copied):
    root, home = copied
    (home / integrity.FILE).unlink()
    labels = next(home.glob("*.labels.txt"))
    whole = labels.read_text()
    labels.write_text(whole + "ten\n")
    with pytest.raises(errors.UserError, match="description cannot be read"):
        _open(root)
    labels.write_text(whole.replace("3", "4"))
    with pytest.raises(errors.UserError, match="description cannot be read"):
        _open(root)


def test_what_stands_in_a_files_place_is_named(copied):
    root, home = copied
    record = next(home.glob("*.tfrecord*"))
    whole = record.read_bytes()
    record.write_bytes(whole[:-1])
    with pytest.raises(errors.UserError, match=f"{record.name} has changed"):
        _open(root)
    record.unlink()
    with pytest.raises(errors.UserError, match=f"{record.name} is missing"):
        _open(root)
    record.mkdir()
    with pytest.raises(errors.UserError, match=f"{record.name} is a folder"):
        _open(root)
    (home / integrity.FILE).write_text(json.dumps([1]))
    with pytest.raises(errors.UserError, match="written.json is damaged"):
        _open(root)
