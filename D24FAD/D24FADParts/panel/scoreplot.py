"""The slices' scores as a small plot: where to look, where one is, and a click to go there."""

import qt
from slicer.i18n import tr as _

_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 22, 30
_PEAK, _MEAN, _HERE = "#d64b3c", "#4d7fb8", "#e0a020"


class ScorePlot(qt.QWidget):
    """`onSlice(number)` when a slice is clicked. Draws only what it was given last."""

    def __init__(self, onSlice):
        qt.QWidget.__init__(self)
        self.setObjectName("scorePlot")
        self.setMinimumHeight(150)
        self.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self.setCursor(qt.QCursor(qt.Qt.PointingHandCursor))
        self.setToolTip(_("Score of each slice. Click to go there."))
        self._onSlice = onSlice
        self._peak, self._mean = [], []
        self._threshold = 0.0
        self._current = None

    def setScores(self, peak, mean):
        self._peak = [_finite(value) for value in peak]
        self._mean = [_finite(value) for value in mean]
        self.update()

    def setThreshold(self, value):
        self._threshold = value
        self.update()

    def setCurrent(self, number):
        if number != self._current:
            self._current = number
            self.update()

    def sliceAt(self, x):
        """The slice drawn at this pixel, None left or right of the plot."""
        count = len(self._peak)
        plotWidth = self.width - _LEFT - _RIGHT
        if not count or plotWidth <= 0:
            return None
        number = round((x - _LEFT) / plotWidth * (count - 1)) if count > 1 else 0
        return number if -0.5 <= number <= count - 0.5 else None

    def xOf(self, number):
        count = len(self._peak)
        return _LEFT + round((self.width - _LEFT - _RIGHT) * (number / (count - 1) if count > 1 else 0.5))

    def mousePressEvent(self, event):
        place = event.position() if hasattr(event, "position") else event.pos()
        number = self.sliceAt(place.x())
        if number is not None:
            self._onSlice(number)

    def paintEvent(self, _event):
        painter = qt.QPainter(self)
        try:
            self._paint(painter)
        finally:
            painter.end()

    def _paint(self, painter):
        width, height = self.width, self.height
        # Held, and the colours copied: what `color` gives may live no longer than the palette.
        palette = self.palette
        text, base = (qt.QColor(palette.color(role)) for role in (qt.QPalette.Text, qt.QPalette.Base))
        faint = qt.QColor(text)
        faint.setAlpha(70)
        painter.fillRect(0, 0, width, height, base)
        if not self._peak:
            return
        top = max(1e-6, *self._peak, self._threshold * 1.15)
        bottom = height - _BOTTOM

        def y(value):
            return bottom - int((bottom - _TOP) * max(0.0, min(1.0, value / top)) + 0.5)

        painter.setPen(faint)
        painter.drawLine(_LEFT, bottom, width - _RIGHT, bottom)
        painter.drawLine(_LEFT, _TOP, _LEFT, bottom)
        self._curve(painter, self._mean, y, _MEAN)
        self._curve(painter, self._peak, y, _PEAK)
        self._thresholdLine(painter, y, width, text)
        if self._current is not None and 0 <= self._current < len(self._peak):
            self._here(painter, y, bottom)
        self._labels(painter, text, top, y, width, height)

    def _curve(self, painter, values, y, color):
        pen = qt.QPen(qt.QColor(color))
        pen.setWidth(2)
        painter.setPen(pen)
        painter.setRenderHint(qt.QPainter.Antialiasing, True)
        for number in range(1, len(values)):
            painter.drawLine(self.xOf(number - 1), y(values[number - 1]), self.xOf(number), y(values[number]))
        if len(values) == 1:
            painter.drawEllipse(self.xOf(0) - 2, y(values[0]) - 2, 4, 4)
        painter.setRenderHint(qt.QPainter.Antialiasing, False)

    def _thresholdLine(self, painter, y, width, text):
        pen = qt.QPen(text)
        pen.setStyle(qt.Qt.DashLine)
        painter.setPen(pen)
        painter.drawLine(_LEFT, y(self._threshold), width - _RIGHT, y(self._threshold))

    def _here(self, painter, y, bottom):
        x = self.xOf(self._current)
        pen = qt.QPen(qt.QColor(_HERE))
        pen.setWidth(2)
        painter.setPen(pen)
        painter.drawLine(x, _TOP, x, bottom)
        painter.setBrush(qt.QBrush(qt.QColor(_HERE)))
        painter.drawEllipse(x - 4, y(self._peak[self._current]) - 4, 8, 8)
        painter.setBrush(qt.QBrush())

    def _labels(self, painter, text, top, y, width, height):
        painter.setPen(text)
        metrics = painter.fontMetrics()
        ascent = metrics.ascent()
        painter.drawText(4, y(top) + ascent // 2 + 2, f"{top:.3g}")
        painter.drawText(4, y(0) + 2, "0")
        last = str(len(self._peak) - 1)
        base = height - _BOTTOM + ascent + 4
        painter.drawText(_LEFT, base, "0")
        painter.drawText(width - _RIGHT - _advance(metrics, last), base, last)
        here = _("Slice") if self._current is None else _("Slice {number}").format(number=self._current)
        painter.drawText((width - _advance(metrics, here)) // 2, base, here)
        x = _LEFT
        for name, color in ((_("Highest score"), _PEAK), (_("Mean score"), _MEAN), (_("Threshold"), None)):
            painter.setPen(qt.QColor(color) if color else text)
            said = ("— " if color else "- - ") + name
            painter.drawText(x, ascent + 3, said)
            x += _advance(metrics, said) + 14


def _advance(metrics, text):
    return metrics.horizontalAdvance(text)


def _finite(value):
    return value if value == value and abs(value) != float("inf") else 0.0
