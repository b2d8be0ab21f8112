"""Opens a page in a headless browser, as a reader would."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]


def look(page: Path, probe: str, width: int, dark: bool = False) -> tuple[Any, list[str]]:
    """Appends `probe` to a copy of the page; what it left as JSON in `<pre id="probe">`, and what the browser logged."""
    assert BROWSER is not None
    copy = page.with_name(f"probe-{width}.html")
    text = page.read_text(encoding="utf-8")
    if dark:
        text = text.replace("@media (prefers-color-scheme: dark)", "@media all")
    copy.write_text(text + probe, encoding="utf-8")
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900",
         f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console
