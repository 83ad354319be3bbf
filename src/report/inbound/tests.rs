use std::io::{self, BufReader, Read, Write};

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use rawzip::{CompressionMethod, ZipArchiveWriter};

use super::*;
use crate::domain::Domain;
use crate::label::Label;
use crate::record::{AlignmentOutcome, ReportDisposition};

/// As a large provider writes it: RFC 7489, no namespace, white space all over.
const LARGE_PROVIDER: &str = r#"<?xml version="1.0" encoding="UTF-8" ?>
<feedback>
  <report_metadata>
    <org_name>mail.example</org_name>
    <email>noreply-dmarc-support@mail.example</email>
    <extra_contact_info>https://support.mail.example/a/answer/2466580</extra_contact_info>
    <report_id>12179106096132446424</report_id>
    <date_range>
      <begin>1767225600</begin>
      <end>1767311999</end>
    </date_range>
  </report_metadata>
  <policy_published>
    <domain>example.net</domain>
    <adkim>r</adkim>
    <aspf>r</aspf>
    <p>reject</p>
    <sp>reject</sp>
    <pct>100</pct>
    <np>reject</np>
  </policy_published>
  <record>
    <row>
      <source_ip>192.0.2.17</source_ip>
      <count>42</count>
      <policy_evaluated>
        <disposition>none</disposition>
        <dkim>pass</dkim>
        <spf>fail</spf>
      </policy_evaluated>
    </row>
    <identifiers>
      <header_from>example.net</header_from>
    </identifiers>
    <auth_results>
      <dkim>
        <domain>example.net</domain>
        <result>pass</result>
        <selector>s1</selector>
      </dkim>
      <dkim>
        <domain>esp.example</domain>
        <result>pass</result>
        <selector>k2</selector>
      </dkim>
      <spf>
        <domain>bounce.esp.example</domain>
        <result>pass</result>
      </spf>
    </auth_results>
  </record>
  <record>
    <row>
      <source_ip>2001:db8::25</source_ip>
      <count>3</count>
      <policy_evaluated>
        <disposition>reject</disposition>
        <dkim>fail</dkim>
        <spf>fail</spf>
        <reason><type>local_policy</type><comment>arc=fail</comment></reason>
      </policy_evaluated>
    </row>
    <identifiers>
      <header_from>news.example.net</header_from>
    </identifiers>
    <auth_results>
      <spf>
        <domain>forger.example</domain>
        <result>softfail</result>
      </spf>
    </auth_results>
  </record>
</feedback>
"#;

/// As another writes it: one line, a version, envelope identifiers, schema attributes, capitals.
const ANOTHER_PROVIDER: &str = r#"<?xml version="1.0"?><feedback xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><version>1.0</version><report_metadata><org_name>Enterprise Outlook &amp; Co.</org_name><email>dmarcreport@enterprise.example</email><report_id>0d7b8d2f7dbf4a6e8a3c&#x2d;1</report_id><date_range><begin>1767225600</begin><end>1767312000</end></date_range></report_metadata><policy_published><domain>EXAMPLE.net</domain><adkim>r</adkim><aspf>r</aspf><p>Quarantine</p><sp>none</sp><pct>100</pct><fo>0</fo></policy_published><record><row><source_ip>::ffff:192.0.2.17</source_ip><count>7</count><policy_evaluated><disposition>None</disposition><dkim>Pass</dkim><spf>PASS</spf></policy_evaluated></row><identifiers><envelope_to>enterprise.example</envelope_to><envelope_from>example.net</envelope_from><header_from>example.net</header_from></identifiers><auth_results><dkim><domain>example.net</domain><selector>s1</selector><result>Pass</result></dkim><spf><domain>example.net</domain><scope>mfrom</scope><result>Pass</result></spf></auth_results></record></feedback>"#;

