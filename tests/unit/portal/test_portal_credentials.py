from firezone.portal.credentials import (
    Party,
    ice_credentials,
    preshared_key,
    turn_credentials,
)
from firezone.portal.tokens import is_hash, mint, token_hash

CLIENT = Party(
    "11111111-2222-4333-8444-555555555555",
    "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    bytes(range(32)),
)
GATEWAY = Party(
    "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
    "EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=",
    bytes(range(32, 64)),
)


def test_preshared_key() -> None:
    assert preshared_key(CLIENT, GATEWAY) == "WmoPlTNj1LSKkFEMjYhTP7bnt57ZCjq5T0m6anAbIio="


def test_ice_credentials() -> None:
    client, gateway = ice_credentials(CLIENT, GATEWAY)
    assert (client.username, client.password) == ("zskr", "ys4htj3kwy6kihywq5u3qt")
    assert (gateway.username, gateway.password) == ("fybn", "liozjtudiqi27uvvccg72a")


def test_turn_credentials() -> None:
    turn = turn_credentials(CLIENT.public_key, "0f" * 32, 1790000000)
    assert turn.username == "1790000000:1ci+/CWfVzVETvyf5pBhUzp6YZfttyPg4GLOvig9HQ4"
    assert turn.password == "PSirWFZsNAyKbfVpzrnj0zJl903Av8qkqQsnVCr3+AM"
    assert turn.password not in repr(turn)


def test_psk_base_is_in_no_repr() -> None:
    assert "psk_base" not in repr(CLIENT)


def test_tokens() -> None:
    token = mint(lambda n: bytes(n))
    assert token == "A" * 43
    assert is_hash(token_hash(token))
    assert not is_hash(token) and not is_hash("sha256:" + "G" * 64)
