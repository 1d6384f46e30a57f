"""What the supervisor does with the journals of workers that died: every intent is settled once, every lease returned.

Safe to repeat at any point: each step's entry id comes from the dead worker's name, and the journal goes last.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.dataplane.journal import SUFFIX, Busy, Key, Replay, Tally, dead_journal, key_of, read
from proxy.dataplane.settlement import send_batch, unseen_row
from proxy.stores.ports import BudgetStore


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was made good: open reservations settled as estimated, spend sent, leases returned; `damaged` lines of the
    journal could not be read."""

    holder: str
    intents: int = 0
    spent_usd_nanos: int = 0
    returned_usd_nanos: int = 0
    damaged: int = 0


def dead_holders(journal_dir: Path, alive: Collection[str] = ()) -> list[str]:
    """Workers that left a journal and are not among `alive`. Those that still run are found out by `reconcile`."""
    if not journal_dir.is_dir():
        return []
    return sorted(path.stem for path in journal_dir.glob(f"*{SUFFIX}") if path.stem not in alive)


async def reconcile(journal_dir: Path, store: BudgetStore, dead_holder: str) -> Reconciled:
    """Settles what `dead_holder` left open. Raises Busy when it still runs, StoreUnavailable when the store is away
    (call again later); does nothing when there is no journal."""
    path = journal_dir / f"{dead_holder}{SUFFIX}"
    try:
        with dead_journal(path):
            replay = read(path)
            spent = await _settle_rest(store, dead_holder, replay)
            returned = await _return_leases(store, dead_holder)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return Reconciled(dead_holder)
    return Reconciled(dead_holder, len(replay.open_intents), spent, returned, replay.damaged)


async def reconcile_all(journal_dir: Path, store: BudgetStore, alive: Collection[str] = ()) -> list[Reconciled]:
    """`reconcile` for each worker that is dead; living ones are left alone. Raises StoreUnavailable."""
    done = []
    for holder in dead_holders(journal_dir, alive):
        try:
            done.append(await reconcile(journal_dir, store, holder))
        except Busy:
            continue
    return done


async def _settle_rest(store: BudgetStore, holder: str, replay: Replay) -> int:
    batches = [*replay.batches.values(), *_final_batches(holder, replay)]
    for batch in batches:
        await send_batch(store, holder, batch)
    return sum(batch["spent"] + batch["over"] for batch in batches)


def _final_batches(holder: str, replay: Replay) -> list[dict[str, Any]]:
    tallies: dict[Key, Tally] = dict(replay.tallies)
    for intent in replay.open_intents.values():
        tally = tallies.setdefault(key_of(intent), Tally())
        covered = intent["usd"] if intent["held"] else 0
        tally.spent += covered
        tally.over += intent["usd"] - covered
        tally.add(unseen_row(intent, intent["usd"], estimated=True))
    return [
        {
            "entry": f"{holder}.final.{day}.{month}",
            "app": app,
            "day": day,
            "month": month,
            "spent": tally.spent,
            "over": tally.over,
            "returned": 0,
            "rows": list(tally.rows.values()),
        }
        for (app, day, month), tally in tallies.items()
    ]


async def _return_leases(store: BudgetStore, holder: str) -> int:
    leases = await store.leased_by(holder)
    for (app, day, month), held in leases.items():
        await store.settle(
            app,
            day=day,
            month=month,
            spent_usd_nanos=0,
            returned_usd_nanos=held,
            holder=holder,
            entry_id=f"{holder}.return.{day}.{month}.{held}",
        )
    return sum(leases.values())
