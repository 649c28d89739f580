"""Long texts one at a time, in the order of arrival and length together."""

import asyncio

from text_generation_router.prompt.long_text_lane import LongTextLane


class Visitors:
    """Texts in a lane, and the order in which they came to their turn."""

    def __init__(self) -> None:
        self.lane = LongTextLane()
        self.order: list[str] = []

    async def enter(
        self, name: str, num_characters: int, may_leave: asyncio.Event | None = None
    ) -> None:
        async with self.lane.turn(num_characters):
            self.order.append(name)
            if may_leave is not None:
                await may_leave.wait()


async def test_shorter_ones_come_first_and_nobody_is_forgotten() -> None:
    visitors, may_leave = Visitors(), asyncio.Event()
    texts = [("first", 10**6), ("book", 10**6), ("chapter", 10**5), ("other", 10**5)]
    async with asyncio.TaskGroup() as group:
        for name, num_characters in texts:
            group.create_task(visitors.enter(name, num_characters, may_leave))
        await asyncio.sleep(0)
        assert visitors.order == ["first"]
        # As long as it takes a chapter to come after a book that came before.
        visitors.lane._waiting = [(wish - 10, *rest) for wish, *rest in visitors.lane._waiting]  # type: ignore[misc]
        group.create_task(visitors.enter("late", 10**5, may_leave))
        await asyncio.sleep(0)
        may_leave.set()
    assert visitors.order == ["first", "chapter", "other", "book", "late"]
    await visitors.enter("alone", 10**5)


async def test_who_goes_away_holds_up_nobody() -> None:
    """Also one whose turn has come and who has not run yet."""
    visitors, may_leave = Visitors(), asyncio.Event()
    first = asyncio.create_task(visitors.enter("first", 1, may_leave))
    gone = [asyncio.create_task(visitors.enter("gone", 2)) for _ in range(2)]
    last = asyncio.create_task(visitors.enter("last", 3))
    await asyncio.sleep(0)
    gone[1].cancel()
    may_leave.set()
    await asyncio.sleep(0)
    assert first.done() and not gone[0].done()
    gone[0].cancel()
    await asyncio.wait_for(last, 5)
    assert visitors.order == ["first", "last"]
    await asyncio.wait_for(visitors.enter("again", 1), 5)
