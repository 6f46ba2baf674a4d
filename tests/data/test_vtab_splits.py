"""The score of VTAB-1k, computed again from what the paper printed."""

import pytest

from vit_tf.data import vtab_splits

# Table 9, in its order of tasks, and what the paper says of it.
TABLE_9 = {
    "ViT-H/14 (JFT)": [
        *(95.3, 85.5, 75.2, 99.7, 97.2, 65.0, 88.9, 83.3, 96.7, 91.4, 76.6),
        *(91.7, 63.8, 53.1, 79.4, 63.3, 84.5, 33.2, 51.2),
    ],
    "ViT-L/16 (JFT)": [
        *(95.4, 81.9, 74.3, 99.7, 96.7, 63.5, 87.4, 83.6, 96.5, 89.7, 77.1),
        *(86.4, 63.1, 49.7, 74.5, 60.5, 82.2, 36.2, 51.1),
    ],
    "ViT-L/16 (I21k)": [
        *(90.8, 84.1, 74.1, 99.3, 92.7, 61.0, 80.9, 82.5, 95.6, 85.2, 75.3),
        *(70.3, 56.1, 41.9, 74.7, 64.9, 79.9, 30.5, 41.7),
    ],
}
# Table 2's VTAB row; groups as computed from Table 9.
TABLE_2 = {"ViT-H/14 (JFT)": 77.63, "ViT-L/16 (JFT)": 76.28, "ViT-L/16 (I21k)": 72.72}
GROUPS = {
    "ViT-H/14 (JFT)": (86.69, 87.00, 65.03),
    "ViT-L/16 (JFT)": (85.56, 86.72, 62.96),
    "ViT-L/16 (I21k)": (83.27, 84.65, 57.50),
}


def _scores(model):
    return dict(zip(vtab_splits.TASKS, TABLE_9[model], strict=True))


@pytest.mark.parametrize("model", TABLE_9)
def test_the_mean_of_table_9_is_that_of_table_2(model):
    means = vtab_splits.means(_scores(model))
    # Table 9 has one decimal for each task.
    assert means["all"] == pytest.approx(TABLE_2[model], abs=0.02)
    groups = [means[name] for name in ("natural", "specialized", "structured")]
    assert groups == pytest.approx(GROUPS[model], abs=0.006)


def test_groups_are_disjoint_and_whole():
    sizes = [len(tasks) for tasks in vtab_splits.GROUPS.values()]
    assert sizes == [7, 4, 8]
    assert sum(vtab_splits.GROUPS.values(), ()) == tuple(vtab_splits.TASKS)


def test_the_mean_is_over_tasks_not_over_groups():
    scores = dict.fromkeys(vtab_splits.TASKS, 0.0)
    scores |= dict.fromkeys(vtab_splits.GROUPS["specialized"], 1.0)
    assert vtab_splits.means(scores)["all"] == pytest.approx(4 / 19)


def test_a_mean_needs_all_of_its_tasks():
    scores = _scores("ViT-H/14 (JFT)")
    del scores["svhn"]
    assert vtab_splits.means(scores).keys() == {"specialized", "structured"}
