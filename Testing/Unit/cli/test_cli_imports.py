"""What importing the library brings in, and what it must never need."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
LIBRARY = REPOSITORY / "D24FADLib"
FILES = sorted(LIBRARY.rglob("*.py"))
SLICER = {"slicer", "qt", "ctk", "vtk", "MRMLCorePython"}
HEAVY = ["torch", "monai", "SimpleITK", "scipy", "pydicom", "matplotlib", "openvino"]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", ["D24FADLib", "D24FADLib.cli"])
def test_importing_is_light(what: str) -> None:
    out = python(f"import sys, json, {what}; print(json.dumps(sorted(sys.modules)))")
    assert [name for name in HEAVY if name in json.loads(out)] == []


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_no_file_needs_slicer() -> None:
    assert len(FILES) > 20
    found = {
        path.relative_to(REPOSITORY).as_posix(): sorted(names)
        for path in FILES
        if (names := imported(ast.parse(path.read_text(encoding="utf-8"))) & SLICER)
    }
    assert found == {}


def test_every_module_imports_without_slicer() -> None:
    modules = [
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.name != "__main__.py"
    ]
    code = f"""
import importlib, sys
for name in {sorted(SLICER)!r}:
    sys.modules[name] = None  # importing it raises ImportError
for name in {modules!r}:
    importlib.import_module(name)
print("all", {len(modules)})
"""
    assert python(code).split() == ["all", str(len(modules))]
