"""Indexes of a manifest on either engine, fed with the tiny encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vespa_stub import StubVespa

from clipsearch.engine import IndexInfo
from clipsearch.engines.vespa.http.connection import connect
from clipsearch.engines.vespa.index_info import write_info
from clipsearch.feed.feed import feed
from clipsearch.feed.options import FeedOptions

DIMENSION = 32  # of the tiny encoder


def fed(manifest: Path, index: str, encoder: Path, work: Path) -> str:
    """Feed a manifest without a fault; the ledger and the report lie in `work`."""
    options = FeedOptions(
        manifest=manifest,
        index=index,
        encoder=encoder,
        workers=0,
        ledger=work / "ledger.sqlite",
        report=work / "report.csv",
    )
    report = feed(options)
    assert report.fed > 0
    assert report.rejected == 0
    return index


@contextmanager
def fed_vespa(manifest: Path, encoder: Path, work: Path) -> Iterator[StubVespa]:
    """Run a stub Vespa that a manifest was fed to."""
    with StubVespa(dimension=DIMENSION) as stub:
        client = connect(stub.url)
        write_info(client, IndexInfo(DIMENSION))
        client.close()
        fed(manifest, stub.url, encoder, work)
        yield stub