/// As RFC 9990 has it: a namespace, a prefix even, how the policy was found, test mode, extensions.
const RFC_9990: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<!-- made by a careful reporter -->
<d:feedback xmlns:d="urn:ietf:params:xml:ns:dmarc-2.0" xmlns:e="https://extension.example/">
  <d:version>2</d:version>
  <d:report_metadata>
    <d:org_name><![CDATA[Careful <Reports>]]></d:org_name>
    <d:email>report@careful.example</d:email>
    <d:report_id>3v98abbp8ya9n3va8yr8oa3ya</d:report_id>
    <d:date_range><d:begin>1767225600</d:begin><d:end>1767311999</d:end></d:date_range>
    <d:generator>careful 1.2</d:generator>
  </d:report_metadata>
  <d:policy_published>
    <d:domain>example.net</d:domain>
    <d:discovery_method>treewalk</d:discovery_method>
    <d:p>none</d:p><d:testing>y</d:testing>
  </d:policy_published>
  <d:extension><e:arc xmlns:e="https://extension.example/"><e:record><e:row>1</e:row></e:record></e:arc></d:extension>
  <d:record>
    <d:row>
      <d:source_ip>198.51.100.9</d:source_ip>
      <d:count>1</d:count>
      <d:policy_evaluated>
        <d:disposition>pass</d:disposition>
        <d:dkim>pass</d:dkim>
        <d:spf>pass</d:spf>
        <d:reason><d:type>policy_test_mode</d:type></d:reason>
        <d:reason><d:type>of_our_own</d:type></d:reason>
      </d:policy_evaluated>
    </d:row>
    <d:identifiers><d:header_from>example.net</d:header_from><d:envelope_from/></d:identifiers>
    <d:auth_results>
      <d:dkim><d:domain>example.net</d:domain><d:selector>a</d:selector><d:result>pass</d:result></d:dkim>
    </d:auth_results>
  </d:record>
</d:feedback>
"#;

fn row(source_ip: &str, header_from: &str, disposition: ReportDisposition) -> Row {
    Row {
        source_ip: source_ip.parse().unwrap(),
        header_from: Some(Domain::parse(header_from).unwrap()),
        disposition: Some(disposition),
        dkim: AlignmentOutcome::Fail,
        spf: AlignmentOutcome::Fail,
        dkim_passed: String::new(),
        spf_passed: String::new(),
        reasons: String::new(),
    }
}

#[test]
fn reports_of_all_kinds_are_read() {
    let large = read_file(LARGE_PROVIDER.as_bytes()).unwrap();
    let expected = Report {
        reporter: None,
        organization: "mail.example".into(),
        report_id: "12179106096132446424".into(),
        policy_domain: Domain::parse("example.net").unwrap(),
        policy: "reject".into(),
        begin: 1_767_225_600,
        end: 1_767_311_999,
        rows: vec![
            (
                Row {
                    dkim: AlignmentOutcome::Pass,
                    dkim_passed: "esp.example example.net".into(),
                    spf_passed: "bounce.esp.example".into(),
                    ..row("192.0.2.17", "example.net", ReportDisposition::None)
                },
                42,
            ),
            (
                Row {
                    reasons: "local_policy".into(),
                    ..row("2001:db8::25", "news.example.net", ReportDisposition::Reject)
                },
                3,
            ),
        ],
        left_out: 0,
    };
    assert_eq!(large, expected);

    let another = read_file(ANOTHER_PROVIDER.as_bytes()).unwrap();
    assert_eq!(another.organization, "Enterprise Outlook & Co.");
    assert_eq!((&*another.report_id, &*another.policy), ("0d7b8d2f7dbf4a6e8a3c-1", "quarantine"));
    assert_eq!(another.policy_domain.as_str(), "example.net");
    let expected = Row {
        dkim: AlignmentOutcome::Pass,
        spf: AlignmentOutcome::Pass,
        dkim_passed: "example.net".into(),
        spf_passed: "example.net".into(),
        ..row("192.0.2.17", "example.net", ReportDisposition::None)
    };
    assert_eq!(another.rows, [(expected, 7)]);

    let careful = read_file(RFC_9990.as_bytes()).unwrap();
    assert_eq!((&*careful.organization, &*careful.policy), ("Careful <Reports>", "none"));
    let expected = Row {
        dkim: AlignmentOutcome::Pass,
        spf: AlignmentOutcome::Pass,
        dkim_passed: "example.net".into(),
        reasons: "other policy_test_mode".into(),
        ..row("198.51.100.9", "example.net", ReportDisposition::Pass)
    };
    assert_eq!(careful.rows, [(expected, 1)]);
}

