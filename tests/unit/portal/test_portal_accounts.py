"""Accounts that share a portal share nothing else, but for the relays that serve all."""

import base64
import json
import random
from ipaddress import ip_address
from typing import Any

import pytest
from portal_kit import CLIENT_AGENT, GATEWAY_AGENT, WALL

from firezone.durations import SECOND
from firezone.errors import ConfigurationError
from firezone.portal.accounts import Accounts
from firezone.portal.admission import Refusal, Request
from firezone.portal.config import PortalFile, parse
from firezone.portal.sessions import SendText
from firezone.portal.store import Store
from firezone.portal.tokens import token_hash

ACCOUNT = """\
[accounts.NAME]
[accounts.NAME.sites.office]
[accounts.NAME.actors.alice]
groups = ["staff"]
[accounts.NAME.resources.web]
address = "10.0.0.0/24"
sites = ["office"]
[[accounts.NAME.policies]]
group = "staff"
resource = "web"
"""


def token(kind: str, table: str, text: str, *more: str) -> str:
    lines = [f'[[{table}]]\nkind = "{kind}"\ntoken_hash = "{token_hash(text)}"', *more]
    return "\n".join(lines) + "\n"


def account(name: str) -> str:
    table = f"accounts.{name}.tokens"
    end = "expires_at = 2027-01-01T00:00:00Z"
    return (
        ACCOUNT.replace("NAME", name)
        + token("client", table, f"{name}-client", 'actor = "alice"', end)
        + token("gateway", table, f"{name}-gateway", 'site = "office"')
        + token("relay", table, f"{name}-relay")
    )


GLOBAL_RELAY = token("relay", "tokens", "relay")
RED, BLUE = account("red"), account("blue")
BOTH = RED + BLUE + GLOBAL_RELAY


class Portal:
    """Accounts with scripted peers, whose inboxes are by connection number."""

    def __init__(self, text: str = BOTH) -> None:
        self.now = 1_000 * SECOND
        self.inbox: dict[int, list[tuple[str, Any]]] = {}
        self.closed: list[int] = []
        entropy = random.Random(7).randbytes
        self.accounts = Accounts(
            file=read(text),
            store=Store.open(None, entropy),
            entropy=entropy,
            wall_clock=lambda: WALL,
            now=self.now,
        )

    def connect(self, role: str, token: str) -> int:
        admission = self.admit(role, token)
        assert not isinstance(admission, Refusal), admission
        number = self.accounts.handle_connected(admission, self.now)
        self.inbox[number] = []
        self.says(number, role, "phx_join", {"stamp_secret": "0f"} if role == "relay" else None)
        return number

    def admit(self, role: str, token: str) -> Any:
        key = base64.b64encode(role.encode().ljust(32, b"=")).decode()
        query = {"token": token, "external_id": "e", "public_key": key, "ipv4": "203.0.113.5"}
        agent = {"client": CLIENT_AGENT, "gateway": GATEWAY_AGENT, "relay": "relay/0.1.0"}[role]
        request = Request(f"/{role}/websocket", query, agent, ip_address("192.0.2.1"))
        return self.accounts.admit(request)

    def says(self, number: int, topic: str, event: str, payload: object) -> None:
        message = {"topic": topic, "event": event, "payload": payload, "ref": 1}
        self.accounts.handle_text(number, json.dumps(message), self.now)
        self.collect()

    def put(self, text: str) -> None:
        self.accounts.handle_file(read(text), self.now)
        self.collect()

    def leave(self, number: int) -> None:
        self.accounts.handle_disconnected(number, self.now)
        self.collect()

    def collect(self) -> None:
        while (output := self.accounts.poll_output()) is not None:
            if isinstance(output, SendText):
                message = json.loads(output.text)
                self.inbox[output.connection].append((message["event"], message["payload"]))
            else:
                self.closed.append(output.connection)

    def taken(self, number: int) -> list[str]:
        events = [event for event, _ in self.inbox[number]]
        self.inbox[number].clear()
        return events

    def init(self, number: int) -> Any:
        [payload] = [payload for event, payload in self.inbox[number] if event == "init"]
        return payload


def read(text: str) -> PortalFile:
    return parse(text, "portal.toml")


def test_the_same_names_are_other_things_in_another_account() -> None:
    portal = Portal()
    red, blue = (portal.connect("client", f"{name}-client") for name in ("red", "blue"))
    [[ours], [theirs]] = [portal.init(number)["resources"] for number in (red, blue)]
    assert ours["name"] == theirs["name"] and ours["id"] != theirs["id"]
    gateway = portal.connect("gateway", "blue-gateway")
    assert portal.init(gateway)["account_slug"] == "blue"


