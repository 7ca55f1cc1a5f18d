"""Credentials and nonces of the relay, and the order in which requests are judged."""

from __future__ import annotations

import random

import pytest
from turn_relay_kit import (
    CLIENT_4,
    CLIENT_6,
    RELAY_4,
    SECRET,
    START,
    UNIX_NOW,
    Client,
    World,
    error_of,
)

from firezone import stun
from firezone.durations import SECOND
from firezone.model import Endpoint, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_auth import (
    NONCE_LIFETIME,
    NonceMint,
    expiry_of,
    make_stamp_secret,
    password_of,
)
from firezone.turn.relay_commands import FiveTuple

TUPLE = FiveTuple(CLIENT_4, RELAY_4)


@pytest.mark.parametrize(
    ("expiry", "secret", "salt", "password"),
    [
        (
            1892160000,
            "4c98bf59c99b3e467ecd7cf9d6b3e5279645fca59be67bc5bb4af3cf653761ab",
            "n23JJ2wKKtt30oXi",
            "00hqldgk5xLeKKOB+xls9mHMVtgqzie9DulfgQwMv68",
        ),
        (
            1685984278,
            "1cab293a-4032-46f4-862a-40e5d174b0d2",
            "uvdgKvS9GXYZ_vmv",
            "6xUIoZ+QvxKhRasLifwfRkMXl+ETLJUsFkHlXjlHAkg",
        ),
    ],
)
def test_password_of_the_portals_credentials(
    expiry: int, secret: str, salt: str, password: str
) -> None:
    assert password_of(f"{expiry}:{salt}", secret) == password


@pytest.mark.parametrize(
    "username",
    [
        "",
        "foobar",
        ":",
        ":salt",
        "1:2:3",
        "007:x",
        "+7:x",
        "-7:x",
        " 7:x",
        "7 :x",
        "٧:x",
        f"{2**63}:x",
        f"{2**64}:x",
        "9" * 400 + ":x",
    ],
)
def test_username_must_be_one_canonical_expiry_and_a_salt(username: str) -> None:
    """An expiry past what a clock can hold, or with a second spelling, names nobody."""
    assert expiry_of(username) is None
    assert password_of(username, SECRET) is None


def test_username_bounds() -> None:
    assert expiry_of("0:") == 0
    assert expiry_of(f"{2**63 - 1}:x") == 2**63 - 1


def test_secret_is_64_hexadecimal_characters() -> None:
    assert make_stamp_secret(lambda n: bytes(range(n))) == bytes(range(32)).hex()


class TestNonces:
    @pytest.fixture
    def mint(self) -> NonceMint:
        return NonceMint(random.Random(1).randbytes)

    def test_good_for_its_client_until_it_is_old(self, mint: NonceMint) -> None:
        nonce = mint.issue(TUPLE, START)
        assert mint.accepts(nonce, TUPLE, START)
        assert mint.accepts(nonce, TUPLE, START + NONCE_LIFETIME - 1)
        assert not mint.accepts(nonce, TUPLE, START + NONCE_LIFETIME)
        assert not mint.accepts(nonce, TUPLE, START - 1 * SECOND)
        assert len(nonce) < 128

    @pytest.mark.parametrize(
        "other",
        [
            FiveTuple(Endpoint(CLIENT_4.address, CLIENT_4.port + 1), RELAY_4),
            FiveTuple(Endpoint.of("203.0.113.6", CLIENT_4.port), RELAY_4),
            FiveTuple(CLIENT_6, RELAY_4),
            FiveTuple(CLIENT_4, None),
            FiveTuple(RELAY_4, CLIENT_4),
        ],
    )
    def test_void_for_another_client(self, mint: NonceMint, other: FiveTuple) -> None:
        assert not mint.accepts(mint.issue(TUPLE, START), other, START)

    def test_void_at_another_relay(self, mint: NonceMint) -> None:
        other = NonceMint(random.Random(2).randbytes)
        assert not other.accepts(mint.issue(TUPLE, START), TUPLE, START)

    @pytest.mark.parametrize("text", ["", "A", "AAAA", "ä" * 8, "A" * 32, "00000000-0000-0000"])
    def test_void_if_not_ours(self, mint: NonceMint, text: str) -> None:
        assert not mint.accepts(text, TUPLE, START)

    def test_void_if_changed_anywhere(self, mint: NonceMint) -> None:
        nonce = mint.issue(TUPLE, START)
        for at, character in enumerate(nonce):
            changed = nonce[:at] + ("B" if character == "A" else "A") + nonce[at + 1 :]
            assert not mint.accepts(changed, TUPLE, START)


