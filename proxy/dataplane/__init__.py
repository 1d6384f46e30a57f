"""The data plane: the lane (HTTP/1.1, WebSocket), mitmproxy's layers (HTTP/2), the runtime that drives exchanges."""
