"""`dataclass` for values on the hot path: frozen where mistakes are looked for, cheap where they are not.

A frozen dataclass sets each field through `object.__setattr__`, which doubles the cost of making one; a request makes
some thirty. Workers run with `python -O`: there the same classes are made unfrozen, with the same equality and hash.
Type checkers and every test see them frozen.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: Any = None, /, *, frozen: bool = False, eq: bool = True, **options: Any) -> Any:
        """As dataclasses.dataclass, but `frozen` means hashable and not enforced under `python -O`."""
        if frozen and not __debug__:
            return dataclasses.dataclass(cls, frozen=False, eq=eq, unsafe_hash=eq, **options)
        return dataclasses.dataclass(cls, frozen=frozen, eq=eq, **options)


__all__ = ["dataclass"]
