"""The few ctk widgets the panel uses, looking roughly as they do in Slicer."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from d24fadhost.properties import give_connect


class ctkCollapsibleButton(QtWidgets.QWidget):
    contentsCollapsed = QtCore.Signal(bool)
    SIGNALS = frozenset({"contentsCollapsed(bool)"})
    HEADER = 26

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        give_connect(self)
        self._text = ""
        self._collapsed = False
        self._hidden: list[Any] = []
        self.setContentsMargins(0, self.HEADER, 0, 0)
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)

    @QtCore.Property(str)
    def text(self) -> str:
        return self._text

    @text.setter  # type: ignore[no-redef]
    def text(self, value: str) -> None:
        self._text = value
        self.update()

    @QtCore.Property(bool)
    def collapsed(self) -> bool:
        return self._collapsed

    @collapsed.setter  # type: ignore[no-redef]
    def collapsed(self, value: bool) -> None:
        if bool(value) == self._collapsed:
            return
        self._collapsed = bool(value)
        self._apply()
        self.contentsCollapsed.emit(self._collapsed)

    def _apply(self) -> None:
        """Hide the contents; opening shows again only what collapsing hid."""
        if self._collapsed:
            children = self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly)
            self._hidden += [child for child in children if not child.isHidden()]
        for child in self._hidden:
            child.setVisible(not self._collapsed)
        if not self._collapsed:
            self._hidden = []
        self.setMaximumHeight(self.HEADER if self._collapsed else 16777215)
        self.updateGeometry()

    def showEvent(self, event: Any) -> None:
        if self._collapsed:
            self._apply()
        super().showEvent(event)

    def sizeHint(self) -> Any:
        return QtCore.QSize(200, self.HEADER) if self._collapsed else super().sizeHint()

    def minimumSizeHint(self) -> Any:
        return QtCore.QSize(50, self.HEADER) if self._collapsed else super().minimumSizeHint()

    def mousePressEvent(self, event: Any) -> None:
        if event.position().y() <= self.HEADER:
            self.collapsed = not self._collapsed

    def paintEvent(self, event: Any) -> None:
        painter = QtGui.QPainter(self)
        header = QtCore.QRect(0, 0, self.width(), self.HEADER - 2)
        option = QtWidgets.QStyleOptionButton()
        option.rect = header
        option.palette = self.palette()
        option.state = QtWidgets.QStyle.State_Enabled
        self.style().drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option, painter, self)
        painter.setPen(self.palette().color(QtGui.QPalette.ButtonText))
        arrow = QtWidgets.QStyleOption()
        arrow.rect = QtCore.QRect(8, 7, 10, 10)
        arrow.palette = self.palette()
        arrow.state = QtWidgets.QStyle.State_Enabled
        shape = (
            QtWidgets.QStyle.PE_IndicatorArrowRight
            if self._collapsed
            else QtWidgets.QStyle.PE_IndicatorArrowDown
        )
        self.style().drawPrimitive(shape, arrow, painter, self)
        painter.drawText(header.adjusted(26, 0, -4, 0), QtCore.Qt.AlignVCenter, self._text)
        painter.end()


class ctkSliderWidget(QtWidgets.QWidget):
    valueChanged = QtCore.Signal(float)
    SIGNALS = frozenset({"valueChanged(double)"})

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        give_connect(self)
        self._step = 1.0
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal, self)
        self._spin = QtWidgets.QDoubleSpinBox(self)
        self._slider.setRange(0, 1000)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spin)
        self._spin.setRange(0, 99)
        self._spin.valueChanged.connect(self._fromSpin)
        self._slider.valueChanged.connect(self._fromSlider)

    def _fromSpin(self, value: float) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000 * (value - self._spin.minimum()) / span) if span else 0)
        self._slider.blockSignals(False)
        self.valueChanged.emit(value)

    def _fromSlider(self, position: int) -> None:
        span = self._spin.maximum() - self._spin.minimum()
        self._spin.setValue(self._spin.minimum() + span * position / 1000)

    def _get(self, name: str) -> Any:
        return getattr(self._spin, name)()

    value = QtCore.Property(float, lambda s: s._get("value"), lambda s, v: s._spin.setValue(v))
    # As ctkDoubleSpinBox does, each sets the other end anew too, as far as the decimals let it be known.
    minimum = QtCore.Property(
        float, lambda s: s._get("minimum"), lambda s, v: s._spin.setRange(v, max(v, s._spin.maximum()))
    )
    maximum = QtCore.Property(
        float, lambda s: s._get("maximum"), lambda s, v: s._spin.setRange(min(v, s._spin.minimum()), v)
    )
    singleStep = QtCore.Property(float, lambda s: s._get("singleStep"), lambda s, v: s._spin.setSingleStep(v))
    decimals = QtCore.Property(int, lambda s: s._get("decimals"), lambda s, v: s._spin.setDecimals(v))
    suffix = QtCore.Property(str, lambda s: s._get("suffix"), lambda s, v: s._spin.setSuffix(v))


class ctkPathLineEdit(QtWidgets.QWidget):
    """As ctk's, it tells of a path only where that is valid input, and without name filters ".+" is. Its
    flags have no names: PythonQt itself gives none to flags, Slicer's does."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)
    SIGNALS = frozenset({"currentPathChanged(QString)", "validInputChanged(bool)"})

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        give_connect(self)
        self._edit = QtWidgets.QLineEdit(self)
        self._browse = QtWidgets.QToolButton(self)
        self._browse.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit, 1)
        layout.addWidget(self._browse)
        self._edit.textChanged.connect(self._changed)
        self._valid = False
        self._filters = 0

    def _changed(self, text: str) -> None:
        before, self._valid = self._valid, bool(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    currentPath = QtCore.Property(str, lambda s: s._edit.text(), lambda s, v: s._edit.setText(v))
    nameFilters = QtCore.Property("QStringList", lambda s: [], lambda s, v: None)
    filters = QtCore.Property(int, lambda s: s._filters, lambda s, v: setattr(s, "_filters", v))


WIDGETS = {cls.__name__: cls for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit)}
