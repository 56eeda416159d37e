"""Writing to Vespa: many requests under way, and nothing done before it is acknowledged.

Back-pressure is Vespa's own: where it has too much to do it answers 429, and fewer requests are
sent at once (`clipsearch.engines.vespa.http.throttle`). What is refused waits and is tried again,
holding its place, so that nothing new is pulled meanwhile.
"""

from collections.abc import Generator, Iterable, Iterator

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.http.connection import Client
from clipsearch.engines.vespa.index_info import ColumnPlaces
from clipsearch.engines.vespa.sending import Sending
from clipsearch.operations import Operation, Outcome


def feed(
    client: Client, operations: Iterable[Operation], info: IndexInfo, places: ColumnPlaces
) -> Generator[Outcome, None, None]:
    """Apply operations to the index of `info`; one Outcome each, as Vespa answers it.

    Outcomes come in the order in which Vespa answers. Two operations of one id are never under way
    together. Raises FeedStoppedError after the outcomes of all that was acknowledged: operations
    that are under way then have no outcome and must be fed again. Left early (closed, or by
    Ctrl-C), it waits for no answer any more.
    """
    under_way: set[str] = set()
    failure: BaseException | None = None
    sending = Sending(client, info, places)

    def collect(wait: bool) -> Iterator[Outcome]:
        nonlocal failure
        for done in sending.collect(wait):
            under_way.discard(done.operation.id)
            if done.outcome is not None:
                yield done.outcome
            elif failure is None:
                failure = done.failure
                sending.stop()

    try:
        pulled = iter(operations)
        while failure is None:
            try:
                operation = next(pulled)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            full = 2 * client.settings.connections  # no connection waits for the next pull
            while failure is None and (len(under_way) >= full or operation.id in under_way):
                yield from collect(wait=True)
            if failure is None:
                under_way.add(operation.id)
                sending.submit(operation)
                yield from collect(wait=False)
        while under_way:
            yield from collect(wait=True)
        if failure is not None:
            raise failure
    finally:
        sending.close()
