"""The address of a server: what it says, and the name and password that may be in it.

A password goes to the server and nowhere else: messages, ledgers and answers show the address
without it.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote, urlsplit

from finetune.errors import EngineError
from finetune.text.masking import has_control_characters

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    """Scheme, host, port and perhaps a path.

    Attributes:
        scheme: "http" or "https".
        host: Without the brackets of an IPv6 address.
        port: The scheme's own where none is given.
        path: Before what is asked for, without a / at its end.
        shown: The whole address as it was given, without name and password: for people.
        authorization: The header's value for name and password; None where none are given.
    """

    scheme: str
    host: str
    port: int
    path: str
    shown: str
    authorization: str | None

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read an address.

        Raises EngineError where it is none, or would send a password in the open.
        """
        shown = without_credentials(address)
        reason, port = "", None
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            parts, host, reason = urlsplit(""), "", str(error)
        if reason or parts.scheme not in ("http", "https") or not _can_be_host(host):
            is_web = address.lower().startswith(("http://", "https://"))
            if not reason or not is_web:
                reason = "not of the form http://HOST:PORT"
            if is_web and "@" in address:  # the reason may quote a part of the password
                reason = "write / ? # @ % in a password as %2F %3F %23 %40 %25"
            raise EngineError(f"{shown}: is no address ({reason})")
        authorization = None
        if parts.username is not None:
            authorization = _basic(shown, unquote(parts.username), unquote(parts.password or ""))
            if parts.scheme == "http" and host not in LOOPBACK:
                raise EngineError(
                    f"{shown}: the user name and password of this address would travel in the"
                    f" open; take an https:// address"
                )
        return cls(
            scheme=parts.scheme,
            host=host,
            port=port or (443 if parts.scheme == "https" else 80),
            path=parts.path.rstrip("/"),
            shown=shown.rstrip("/"),
            authorization=authorization,
        )


def without_credentials(address: str) -> str:
    """Return the address without its user name and password, for people and for names of files."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    # What stands before the last @ may be a password with any of / ? # left as they are.
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else address


def _can_be_host(host: str) -> bool:
    return bool(host) and not any(letter.isspace() or not letter.isprintable() for letter in host)


def _basic(shown: str, user: str, password: str) -> str:
    """Return the header's value, as https://www.rfc-editor.org/rfc/rfc7617 has it."""
    known = f"{user}:{password}"
    if has_control_characters(known):
        raise EngineError(
            f"{shown}: the user name or password of this address holds a control character (a line"
            f" end from a file, perhaps); write them without"
        )
    return f"Basic {b64encode(known.encode()).decode()}"
