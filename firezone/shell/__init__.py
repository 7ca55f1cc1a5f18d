"""The only I/O: sockets, TUN devices, the clock, the system."""