class TestJudgement:
    @pytest.fixture
    def client(self) -> Client:
        return Client(World())

    def answer(self, client: Client, data: bytes) -> Message:
        [response] = client.read(client.world.send(data, client.address))
        return response

    def test_request_without_integrity_gets_a_challenge(self, client: Client) -> None:
        response = self.answer(client, client.request(Method.ALLOCATE).encode())
        assert error_of(response) == 401
        assert [attribute.name for attribute, _ in response.attributes] == [
            "ERROR-CODE",
            "REALM",
            "NONCE",
        ]
        assert response.get(stun.REALM) == "firezone"
        assert not response.has_integrity
        client.nonce = response.get(stun.NONCE)
        assert error_of(client.allocate()) is None

    def test_a_challenge_is_not_twice_what_it_answers(self, client: Client) -> None:
        """It goes to whoever the source address names, IP and UDP headers (28) included."""
        request = client.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17)).encode()
        [command] = client.world.send(request, client.address)
        assert isinstance(command, Transmit)
        assert len(command.payload) + 28 < 2 * (len(request) + 28)

    def test_signed_request_without_nonce_gets_a_signed_401(self, client: Client) -> None:
        """RFC 8489 has 400 here; clients that know their realm would be stranded by it."""
        request = client.request(Method.ALLOCATE, (stun.REQUESTED_TRANSPORT, 17))
        response = self.answer(client, client.signed(request))
        assert error_of(response) == 401
        assert response.verify_integrity(client.key)

    @pytest.mark.parametrize("nonce", ["x", "00000000-0000-0000-0000-000000000000"])
    def test_unknown_nonce_is_stale_and_the_answer_signed(self, client: Client, nonce: str) -> None:
        client.nonce = nonce
        response = client.allocate()
        assert error_of(response) == 438
        assert response.verify_integrity(client.key)
        client.nonce = response.get(stun.NONCE)
        assert error_of(client.allocate()) is None

    def test_stale_nonce_comes_before_wrong_integrity(self, client: Client) -> None:
        client.nonce, client.secret = "x", "wrong"
        assert error_of(client.allocate()) == 438

    def test_old_nonce_is_stale(self, client: Client) -> None:
        assert error_of(client.allocate()) is None
        client.world.wait(3600)
        assert error_of(client.refresh(600)) == 438

    def test_nonce_of_another_socket_is_stale(self, client: Client) -> None:
        client.learn_nonce()
        client.address = Endpoint(CLIENT_4.address, CLIENT_4.port + 1)
        assert error_of(client.allocate()) == 438

    def test_wrong_password(self, client: Client) -> None:
        client.secret = "ff" * 32
        response = client.allocate()
        assert error_of(response) == 401
        client.secret = SECRET
        assert response.verify_integrity(client.key)

    def test_credentials_expire(self, client: Client) -> None:
        client.username = f"{UNIX_NOW}:salt"
        assert error_of(client.allocate()) is None
        client.world.wait(1)
        response = client.refresh(600)
        assert error_of(response) == 401
        assert response.verify_integrity(client.key)
        assert client.world.relay.allocation_count == 1

    def test_credentials_follow_the_wall_clock(self, client: Client) -> None:
        client.learn_nonce()
        client.world.relay.handle_wall_clock((UNIX_NOW + 90_000) * SECOND, client.world.now)
        assert error_of(client.allocate()) == 401

    @pytest.mark.parametrize("username", ["nobody", "1:2:3", f"{2**63}:x", "007:x"])
    def test_unreadable_username_gets_an_unsigned_401(self, client: Client, username: str) -> None:
        """There is no key to sign with; RFC 8489 section 9.2.4 still wants the answer."""
        client.username = username
        response = client.allocate()
        assert error_of(response) == 401
        assert not response.has_integrity

    def test_username_that_is_not_utf8(self, client: Client) -> None:
        client.learn_nonce()
        client.username = f"{UNIX_NOW + 9}:abcd"
        data = client.signed(client.request(Method.ALLOCATE)).replace(b":abcd", b":ab\x80\x00")
        assert error_of(self.answer(client, data)) == 400

    def test_realm_of_the_request_is_not_read(self, client: Client) -> None:
        client.learn_nonce()
        assert client.nonce is not None
        request = client.request(
            Method.ALLOCATE,
            (stun.REQUESTED_TRANSPORT, 17),
            (stun.USERNAME, client.username),
            (stun.NONCE, client.nonce),
        )
        assert error_of(self.answer(client, request.encode(client.key))) is None

    def test_any_valid_user_rules_the_allocation_of_its_socket(self, client: Client) -> None:
        """A client whose credentials changed starts anew from the same socket."""
        client.allocate()
        client.username = f"{UNIX_NOW + 100}:other"
        assert error_of(client.allocate()) == 437
        assert error_of(client.refresh(0)) is None
        assert error_of(client.allocate()) is None

    def test_strangers_leave_nothing_behind(self, client: Client) -> None:
        world = client.world
        for port in range(1, 2000):
            source = Endpoint(CLIENT_4.address, port)
            [answer] = world.send(client.request(Method.ALLOCATE).encode(), source)
            assert isinstance(answer, Transmit)
        assert world.relay.allocation_count == 0
        assert world.relay.poll_timeout() is None
        assert world.relay.counters == {"error_401": 1999}

    def test_secret_is_nowhere_in_sight(self, client: Client) -> None:
        client.allocate()
        assert SECRET not in repr(vars(client.world.relay))


