//! HTTP for those who watch the gate: the status page and its API, `/metrics`, `/healthz`, `/readyz`; and `/reload` for
//! `dmarcgate reload`.
//!
//! One request a connection, GET or HEAD; `access` decides who may see what. POST is for `/reload` alone, from this
//! machine and from no browser. `bounded` bounds what a connection may take of us, so that nobody who reaches the port
//! can harm mail.

pub mod access;
mod bounded;
pub mod status;

use std::io;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use axum::serve::IncomingStream;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::admin::access::Token;
use crate::admin::bounded::BoundedListener;
use crate::admin::status::{Resource, STYLE, Status};
use crate::metrics::Registry;
use crate::readiness::Readiness;

/// What is shown.
#[derive(Clone)]
pub struct Sources {
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/reload`; one at a time.
    pub reloads: mpsc::Sender<Asked>,
    /// For the pages and the API.
    pub status: Status,
    /// What all but `/healthz` and `/readyz` ask for; none: nothing.
    pub token: Option<Token>,
}

/// The wish that the configuration be read again.
pub type Asked = oneshot::Sender<ReloadReport>;

/// What became of a configuration that was read again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Whether it is in force; if not, the one before stays.
    pub applied: bool,
    /// The file that was read.
    pub file: String,
    /// The keys that hold from now on.
    pub changed: Vec<String>,
    /// Those that hold after a restart.
    pub restart: Vec<String>,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<String>,
    /// Why it is not in force; or what a file that it names lacks, so that what was read from it before goes on.
    pub problems: Vec<ReloadProblem>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadProblem {
    /// Where in the file.
    pub line: Option<usize>,
    /// The path of the key; empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Who has connected.
#[derive(Debug, Clone, Copy)]
struct Peer {
    ip: IpAddr,
    /// Our own address on the line; none where the connection is gone already.
    own: Option<IpAddr>,
}

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        let own = stream.io().local_addr().ok().map(|own| own.ip().to_canonical());
        Self { ip: stream.remote_addr().ip().to_canonical(), own }
    }
}

impl Peer {
    /// Whether it is on this machine: on loopback, or at the very address that it connected to. From elsewhere nobody
    /// can hold a connection from that address: our answers to it do not leave the machine.
    fn is_here(self) -> bool {
        self.ip.is_loopback() || self.own == Some(self.ip)
    }
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
    let router = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(BoundedListener::new(listener), router).with_graceful_shutdown(stop).await
}

/// Answers a request; the body of one is never read.
async fn answer(
    State(sources): State<Sources>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let path = uri.path();
    // A probe of a balancer or a container has no secrets, and learns none.
    match path {
        "/healthz" if is_read(&method) => return reply(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" if is_read(&method) => return readyz(&sources.readiness),
        _ => {}
    }
    if sources.token.as_ref().is_some_and(|token| !token.is_in(&headers)) {
        return unauthorized();
    }
    if path == RELOAD {
        return match method {
            Method::POST => reload(&sources, peer, &headers).await,
            _ => not_allowed("POST"),
        };
    }
    if !is_read(&method) {
        return not_allowed("GET, HEAD");
    }
    if path == "/metrics" {
        return reply(StatusCode::OK, PROMETHEUS_TEXT, sources.registry.render());
    }
    if sources.token.is_none() && !access::names_us(&headers, &sources.status.hostname()) {
        let text = "this host has another name; ask for it by its address, its hostname or \"localhost\"\n";
        return reply(StatusCode::MISDIRECTED_REQUEST, TEXT, text.to_owned());
    }
    match sources.status.find(path).await {
        Resource::Html(page) => reply(StatusCode::OK, HTML, page),
        Resource::Json(text) => reply(StatusCode::OK, JSON, text),
        Resource::Busy => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not now, please try again\n".to_owned()),
        Resource::Nothing => {
            let text = "not found; try /, /api, /metrics, /healthz or /readyz\n";
            reply(StatusCode::NOT_FOUND, TEXT, text.to_owned())
        }
    }
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn unauthorized() -> Response {
    let text = "a token is needed (admin.token_file): Authorization: Bearer, or as a password\n";
    let mut response = reply(StatusCode::UNAUTHORIZED, TEXT, text.to_owned());
    let challenge = HeaderValue::from_static("Basic realm=\"dmarcgate\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

/// Has the configuration read again and tells what became of it: 200 if it is in force, 422 if it is refused.
///
/// A web page that somebody on this machine looks at must not be able to ask for it. A browser sends the field only
/// after asking whether it may, which it may not, unless the page's host is made out to be this one (DNS rebinding);
/// then it says Origin.
async fn reload(sources: &Sources, peer: Peer, headers: &HeaderMap) -> Response {
    let is_meant = headers.get(RELOAD_FIELD).is_some_and(|value| value == "1");
    if !peer.is_here() || !is_meant || headers.contains_key(header::ORIGIN) {
        let text = "only from this machine (loopback, or this very address), and with X-Dmarcgate-Reload: 1\n";
        return reply(StatusCode::FORBIDDEN, TEXT, text.to_owned());
    }
    let (asked, answered) = oneshot::channel();
    if sources.reloads.try_send(asked).is_err() {
        let text = "the configuration is being read again already\n";
        return reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, text.to_owned());
    }
    match timeout(RELOAD_PATIENCE, answered).await {
        Ok(Ok(report)) => {
            let status = if report.applied { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            // Fails only for maps with keys that are no strings; there are none.
            reply(status, JSON, serde_json::to_string(&report).unwrap_or_default() + "\n")
        }
        _ => reply(StatusCode::GATEWAY_TIMEOUT, TEXT, "not done yet; the log will say what became of it\n".to_owned()),
    }
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("only {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
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
    access::harden(headers, &STYLE_SOURCE);
    response
}

/// Where a reload is asked for.
pub const RELOAD: &str = "/reload";
/// The header field that has to say 1 there.
pub const RELOAD_FIELD: &str = "X-Dmarcgate-Reload";
/// How long a reload may take before its asker is sent away: less than a connection lasts.
const RELOAD_PATIENCE: Duration = Duration::from_secs(8);
/// The style sheet of the pages, as their Content-Security-Policy names it.
static STYLE_SOURCE: LazyLock<String> = LazyLock::new(|| access::style_source(STYLE));
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// The text format of Prometheus.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::readiness::Condition;
    use crate::session::latest::Latest;
    use crate::store::Location;

    struct Running {
        address: SocketAddr,
        readiness: Readiness,
        stop: oneshot::Sender<()>,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn start() -> Running {
        start_with(None).await
    }

    /// One without a store.
    fn status(registry: &Registry, readiness: &Readiness) -> Status {
        let settings = status::Settings {
            hostname: "mx.example.net".into(),
            location: Location::Sqlite("/nonexistent/store.db".into()),
            granted: Vec::new(),
            trusted: Vec::new(),
            reports: false,
            inbound: false,
        };
        let settings = watch::channel(Arc::new(settings)).1;
        Status::new(settings, registry.clone(), readiness.clone(), Latest::default())
    }

    async fn start_with(token: Option<Token>) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new();
        let readiness = Readiness::new(&[Condition::Upstream], &registry);
        let status = status(&registry, &readiness);
        let (stop, stopped) = oneshot::channel::<()>();
        let (reloads, mut asked) = mpsc::channel::<Asked>(1);
        tokio::spawn(async move {
            while let Some(asked) = asked.recv().await {
                let _ = asked.send(ReloadReport { applied: true, file: "/f".to_owned(), ..ReloadReport::default() });
            }
        });
        let sources = Sources { registry, readiness: readiness.clone(), reloads, status, token };
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
            ("GET / HTTP/1.1\r\nHost: g\r\n\r\n", "HTTP/1.1 421 "),
            ("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 "),
            ("GET /api/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 "),
            ("GET /explain/..%2f HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 "),
            ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 405 "),
            ("GET /metrics/../x HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 404 "),
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
    async fn pages_carry_what_holds_a_browser_back() {
        let gate = start().await;
        let page = exchange(gate.address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n").await;
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let expected = [
            "content-type: text/html; charset=utf-8",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'",
        ];
        for field in expected {
            assert!(head.contains(field), "{field}: {head}");
        }
        let style = body.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        assert!(head.contains(&access::style_source(style)), "the policy names the style sheet that is there");
        assert!(!body.contains("<script") && !body.contains(" style=") && !body.contains("http://127"), "{body}");
        assert!(body.contains("the database can't be read; the log says why"), "{body}");
    }

    #[tokio::test]
    async fn a_token_opens_all_but_what_probes_need() {
        let gate = start_with(Token::new("0123456789abcdef")).await;
        let ask = async |path: &str, fields: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: any.example\r\n{fields}\r\n");
            exchange(gate.address, request.as_bytes()).await
        };
        for path in ["/", "/metrics", "/api/status", "/explain/X", "/nothing", "/reload"] {
            let refused = ask(path, "Authorization: Bearer 0123456789abcdeX\r\n").await;
            assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("www-authenticate: Basic"), "{path}");
            let opened = ask(path, "Authorization: Bearer 0123456789abcdef\r\n").await;
            assert!(!opened.contains(" 401 ") && !opened.contains(" 421 "), "{path}: {opened}");
        }
        assert!(ask("/healthz", "").await.starts_with("HTTP/1.1 200 "));
        assert!(ask("/readyz", "").await.starts_with("HTTP/1.1 503 "));
    }

    #[tokio::test]
    async fn a_reload_is_for_who_means_it() {
        let gate = start().await;
        let cases = [
            ("POST /reload HTTP/1.1\r\nHost: g\r\nX-Dmarcgate-Reload: 1\r\n\r\n", "HTTP/1.1 200 "),
            ("POST /reload HTTP/1.1\r\nHost: g\r\n\r\n", "HTTP/1.1 403 "),
            ("POST /reload HTTP/1.1\r\nHost: g\r\nX-Dmarcgate-Reload: 0\r\n\r\n", "HTTP/1.1 403 "),
            ("POST /reload HTTP/1.1\r\nHost: g\r\nOrigin: http://g\r\nX-Dmarcgate-Reload: 1\r\n\r\n", "HTTP/1.1 403 "),
            ("GET /reload HTTP/1.1\r\nHost: g\r\nX-Dmarcgate-Reload: 1\r\n\r\n", "HTTP/1.1 405 "),
            ("OPTIONS /reload HTTP/1.1\r\nHost: g\r\nOrigin: http://e.example\r\n\r\n", "HTTP/1.1 405 "),
        ];
        for (request, expected) in cases {
            let reply = exchange(gate.address, request.as_bytes()).await;
            assert!(reply.starts_with(expected), "{request}: {reply}");
            assert_eq!(reply.contains("\"applied\":true"), expected.contains("200"), "{reply}");
        }
        let peer = |ip: &str, own: &str| Peer { ip: ip.parse().unwrap(), own: own.parse().ok() };
        let stranger = peer("192.0.2.1", "192.0.2.31");
        let (reloads, _asked) = mpsc::channel(1);
        let readiness = Readiness::new(&[], &Registry::new());
        let registry = Registry::new();
        let status = status(&registry, &readiness);
        let sources = Sources { registry, readiness, reloads, status, token: None };
        let mut headers = HeaderMap::new();
        headers.insert(RELOAD_FIELD, HeaderValue::from_static("1"));
        assert_eq!(reload(&sources, stranger, &headers).await.status(), StatusCode::FORBIDDEN);
        // One waits already.
        sources.reloads.try_send(oneshot::channel().0).unwrap();
        for here in [peer("127.0.0.1", "127.0.0.1"), peer("192.0.2.31", "192.0.2.31"), peer("::1", "gone")] {
            assert_eq!(reload(&sources, here, &headers).await.status(), StatusCode::SERVICE_UNAVAILABLE, "{here:?}");
        }
        assert!(!peer("192.0.2.1", "gone").is_here());
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
