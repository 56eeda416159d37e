"""The extras of clipsearch: which are installed, and what those that are not would bring."""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from clipsearch.doctor.findings import Finding
from finetune.installing import install_command

# By extra of pyproject.toml, what cannot be done without it. `finetune` is looked at with torch.
NEEDED_FOR: Mapping[str, str] = MappingProxyType(
    {
        "serve": "no clipsearch serve, and no demo --serve",
        "watch": "no feed --watch",
        "heic": "no HEIC pictures, as iPhones take them",
        "pandas": "no DataFrames as manifests, and no to_pandas",
        "vespa": "no clipsearch deploy; an index that is deployed is fed and searched all the same",
        "trackers": "no finetune --trackers",
        "backtranslate": "no finetune --back-translate",
    }
)
_REQUIREMENT = re.compile(r"""(?P<package>[\w.-]+).*\bextra\s*==\s*["'](?P<extra>[\w-]+)["']""")


def extras() -> Iterator[Finding]:
    """Look which extras are installed whole; one that is not is a note with its mend."""
    whole = []
    for extra, packages in packages_of_extras().items():
        missing = [name for name in packages if not is_installed(name)]
        if not missing:
            whole.append(extra)
            continue
        # Others may have brought some of them.
        said = f"without {missing[0]}" if 2 * len(missing) < len(packages) else "not installed"
        yield Finding(
            f"extra {extra}", "yellow", f"{said}: {NEEDED_FOR[extra]}", install_command(extra)
        )
    if whole:
        yield Finding("extras", "green", f"{', '.join(whole)} installed")


def packages_of_extras() -> dict[str, list[str]]:
    """Return the packages of each extra of NEEDED_FOR, as clipsearch was installed with.

    Nothing where it was not installed, but runs from its folder.
    """
    try:
        requirements = importlib.metadata.requires("clipsearch") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        parts = _REQUIREMENT.match(requirement)
        if parts is None or parts["package"] == "clipsearch" or parts["extra"] not in NEEDED_FOR:
            continue
        found.setdefault(parts["extra"], []).append(parts["package"])
    return {extra: found[extra] for extra in NEEDED_FOR if extra in found}


def is_installed(package: str) -> bool:
    """Return whether a package of this name, as it is installed by, is here."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
