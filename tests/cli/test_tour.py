"""The calls that `make run` offers: complete, and each answer ends its line."""

import shlex
from itertools import groupby
from pathlib import Path

from proxy.cli._tour import tour


def test_every_transfer_ends_with_a_line_end(tmp_path: Path) -> None:
    calls = [shlex.split(line.removeprefix("try: ")) for line in tour(tmp_path)]
    assert len(calls) == 3
    for call in calls:
        curl = call[call.index("--") + 1 :]
        assert curl[0] == "curl"
        assert "--json" not in curl  # Ubuntu 22.04 has 7.81, which lacks it
        for is_next, words in groupby(curl, lambda word: word == "--next"):
            transfer = list(words)
            assert is_next or transfer[transfer.index("-w") + 1].endswith("\\n"), transfer


def test_the_state_directory_is_named_where_it_is_not_the_usual_one(tmp_path: Path) -> None:
    assert all(f"--state {tmp_path}" in line for line in tour(tmp_path))
    assert not any("--state" in line for line in tour(Path("state").absolute()))