#[test]
fn however_it_is_packed() {
    let expected = read_file(LARGE_PROVIDER.as_bytes());
    assert!(expected.is_ok());
    let xml = LARGE_PROVIDER.as_bytes();
    let latin1: Vec<u8> = LARGE_PROVIDER.replace("UTF-8", "iso-8859-1").into_bytes();
    let cases: &[(&str, Vec<u8>)] = &[
        ("gzip", gzip(xml)),
        ("ZIP", zip(&[("mail.example!example.net!1767225600!1767311999.xml", xml)], CompressionMethod::DEFLATE)),
        ("ZIP, stored", zip(&[("a.xml", xml)], CompressionMethod::STORE)),
        ("ZIP, among others", zip(&[("README", b"hello"), ("dir/a.XML", xml)], CompressionMethod::DEFLATE)),
        ("ZIP, with an odd name", zip(&[("report", xml)], CompressionMethod::DEFLATE)),
        ("gzip with something behind it", [gzip(xml), b"\0\0\0\0".to_vec()].concat()),
        ("a byte order mark", [b"\xef\xbb\xbf", xml].concat()),
        ("another character set", latin1),
    ];
    for (name, packed) in cases {
        assert_eq!(read_file(packed), expected, "{name}");
    }
}

#[test]
fn what_is_sloppy_is_read_and_what_is_no_report_is_not() {
    type Change = (&'static str, &'static str);
    let left_out = |changes: &[Change]| read_file(changed(changes).as_bytes()).map(|r| (r.rows.len(), r.left_out));
    let cases: &[(&str, &[Change], Result<(usize, u64), Refusal>)] = &[
        ("as it is", &[], Ok((2, 0))),
        ("no organization", &[("<org_name>mail.example</org_name>", "")], Ok((2, 0))),
        ("an address that is hidden", &[("192.0.2.17", "X.X.X.X")], Ok((1, 1))),
        ("no number", &[("<count>42</count>", "")], Ok((1, 1))),
        ("none at all", &[("<count>42<", "<count>0<")], Ok((1, 0))),
        ("as many as there can be", &[("<count>42<", "<count>1000000000<")], Ok((2, 0))),
        ("one more", &[("<count>42<", "<count>1000000001<")], Ok((1, 1))),
        ("more than there can be", &[("<count>42<", "<count>18446744073709551615<")], Ok((1, 1))),
        ("more than a number holds", &[("<count>42<", "<count>99999999999999999999999999<")], Ok((1, 1))),
        ("less than none", &[("<count>42<", "<count>-42<")], Ok((1, 1))),
        ("not one row", &[("source_ip>", "source>")], Err(Refusal::Content)),
        ("a fraction of a second", &[("1767225600<", "1767225600.25<")], Ok((2, 0))),
        (
            "no id",
            &[("<report_id>12179106096132446424</report_id>", "<report_id> </report_id>")],
            Err(Refusal::Content),
        ),
        ("no period", &[("<begin>1767225600</begin>", "")], Err(Refusal::Content)),
        ("a period of no time", &[("1767225600<", "99999999999999999<")], Err(Refusal::Content)),
        ("a period backwards", &[("1767225600<", "1767312000<")], Err(Refusal::Content)),
        ("no domain", &[("<domain>example.net</domain>\n    <adkim>", "<adkim>")], Err(Refusal::Content)),
        (
            "what is no domain",
            &[("<domain>example.net</domain>\n    <adkim>", "<domain>..</domain><adkim>")],
            Err(Refusal::Content),
        ),
        ("something else", &[("feedback>", "rss>")], Err(Refusal::Content)),
        ("cut off", &[("</feedback>", "")], Err(Refusal::Malformed)),
        ("crossed", &[("</row>", "</record>")], Err(Refusal::Malformed)),
        ("two", &[("</feedback>", "</feedback><feedback></feedback>")], Err(Refusal::Content)),
        ("text behind it", &[("</feedback>", "</feedback>hello")], Err(Refusal::Malformed)),
        ("an entity that nobody knows", &[("mail.example<", "&nbsp;<")], Err(Refusal::Doctype)),
        ("UTF-16 by name", &[("UTF-8", "UTF-16")], Err(Refusal::Charset)),
        ("a set that nobody knows", &[("UTF-8", "EBCDIC-CP-FI")], Err(Refusal::Charset)),
    ];
    for (name, changes, expected) in cases {
        assert_eq!(left_out(changes), *expected, "{name}");
    }

    let org = |xml: Vec<u8>| read_file(&xml).map(|report| report.organization);
    let umlaut = |set: &str| {
        let text = changed(&[("UTF-8", set), ("mail.example<", "B\u{fc}ro\u{7}<")]);
        text.chars().map(|c| u8::try_from(c).unwrap()).collect::<Vec<u8>>()
    };
    assert_eq!(org(umlaut("ISO-8859-1")).unwrap(), "B\u{fc}ro\u{FFFD}");
    assert_eq!(org(umlaut("UTF-8")), Err(Refusal::Charset), "it lies about itself");
    let long = changed(&[("mail.example<", &format!("{}<", "\u{1F4E7}".repeat(500)))]);
    assert_eq!(org(long.into_bytes()).unwrap().len(), 252, "cut at a character's border");
    for utf16 in [&b"\xff\xfe"[..], b"\xfe\xff\0<", b"<\0?\0", b"\0<\0?"] {
        assert_eq!(read_file(utf16), Err(Refusal::Charset));
    }
    for nothing in [&b""[..], b" \r\n", b"hello", b"<", b"<feedback", b"<feedback/>"] {
        assert!(read_file(nothing).is_err(), "{}", nothing.escape_ascii());
    }
}

