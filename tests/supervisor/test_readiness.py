"""Ready means: the next request would be judged, inspected and recorded."""

from dataclasses import replace

import pytest

from proxy.supervisor.readiness import Condition, not_ready

NOW_S = 1_000.0
GOOD = {"policy": True, "inspector": True, "audit": True}
READY = Condition(workers=[GOOD, GOOD], inspectors_alive=1, ca_expires_at_s=NOW_S + 1, audit_ready=True, draining=False)


def test_all_is_well() -> None:
    assert not_ready(READY, NOW_S) == []


def test_one_worker_in_restart_is_no_reason() -> None:
    assert not_ready(replace(READY, workers=[None, GOOD]), NOW_S) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"draining": True}, "draining"),
        ({"ca_expires_at_s": NOW_S}, "CA certificate"),
        ({"inspectors_alive": 0}, "no inspector runs"),
        ({"audit_ready": False}, "audit trail"),
        ({"workers": []}, "no worker serves"),
        ({"workers": [None, None]}, "no worker serves"),
        ({"workers": [{}]}, "no valid policy"),
        ({"workers": [GOOD | {"policy": False}]}, "no valid policy"),
        ({"workers": [GOOD | {"policy": False}], "policy_outdated": True}, "max_staleness"),
        ({"workers": [GOOD | {"inspector": False}]}, "no worker has both"),
        ({"workers": [GOOD | {"audit": False}]}, "no worker has both"),
        ({"workers": [GOOD | {"audit": False}, GOOD | {"inspector": False}]}, "no worker has both"),
    ],
    ids=str,
)
def test_each_missing_part_is_named(change: dict[str, object], reason: str) -> None:
    (told,) = not_ready(replace(READY, **change), NOW_S)  # type: ignore[arg-type]
    assert reason in told


def test_what_an_inspector_lacks_is_said_while_no_worker_has_another() -> None:
    """Also while the next one loads, only to find the same."""
    lacking = replace(READY, inspector_fault="the model is gone")
    blind = [GOOD | {"inspector": False}]
    assert not_ready(replace(lacking, workers=blind), NOW_S)[0] == "no inspector runs: the model is gone"
    assert not_ready(lacking, NOW_S) == []
