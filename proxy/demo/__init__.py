"""Look-alikes of OpenAI and Anthropic, and a plain file service, over TLS on loopback: for the tour and the tests."""