#[test]
fn every_cut_is_refused_and_none_panics() {
    let whole = [
        LARGE_PROVIDER.as_bytes().to_vec(),
        gzip(LARGE_PROVIDER.as_bytes()),
        zip(&[("a.xml", LARGE_PROVIDER.as_bytes())], CompressionMethod::DEFLATE),
    ];
    for packed in whole {
        // Behind the last octet of the XML there is one line end; of the gzip trailer, each octet counts.
        for end in 0..packed.len() - 2 {
            assert!(read_file(&packed[..end]).is_err(), "{end} of {}", packed.len());
        }
    }
    let mut packed = zip(&[("a.xml", LARGE_PROVIDER.as_bytes())], CompressionMethod::STORE);
    let place = packed.windows(2).position(|two| two == b"42").unwrap();
    packed[place] = b'9';
    assert_eq!(read_file(&packed), Err(Refusal::Compression), "the checksum is wrong");
}

#[test]
fn entities_are_not_expanded_and_files_not_opened() {
    let laughs = (1..10).fold(r#"<!ENTITY a0 "lol">"#.to_owned(), |text, n| {
        format!("{text}<!ENTITY a{n} \"{}\">", format!("&a{};", n - 1).repeat(10))
    });
    let cases = [
        format!(
            "<!DOCTYPE feedback [{laughs}]><feedback><report_metadata><org_name>&a9;</org_name></report_metadata></feedback>"
        ),
        r#"<!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]><feedback>&x;</feedback>"#.into(),
        r#"<!DOCTYPE feedback SYSTEM "http://127.0.0.1/x.dtd"><feedback/>"#.into(),
        "<!doctype feedback><feedback/>".into(),
        "<feedback>&x;</feedback>".into(),
        format!("<feedback>{}</feedback>", "&x;".repeat(1000)),
    ];
    for case in cases {
        assert_eq!(read_file(case.as_bytes()), Err(Refusal::Doctype), "{case}");
        assert_eq!(read_file(&gzip(case.as_bytes())), Err(Refusal::Doctype), "{case}");
    }
    for number in ["0", "55296", "1114112", "99999999999999999999", "xFFFFFFFFF", "x"] {
        let case = format!("<feedback>&#{number};</feedback>");
        assert_eq!(read_file(case.as_bytes()), Err(Refusal::Malformed), "{case}");
    }
}

