"""Where voxels lie: grids of volume nodes, slices along an anatomical plane, places in the patient."""

import numpy as np
import vtk
from slicer.i18n import tr as _

PLANES = ("axial", "coronal", "sagittal")


class GeometryError(ValueError):
    """The volume lies in the scene in a way that a grid of voxels cannot say; the text tells what to do."""


def matrixToArray(matrix):
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def arrayToMatrix(array):
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def ijkToLocal(volumeNode):
    """The 4 x 4 array from voxel indices to the node's own RAS, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return matrixToArray(matrix)


def localToWorld(node):
    """The 4 x 4 array of the node's parent transforms; raises GeometryError where they are not linear."""
    transform = node.GetParentTransformNode()
    matrix = vtk.vtkMatrix4x4()
    if transform is not None and not transform.GetMatrixTransformToWorld(matrix):
        raise GeometryError(_("the volume is under a non-linear transform; harden the transform first"))
    return matrixToArray(matrix)


def ijkToWorld(volumeNode):
    """The 4 x 4 array from voxel indices to world RAS; raises GeometryError where no grid can say it."""
    array = localToWorld(volumeNode) @ ijkToLocal(volumeNode)
    columns = array[:3, :3] / np.linalg.norm(array[:3, :3], axis=0)
    if not np.allclose(columns.T @ columns, np.eye(3), atol=1e-3):
        raise GeometryError(_("the volume's axes are not at right angles; resample it first"))
    return array


def sliceAxis(ijkToRas, plane):
    """The voxel axis (0 i, 1 j, 2 k) along which the slices of an anatomical plane are stacked."""
    import SimpleITK as sitk

    from D24FADLib.imaging.planes import Plane, slice_axis

    image = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    columns = np.diag([-1.0, -1.0, 1.0]) @ ijkToRas[:3, :3]
    columns = columns / np.linalg.norm(columns, axis=0)
    image.SetDirection(columns.ravel().tolist())
    return slice_axis(image, Plane(plane))


def defaultPlane(volumeNode):
    """The plane the volume was acquired in, as far as its grid tells."""

    from D24FADLib.imaging.planes import default_plane
    from D24FADLib.imaging.volume import Volume

    ijkToRas = ijkToLocal(volumeNode)
    spacing = np.linalg.norm(ijkToRas[:3, :3], axis=0)
    columns = np.diag([-1.0, -1.0, 1.0]) @ (ijkToRas[:3, :3] / spacing)
    image = _GridOnly(volumeNode.GetImageData().GetDimensions(), spacing, columns)
    return default_plane(Volume(image, "query")).value


class _GridOnly:
    """As much of a SimpleITK image as choosing a plane needs: no voxels are allocated."""

    def __init__(self, size, spacing, columns):
        self._size, self._spacing, self._columns = size, spacing, columns

    def GetSize(self):
        return tuple(self._size)

    def GetSpacing(self):
        return tuple(float(value) for value in self._spacing)

    def GetDirection(self):
        return tuple(self._columns.ravel().tolist())


def toPlace(ijkToRas, ijk):
    """The place in RAS millimetres of voxel indices, which may be fractions."""
    return tuple(float(value) for value in (ijkToRas @ np.array([*ijk, 1.0]))[:3])


def toIndex(ijkToRas, ras):
    """The voxel indices, as fractions, of a place."""
    return (np.linalg.inv(ijkToRas) @ np.array([*ras, 1.0]))[:3]


def sliceCenter(ijkToRas, dimensions, axis, index):
    """The place at the middle of slice `index` along a voxel axis."""
    ijk = [(size - 1) / 2 for size in dimensions]
    ijk[axis] = index
    return toPlace(ijkToRas, ijk)


def isOblique(ijkToRas, degrees=1.0):
    """Whether the voxel axes are turned away from the patient's by more than a little."""
    columns = np.abs(ijkToRas[:3, :3] / np.linalg.norm(ijkToRas[:3, :3], axis=0))
    return bool(columns.max(axis=0).min() < np.cos(np.radians(degrees)))
