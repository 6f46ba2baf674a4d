"""Which files --images names."""

import pytest

from tests.support import stand_in
from vit_tf import config
from vit_tf.serving import named_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "in/c.webp", "in/deep/d.gif", ".hidden.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stand_in.png((1, 2, 3)))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".cache").mkdir()
    (tmp_path / "photos" / ".cache" / "e.png").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def _found(folder, *names):
    found = named_images.find([str(folder / name) for name in names])
    return [path.removeprefix(f"{folder}/photos/") for path in found]


def test_folders_files_and_patterns_each_once(folder):
    within = ["a.JPG", "b.png", "in/c.webp", "in/deep/d.gif"]
    assert _found(folder, "photos") == within
    assert _found(folder, "photos/in/c.webp", "photos") == [
        within[2],
        *within[:2],
        within[3],
    ]
    assert _found(folder, "photos/*.png", "photos/b.png") == ["b.png"]
    assert _found(folder, "photos/**/*.gif") == ["in/deep/d.gif"]


def test_a_file_named_itself_may_have_any_name(folder):
    (folder / "photos" / "upload").write_bytes(stand_in.png((1, 2, 3)))
    assert _found(folder, "photos/upload") == ["upload"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", "empty: no images there"),
        ("photos/*.bmp", "no images there"),
        ("photos/notes.txt", "notes.txt: not an image"),
    ],
)
def test_nothing_to_ask_about_is_one_line(folder, name, said):
    with pytest.raises(config.Refused, match=said.replace("*", ".")) as caught:
        _found(folder, name)
    assert "\n" not in str(caught.value)
