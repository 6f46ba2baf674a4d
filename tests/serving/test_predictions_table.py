"""The table: whole rows, exact names and scores, and going on after a cut anywhere."""

import csv
import json
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vit_tf import errors, identity
from vit_tf.serving import predictions, predictions_table

KINDS = ["t.csv", "t.jsonl"]
ROWS = [
    ("a.png", predictions.Prediction(("cat", "dog, large"), (0.75, 0.25))),
    ('b"\n.png', predictions.refuse("not an\nimage")),
    ("c\udcff.png", predictions.Prediction(('say "é"', ""), (1.0, 1e-9))),
]


def _read(path):
    """The rows as dicts, by readers that are not ours."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        if str(path).endswith(".csv"):
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file]


def _made_by(top=2, weights="abc"):
    return identity.Identity.of(
        weights=weights, made_from=f"{weights}.npz", settings={"top": top}
    )


def _table(path, top=2, **changes):
    return predictions_table.Table(str(path), top, _made_by(top), **changes)


def _write(path, rows, top=2):
    """Adds the rows that are not there yet; returns the names of the others."""
    names = [name for name, _ in rows]
    with _table(path, top) as table:
        left, before = table.split(names)
        table.write(row for row in rows if row[0] in left)
        assert before == len(names) - len(left)
        return set(names) - set(left)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_as_they_were_written(tmp_path, kind):
    _write(tmp_path / kind, ROWS)
    rows = _read(tmp_path / kind)
    columns = ["file", "class_1", "score_1", "class_2", "score_2", "error"]
    if kind == "t.csv":
        assert [list(row) for row in rows] == [columns] * 3
    else:  # what is empty is not there
        assert [list(row) for row in rows] == [
            columns[:-1],
            ["file", "error"],
            columns[:-1],
        ]
    assert [row["file"] for row in rows] == [name for name, _ in ROWS]
    assert rows[0]["class_2"] == "dog, large" and float(rows[0]["score_2"]) == 0.25
    assert rows[1]["error"] == "not an image" and not rows[1].get("score_1")
    assert rows[2]["class_1"] == 'say "é"' and float(rows[2]["score_2"]) == 1e-9


@given(st.floats(0, 1, width=32))
def test_scores_keep_their_float32_to_seven_digits(tmp_path_factory, score):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    _write(
        path,
        [("a", predictions.Prediction(("x",), (float(np.float32(score)),)))],
        top=1,
    )
    assert _read(path)[0]["score_1"] == pytest.approx(score, rel=5e-7, abs=0)


# Names that CSV has to quote, and bytes that are not UTF-8.
_NAMES = st.text(st.sampled_from("a,\"\n\r é\udcff='-"), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    names=st.lists(_NAMES, unique=True, min_size=1, max_size=4),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
)
@example(names=["a\n", "a"], share=0.5, kind="t.csv")
def test_a_table_cut_anywhere_ends_as_one_written_at_once(tmp_path, names, share, kind):
    rows = [(n, predictions.Prediction(("x", 'y"\n'), (0.9, 0.1))) for n in names]
    whole, cut = tmp_path / f"whole_{kind}", tmp_path / f"cut_{kind}"
    for path in (whole, cut):
        path.unlink(missing_ok=True)
    _write(whole, rows)
    content = whole.read_bytes()
    _write(cut, [])
    cut.write_bytes(content[: round(share * len(content))])
    done = _write(cut, rows)
    assert cut.read_bytes() == content
    assert done <= set(names)
    assert _write(cut, rows) == set(names)
    assert cut.read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_every_whole_row_is_kept(tmp_path, kind):
    path = tmp_path / kind
    _write(path, ROWS[:2])
    two = path.read_bytes()
    _write(path, ROWS)
    path.write_bytes(path.read_bytes()[:-2])
    with _table(path) as table:
        assert table.split([name for name, _ in ROWS]) == ([ROWS[2][0]], 2)
    assert path.read_bytes() == two


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.txt", None, "ends in .csv or .jsonl"),
        ("no/t.csv", None, "no such folder"),
        ("t.csv", b"name,size\na,1\n", "begins with other columns than file,class_1"),
        ("t.csv", b"no table", "begins with other columns"),
        ("t.jsonl", b'{"file": "a"}\n', "line 1 is no row"),
        ("t.jsonl", b"\n", "line 1 is no row"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.UserError, match=said) as caught:
        _table(path)
    assert "\n" not in str(caught.value)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_width_are_refused(tmp_path, kind):
    _write(tmp_path / kind, ROWS)
    before = (tmp_path / kind).read_bytes()
    with pytest.raises(errors.UserError, match="top"):
        _table(tmp_path / kind, 3)
    assert (tmp_path / kind).read_bytes() == before


def test_a_broken_row_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    _write(path, ROWS[:1])
    path.write_bytes(path.read_bytes() + b"half,\n" + b"c,x,1,y,0,\n")
    with pytest.raises(errors.UserError, match="line 3 is no row of 6 columns"):
        _table(path)


def test_two_processes_do_not_write_one_table(tmp_path):
    path = str(tmp_path / "t.csv")
    with (
        _table(path),
        pytest.raises(errors.UserError, match="another process"),
    ):
        _table(path)
    with _table(path):
        pass


def test_a_full_disk_is_one_line_and_leaves_whole_rows(tmp_path):
    path = str(tmp_path / "t.csv")
    _write(path, ROWS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with _table(path) as table:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(errors.UserError, match="free some space"):
                table.write(ROWS[1:] * 9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _write(path, ROWS) >= {"a.png"}
    assert [row["file"] for row in _read(path)] == [name for name, _ in ROWS]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("top", "weights", "said"),
    [
        (2, "def", "weights: abc.npz against def.npz"),
        (2, "", "weights: abc.npz against .npz"),
        (1, "abc", "top"),
    ],
)
def test_rows_of_something_else_are_never_added_to(tmp_path, kind, top, weights, said):
    path = tmp_path / kind
    _write(path, ROWS)
    before = path.read_bytes()
    other = _made_by(top, weights)
    with pytest.raises(errors.UserError, match=said) as caught:
        predictions_table.Table(str(path), top, other)
    assert "\n" not in str(caught.value) and path.read_bytes() == before
    answer = predictions.Prediction(("x",) * top, (0.5,) * top)
    for left in (["a.png"], []):  # made anew, then gone on with
        with predictions_table.Table(str(path), top, other, overwrite=True) as table:
            assert table.split(["a.png"])[0] == left
            table.write((name, answer) for name in left)
    assert [row["class_1"] for row in _read(path)] == ["x"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_a_record_is_refused_or_made_anew(tmp_path, kind):
    path = tmp_path / kind
    _write(path, ROWS)
    (tmp_path / (kind + predictions_table.RECORD)).write_text('{"made_by": 3}')
    with pytest.raises(errors.UserError, match="nothing says what made it.*--overwr"):
        _table(path)
    with _table(path, overwrite=True) as table:
        assert table.split(["a.png"]) == (["a.png"], 0)


def test_a_file_that_is_no_table_is_not_overwritten(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"name,size\na,1\n")
    with pytest.raises(errors.UserError, match="is no table of predictions"):
        _table(path, overwrite=True)
    assert path.read_bytes() == b"name,size\na,1\n"


def test_images_are_known_by_their_place_from_any_folder(tmp_path, monkeypatch):
    for folder in ("many", "other/many"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("many")
    answer = ROWS[0][1]
    table_path = tmp_path / "t.csv"
    monkeypatch.chdir(tmp_path)
    same = ["many/a.png", "./many/a.png", str(tmp_path / "many/a.png"), "link/a.png"]
    with _table(table_path) as table:
        assert table.split(same) == (same[:1], 0)
        table.write([("many/a.png", answer)])
    with _table(table_path) as table:
        assert table.split(same) == ([], 1)
    monkeypatch.chdir(tmp_path / "other")
    with _table(table_path) as table:
        assert table.split(["many/a.png", "../many/a.png"]) == (["many/a.png"], 1)
        table.write([("many/a.png", answer)])
    names = [row["file"] for row in _read(table_path)]
    assert names == ["many/a.png", str(tmp_path / "other/many/a.png")]


@given(name=st.text(st.sampled_from("=+-@\t\r'a,"), min_size=1, max_size=5))
def test_no_text_of_a_csv_is_a_formula(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    _write(path, [(name, predictions.Prediction((name, "b"), (0.5, 0.25)))])
    (row,) = _read(path)
    for cell in (row["file"], row["class_1"]):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell.removeprefix("'") == name or cell == name
    with _table(path) as table:
        assert table.split([name]) == ([], 1)
