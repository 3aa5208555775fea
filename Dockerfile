# Debian, not Alpine: pyreqwest has no wheel for musl.
FROM python:3.13-slim-trixie AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY asgi_llmgate asgi_llmgate
RUN python -m venv /opt/llmgate
RUN /opt/llmgate/bin/pip install --no-cache-dir --disable-pip-version-check '.[all]'

FROM python:3.13-slim-trixie
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin llmgate \
    && install -d -o llmgate -m 0700 /data
COPY --from=build /opt/llmgate /opt/llmgate
ENV PATH=/opt/llmgate/bin:$PATH PYTHONUNBUFFERED=1 LLMGATE_DATA_DIR=/data
USER llmgate
WORKDIR /data
VOLUME /data
EXPOSE 8790
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8790/healthz', timeout=2)"]
CMD ["llmgate", "serve", "--host", "0.0.0.0", "--port", "8790"]
