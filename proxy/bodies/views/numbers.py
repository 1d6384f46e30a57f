"""JSON numbers written with a point or an exponent, as the whole number they stand for."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from proxy.bodies.views import Reading

_NUMBER: Final = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,2})?")


def view(text: str) -> Sequence[Reading]:
    """`4.111e15` reads `4111000000000000`; the token can only be replaced whole."""
    if not text[-1:].isdigit() or text.isdigit() or not _NUMBER.fullmatch(text):
        return ()
    value = Decimal(text)
    if value != value.to_integral_value():
        return ()
    size = len(text)
    return (Reading(str(int(abs(value))), lambda _start, _end: (0, size), whole=True),)


VIEW: Final = view
