"""Shared state behind three small ports; each has a Redis (Valkey) and an in-memory implementation."""
