"""One walk over folders: what it gives, what it leaves out and why, and that it ends."""

import os

import hypothesis
import pytest
from hypothesis import strategies as st

from vit_tf import config, errors
from vit_tf.data import image_files
from vit_tf.data.preparation import image_folders
from vit_tf.inspection import image_sets
from vit_tf.serving import named_images


def _walk(folder):
    def fail(error):
        raise error

    return image_files.walk(str(folder), fail)


def _touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_links_are_followed_and_loops_left_out(tmp_path):
    _touch(tmp_path, "a/1.png", "b/2.png", "elsewhere/in/3.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    seen = _walk(tmp_path / "a")
    # A link that leads nowhere is listed: whoever reads the file says what it is.
    assert seen.files == ["1.png", "gone.png", "more/in/3.png", "to_b/2.png"]
    assert seen.left_out == {image_files.LOOP: 2}
    assert len(_walk(tmp_path).files) < 20


def test_a_pipe_is_not_waited_for(tmp_path):
    _touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    seen = _walk(tmp_path)
    assert seen.files == ["1.png"] and seen.left_out == {image_files.NO_FILE: 1}


_NAMES = st.sampled_from(
    ["1.png", "2.JPG", "3.jfif", "4.webp", "5.tif", ".6.png", "._7.jpg", "Thumbs.db"]
)
_FOLDERS = st.sampled_from(
    ["in", "deep", ".ipynb_checkpoints", "__MACOSX", "__pycache__"]
)
_PATHS = st.builds(
    lambda parents, name: "/".join((*parents, name)),
    st.lists(_FOLDERS, max_size=3),
    _NAMES,
)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(paths=st.sets(_PATHS, max_size=12))
def test_every_reader_of_a_folder_sees_the_same_images(paths, tmp_path_factory):
    """Preparing, predicting from the folder or a pattern, and inspecting."""
    root = tmp_path_factory.mktemp("walk")
    _touch(root, "x/0.png", "y/0.png", *(f"x/{path}" for path in paths))
    listing = image_folders.list_folder(str(root), 0.0)
    prepared = {str(root / path) for path in listing.paths}
    assert set(named_images.find([str(root)])) == prepared
    assert set(named_images.find([f"{root}/**/*"])) == prepared
    assert len(prepared) == len(listing.paths)
    # The files are empty, so that inspecting them names the first of those it takes.
    with pytest.raises(errors.UserError) as refusal:
        image_sets.load(str(root), config.View(8), max_images=1_000)
    assert any(path in str(refusal.value) for path in prepared)
    counted = sum(listing.ignored.values())
    assert (counted > 0) == any(
        not image_files.is_meant(os.path.join("x", path)) for path in paths
    )
