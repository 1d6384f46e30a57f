"""The data plane against its peers: `python -m loadtests.dataplane` (see docs/explanation/performance.md)."""
