# eft-gguf on the CPU. Not built by this project's checks: see docs/install.md.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# GGML_NATIVE=off: the image also runs on processors other than the one that builds it.
RUN python -m venv /opt/eft-gguf \
    && CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_NATIVE=off" /opt/eft-gguf/bin/pip install --no-cache-dir '.[server,hub]'

FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home eft
COPY --from=build /opt/eft-gguf /opt/eft-gguf
USER eft
ENV PATH=/opt/eft-gguf/bin:$PATH EFT_GGUF_HOME=/home/eft/state
EXPOSE 8080
ENTRYPOINT ["eft-gguf"]
CMD ["demo"]
