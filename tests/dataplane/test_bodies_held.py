"""The worker's budget for bodies: no app holds more than half of it, and all of it comes back."""

import pytest

from proxy.dataplane.bodies_held import BodiesHeld
from proxy.errors import Denied


def test_one_app_leaves_room_for_others() -> None:
    bodies = BodiesHeld(100)
    bodies.hold(50, "greedy")
    with pytest.raises(Denied, match="overloaded"):
        bodies.hold(1, "greedy")
    bodies.hold(30, "other")
    with pytest.raises(Denied, match="overloaded"):
        bodies.hold(21, "third")
    bodies.release(50, "greedy")
    bodies.release(0, "nobody")
    bodies.hold(50, "third")
    bodies.release(50, "third")
    bodies.release(30, "other")
    assert bodies.held_bytes == 0
