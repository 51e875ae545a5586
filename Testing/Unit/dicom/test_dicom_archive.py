"""Sending to a real archive: Orthanc on loopback, by C-STORE and STOW-RS, and back again."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from detections import detection_for
from dicom_factory import SeriesSpec, phantom, reread, write_series

from D24FADLib.cli import main
from D24FADLib.commands import send as send_command
from D24FADLib.commands.progress import TerminalReporter
from D24FADLib.dicom.export import KINDS, Exported, export_detection
from D24FADLib.dicom.send import Tls, collect, parse_address, send_cstore, send_stow
from D24FADLib.dicom.series import read_files
from D24FADLib.errors import InputError

pydicom = pytest.importorskip("pydicom")
pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (d24fad[dicom])")
pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (d24fad[dicom])")
pytest.importorskip("highdicom", reason="highdicom is not installed (d24fad[dicom])")

ORTHANC = shutil.which("Orthanc") or ("/usr/sbin/Orthanc" if Path("/usr/sbin/Orthanc").exists() else None)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass(frozen=True)
class Archive:
    dicom: str
    web: str
    rest: str
    mover_port: int

    def count(self) -> int:
        with urllib.request.urlopen(f"{self.rest}/statistics", timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])

    def clear(self) -> None:
        with urllib.request.urlopen(f"{self.rest}/patients", timeout=10) as answer:
            for patient in json.load(answer):
                request = urllib.request.Request(f"{self.rest}/patients/{patient}", method="DELETE")
                urllib.request.urlopen(request, timeout=10).close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def orthanc(folder: Path, more: dict[str, object]) -> Iterator[Archive]:
    """A running Orthanc with its own storage."""
    if ORTHANC is None or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed (apt: orthanc orthanc-dicomweb)")
    dicom, http, mover = free_port(), free_port(), free_port()
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "DicomServerEnabled": True,
        "DicomCheckCalledAet": True,
        "HttpServerEnabled": True,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {"mover": ["MOVER", "127.0.0.1", mover]},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps({**config, **more}))
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT)
    rest = f"http://localhost:{http}"
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", http), timeout=1):
                break
            assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
            time.sleep(0.1)
        else:
            pytest.fail("Orthanc did not start: " + (folder / "log.txt").read_text()[-2000:])
        yield Archive(f"localhost:{dicom}", f"{rest}/dicom-web", rest, mover)
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


@contextmanager
def https_before(archive: Archive, certificate: Path, key: Path) -> Iterator[str]:
    """The archive's DICOMweb service behind a proxy that speaks TLS, as hospitals run it."""

    class Forward(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            chunked = "Content-Length" not in self.headers
            while chunked:  # as the client sends larger bodies
                chunk = self.rfile.read(int(self.rfile.readline(), 16))
                self.rfile.readline()
                body += chunk
                chunked = bool(chunk)
            passed = ("content-type", "accept", "authorization")
            kept = {name: value for name, value in self.headers.items() if name.lower() in passed}
            request = urllib.request.Request(archive.rest + self.path, body, kept, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    self.reply(answer.status, answer.headers, answer.read())
            except urllib.error.HTTPError as error:
                self.reply(error.code, error.headers, error.read())

        def reply(self, status: int, kept: Message, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kept.get("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    thread = Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{proxy.server_port}/dicom-web"
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with orthanc(tmp_path_factory.mktemp("orthanc"), {}) as archive:
        yield archive


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    paths = write_series(folder / "source", SeriesSpec(phantom(6, 40, 48)))
    query = read_files(paths, "query").volume
    return export_detection(detection_for(query), paths, folder / "out", KINDS)


def same_voxels(one: pydicom.Dataset, other: pydicom.Dataset) -> bool:
    if one.Modality in ("SR", "DOC"):
        return one == other
    return np.array_equal(one.pixel_array, other.pixel_array)


def test_cstore_then_find_and_move(server: Archive, exported: Exported, tmp_path: Path) -> None:
    server.clear()
    results = send_cstore(next(iter(exported.files.values())).parent, server.dicom, called="ORTHANC")
    assert [r.ok for r in results] == [True] * len(KINDS)
    assert {r.answer for r in results} == {"stored"}
    assert server.count() == len(KINDS)
    sent = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, exported.files.values())}
    found = find_instances(server, next(iter(sent.values())).StudyInstanceUID)
    assert found == set(sent)
    moved = move_study(server, next(iter(sent.values())).StudyInstanceUID)
    assert set(moved) == set(sent)
    for uid, dataset in moved.items():
        assert same_voxels(dataset, sent[uid])


def find_instances(server: Archive, study: str) -> set[str]:
    from pydicom.dataset import Dataset
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Model

    host, port = parse_address(server.dicom)
    entity = pynetdicom.AE(ae_title="MOVER")
    entity.add_requested_context(Model)
    association = entity.associate(host, port, ae_title="ORTHANC")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "SERIES", study
    query.SeriesInstanceUID = ""
    series = [i.SeriesInstanceUID for s, i in association.send_c_find(query, Model) if i is not None]
    uids: set[str] = set()
    for one in series:
        query.QueryRetrieveLevel, query.SeriesInstanceUID, query.SOPInstanceUID = "IMAGE", one, ""
        uids |= {str(i.SOPInstanceUID) for s, i in association.send_c_find(query, Model) if i is not None}
    association.release()
    return uids


def move_study(server: Archive, study: str) -> dict[str, pydicom.Dataset]:
    from pydicom.dataset import Dataset
    from pynetdicom import AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Model

    received: dict[str, pydicom.Dataset] = {}

    def keep(event: evt.Event) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        received[str(dataset.SOPInstanceUID)] = dataset
        return 0

    receiver = pynetdicom.AE(ae_title="MOVER")
    receiver.supported_contexts = AllStoragePresentationContexts
    listening = receiver.start_server(
        ("127.0.0.1", server.mover_port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    host, port = parse_address(server.dicom)
    entity = pynetdicom.AE(ae_title="MOVER")
    entity.add_requested_context(Model)
    association = entity.associate(host, port, ae_title="ORTHANC")
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study
    statuses = [status.Status for status, _ in association.send_c_move(query, "MOVER", Model)]
    association.release()
    listening.shutdown()
    assert statuses[-1] == 0
    return received


def test_stow_then_retrieve_over_dicomweb(server: Archive, exported: Exported) -> None:
    from dicomweb_client.api import DICOMwebClient

    server.clear()
    results = send_stow(next(iter(exported.files.values())).parent, server.web)
    assert [r.ok for r in results] == [True] * len(KINDS)
    sent = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, exported.files.values())}
    client = DICOMwebClient(server.web)
    study = str(next(iter(sent.values())).StudyInstanceUID)
    back = {str(d.SOPInstanceUID): d for d in client.retrieve_study(study)}
    assert set(back) == set(sent)
    for uid, dataset in back.items():
        assert same_voxels(dataset, sent[uid])


def test_each_result_is_reported_on_its_own(server: Archive, exported: Exported, tmp_path: Path) -> None:
    server.clear()
    folder = tmp_path / "mixed"
    shutil.copytree(next(iter(exported.files.values())).parent, folder)
    (folder / "readme.txt").write_text("no DICOM")
    broken = folder / "broken.dcm"
    broken.write_bytes((folder / "anomaly-map.dcm").read_bytes()[:-500])
    results = {r.file: r for r in send_cstore(folder, server.dicom, called="ORTHANC")}
    assert not results["broken.dcm"].ok
    assert "cut off" in results["broken.dcm"].answer
    assert "readme.txt" not in results
    assert sum(r.ok for r in results.values()) == len(KINDS)


def test_what_the_archive_does_not_take_is_said_for_that_file_only(exported: Exported) -> None:
    """An archive that takes reports only, and is out of resources for them."""
    from pynetdicom import evt
    from pynetdicom.sop_class import ComprehensiveSRStorage

    port = free_port()
    receiver = pynetdicom.AE(ae_title="PICKY")
    receiver.add_supported_context(ComprehensiveSRStorage)
    listening = receiver.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda e: 0xA700)]
    )
    try:
        results = send_cstore(next(iter(exported.files.values())).parent, f"127.0.0.1:{port}", called="PICKY")
    finally:
        listening.shutdown()
    assert not any(r.ok for r in results)
    answers = {r.file: r.answer for r in results}
    assert "out of resources" in answers["report-sr.dcm"]
    assert "does not accept its kind" in answers["findings-seg.dcm"]


