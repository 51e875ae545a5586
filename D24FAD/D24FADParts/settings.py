"""The user's choices of one session, kept in the module's parameter node with the scene."""

import json

from D24FADLib.worker.commandline import DetectOptions

DEFAULTS = {
    "Plane": "",
    "Align": "",
    "Device": "auto",
    "Model": "",
    "Batch": "0",
    "FalseFindings": "1.0",
    "KeepPrevious": "false",
    "DropOutliers": "false",
    "UnsuitableAnyway": "false",
    "ShowDate": "false",
    "Opacity": "0.6",
    "Layer": "map",
}
QUERY = "Query"


def get(parameterNode, name):
    value = parameterNode.GetParameter(name)
    return value if value else DEFAULTS[name]


def isOn(parameterNode, name):
    return get(parameterNode, name) == "true"


def put(parameterNode, name, value):
    """Whether it changed."""
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if get(parameterNode, name) == text:
        return False
    parameterNode.SetParameter(name, text)
    return True


def options(parameterNode):
    """The detector's options that these settings ask for."""
    batch = int(get(parameterNode, "Batch"))
    return DetectOptions(
        plane=get(parameterNode, "Plane"),
        align=get(parameterNode, "Align"),
        device=get(parameterNode, "Device"),
        model=get(parameterNode, "Model"),
        batch=batch or None,
        false_positives_per_study=float(get(parameterNode, "FalseFindings")),
        drop_outliers=isOn(parameterNode, "DropOutliers"),
        unsuitable_anyway=isOn(parameterNode, "UnsuitableAnyway"),
    )


def getJson(parameterNode, name, default):
    """A structured parameter; the default where it is absent or damaged."""
    try:
        return json.loads(parameterNode.GetParameter(name) or "null") or default
    except ValueError:
        return default


def putJson(parameterNode, name, value):
    parameterNode.SetParameter(name, json.dumps(value))
