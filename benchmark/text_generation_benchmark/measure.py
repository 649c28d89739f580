"""All batch sizes in turn, with progress on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from text_generation_benchmark.config import BenchmarkConfig
from text_generation_benchmark.http_target import HttpTarget
from text_generation_benchmark.shard_target import ShardTarget
from text_generation_benchmark.timing import BatchTimes, Target


class Measurement:
    """What was asked and what is known so far: also in the middle of it."""

    def __init__(self, config: BenchmarkConfig) -> None:
        self.config = config
        self.facts: dict[str, str] = {}
        self.batches: list[BatchTimes] = []

    @property
    def measured(self) -> list[BatchTimes]:
        """The batch sizes of which at least one run was counted."""
        return [batch for batch in self.batches if batch.runs]

    async def run(self, console: Console) -> None:
        """Measure everything. Raises `BenchmarkError`; what was measured before stays."""
        target: Target = (
            ShardTarget(self.config) if self.config.url is None else HttpTarget(self.config)
        )
        try:
            self.facts = await target.describe()
            with _progress(console) as progress:
                for batch_size in self.config.batch_sizes:
                    await self._run_batch(target, batch_size, progress)
        finally:
            await target.close()

    async def _run_batch(self, target: Target, batch_size: int, progress: Progress) -> None:
        config = self.config
        found = BatchTimes(batch_size, config.sequence_length, config.num_decodes)
        self.batches.append(found)
        task = progress.add_task(f"batch size {batch_size}", total=config.warmups + config.runs)
        for number in range(config.warmups + config.runs):
            time = await target.run(batch_size)
            if number >= config.warmups:
                found.runs.append(time)
            progress.advance(task)
        progress.remove_task(task)
        progress.console.print(
            f"batch size {batch_size}: prefill {found.prefill_ms.p50:.2f} ms, "
            f"decode {found.decode_token_ms.p50:.2f} ms a token "
            f"(medians of {config.runs} runs)",
            highlight=False,
        )


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """A bar on a terminal; elsewhere only the lines that are printed."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        yield progress
