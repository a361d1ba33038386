# The service in a container, for CPUs.
#
#   docker build -t diptych .
#   docker run --rm -p 127.0.0.1:8000:8000 -e DIPTYCH_TOKEN=... -v "$PWD/runs:/runs" diptych \
#       /runs/locked /runs/pictures.index --data /runs/built --engine torch
#
# An index is open in one process at a time and is locked while it is, so its folder must be writable.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 DIPTYCH_CACHE=/tmp/diptych
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# PyTorch's own index has wheels without CUDA, a tenth of the size.
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt '.[serve,onnx,weights]' \
    && useradd --create-home --uid 1000 diptych
USER diptych
WORKDIR /home/diptych

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["diptych", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
