"""Loads the programs of all methods, and prints how close each case came."""

import importlib
from pathlib import Path

from parity.harness import LINES

for _file in sorted(Path(__file__).parent.glob("method_*.py")):
    importlib.import_module(f"parity.{_file.stem}")


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash.get(LINES, {})
    if not report:
        return
    terminalreporter.section("parity with the reference")
    width = max(map(len, report))
    for name, line in sorted(report.items()):
        terminalreporter.write_line(f"{name:<{width}}  {line}")
