"""The embedded portal: one file of policy, one of state, a WebSocket server."""
