"""Sending DICOM files to an archive: C-STORE (PS3.4 B) or STOW-RS (PS3.18 10.5), each result checked."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import InputError
from . import headers
from .privacy import identity_words, withhold

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Progress = Callable[[int, int], bool | None]
_MAX_CONTEXTS = 128  # PS3.8 section 9.3.2.2: odd presentation context ids up to 255
# PS3.4 table B.2-1: what the archive's answer means.
_WARNINGS = {
    0xB000: "stored, with values changed",
    0xB006: "stored, with elements left out",
    0xB007: "stored, though it does not match its class",
}
_FAILURES = {
    0xA700: "the archive is out of resources",
    0xA900: "the archive says that it does not match its class",
    0xC000: "the archive cannot understand it",
    0x0122: "the archive does not support its kind",
    0x0124: "the archive does not permit it",
}


@dataclass(frozen=True)
class Tls:
    """How a connection is encrypted: `authorities` is a file of certificates to trust instead of the
    system's, `certificate` and `key` are one's own, where the archive asks for them. All in PEM."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later with the archive's name checked; raises InputError for files that do not serve."""
        try:
            made = ssl.create_default_context(cafile=self.authorities)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                made.load_cert_chain(self.certificate, self.key, password=_no_passphrase)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            names = [path.name for path in (self.authorities, self.certificate, self.key) if path is not None]
            raise InputError(
                f"{', '.join(names)}: cannot be used as certificates and key. Give PEM files without a "
                "passphrase."
            ) from error
        return made


def _no_passphrase() -> str:
    raise ValueError("a passphrase is asked for")


@dataclass(frozen=True)
class Sent:
    """What became of one file. `file` is its name, `sop_instance_uid` its instance."""

    file: str
    sop_instance_uid: str
    ok: bool
    answer: str


@dataclass(frozen=True)
class _Item:
    path: Path
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    syntax: str


def collect(folder: str | os.PathLike[str]) -> tuple[list[_Item], list[Sent]]:
    """The DICOM files of a folder, or one file, and what cannot be sent."""
    root = Path(folder)
    if not root.exists():
        raise InputError(f"{root.name}: no such file or folder. Check the path.")
    found: list[_Item] = []
    broken: list[tuple[str, str]] = []
    words: set[str] = set()
    with headers.quiet():
        for path in headers.files_under(root) if root.is_dir() else [root]:
            try:
                header, _ = headers.read_header(path)
            except headers.Unreadable as error:
                words |= identity_words(error.header) if error.header is not None else set()
                if str(error) != "not a DICOM file" or root.is_file():
                    broken.append((path.name, str(error)))
                continue
            words |= identity_words(header)
            values = [headers.uid(header, k) for k in ("SOPClassUID", "SOPInstanceUID")]
            syntax = headers.uid(header.file_meta, "TransferSyntaxUID")
            if path.name.upper() == "DICOMDIR":
                continue
            if not (values[0] and values[1] and syntax):
                broken.append((path.name, "has no valid SOP class, instance UID or transfer syntax"))
                continue
            label = withhold(path.name, identity_words(header))
            found.append(_Item(path, label, values[0], values[1], syntax))
    failed = [Sent(withhold(name, words), "", False, reason) for name, reason in broken]
    if not found and not failed:
        raise InputError(f"{root.name}: holds no DICOM files to send.")
    return found, failed


def parse_address(to: str) -> tuple[str, int]:
    """HOST:PORT; raises InputError."""
    host, _, port = to.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{to}: not an address. Give HOST:PORT, for example archive.hospital.org:104.")
    return host, int(port)


def _title(value: str, which: str) -> str:
    """An application entity title: 1 to 16 characters without backslash (PS3.5 section 6.2, AE)."""
    if not 0 < len(value.strip()) <= 16 or "\\" in value or not value.isascii() or not value.isprintable():
        raise InputError(
            f"The {which} AE title must have 1 to 16 plain characters; ask the archive's administrator."
        )
    return value


def send_cstore(
    folder: str | os.PathLike[str],
    to: str,
    called: str = "ANY-SCP",
    calling: str = "D24FAD",
    timeout: float = 30.0,
    tls: Tls | None = None,
    progress: Progress | None = None,
) -> list[Sent]:
    """C-STORE every DICOM file below `folder` and return each one's fate; raises InputError.

    `called` is the archive's AE title and `calling` one's own. With `tls` the connection is encrypted
    (PS3.15 B.9) and the archive must hold a trusted certificate of its name.
    """
    from pynetdicom import AE

    host, port = parse_address(to)
    called, calling = _title(called, "archive's"), _title(calling, "own")
    encryption = (tls.context(), host) if tls is not None else None
    items, results = collect(folder)
    done = 0
    with headers.quiet():
        for batch in _batches(items):
            entity = AE(ae_title=calling)
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
            entity.connection_timeout = timeout
            for kind, syntax in sorted({(item.sop_class_uid, item.syntax) for item in batch}):
                entity.add_requested_context(kind, syntax)
            association = entity.associate(host, port, ae_title=called, tls_args=encryption)
            if not association.is_established:
                rejected = association.is_rejected
                entity.shutdown()
                raise InputError(_no_association(to, called, calling, rejected, tls is not None))
            try:
                for item in batch:
                    results.append(_store(association, item))
                    done += 1
                    if progress is not None:
                        progress(done, len(items))
            finally:
                if association.is_established:
                    association.release()
                entity.shutdown()
    return results


def _no_association(to: str, called: str, calling: str, rejected: bool, encrypted: bool) -> str:
    if rejected:
        return (
            f"{to}: the archive refused the association. Check its AE title ({called}), and that it knows "
            "this "
            f"computer as {calling}."
        )
    if encrypted:
        return (
            f"{to}: no encrypted association. Check host, port and firewall, that the archive takes TLS "
            "there, and that its certificate is trusted (--ca) and bears its name."
        )
    return f"{to}: no answer from a DICOM archive there. Check host, port and firewall; it may ask for TLS."


