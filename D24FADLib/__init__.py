"""D24FAD: few-shot anomaly detection in medical images with a teacher, a student and a few normal references.

Importing this package is light: torch, SimpleITK and the like are imported where they are used.
Research use only; not a diagnosis.
"""

__version__ = "0.1.0"
