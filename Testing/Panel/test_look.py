"""How the panel looks, and that nothing in it is left unsaid."""

from d24fadhost.clicks import chooseInMenu, runToEnd
from PySide6 import QtCore, QtWidgets


def test_a_tall_panel_has_no_gaps(loaded, host, screenshot):
    panel, _query, _references = loaded
    ui = panel.ui
    chooseInMenu(ui.addLoadedButton, "All of these")
    runToEnd(panel, host)
    panel.parent.resize(430, 1500)
    screenshot(panel.parent, "12-tall")

    def edges(widget):
        top = widget.mapTo(panel.parent, QtCore.QPoint(0, 0)).y()
        return top, top + QtWidgets.QWidget.height(widget)

    for above, below in (
        (ui.addLoadedButton, ui.referencesTable),
        (ui.referencesTable, ui.removeButton),
        (ui.runMessage, ui.advancedButton),
        (ui.findingsTable, ui.plotFrame),
        (ui.plotFrame, ui.exportMapButton),
    ):
        assert edges(below)[0] - edges(above)[1] < 20, (above.name, below.name)


def test_in_a_dark_theme(loaded, host, screenshot):
    """A picture to look at: messages, plot and tables in dark colours."""
    from PySide6 import QtGui

    panel, _query, _references = loaded
    light, dark = host.application.palette(), QtGui.QPalette(QtGui.QColor("#353535"), QtGui.QColor("#353535"))
    try:
        dark.setColor(QtGui.QPalette.Base, QtGui.QColor("#2a2a2a"))
        dark.setColor(QtGui.QPalette.AlternateBase, QtGui.QColor("#323232"))
        host.application.setPalette(dark)
        chooseInMenu(panel.ui.addLoadedButton, "Normal 1")
        runToEnd(panel, host)
        image = QtGui.QImage(str(screenshot(panel.parent, "10-dark")))
        corner = image.pixelColor(4, image.height() - 4)
        plot = panel.ui.plotFrame.findChild(QtWidgets.QWidget, "scorePlot").grab().toImage().pixelColor(5, 60)
        assert max(corner.lightness(), plot.lightness()) < 90
    finally:
        host.application.setPalette(light)


def test_every_control_has_a_tooltip_or_a_label(panel):
    """Nothing for the reader to guess at."""
    plain = (QtWidgets.QPushButton, QtWidgets.QComboBox, QtWidgets.QSpinBox, QtWidgets.QCheckBox)
    for name, widget in vars(panel.ui).items():
        if isinstance(widget, plain) and name != "applyButton":
            assert widget.toolTip, name


def test_texts_are_translatable(panel):
    import slicer.i18n

    assert "Find anomalies" in slicer.i18n.asked
    assert "As acquired" in slicer.i18n.asked
