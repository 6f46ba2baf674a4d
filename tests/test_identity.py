"""Identities: equal where nothing that changes numbers differs, and one line else."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_tf import config, config_values, errors, identity

_VALUES = st.sampled_from([True, 3, 0.5, "text", "long " * 20, [1, "a"], {"b": []}])
_FACTS = st.dictionaries(st.sampled_from("abcd"), _VALUES, max_size=3)
_IDENTITIES = st.builds(
    lambda weights, settings, data: identity.Identity.of(
        weights=weights, settings=settings, data=data, made_from="a.npz"
    ),
    st.sampled_from(["", "x", "y"]),
    _FACTS,
    _FACTS,
)


@given(one=_IDENTITIES, other=_IDENTITIES)
def test_two_are_the_same_or_one_line_names_what_differs(one, other):
    same = (one.weights, one.settings, one.data) == (
        other.weights,
        other.settings,
        other.data,
    )
    assert (not one.differences(other)) == same
    if same:
        identity.refuse_other("t.csv", one, other, remedy="mend it")
        return
    with pytest.raises(errors.UserError) as caught:
        identity.refuse_other("t.csv", one, other, remedy="mend it")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("t.csv: ") and line.endswith("mend it")


def test_a_setting_that_is_not_set_is_as_good_as_absent():
    """So that a setting that comes later leaves earlier outputs valid."""
    one = identity.Identity.of(weights="x", settings={"a": 1})
    assert not one.differences(
        identity.Identity.of(weights="x", settings={"a": 1, "b": None})
    )


@given(one=_IDENTITIES)
def test_json_gives_it_back(one):
    again = identity.Identity.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one


@pytest.mark.parametrize("content", [None, [], "text", {}, {"weights": "a"}, {"x": 1}])
def test_what_is_no_identity_is_none(content):
    assert identity.Identity.from_json(content) is None
    with pytest.raises(errors.UserError, match="nothing says what made it; mend it"):
        identity.refuse_other(
            "t.csv", None, identity.Identity.of(weights=""), remedy="mend it"
        )


def test_a_files_digest_follows_its_content_not_its_name(tmp_path):
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"x" * 3_000_000)
    other.write_bytes(b"x" * 3_000_000)
    before = identity.digest_file(str(one))
    assert before == identity.digest_file(str(other))
    other.write_bytes(b"x" * 2_999_999 + b"y")
    assert identity.digest_file(str(other)) != before
    os.utime(one, ns=(1, 1))
    assert identity.digest_file(str(one)) == before


def test_a_folders_digest_follows_names_and_contents(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).mkdir(parents=True)
            (folder / name / "f").write_text(text)
        return identity.digest_folder(str(folder))

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1"), digest(a="2"), digest(b="1"), digest(a="1", b="")}) == 4


def test_a_runs_settings_leave_out_what_changes_no_number():
    settings = identity.run_settings(config.Config())
    known = set(config_values.fields(config.Config()))
    assert settings.keys() == known - config_values.NEUTRAL
