"""Root secret, derived keys, certificate authority and proxy tokens (docs/adr/0002-keys.md)."""
