use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;

use super::*;
use crate::domain::Domain;

/// A list that is fit for use, with one rule of its own.
fn list(rule: &str) -> String {
    let filling: String = (0..6000).map(|i| format!("filling{i}\n")).collect();
    format!(
        "// ===BEGIN ICANN DOMAINS===\ncom\norg\nuk\nco.uk\n*.ck\n!www.ck\n{filling}// ===END ICANN DOMAINS===\n\
         // ===BEGIN PRIVATE DOMAINS===\n{rule}\n// ===END PRIVATE DOMAINS===\n"
    )
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

/// Serves these answers, one a connection, and says so each time; afterwards nobody listens.
fn serve(answers: Vec<Vec<u8>>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/list.dat", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let head = head(&mut stream);
            // A client that has seen enough closes.
            let _ = stream.write_all(&answer);
            let _ = stream.shutdown(Shutdown::Write);
            tell.send(head).unwrap();
            let _ = stream.read(&mut [0]);
        }
    });
    (url, told)
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut octet).is_ok_and(|n| n == 1) {
        head.push(octet[0]);
    }
    String::from_utf8(head).unwrap()
}

fn settings(directory: &Path, url: &str) -> Settings {
    Settings {
        discovery: Discovery::PublicSuffix,
        file: directory.join("list.dat"),
        url: url.into(),
        max_age: Duration::from_secs(3600),
        first_pause: Duration::from_millis(1),
    }
}

fn organizational(rules: &Rules, name: &str) -> String {
    rules.suffixes.organizational_domain(&Domain::parse(name).unwrap()).to_string()
}

fn is_built_in(rules: &watch::Receiver<Arc<Rules>>) -> bool {
    rules.borrow().suffixes.rules().is_none()
}

/// The files of a directory, sorted.
fn files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

async fn next(rules: &mut watch::Receiver<Arc<Rules>>) -> Arc<Rules> {
    tokio::time::timeout(Duration::from_secs(20), rules.changed()).await.expect("a new list").unwrap();
    Arc::clone(&rules.borrow_and_update())
}

#[tokio::test]
async fn a_list_is_fetched_used_kept_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (url, told) = serve(vec![ok(&list("host.example"))]);
    let registry = Registry::new();
    let suffixes = SuffixList::open(settings(directory.path(), &url), &registry);
    let mut rules = suffixes.rules();
    assert!(is_built_in(&rules), "until then the built-in copy serves");
    assert_eq!(organizational(&rules.borrow(), "a.b.example.co.uk"), "example.co.uk");
    let task = tokio::spawn(suffixes.run());
    let fetched = next(&mut rules).await;
    assert_eq!(organizational(&fetched, "a.b.host.example"), "b.host.example");
    assert!(told.recv().unwrap().starts_with("GET /list.dat HTTP/1.1\r\n"));
    let text = registry.render();
    assert!(text.contains("dmarcgate_suffix_list_fetches_total{result=\"replaced\"} 1"), "{text}");
    assert!(!text.contains("dmarcgate_suffix_list_fetched_seconds 0"), "{text}");
    assert_eq!(files(directory.path()), ["list.dat"], "nothing is left over");
    assert_eq!(std::fs::read_to_string(directory.path().join("list.dat")).unwrap(), list("host.example"));
    task.abort();

    // Started again, nothing is fetched: nobody listens there any more.
    let suffixes = SuffixList::open(settings(directory.path(), &url), &Registry::new());
    assert_eq!(organizational(&suffixes.rules().borrow(), "a.b.host.example"), "b.host.example");
    assert!(suffixes.left() > Duration::from_secs(3500));
}

