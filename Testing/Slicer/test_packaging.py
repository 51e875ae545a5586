"""What the extension's build installs, by CMake over a stand-in for Slicer's macros; its catalogue entry."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from d24fadhost.fixtures import ROOT

SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "missing: ${file}")
    endif()
    message(STATUS "INSTALLED ${MY_NAME} ${file}")
    # As Slicer's macro: into the build tree's folder of modules, and that is what is installed.
    set(to ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
    if(MY_WITH_SUBDIR)
      get_filename_component(subdir ${CMAKE_CURRENT_SOURCE_DIR} NAME)
      set(to ${to}/${subdir})
    endif()
    get_filename_component(below ${file} DIRECTORY)
    file(COPY ${CMAKE_CURRENT_SOURCE_DIR}/${file} DESTINATION ${to}/${below})
  endforeach()
  if(MY_WITH_SUBDIR)
    install(DIRECTORY ${to} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
      COMPONENT RuntimeLibraries)
  else()
    install(DIRECTORY ${to}/ DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}
      COMPONENT RuntimeLibraries)
  endif()
endmacro()
macro(slicer_add_python_unittest)
  message(STATUS "UNITTEST ${ARGN}")
endmacro()
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_build_installs_every_file(tmp_path):
    (tmp_path / "stand-in").mkdir()
    (tmp_path / "stand-in" / "SlicerConfig.cmake").write_text(SLICER_CONFIG)
    (tmp_path / "stand-in" / "nothing.cmake").write_text("")
    done = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DSlicer_DIR={tmp_path / 'stand-in'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    installed = {(name, Path(path)) for name, path in re.findall(r"INSTALLED (\S+) (\S+)", done.stdout)}
    for folder, name in (("D24FAD", "D24FAD"), ("D24FADLib", "D24FADLib")):
        files = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")}
        assert {path for owner, path in installed if owner == name and path.suffix == ".py"} == files
    resources = {
        path.relative_to(ROOT / "D24FAD")
        for path in (ROOT / "D24FAD" / "Resources").rglob("*")
        if path.is_file()
    }
    assert {path for owner, path in installed if owner == "D24FAD" and path.suffix != ".py"} == resources
    assert "UNITTEST SCRIPT;D24FAD.py" in done.stdout
    prefix = tmp_path / "installed"
    # The component that an extension's package is made of.
    subprocess.run(
        ["cmake", "--install", str(tmp_path / "build"), "--prefix", str(prefix),
         "--component", "RuntimeLibraries"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    # What was installed is whole: it imports, finds its model, and knows its resources.
    modules = prefix / "lib" / "qt-scripted-modules"
    code = (
        f"import sys; sys.path.insert(0, {str(modules)!r}); import D24FADLib; print(D24FADLib.__file__);"
        "from D24FADLib.inference.models import embedded_models, find_model;"
        "print(*map(find_model, embedded_models()))"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    assert len(told) >= 2
    assert all(path.startswith(str(modules)) for path in told), told
    for name in ("D24FAD.py", "D24FADParts/api.py", "Resources/UI/D24FAD.ui", "Resources/Icons/D24FAD.png"):
        assert (modules / name).is_file()


def test_the_catalogue_entry_has_what_the_schema_wants():
    entry = json.loads((ROOT / "D24FAD.json").read_text())
    allowed = {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "enabled",
        "scm_revision",
        "scm_type",
        "scm_url",
        "tier",
    }
    assert {"$schema", "category", "scm_url"} <= set(entry) <= allowed
    described = dict(
        line.split(None, 1)
        for line in (ROOT / "D24FAD.s4ext").read_text().splitlines()
        if not line.startswith("#")
    )
    assert described["category"] == entry["category"]
    assert described["scmurl"] == entry["scm_url"]
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert "project(D24FAD)" in cmake
    for url in (described["iconurl"],):
        assert url in cmake
        assert (ROOT / url.partition("/main/")[2]).is_file()
