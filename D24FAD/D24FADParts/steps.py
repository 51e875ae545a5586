"""Long work on the GUI thread in short turns, so that the application never feels blocked."""

import time

import qt

from .lifetimes import endLater

TURN_SECONDS = 0.02


def drained(generator):
    """All of a generator's steps at once, for scripts; what it returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


class Steps:
    """Runs a generator a little in each turn of the event loop.

    `onDone()` after its last step, `onError(exception)` if it raised; neither after `stop`.
    """

    def __init__(self, generator, onDone, onError, onStep=None):
        self._generator, self._onDone, self._onError, self._onStep = generator, onDone, onError, onStep
        self._paused = False
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._turn)
        self._timer.start()

    def stop(self):
        generator = self._generator
        self._end()
        # A step in which the event loop was turned is still at work, and is not followed by another.
        if generator is not None and not generator.gi_running:
            generator.close()

    def pause(self):
        """No more steps after this one until `resume`."""
        self._paused = True
        self._timer.stop()

    def resume(self):
        if self._generator is not None:
            self._paused = False
            self._timer.start()

    def _end(self):
        """Lets go of everything, volumes among it: once."""
        if self._generator is not None:
            self._generator = self._onDone = self._onError = self._onStep = None
            self._timer.stop()
            endLater(self._timer)

    def _done(self):
        if self._generator is not None:
            onDone = self._onDone
            self._end()
            onDone()

    def _turn(self):
        until = time.perf_counter() + TURN_SECONDS
        try:
            while self._generator is not None:
                value = next(self._generator)
                if self._onStep is not None and value is not None:
                    self._onStep(value)
                if self._paused or time.perf_counter() >= until:
                    return
        except StopIteration:
            self._timer.stop()
            if self._generator is not None:
                # In a turn of its own, which `stop` can still prevent.
                qt.QTimer.singleShot(0, self._done)
        except Exception as error:
            onError = self._onError
            self._end()
            onError(error)
