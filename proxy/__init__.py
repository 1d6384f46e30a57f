"""Egress proxy for micro-apps: identify, allow, inspect, cache, meter and record every outbound request."""

__version__ = "0.1.0"
