"""Decoding compressed pixels in a process of its own.

JPEG, JPEG-LS and JPEG 2000 decoders are C and C++ libraries, and some damaged files make them crash or run
for ever. So they work in a child (`python -m D24FADLib.dicom.decoding`) that takes [path, frame] lines and
answers with a line of JSON and the bytes; when it dies or does not answer in time, only that image is lost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..windows import NO_WINDOW, take_utf8_paths
from . import headers

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

COMMAND = [sys.executable, "-m", "D24FADLib.dicom.decoding"]
_SECONDS = 60.0
_ITK_SYNTAXES = {f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.90", "5")}
_SECONDS_PER_MEGAPIXEL = 3.0


class Undecodable(Exception):
    """The pixels cannot be decoded; the text is "" or says why."""


def stored_values(dataset: Dataset, number: int) -> NDArray[Any]:
    """Stored values of frame `number` (from 1; 0 for the only one), colour as RGB; raises as pydicom does."""
    from pydicom.pixels import apply_color_lut, pixel_array

    raw = pixel_array(dataset, index=number - 1 if number else 0)
    if headers.text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        raw = apply_color_lut(raw, dataset)
        raw = (raw >> 8).astype(np.uint8) if raw.dtype == np.uint16 else raw
    return np.asarray(raw)


def decodable(syntax: str) -> bool:
    """Whether pydicom knows the transfer syntax and has a decoder for it here."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def itk_decodes(dataset: Dataset) -> bool:
    """Whether SimpleITK's GDCM, which is always there, can stand in for a decoder that is not installed."""
    return (
        headers.text(dataset.file_meta, "TransferSyntaxUID") in _ITK_SYNTAXES
        and headers.text(dataset, "PhotometricInterpretation") == "MONOCHROME2"
        and (headers.whole(dataset, "NumberOfFrames") or 1) == 1
        and not headers.items(dataset, "ModalityLUTSequence")
    )


def _values_by_itk(path: str, dataset: Dataset) -> NDArray[Any]:
    """Stored values of a single image; ITK gives them rescaled, which is undone here."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(path)
    rescaled = sitk.GetArrayFromImage(reader.Execute())[0]
    slope = headers.number(dataset, "RescaleSlope") or 1.0
    stored = np.rint((rescaled - (headers.number(dataset, "RescaleIntercept") or 0.0)) / slope)
    signed = headers.whole(dataset, "PixelRepresentation") == 1
    return stored.astype(np.int16 if signed else np.uint16)


class ChildDecoder:
    """The child process, started when first asked and replaced after a failure."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: Queue[tuple[dict[str, Any], bytes] | None] = Queue()

    def __enter__(self) -> ChildDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def stored_values(self, path: str, number: int, pixels: int) -> NDArray[Any]:
        """As the function of that name; raises Undecodable."""
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps([path, number]).encode() + b"\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=_SECONDS + _SECONDS_PER_MEGAPIXEL * pixels / 1e6)
        except Empty:
            self._stop()
            raise Undecodable("the decoder did not come to an end") from None
        except OSError:
            answer = None
        if answer is None:
            self._stop()
            raise Undecodable("the decoder crashed")
        about, content = answer
        if "error" in about:
            raise Undecodable("")
        return np.frombuffer(content, dtype=about["dtype"]).reshape(about["shape"])

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            creationflags=NO_WINDOW,
        )
        self._process = process
        self._answers = Queue()
        Thread(target=_listen, args=(process, self._answers), daemon=True).start()
        return process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.close()


def _listen(process: subprocess.Popen[bytes], answers: Queue[Any]) -> None:
    """Pass on the child's answers, None when it has ended."""
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        while line := process.stdout.readline():
            about = json.loads(line)
            answers.put((about, process.stdout.read(about.get("bytes", 0))))
    answers.put(None)


def main() -> int:
    """The child: one [path, frame] a line."""
    take_utf8_paths()
    opened: tuple[str, Dataset] | None = None
    # What a library prints must not come between the answers.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(answers, "wb") as out, headers.quiet():
        for line in sys.stdin:
            path, number = json.loads(line)
            try:
                if opened is None or opened[0] != path:
                    with open(path, "rb") as stream:
                        opened = (path, headers.parse(stream))
                syntax = headers.text(opened[1].file_meta, "TransferSyntaxUID")
                known = decodable(syntax)
                found = stored_values(opened[1], number) if known else _values_by_itk(path, opened[1])
                values = np.ascontiguousarray(found)
            except (
                BaseException
            ) as error:  # each decoder has its own; pylibjpeg-rle's panics are no Exception
                out.write(json.dumps({"error": type(error).__name__}).encode() + b"\n")
            else:
                about = {"dtype": values.dtype.str, "shape": values.shape, "bytes": values.nbytes}
                out.write(json.dumps(about).encode() + b"\n")
                out.write(values.data)
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
