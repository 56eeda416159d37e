"""How an extra is installed, said in one place: clipsearch is on no package index yet."""


def install_command(extra: str) -> str:
    """Return what to type for an extra of pyproject.toml, for the end of a sentence."""
    return f"pip install '.[{extra}]' in a checkout of clipsearch"
