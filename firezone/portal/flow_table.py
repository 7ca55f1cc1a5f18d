"""All flows of an account: in memory, where decisions are taken, and in the store.

Memory is the truth. A write that fails (a disk that is full) is logged and tried again; it keeps
nobody's access from ending meanwhile. Should the portal end before it succeeds, the flow is decided
anew from what the store holds.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator

from firezone.portal.store import Flow, FlowKey, Store

_log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""The ids of a client and of a gateway."""


class FlowTable:
    """Flows by key: client, gateway, resource."""

    def __init__(self, store: Store, account: str) -> None:
        self._store = store
        self._flows: dict[FlowKey, Flow] = {}
        self._linked: dict[Pair, set[FlowKey]] = {}
        self._unsaved: dict[FlowKey, None] = {}
        for flow in store.flows(account):
            self._remember(flow)

    def __iter__(self) -> Iterator[Flow]:
        """A copy, so that flows may be changed meanwhile."""
        return iter(list(self._flows.values()))

    def get(self, key: FlowKey) -> Flow | None:
        return self._flows.get(key)

    def are_linked(self, client_id: str, gateway_id: str) -> bool:
        """Whether a flow that is not revoked joins the two."""
        return (client_id, gateway_id) in self._linked

    @property
    def is_saved(self) -> bool:
        return not self._unsaved

    def put(self, flow: Flow) -> None:
        """Add a flow, in place of one with the same key."""
        if self._flows.get(flow.key) != flow:
            self._remember(flow)
            self._save(flow.key)

    def delete(self, key: FlowKey) -> None:
        if self._flows.pop(key, None) is not None:
            self._unlink(key)
            self._save(key)

    def save(self) -> None:
        """Try again to write what could not be written, until the first that fails."""
        if self._unsaved:
            for key in list(self._unsaved):
                if not self._write(key):
                    return
            _log.info("the portal's state is written again", extra={"event": "state_written"})

    def _remember(self, flow: Flow) -> None:
        self._flows[flow.key] = flow
        if flow.revoked:
            self._unlink(flow.key)
        else:
            self._linked.setdefault(flow.key[:2], set()).add(flow.key)

    def _unlink(self, key: FlowKey) -> None:
        keys = self._linked.get(key[:2], set())
        keys.discard(key)
        if not keys:
            self._linked.pop(key[:2], None)

    def _save(self, key: FlowKey) -> None:
        """While some write failed the others wait with it: each attempt may take a second."""
        if self._unsaved:
            self._unsaved[key] = None
        else:
            self._write(key)

    def _write(self, key: FlowKey) -> bool:
        """Bring one flow's row up to date. A failure goes to the end of the queue."""
        self._unsaved.pop(key, None)
        flow = self._flows.get(key)
        try:
            if flow is None:
                self._store.delete_flow(key)
            else:
                self._store.put_flow(flow)
        except sqlite3.Error as error:
            if not self._unsaved:
                _log.error("cannot write the portal's state, will try again: %s", error)
            self._unsaved[key] = None
            return False
        return True