#[test]
fn bombs_are_put_out() {
    let comment = comment();
    let xml = |octets: u64| b"<feedback>".chain(endless(&comment, octets)).chain(&b"</feedback>"[..]);
    let deflated = {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        io::copy(&mut xml(4 << 20), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    let small = gzip_of(xml(4 << 20));
    assert_eq!(read_file(&small), Err(Refusal::Bomb), "a thousand for one, beyond a megabyte");
    assert_eq!(read_file(&zip_of("a.xml", 8, &deflated, 4 << 20)), Err(Refusal::Bomb));
    assert_eq!(read_file(&zip_of("a.xml", 8, &deflated, 100)), Err(Refusal::Compression), "it lies about its size");
    let mut plain = Vec::new();
    xml(unpack::MAX_XML + 70_000).read_to_end(&mut plain).unwrap();
    assert_eq!(read_file(&plain), Err(Refusal::Bomb), "packed or not");
    assert_eq!(read_file(&zip_of("a.xml", 12, b"BZh9", 100)), Err(Refusal::Compression), "another method");
    // In one another, nothing is unpacked twice.
    assert_eq!(read_file(&gzip(&small)), Err(Refusal::Compression));
    assert_eq!(read_file(&gzip(&zip(&[("a.xml", b"<x>")], CompressionMethod::DEFLATE))), Err(Refusal::Compression));
    assert_eq!(read_file(&zip(&[("a.zip", &gzip(b"<x>"))], CompressionMethod::DEFLATE)), Err(Refusal::Compression));
    assert_eq!(
        read_file(&zip(&[], CompressionMethod::DEFLATE)),
        Err(Refusal::Malformed),
        "no file in it: nothing that is known"
    );
    let mut directory = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut directory);
    archive.new_dir("a.xml/").create().unwrap();
    archive.finish().unwrap();
    assert_eq!(read_file(&directory), Err(Refusal::NoReport), "a directory is no file");
}

#[test]
fn nothing_grows_beyond_its_bound() {
    let wrapped = |inside: &str| format!("<feedback>{inside}</feedback>");
    let long = "x".repeat(70_000);
    let cases: &[(&str, String)] = &[
        ("a text", wrapped(&long)),
        ("a tag", wrapped(&format!("<{long}/>"))),
        ("an attribute", wrapped(&format!("<a b=\"{long}\"/>"))),
        ("a comment", wrapped(&format!("<!--{long}-->"))),
        ("a section", wrapped(&format!("<![CDATA[{long}]]>"))),
        ("an instruction", wrapped(&format!("<?x {long}?>"))),
        ("a reference", wrapped(&format!("&{long};"))),
        ("elements in one another", wrapped(&"<a>".repeat(1000))),
        ("rows", many_rows(feedback::MAX_ROWS + 1)),
    ];
    for (name, case) in cases {
        assert_eq!(read_file(case.as_bytes()), Err(Refusal::Bounds), "{name}");
    }
    let most = read_file(many_rows(feedback::MAX_ROWS).as_bytes()).unwrap();
    assert_eq!(most.rows.len(), feedback::MAX_ROWS);
}

/// A source that gives the same octets again and again, and counts.
struct Endless<'a> {
    piece: &'a [u8],
    at: usize,
    given: usize,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = &self.piece[self.at..];
        let read = rest.read(buffer)?;
        self.at = (self.at + read) % self.piece.len();
        self.given += read;
        Ok(read)
    }
}

fn endless(piece: &[u8], octets: u64) -> impl Read {
    Endless { piece, at: 0, given: 0 }.take(octets - octets % piece.len() as u64)
}

/// A comment of almost as many octets as a token may have: quickly read.
fn comment() -> Vec<u8> {
    format!("<!--{}-->", " ".repeat(60_000)).into_bytes()
}

/// What is read of XML without end before it is refused says how much can have been held of it: tokens stand in a
/// buffer of their size, rows are counted. Like rows add up, so that a hundred megabytes of them need the memory of
/// one.
#[test]
fn a_hundred_megabytes_of_xml_need_no_memory_of_their_own() {
    let (head, rest) = LARGE_PROVIDER.split_at(LARGE_PROVIDER.find("<record>").unwrap());
    let records = rest.strip_suffix("</feedback>\n").unwrap();
    let piece = [comment(), records.as_bytes().to_vec()].concat();
    let times = 100_000_000 / piece.len() as u64;
    let middle = endless(&piece, times * piece.len() as u64);
    let report = feedback::read(BufReader::new(head.as_bytes().chain(middle).chain(&b"</feedback>"[..]))).unwrap();
    assert_eq!(report.rows.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [42 * times, 3 * times]);

    for piece in ["x", "<a", " ", "<!--", "<a b='", "&x"] {
        let mut endless = Endless { piece: piece.as_bytes(), at: 0, given: 0 };
        let source = BufReader::with_capacity(4096, b"<feedback>".chain(&mut endless));
        let refused = feedback::read(source).unwrap_err();
        assert!(matches!(refused, Refusal::Bounds | Refusal::Malformed), "{piece}: {refused}");
        assert!(endless.given <= 80_000, "{piece}: {} octets", endless.given);
    }
}

