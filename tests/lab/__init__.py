"""The test lab: what every full-stack test stands on. Everything is real; nothing leaves loopback.

- `ca.LabCA`: a certificate authority made in the test run; `leaf(*names)`, `server_context(*names)`.
- `upstream.Upstream`: a TLS or plain server that records every byte (`raw`, `connections`, `requests`) and answers as a
  script says: `reply`, `reply_json`, `echo`, `chunked`, `sse`, `raw`. Assert on `upstream.raw == b""` for denials.
- `policy.PolicyDirectory`: writes ordinary policy files; `entry(id, upstream, **fields)`, `app(name, *entries)`.
- `product.Product`: `egress run` as processes on free ports; clients (`httpx`, `requests`, `curl`, `tunnel`, `connect`,
  `dial`), `records`/`wait_for_records` over the audit trail, `status`, `metric`, `cli`, `admin`.
- `fixtures`: `lab` (one product per session, apps `alpha` and `beta`), `lab_factory(setup, **options)` for others.

    def test_denied_host(lab):
        with lab.product.httpx("alpha") as client, pytest.raises(httpx.ProxyError, match="host_denied"):
            client.get("https://evil.example/")
        assert lab.api.raw == b""
"""
