"""Step 1: which study, in which plane, and what it is."""

from slicer.i18n import tr as _

from .. import geometry, settings, tags


class StudyStep:
    def __init__(self, ui, logic, onChanged):
        self._ui, self._logic, self._onChanged = ui, logic, onChanged
        self._updating = self._held = False
        for text, plane in (
            (_("As acquired"), ""),
            (_("Axial"), "axial"),
            (_("Coronal"), "coronal"),
            (_("Sagittal"), "sagittal"),
        ):
            ui.planeSelector.addItem(text, plane)
        ui.querySelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onQuery)
        ui.planeSelector.connect("currentIndexChanged(int)", self._onPlane)
        ui.showDateCheckBox.connect("toggled(bool)", self._onShowDate)

    def hold(self):
        """While a scene closes or loads, the selector picks volumes by itself: that is not to be followed,
        or a saved study would give way to whichever volume was loaded first."""
        self._held = True

    def release(self):
        self._held = False

    def refresh(self):
        node = self._logic.query()
        parameters = self._logic.getParameterNode()
        self._updating = True
        # Results are scalar volumes too, but no studies.
        self._ui.querySelector.sortFilterProxyModel().hiddenNodeIDs = self._logic.ownVolumeIds()
        self._ui.querySelector.setCurrentNode(node)
        self._ui.planeSelector.setCurrentIndex(
            max(0, self._ui.planeSelector.findData(settings.get(parameters, "Plane")))
        )
        self._ui.showDateCheckBox.setChecked(settings.isOn(parameters, "ShowDate"))
        self._updating = False
        usable = node is not None and node.GetImageData() is not None
        self._ui.planeSelector.setItemText(0, self._acquired(node) if usable else _("As acquired"))
        study = tags.studyOf(node) if usable else tags.Study()
        self._ui.showDateCheckBox.setVisible(bool(study.date))
        self._ui.aboutLabel.setText(self._about(node, study) if usable else _("No study chosen."))

    def _acquired(self, node):
        try:
            plane = geometry.defaultPlane(node)
        except Exception:  # a grid that no plane can be told from is refused later, with its reason
            return _("As acquired")
        names = {"axial": _("axial"), "coronal": _("coronal"), "sagittal": _("sagittal")}
        return _("As acquired ({plane})").format(plane=names[plane])

    def _about(self, node, study):
        size = node.GetImageData().GetDimensions()
        spacing = node.GetSpacing()
        words = [study.modality, study.bodyPart.capitalize() if study.bodyPart else "", study.description]
        if study.date and self._ui.showDateCheckBox.checked:
            date = study.date
            words.append(f"{date[:4]}-{date[4:6]}-{date[6:8]}" if len(date) == 8 else date)
        sides = " × ".join(str(side) for side in size)
        grid = f"{sides}, {' × '.join(f'{round(mm, 2):g}' for mm in spacing)} mm"
        return "\n".join(line for line in (" · ".join(word for word in words if word), grid) if line)

    def _onQuery(self, node):
        if not self._updating and not self._held:
            self._logic.setQuery(node)
            self._onChanged()

    def _onPlane(self, _index):
        if not self._updating:
            self._logic.setOption("Plane", self._ui.planeSelector.currentData)

    def _onShowDate(self, on):
        if not self._updating:
            self._logic.setOption("ShowDate", bool(on))
            self.refresh()
