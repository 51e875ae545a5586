"""When Qt's objects go.

PythonQt deletes an object that has no parent together with the last reference to it, were it in the middle of
its own signal; and what a signal calls is kept for as long as the object lives, out of reach of Python's
garbage collector. So an object that calls its owner has to be ended, and ended later.
"""

import qt


def endLater(thing):
    """Delete a Qt object in a later turn of the event loop, and let go of what its signals call."""
    # The method holds the object until then.
    qt.QTimer.singleShot(0, thing.deleteLater)
