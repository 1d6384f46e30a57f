"""`synthesize`: an invented person, address or number, the same for the same value within the app, put back in
answers. A model reads on without noticing; nobody real is named, written to or called."""

from hashlib import blake2b
from typing import Final

from proxy.actions.base import Action, StandIn, Value, subkey
from proxy.actions.inventions import INVENTIONS, Dice
from proxy.placeholders import normalise


def _replace(value: Value) -> StandIn | None:
    invent = INVENTIONS.get(value.entity)
    if invent is None:
        return None
    like = value.original if value.original.isascii() else value.meaning
    message = f"{value.entity}\0{normalise(value.entity, value.meaning)}".encode("utf-8", "surrogatepass")
    digest = blake2b(message, key=subkey(value.key, "synthesize"), digest_size=32).digest()
    return StandIn(invent(Dice(int.from_bytes(digest)), like), restores=True)


ACTION: Final = Action("synthesize", _replace)
