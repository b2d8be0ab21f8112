"""How to install what a message says is missing."""

import re
from pathlib import Path

from rf_repro.core.provenance import ROOT


def extra_hint(extra: str) -> str:
    """The command that installs an extra of pyproject.toml.

    In a checkout it installs from there. Anywhere else it names the package: pip finds the one that is installed, from a wheel or
    from a checkout in another folder, and adds the extra to it.
    """
    # A snapshot of a checkout has its pyproject.toml, one of an installed package has none: both as what they were made from.
    ours = _holds_project(ROOT) and _holds_project(Path.cwd())
    return f"pip install -e '.[{extra}]'" if ours else f"pip install 'rf_repro[{extra}]'"


def _holds_project(folder: Path) -> bool:
    """Whether a folder's pyproject.toml is this project's. Some packages leave one of theirs where pip installs them."""
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r'^name = "rf_repro"$', text, re.MULTILINE) is not None
