"""What a ledger sends: batches of spend and returned leases, and usage rows."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from proxy.config.snapshot import AppPolicy
from proxy.dataplane.journal import Key, Row
from proxy.model import Cost, Usage
from proxy.stores.ports import BudgetStore
from proxy.values import dataclass

MODELS_PER_APP: Final = 200
MODEL_CHARACTERS: Final = 128
OTHER_MODEL: Final = "other"


@dataclass(frozen=True, slots=True)
class Opened:
    """A reservation that is not settled. `held`: a lease covers it, of this `generation`."""

    key: Key
    usd_nanos: int
    held: bool
    owner: str
    cost_center: str
    generation: int = 0

    def row(self, usd_nanos: int, *, estimated: bool) -> Row:
        """A usage row of a call whose tokens nobody saw."""
        return unseen_row(self.line(""), usd_nanos, estimated=estimated)

    def line(self, reservation_id: str) -> dict[str, Any]:
        """The journal's `intent` line."""
        app, day, month = self.key
        return {
            "id": reservation_id,
            "app": app,
            "day": day,
            "month": month,
            "usd": self.usd_nanos,
            "held": self.held,
            "owner": self.owner,
            "cost_center": self.cost_center,
        }


async def send_batch(store: BudgetStore, holder: str, batch: Mapping[str, Any]) -> None:
    """Applies one batch; sending it again changes nothing. Raises StoreUnavailable.

    Batches of one `series` are sent in the order of their numbers, so that the store need only remember the last.
    """
    app, day, month = batch["app"], batch["day"], batch["month"]
    series, number = batch.get("series", batch["entry"]), batch.get("number", 1)
    if batch["spent"] or batch["returned"]:
        await store.settle(
            app,
            day=day,
            month=month,
            spent_usd_nanos=batch["spent"],
            returned_usd_nanos=batch["returned"],
            holder=holder,
            entry_id=series,
            number=number,
        )
    if batch["over"]:
        await store.settle(
            app,
            day=day,
            month=month,
            spent_usd_nanos=batch["over"],
            returned_usd_nanos=0,
            holder=f"{holder}/over",
            entry_id=f"{series}.over",
            number=number,
        )
    # The rows of one day lie together, whatever app they are of.
    rows = [{**row, "id": f"{series}.{app}.{index}", "number": number} for index, row in enumerate(batch["rows"])]
    if rows:
        await store.add_usage(rows)


def unseen_row(intent: Mapping[str, Any], usd_nanos: int, *, estimated: bool) -> Row:
    """The row of a call that an `intent` line announced and whose answer was not metered."""
    labels = {name: intent[name] for name in ("day", "app", "owner", "cost_center")}
    return labels | {"requests": 1, "cost_usd_nanos": usd_nanos, "estimated": int(estimated)}


class Models:
    """Which model names get a usage row of their own: names come from requests and answers, and a hostile app must not
    fill the store with them. Beyond MODELS_PER_APP in one day they are counted as `other`."""

    def __init__(self) -> None:
        self._day = ""
        self._known: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter()

    def label(self, app: str, day: str, model: str) -> str:
        """`model` made printable and short, or `other`."""
        if day > self._day:
            self._day = day
            self._known.clear()
            self._counts.clear()
        text = model[:MODEL_CHARACTERS]
        if not text.isprintable():
            text = "".join(character if character.isprintable() else "?" for character in text)
        if (app, text) not in self._known:
            if self._counts[app] >= MODELS_PER_APP:
                return OTHER_MODEL
            self._counts[app] += 1
            self._known.add((app, text))
        return text


def usage_row(app: AppPolicy, day: str, model: str, usage: Usage, cost: Cost, *, saved: bool) -> Row:
    """One call. A cache hit's tokens were not used again: only its request and what it saved are counted, so that the
    sums compare with the providers' bills."""
    row: Row = {
        "day": day,
        "app": app.app,
        "owner": app.owner,
        "cost_center": app.cost_center,
        "provider": usage.provider,
        "model": model,
        "requests": 1,
    }
    if saved:
        return row | {"cache_hits": 1, "saved_usd_nanos": cost.usd_nanos}
    return row | {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd_nanos": cost.usd_nanos,
        "estimated": int(usage.estimated),
        "unpriced": int(not cost.priced),
    }
