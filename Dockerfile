# The image of worker, beat, flower and the command line. gssapi has no wheel for Linux, so it is built in a stage of its
# own; the final image has only the library that it needs.
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libkrb5-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check -r /tmp/requirements.txt

FROM python:3.12-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TZ=UTC
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
USER etl
VOLUME /var/lib/etl
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "etl_tasks", "--help"]
