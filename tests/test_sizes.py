"""Rooms stay small: a file is read in one sitting, a function on one screen."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rf_repro", "evaluators", "slurm", "reports", "ablations", "tests", "benchmarks")
FILE, SCREEN = 350, 60  # lines of a file, of a function's code
REASON = "# long: "  # just above `def` or its decorators, where a function is longer for a reason


def sources() -> dict[str, str]:
    """The text of every Python file of ours."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def long_functions(text: str) -> dict[str, int]:
    """Lines of functions that are over a screen and give no reason: without blank lines, comments and the docstring."""
    lines, found = text.splitlines(), {}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        told = node.body[0] if ast.get_docstring(node) is not None else None
        documented = range(told.lineno, (told.end_lineno or 0) + 1) if told else ()
        code = [lines[at - 1].strip() for at in range(node.lineno, (node.end_lineno or 0) + 1) if at not in documented]
        size = sum(bool(line) and not line.startswith("#") for line in code)
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        has_reason = lines[first - 2].strip().startswith(REASON) and len(lines[first - 2].strip()) > len(REASON.strip())
        if size > SCREEN and not (first > 1 and has_reason):
            found[node.name] = size
    return found


def test_no_file_is_longer_than_it_may_be() -> None:
    found = sources()
    assert len(found) > 300
    assert {name: len(text.splitlines()) for name, text in found.items() if len(text.splitlines()) > FILE} == {}


def test_no_function_is_over_a_screen_without_a_reason_beside_it() -> None:
    assert {f"{name}:{which}": size for name, text in sources().items() for which, size in long_functions(text).items()} == {}


def test_what_counts_as_a_functions_code() -> None:
    body = '    """Told\n\n    at length."""\n' + "    x = 1\n\n    # why\n" * (SCREEN - 1)
    assert long_functions(f"def whole():\n{body}") == {}
    longer = f"@cached\ndef more():\n{body}    x = 2\n"
    assert long_functions(longer) == {"more": SCREEN + 1}
    assert long_functions(f"{REASON}one table\n{longer}") == {}
    assert long_functions(f"{REASON}\n{longer}") == {"more": SCREEN + 1}  # no reason at all
    assert long_functions(f"class One:\n{''.join(f'    {line}' + chr(10) for line in longer.splitlines())}") == {
        "more": SCREEN + 1
    }
