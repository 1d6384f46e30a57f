"""mitmproxy addons that drive the same exchange as the lane, for traffic that mitmproxy's own layers carry (HTTP/2)."""
