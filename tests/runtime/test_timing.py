"""How durations are told."""

import pytest

from vit_tf.runtime import timing


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (61.7, "1:01"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert timing.clock(seconds) == text
