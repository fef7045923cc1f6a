# One image for every part: `docker run headway:0.1.0 worker --device cpu`.
FROM python:3.12-slim

# What pip is told about torch. The default runs on CUDA and on the CPU; for the CPU alone, a tenth of the size:
# --build-arg TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
ARG TORCH=torch==2.13.0

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/headway

# Torch first and alone: this layer is gigabytes and changes least.
# hadolint ignore=DL3013,SC2086
RUN pip install ${TORCH}

COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY headway headway
COPY batching batching
COPY storage storage
COPY workers workers
COPY api api
COPY launch launch
RUN pip install -c constraints.txt . && rm -rf /opt/headway/*

# A number, so that "must not run as root" can be checked without the image's /etc/passwd.
RUN useradd --uid 10001 --home-dir /home/headway --create-home headway && install -d -o 10001 -g 10001 /blobs
USER 10001:10001
WORKDIR /home/headway

ENV HEADWAY_MODELS=/models
ENTRYPOINT ["headway"]
CMD ["--help"]
