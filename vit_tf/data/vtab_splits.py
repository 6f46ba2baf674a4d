"""VTAB-1k's splits and the paper's exceptions to augmentation, task by task.

No TensorFlow import. The training set is 800 examples of one part and 200 of another,
the first ones in the order of TFDS' files: neither shuffled nor balanced. To use a
task, train on `train800` and choose by `val200`, then train on `train800val200` and
report `test` (VTAB's task_adaptation; the paper's B.1.1).
"""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one task is trained and reported.

    Attributes:
        val200: the 200 examples to choose by.
        test: the split that is reported.
        flip: whether training images may be mirrored; where not, it changes the label.
        crop: whether training images may be cropped at random.
        train800: the 800 examples to train on meanwhile.
    """

    val200: str
    test: str = "test"
    flip: bool = True
    crop: bool = True
    train800: str = "train[:800]"

    @property
    def train800val200(self) -> str:
        return f"{self.train800}+{self.val200}"


_CLEVR: dict[str, Any] = {
    "val200": "train[63000:63200]",
    "test": "validation",
    "crop": False,
}
_DSPRITES: dict[str, Any] = {"val200": "train[589824:590024]", "test": "train[663552:]"}
_SMALLNORB: dict[str, Any] = {"val200": "test[:200]", "test": "test[50%:]"}

# In the order of Table 9.
TASKS = {
    "caltech101": Protocol(val200="train[2754:2954]"),
    "cifar100": Protocol(val200="train[45000:45200]"),
    "dtd": Protocol(val200="validation[:200]"),
    "flowers102": Protocol(val200="validation[:200]"),
    "pets": Protocol(val200="train[2944:3144]"),
    "sun397": Protocol(val200="validation[:200]"),
    "svhn": Protocol(val200="train[65931:66131]"),
    "camelyon": Protocol(val200="validation[:200]"),
    "eurosat": Protocol(val200="train[16200:16400]", test="train[21600:]"),
    "resisc45": Protocol(val200="train[18900:19100]", test="train[25200:]"),
    "retinopathy": Protocol(val200="validation[:200]"),
    "clevr_count": Protocol(**_CLEVR),  # CLEVR's own test scenes have no annotations
    "clevr_distance": Protocol(**_CLEVR),
    "dmlab": Protocol(val200="validation[:200]", crop=False),
    "dsprites_location": Protocol(**_DSPRITES, flip=False, crop=False),
    "dsprites_orientation": Protocol(**_DSPRITES, flip=False),
    "kitti_distance": Protocol(val200="validation[:200]", crop=False),
    "smallnorb_azimuth": Protocol(**_SMALLNORB, flip=False),
    "smallnorb_elevation": Protocol(**_SMALLNORB),
}

# Figure 2's groups.
GROUPS = {
    "natural": tuple(TASKS)[:7],
    "specialized": tuple(TASKS)[7:11],
    "structured": tuple(TASKS)[11:],
}


def means(scores: Mapping[str, float]) -> dict[str, float]:
    """Means over the groups of which all tasks are there, and over all 19.

    The mean of all is over tasks, not over groups, as in Table 2.

    Args:
        scores: task -> top-1 accuracy, in any unit.

    Returns:
        By the group's name, and 'all'.
    """
    sets = {**GROUPS, "all": tuple(TASKS)}
    return {
        name: statistics.mean(scores[task] for task in tasks)
        for name, tasks in sets.items()
        if all(task in scores for task in tasks)
    }
