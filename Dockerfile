# One image for every service of counterfoil: migrate, topics, ingest, reconcile, and the command for people.
# No engine ran in its making; tests/ops/test_compose.py reads it, and docs/deploy.md says what that means.

FROM python:3.13.15-slim-trixie AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY requirements requirements
COPY schemas schemas
COPY events events
COPY consumers consumers
COPY reconcilers reconcilers
COPY console console

# The environment has no pip of its own, and only wheels go into it: nothing is compiled, here or later.
RUN python -m pip wheel --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/counterfoil \
    && python -m pip --python /opt/counterfoil/bin/python install --only-binary=:all: \
        --no-deps --require-hashes -r requirements/console.lock \
    && python -m pip --python /opt/counterfoil/bin/python install --no-deps /wheels/counterfoil-*.whl \
    && /opt/counterfoil/bin/python -m compileall -q /opt/counterfoil/lib


FROM python:3.13.15-slim-trixie

LABEL org.opencontainers.image.title="counterfoil" \
      org.opencontainers.image.description="Agents say what they tried. Counterfoil proves what landed." \
      org.opencontainers.image.licenses="Apache-2.0"

RUN python -m pip uninstall --yes pip \
    && groupadd --gid 10001 counterfoil \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin counterfoil \
    && install -d -m 0755 /etc/counterfoil

COPY --from=build /opt/counterfoil /opt/counterfoil

# Nothing is written but to standard output, so the root file system may be read-only.
ENV PATH=/opt/counterfoil/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COUNTERFOIL_METRICS_HOST=0.0.0.0 \
    COUNTERFOIL_METRICS_PORT=9464

# A counterfoil.toml here is read, should one be mounted.
WORKDIR /etc/counterfoil
USER 10001:10001
EXPOSE 9464

HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['COUNTERFOIL_METRICS_PORT'] + '/livez', timeout=4)"]

ENTRYPOINT ["counterfoil"]
CMD ["--help"]
