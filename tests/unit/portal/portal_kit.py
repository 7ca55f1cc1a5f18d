"""A portal with scripted peers and made-up clocks."""

import base64
import json
import random
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from firezone.durations import SECOND
from firezone.portal import config as portal_config
from firezone.portal.admission import Request
from firezone.portal.config import Config
from firezone.portal.control_plane import ControlPlane
from firezone.portal.sessions import SendText
from firezone.portal.store import Store
from firezone.portal.tokens import token_hash

WALL = 1_790_000_000
CLIENT_AGENT = "Debian/12 connlib/1.5.3 (x86_64)"
GATEWAY_AGENT = "Debian/12 connlib/1.4.15"
CONFIG = """\
[account]
slug = "acme"
[sites.office]
[sites.lab]
[actors.alice]
groups = ["staff"]
[actors.bob]
groups = ["guests"]
[resources.web]
address = "10.0.0.0/24"
sites = ["office"]
filters = ["tcp/443", "tcp/8000-8100", "icmp"]
[resources.vault]
address = "10.0.1.1"
sites = ["office"]
[resources.nowhere]
address = "10.0.2.0/24"
[resources.bench]
address = "10.0.3.0/24"
sites = ["lab"]
[[policies]]
group = "staff"
resource = "web"
#web
[[policies]]
group = "staff"
resource = "nowhere"
[[policies]]
group = "staff"
resource = "bench"
[[policies]]
group = "guests"
resource = "vault"
""" + "".join(
    f'[[tokens]]\nkind = "{kind}"\n{owner}\ntoken_hash = "{token_hash(token)}"\n#{token}\n'
    for kind, owner, token in (
        ("client", 'actor = "alice"\nexpires_at = 2027-01-01T00:00:00Z', "alice-token"),
        ("client", 'actor = "bob"\nexpires_at = 2027-01-01T00:00:00Z', "bob-token"),
        ("gateway", 'site = "office"', "gateway-token"),
        ("relay", "", "relay-token"),
    )
)
TOKEN_END = 1_798_761_600


def parse(text: str, file: str = "portal.toml") -> Config:
    """The account of a file for one."""
    return portal_config.parse(text, file).accounts[""]


@dataclass
class Peer:
    """One scripted peer and what it was told."""

    world: "World"
    topic: str
    connection: int
    id: str
    ref: int = 0
    is_closed: bool = False
    inbox: list[dict[str, Any]] = field(default_factory=list)

    def asks(self, event: str, payload: object) -> dict[str, Any]:
        """Send a message; gives the reply, if one came."""
        self.ref += 1
        message = {"topic": self.topic, "event": event, "payload": payload, "ref": self.ref}
        self.world.portal.handle_text(self.connection, json.dumps(message), self.world.now)
        self.world.collect()
        replies = [m for m in self.inbox if m["event"] == "phx_reply" and m["ref"] == self.ref]
        self.inbox = [m for m in self.inbox if m not in replies]
        return replies[0] if replies else {}

    def taken(self) -> list[tuple[str, Any]]:
        """All pushes so far."""
        messages, self.inbox = self.inbox, []
        return [(message["event"], message["payload"]) for message in messages]

    def takes(self, event: str) -> Any:
        """The one push of this event; others are dropped."""
        [payload] = [payload for name, payload in self.taken() if name == event]
        return payload

    def leave(self) -> None:
        self.world.portal.handle_disconnected(self.connection, self.world.now)


class World:
    """A portal with made-up clocks."""

    def __init__(self, text: str = CONFIG) -> None:
        self.text = text
        self.now = 1_000 * SECOND
        self.wall = WALL
        self.remote = "192.0.2.44"
        self.entropy = random.Random(7).randbytes
        self.store = Store.open(None, self.entropy)
        self.peers: dict[int, Peer] = {}
        self.restart()

    def restart(self) -> None:
        self.peers.clear()
        self.portal = ControlPlane(
            config=self.config,
            store=self.store,
            entropy=self.entropy,
            wall_clock=lambda: self.wall,
            now=self.now,
        )

    @property
    def config(self) -> Config:
        return parse(self.text, "portal.toml")

    def id(self, resource: str) -> str:
        [found] = [r.id for r in self.config.resources.values() if r.name == resource]
        return found

    def edit(self, old: str, new: str) -> None:
        assert self.text.count(old) == 1
        self.text = self.text.replace(old, new)
        self.portal.handle_config(self.config, self.now)
        self.collect()

    def advance(self, duration: int) -> None:
        self.now += duration
        if self.portal.poll_timeout().deadline <= self.now:
            self.portal.handle_timeout(self.now)
        self.collect()

    def client(self, token: str = "alice-token") -> Peer:
        return self.connect("client", token, CLIENT_AGENT, join=None)

    def gateway(self, agent: str = GATEWAY_AGENT) -> Peer:
        return self.connect("gateway", "gateway-token", agent, join=None)

    def relay(
        self, ipv4: str = "203.0.113.5", secret: str = "0f" * 32, ipv6: str | None = None
    ) -> Peer:
        change = {"ipv4": ipv4, "ipv6": ipv6}
        join = {"stamp_secret": secret}
        return self.connect("relay", "relay-token", "relay/0.1.0", change, join=join)

    def admit(
        self, role: str, token: str, agent: str, change: dict[str, str | None] | None = None
    ) -> Any:
        query: dict[str, str | None] = {"token": token}
        if role == "relay":
            query |= {"ipv4": "203.0.113.5", "port": "3478"}
        else:
            key = base64.b64encode(role.encode().ljust(32, b"=")).decode()
            query |= {"external_id": role, "name": "n", "public_key": key}
        query |= change or {}
        given = {key: value for key, value in query.items() if value is not None}
        remote = ip_address(self.remote)
        return self.portal.admit(Request(f"/{role}/websocket", given, agent, remote))

    def connect(
        self,
        role: str,
        token: str,
        agent: str,
        change: dict[str, str | None] | None = None,
        **join: Any,
    ) -> Peer:
        admission = self.admit(role, token, agent, change)
        connection = self.portal.handle_connected(admission, self.now)
        id = admission.id if role == "relay" else admission.identity.id
        peer = self.peers[connection] = Peer(self, role, connection, id)
        if join:
            reply = peer.asks("phx_join", join["join"])
            assert reply["payload"] == {"status": "ok", "response": {}}
        return peer

    def flow(self, client: Peer, gateway: Peer) -> Any:
        """Set up a flow to `web`; gives what the client is told. There is a relay from then on."""
        if all(peer.topic != "relay" for peer in self.peers.values()):
            self.relay()
        client.taken(), gateway.taken()
        wanted = {"resource_id": self.id("web"), "connected_gateway_ids": []}
        client.asks("create_flow", wanted)
        gateway.asks("flow_authorized", {"ref": gateway.takes("authorize_flow")["ref"]})
        return client.takes("flow_created")

    def collect(self) -> None:
        while (output := self.portal.poll_output()) is not None:
            peer = self.peers[output.connection]
            if isinstance(output, SendText):
                peer.inbox.append(json.loads(output.text))
            else:
                peer.is_closed = True
