"""Findings table, score table and the plot of slice scores as nodes."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from . import placement

FINDING_COLUMNS = ("Rank", "Peak", "Mean", "Volume (ml)", "Slice", "R (mm)", "A (mm)", "S (mm)")


def addTable(queryNode, name, role, run):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    node.SetAttribute(placement.ROLE, role)
    node.SetAttribute(placement.RUN, run)
    node.SetUseColumnTitleAsColumnHeader(True)
    placement.placeBeside(node, queryNode)
    return node


def fillFindings(tableNode, findings):
    """Rows of the findings (`results.Finding`), strongest first."""
    integers = (int(finding.rank) for finding in findings), (int(finding.slice) for finding in findings)
    columns = [
        _column(vtk.vtkIntArray, "Rank", integers[0]),
        _column(vtk.vtkDoubleArray, "Peak", (round(f.peak, 3) for f in findings)),
        _column(vtk.vtkDoubleArray, "Mean", (round(f.mean, 3) for f in findings)),
        _column(vtk.vtkDoubleArray, "Volume (ml)", (round(f.volumeMl, 3) for f in findings)),
        _column(vtk.vtkIntArray, "Slice", integers[1]),
        *(
            _column(
                vtk.vtkDoubleArray, FINDING_COLUMNS[5 + axis], (round(f.place[axis], 1) for f in findings)
            )
            for axis in range(3)
        ),
    ]
    _replaceColumns(tableNode, columns)


def fillScores(tableNode, peak, mean, weights, referenceNames):
    """One row a slice: its number, its highest and mean score, the weight of each reference."""
    count = len(peak)
    columns = [
        _column(vtk.vtkIntArray, "Slice", range(1, count + 1)),
        _column(vtk.vtkDoubleArray, "Peak", (float(value) for value in peak)),
        _column(vtk.vtkDoubleArray, "Mean", (float(value) for value in mean)),
    ]
    for number, (name, column) in enumerate(zip(referenceNames, weights, strict=True), 1):
        values = (float(value) for value in column)
        columns.append(_column(vtk.vtkDoubleArray, weightTitle(number, name), values))
    _replaceColumns(tableNode, columns)


def weightTitle(number, referenceName):
    """The score table's column of a reference's weights; references may share a name."""
    return f"Weight {number} {referenceName}"


def addPlot(queryNode, tableNode, name, role, run):
    """A chart node of the slices' highest and mean scores over the score table."""
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    chart.SetAttribute(placement.ROLE, role)
    chart.SetAttribute(placement.RUN, run)
    chart.SetTitle(_("Slice scores"))
    chart.SetXAxisTitle(_("Slice"))
    chart.SetYAxisTitle(_("Score"))
    for column, color in (("Peak", (0.80, 0.25, 0.20)), ("Mean", (0.25, 0.45, 0.70))):
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", f"{name} {column.lower()}")
        series.SetAttribute(placement.ROLE, f"{role}Series")
        series.SetAttribute(placement.RUN, run)
        series.SetAndObserveTableNodeID(tableNode.GetID())
        series.SetXColumnName("Slice")
        series.SetYColumnName(column)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(*color)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
        placement.placeBeside(series, queryNode)
    placement.placeBeside(chart, queryNode)
    return chart


def columnValues(tableNode, name):
    """A numeric column as an array; empty where the table has none of this name."""
    column = tableNode.GetTable().GetColumnByName(name)
    if column is None:
        return np.zeros(0)
    return np.array([column.GetVariantValue(row).ToDouble() for row in range(column.GetNumberOfTuples())])


def _column(kind, name, values):
    array = kind()
    array.SetName(name)
    for value in values:
        array.InsertNextValue(value)
    return array


def _replaceColumns(tableNode, columns):
    modifying = tableNode.StartModify()
    tableNode.RemoveAllColumns()
    for column in columns:
        tableNode.AddColumn(column)
    tableNode.EndModify(modifying)
    tableNode.GetTable().Modified()
    tableNode.Modified()