def test_wrong_titles_and_addresses_are_explained(server: Archive, exported: Exported) -> None:
    folder = next(iter(exported.files.values())).parent
    with pytest.raises(InputError, match="refused the association"):
        send_cstore(folder, server.dicom, called="WRONG")
    with pytest.raises(InputError, match="no answer from a DICOM archive"):
        send_cstore(folder, f"127.0.0.1:{free_port()}", timeout=5)
    with pytest.raises(InputError, match="no DICOMweb service"):
        send_stow(folder, f"http://127.0.0.1:{free_port()}/dicom-web")
    with pytest.raises(InputError, match="no DICOMweb service at this path"):
        send_stow(folder, server.rest + "/elsewhere")
    for to in ("archive", "archive:port", ":104", "archive:99999"):
        with pytest.raises(InputError, match="not an address"):
            parse_address(to)
    with pytest.raises(InputError, match="AE title"):
        send_cstore(folder, server.dicom, called="MUCH-TOO-LONG-A-TITLE")
    with pytest.raises(InputError, match="--auth-file"):
        send_stow(folder, "http://user:secret@127.0.0.1/dicom-web")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (apt: openssl)")
def test_encrypted_with_certificates_of_both_sides(exported: Exported, tmp_path: Path) -> None:
    """C-STORE over TLS and STOW-RS over https with a password, to a real archive; refused without trust."""
    certificates: dict[str, Path] = {}
    for name in ("server", "client", "stranger"):
        key, cert = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
        certificates[name] = cert
    secured = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(certificates["server"]),
        "DicomTlsPrivateKey": str(tmp_path / "server.key"),
        "DicomTlsTrustedCertificates": str(certificates["client"]),
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": "secret"},
    }
    folder = next(iter(exported.files.values())).parent
    tls = Tls(certificates["server"], certificates["client"], tmp_path / "client.key")
    with (
        orthanc(tmp_path, secured) as archive,
        https_before(archive, certificates["server"], tmp_path / "server.key") as web,
    ):
        results = send_cstore(folder, archive.dicom, called="ORTHANC", tls=tls)
        assert [r.answer for r in results] == ["stored"] * len(KINDS)
        for other in (None, Tls(), Tls(certificates["stranger"], tls.certificate, tls.key)):
            with pytest.raises(InputError, match=r"TLS"):
                send_cstore(folder, archive.dicom, called="ORTHANC", tls=other, timeout=5)
        results = send_stow(folder, web, "reader", "secret", tls=Tls(certificates["server"]))
        assert [r.ok for r in results] == [True] * len(KINDS)
        with pytest.raises(InputError, match="no encrypted connection"):
            send_stow(folder, web, "reader", "secret")
        with pytest.raises(InputError, match="asks for a user"):
            send_stow(folder, web, tls=Tls(certificates["server"]))


