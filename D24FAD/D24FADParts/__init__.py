"""The parts of the D24FAD module: what it does to the scene, to the worker process and in its panel."""
