"""When something is due in a run, and where the loop stops for it."""

import hypothesis
from hypothesis import strategies as st

from vit_tf.runs import hooks

SCHEDULES = st.builds(
    hooks.Every,
    st.one_of(st.none(), st.integers(1, 12)),
    st.just(30),
    st.booleans(),
)


@hypothesis.given(st.lists(SCHEDULES, min_size=1, max_size=4), st.integers(1, 7))
def test_the_loop_stops_wherever_something_is_due_and_ends_at_the_end(every, stride):
    """However many steps it takes at a time, it passes over nothing that is due."""
    step, visited = 0, []
    while step < 30:
        step = min(step + stride, hooks.next_stop(step, every))
        visited.append(step)
    assert visited[-1] == 30 and visited == sorted(set(visited))
    due = {s for s in range(31) if any(s in one for one in every)}
    assert due <= set(visited)


def test_nothing_is_due_before_the_first_step_and_the_end_can_be_left_out():
    assert [s for s in range(7) if s in hooks.Every(3, 6)] == [3, 6]
    assert [s for s in range(8) if s in hooks.Every(3, 7)] == [3, 6, 7]
    assert [s for s in range(8) if s in hooks.Every(3, 7, at_end=False)] == [3, 6]
    assert [s for s in range(8) if s in hooks.Every(None, 7)] == [7]
    assert [s for s in range(8) if s in hooks.Every(None, 7, at_end=False)] == []
