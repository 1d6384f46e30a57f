"""The straight line of a pass-through tunnel: an `open` record, the bytes, one terminal record."""

from proxy.config.snapshot import Entry
from proxy.context import Context
from proxy.effects import Aborted, Emit, Tunnel
from proxy.errors import Denied
from proxy.model import Authority


async def tunnel(context: Context, entry: Entry, authority: Authority, first_bytes: bytes) -> None:
    """Runs one tunnel to its end. Never raises but for what breaks the driver itself."""
    trail = context.trail
    trail.target(authority)
    trail.fields |= {"protocol": "tunnel", "inspected": "none:passthrough", "rule_id": entry.rule_id}
    try:
        await Emit(trail.opened(context))
        context.forwarded = True
        trail.traffic(await Tunnel(entry, context.principal.app, authority, first_bytes))
    except Denied as denied:
        trail.denied(denied)
    except Aborted as aborted:
        trail.aborted(aborted.side, aborted.detail)
    except Exception as error:  # noqa: BLE001 - the connection ends either way; the record says so
        trail.fault(error)
        trail.denied(Denied("internal"))
    await Emit(trail.record(context))
