"""The panel: one class for each of its four steps, each over the widgets of D24FAD.ui."""
