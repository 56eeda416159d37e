"""What goes wrong, in one sentence that names the thing and says the mend."""


class ClipsearchError(Exception):
    """An error that the user can mend; its message is one clear sentence.

    The command line prints the message alone and exits with `exit_code`; a traceback appears
    only with `--debug`.
    """

    exit_code = 1


class UsageError(ClipsearchError):
    """A wrong option or a combination of options that cannot work."""

    exit_code = 2


class ManifestError(ClipsearchError):
    """The manifest is missing, is of no known format, or (with `--strict`) has bad rows."""


class ImageError(ClipsearchError):
    """One image cannot be read; the message names the reason, never just the exception."""


class EncoderError(ClipsearchError):
    """The encoder folder is incomplete, changed, or of a format version that we do not read."""


class EncoderMismatchError(EncoderError):
    """The index was filled by another encoder; both fingerprints are named."""


class HubError(ClipsearchError):
    """The Hugging Face hub is out of reach, refused, or sent something else than it named."""


class EngineError(ClipsearchError):
    """The engine refused, is out of reach, or answered something that we cannot trust."""


class IndexAccessError(EngineError):
    """The index refused who asks (401, 403)."""


class IndexVersionError(EngineError):
    """The index was written by a later version of clipsearch."""


class DocumentError(ClipsearchError):
    """A document that no engine would take."""


class DocumentNotFoundError(EngineError):
    """No document of that id is in the index."""


class TrainingError(ClipsearchError):
    """Training cannot start or cannot go on (loss not finite, checkpoint broken, disk full)."""


class TooLittleMemoryError(ClipsearchError):
    """Memory ran out; nothing that was read or written is broken."""
