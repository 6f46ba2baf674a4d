"""The table: whole rows, exact names and scores, and going on after a cut anywhere."""

import csv
import json
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vit_tf import config
from vit_tf.serving import predictions, predictions_table

KINDS = ["t.csv", "t.jsonl"]
ROWS = [
    ("a.png", predictions.Answer(("cat", "dog, large"), (0.75, 0.25))),
    ('b"\n.png', predictions.refuse("not an\nimage")),
    ("c\udcff.png", predictions.Answer(('say "é"', ""), (1.0, 1e-9))),
]


def _read(path):
    """The rows as dicts, by readers that are not ours."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        if str(path).endswith(".csv"):
            return list(csv.DictReader(file))
        return [json.loads(line) for line in file]


def _write(path, rows, top=2):
    with predictions_table.Table(str(path), top) as table:
        table.write(row for row in rows if row[0] not in table.done)
        return table.done


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_as_they_were_written(tmp_path, kind):
    _write(tmp_path / kind, ROWS)
    rows = _read(tmp_path / kind)
    columns = ["file", "class_1", "score_1", "class_2", "score_2", "error"]
    assert [list(row) for row in rows] == [columns] * 3
    assert [row["file"] for row in rows] == [name for name, _ in ROWS]
    assert rows[0]["class_2"] == "dog, large" and float(rows[0]["score_2"]) == 0.25
    assert rows[1]["error"] == "not an image" and rows[1]["score_1"] == ""
    assert rows[2]["class_1"] == 'say "é"' and float(rows[2]["score_2"]) == 1e-9


@given(st.floats(0, 1, width=32))
def test_scores_keep_their_float32_to_seven_digits(tmp_path_factory, score):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    _write(
        path, [("a", predictions.Answer(("x",), (float(np.float32(score)),)))], top=1
    )
    assert _read(path)[0]["score_1"] == pytest.approx(score, rel=5e-7, abs=0)


# Names that CSV has to quote, and bytes that are not UTF-8.
_NAMES = st.text(st.sampled_from('a,"\n\r é\udcff'), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    names=st.lists(_NAMES, unique=True, min_size=1, max_size=4),
    share=st.floats(0, 1),
    kind=st.sampled_from(KINDS),
)
@example(names=["a\n", "a"], share=0.5, kind="t.csv")
def test_a_table_cut_anywhere_ends_as_one_written_at_once(tmp_path, names, share, kind):
    rows = [(n, predictions.Answer(("x", 'y"\n'), (0.9, 0.1))) for n in names]
    whole, cut = tmp_path / f"whole_{kind}", tmp_path / f"cut_{kind}"
    for path in (whole, cut):
        path.unlink(missing_ok=True)
    _write(whole, rows)
    content = whole.read_bytes()
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
    with predictions_table.Table(str(path), 2) as table:
        assert table.done == {name for name, _ in ROWS[:2]}
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
    with pytest.raises(config.Refused, match=said) as caught:
        predictions_table.Table(str(path), 2)
    assert "\n" not in str(caught.value)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_another_width_are_refused(tmp_path, kind):
    _write(tmp_path / kind, ROWS)
    before = (tmp_path / kind).read_bytes()
    with pytest.raises(config.Refused, match="the same --top"):
        predictions_table.Table(str(tmp_path / kind), 3)
    assert (tmp_path / kind).read_bytes() == before


def test_a_broken_row_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    _write(path, ROWS[:1])
    path.write_bytes(path.read_bytes() + b"half,\n" + b"c,x,1,y,0,\n")
    with pytest.raises(config.Refused, match="line 3 is no row of 6 columns"):
        predictions_table.Table(str(path), 2)


def test_two_processes_do_not_write_one_table(tmp_path):
    path = str(tmp_path / "t.csv")
    with (
        predictions_table.Table(path, 2),
        pytest.raises(config.Refused, match="another process"),
    ):
        predictions_table.Table(path, 2)
    with predictions_table.Table(path, 2):
        pass


def test_a_full_disk_is_one_line_and_leaves_whole_rows(tmp_path):
    path = str(tmp_path / "t.csv")
    _write(path, ROWS[:1])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with predictions_table.Table(path, 2) as table:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(config.Refused, match="free some space"):
                table.write(ROWS[1:] * 9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _write(path, ROWS) >= {"a.png"}
    assert [row["file"] for row in _read(path)] == [name for name, _ in ROWS]
