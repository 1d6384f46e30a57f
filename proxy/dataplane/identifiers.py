"""Exchange ids: sortable by time, unguessable enough to quote, unique over workers and restarts."""

import os
import time
from base64 import b32encode
from itertools import count

# 40 random bits per process and a counter: no system call per request.
_PREFIX = b32encode(os.urandom(5)).decode().lower()
_NUMBER = count(int(time.time() * 1000))


def new_id() -> str:
    """`<process>-<number>` in base 32 and base 16, 20 characters."""
    return f"{_PREFIX}-{next(_NUMBER):x}"
