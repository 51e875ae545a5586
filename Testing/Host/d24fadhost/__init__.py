"""A small stand-in for the Slicer application: real MRML from slicer-core, PySide6 instead of PythonQt.

`start()` makes `import qt`, `import ctk`, `slicer.app`, `slicer.util.loadUI` and the scripted-module
base classes available to a module under test. It is not Slicer; Testing/README.md says what differs.
"""

from d24fadhost.application import Host, start

__all__ = ["Host", "start"]
