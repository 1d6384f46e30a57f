"""Tickets go to those who use them."""

from proxy.dataplane.tickets import FIRST, ONE_IN, Tickets


def test_an_app_that_never_resumes_gets_few() -> None:
    tickets = Tickets()
    given = [tickets.number("a", resumes=False) for _ in range(FIRST + 10 * ONE_IN)]
    assert given[:FIRST] == [1] * FIRST
    later = given[FIRST:]
    assert sum(later) == len(later) // ONE_IN
    assert all(any(later[at : at + ONE_IN]) for at in range(0, len(later), ONE_IN))


def test_whoever_resumes_always_gets_one_and_so_do_those_that_come_next() -> None:
    tickets = Tickets()
    for _ in range(2 * FIRST + 1):
        tickets.number("a", resumes=False)
    assert tickets.number("a", resumes=False) == 0
    assert [tickets.number("a", resumes=True) for _ in range(3)] == [1, 1, 1]
    assert [tickets.number("a", resumes=False) for _ in range(FIRST + 1)] == [1] * FIRST + [0]


def test_apps_are_counted_on_their_own() -> None:
    tickets = Tickets()
    for _ in range(FIRST + 1):
        tickets.number("a", resumes=False)
    assert tickets.number("a", resumes=False) == 0
    assert tickets.number("b", resumes=False) == 1
