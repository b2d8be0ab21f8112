"""The report's files: page, Markdown, verdicts, and every table and figure on its own. Each is replaced whole."""

import re
from pathlib import Path

import pandas as pd
from pandas.api.types import is_object_dtype, is_string_dtype

from reports.document import Document
from reports.escape import for_csv
from reports.html import render_html
from reports.latex import render_latex
from reports.markdown import render_markdown
from rf_repro.core.errors import UserError
from rf_repro.core.files import atomic_path, read_json, write_json, write_text
from rf_repro.core.hashing import file_sha256

PART = re.compile(r"tables/\w[\w.-]*\.(csv|parquet|tex)|figures/\w[\w.-]*\.png")


def write_report(document: Document, out: Path) -> Path:
    """Writes report.md, claims.json, tables/ (CSV, Parquet, and LaTeX of those made for print), figures/ and, last, report.html.

    Tables and figures that an earlier report left and this one does not have are removed, where they are still what it wrote:
    `files.json` lists them with their SHA-256. It may come from anywhere, so it is believed of nothing else.

    Returns:
        The path of report.html.

    Raises:
        UserError: `out` is a file, or cannot be written.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    for name in ("tables", "figures"):
        if (out / name).is_symlink():
            raise UserError(f"--out {out}: {name} is a link to another folder; remove the link or name another folder")
    manifest = out / "files.json"
    before = _listed(manifest)
    written = {name: file_sha256(out / name) for name in sorted(_write_parts(document, out))}
    write_json(out / "claims.json", [result.to_dict() for result in document.claims])
    write_text(out / "report.md", render_markdown(document))
    write_json(manifest, before | written)  # whoever is stopped between here and the last line leaves nothing unlisted
    for stale in before.keys() - written.keys():
        path = out / stale
        if path.is_file() and not path.is_symlink() and file_sha256(path) == before[stale]:
            path.unlink()
    write_json(manifest, written)
    write_text(out / "report.html", render_html(document))
    return out / "report.html"


def _listed(manifest: Path) -> dict[str, str]:
    """What a report's manifest lists, of the names that a report gives alone."""
    found = read_json(manifest) if manifest.exists() else {}
    return {name: digest for name, digest in found.items() if PART.fullmatch(name)} if isinstance(found, dict) else {}


def _write_parts(document: Document, out: Path) -> set[str]:
    written = set()
    for table in document.tables:
        stem = f"tables/{table.name}"
        if table.records:
            frame = pd.DataFrame(list(table.records))
            write_text(out / f"{stem}.csv", _csv(frame))
            with atomic_path(out / f"{stem}.parquet") as temporary:
                _one_type_a_column(frame).to_parquet(temporary, index=False)
            written |= {f"{stem}.csv", f"{stem}.parquet"}
        if table.printed:
            write_text(out / f"{stem}.tex", render_latex(table))
            written.add(f"{stem}.tex")
    for figure in document.figures:
        name = f"figures/{figure.name}.png"
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(figure.png)
        written.add(name)
    return written


def _csv(frame: pd.DataFrame) -> str:
    """For people with spreadsheets; Parquet has the records as they are."""
    texts = [name for name in frame.columns if is_object_dtype(frame[name]) or is_string_dtype(frame[name])]
    safe = frame.assign(**{name: frame[name].map(for_csv, na_action="ignore") for name in texts})
    return safe.rename(columns=for_csv).to_csv(index=False)


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Parquet columns hold one type: a column of both texts and numbers becomes text; one without any value, numbers."""
    for name in frame.columns:
        if not is_object_dtype(frame[name]):
            continue
        values = frame[name].dropna()
        if values.empty:
            frame[name] = frame[name].astype(float)
        elif len({isinstance(value, str) for value in values}) == 2:
            frame[name] = frame[name].map(str, na_action="ignore")
    return frame
