"""`clipsearch status`: what an index holds and knows about itself."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipsearch.cli.messages import note
from clipsearch.cli.options import index_option, json_option
from finetune.errors import EngineError, UsageError
from finetune.text.strict_json import dumps

if TYPE_CHECKING:
    from clipsearch.engine import Engine
    from clipsearch.engines.local.checksums import Verified


@click.command()
@index_option
@click.option(
    "--verify", is_flag=True, help="Read all files and compare them with their checksums."
)
@json_option
def status(index: str, verify: bool, as_json: bool) -> None:
    """Show what an index holds, which encoder filled it, and how much disk it takes.

    With --verify, exit code 1 where a file is not as it was written; it is named, with the mend.

    \b
    Examples:
      clipsearch status --index photos.index
      clipsearch status --index photos.index --verify
      clipsearch status --index http://localhost:8080 --json
    """
    from clipsearch.engines import is_remote, open_engine  # light path: NumPy

    if verify and is_remote(index):
        raise UsageError("--verify is for the files of an embedded index; Vespa checks its own")
    engine = open_engine(index)
    verified = None
    try:
        verified = _verify(Path(index)) if verify else None
        facts = facts_of(engine)
    except EngineError:
        if verified is not None:
            verified.check(Path(index))
        raise
    finally:
        engine.close()
    if verified is not None:
        facts["verified"] = {
            "files": verified.files,
            "broken": {str(path): reason for path, reason in verified.broken.items()},
            "notes": list(verified.notes),
        }
    click.echo(dumps(facts, indent=2) if as_json else _as_text(facts))
    if verified is not None:
        verified.check(Path(index))


def _verify(folder: Path) -> "Verified":
    from clipsearch.engines.local.checksums import verify  # light path

    found = verify(folder)
    for told in found.notes:
        note(f"{told}.")
    return found


def facts_of(engine: "Engine") -> dict[str, object]:
    """Return what `--json` prints: target, counts, disk_bytes (None for Vespa) and the IndexInfo.

    Of the counts, `without_embedding` is None where Vespa had no time to compare all vectors. Each
    data set has its number of documents; where a feed is at work or was stopped, the embedded
    engine reads all rows to count them.
    """
    from clipsearch.engines import is_remote
    from clipsearch.engines.local.folder import disk_bytes

    size = None if is_remote(engine.target) else disk_bytes(Path(engine.target))
    facts = {
        "index": engine.target,
        "count": engine.count(),
        "without_embedding": _count_without_embedding(engine),
        "disk_bytes": size,
    }
    return facts | engine.info.to_json() | {"data_sets": _data_sets(engine)}


def _data_sets(engine: "Engine") -> list[dict[str, object]]:
    """List each data set with its documents; last, without a name, an earlier version's."""
    counts = dict(engine.count_by_data_set())
    listed: list[dict[str, object]] = [
        asdict(each) | {"documents": counts.pop(each.name, 0)} for each in engine.info.data_sets
    ]
    return listed + [
        {"name": name, "manifest": None, "id_prefix": "", "documents": count}
        for name, count in sorted(counts.items(), key=lambda pair: (not pair[0], pair[0]))
        if count
    ]


def _count_without_embedding(engine: "Engine") -> int | None:
    try:
        return engine.count_without_embedding()
    except EngineError:
        return None


def _as_text(facts: dict[str, object]) -> str:
    fingerprint = facts["encoder_fingerprint"]
    encoder = f"{facts['encoder_name']} ({str(fingerprint)[:12]}) in {facts['encoder_path']}"
    size = facts["disk_bytes"]
    rows = {
        "index": facts["index"],
        "documents": (
            f"{facts['count']:,}{_without_embedding(facts['without_embedding'])}"
            f"{_earlier_form(facts['document_form'])}"
        ),
        "data sets": _data_sets_as_text(facts["data_sets"]),
        "dimension": facts["dimension"],
        "language": facts["language"],
        "encoder": "none: ready-made vectors" if fingerprint is None else encoder,
        "weights": _weights(facts),
        "ranking": _ranking(facts),
        "numbers": _columns(facts["number_columns"]),
        "dates": _columns(facts["date_columns"]),
        "tags": _columns(facts["tag_columns"]),
        "images": facts["images_root"] or "unknown",
        "disk": "on the server" if size is None else f"{int(str(size)) / 1e6:,.1f} MB",
    }
    if "verified" in facts:
        rows["verified"] = _verdict(facts["verified"])
    width = max(map(len, rows))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows.items())


def _weights(facts: dict[str, object]) -> str:
    # Light path: NumPy.
    from clipsearch.modes import Weights
    from clipsearch.weighing import weighted_sum_told

    told = weighted_sum_told(
        Weights(float(str(facts["bm25_weight"])), float(str(facts["vector_weight"])))
    )
    alone = "" if facts["word_share"] is None else " (of hybrid-rrf and hybrid-normalized alone)"
    return told + alone


def _ranking(facts: dict[str, object]) -> str:
    """Describe what ranks a text without --mode, and what calibration has gained."""
    # Light path: NumPy.
    from clipsearch.engine import RERANK_COUNT
    from clipsearch.json_records import record
    from clipsearch.modes import WordShare
    from clipsearch.reordering import Reorder
    from clipsearch.weighing import order_told, share_sum_told

    mode, share = facts["text_mode"] or "hybrid", facts["word_share"]
    calibration = facts["calibration"]
    if mode == "hybrid" and isinstance(share, dict):
        found = record(WordShare, share)
        mode = f"hybrid: {share_sum_told(found.weight)}: {order_told(found)}"
        if not isinstance(calibration, dict):
            return f"{mode} (measured on the captions of {found.images:,} images)"
    if isinstance(facts["reorder"], dict):
        order = record(Reorder, facts["reorder"])
        mode = f"{mode}, its first {RERANK_COUNT:,} hits by {order.told}"
    if not isinstance(calibration, dict):
        return f"{mode} (not calibrated)"
    return (
        f"{mode} (calibrated: {calibration['metric']} {calibration['gain']:+z.3f}"
        f" [{calibration['low']:+z.3f}, {calibration['high']:+z.3f}] over"
        f" {calibration['queries']:,} queries not learned from)"
    )


def _without_embedding(count: object) -> str:
    if count is None:
        return " (how many are without an embedding could not be counted)"
    if not count:
        return ""
    return f" ({count:,} of them without an embedding: no search by vector finds them; feed again)"


def _verdict(verified: object) -> str:
    assert isinstance(verified, dict)
    broken = len(verified["broken"])
    return f"{verified['files']:,} files, " + (f"{broken:,} BROKEN" if broken else "all whole")


def _earlier_form(form: object) -> str:
    from clipsearch.engines.vespa.filter_fields import FILTER_FORM  # light path: NumPy

    if isinstance(form, int) and form >= FILTER_FORM:
        return ""
    return " (fed by an earlier version: queries with filters are slow until the next feed)"


def _data_sets_as_text(data_sets: object) -> str:
    assert isinstance(data_sets, list)
    listed = [
        f"{each['name'] or 'none, of an earlier version'} {each['documents']:,}"
        + (f" ({each['manifest']})" if each["manifest"] else "")
        + (f", ids {each['id_prefix']}…" if each["id_prefix"] else "")
        for each in data_sets
    ]
    return ", ".join(listed) or "none"


def _columns(columns: object) -> str:
    return ", ".join(columns) if isinstance(columns, tuple) and columns else "none"
