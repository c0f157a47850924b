# The image of worker, beat, flower and the command line. gssapi has no wheel for Linux, so it is built in a stage of its
# own; the final image has only the libraries that it needs. The Debian release is named: package names belong to one.
ARG PYTHON=3.12-slim-bookworm
FROM python:${PYTHON} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libkrb5-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check -r /tmp/requirements.txt

FROM python:${PYTHON}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="phoenix-clickhouse-etl" \
      org.opencontainers.image.description="Rows from Apache Phoenix (HBase) into ClickHouse: worker, beat, flower, commands" \
      org.opencontainers.image.revision="${REVISION}"
# Lines of the log are JSON here: whoever collects a container's output reads them by key.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TZ=UTC LOG_FORM=json
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgssapi-krb5-2 libkrb5-3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /app --shell /usr/sbin/nologin etl \
    && install -d -o etl -g etl /var/lib/etl
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY celeryconfig.py ./
COPY ddl ddl
COPY etl_tasks etl_tasks
# Compiled here once: the user below may not write beside the sources, and every command would compile them anew.
RUN python -m compileall -q celeryconfig.py etl_tasks
USER etl
# beat keeps its schedule here.
VOLUME /var/lib/etl
# No HEALTHCHECK: one image has four parts, each of which is well in a way of its own; docker-compose.yml has their checks.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "etl_tasks", "--help"]