#[test]
fn a_message_with_several_parts_gives_the_first_that_is_a_report() {
    let part = |kind: &str, body: &str| format!("--b\r\nContent-Type: {kind}\r\n\r\n{body}\r\n");
    let message =
        |parts: &[String]| format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n", parts.concat());
    let (broken, sound) = (part("text/xml", "<feedback>"), part("application/xml", LARGE_PROVIDER));
    let id = |parts: &[String]| read(message(parts).as_bytes()).map(|report| report.report_id);
    assert_eq!(id(&[part("text/plain", "hello"), sound.clone()]).unwrap(), "12179106096132446424");
    assert_eq!(id(&[broken.clone(), sound]).unwrap(), "12179106096132446424");
    assert_eq!(id(&[broken.clone(), part("text/xml", "<a/>")]), Err(Refusal::Malformed));
    assert_eq!(id(&[part("text/plain", LARGE_PROVIDER)]), Err(Refusal::NoReport));
}

#[test]
fn every_refusal_has_a_name() {
    for refusal in Refusal::ALL {
        assert!(refusal.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    }
}

/// The large provider's report with some of its text changed.
fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(LARGE_PROVIDER.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

fn many_rows(rows: usize) -> String {
    let (head, _) = LARGE_PROVIDER.split_at(LARGE_PROVIDER.find("<record>").unwrap());
    let row = |n: usize| {
        let ip = std::net::Ipv4Addr::from(u32::try_from(n).unwrap());
        format!("<record><row><source_ip>{ip}</source_ip><count>1</count></row></record>")
    };
    format!("{head}{}</feedback>", (0..rows).map(row).collect::<String>())
}

fn gzip(octets: &[u8]) -> Vec<u8> {
    gzip_of(octets)
}

fn gzip_of(mut source: impl Read) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut source, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

fn zip(files: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut out);
    for (name, octets) in files {
        let (mut entry, config) = archive.new_file(name).compression_method(method).start().unwrap();
        if method == CompressionMethod::STORE {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(octets).unwrap();
            let (_, descriptor) = writer.finish().unwrap();
            entry.finish(descriptor).unwrap();
        } else {
            let mut writer = config.wrap(DeflateEncoder::new(&mut entry, Compression::best()));
            writer.write_all(octets).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            entry.finish(descriptor).unwrap();
        }
    }
    archive.finish().unwrap();
    out
}

/// An archive of one file, of which everything can be a lie.
fn zip_of(name: &str, method: u16, data: &[u8], size: u32) -> Vec<u8> {
    let u16s = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let u32s = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let (length, packed) = (u16::try_from(name.len()).unwrap(), u32::try_from(data.len()).unwrap());
    let common = [u16s(&[20, 0, method, 0, 0]), u32s(&[0, packed, size]), u16s(&[length, 0])].concat();
    let local = [b"PK\x03\x04".to_vec(), common.clone(), name.into(), data.to_vec()].concat();
    let central = [b"PK\x01\x02".to_vec(), u16s(&[20]), common, u16s(&[0, 0, 0]), u32s(&[0, 0]), name.into()].concat();
    let (start, octets) = (u32::try_from(local.len()).unwrap(), u32::try_from(central.len()).unwrap());
    let end = [b"PK\x05\x06".to_vec(), u16s(&[0, 0, 1, 1]), u32s(&[octets, start]), u16s(&[0])].concat();
    [local, central, end].concat()
}

#[test]
fn a_report_of_more_messages_than_there_can_be_is_refused() {
    let record = "<record><row><source_ip>192.0.2.9</source_ip><count>1000000000</count></row></record>";
    let with = |count: usize| LARGE_PROVIDER.replace("</feedback>", &format!("{}</feedback>", record.repeat(count)));
    assert_eq!(read_file(with(9).as_bytes()).map(|report| report.messages()), Ok(9_000_000_045));
    assert_eq!(read_file(with(10).as_bytes()), Err(Refusal::Bounds));
}
