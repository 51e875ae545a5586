"""PySide6 classes that behave as PythonQt's: properties are attributes, signals connect by signature."""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
from PySide6.QtCore import QObject, QTimer

# Getters that C++ calls back as virtual functions; turned into attributes they would break Qt itself.
VIRTUAL = {"sizeHint", "minimumSizeHint"}
# ... and QTimer.singleShot is called on the class far more often than it is read from a timer.
VIRTUAL_OF = {("QProgressBar", "text"), ("QTimer", "singleShot")}

_cache: dict[type, type] = {}


def propertied(cls: type) -> type:
    """The PythonQt-like twin of a PySide6 class (classes that are no QObject stay as they are)."""
    if not (isinstance(cls, type) and issubclass(cls, QObject)) or getattr(cls, "isHostClass", False):
        return cls
    if cls not in _cache:
        _cache[cls] = type(
            cls.__name__,
            (cls,),
            {
                **_attributes(cls),
                "__init__": _init(cls),
                "__setattr__": _setattr(cls),
                "deleteLater": _deleteLater,
                "isHostClass": True,
            },
        )
    return _cache[cls]


def _attributes(cls: type) -> dict[str, Any]:
    meta = cls.staticMetaObject
    attributes = {}
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        if name in VIRTUAL or any(issubclass(cls, _named(cls, c)) and p == name for c, p in VIRTUAL_OF):
            continue
        attributes[name] = _property(name)
    attributes["name"] = _property("objectName")
    return attributes


def _named(cls: type, name: str) -> Any:
    return next((base for base in cls.__mro__ if base.__name__ == name), ())


def _property(name: str) -> property:
    def get(self: QObject) -> Any:
        value = QObject.property(self, name)
        return (
            getattr(value, "value", value)
            if type(value).__module__.startswith("PySide6") and hasattr(type(value), "_member_map_")
            else value
        )

    def put(self: QObject, value: Any) -> None:
        plain = getattr(value, "value", value)  # of an enumeration, which PySide does not set
        if not (QObject.setProperty(self, name, value) or QObject.setProperty(self, name, plain)):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set to {value!r}")

    return property(get, put)


def _init(cls: type) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        give_connect(self)

    return __init__


def _setattr(cls: type) -> Any:
    """PythonQt takes no new attributes on Qt's objects, only on those of a class derived in Python."""

    def __setattr__(self: QObject, name: str, value: Any) -> None:
        if "isHostClass" in vars(type(self)) and not isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"{name} does not exist on {type(self).__name__}, and cannot be made there")
        cls.__setattr__(self, name, value)

    return __setattr__


def _deleteLater(self: QObject) -> None:
    """Qt's, but the Python object goes on owning the other, and takes it along should it go first; PySide
    would keep both until later."""
    if self.parent() is not None:
        QObject.deleteLater(self)
        return
    held = weakref.ref(self)

    def delete() -> None:
        thing = held()
        if thing is not None and shiboken6.isValid(thing):
            shiboken6.delete(thing)

    QTimer.singleShot(0, delete)


def give_connect(instance: QObject) -> None:
    """`instance.connect("clicked(bool)", slot)`; Shiboken's own `connect` can only be hidden per instance.

    Held weakly: as in PythonQt, an object without a parent is gone with the last reference to it.
    """
    sender = weakref.ref(instance)
    for name, ours, pyside in (
        ("connect", connect, QObject.connect),
        ("disconnect", disconnect, QObject.disconnect),
    ):
        instance.__dict__[name] = _Either(sender, ours, pyside)


class _Either:
    """PySide's own signals look `connect` up on the sender too, with the sender as first argument."""

    def __init__(self, sender: Any, ours: Any, pyside: Any) -> None:
        self._sender, self._ours, self._pyside = sender, ours, pyside

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) == 2 and isinstance(arguments[0], str):
            return self._ours(self._sender(), *arguments)
        return self._pyside(*arguments)


def connect(sender: QObject, signature: str, slot: Any) -> bool:
    name, _, arguments = signature.partition("(")
    if not signature.endswith(")"):
        raise ValueError(f"{signature!r} is not a signal signature")
    signal = getattr(sender, name, None)
    if signal is None or not hasattr(signal, "connect"):
        raise AttributeError(f"{type(sender).__name__} has no signal {name}")
    # A signal that a Python class of the host declares has no C++ types to compare with but those it names.
    own = getattr(sender, "SIGNALS", None)
    declared = own or {text for text in _signatures(sender) if "PyObject" not in text}
    wanted = signature.replace(" ", "")
    if declared and wanted not in declared and name in {s.partition("(")[0] for s in declared}:
        raise ValueError(f"{type(sender).__name__} has no signal {signature}; it has {sorted(declared)}")
    count = 0 if arguments == ")" else arguments.count(",") + 1

    # PySide counts the parameters of what it calls, so they are spelt out.
    call = (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b))[count]
    connections = sender.__dict__.setdefault("_connections", [])
    connections.append((wanted, slot, call))
    signal.connect(call)
    return True


def disconnect(sender: QObject, signature: str, slot: Any) -> bool:
    connections = sender.__dict__.get("_connections", [])
    for entry in list(connections):
        if entry[0] == signature.replace(" ", "") and entry[1] == slot:
            getattr(sender, signature.partition("(")[0]).disconnect(entry[2])
            connections.remove(entry)
    return True


def _signatures(sender: QObject) -> set[str]:
    """The signals Qt declares on this object; empty where Python declared them."""
    meta = sender.metaObject()
    found = set()
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType().name == "Signal":
            found.add(bytes(method.methodSignature().data()).decode())
    return found
