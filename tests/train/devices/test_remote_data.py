"""Training on data in object storage, killed and started again: the bytes of a run that never stopped, whatever the storage.

s3:// is moto's server, https:// a server with a certificate of its own and without lists, gs:// a stand-in for gcsfs over a folder.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from killed_runs import kill_at, start
from PIL import Image

from diptych.core.image import BytesImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.shards.build import build

pytestmark = pytest.mark.slow
SHARDS, ROWS = 6, 48
LAUNCH = """
import os, sys
import fsspec
from fsspec.implementations.dirfs import DirFileSystem

class Buckets(DirFileSystem):
    protocol = "gs"

    def __init__(self, **options):
        super().__init__(path=os.environ["GS_FOLDER"], target_protocol="file", **options)

fsspec.register_implementation("gs", Buckets, clobber=True)
from diptych.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of noise with captions, in shards; `files.json` for a server without lists."""
    rng, samples, folder = np.random.default_rng(0), [], tmp_path_factory.mktemp("storage")
    for number in range(ROWS):
        png = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(png, "PNG")
        samples.append(Sample(uid=f"pair {number}", image=BytesImage(png.getvalue()), texts=(Text(f"noise {number}"),)))
    build(Pool.from_samples(samples, name="pairs"), folder / "bucket/pairs", shard_samples=ROWS // SHARDS)
    return folder


def train(data: str, out: Path) -> list[str]:
    """One command for the first start and for every restart, of two epochs."""
    words = (
        f"train clip --data {data} --out {out} --resume auto --steps 12 --batch-size 8 --save-every 1 --workers 1 --no-evaluation"
    )
    return [sys.executable, "-c", LAUNCH, *words.split()]


def weights(out: Path) -> bytes:
    return (out / "model/model.safetensors").read_bytes()


@contextmanager
def s3(folder: Path, scratch: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the data on moto's S3 server."""
    pytest.importorskip("moto")
    s3fs = pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    storage = s3fs.S3FileSystem()
    storage.mkdir("bucket")
    storage.put(f"{folder}/bucket/pairs/", "bucket/pairs", recursive=True)
    yield "s3://bucket/pairs"
    server.stop()


@contextmanager
def https(folder: Path, scratch: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the data on a server that has no lists, behind a certificate that only this test trusts."""
    pytest.importorskip("aiohttp")
    served = scratch / "served"
    shutil.copytree(folder / "bucket/pairs", served)
    files = {path.relative_to(served).as_posix(): {"size": path.stat().st_size} for path in served.rglob("*") if path.is_file()}
    (served / "files.json").write_text(json.dumps({"files": files}))
    certificate, key = certificate_of("localhost", scratch)
    patch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("localhost", 0), partial(QuietHandler, directory=str(served)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass

    def list_directory(self, path: object) -> None:
        self.send_error(404)


@contextmanager
def gs(folder: Path, scratch: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the data in a folder that stands for Google's storage."""
    patch.setenv("GS_FOLDER", str(folder))
    yield "gs://bucket/pairs"


def certificate_of(host: str, folder: Path) -> tuple[Path, Path]:
    """A certificate that is signed by itself, and its key."""
    from datetime import UTC, datetime, timedelta

    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, secret


@pytest.fixture(scope="module")
def whole(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on gs:// that never stopped."""
    out = tmp_path_factory.mktemp("whole")
    places = {"GS_FOLDER": str(built), "DIPTYCH_CACHE": str(out / "cache")}
    subprocess.run(train("gs://bucket/pairs", out / "run"), env={**os.environ, **places}, check=True)
    return out / "run"


@pytest.mark.parametrize("storage", [s3, https, gs])
def test_a_run_that_is_killed_goes_on_elsewhere(
    storage: object, built: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again on a machine whose cache is empty, and ends with the same bytes."""
    assert callable(storage)
    out = tmp_path / "run"
    with storage(built, tmp_path, monkeypatch) as data:
        monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "first machine"))
        kill_at(out, 3, start(train(data, out)))
        assert RunFolder.open(out).state["status"] == "running"
        monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "second machine"))
        again = start(train(data, out))
        _, said = again.communicate(timeout=240)
        assert again.returncode == 0, said[-3000:]
    assert RunFolder.open(out).state["status"] == "finished"
    assert list((tmp_path / "second machine").rglob("fetched/*.mark")), "shards came from the storage"
    assert weights(out) == weights(whole)
