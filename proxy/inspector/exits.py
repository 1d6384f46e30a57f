"""How an inspector process ends, for those that start one. Without its model it says in three lines what it lacks."""

from typing import Final

STUCK: Final = 70
NO_MODEL: Final = 3
NO_SOCKET: Final = 4
