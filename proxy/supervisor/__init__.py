"""The light process that owns sockets, children, metrics and the admin socket. It never sees traffic."""
