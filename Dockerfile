# docker build --target cuda -t llmkd .        llmkd on NVIDIA accelerators, as `llmkd ...`
# docker build --target cpu -t llmkd-tests .   the tests, on a CPU
# How to run them: docs/docker.md.

FROM nvidia/cuda:12.9.1-devel-ubuntu22.04 AS cuda
