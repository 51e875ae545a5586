"""The detector: from volumes to a Detection. The public entry is `D24FADLib.inference.detector.detect`."""
