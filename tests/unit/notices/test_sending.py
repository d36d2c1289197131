"""One attempt is bounded, follows nobody, and goes to the very address that was checked."""

import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from entitlements.kernel.clock import wall_now
from entitlements.notices.sending import Answer, Sender
from tests.receiver import SILENCE, receiving

HEADERS = {"webhook-id": "msg_1"}


def resolving(*answers: Sequence[str]) -> tuple[Sender, list[str]]:
    """A live service's sender where each look-up has another answer; the names looked up."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return Sender(sandbox=False, resolve=resolve), asked


async def test_a_name_that_becomes_a_private_address_is_not_connected_to() -> None:
    async with receiving() as receiver:
        port = receiver.url.split(":")[2].removesuffix("/hooks")
        url = f"https://hooks.example.com:{port}/"
        sender, asked = resolving(["93.184.216.34"], ["127.0.0.1"])
        await sender.check(url)
        assert await sender.post(url, HEADERS, "{}") == Answer(error="address refused")
        assert (len(asked), receiver.received) == (2, [])
        await sender.close()


async def test_the_connection_goes_to_the_address_that_was_checked_under_the_urls_name() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with receiving() as receiver:
        sender = Sender(sandbox=True, resolve=resolve)
        url = receiver.url.replace("127.0.0.1", "hooks.example.com")
        assert (await sender.post(url, HEADERS, '{"a":1}')).taken
        [request] = receiver.received
        assert request.headers["host"].startswith("hooks.example.com:")
        assert (request.body, request.headers["content-type"]) == ('{"a":1}', "application/json")
        await sender.close()


async def test_a_redirect_is_an_answer_and_nobody_goes_there() -> None:
    async with receiving() as elsewhere:
        for status in (301, 302, 307, 308):
            async with receiving(status, headers=f"Location: {elsewhere.url}\r\n") as receiver:
                sender = Sender(sandbox=True)
                answer = await sender.post(receiver.url, HEADERS, "{}")
                assert (answer, answer.taken) == (Answer(status=status), False)
                await sender.close()
        assert elsewhere.received == []


async def test_silence_and_a_deaf_port_end_in_time() -> None:
    impatient, sender = Sender(sandbox=True, timeout_seconds=0.2), Sender(sandbox=True)
    async with receiving(SILENCE) as receiver:
        assert await impatient.post(receiver.url, HEADERS, "{}") == Answer(error="timed out")
        url = receiver.url
    assert await sender.post(url, HEADERS, "{}") == Answer(error="cannot connect")
    await impatient.close()
    await sender.close()


async def test_an_endless_answer_is_read_in_part_and_taken() -> None:
    """Its length says 10 MB, of which 20 kB come."""
    body = "x" * 20_000
    headers = "Content-Length: 10000000\r\n\r\n"
    async with receiving(200, headers=headers, body=body) as receiver:
        sender = Sender(sandbox=True)
        assert await sender.post(receiver.url, HEADERS, "{}") == Answer(status=200)
        await sender.close()


@pytest.mark.parametrize("status", [99, 700])
async def test_what_is_no_http_is_no_proper_answer(status: int) -> None:
    async with receiving(status) as receiver:
        sender = Sender(sandbox=True)
        assert not (await sender.post(receiver.url, HEADERS, "{}")).taken
        await sender.close()


async def test_the_certificate_has_to_be_trusted_and_of_the_urls_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    certificate = self_signed("hooks.example.com", tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with receiving(tls=context) as receiver:
        port = receiver.url.split(":")[2].removesuffix("/hooks")
        for trusted, name, status in (
            (False, "hooks.example.com", None),
            (True, "other.example.com", None),
            (True, "hooks.example.com", 204),
        ):
            if trusted:
                monkeypatch.setattr(certifi, "where", lambda: str(certificate))
            sender = Sender(sandbox=True, resolve=resolve)
            answer = await sender.post(f"https://{name}:{port}/", HEADERS, "{}")
            assert answer.status == status, (trusted, name, answer)
            await sender.close()


def self_signed(name: str, directory: Path) -> Path:
    """A certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = wall_now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "certificate.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    return file
