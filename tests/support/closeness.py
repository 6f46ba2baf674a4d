"""Equal up to the rounding of sums in another order."""

import numpy as np


def assert_close_state(ours, theirs):
    """Weights and their average within 1e-6 relative, each tensor within 1e-4.

    A bias starts at zero and is as small as the few steps it took, and Adam divides
    by the gradient's own size: where a gradient is nearly zero, its rounding error
    becomes a part of a whole step.
    """
    assert ours.keys() == theirs.keys()
    for kind in ("model/", "polyak"):
        errors, sizes = [], []
        for name in (n for n in theirs if kind in n):
            value = theirs[name].astype("float64")
            errors.append(np.linalg.norm(value - ours[name]))
            sizes.append(np.linalg.norm(value))
            assert errors[-1] <= 1e-4 * sizes[-1], name
        assert len(errors) > 20
        assert np.linalg.norm(errors) <= 1e-6 * np.linalg.norm(sizes), kind
