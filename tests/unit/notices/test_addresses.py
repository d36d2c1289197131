"""Notices go to public addresses over https, and into nobody's network."""

import pytest

from entitlements.kernel.errors import ValidationFailed
from entitlements.notices.addresses import may_reach, origin, parse
from entitlements.notices.sending import Sender

TAKEN = [
    "https://example.com",
    "https://hooks.example.com:8443/a?b=c",
    "https://example.com.:443/",
    "https://xn--bcher-kva.example/hooks",
    "https://93.184.216.34/hooks",
    "https://[2606:4700::1111]:8443/hooks",
]
REFUSED = [
    ("", "MALFORMED_URL"),
    ("example.com/hooks", "MALFORMED_URL"),
    ("https://", "MALFORMED_URL"),
    ("https:///hooks", "MALFORMED_URL"),
    ("https://example.com/a b", "MALFORMED_URL"),
    ("https://example.com/\r\nX: y", "MALFORMED_URL"),
    ("https://example.com\\@127.0.0.1/", "MALFORMED_URL"),
    ("https://exam\u00adple.com/", "MALFORMED_URL"),
    ("https://example.com/#part", "MALFORMED_URL"),
    ("https://example.com:port/", "MALFORMED_URL"),
    ("https://example.com:99999/", "MALFORMED_URL"),
    ("https://exa_mple.com/", "MALFORMED_URL"),
    ("https://-example.com/", "MALFORMED_URL"),
    ("https://example..com/", "MALFORMED_URL"),
    ("https://[::1/", "MALFORMED_URL"),
    ("https://[fe80::1%25eth0]/", "MALFORMED_URL"),
    ("https://2130706433/", "MALFORMED_URL"),
    ("https://0x7f000001/", "MALFORMED_URL"),
    ("https://0x7f.0.0.1/", "MALFORMED_URL"),
    ("https://0177.0.0.1/", "MALFORMED_URL"),
    ("https://127.1/", "MALFORMED_URL"),
    ("https://1.2.3.4.5/", "MALFORMED_URL"),
    ("https://example.com/" + "a" * 2000, "LENGTH"),
    ("http://example.com/", "HTTPS_ONLY"),
    ("ftp://example.com/", "HTTPS_ONLY"),
    ("file://example.com/etc/passwd", "HTTPS_ONLY"),
    ("https://user:password@example.com/", "CREDENTIALS"),
    ("https://example.com@127.0.0.1/", "CREDENTIALS"),
    ("https://example.com:22/", "PORT"),
    ("https://example.com:0/", "PORT"),
    ("https://localhost/", "PRIVATE_ADDRESS"),
    ("https://localhost./", "PRIVATE_ADDRESS"),
    ("https://db.localhost/", "PRIVATE_ADDRESS"),
    ("https://intranet/", "PRIVATE_ADDRESS"),
    ("https://printer.local/", "PRIVATE_ADDRESS"),
    ("https://metadata.google.internal/", "PRIVATE_ADDRESS"),
    ("https://127.0.0.1/", "PRIVATE_ADDRESS"),
    ("https://127.0.0.1./", "MALFORMED_URL"),
    ("https://169.254.169.254/latest/meta-data/", "PRIVATE_ADDRESS"),
    ("https://[::ffff:10.0.0.1]/", "PRIVATE_ADDRESS"),
]
NOT_PUBLIC = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:7f00:1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0",
    "fec0::1", "ff02::1", "nonsense", "",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700:4700::1111", "64:ff9b::101:101",
          "::ffff:1.1.1.1"]  # fmt: skip


@pytest.mark.parametrize("url", TAKEN)
def test_a_public_https_url_is_taken(url: str) -> None:
    parse(url, sandbox=False)


@pytest.mark.parametrize(("url", "code"), REFUSED)
def test_what_is_no_public_https_url_is_refused_at_url(url: str, code: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse(url, sandbox=False)
    assert [(issue.path, issue.code) for issue in refused.value.issues] == [(("url",), code)]


def test_only_public_addresses_are_reached() -> None:
    assert [address for address in NOT_PUBLIC if may_reach(address, sandbox=False)] == []
    assert [address for address in PUBLIC if not may_reach(address, sandbox=False)] == []


def test_a_sandbox_reaches_this_machine_too_and_no_other_network() -> None:
    loopback = {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"}
    assert {address for address in NOT_PUBLIC if may_reach(address, sandbox=True)} == loopback
    for url in ("http://127.0.0.1:81/", "http://localhost/", "http://[::1]:9000/"):
        parse(url, sandbox=True)
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "ftp://localhost/"):
        with pytest.raises(ValidationFailed):
            parse(url, sandbox=True)


def test_the_path_which_may_be_a_secret_is_no_part_of_the_origin() -> None:
    assert origin("https://hooks.example.com:8443/T01/s3cret?k=v") == (
        "https://hooks.example.com:8443"
    )


@pytest.mark.parametrize(
    ("addresses", "taken"),
    [(["93.184.216.34"], True), (["127.0.0.1"], False), (["93.184.216.34", "10.0.0.1"], False),
     ([], True)],
)  # fmt: skip
async def test_a_name_is_judged_by_every_address_it_has(addresses: list[str], taken: bool) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if not addresses:
            raise OSError("no such host")
        return addresses

    sender = Sender(sandbox=False, resolve=resolve)
    if taken:
        await sender.check("https://hooks.example.com/")
    else:
        with pytest.raises(ValidationFailed, match="not a public address"):
            await sender.check("https://hooks.example.com/")