def _batches(items: Sequence[_Item]) -> Iterable[list[_Item]]:
    """Groups that need no more presentation contexts than an association may have."""
    batch: list[_Item] = []
    kinds: set[tuple[str, str]] = set()
    for item in items:
        kind = (item.sop_class_uid, item.syntax)
        if kind not in kinds and len(kinds) == _MAX_CONTEXTS:
            yield batch
            batch, kinds = [], set()
        kinds.add(kind)
        batch.append(item)
    if batch:
        yield batch


def _opened(item: _Item) -> Dataset:
    with item.path.open("rb") as stream:
        return headers.parse(stream)


def _store(association: Any, item: _Item) -> Sent:
    def sent(ok: bool, answer: str) -> Sent:
        return Sent(item.label, item.sop_instance_uid, ok, answer)

    if not association.is_established:
        return sent(False, "not sent: the archive ended the association")
    try:
        status = association.send_c_store(_opened(item))
    except ValueError:
        return sent(False, "the archive does not accept its kind or transfer syntax")
    except Exception as error:  # a damaged file or a broken connection; the text could quote values
        return sent(False, f"could not be sent ({type(error).__name__})")
    code = status.get("Status") if status else None
    if code is None:
        return sent(False, "no answer: the connection was lost or timed out")
    if code == 0:
        return sent(True, "stored")
    if code in _WARNINGS:
        return sent(True, _WARNINGS[code])
    known = _FAILURES.get(code) or _FAILURES.get(code & 0xFF00) or _FAILURES.get(code & 0xF000)
    return sent(False, f"{known or 'the archive refused it'} (status 0x{code:04X})")


def send_stow(
    folder: str | os.PathLike[str],
    url: str,
    user: str | None = None,
    password: str | None = None,
    token: str | None = None,
    timeout: float = 30.0,
    tls: Tls | None = None,
    progress: Progress | None = None,
) -> list[Sent]:
    """STOW-RS every DICOM file below `folder` to a DICOMweb service root, one request a file.

    `timeout`: seconds to wait for a connection, and for each answer. User and password, or a bearer token, go
    over https only, or to this computer. Certificates are always checked; `tls` names other authorities or
    one's own certificate. Raises InputError.
    """
    from dicomweb_client.api import DICOMwebClient
    from dicomweb_client.session_utils import create_session, create_session_from_user_pass

    shown = _checked_url(url, user is not None or token is not None)
    session = create_session_from_user_pass(user, password or "") if user is not None else create_session()
    if token is not None:
        session.headers["Authorization"] = f"Bearer {token}"
    if tls is not None:
        tls.context()  # says what is wrong with the files
        if tls.authorities is not None:
            session.mount("https://", _trusting(tls.authorities))
        if tls.certificate is not None:
            session.cert = (str(tls.certificate), str(tls.key)) if tls.key else str(tls.certificate)
    items, results = collect(folder)
    with headers.quiet():
        client = DICOMwebClient(url=url.rstrip("/"), session=session, timeout=timeout)
        client.set_http_retry_params(retry=False)
        for done, item in enumerate(items, start=1):
            results.append(_stow(client, item, shown))
            if progress is not None:
                progress(done, len(items))
    return results


def _trusting(authorities: Path) -> Any:
    """requests' adapter with these certificates; `session.verify` gives way to the environment's."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
            return super().send(request, **{**options, "verify": str(authorities)})

    return Adapter()


def _checked_url(url: str, secret: bool) -> str:
    """The URL without credentials, for messages; raises InputError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("The DICOMweb address must begin with http:// or https:// and name a host.")
    if parts.username or parts.password:
        raise InputError("Give user and password by --auth-file, not in the DICOMweb address.")
    if secret and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise InputError(
            f"{parts.hostname}: password or token would cross the network unencrypted. Use https."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _stow(client: Any, item: _Item, shown: str) -> Sent:
    import requests

    def sent(ok: bool, answer: str) -> Sent:
        return Sent(item.label, item.sop_instance_uid, ok, answer)

    try:
        answer: Dataset = client.store_instances([_opened(item)])
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"{shown}: no encrypted connection. Check that the service's certificate is trusted (--ca) and "
            "bears its name."
        ) from error
    except requests.exceptions.ConnectionError as error:
        raise InputError(f"{shown}: no DICOMweb service answers there. Check address and network.") from error
    except requests.exceptions.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403, 404):
            what = {
                401: "asks for a user",
                403: "does not permit it",
                404: "has no DICOMweb service at this path",
            }
            raise InputError(f"{shown}: the server {what[code]} (HTTP {code}).") from error
        return sent(False, f"refused (HTTP {code})")
    except requests.exceptions.Timeout:
        return sent(False, "no answer: the connection timed out")
    except Exception as error:  # a damaged file or answer; the text could quote values
        return sent(False, f"could not be sent ({type(error).__name__})")
    for failed in headers.items(answer, "FailedSOPSequence"):
        reason = headers.whole(failed, "FailureReason") or 0
        known = _FAILURES.get(reason) or _FAILURES.get(reason & 0xFF00) or _FAILURES.get(reason & 0xF000)
        return sent(False, f"{known or 'the archive refused it'} (reason 0x{reason:04X})")
    stored = [
        headers.uid(entry, "ReferencedSOPInstanceUID")
        for entry in headers.items(answer, "ReferencedSOPSequence")
    ]
    if item.sop_instance_uid not in stored:
        return sent(False, "the archive's answer does not confirm it")
    return sent(True, "stored")
