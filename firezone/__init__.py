"""A zero-trust access data plane: WireGuard tunnels set up on the fly under a portal's policy."""