#[tokio::test]
async fn whatever_comes_the_last_good_list_stays_and_the_next_good_one_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list.dat");
    std::fs::write(&file, list("old.example")).unwrap();
    let hour = SystemTime::now() - Duration::from_secs(2 * 3600);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(hour).unwrap();
    let (sound, page) = (list("new.example"), "<html>hello</html>");
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("not there", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("an error", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("elsewhere", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("a page", ok(page)),
        ("nothing", ok("")),
        ("too small", ok("// ===BEGIN ICANN DOMAINS===\ncom\n// ===END ICANN DOMAINS===\n")),
        ("cut off by the server", ok(&sound[..sound.len() / 2])),
        ("cut off by the connection", {
            let mut answer = ok(&sound);
            answer.truncate(answer.len() / 2);
            answer
        }),
        ("huge", ok(&format!("{sound}{}", "// x\n".repeat(1_000_000)))),
        ("no HTTP", b"220 mx.example ESMTP\r\n".to_vec()),
        ("no answer", Vec::new()),
    ];
    let count = bad.len();
    let (url, told) = serve(bad.into_iter().map(|(_, answer)| answer).chain([ok(&sound)]).collect());
    let registry = Registry::new();
    let mut suffixes = SuffixList::open(settings(directory.path(), &url), &registry);
    let mut rules = suffixes.rules();
    for bad in 0..count {
        assert!(!suffixes.refresh().await, "{bad}");
        told.recv().unwrap();
        assert_eq!(organizational(&rules.borrow(), "a.b.old.example"), "b.old.example", "{bad}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), list("old.example"), "{bad}");
        assert_eq!(files(directory.path()), ["list.dat"], "{bad}");
    }
    let text = registry.render();
    assert!(
        text.contains("fetches_total{result=\"failed\"} 6") && text.contains("fetches_total{result=\"unfit\"} 5"),
        "{text}"
    );

    // Of itself, since the file is too old.
    let task = tokio::spawn(suffixes.run());
    let fetched = next(&mut rules).await;
    assert_eq!(organizational(&fetched, "a.b.new.example"), "b.new.example");
    task.abort();
}

#[tokio::test]
async fn fetches_that_fail_are_tried_again_until_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = || b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (url, _told) = serve(vec![nothing(), nothing(), nothing(), ok(&list("host.example"))]);
    let registry = Registry::new();
    let suffixes = SuffixList::open(settings(directory.path(), &url), &registry);
    let mut rules = suffixes.rules();
    let task = tokio::spawn(suffixes.run());
    next(&mut rules).await;
    assert!(registry.render().contains("fetches_total{result=\"failed\"} 3"));
    task.abort();
}

#[tokio::test]
async fn a_list_that_cannot_be_kept_is_used_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (url, _told) = serve(vec![ok(&list("host.example"))]);
    let registry = Registry::new();
    let missing = settings(&directory.path().join("missing"), &url);
    let mut suffixes = SuffixList::open(missing, &registry);
    assert!(suffixes.refresh().await);
    assert_eq!(organizational(&suffixes.rules().borrow(), "a.b.host.example"), "b.host.example");
    assert!(registry.render().contains("fetches_total{result=\"not_kept\"} 1"));
}

#[test]
fn a_broken_file_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let sound = list("host.example");
    let huge = format!("{}{sound}", "// x\n".repeat(1_000_000));
    let broken: [&[u8]; 4] = [b"", b"\xff\xfe", &sound.as_bytes()[..sound.len() - 40], huge.as_bytes()];
    for octets in broken {
        std::fs::write(directory.path().join("list.dat"), octets).unwrap();
        let suffixes = SuffixList::open(settings(directory.path(), "http://127.0.0.1:1/"), &Registry::new());
        assert!(is_built_in(&suffixes.rules()) && suffixes.left().is_zero(), "the next fetch is due");
    }
    // A directory in its place can't be read.
    let suffixes = Settings { file: directory.path().into(), ..settings(directory.path(), "http://127.0.0.1:1/") };
    assert!(is_built_in(&SuffixList::open(suffixes, &Registry::new()).rules()));
}

#[test]
fn a_gate_that_walks_the_tree_reads_no_file() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("list.dat"), list("host.example")).unwrap();
    let walking = Settings { discovery: Discovery::TreeWalk, ..settings(directory.path(), "http://127.0.0.1:1/") };
    assert!(is_built_in(&SuffixList::open(walking, &Registry::new()).rules()));
}
