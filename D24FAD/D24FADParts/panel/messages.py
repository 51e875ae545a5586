"""Sentences inside the panel instead of dialogs: they can be read, copied and ignored."""

import qt

_STYLES = {
    "info": "rgba(90, 150, 210, 40)",
    "warning": "rgba(240, 170, 40, 55)",
    "error": "rgba(220, 70, 60, 55)",
}
_EDGES = {"info": "#5a96d2", "warning": "#e0a020", "error": "#dc463c"}


def show(label, text, kind="info", toolTip=""):
    """Show a message, or hide the label where there is none."""
    label.setTextFormat(qt.Qt.PlainText)
    label.setText(text)
    label.setToolTip(toolTip)
    if text:
        label.setStyleSheet(
            f"background: {_STYLES[kind]}; border-left: 3px solid {_EDGES[kind]}; padding: 5px 7px;"
        )
    label.setVisible(bool(text))


def soften(label):
    """For a line of lesser importance, in dark and light themes alike."""
    label.setForegroundRole(qt.QPalette.PlaceholderText)
