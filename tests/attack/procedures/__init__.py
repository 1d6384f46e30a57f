"""Procedures: named scenarios for processes, files and clocks. A module here holds functions marked with `@procedure`.

A procedure gets a `Bench` and reports what is wrong with `bench.problem(...)`; one that raises has failed.
"""

import importlib
import pkgutil
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from tests.attack.limit import OutOfTime, limited
from tests.attack.world import NetWorld

LIMIT_S: Final = 300.0
CLEAN_UP_S: Final = 90.0


@dataclass
class Bench:
    """What a procedure works with. `world` is made at first use, and thrown away when `fresh` was asked for. `seen`:
    figures for the report."""

    case: str
    shared: "Shared"
    problems: list[str] = field(default_factory=list)
    leaked: bool = False
    seen: str = ""

    @property
    def world(self) -> NetWorld:
        """The world that all procedures share, which must be left as it was found."""
        return self.shared.world()

    def check(self, condition: object, problem: str) -> None:
        """Notes the problem unless the condition holds."""
        if not condition:
            self.problems.append(problem)

    def leak(self, problem: str) -> None:
        """Something got out that must not."""
        self.leaked = True
        self.problems.append(problem)


@dataclass
class Shared:
    """The world of the procedures; `renew` after a procedure that broke it."""

    baseline: str
    stack: ExitStack = field(default_factory=ExitStack)
    _world: NetWorld | None = None

    def world(self) -> NetWorld:
        """The running one, or a new one."""
        if self._world is None:
            self._world = self.stack.enter_context(NetWorld(baseline=self.baseline))
        return self._world

    def bury(self) -> None:
        """Before a case begins: a world whose proxy has ended is of no use to it."""
        if self._world is not None and not self._world.alive:
            self.renew()

    def renew(self) -> list[str]:
        """The next procedure gets a new world. What went wrong while the old one ended, in words."""
        self._world = None
        try:
            with limited(CLEAN_UP_S):
                self.stack.close()
        except (Exception, OutOfTime) as error:
            return [f"the world did not end cleanly: {type(error).__name__}: {error}"]
        return []


@dataclass(frozen=True)
class Procedure:
    """`fresh`: begins with a world of its own, and leaves none."""

    case: str
    run: Callable[[Bench], None]
    fresh: bool
    baseline: bool
    limit_s: float


_FOUND: list[Procedure] = []


def procedure(
    *cases: str, fresh: bool = False, baseline: bool = False, limit_s: float = LIMIT_S
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Marks a scenario for the cases. `baseline`: it means something for a bare mitmdump too. `limit_s`: when it is
    given up, worlds included."""

    def mark(act: Callable[[Bench], None]) -> Callable[[Bench], None]:
        _FOUND.extend(Procedure(case, act, fresh, baseline, limit_s) for case in cases)
        return act

    return mark


def all_of(baseline: str) -> list[Procedure]:
    """Every procedure, those that share a world first."""
    if not _FOUND:
        for module in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{module.name}")
    return [one for one in sorted(_FOUND, key=lambda one: one.fresh) if one.baseline or not baseline]


def carry_out(found: Procedure, shared: Shared, report: Any, titles: dict[str, Any]) -> None:
    """Runs one and reports it. Whatever it does, the next one finds a world that works."""
    started_s = time.monotonic()
    if found.fresh:
        shared.renew()
    else:
        shared.bury()
    bench = Bench(found.case, shared)
    broke = False
    try:
        with limited(found.limit_s):
            found.run(bench)
    except (Exception, OutOfTime) as error:
        broke = True
        where = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(where) if "procedures" in frame.filename), where[-1])
        bench.problems.append(f"broke at line {ours.lineno}: {type(error).__name__}: {error}")
    if found.fresh or broke:
        bench.problems += shared.renew()
    report.add(found.case, found.run.__name__, bench.problems, leaked=bench.leaked, seen=bench.seen)
    report.seconds[found.case] += time.monotonic() - started_s
    report.row(found.case, titles.get(found.case, {}).get("attack", found.run.__name__))
