"""After a committed transition: tell whoever is due. A message lost here costs time only, the sweeper tells again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from etl_tasks.core.records import Transition
from etl_tasks.errors import TransientError, Unreachable
from etl_tasks.pipeline.ports import Dispatcher, Journal

log = structlog.get_logger(__name__)


def log_given_up(transitions: Iterable[Transition]) -> None:
    """Say which slices became errors though nobody's attempt ended so: a killed child says nothing."""
    for transition in transitions:
        log.error(
            "slice_given_up",
            process=transition.process_name,
            run=transition.run_id,
            slice=transition.given_up,
            partition=transition.partition,
            reason="its attempts are spent and nobody works on it any more; its last_error has their last words",
        )


def dispatch_run(journal: Journal, dispatcher: Dispatcher, run_id: int, manual: bool) -> int:
    """Send every released slice of the run that nobody has sent, one chord a partition; the number sent.

    Raises Unreachable.
    """
    sent = 0
    for partition, slice_ids in journal.slices.unsent(run_id).items():
        dispatcher.send_partition(partition, slice_ids, manual)
        journal.slices.mark_sent(slice_ids)
        sent += len(slice_ids)
    if sent:
        journal.runs.mark_running(run_id)
    return sent


def send_publishes(dispatcher: Dispatcher, partitions: Sequence[int]) -> None:
    """Offer publishes that have just been made due; never raises for a broker that is away."""
    try:
        for partition in partitions:
            dispatcher.send_publish(partition)
    except TransientError as error:
        log.warning("dispatch_failed", error=str(error), next="the sweeper sends what is due")


def tell(
    journal: Journal, dispatcher: Dispatcher, transitions: Iterable[Transition], manual: bool | None = None
) -> None:
    """Offer what the transitions made due: halves of a split, the publish, the next partitions, the end of the run.

    The run's lane chooses the queue; ``manual`` overrides it. Stops at the first service that is away: each further
    message would cost its time-outs again (121 s with a Redis that has gone silent), and the sweeper sends them all.
    """
    for transition in transitions:
        try:
            _tell_one(journal, dispatcher, transition, transition.manual if manual is None else manual)
        except TransientError as error:
            log.warning(
                "dispatch_failed",
                run=transition.run_id,
                process=transition.process_name,
                partition=transition.partition,
                error=str(error),
                next="the sweeper sends what is due",
            )
            if isinstance(error, Unreachable):
                return


def _tell_one(journal: Journal, dispatcher: Dispatcher, transition: Transition, manual: bool) -> None:
    if transition.children:
        _send_children(journal, dispatcher, transition.children, manual)
    if transition.publish_due:
        dispatcher.send_publish(transition.partition)
    if transition.released_partitions:
        dispatch_run(journal, dispatcher, transition.run_id, manual)
    if transition.finalize_due:
        dispatcher.send_finalize(transition.run_id)


def _send_children(journal: Journal, dispatcher: Dispatcher, children: Sequence[int], manual: bool) -> None:
    dispatcher.send_slices(children, manual)
    journal.slices.mark_sent(children)