def test_secrets_are_not_sent_in_the_open(exported: Exported, tmp_path: Path) -> None:
    folder = next(iter(exported.files.values())).parent
    with pytest.raises(InputError, match="unencrypted"):
        send_stow(folder, "http://archive.example/dicom-web", token="abc")
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(InputError, match=r"no\.pem"):
        send_cstore(folder, "localhost:104", tls=Tls(tmp_path / "no.pem"))


def test_folders_without_dicom_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no DICOM files"):
        collect(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        collect(tmp_path / "absent")


def test_the_command(
    server: Archive, exported: Exported, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.clear()
    parser = argparse.ArgumentParser()
    send_command.add_parser(parser.add_subparsers())
    folder = next(iter(exported.files.values())).parent
    args = parser.parse_args(["send", str(folder), "--to", server.dicom, "--aec", "ORTHANC", "--json"])
    assert args.run(args, TerminalReporter()) == 0
    assert all(entry["ok"] for entry in json.loads(capsys.readouterr().out))
    (tmp_path / "auth").write_text("user:pass")
    args = parser.parse_args(
        ["send", str(folder), "--stow", server.web, "--auth-file", str(tmp_path / "auth")]
    )
    assert args.run(args, TerminalReporter()) == 0
    assert f"{len(KINDS)} of {len(KINDS)} stored" in capsys.readouterr().out


def test_the_command_waits_no_longer_than_told_and_refuses_what_does_not_go_together(
    exported: Exported, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, auth = next(iter(exported.files.values())), tmp_path / "auth"
    auth.write_text("user:pass")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert main(["send", str(folder), "--stow", url, "--timeout", "0.2"]) == 1
    assert "no answer: the connection timed out" in capsys.readouterr().out
    assert main(["send", str(folder), "--to", "localhost:104", "--auth-file", str(auth)]) == 2
    assert "--auth-file goes with --stow" in capsys.readouterr().err
    assert main(["send", str(folder), "--to", "localhost:104", "--timeout", "0"]) == 2


def test_file_names_that_name_the_patient_are_withheld(tmp_path: Path) -> None:
    paths = write_series(tmp_path, SeriesSpec(phantom(2)), ["Quillfeather_1.dcm", "b.dcm"])
    reread(paths[1], lambda ds: setattr(ds, "PatientID", "QUILLFEATHER"))
    items, _ = collect(tmp_path)
    assert "uillfeather" not in " ".join(item.label for item in items)
