"""Count the lines of code that a newcomer reads: `python scripts/count_reading_path.py`.

Docstrings, comments and blank lines are not counted. Fails if there are more than the project allows itself
(CONTRIBUTING.md, "Reading the code").
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "synaptic_intelligence"
READING_PATH = ("tasks", "train.py", "consolidator.py", "functional.py", "metrics.py", "report")
MOST = 800

_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(source: str) -> int:
    """Return how many lines of ``source`` hold code.

    Example:
        >>> code_lines('"Doc."' + chr(10) + "# why" + chr(10) * 2 + "x = 1  # why" + chr(10) + "y = 2" + chr(10))
        2
    """
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Module(body=[first, *_])
                | ast.ClassDef(body=[first, *_])
                | ast.FunctionDef(body=[first, *_])
                | ast.AsyncFunctionDef(body=[first, *_])
            ):
                match first:
                    case ast.Expr(value=ast.Constant(value=str()), lineno=start, end_lineno=int(end)):
                        code.difference_update(range(start, end + 1))
    return len(code)


def main() -> None:
    """Print the count of each file and the total; exit with 1 if the total is too large."""
    total = 0
    for part in READING_PATH:
        path = PACKAGE / part
        if not path.exists():
            sys.exit(f"error: {path} is on the reading path, but does not exist")
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            count = code_lines(file.read_text(encoding="utf-8"))
            total += count
            print(f"{count:5} {file.relative_to(PACKAGE)}")
    print(f"{total:5} in all, of {MOST} at most")
    if total > MOST:
        sys.exit(f"error: the reading path is {total - MOST} lines too long: simplify, or move code off it")


if __name__ == "__main__":
    main()
