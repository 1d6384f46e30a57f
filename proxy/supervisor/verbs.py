"""What the admin socket understands. Each verb is an async function of the supervisor and the request."""

import os
import time
from typing import TYPE_CHECKING, Any

from proxy.supervisor import admin
from proxy.supervisor.worker_pool import Worker

if TYPE_CHECKING:
    from proxy.supervisor.app import Supervisor

ALL_APPS = "*"


def verbs(supervisor: "Supervisor") -> dict[str, admin.Handler]:
    """Verb -> handler for `admin.serve`."""

    async def status(_: admin.Request) -> dict[str, Any]:
        return _status(supervisor)

    async def workers(_: admin.Request) -> dict[str, Any]:
        return {"workers": _workers(supervisor)}

    async def kill(request: admin.Request) -> dict[str, Any]:
        app = admin.text_of(request, "app")
        facts = {
            "reason": str(request.get("reason") or ""),
            "by": str(request.get("by") or f"uid {os.getuid()}"),
            "time_s": time.time(),
        }
        return await _order(supervisor, app, facts)

    async def unkill(request: admin.Request) -> dict[str, Any]:
        return await _order(supervisor, admin.text_of(request, "app"), None)

    async def revoke(request: admin.Request) -> dict[str, Any]:
        token_id = admin.text_of(request, "token_id")
        supervisor.pool.broadcast({"do": "revoke", "token_id": token_id})
        supervisor.trail.event("token_revoked", token_id=token_id, actor=str(request.get("by") or ""))
        return {"workers": len(supervisor.pool.living)}

    async def poll(_: admin.Request) -> dict[str, Any]:
        supervisor.policy.watcher.poke()
        supervisor.pool.broadcast({"do": "poll"})
        return {"workers": len(supervisor.pool.living)}

    async def restart(_: admin.Request) -> dict[str, Any]:
        supervisor.restart_workers()
        return {"slots": len(supervisor.pool.current)}

    async def drain(_: admin.Request) -> dict[str, Any]:
        supervisor.stop()
        return {"open": sum(int(worker.status.get("connections") or 0) for worker in supervisor.pool.living)}

    return {
        "status": status,
        "workers": workers,
        "kill": kill,
        "unkill": unkill,
        "revoke": revoke,
        "reload": poll,
        "restart": restart,
        "drain": drain,
    }


async def _order(supervisor: "Supervisor", app: str, facts: dict[str, Any] | None) -> dict[str, Any]:
    """Stops or releases an app on this machine at once; the watchers tell the store as soon as it is there."""
    from proxy.stores.stops import StopsFile

    snapshot = supervisor.policy.watcher.current
    if facts is not None and app != ALL_APPS and snapshot is not None and app not in snapshot.apps:
        raise admin.Refused(f"there is no app {app!r}", "the active policy", "`egress list apps` shows them")
    StopsFile(supervisor.paths.last_good).order(app, facts)
    supervisor.policy.watcher.poke()
    supervisor.pool.broadcast({"do": "poll"})
    supervisor.trail.event("app_killed" if facts else "app_released", app=app)
    return {"app": app, "killed": facts is not None, "workers": len(supervisor.pool.living)}


def _status(supervisor: "Supervisor") -> dict[str, Any]:
    now_s = time.time()
    reasons = supervisor.reasons_not_ready()
    signing = supervisor.keys.ca.signing(now_s)
    return {
        "ready": not reasons,
        "why_not": reasons,
        "pid": os.getpid(),
        "uptime_s": round(now_s - supervisor.started_s, 1),
        "listen": supervisor.listen,
        "workers": _workers(supervisor),
        "inspectors": [
            {
                "name": child.name,
                "pid": child.pid,
                "restarts": child.restarts,
                "fault": child.fault.what if child.fault else "",
            }
            for child in supervisor.inspectors
        ],
        "ca": {"expires_at_s": signing.not_after_s, "fingerprint": signing.fingerprint},
        "root_key_id": supervisor.keys.root.id,
        "audit": {"ready": supervisor.trail.ready, "directory": str(supervisor.paths.audit_dir)},
        **supervisor.policy.facts(),
    }


def _workers(supervisor: "Supervisor") -> list[dict[str, Any]]:
    rows = []
    for worker in sorted(supervisor.pool.living, key=lambda worker: (worker.slot, worker.draining)):
        facts = {name: value for name, value in worker.status.items() if name != "is"}
        rows.append(
            {
                "slot": worker.slot,
                "id": worker.id,
                "pid": worker.process.pid,
                "state": _state(worker),
                "restarts": supervisor.pool.restarts[worker.slot],
                **facts,
            }
        )
    return rows


def _state(worker: Worker) -> str:
    if worker.draining:
        return "draining"
    return "serving" if worker.ready.is_set() else "starting"
