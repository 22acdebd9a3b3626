"""`scripts/docs`: writes every page that is not up to date, or with `--check` only tells which."""

from __future__ import annotations

import sys
from pathlib import Path

from reference import cli, config, errors, figures, http, python

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"


def wanted() -> dict[Path, str]:
    """What the pages should be."""
    pages = {"cli": cli.page(), "config": config.page(), "errors": errors.page(), "http": http.page()}
    pages["python"] = python.page()
    texts = {PAGES / f"{name}.md": text for name, text in pages.items()}
    readme = ROOT / "README.md"
    return {**texts, readme: figures.filled(readme.read_text("utf-8"), ROOT / "benchmarks" / "results")}


def main() -> int:
    """Write what is stale. With `--check` only tell it, and end with 1."""
    stale = {path: text for path, text in wanted().items() if not path.is_file() or path.read_text() != text}
    check = "--check" in sys.argv[1:]
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)} is not what scripts/docs makes" if check else path.relative_to(ROOT))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
