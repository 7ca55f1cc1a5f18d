"""The exceptions of this package.

`LocalError` says that our caller broke a rule; it is raised. `RemoteError` says that a peer's bytes
did; it is caught at the edge of the machine that read them, counted, and the bytes are dropped.
"""


class FirezoneError(Exception):
    """Root of every exception this package raises on purpose."""


class LocalError(FirezoneError):
    """Our own caller broke a rule of the interface."""


class RemoteError(FirezoneError):
    """Bytes from the network broke a rule of their protocol. Never leaves a machine."""


class ConfigurationError(FirezoneError):
    """A setting is missing or wrong. The programs print it as one line and exit with code 2.

    `setting` names what is wrong, `source` where it was read (a flag, a variable, `file:line`),
    `problem` what is wrong with it and `remedy` what to do.
    """

    def __init__(self, setting: str, source: str, problem: str, remedy: str) -> None:
        super().__init__(f"{setting} ({source}): {problem}; {remedy}")
        self.setting = setting
        self.source = source
        self.problem = problem
        self.remedy = remedy


class MissingRightsError(FirezoneError):
    """The process lacks a right. `capability` is its name in capabilities(7).

    Capabilities of files (setcap) are no remedy: they do not apply to scripts.
    """

    def __init__(self, capability: str, purpose: str) -> None:
        name = capability.lower().removeprefix("cap_")
        super().__init__(
            f"missing right: {capability} is needed to {purpose}; run as root, or grant it by "
            f"AmbientCapabilities={capability} in a systemd unit or by setpriv --ambient-caps "
            f"+{name} --inh-caps +{name}"
        )
        self.capability = capability
