"""New requests pass a few at a time."""

import asyncio
from itertools import pairwise

from text_generation_router.http.preparation_gate import PreparationGate


async def test_a_burst_is_spread_over_rounds_in_order() -> None:
    gate = PreparationGate(requests_per_round=2)
    passed: list[int] = []

    async def request(number: int) -> None:
        await gate.turn()
        passed.append(number)

    tasks = [asyncio.create_task(request(number)) for number in range(7)]
    counts = [0]
    while len(passed) < 7:
        await asyncio.sleep(0)
        counts.append(len(passed))
    await asyncio.gather(*tasks)
    assert passed == list(range(7))
    assert max(after - before for before, after in pairwise(counts)) <= 2


async def test_a_single_request_does_not_wait() -> None:
    gate = PreparationGate()
    turn = gate.turn()
    try:
        turn.send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("the gate was closed")


async def test_who_leaves_the_queue_takes_no_turn() -> None:
    gate = PreparationGate(requests_per_round=1)
    first, gone, stays = (asyncio.create_task(gate.turn()) for _ in range(3))
    await asyncio.sleep(0)
    assert first.done()
    gone.cancel()
    await asyncio.wait_for(stays, 5)
    assert gone.cancelled()


async def test_the_loop_is_the_one_that_serves() -> None:
    assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