class TestUsers:
    """Those with a password of their own."""

    @pytest.fixture
    def client(self) -> Client:
        world = World(users={"alice": "wonderland", "bob": "b:uilder"}, realm="example.org")
        return Client(world, username="alice", password="wonderland")

    def test_may_allocate(self, client: Client) -> None:
        response = client.allocate()
        assert error_of(response) is None
        assert response.verify_integrity(client.key)

    def test_are_told_the_realm(self, client: Client) -> None:
        request = client.request(Method.ALLOCATE).encode()
        [response] = client.read(client.world.send(request))
        assert response.get(stun.REALM) == "example.org"

    @pytest.mark.parametrize(
        ("name", "password"), [("alice", "wrong"), ("eve", "wonderland"), ("bob", "wonderland")]
    )
    def test_wrong_password_or_name(self, client: Client, name: str, password: str) -> None:
        client.username, client.password = name, password
        assert error_of(client.allocate()) == 401
        assert client.world.relay.allocation_count == 0

    def test_names_cannot_be_told_by_the_work_they_make(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who is none is checked as well, and has no good key."""
        keys = []
        verify = Message.verify_integrity

        def spy(message: Message, key: bytes) -> bool:
            keys.append(key)
            return verify(message, key)

        client.learn_nonce()
        monkeypatch.setattr(Message, "verify_integrity", spy)
        for name in ("alice", "eve", "1:expired"):
            client.username, client.password = name, "wrong"
            assert error_of(client.refresh(600)) == 401
        assert len(keys) == 3
        request = client.request(Method.ALLOCATE).with_(stun.USERNAME, "eve")
        request = request.with_(stun.REALM, client.world.realm)
        assert client.nonce is not None
        data = request.with_(stun.NONCE, client.nonce).encode(keys[1])
        [response] = client.read(client.world.send(data))
        assert error_of(response) == 401

    def test_nothing_is_signed_for_who_has_not_proved_to_be_one(self, client: Client) -> None:
        """A signature would let anybody try passwords without asking us again."""
        unsigned = [client.signed(client.request(Method.ALLOCATE))]
        client.nonce = "stale"
        unsigned.append(client.signed(client.request(Method.ALLOCATE)))
        unsigned.append(client.signed(client.request(0x0FF)))
        client.nonce = None
        client.learn_nonce()
        client.password = "wrong"
        unsigned.append(client.signed(client.request(Method.ALLOCATE)))
        codes = []
        for data in unsigned:
            [response] = client.read(client.world.send(data))
            assert not response.has_integrity
            codes.append(error_of(response))
        assert codes == [401, 438, 400, 401]

    def test_errors_are_signed_once_they_have(self, client: Client) -> None:
        response = client.refresh(600)
        assert error_of(response) == 437
        assert response.verify_integrity(client.key)

    def test_do_not_expire(self, client: Client) -> None:
        client.world.relay.handle_wall_clock(2**62, client.world.now)
        assert error_of(client.allocate()) is None

    def test_beside_those_of_the_secret(self, client: Client) -> None:
        client.username, client.password = f"{UNIX_NOW + 1}:salt", None
        assert error_of(client.allocate()) is None

    def test_alone(self) -> None:
        world = World(users={"alice": "wonderland"}, secret=None)
        assert error_of(Client(world, username="alice", password="wonderland").allocate()) is None
        derived = Client(world, Endpoint(CLIENT_4.address, 7))
        response = derived.allocate()
        assert error_of(response) == 401
        assert not response.has_integrity

    def test_may_come_and_go(self, client: Client) -> None:
        """Who is none any more cannot extend what he has."""
        world = client.world
        bob = Client(world, Endpoint(CLIENT_4.address, 7), username="bob", password="new")
        assert error_of(client.allocate()) is None
        assert error_of(bob.allocate()) == 401
        world.relay.handle_users({"bob": "new"})
        assert error_of(bob.allocate()) is None
        assert error_of(client.refresh(600)) == 401
        assert world.relay.allocation_count == 2
        world.wait(600)
        assert world.relay.allocation_count == 0

    def test_passwords_are_nowhere_in_sight(self, client: Client) -> None:
        assert "wonderland" not in repr(vars(client.world.relay))
