"""What a hand does with the panel: clicks on its real widgets, and reading what they show."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore
from PySide6.QtTest import QTest

LEFT = QtCore.Qt.LeftButton


def click(widget: Any, at: Any = None) -> None:
    assert widget.isVisible(), widget.property("objectName")
    assert widget.isEnabled(), widget.property("objectName")
    QTest.mouseClick(widget, LEFT, pos=at or widget.rect.center())


def clickRow(table: Any, row: int, column: int = 1) -> None:
    box = table.visualItemRect(table.item(row, column))
    QTest.mouseClick(table.viewport(), LEFT, pos=box.center())


def clickTick(table: Any, row: int) -> None:
    box = table.visualItemRect(table.item(row, 0))
    QTest.mouseClick(table.viewport(), LEFT, pos=QtCore.QPoint(box.left() + 10, box.center().y()))


def chooseInMenu(button: Any, text: str) -> None:
    """Open the button's menu as a click does, and trigger one of its actions."""
    menu = button.menu()
    menu.aboutToShow.emit()
    offered = {action.property("text").replace("&&", "&"): action for action in menu.actions()}
    assert text in offered, list(offered)
    offered[text].trigger()


def texts(table: Any) -> list[list[str]]:
    return [
        [table.item(row, column).text() for column in range(table.columnCount)]
        for row in range(table.rowCount)
    ]


def runToEnd(panel: Any, host: Any, seconds: float = 30) -> None:
    click(panel.ui.applyButton)
    assert host.process_events(seconds, until=lambda: not panel.logic.isRunning())
    host.process_events(0.05)
