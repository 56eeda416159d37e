"""What a feed does about documents without an embedding: it fills them, or says that it cannot."""

from dataclasses import replace

from clipsearch.engine import Engine
from clipsearch.feed.ledger.ledger import Ledger
from finetune.errors import EngineError


def forget_unembedded(ledger: Ledger, engine: Engine) -> int | None:
    """Make the ledger forget documents that the index holds without an embedding.

    What the manifest has of them is then fed whole. Returns how many there are; None where they
    could not be counted, which keeps no feed from what it came for.
    """
    try:
        if not engine.count_without_embedding():
            return 0
    except EngineError:
        return None
    gone = [one.id for one in engine.visit(embeddings=True) if one.embedding is None]
    ledger.doubt(gone)
    return len(gone)


def settle_unembedded(engine: Engine, before: int | None) -> list[str]:
    """Let the index know, after a feed, whether any are left; return a sentence where there are.

    `before` is what `forget_unembedded` returned.
    """
    if before == 0 and not engine.info.may_lack_embeddings:
        return []
    try:
        left = engine.count_without_embedding()
    except EngineError as error:
        return [f"documents without an embedding could not be looked for ({error})"]
    if engine.info.may_lack_embeddings != bool(left):
        engine.change_info(lambda info: replace(info, may_lack_embeddings=bool(left)))
    if left:
        return [
            f"{left:,} documents have no embedding, so that no search by vector finds them: this"
            f" manifest does not have them (--prune removes what was its own), or they were"
            f" rejected"
        ]
    return [f"{before:,} documents had lost their embedding, and have one again"] if before else []
