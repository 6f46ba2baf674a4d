"""Cells unroll into runs: every repetition, with its seed and its start."""

import pytest

from experiments import cifar10_transfer, quickstart, table7_adam_or_sgd, vtab
from tests.support import tiny_experiment
from vit_tf import config, errors
from vit_tf.studies import experiment_spec


def _make(scale):
    del scale
    return config.Config()


def test_runs_have_seeds_and_start_from_their_own_repetition():
    runs = experiment_spec.runs(tiny_experiment.CELLS, experiment_spec.Scale.SMALL)
    assert [(r.index, r.name, r.config.train.seed, r.starts_from) for r in runs] == [
        (0, "start.seed0", 0, None),
        (1, "start.seed1", 1, None),
        (2, "goes-on.seed0", 0, "start.seed0"),
        (3, "goes-on.seed1", 1, "start.seed1"),
    ]


def test_without_a_start_of_its_own_a_repetition_takes_the_first():
    runs = experiment_spec.runs(tiny_experiment.CELLS, experiment_spec.Scale.SMOKE)
    assert [r.starts_from for r in runs] == [None, "start.seed0", "start.seed0"]


def test_runs_do_not_share_a_config():
    cells = experiment_spec.cells(experiment_spec.Cell("a", _make, seeds=3))
    runs = experiment_spec.runs(cells, experiment_spec.Scale.SMALL)
    assert [r.config.train.seed for r in runs] == [0, 1, 2]


def test_a_repetition_draws_examples_of_its_own_which_its_rivals_share():
    runs = experiment_spec.runs(cifar10_transfer.CELLS, experiment_spec.Scale.SMALL)
    drawn = {r.name: r.config.data.subset.seed for r in runs if "_10." in r.name}
    assert drawn == {
        f"{start}_10.seed{seed}": seed
        for start in ("finetune", "scratch")
        for seed in range(3)
    }


def test_the_first_repetition_is_what_tools_train_trains():
    runs = experiment_spec.runs(quickstart.CELLS, experiment_spec.Scale.SMALL)
    first = [run for run in runs if run.seed == 0]
    assert [run.cell.name for run in first] == list(quickstart.CELLS)
    for run in first:
        assert run.config == quickstart.get_config(run.cell.name)


def test_the_scale_may_change_the_number_of_repetitions():
    counts = [
        len(experiment_spec.runs(vtab.CELLS, scale)) for scale in vtab.TABLE.scales
    ]
    assert counts == [19, 19, 57]


def _shared(name, **settings):
    return experiment_spec.Cell(name, _make, same_as="other:cell", **settings)


def test_a_shared_cell_has_the_runs_of_the_other_at_scale_paper_only():
    cells = experiment_spec.cells(
        _shared("a", seeds=2), experiment_spec.Cell("b", _make, starts_from="a")
    )
    for scale in experiment_spec.Scale:
        shared = [run.shared for run in experiment_spec.runs(cells, scale)]
        paper = [("other", "cell.seed0"), ("other", "cell.seed1"), None]
        assert shared == (paper if scale == experiment_spec.Scale.PAPER else [None] * 3)


def test_without_small_a_cell_without_scale_is_the_papers():
    ours = table7_adam_or_sgd.get_config("R50x1_sgd")
    assert ours == table7_adam_or_sgd.get_config("R50x1_sgd,paper")
    with pytest.raises(errors.UserError, match="one of: smoke, paper"):
        table7_adam_or_sgd.get_config("R50x1_sgd,small")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([experiment_spec.Cell("a", _make, same_as="b")], "no EXPERIMENT:CELL"),
        ([_shared("a", start_given=True)], "shared, but not what"),
        (
            [experiment_spec.Cell("a", _make), _shared("b", starts_from="a")],
            "shared, but not",
        ),
        (
            [experiment_spec.Cell("a", _make), experiment_spec.Cell("a", _make)],
            "two cells named a",
        ),
        ([experiment_spec.Cell("a/b", _make)], "need letters"),
        (
            [
                experiment_spec.Cell("a", _make, starts_from="b"),
                experiment_spec.Cell("b", _make),
            ],
            "before",
        ),
        (
            [
                experiment_spec.Cell("a", _make),
                experiment_spec.Cell("b", _make, starts_from="a", start_given=True),
            ],
            "two starts",
        ),
    ],
)
def test_cells_that_do_not_fit_are_refused(cells, said):
    with pytest.raises(ValueError, match=said):
        experiment_spec.cells(*cells)
