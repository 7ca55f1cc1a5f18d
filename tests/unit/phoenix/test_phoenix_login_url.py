from ipaddress import IPv4Address, IPv6Address

import pytest

from firezone.errors import ConfigurationError
from firezone.phoenix.login_url import LoginUrl, external_id
from firezone.phoenix.user_agent import connlib_user_agent

UUID = "11111111-2222-4333-8444-555555555555"


def client(url: str) -> LoginUrl:
    return LoginUrl.client(url, "t&k", device_id=UUID, name="my box", device_serial="X1")


def test_a_client_says_who_it_is_in_order() -> None:
    assert client("https://api.example/base/?old=1").with_query({"public_key": "a+="}).text == (
        "wss://api.example:443/base/client/websocket?token=t%26k&external_id="
        "cf4c4732fd3b8f8a55b60871950a2f22c893ea7afd75d2146826534e3f67cc49"
        "&name=my+box&device_serial=X1&public_key=a%2B%3D"
    )


def test_a_gateway_and_a_relay() -> None:
    gateway = LoginUrl.gateway("wss://h", "t", device_id="plain", name="n")
    assert gateway.text == "wss://h:443/gateway/websocket?token=t&external_id=plain&name=n"
    relay = LoginUrl.relay(
        "ws://h:8081", "t", ipv4=IPv4Address("192.0.2.1"), ipv6=IPv6Address("2001:db8::1")
    )
    assert relay.text == (
        "ws://h:8081/relay/websocket?token=t&ipv4=192.0.2.1&ipv6=2001%3Adb8%3A%3A1&port=3478"
    )


def test_the_public_key_of_a_reset_replaces_the_old_one() -> None:
    url = client("ws://h").with_query({"public_key": "A"}).with_query({"public_key": "B"})
    assert url.text.count("public_key") == 1 and url.text.endswith("public_key=B")


@pytest.mark.parametrize(
    ("url", "port"), [("ws://h", 80), ("http://h:80", 80), ("wss://h", 443), ("wss://h:444", 444)]
)
def test_the_port_is_that_of_the_scheme(url: str, port: int) -> None:
    """The original dials 443 for ws:// too; we do what the scheme means."""
    assert client(url).port == port


def test_an_ipv6_literal_works() -> None:
    """The original keeps the brackets in the host name and cannot resolve it."""
    url = client("ws://[2001:db8::1]:8080")
    assert (url.host, url.display) == (
        "2001:db8::1",
        "ws://[2001:db8::1]:8080/client/websocket",
    )


def test_display_and_repr_hide_the_token() -> None:
    url = client("wss://h")
    assert url.display == "wss://h:443/client/websocket"
    assert "t&k" not in repr(url)


@pytest.mark.parametrize(
    "url", ["", "h", "ftp://h", "wss://", "ws://h:99999", "ws://[::1", "//h", "ws:///x"]
)
def test_a_bad_url_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="api-url"):
        client(url)


def test_a_bad_url_hides_credentials() -> None:
    with pytest.raises(ConfigurationError) as caught:
        client("ftp://user:hunter2@h?token=s3cret")
    assert "hunter2" not in str(caught.value) and "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("device_id", "hashed"),
    [
        (UUID, True),
        (UUID.replace("-", ""), True),
        ("{" + UUID + "}", True),
        (UUID + "0", False),
        ("laptop", False),
        ("", False),
    ],
)
def test_only_uuids_are_hashed(device_id: str, hashed: bool) -> None:
    assert (external_id(device_id) != device_id) is hashed


def test_the_text_of_the_uuid_is_hashed_with_its_case() -> None:
    upper = "AAAAAAAA-2222-4333-8444-555555555555"
    assert external_id(upper) != external_id(upper.lower())


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (
            ("Debian", "12", "x86_64", "6.1.0-21-amd64"),
            "Debian/12 connlib/1.5.3 (x86_64; 6.1.0-21-amd64)",
        ),
        (("Debian", "12", "x86_64", None), "Debian/12 connlib/1.5.3 (x86_64)"),
        (("Debian", "12", None, "6.1"), "Debian/12 connlib/1.5.3 (6.1)"),
        (("Linüx\r\n", None, None, None), "Linx connlib/1.5.3"),
    ],
)
def test_user_agents(parts: tuple[str, str | None, str | None, str | None], text: str) -> None:
    assert connlib_user_agent("1.5.3", *parts) == text
