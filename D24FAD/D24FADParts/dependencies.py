"""What the detector needs in Slicer's Python, and its installation after asking."""

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

import slicer
from slicer.i18n import tr as _

# Slicer's own; whatever pip may think, they stay as they are.
KEPT = ("numpy", "SimpleITK", "pydicom", "vtk", "scipy")
# From torch 2.13 on, the paths of its licence files are longer than Windows takes beneath Slicer's folder,
# and pip gives up half way.
_TORCH_VERSIONS = ">=2.1,<2.13" if sys.platform == "win32" else ">=2.1"


@dataclass(frozen=True)
class Package:
    name: str
    module: str
    requirement: str
    megabytes: int


REQUIRED = (
    Package("torch", "torch", f"torch{_TORCH_VERSIONS}", 220),
    Package("safetensors", "safetensors", "safetensors>=0.4", 1),
    Package("scipy", "scipy", "scipy>=1.10", 36),
    Package("pydicom", "pydicom", "pydicom>=2.4", 3),
    Package("tqdm", "tqdm", "tqdm>=4.65", 1),
)
# Not needed; but without a GPU a study takes a fifth less time with it.
FASTER = Package("openvino", "openvino", "openvino>=2024.4", 60)


def missing(required=REQUIRED):
    importlib.invalidate_caches()
    return [package for package in required if importlib.util.find_spec(package.module) is None]


def helpful():
    """[FASTER] where it is not there and would serve: NVIDIA's and Apple's GPUs run the networks without."""
    served = shutil.which("nvidia-smi") is not None or sys.platform == "darwin"
    return [] if served else missing([FASTER])


def question(packages):
    """What to ask before anything is downloaded."""
    lines = "\n".join(_line(package) for package in packages)
    text = _(
        "The detector needs Python packages that Slicer does not have yet:\n\n{packages}\n\n"
        "Install them into Slicer's Python now? {torch}"
        "Slicer's own numpy and SimpleITK are not touched. Without internet, put the wheels into a folder "
        "and set it under Advanced."
    )
    return text.format(packages=lines, torch=_aboutTorch(packages))


def _line(package):
    text = _("{name}, about {size} MB").format(name=package.name, size=package.megabytes)
    return f"{text} ({_('optional: a fifth less time without a GPU')})" if package == FASTER else text


def _aboutTorch(packages):
    if all(package.name != "torch" for package in packages):
        return ""
    if importlib.util.find_spec("PyTorchUtils") is not None:
        return _("The PyTorch extension chooses the torch for this computer's GPU; that can be several GB. ")
    if sys.platform.startswith("linux"):
        return _(
            "On Linux, torch comes with support for NVIDIA GPUs, several GB. To have one that suits this "
            "computer, install the PyTorch extension first (Extensions Manager). "
        )
    return _("For an NVIDIA GPU, install the PyTorch extension first (Extensions Manager). ")


def install(packages, wheelFolder=""):
    """Install the packages, from a folder of wheels where one is given. On the main thread only: pip in
    another one crashes Slicer. Returns a sentence where it did not go as asked, else ""; raises RuntimeError
    with what to do where it fails. FASTER may fail."""
    faster = FASTER in packages
    packages = [package for package in packages if package != FASTER]
    rest, said = list(packages), ""
    if not wheelFolder and any(package.name == "torch" for package in packages):
        done, said = _torchThroughExtension()
        rest = [package for package in packages if not (done and package.name == "torch")]
    try:
        if rest:
            _pip([package.requirement for package in rest], wheelFolder)
    except Exception as error:
        logging.error("D24FAD: installing packages failed with %s", type(error).__name__)
        text = _("The packages could not be installed. See the documentation on installing without internet.")
        raise RuntimeError(text) from error
    left = missing(packages)
    if left:
        names = ", ".join(package.name for package in left)
        raise RuntimeError(
            _("{names} still cannot be found. Restart Slicer and try again.").format(names=names)
        )
    return " ".join(text for text in (said, _installFaster(wheelFolder) if faster else "") if text)


def _installFaster(wheelFolder):
    try:
        if not wheelFolder or any(name.startswith(FASTER.name) for name in os.listdir(wheelFolder)):
            _pip([FASTER.requirement], wheelFolder)
    except Exception as error:
        logging.warning("D24FAD: installing %s failed with %s", FASTER.name, type(error).__name__)
    if not missing([FASTER]):
        return ""
    text = _("{name} could not be installed. The detector works, and takes a little longer without a GPU.")
    return text.format(name=FASTER.name)


def _torchThroughExtension():
    """(whether the PyTorch extension, which knows the computer's GPU, has installed torch, what there is to
    say): it relies on pip's inner parts and may fail with a newer pip or Python than its own."""
    if importlib.util.find_spec("PyTorchUtils") is None:
        return False, ""
    try:
        import PyTorchUtils

        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=False, torchVersionRequirement=_TORCH_VERSIONS
        )
    except Exception as error:
        logging.warning("D24FAD: the PyTorch extension failed with %s; pip is tried", type(error).__name__)
        torch = None
    if torch is not None:
        return True, ""
    text = _(
        "The PyTorch extension could not install torch; pip has installed it instead. It works, but may not "
        "use this computer's GPU."
    )
    return False, text


def pipArguments(requirements, constraints, wheelFolder=""):
    arguments = [*requirements, "--constraint", constraints]
    if wheelFolder:
        arguments += ["--no-index", "--find-links", wheelFolder]
    return arguments


def _pip(requirements, wheelFolder):
    handle, path = tempfile.mkstemp(prefix="d24fad-constraints-", suffix=".txt")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(keptVersions()))
        arguments = pipArguments(requirements, path, wheelFolder)
        try:
            from slicer.packaging import pip_install
        except ImportError:  # before Slicer 5.12
            slicer.util.pip_install(arguments)
        else:
            # It shows its progress and, where it fails, pip's own words.
            pip_install(arguments, requester="D24FAD")
    finally:
        os.remove(path)


def keptVersions():
    """`name==version` of Slicer's own packages, as a constraint for pip."""
    pinned = []
    for name in KEPT:
        try:
            pinned.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pinned
