"""Forms with files, as https://www.rfc-editor.org/rfc/rfc7578 has them."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

QUESTION_FIELD = "question"


def form(
    question: Mapping[str, Any], files: Mapping[str, bytes], field: str = QUESTION_FIELD
) -> tuple[bytes, str]:
    """Return body and content type of a form: JSON in a field (`question`), and files by field."""
    boundary = uuid.uuid4().hex
    parts = [
        _part(boundary, f'name="{field}"', "application/json", json.dumps(question)),
        *(
            _part(boundary, f'name="{name}"; filename="{name}"', "application/octet-stream", data)
            for name, data in files.items()
        ),
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _part(boundary: str, names: str, media_type: str, content: str | bytes) -> bytes:
    head = (
        f"--{boundary}\r\nContent-Disposition: form-data; {names}\r\n"
        f"Content-Type: {media_type}\r\n\r\n"
    )
    data = content.encode() if isinstance(content, str) else content
    return head.encode() + data + b"\r\n"
