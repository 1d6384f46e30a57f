# syntax=docker/dockerfile:1
# What `make run` does, in two stages: everything from the hashed lock, then only the result, as a plain user.
# The root file system may be read-only: only /state is written (mount a volume there: keys, audit trail, store).
# The state directory lies below the mount: that one may be root's and open to our group, what is ours is 0700.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python -m venv /opt/egress
COPY requirements.lock ./
RUN /opt/egress/bin/python -m pip install --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY proxy ./proxy
COPY addons ./addons
RUN /opt/egress/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/egress/bin/python -m compileall -q /opt/egress/lib

FROM python:3.13-slim-bookworm
RUN groupadd --gid 10001 egress \
 && useradd --uid 10001 --gid egress --no-create-home --shell /usr/sbin/nologin egress \
 && install -d -m 0700 -o egress -g egress /state
COPY --from=build /opt/egress /opt/egress
COPY --chown=root:root allowlists /etc/egress/allowlists
ENV PATH=/opt/egress/bin:$PATH EGRESS_STATE_DIR=/state/egress PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /etc/egress
VOLUME /state
EXPOSE 8080 8081 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["egress", "status", "--directory", "none"]
ENTRYPOINT ["egress"]
CMD ["run", "--directory", "/etc/egress/allowlists", "--explicit", "0.0.0.0:8080", "--transparent", "0.0.0.0:8081", "--metrics", "0.0.0.0:9090"]
