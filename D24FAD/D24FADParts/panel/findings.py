"""Step 4: threshold, layers, findings, slice scores, export."""

import qt
import vtk
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError

from .. import explain, exports, results, settings, tables, views
from . import dialogs, messages
from .scoreplot import ScorePlot

_SETTLE_MS = 15  # several moves of the slider within this time are followed once


class FindingsStep:
    def __init__(self, ui, logic):
        self._ui, self._logic = ui, logic
        self._updating = False
        self._shownMap = None
        self._listed = []  # the findings in the table: while they stay, so does the selected row
        self._observed = []
        self._plot = ScorePlot(self._logic.jumpToSlice)
        ui.plotFrame.layout().addWidget(self._plot)
        for label in (ui.researchLabel, ui.scoreLabel, ui.thresholdNote, ui.findingLabel):
            messages.soften(label)
        self._prepareTable()
        self._settle = qt.QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLE_MS)
        self._settle.connect("timeout()", self._applyThreshold)
        ui.thresholdSlider.connect("valueChanged(double)", self._onThreshold)
        ui.opacitySlider.connect("valueChanged(double)", self._onOpacity)
        ui.layerSelector.connect("currentIndexChanged(int)", self._onLayer)
        ui.findingsTable.connect("itemSelectionChanged()", self._onFinding)
        ui.findingsTable.connect("cellClicked(int,int)", lambda _row, _column: self._onFinding())
        ui.exportSegmentationButton.connect("clicked(bool)", self._exportSegmentation)
        ui.exportFindingsButton.connect("clicked(bool)", self._exportFindings)
        ui.exportMapButton.connect("clicked(bool)", self._exportMap)

    def _prepareTable(self):
        table = self._ui.findingsTable
        table.setColumnCount(5)
        table.setHorizontalHeaderLabels(["#", _("Peak"), _("Size"), _("Slice"), _("Centre (R, A, S mm)")])
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(24)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setFixedHeight(24)
        header.setMinimumSectionSize(30)
        for column in range(5):
            stretch = column == 4
            header.setSectionResizeMode(
                column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents
            )

    # Showing

    def refresh(self):
        found = self._logic.results()
        exist = found.exist
        self._ui.resultsWidget.setEnabled(exist)
        self._ui.resultsWidget.setVisible(exist)
        self._observeSlices(exist)
        if not exist:
            self._shownMap = None
            self._ui.countLabel.setText(_("Run Find anomalies to see findings here."))
            return
        if self._shownMap != found.mapKey:
            self._shownMap = found.mapKey
            messages.show(self._ui.findingsMessage, "")
            withheld = explain.withheld(found.about.get("withheld", ""))
            messages.show(self._ui.withheldMessage, withheld, "error")
            self._showControls(found)
        self._showFindings(found)

    def _showControls(self, found):
        self._updating = True
        found.restore()
        lowest, highest = found.thresholdRange()
        value = found.threshold
        slider = self._ui.thresholdSlider
        slider.decimals = 2 if highest > 1 else 4  # first: what follows is rounded to it
        slider.minimum, slider.maximum = min(lowest, value), max(highest, value)
        slider.singleStep = max((highest - lowest) / 200, 1e-4)
        slider.value = value
        selector = self._ui.layerSelector
        selector.clear()
        selector.addItem(_("Anomaly map"), "map")
        for number, node in enumerate(found.weightNodes()):
            reference = node.GetAttribute(results.REFERENCE) or str(number + 1)
            selector.addItem(_("Weight of {reference}").format(reference=reference), number)
        if found.node(results.EXPECTED) is not None:
            selector.addItem(_("Expected normal"), "expected")
        selector.addItem(_("None"), "none")
        selector.setCurrentIndex(0)
        self._ui.opacitySlider.value = float(settings.get(self._logic.getParameterNode(), "Opacity"))
        scores = found.node(results.SCORES)
        if scores is not None:
            self._plot.setScores(tables.columnValues(scores, "Peak"), tables.columnValues(scores, "Mean"))
        self._updating = False

    def _showFindings(self, found):
        unit = f" {found.unit}" if found.unit else ""
        many = len(found.findings)
        if found.about.get("withheld"):
            text = _("No findings are given.")
        elif found.count == 0:
            text = _("No candidate above {value}{unit}.")
        elif found.count == 1:
            text = _("1 candidate above {value}{unit}.")
        else:
            text = _("{count} candidates above {value}{unit}.")
        text = text.format(count=found.count, value=f"{found.threshold:.2f}", unit=unit)
        if many < found.count:
            text += " " + _("The {many} strongest are listed.").format(many=many)
        if found.query is not self._logic.query():
            text += " " + _("They are of {study}, not of the study chosen above.").format(
                study=found.query.GetName()
            )
        self._ui.countLabel.setText(text)
        font = self._ui.countLabel.font
        font.setBold(True)
        self._ui.countLabel.setFont(font)
        self._plot.setThreshold(found.threshold)
        self._say(self._ui.scoreLabel, explain.study(found.about))
        self._say(self._ui.thresholdNote, explain.threshold(found.about, found.threshold))
        self._updating = True
        table = self._ui.findingsTable
        table.setRowCount(many)
        for row, finding in enumerate(found.findings):
            place = ", ".join(str(round(value)) for value in finding.place)
            texts = [str(finding.rank), f"{finding.peak:.2f}", _size(finding), str(finding.slice), place]
            for column, text in enumerate(texts):
                item = table.item(row, column)
                if item is None:
                    item = qt.QTableWidgetItem()
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                    table.setItem(row, column, item)
                if item.text() != text:
                    item.setText(text)
        if found.findings != self._listed:
            self._listed = found.findings
            table.clearSelection()
        self._updating = False
        self._explainFinding()

    def _explainFinding(self):
        """Of the selected finding, why it is one and which references it was judged against."""
        row = self._selectedRow()
        self._say(self._ui.findingLabel, "" if row is None else self._logic.explanation(row + 1))

    def _say(self, label, text):
        label.setText(text)
        label.setVisible(bool(text))

    def _selectedRow(self):
        rows = self._ui.findingsTable.selectionModel().selectedRows()
        return rows[0].row() if rows else None

    # Slices

    def _observeSlices(self, wanted):
        """Another layout may bring slice views of its own: those that are there now are observed."""
        nodes = views.sliceNodes() if wanted else []
        if nodes != [node for node, _tag in self._observed]:
            self.stopObserving()
            for node in nodes:
                tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._markSlice)
                self._observed.append((node, tag))
        if wanted:
            self._markSlice()

    def stopObserving(self):
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def _markSlice(self, _caller=None, _event=None):
        self._plot.setCurrent(self._logic.currentSlice())

    # Changing

    def _onThreshold(self, _value):
        if not self._updating and not self._settle.isActive():
            self._settle.start()

    def _applyThreshold(self):
        found = self._logic.results()
        if found.exist:
            self._logic.setThreshold(self._ui.thresholdSlider.value)
            self._showFindings(found)

    def _onOpacity(self, value):
        if not self._updating:
            self._logic.setOpacity(value)

    def _onLayer(self, _index):
        if not self._updating:
            self._logic.showLayer(self._ui.layerSelector.currentData)

    def _onFinding(self):
        if self._updating:
            return
        row = self._selectedRow()
        if row is not None:
            self._logic.showFinding(row + 1)
        self._explainFinding()

    # Export

    def _attempt(self, action):
        try:
            path = action()
        except D24FADError as error:
            messages.show(self._ui.findingsMessage, str(error), "error")
            return
        if path:
            messages.show(self._ui.findingsMessage, _("Written to {path}").format(path=path))

    def _exportSegmentation(self, _on=False):
        button = self._ui.exportSegmentationButton
        if exports.canExportDicom(self._logic.results()):
            folder = dialogs.openFolder(button, _("Folder for the DICOM segmentation"))
            if folder:
                self._attempt(lambda: self._logic.exportDicomSegmentation(folder))
            return
        name = dialogs.nameFor("candidates", ".seg.nrrd")
        path = dialogs.savePath(button, _("Export segmentation"), name, exports.SEGMENTATION_FILTERS)
        if path:
            self._attempt(lambda: self._logic.exportSegmentation(path))

    def _exportFindings(self, _on=False):
        button, name = self._ui.exportFindingsButton, dialogs.nameFor("findings", ".csv")
        path = dialogs.savePath(button, _("Export findings"), name, "CSV (*.csv)")
        if path:
            self._attempt(lambda: self._logic.exportFindings(path))

    def _exportMap(self, _on=False):
        button, name = self._ui.exportMapButton, dialogs.nameFor("anomaly-map", ".nrrd")
        path = dialogs.savePath(button, _("Export anomaly map"), name, exports.VOLUME_FILTERS)
        if path:
            self._attempt(lambda: self._logic.exportMap(path))


def _size(finding):
    """Of a volume its millilitres; a single image has an area only, and that not always in millimetres."""
    if finding.areaMm2 is not None:
        return f"{finding.areaMm2:.0f} mm²"
    if finding.pixels is not None:
        return f"{finding.pixels} px"
    return f"{finding.volumeMl:.2f} ml" if finding.volumeMl < 10 else f"{finding.volumeMl:.0f} ml"
