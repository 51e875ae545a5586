"""The verbs of the `d24fad` command line, one per file."""
