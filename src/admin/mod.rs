//! HTTP for those who watch the gate: `/metrics`, `/healthz`, `/readyz`.
//!
//! One request a connection, GET or HEAD, without passwords: the listener belongs on loopback or an inner network. What
//! a connection may take of us is bounded by `bounded`, so that nobody who reaches the port can harm mail.

mod bounded;

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use tokio::net::TcpListener;

use crate::admin::bounded::BoundedListener;
use crate::metrics::Registry;
use crate::readiness::Readiness;

/// What is shown.
#[derive(Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/readyz`.
    pub readiness: Readiness,
}

/// Serves until `stop` is done; requests that have begun are answered, for ten seconds at most.
///
/// # Errors
///
/// None today: a failed accept is tried again.
pub async fn serve(
    listener: TcpListener,
    sources: Sources,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new().fallback(answer).with_state(sources);
    axum::serve(BoundedListener::new(listener), router).with_graceful_shutdown(stop).await
}

/// Answers a request; the body of one is never read.
async fn answer(State(sources): State<Sources>, method: Method, uri: Uri) -> Response {
    if method != Method::GET && method != Method::HEAD {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match uri.path() {
        "/metrics" => reply(StatusCode::OK, PROMETHEUS_TEXT, sources.registry.render()),
        "/healthz" => reply(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => readyz(&sources.readiness),
        _ => reply(StatusCode::NOT_FOUND, TEXT, "not found; try /metrics, /healthz or /readyz\n".to_owned()),
    }
}

/// 200, or 503 with one line for each condition that doesn't hold.
fn readyz(readiness: &Readiness) -> Response {
    let lacking = readiness.lacking();
    if lacking.is_empty() {
        return reply(StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    let lines = lacking.iter().map(|(condition, reason)| format!("{condition}: {reason}\n"));
    reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("not ready\n{}", lines.collect::<String>()))
}

fn reply(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The text format of Prometheus.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::*;
    use crate::readiness::Condition;

    struct Running {
        address: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn start() -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new();
        let readiness = Readiness::new(&[Condition::Upstream], &registry);
        let (stop, stopped) = oneshot::channel::<()>();
        let sources = Sources { registry, readiness: readiness.clone() };
        let task = tokio::spawn(serve(listener, sources, async { drop(stopped.await) }));
        Running { address, readiness, stop, task }
    }

    /// Sends octets and reads until the gate closes the connection.
    async fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The gate may close before it has read all.
        let _ = stream.write_all(request).await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8_lossy(&reply).into_owned()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(address, format!("GET {path} HTTP/1.1\r\nHost: gate\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn metrics_health_and_readiness() {
        let gate = start().await;
        let metrics = get(gate.address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
        assert!(metrics.contains("\ndmarcgate_ready 0\n"), "{metrics}");

        assert!(get(gate.address, "/healthz").await.ends_with("\r\n\r\nok\n"));
        let unready = get(gate.address, "/readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503 "), "{unready}");
        assert!(unready.ends_with("\r\n\r\nnot ready\nupstream: not checked yet\n"), "{unready}");
        gate.readiness.holds(Condition::Upstream);
        assert!(get(gate.address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let gate = start().await;
        let long = "x".repeat(1 << 20);
        let cases = [
            ("GET / HTTP/1.1\r\nHost: g\r\n\r\n", "HTTP/1.1 404 "),
            ("GET /metrics/../x HTTP/1.1\r\nHost: g\r\n\r\n", "HTTP/1.1 404 "),
            ("POST /metrics HTTP/1.1\r\nHost: g\r\nContent-Length: 99999999\r\n\r\nx", "HTTP/1.1 405 "),
            ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
            (&format!("GET /{long} HTTP/1.1\r\n\r\n"), ""),
            (&format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), ""),
        ];
        for (request, expected) in cases {
            let reply = exchange(gate.address, request.as_bytes()).await;
            let begin: String = request.chars().take(40).collect();
            assert!(reply.starts_with(expected) && !reply.contains(" 200 "), "{begin}: {reply}");
        }
        assert!(get(gate.address, "/healthz").await.contains(" 200 "));
    }

    #[tokio::test]
    async fn one_request_a_connection() {
        let gate = start().await;
        let twice = "GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n".repeat(2);
        assert_eq!(exchange(gate.address, twice.as_bytes()).await.matches("HTTP/1.1").count(), 1);
        let head = exchange(gate.address, b"HEAD /healthz HTTP/1.1\r\nHost: g\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn it_stops_when_told() {
        let gate = start().await;
        assert!(get(gate.address, "/healthz").await.contains(" 200 "));
        gate.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(5), gate.task).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(gate.address).await.is_err());
    }
}
