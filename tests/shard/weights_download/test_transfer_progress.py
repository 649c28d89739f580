import logging

from text_generation_shard.weights import transfer_progress as module
from text_generation_shard.weights.transfer_progress import TransferProgress


def test_reports_are_rare_never_exceed_the_total_and_end_with_it(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    times = iter((0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 1.8, 1.9, 2.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    progress = TransferProgress("Moving", {"a": 10, "b": 20})
    for _ in range(4):
        progress.advance("a", 2)
    progress.restart("a", 4)
    progress.advance("b", 50)
    progress.finish("b")
    progress.finish("a")
    done = [record.fields["bytes_done"] for record in caplog.records]
    assert done == [6, 30]
    assert caplog.records[0].fields["bytes_total"] == 30
    assert caplog.records[0].fields["progress"] == "Moving"


def test_nothing_to_move_is_nothing_to_report(caplog):
    caplog.set_level(logging.INFO)
    TransferProgress("Moving", {"a": 0}).finish("a")
    assert not caplog.records
