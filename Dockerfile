# pyvmm with a guest kernel inside: docker run --rm -it --device /dev/kvm pyvmm run
FROM debian:bookworm-slim

# passt is `--net user`, qemu-utils the disk images that are not raw; virtiofsd, for `--share`, comes with
# qemu-system-x86, which the lab uses.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates passt python3 python3-pip python3-venv qemu-system-x86 qemu-utils \
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
