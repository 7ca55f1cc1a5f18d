"""The lab: builds its network, runs programs in it, and leaves nothing behind."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import msgspec

from firezone.durations import SECOND
from firezone.lab import dns64, fetch, nat64, netns, registry, topology, web_server
from firezone.lab.errors import LabError
from firezone.lab.fetch import Fetched
from firezone.lab.network import Network
from firezone.lab.portal_file import PortalFile
from firezone.lab.programs import Program, stop_all
from firezone.lab.topology import BOTH, CLIENT, PORTAL, RESOURCE, Site, SitePlan
from firezone.model import Endpoint

PORTAL_PORT = 8080
RESOURCE_PORTS = (80, 8080)


class Lab:
    """A private network in network namespaces, for as long as the `with` block lasts.

    Needs the rights of `userns.sufficient()`. `directory` receives configuration and logs, and is
    kept; without it they go to a temporary directory, which is removed. Sites that have both
    families reach the portal over `portal_family`. Portal and relays have the `public_families`.
    With `shared_nat` the gateway is behind the client's NAT, too, and there is no other. With
    `one_port` all allocations of a relay share its listening port.
    """

    def __init__(
        self,
        *,
        client: Site | None = None,
        gateway: Site | None = None,
        relays: int = 1,
        portal_family: int = 4,
        public_families: frozenset[int] = BOTH,
        shared_nat: bool = False,
        one_port: bool = False,
        directory: Path | None = None,
        log_level: str = "info",
    ) -> None:
        self.portal_file = PortalFile.usual()
        self.log_level = log_level
        self._portal_family = portal_family
        self.one_port = one_port
        if shared_nat and gateway is not None:
            raise LabError("with a shared NAT the gateway's site is the client's")
        if shared_nat:
            self.plan = topology.shared_plan(client or Site(), relays, public_families)
        else:
            self.plan = topology.plan(client or Site(), gateway or Site(), relays, public_families)
        self.programs: dict[str, Program] = {}
        self._keep = directory is not None
        self._directory = directory
        self._claim: registry.Claim | None = None
        self._network: Network | None = None

    @property
    def name(self) -> str:
        """The prefix of all that is this lab's."""
        return self._built().prefix

    @property
    def directory(self) -> Path:
        """Where configuration and logs are."""
        if self._directory is None:
            raise LabError("the lab is not open")
        return self._directory

    def __enter__(self) -> Self:
        has_nat64 = any(site.site.nat64 for site in self.plan.sites)
        netns.require_tools(netns.TRANSLATOR if has_nat64 else None)
        self._claim = registry.claim()
        try:
            if self._directory is None:
                self._directory = self._claim.make_directory()
            self._directory.mkdir(parents=True, exist_ok=True)
            self._network = Network(self._claim.name, self.plan)
            self._network.build()
            self._start_nat64()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the programs and remove everything. Happens once, however often it is called."""
        stop_all(list(self.programs.values()))
        if self._network is not None:
            self._network.remove()
            self._network = None
        if self._directory is not None and not self._keep:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def namespace(self, host: str) -> str:
        """The network namespace of a host of `topology`."""
        return self._built().namespace(host)

    def enter_argv(self, host: str) -> list[str]:
        """What to put before a command to run it on a host."""
        return netns.enter_argv(self.namespace(host), self._etc(host))

    def exec(
        self, host: str, argv: Sequence[str], *, timeout: int = 30 * SECOND
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end. A failure is for the caller to look at."""
        return subprocess.run(
            [*netns.prefix_argv(self.namespace(host), self._etc(host)), *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout / SECOND,
        )

    def start(
        self,
        name: str,
        host: str,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program on a host; its log is `<directory>/<name>.log`."""
        program = Program(
            name,
            self.namespace(host),
            argv,
            log=self.directory / f"{name}.log",
            environment=environment or {},
            etc=self._etc(host),
        )
        self.programs[name] = program
        return program

    def start_portal(self) -> Program:
        """Start the portal with `portal_file`, and wait until it listens."""
        self.portal_file.write(self._portal_path)
        arguments = ["--config", str(self._portal_path), "--listen", f"[::]:{PORTAL_PORT}"]
        program = self._start_firezone("portal", PORTAL, arguments, {})
        program.wait_for_event("ready")
        return program

    def start_relay(self, number: int = 1, environment: Mapping[str, str] | None = None) -> Program:
        """Start a relay and wait until the portal knows it. `environment` adds settings."""
        name = topology.relay_name(number)
        addresses = self.plan.internet[name]
        public = addresses.addresses(self.plan.public_families)
        settings = {
            **{f"PUBLIC_IP{address.version}_ADDR": str(address) for address in public},
            "FIREZONE_API_URL": self.portal_url(BOTH),
            "FIREZONE_TOKEN": self.portal_file.tokens["relay"],
            "FIREZONE_NAME": name,
            "FIREZONE_RELAY_ONE_PORT": str(self.one_port).lower(),
            **(environment or {}),
        }
        program = self._start_firezone(name, name, [], settings, command="relay")
        program.wait_for_event("portal_connected")
        return program

    def start_gateway(self, environment: Mapping[str, str] | None = None) -> Program:
        """Start the gateway and wait until it is ready to serve clients. `environment` adds
        settings."""
        program = self._start_peer("gateway", self.plan.gateway, environment)
        program.wait_for_event("ready")
        return program

    def start_client(self, environment: Mapping[str, str] | None = None) -> Program:
        """Start the client and wait until its tunnel interface stands."""
        program = self._start_peer("client", self.plan.client, environment)
        program.wait_for_event("tunnel_configured")
        return program

    def edit_portal(self, change: Callable[[PortalFile], None]) -> None:
        """Change the portal file under the running portal."""
        change(self.portal_file)
        self.portal_file.write(self._portal_path)
        self.programs["portal"].signal(signal.SIGHUP)

    def portal_url(self, families: frozenset[int]) -> str:
        """Where a host of these families reaches the portal, by its address."""
        families &= self.plan.public_families
        family = {self._portal_family} & families or families
        address = self.plan.internet[PORTAL].addresses(frozenset(family))[0]
        return f"ws://{Endpoint(address, PORTAL_PORT)}"

    def portal_url_of(self, site: SitePlan) -> str:
        """Where the host of a site reaches the portal; by its name where DNS has to help."""
        if site.site.nat64:
            return f"ws://{PORTAL}.{nat64.DOMAIN}:{PORTAL_PORT}"
        return self.portal_url(site.site.families)

    def fetch(self, url: str, host: str = CLIENT, *, timeout: int = 10 * SECOND) -> Fetched:
        """Get a URL from a host, as a program there would. Never raises for what happens to it."""
        argv = _script(fetch, url, str(timeout / SECOND))
        # A transfer may take long as long as it makes progress, hence the margin.
        done = self.exec(host, argv, timeout=timeout + 60 * SECOND)
        if done.returncode != 0:
            raise LabError(f"fetch on {host}: {done.stderr.strip()}")
        return msgspec.json.decode(done.stdout, type=Fetched)

    def start_resource(self) -> Program:
        """Start the web server of the resource segment, on all its addresses and ports."""
        program = self.start("resource", RESOURCE, _script(web_server, *map(str, RESOURCE_PORTS)))
        program.wait_for_event("ready")
        return program

    def stop(self, program: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a program; returns its exit code."""
        return self.programs[program].stop(number)

    def block_direct(self, blocked: bool) -> None:
        """Drop, or let through again, all UDP between the client's and the gateway's site."""
        self._built().block_direct(blocked)

    def block_udp(self, site: SitePlan, blocked: bool) -> None:
        """Drop, or let through again, all UDP of a site of `plan`."""
        self._built().block_udp(site, blocked)

    @property
    def _portal_path(self) -> Path:
        return self.directory / "portal.toml"

    def _etc(self, host: str) -> Path | None:
        """Files that a host has in /etc instead of the machine's."""
        own = any(site.host == host and site.site.nat64 for site in self.plan.sites)
        return self.directory / f"{host}.etc" if own else None

    def _start_nat64(self) -> None:
        for site in self.plan.routed:
            if site.site.nat64:
                self._start_translator(site)
        for site in self.plan.sites:
            if site.site.nat64:
                self._start_resolver(site)

    def _start_translator(self, site: SitePlan) -> None:
        settings = self.directory / f"{site.router}.tayga"
        settings.write_text(nat64.configuration())
        tayga = [netns.tool("tayga"), "--config", str(settings)]
        netns.run(self.namespace(site.router), [*tayga, "--mktun"])
        netns.ip_batch(nat64.device_commands(), self.namespace(site.router))
        self.start(f"{site.host}-nat64", site.router, [*tayga, "--nodetach"])

    def _start_resolver(self, site: SitePlan) -> None:
        etc = self._etc(site.host)
        assert etc is not None
        nat64.write_resolver_files(site, etc)
        names = nat64.resolver_arguments(site, self.plan.internet, self.plan.public_families)
        program = self.start(f"{site.host}-dns64", site.router, _script(dns64, *names))
        program.wait_for_event("ready")

    def _start_peer(
        self, kind: str, site: SitePlan, added: Mapping[str, str] | None = None
    ) -> Program:
        token = self.directory / f"{kind}.token"
        self.portal_file.write_token(kind, token)
        environment = {
            "FIREZONE_API_URL": self.portal_url_of(site),
            "FIREZONE_TOKEN_PATH": str(token),
            "FIREZONE_ID": f"{kind}-of-{self.name}",
            "FIREZONE_NAME": kind,
            "FIREZONE_DNS_CONTROL": "disabled",
            **(added or {}),
        }
        return self._start_firezone(kind, site.host, [], environment)

    def _start_firezone(
        self,
        name: str,
        host: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        command: str | None = None,
    ) -> Program:
        """Start one of our own programs, with logs as `programs.py` reads them."""
        argv = [sys.executable, "-m", "firezone", command or name, *arguments]
        logs = {"LOG_FORMAT": "json", "FIREZONE_LOG": self.log_level}
        return self.start(name, host, argv, {**logs, **environment})

    def _built(self) -> Network:
        if self._network is None:
            raise LabError("the lab is not open")
        return self._network


def _script(module: ModuleType, *arguments: str) -> list[str]:
    """Runs a module of the standard library's needs only, without loading this package."""
    assert module.__file__ is not None
    return [sys.executable, "-I", module.__file__, *arguments]
