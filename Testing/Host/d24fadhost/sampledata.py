"""The module `SampleData`, as far as one registers with it, and as strict as Slicer's about what it takes."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataCategory(category: str, title: str) -> None:
        import slicer

        _of(slicer.modules, "sampleDataSourceCategories")[category] = {"title": title}

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Callable[[Any], Any] | None = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        checksums: Any = None,
    ) -> None:
        import slicer

        perFile = {"uris": uris, "fileNames": fileNames, "nodeNames": nodeNames, "loadFiles": loadFiles}
        perFile |= {"loadFileTypes": loadFileTypes, "checksums": checksums}
        if isinstance(uris, list):
            optional = ("nodeNames", "loadFiles", "loadFileTypes", "checksums")
            perFile |= {name: [None] * len(uris) for name in optional if perFile[name] is None}
        elif isinstance(uris, str):
            perFile = {name: [value] for name, value in perFile.items()}
        # As in Slicer: without URIs nothing is a list here, and that is an error.
        if len({len(value) for value in perFile.values()}) != 1:
            raise ValueError("all fields of a sample data source must have the same length")
        source = types.SimpleNamespace(
            sampleName=sampleName,
            customDownloader=customDownloader,
            thumbnailFileName=thumbnailFileName,
            **perFile,
        )
        _of(slicer.modules, "sampleDataSources").setdefault(category, []).append(source)


def _of(modules: Any, name: str) -> Any:
    if not hasattr(modules, name):
        setattr(modules, name, {})
    return getattr(modules, name)
