"""Sets of normal references, kept as series UIDs and paths, and whether a reference fits a study."""
