"""DICOM beyond reading one series: indexing, databases and the export of results."""
