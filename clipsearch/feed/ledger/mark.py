"""Whether a ledger still says what the index holds, where others feed that index too.

The index knows its last feed by a random token, and which feeds have begun and not ended. A feed

1. notes in its ledger that it is pending, under a new token, and after which feed the ledger was
   found to say what the index holds;
2. writes into the index that it is the last feed now, open, and after which one it came;
3. writes documents, each noted in the ledger once it is acknowledged;
4. takes itself out of the open ones. Where somebody has begun meanwhile it leaves a new token, so
   that nobody's ledger claims to know what it wrote;
5. notes in its ledger that both said the same after it, or that they may not.

So a ledger says what the index holds if its last feed is that of the index and none is open. Killed
before 2, nothing has happened. Killed after it, the ledger finds itself pending: what it lacks was
written by its own feed alone, if that came right after the one that the ledger knew, and nobody
after it; then the same data set goes on, and what was acknowledged last is written once more. In
every other case all documents are visited, without their embeddings, and the ledger is brought to
what they say. That takes as long as the index is large: on a Vespa a request for every 500.

A folder's feeds keep each other out (`index_lock`), so none of its open feeds is at work. On a
Vespa one that was killed stays open until its ledger is used again, or for OPEN_DAYS: until then
every other ledger's feed visits the index.
"""

import time
import uuid
from dataclasses import replace

from clipsearch.engine import Engine, IndexInfo
from clipsearch.feed.ledger.entry import PendingFeed
from clipsearch.feed.ledger.ledger import Ledger
from clipsearch.feed_facts import OpenFeed

OPEN_DAYS = 7
_SECONDS_A_DAY = 86_400


class FeedMark:
    """The marks of one feed or delete, in ledger and index."""

    def __init__(self, engine: Engine, ledger: Ledger, *, alone: bool) -> None:
        """`alone` where a lock keeps every other feed of this index out."""
        self._engine = engine
        self._ledger = ledger
        self._alone = alone
        self._token = ""
        self._agreed_after: str | None = None
        left = ledger.pending
        self._left = "" if left is None else left.token

    def is_current(self) -> bool:
        """Return whether the ledger says what the index holds."""
        info = self._engine.info
        if not info.last_feed or self._open_beside(info):
            return False
        return self._ledger.last_feed == info.last_feed

    def goes_on(self, data_set: str | None) -> bool:
        """Return whether the ledger lacks only what its own stopped feed of `data_set` wrote."""
        info, pending = self._engine.info, self._ledger.pending
        if pending is None or pending.agreed_after is None or pending.data_set != data_set:
            return False
        if pending.token != info.last_feed or self._open_beside(info):
            return False
        mine = [each for each in info.open_feeds if each.token == pending.token]
        return any(each.after == pending.agreed_after for each in mine)

    def agree(self) -> None:
        """Let ledger and index say the same, but for who feeds from now on, or is at it."""
        info = self._engine.info
        self._agreed_after = None if self._open_beside(info) else info.last_feed

    def begin(self, data_set: str) -> None:
        """Take steps 1 and 2, before the first write to the index; no more than once.

        Args:
            data_set: That is fed; empty where documents are only deleted.
        """
        if self._token:
            return
        self._token = uuid.uuid4().hex

        def begun(info: IndexInfo) -> IndexInfo:
            # Whoever has begun since the ledger was compared writes what it does not know.
            if info.last_feed != self._agreed_after:
                self._agreed_after = None
            mine = OpenFeed(self._token, time.time(), info.last_feed)
            return replace(info, last_feed=self._token, open_feeds=(*self._open_beside(info), mine))

        self._ledger.begin_feed(PendingFeed(self._token, data_set, self._agreed_after))
        self._engine.change_info(begun)

    def end(self) -> None:
        """Take steps 4 and 5, after the last write.

        Where nothing was written, only what was found is kept.
        """
        if not self._token:
            info = self._engine.info
            if self._agreed_after == info.last_feed and not self._open_beside(info):
                self._ledger.end_feed(info.last_feed)
            return
        alone_since = False

        def ended(info: IndexInfo) -> IndexInfo:
            nonlocal alone_since
            others = tuple(each for each in info.open_feeds if each.token != self._token)
            alone_since = info.last_feed == self._token and not others
            token = self._token if info.last_feed == self._token else uuid.uuid4().hex
            return replace(info, last_feed=token, open_feeds=others)

        self._engine.change_info(ended)
        complete = alone_since and self._agreed_after is not None
        self._ledger.end_feed(self._token if complete else "")

    def _open_beside(self, info: IndexInfo) -> tuple[OpenFeed, ...]:
        """Return the open feeds that may be at work, without the one that this ledger has left."""
        if self._alone:
            return ()
        oldest = time.time() - OPEN_DAYS * _SECONDS_A_DAY
        return tuple(
            each for each in info.open_feeds if each.token != self._left and each.began > oldest
        )
