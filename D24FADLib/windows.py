"""What only Windows needs."""

from __future__ import annotations

import contextlib
import locale
import subprocess
import sys

# For `creationflags`: a program without a console would otherwise open one for each process it starts.
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)


def take_utf8_paths() -> None:
    """Let C libraries open files whose names are not of the system's code page, such as in the folder of a
    user called Jörg.

    ITK's readers hand names in UTF-8 to `fopen`, which on Windows takes them in the process's code page
    unless the C locale is a UTF-8 one (Windows 10 1803 and later). Slicer itself has a UTF-8 code page by its
    manifest; its Python has not. Without effect on other systems.
    """
    if sys.platform == "win32":
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, ".UTF8")
