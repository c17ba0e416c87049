# pyvmm with a guest kernel inside: docker run --rm -it --device /dev/kvm pyvmm run
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-pip python3-venv qemu-system-x86 \
    && apt-get clean

COPY . /src
RUN python3 -m venv /opt/pyvmm \
    && /opt/pyvmm/bin/pip install --no-cache-dir /src \
    && rm -rf /src

# The guest of `pyvmm run` without --kernel, fetched now so that a run needs no network.
ENV PYVMM_CACHE=/var/cache/pyvmm PATH=/opt/pyvmm/bin:$PATH
RUN pyvmm image fetch && rm -rf /var/lib/apt/lists/*

ENTRYPOINT ["pyvmm"]
CMD ["run"]
