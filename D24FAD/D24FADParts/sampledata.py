"""Demo subjects for the Sample Data module: made up on this computer, nothing is downloaded."""

import logging
import os

import slicer
from slicer.i18n import tr as _

from .steps import Steps, drained

CATEGORY = "D24FAD"
STUDY, NORMALS = "D24FADStudy", "D24FADNormal{number}"
SIZE = (64, 112, 96)  # k, j, i
SPACING = (1.6, 1.6, 2.0)  # i, j, k in millimetres
LESION_RAS, LESION_MM = (22.0, 8.0, 12.0), 16.0
NORMAL_COUNT = 4
WINDOW = (0.0, 1000.0)


def register():
    """One study with an implanted bright lesion and four normal subjects, all simulated."""
    import SampleData

    module = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    icon = os.path.join(module, "Resources", "Icons", "D24FAD.png")
    logic = SampleData.SampleDataLogic
    if hasattr(logic, "registerCustomSampleDataCategory"):
        logic.registerCustomSampleDataCategory(CATEGORY, title=_("D24FAD"))
    logic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName="D24FADDemo",
        # Nothing is downloaded; left out, these would be None, which Sample Data does not take.
        uris=[],
        fileNames=[],
        nodeNames=[],
        thumbnailFileName=icon,
        # Sample Data takes no notice of what this returns.
        customDownloader=lambda _source: startLoading(),
    )


def load():
    """Add the demo volumes to the scene; returns them, the study first."""
    return drained(_load())


def startLoading():
    """The same in turns of the event loop; nothing where it is at work already."""
    if not _loading:
        _loading.append(_Loading())


_loading = []  # the one that is at work, which is needed until its end


class _Loading:
    """Ended by the scene's closing."""

    def __init__(self):
        scene = slicer.mrmlScene
        self._closing = scene.AddObserver(scene.StartCloseEvent, self._end)
        self._steps = Steps(_load(), self._end, self._failed, self._tell)

    def _tell(self, name):
        slicer.util.showStatusMessage(_("Making {name}...").format(name=name), 3000)

    def _failed(self, error):
        logging.error("D24FAD: making the demo failed with %s", type(error).__name__)
        slicer.util.showStatusMessage(_("The demo could not be made."), 10000)
        self._end()

    def _end(self, _caller=None, _event=None):
        if self in _loading:
            _loading.remove(self)
            slicer.mrmlScene.RemoveObserver(self._closing)
            self._steps.stop()


def _load():
    """A generator that yields the names of the volumes as it begins them, and None to give way."""
    nodes = []
    for number in range(NORMAL_COUNT + 1):
        name, seed = (NORMALS.format(number=number), number) if number else (STUDY, 100)
        yield name
        voxels = yield from _subject(seed, lesion=not number)
        nodes.append(addVolume(name, voxels, ijkToRas()))
        yield
    if nodes[0].GetScene() is not None:
        slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def ijkToRas():
    import numpy as np

    matrix = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    sizes = np.array(SIZE[::-1])
    matrix[:3, 3] = -(matrix[:3, :3] @ (sizes - 1) / 2)
    return matrix


def addSubject(name, seed, lesion=False):
    return addVolume(name, makeSubject(seed, lesion), ijkToRas())


def addVolume(name, voxels, matrix):
    """All in one window: an automatic one would show brain and lesion in the same white."""
    node = slicer.util.addVolumeFromArray(voxels, ijkToRAS=matrix, name=name)
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(*WINDOW)
    return node


def makeSubject(seed, lesion=False):
    """Voxels of a head-like phantom: scalp, brain with a folded rim, ventricles, deep nuclei, noise."""
    return drained(_subject(seed, lesion))


def _subject(seed, lesion):
    """`makeSubject`, a generator that yields None to give way and returns the voxels."""
    import numpy as np
    import SimpleITK as sitk

    random = np.random.default_rng(seed)
    k, j, i = np.meshgrid(*(np.arange(size) for size in SIZE), indexing="ij")
    matrix = ijkToRas()
    places = []
    for row in matrix[:3]:
        places.append(np.tensordot(row[:3], (i, j, k), 1) + row[3])
        yield
    for axis in range(3):
        places[axis] = places[axis] + 2.2 * _smooth(random, 5)
        yield
    r, a, s = places

    def ball(center, radii):
        return np.sqrt(sum(((x - c) / q) ** 2 for x, c, q in zip((r, a, s), center, radii, strict=True)))

    head = ball((0, 0, 0), (68, 82, 62))
    yield
    brain = ball((0, 0, 2), (58, 72, 52))
    yield
    folds = np.sin(r / 5.5) * np.sin(a / 6.0) * np.sin(s / 5.0)
    yield
    image = np.zeros(SIZE)
    image[head < 1] = 320
    image[brain < 1.04] = 90
    image[brain < 1] = 430
    image[brain + 0.07 * folds < 0.86] = 620
    yield
    for side in (-1, 1):
        image[ball((13 * side, 2, 10), (6, 22, 9)) < 1] = 120
        yield
        image[ball((23 * side, 4, 2), (9, 14, 9)) < 1] = 480
        yield
    image[(np.abs(r) < 1.5) & (brain < 1) & (s > 14)] = 150
    if lesion:
        image += 330 * np.clip(1.3 - ball(LESION_RAS, (LESION_MM / 2,) * 3), 0, 0.3) / 0.3
    yield
    field = 1 + 0.05 * _smooth(random, 3)
    yield
    smoothed = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(image * field), 0.6)
    yield
    image = sitk.GetArrayFromImage(smoothed)
    return np.clip(image + 12 * random.standard_normal(SIZE), 0, None).astype(np.int16)


def _smooth(random, knots):
    """A smooth random field, linear between `knots` random values along each axis."""
    import numpy as np

    field = random.standard_normal((knots,) * 3)
    for axis, size in enumerate(SIZE):
        places = (np.arange(size) + 0.5) * knots / size - 0.5
        shares = [np.interp(places, np.arange(knots), one) for one in np.eye(knots)]
        field = np.moveaxis(np.tensordot(shares, field, ((0,), (axis,))), 0, axis)
    return field
