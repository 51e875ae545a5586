"""Step 2: the normal references and whether they fit the study."""

import qt
from slicer.i18n import tr as _

from D24FADLib.errors import D24FADError
from D24FADLib.references.suitability import Kind

from .. import run
from ..references import IMAGE_SUFFIXES, describe, isUnusable
from . import dialogs, messages

NAME, SOURCE, MODALITY, SLICES, WEIGHT, FIT = range(6)
_ROW_HEIGHT = 24
_LEAST_ROWS, _MOST_ROWS = 2, 6  # that the table is high for; more are scrolled


class ReferencesStep:
    """Also the receiver of what an adding reports (see `adding.Adding`)."""

    def __init__(self, ui, logic, onChanged):
        self._ui, self._logic, self._onChanged = ui, logic, onChanged
        self._updating = False
        self._menus = []
        self._said = ("", "info")
        self._prepareTable()
        ui.addLoadedButton.setMenu(self._menu(self._fillLoaded))
        ui.loadSetButton.setMenu(self._menu(self._fillSets))
        ui.addDicomButton.connect("clicked(bool)", self._addDicom)
        ui.addFilesButton.connect("clicked(bool)", self._addFiles)
        ui.addFolderButton.connect("clicked(bool)", self._addFolder)
        ui.removeButton.connect("clicked(bool)", self._remove)
        ui.saveSetButton.connect("clicked(bool)", self._saveSet)
        ui.addingCancelButton.connect("clicked(bool)", self._cancelAdding)
        ui.addingWidget.setVisible(False)
        ui.referencesTable.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        ui.referencesTable.connect("itemSelectionChanged()", self._onSelection)

    def _prepareTable(self):
        table = self._ui.referencesTable
        table.setColumnCount(6)
        titles = [_("Reference"), _("Source"), _("Modality"), _("Slices"), _("Weight"), _("Fit")]
        table.setHorizontalHeaderLabels(titles)
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(_ROW_HEIGHT)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setFixedHeight(_ROW_HEIGHT)
        header.setMinimumSectionSize(36)
        for column in range(6):
            stretch = column == NAME
            header.setSectionResizeMode(
                column, qt.QHeaderView.Stretch if stretch else qt.QHeaderView.ResizeToContents
            )

    def _menu(self, fill):
        menu = qt.QMenu(self._ui.addLoadedButton)
        menu.connect("aboutToShow()", lambda: fill(menu))
        self._menus.append(menu)
        return menu

    # Showing

    def refresh(self):
        table, rows = self._ui.referencesTable, self._logic.references()
        self._updating = True
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            self._showRow(number, row)
        self._updating = False
        high = min(max(len(rows), _LEAST_ROWS), _MOST_ROWS)
        table.setFixedHeight((1 + high) * _ROW_HEIGHT + 4)
        self._ui.saveSetButton.setEnabled(bool(rows))
        if not self._logic.isAdding():
            self._ui.addingWidget.setVisible(False)
        self._onSelection()
        text, kind = self._said
        if not text:
            advice = run.advice(self._logic.getParameterNode())
            text, kind = advice, "info" if not rows else "warning"
        messages.show(self._ui.referencesMessage, text, kind)

    def _showRow(self, number, row):
        reasons = self._logic.referenceProblems(row.key)
        tip = "\n".join(describe(reason) for reason in reasons)
        fit, color = _("Fits"), None
        if any(reason.kind is Kind.MISSING for reason in reasons):
            fit, color = _("Missing"), "#d9534f"
        elif any(isUnusable(reason) for reason in reasons):
            fit, color = _("Unsuitable"), "#d9534f"
        elif reasons:
            fit, color = _("Check"), "#e08a1e"
        elif row.dropped:
            fit, color, tip = _("Left out"), "#e08a1e", row.note
        elif row.standsOut:
            fit, color = _("Stands out"), "#e08a1e"
            tip = row.note or _(
                "It differs from the other references: is it normal, and of the same protocol?"
            )
        elif row.note:
            fit, color, tip = _("Check"), "#e08a1e", row.note
        elif self._logic.query() is None:
            fit = ""
        texts = {
            NAME: row.name,
            SOURCE: self._logic.referenceSource(row.key),
            MODALITY: row.modality or "–",
            SLICES: str(row.slices or "–"),
            WEIGHT: f"{row.weight:.2f}" if row.weight >= 0 else "–",
            FIT: fit,
        }
        for column, text in texts.items():
            item = qt.QTableWidgetItem(text)
            flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
            if column == NAME:
                item.setFlags(flags | qt.Qt.ItemIsUserCheckable)
                item.setCheckState(qt.Qt.Checked if row.use else qt.Qt.Unchecked)
                item.setData(qt.Qt.UserRole, row.key)
            else:
                item.setFlags(flags)
            if column in (SLICES, WEIGHT):
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            if column == FIT and color:
                item.setForeground(qt.QBrush(qt.QColor(color)))
            item.setToolTip(tip or row.name)
            self._ui.referencesTable.setItem(number, column, item)

    def say(self, text, kind="warning"):
        self._said = (text, kind)
        self.refresh()

    # Changing

    def _attempt(self, action):
        """Do it, and show what speaks against it."""
        self._said = ("", "info")
        try:
            problems = action() or []
        except D24FADError as error:
            problems = [str(error)]
        self._said = ("\n".join(problems), "error" if problems else "info")
        self._onChanged()

    def _each(self, add, things):
        def addAll():
            problems = []
            for thing in things:
                try:
                    add(thing)
                except D24FADError as error:
                    problems.append(str(error))
            return problems

        self._attempt(addAll)

    def _fillLoaded(self, menu):
        menu.clear()
        nodes = self._logic.possibleReferences()
        for node in nodes:
            self._action(
                menu, node.GetName(), lambda node=node: self._each(self._logic.addReferenceNode, [node])
            )
        if len(nodes) > 1:
            menu.addSeparator()
            self._action(menu, _("All of these"), lambda: self._each(self._logic.addReferenceNode, nodes))
        if not nodes:
            self._action(menu, _("No other volume is loaded"), None)

    def _fillSets(self, menu):
        menu.clear()
        names = self._logic.referenceSets()
        for name in names:
            self._action(
                menu, name, lambda name=name: self._attempt(lambda: self._logic.loadReferenceSet(name, self))
            )
        if not names:
            self._action(menu, _("No set has been saved yet"), None)

    def _action(self, menu, text, slot):
        action = qt.QAction(text.replace("&", "&&"), menu)
        action.setEnabled(slot is not None)
        if slot is not None:
            action.connect("triggered(bool)", lambda _on: slot())
        menu.addAction(action)

    def _addDicom(self, _on=False):
        self._attempt(lambda: self._logic.addReferencesFromDicomSelection(self))

    def _addFiles(self, _on=False):
        filters = _("Volumes") + f" ({' '.join('*' + suffix for suffix in IMAGE_SUFFIXES)})"
        paths = dialogs.openFiles(self._ui.addFilesButton, _("Add reference files"), filters)
        if paths:
            self._attempt(lambda: self._logic.addReferencePaths(paths, self))

    def _addFolder(self, _on=False):
        folder = dialogs.openFolder(self._ui.addFolderButton, _("Add a folder of references"))
        if folder:
            self._attempt(lambda: self._logic.addReferenceFolder(folder, self))

    def _cancelAdding(self, _on=False):
        self._logic.stopAdding(_("Cancelled. What was added before stays in the list."))

    # What an adding reports

    def onAdding(self, name, done, total):
        bar = self._ui.addingProgressBar
        bar.setRange(0, total)
        bar.setValue(done)
        self._ui.addingLabel.setText(_("Reading {name}").format(name=name))
        self._ui.addingWidget.setVisible(True)

    def onAdded(self, problems):
        self._said = ("\n".join(problems), "error" if problems else "info")
        self._onChanged()

    def _selectedKeys(self):
        table = self._ui.referencesTable
        rows = sorted({index.row() for index in table.selectionModel().selectedRows()})
        return [int(table.item(row, NAME).data(qt.Qt.UserRole)) for row in rows]

    def _onSelection(self):
        self._ui.removeButton.setEnabled(bool(self._selectedKeys()))

    def _remove(self, _on=False):
        keys = self._selectedKeys()
        self._attempt(lambda: self._logic.removeReferences(keys))

    def _onItemChanged(self, item):
        if not self._updating and item.column() == NAME:
            key, on = int(item.data(qt.Qt.UserRole)), item.checkState() == qt.Qt.Checked
            # Later: the table must not be filled anew while it reports a change of its own.
            qt.QTimer.singleShot(0, lambda: self._attempt(lambda: self._logic.setReferenceUsed(key, on)))

    def _saveSet(self, _on=False):
        caption = _("Name of the reference set. It keeps series UIDs and file paths, never images.")
        name = dialogs.askName(self._ui.saveSetButton, _("Save reference set"), caption)
        if not name:
            return
        if name in self._logic.referenceSets() and not dialogs.confirm(
            _("There is a set of this name. Replace it?"), _("Save reference set")
        ):
            return
        self._attempt(lambda: self._logic.saveReferenceSet(name) and None)
        if not self._said[0]:
            self.say(_("Saved as {name}.").format(name=name), "info")
