# The gate in a container: built in one stage, run as an unprivileged user in another that has no shell.
#
#   docker build -t dmarcgate .
#   docker run -v ./dmarcgate.toml:/etc/dmarcgate/dmarcgate.toml:ro -v dmarcgate:/var/lib/dmarcgate -p 25:2525 dmarcgate
#
# In the configuration listen on ports above 1023 (`0.0.0.0:2525`), give the admin listener an address inside the
# container (`127.0.0.1:9125` serves the health check, `0.0.0.0:9125` a Prometheus outside as well), and keep spool and
# store below /var/lib/dmarcgate.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin dmarcgate \
    && install -d /staging/var/lib/dmarcgate/spool

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/dmarcgate /usr/local/bin/dmarcgate
COPY --from=build --chown=nonroot:nonroot /staging/var/lib/dmarcgate /var/lib/dmarcgate
USER nonroot
VOLUME /var/lib/dmarcgate
EXPOSE 2525 9125
# The gate drains at SIGTERM, docker's default; give it the time: `--stop-timeout 60`.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/dmarcgate", "healthcheck", "--config", "/etc/dmarcgate/dmarcgate.toml"]
ENTRYPOINT ["/usr/local/bin/dmarcgate"]
CMD ["serve", "--config", "/etc/dmarcgate/dmarcgate.toml"]
