# The gate in a container: built in one stage, run in another that has no shell, as a user without rights.
#
#   docker build -t dmarcgate .
#   docker run -v ./dmarcgate.toml:/etc/dmarcgate/dmarcgate.toml:ro -v dmarcgate:/var/lib/dmarcgate -p 25:2525 \
#       --stop-timeout 60 dmarcgate
#
# compose.yaml has it with Postfix, Prometheus and Grafana around it; docs/containers.md says what was tried of both.
# `.ci/run` carries the steps of this file out, line by line, in a minimal Debian (tests/packaging/container).

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# What the lock file says and nothing else; paths of this machine are not in the binary.
RUN RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo" \
    cargo build --locked --release --bin dmarcgate
RUN install -d /staging/var/lib/dmarcgate/spool /staging/usr/share/doc/dmarcgate \
    && contrib/sbom > /staging/usr/share/doc/dmarcgate/sbom.cdx.json \
    && cp LICENSE-APACHE LICENSE-MIT /staging/usr/share/doc/dmarcgate/

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="dmarcgate" \
      org.opencontainers.image.description="An SMTP proxy that settles by SPF, DKIM, ARC and DMARC who a message comes from" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      dmarcgate.sbom="/usr/share/doc/dmarcgate/sbom.cdx.json" \
      dmarcgate.sbom.format="CycloneDX 1.5"
COPY --from=build /src/target/release/dmarcgate /usr/local/bin/dmarcgate
COPY --from=build /staging/usr/share/doc/dmarcgate /usr/share/doc/dmarcgate
COPY --from=build --chown=65532:65532 /staging/var/lib/dmarcgate /var/lib/dmarcgate
# By number, so that a cluster can see that it is not root.
USER 65532:65532
VOLUME /var/lib/dmarcgate
EXPOSE 2525 9125
# Whether it is alive, which it is without a mail server, too; whether it should get mail says `healthcheck --ready`.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/dmarcgate", "healthcheck", "--config", "/etc/dmarcgate/dmarcgate.toml"]
ENTRYPOINT ["/usr/local/bin/dmarcgate"]
CMD ["serve", "--config", "/etc/dmarcgate/dmarcgate.toml"]
