"""One spelling of a class, and which names cannot be one."""

import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from vit_tf import errors
from vit_tf.data import class_names


@hypothesis.given(st.text())
def test_a_name_has_one_spelling(name):
    once = class_names.normalise(name)
    assert class_names.normalise(once) == once == once.strip()
    spelled = unicodedata.normalize("NFD", once)
    assert class_names.normalise(f" {spelled}\t") == once


@pytest.mark.parametrize(
    "name", ["", " ", "two\nlines", "tab\tinside", "bell\x07", "a\ud800"]
)
def test_names_that_no_file_keeps_are_refused(name):
    with pytest.raises(errors.UserError, match="class name") as refusal:
        class_names.check(name)
    assert "\n" not in str(refusal.value)
    refusal.value.args[0].encode()


@pytest.mark.parametrize(
    "name", ["café", "$5_vs_$10", "猫", "animals/cat", "=cmd", "-1"]
)
def test_names_of_people_are_taken(name):
    assert class_names.check(name) == name
