"""A small stand-in for the Slicer application: real MRML from slicer-core, PySide6 instead of PythonQt.

`start()` makes `import qt`, `import ctk`, `slicer.app`, `slicer.util.loadUI` and the scripted-module
base classes available to a module under test. It is not Slicer; Testing/README.md says what differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d24fadhost.application import Host


def start() -> Host:
    """The one host of this process. (PySide6 is imported here: some of the host is used without it.)"""
    from d24fadhost.application import start

    return start()
