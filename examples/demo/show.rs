//! How the demo looks: in colour on a terminal, plain elsewhere.

use std::io::{IsTerminal, stdout};

use crate::support::client::Reply;

/// Prints; knows whether in colour.
#[derive(Clone, Copy)]
pub struct Show {
    colour: bool,
}

/// The styles, as the parameters of an SGR sequence.
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

impl Show {
    /// In colour if a terminal reads, unless `NO_COLOR` says otherwise.
    pub fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && stdout().is_terminal() }
    }

    pub fn title(self, number: usize, title: &str, why: &str) {
        println!("\n{}\n   {}\n", self.style(BOLD, &format!("{number}  {title}")), self.style(DIM, why));
    }

    pub fn heading(self, text: &str) {
        println!("\n{}", self.style(BOLD, text));
    }

    pub fn plain(self, text: &str) {
        println!("   {text}");
    }

    pub fn dim(self, text: &str) {
        println!("   {}", self.style(DIM, text));
    }

    /// What the client says.
    pub fn client(self, line: &str) {
        println!("   {} {}", self.style(CYAN, "C"), printable(line));
    }

    /// What it hears; of several lines the first.
    pub fn server(self, reply: &Reply) {
        let style = if reply.code < 400 { GREEN } else { RED };
        let first = printable(reply.lines.first().map_or("", String::as_str));
        let more = match reply.lines.get(1..) {
            Some(more) if !more.is_empty() => self.style(DIM, &format!("  ({})", printable(&more.join(", ")))),
            _ => String::new(),
        };
        println!("   {} {} {first}{more}", self.style(style, "S"), reply.code);
    }

    /// A header field's line, as the mail server got it.
    pub fn field(self, line: &str) {
        println!("   {} {}", self.style(YELLOW, "+"), printable(line));
    }

    /// A checked expectation.
    pub fn check(self, holds: bool, what: &str) {
        let (style, mark) = if holds { (GREEN, "\u{2713}") } else { (RED, "\u{2717}") };
        println!("   {}", self.style(style, &format!("{mark} {what}")));
    }

    fn style(self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The text without what could steer a terminal: with `--hold` anyone can send.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
