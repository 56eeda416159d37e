"""What a service refuses, as the error that the same call raises where the index is here."""

from clipsearch.engines.vespa.http.connection import Reply
from finetune import errors
from finetune.errors import ClipsearchError, EngineError, IndexAccessError

PROBLEM_TYPE = "urn:clipsearch:problem:"
_LONGEST = 300


def error_of(target: str, reply: Reply) -> ClipsearchError:
    """Return the error that an answer tells of; its sentence is the service's own."""
    content = reply.json()
    if not isinstance(content, dict) or not isinstance(content.get("detail"), str):
        shown = " ".join(reply.body.decode(errors="replace").split())[:_LONGEST]
        return EngineError(f"{target}: answered {reply.status} ({shown})")
    kind = str(content.get("type", "")).removeprefix(PROBLEM_TYPE)
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, ClipsearchError):
        return found(content["detail"])
    refused = IndexAccessError if reply.status in (401, 403) else EngineError
    return refused(f"{target}: {content['detail']}")
