"""Budgets while the store is away: what a worker has leased goes on, also in one that has just begun to serve."""

import os
import signal
from contextlib import ExitStack

import orjson

from tests.faults.test_faults import store_pid
from tests.full_stack.kit import WORKERS, build_house, say
from tests.lab.product import eventually


def test_new_workers_serve_an_app_with_a_budget_while_the_store_is_away() -> None:
    with ExitStack() as stack:
        house = build_house(stack)
        product = stack.enter_context(house.product)
        house.openai("priced").chat.completions.create(**say("before"))

        def is_noted() -> bool:
            files = [orjson.loads(file.read_bytes()) for file in product.paths.pace_dir.glob("*.json")]
            return any(file["apps"].get("priced", (0, 0))[0] for file in files)

        eventually(is_noted, "the app's pace")
        before = {worker["id"] for worker in product.status()["workers"]}
        product.process.send_signal(signal.SIGHUP)

        def replaced() -> bool:
            serving = {worker["id"] for worker in product.status()["workers"] if worker["state"] == "serving"}
            return len(serving) == WORKERS and not serving & before

        eventually(replaced, "new workers", 60)
        store = store_pid(house.lab)
        os.kill(store, signal.SIGSTOP)
        try:
            # Each on a connection of its own, so that both workers have some.
            for number in range(4 * WORKERS):
                house.openai("priced").chat.completions.create(**say(f"while it is away {number}"))
        finally:
            os.kill(store, signal.SIGCONT)