def test_a_client_reaches_no_gateway_of_another_account() -> None:
    portal = Portal()
    portal.connect("relay", "relay")
    client, gateway = (
        portal.connect("client", "red-client"),
        portal.connect("gateway", "blue-gateway"),
    )
    [resource] = portal.init(client)["resources"]
    portal.taken(client), portal.taken(gateway)
    wanted = {"resource_id": resource["id"], "connected_gateway_ids": []}
    portal.says(client, "client", "create_flow", wanted)
    assert portal.taken(client) == ["flow_creation_failed"]
    ours = portal.connect("gateway", "red-gateway")
    portal.says(client, "client", "create_flow", wanted)
    assert portal.taken(ours)[-1] == "authorize_flow"
    assert portal.taken(gateway) == []


def test_a_relay_of_an_account_serves_that_account() -> None:
    portal = Portal()
    portal.connect("relay", "red-relay")
    red, blue = (portal.connect("client", f"{name}-client") for name in ("red", "blue"))
    assert portal.init(red)["relays"] and not portal.init(blue)["relays"]


def test_a_relay_of_everyone_serves_all_on_one_connection() -> None:
    portal = Portal()
    relay = portal.connect("relay", "relay")
    assert portal.taken(relay) == ["phx_reply", "init"]
    for name in ("red", "blue"):
        assert portal.init(portal.connect("client", f"{name}-client"))["relays"]
    portal.says(relay, "phoenix", "heartbeat", {})
    assert portal.taken(relay) == ["phx_reply"]


def test_a_relay_of_everyone_is_gone_for_all() -> None:
    portal = Portal()
    relay = portal.connect("relay", "relay")
    clients = [portal.connect("client", f"{name}-client") for name in ("red", "blue")]
    for number in clients:
        portal.taken(number)
    portal.leave(relay)
    portal.now += 3 * SECOND
    assert portal.accounts.poll_timeout().deadline <= portal.now
    portal.accounts.handle_timeout(portal.now)
    portal.collect()
    assert [portal.taken(number) for number in clients] == [["relays_presence"]] * 2


def test_an_account_that_is_removed_ends_and_the_other_goes_on() -> None:
    portal = Portal()
    relay = portal.connect("relay", "relay")
    red, blue = (portal.connect("client", f"{name}-client") for name in ("red", "blue"))
    portal.put(BLUE + GLOBAL_RELAY)
    assert portal.closed == [red]
    outcome = portal.admit("client", "red-client")
    assert isinstance(outcome, Refusal) and outcome.status == 401
    portal.leave(red)
    portal.says(relay, "phoenix", "heartbeat", {})
    assert portal.taken(relay)[-1] == "phx_reply", "the other account speaks to it now"
    portal.put(BOTH)
    assert portal.connect("client", "red-client") and blue not in portal.closed


def test_a_relay_of_everyone_comes_to_an_account_that_is_added() -> None:
    portal = Portal(RED + GLOBAL_RELAY)
    relay = portal.connect("relay", "relay")
    portal.put(BOTH)
    assert portal.closed == [relay]
    portal.leave(relay)
    portal.connect("relay", "relay")
    assert portal.init(portal.connect("client", "blue-client"))["relays"]
    portal.put(BOTH.replace("[accounts.blue]", '[accounts.blue]\nsearch_domain = "x.example"'))
    assert portal.closed == [relay]


def test_a_disabled_account_disables_no_other() -> None:
    portal = Portal(BOTH.replace("[accounts.red]", "[accounts.red]\ndisabled = true"))
    outcome = portal.admit("client", "red-client")
    assert isinstance(outcome, Refusal) and outcome.status == 403
    portal.connect("relay", "relay")
    assert portal.init(portal.connect("client", "blue-client"))["relays"]
    assert portal.closed == []


def test_a_token_whose_account_went_while_it_connected() -> None:
    portal = Portal()
    admission = portal.admit("client", "red-client")
    portal.put(BLUE)
    number = portal.accounts.handle_connected(admission, portal.now)
    portal.collect()
    assert portal.closed == [number]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOTH + '[account]\nslug = "x"\n', "account (portal.toml"),
        (BOTH + "[sites.office]\n", "sites (portal.toml"),
        (RED + token("gateway", "tokens", "x", 'site = "office"'), "no site 'office'"),
        (RED + BLUE.replace(token_hash("blue-client"), token_hash("red-client")), "here twice"),
        (RED + BLUE.replace("[accounts.blue]", '[accounts.blue]\nslug = "red"'), "same slug"),
        (RED.replace('sites = ["office"]', 'sites = ["x"]'), "accounts.red.resources.web.sites"),
        (RED.replace("[accounts.red]", "[accounts.red]\ncolour = 1"), "accounts.red.colour"),
    ],
)
def test_what_is_wrong_with_several_accounts(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    assert said in str(caught.value)
