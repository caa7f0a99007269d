//! The replies in these tests are those of valkey 8.0.1 and redis 7.0.15, which agree, unless a test says otherwise.

use super::*;

/// The result of a scan, without its borrow.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    Incomplete,
    Request(Vec<u8>, Vec<Vec<u8>>),
    Inline(usize),
    Skip(usize),
    Malformed(RequestError),
}

fn found(scanned: Scanned<'_>) -> Found {
    match scanned {
        Scanned::Incomplete { .. } => Found::Incomplete,
        Scanned::Request(request) => {
            let args: Vec<Vec<u8>> = request.args().map(<[u8]>::to_vec).collect();
            assert_eq!(request.argc() as usize, args.len());
            assert_eq!(request.name(), args[0]);
            Found::Request(request.raw().to_vec(), args)
        }
        Scanned::Inline { consumed } => Found::Inline(consumed),
        Scanned::Skip(count) => Found::Skip(count),
        Scanned::Malformed(error) => Found::Malformed(error),
    }
}

fn scan_with(input: &[u8], limits: &RequestLimits) -> Found {
    found(RequestScanner::default().scan(input, limits))
}

fn scan(input: &[u8]) -> Found {
    scan_with(input, &RequestLimits::default())
}

fn reply(input: &[u8], limits: &RequestLimits) -> String {
    match scan_with(input, limits) {
        Found::Malformed(error) => String::from_utf8_lossy(&error.reply()).into_owned(),
        other => panic!("{:?} gives {other:?}", String::from_utf8_lossy(input)),
    }
}

/// Returns the error's text, between `-ERR Protocol error: ` and the end of the line.
fn refused(input: &[u8], limits: &RequestLimits) -> String {
    let reply = reply(input, limits);
    reply.strip_prefix("-ERR Protocol error: ").and_then(|text| text.strip_suffix("\r\n")).unwrap().to_owned()
}

fn frame(args: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode(args, &mut out);
    out
}

fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let frame = split_inline(line, &RequestLimits::default()).unwrap().unwrap_or_default();
    Request::parse(&frame).map(|request| request.args().map(<[u8]>::to_vec).collect()).unwrap_or_default()
}

#[test]
fn a_canonical_request_is_found_whole() {
    let mut input = frame(&[b"SET", b"k\r\n", b""]);
    let len = input.len();
    input.extend_from_slice(b"*1\r\n");
    let expected = vec![b"SET".to_vec(), b"k\r\n".to_vec(), Vec::new()];
    assert_eq!(scan(&input), Found::Request(input[..len].to_vec(), expected));
    assert_eq!(Request::parse(&input[..len]).unwrap().arg(1), Some(&b"k\r\n"[..]));
    assert!(Request::parse(&input).is_none(), "more than one frame");
}

#[test]
fn a_header_ends_in_crlf_and_nothing_else() {
    // The server skips the byte after CR without a check, and waits for ever where it finds only LF.
    for input in [&b"*1\rX$4\r\nPING\r\n"[..], b"*1\n", b"*1\0\r\n"] {
        assert_eq!(scan(input), Found::Malformed(RequestError::Args));
    }
    for input in [&b"*1\r\n$4\rXPING\r\n"[..], b"*1\r\n$4\n", b"*1\r\n$4\0\r\n"] {
        assert_eq!(scan(input), Found::Malformed(RequestError::Bulk));
    }
}

#[test]
fn an_argument_ends_in_crlf() {
    // The server runs `PINGXX` as PING.
    let (set, ping) = (&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue12"[..], &b"*1\r\n$4\r\nPINGXX"[..]);
    for input in [set, ping, b"*1\r\n$4\r\nPING\n\n", b"*1\r\n$4\r\nPING\rX", b"*1\r\n$4\r\nPINGX"] {
        assert_eq!(scan(input), Found::Malformed(RequestError::Crlf));
    }
    assert_eq!(scan(b"*1\r\n$4\r\nPING\r"), Found::Incomplete);
}

#[test]
fn numbers_are_canonical() {
    let any = RequestLimits::default();
    for digits in ["+5", "05", "-0", "-", "--1", " 1", "1 ", "", "0x1", "1-", "00", "-01", "1e1", "٣"] {
        assert_eq!(
            refused(format!("*{digits}\r\n").as_bytes(), &any),
            "invalid multibulk length",
            "{digits:?}"
        );
        assert_eq!(
            refused(format!("*1\r\n${digits}\r\n").as_bytes(), &any),
            "invalid bulk length",
            "{digits:?}"
        );
    }
    let endless = "1".repeat(19);
    assert_eq!(scan(format!("*{endless}").as_bytes()), Found::Malformed(RequestError::Args));
    assert_eq!(scan(format!("*1\r\n${endless}").as_bytes()), Found::Malformed(RequestError::Bulk));
}

#[test]
fn empty_requests_are_skipped() {
    for (input, len) in [(&b"*0\r\nX"[..], 4), (b"*-1\r\n", 5), (b"*-123\r\n*1\r\n", 7)] {
        assert_eq!(scan(input), Found::Skip(len));
    }
}

#[test]
fn the_number_of_arguments_is_bounded() {
    let any = RequestLimits::default();
    assert_eq!(refused(b"*2147483648\r\n", &any), "invalid multibulk length");
    assert_eq!(refused(b"*99999999999999999999999\r\n", &any), "invalid multibulk length");
    // The server accepts this number; respgate's own limit is lower.
    assert_eq!(refused(b"*1048577\r\n", &any), "invalid multibulk length");
    assert_eq!(scan(b"*1048576\r\n"), Found::Incomplete);
}

#[test]
fn an_arguments_length_is_bounded() {
    let any = RequestLimits::default();
    assert_eq!(refused(b"*1\r\n$-1\r\n", &any), "invalid bulk length");
    assert_eq!(refused(b"*1\r\n$536870913\r\n", &any), "invalid bulk length");
    assert_eq!(scan(b"*1\r\n$500000000\r\n"), Found::Incomplete);
    assert_eq!(scan(b"*1\r\n$0\r\n\r\n"), Found::Request(b"*1\r\n$0\r\n\r\n".to_vec(), vec![Vec::new()]));
    let few = RequestLimits { max_bulk: 4, ..any };
    assert!(matches!(scan_with(&frame(&[b"PING"]), &few), Found::Request(..)));
    assert_eq!(refused(&frame(&[b"PINGS"]), &few), "invalid bulk length");
}

#[test]
fn a_whole_request_is_bounded() {
    let input = frame(&[b"ECHO", b"0123456789"]);
    let exact = RequestLimits { max_request: input.len(), ..RequestLimits::default() };
    assert!(matches!(scan_with(&input, &exact), Found::Request(..)));
    let less = RequestLimits { max_request: input.len() - 1, ..RequestLimits::default() };
    assert_eq!(scan_with(&input, &less), Found::Malformed(RequestError::Request(input.len() - 1)));
    // The scanner reports this as soon as the header shows it, before the bytes arrive.
    let header = b"*2\r\n$4\r\nECHO\r\n$10\r\n";
    assert_eq!(scan_with(header, &less), Found::Malformed(RequestError::Request(input.len() - 1)));
    assert_eq!(
        refused(header, &less),
        format!("request larger than {} bytes (respgate's max-request)", input.len() - 1)
    );
}

#[test]
fn every_element_is_a_bulk() {
    let any = RequestLimits::default();
    for (found, shown) in [(b':', ':'), (b'*', '*'), (b'_', '_'), (b'\'', '\''), (b'%', '%')] {
        let text = refused(&[b"*1\r\n", &[found][..], b"4\r\n"].concat(), &any);
        assert_eq!(text, format!("expected '$', got '{shown}'"));
    }
    // The server prints the end of a line as a blank. At a NUL the server waits; respgate does not.
    for blank in [b'\r', b'\n', 0] {
        assert_eq!(refused(&[b"*1\r\n", &[blank][..], b"\r\n"].concat(), &any), "expected '$', got ' '");
    }
    assert_eq!(RequestError::NoDollar(0xff).reply(), b"-ERR Protocol error: expected '$', got '\xff'\r\n");
}

#[test]
fn before_authentication_the_servers_lower_bounds_apply() {
    let strict = RequestLimits::default().unauthenticated();
    assert_eq!(refused(b"*11\r\n", &strict), "unauthenticated multibulk length");
    assert_eq!(refused(b"*2147483647\r\n", &strict), "unauthenticated multibulk length");
    assert_eq!(refused(b"*2147483648\r\n", &strict), "invalid multibulk length");
    assert_eq!(refused(b"*abc\r\n", &strict), "invalid multibulk length");
    assert_eq!(scan_with(b"*10\r\n", &strict), Found::Incomplete);
    assert_eq!(refused(b"*1\r\n$16385\r\n", &strict), "unauthenticated bulk length");
    assert_eq!(refused(b"*1\r\n$536870912\r\n", &strict), "unauthenticated bulk length");
    assert_eq!(refused(b"*1\r\n$536870913\r\n", &strict), "invalid bulk length");
    assert_eq!(refused(b"*1\r\n$-1\r\n", &strict), "invalid bulk length");
    assert_eq!(scan_with(b"*1\r\n$16384\r\n", &strict), Found::Incomplete);
    assert_eq!(strict.max_request, 1024 * 1024);
    // The largest request within the two other limits is within this one too.
    assert!(matches!(scan_with(&frame(&[&[b'a'; 16384][..]; 10]), &strict), Found::Request(..)));
}

#[test]
fn before_authentication_an_inline_commands_words_are_not_counted() {
    let strict = RequestLimits::default().unauthenticated();
    assert!(split_inline(b"a b c d e f g h i j k l m\r\n", &strict).unwrap().is_some());
    assert!(split_inline(&[b"ECHO ", &[b'a'; 17000][..], b"\n"].concat(), &strict).unwrap().is_some());
}

#[test]
fn an_inline_command_ends_at_lf() {
    for (input, len) in [(&b"PING\r\n*1\r\n"[..], 6), (b"PING\n", 5), (b" PING \r\n", 8), (b"PING\r\r\n", 7)]
    {
        assert_eq!(scan(input), Found::Inline(len));
        assert_eq!(words(&input[..len]), [b"PING"]);
    }
    assert_eq!(scan(b"PING\r"), Found::Incomplete);
    // Only an array begins a request.
    for input in [&b"+OK\r\n"[..], b">1\r\n", b"$4\r\n", b"\"\"\r\n"] {
        assert_eq!(scan(input), Found::Inline(input.len()));
    }
}

#[test]
fn blank_lines_are_skipped() {
    for (input, len) in [(&b"\r\n"[..], 2), (b"\n\n", 1), (b"  \t\r\n*1\r\n", 5), (b"\x0b\x0c\r\r\n", 5)] {
        assert_eq!(scan(input), Found::Skip(len));
        assert_eq!(split_inline(&input[..len], &RequestLimits::default()), Ok(None));
    }
}

#[test]
fn a_whitespace_line_does_not_make_what_follows_inline() {
    // valkey 8.0.1 reads the frame's lines as three commands; redis 7.0 answers PONG, as respgate does.
    let input = b"  \r\n*1\r\n$4\r\nPING\r\n";
    assert_eq!(scan(input), Found::Skip(4));
    assert_eq!(scan(&input[4..]), Found::Request(input[4..].to_vec(), vec![b"PING".to_vec()]));
}

#[test]
fn words_are_split_as_the_server_splits_them() {
    for (line, expected) in [
        (&b"\"ECHO\" 'a\\'b'\r\n"[..], &[&b"ECHO"[..], b"a'b"][..]),
        (b"ECHO \"\\x41\\xfF\\n\\r\\t\\b\\a\\q\\xZZ\\x4\"\n", &[b"ECHO", b"A\xff\n\r\t\x08\x07qxZZx4"]),
        (b"ECHO a\\x41\n", &[b"ECHO", b"a\\x41"]),
        (b"ECHO 'a\\\\b\\x41'\n", &[b"ECHO", b"a\\\\b\\x41"]),
        (b"ECHO \"\" ''\n", &[b"ECHO", b"", b""]),
        (b"ECHO a\"b c\" d'e f'\n", &[b"ECHO", b"ab c", b"de f"]),
        (b"ECHO \"\x80\xff\"\n", &[b"ECHO", b"\x80\xff"]),
        (b"ECHO a\rb\tc\n", &[b"ECHO", b"a", b"b", b"c"]),
        (b"ECHO a\x1cb\n", &[b"ECHO", b"a\x1cb"]),
        // A vertical tab and a form feed separate words only before a word has begun.
        (b"ECHO\x0ba\x0cb \x0b c\x0b\n", &[b"ECHO\x0ba\x0cb", b"c\x0b"]),
        (b"\"PING\"\x0b\x0c\r\n", &[b"PING"]),
    ] {
        assert_eq!(words(line), expected, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn unbalanced_quotes_are_a_fault() {
    for line in
        ["\"PING", "'PING", "\"PING\"x", "'PING'\"x\"", "ECHO \"a\\\"", "ECHO 'a\\'", "ECHO \"a\\", "\""]
    {
        let line = format!("{line}\r\n");
        assert_eq!(
            split_inline(line.as_bytes(), &RequestLimits::default()),
            Err(RequestError::Quotes),
            "{line:?}"
        );
    }
    assert_eq!(RequestError::Quotes.reply(), b"-ERR Protocol error: unbalanced quotes in request\r\n");
}

#[test]
fn an_inline_commands_line_is_bounded() {
    let any = RequestLimits::default();
    let line = |len: usize, end: &str| format!("{}{end}", "a".repeat(len)).into_bytes();
    assert_eq!(scan(&line(65536, "\n")), Found::Inline(65537));
    assert_eq!(scan(&line(65536, "")), Found::Incomplete);
    assert_eq!(refused(&line(65537, ""), &any), "too big inline request");
    // The server checks the length only while the end is missing, and accepts this line.
    assert_eq!(refused(&line(65537, "\n"), &any), "too big inline request");
    assert_eq!(refused(&line(65537, "\0\n"), &any), "too big inline request");
}

#[test]
fn an_inline_commands_words_obey_the_limits() {
    let limits = RequestLimits { max_args: 2, max_bulk: 4, max_request: 28, ..RequestLimits::default() };
    assert!(split_inline(b"ECHO abcd\n", &limits).unwrap().is_some());
    assert_eq!(split_inline(b"a b c\n", &limits), Err(RequestError::Args));
    assert_eq!(split_inline(b"ECHOS\n", &limits), Err(RequestError::Bulk));
    let limits = RequestLimits { max_request: 23, ..limits };
    assert_eq!(split_inline(b"ECHO abcd\n", &limits), Err(RequestError::Request(23)));
}

#[test]
fn nul_is_refused_at_once() {
    // After a NUL the server waits for more, until the line is too long.
    for input in [&b"PING\0\r\nPING\r\n"[..], b"PING\0", b"\0"] {
        assert_eq!(refused(input, &RequestLimits::default()), "NUL in inline request");
    }
    assert_eq!(split_inline(b"PING\0x\r\n", &RequestLimits::default()), Err(RequestError::Nul));
    // In an argument NUL is a byte like any other.
    assert!(matches!(scan(&frame(&[b"ECHO", b"\0"])), Found::Request(..)));
}

/// Scans the input in two pieces, for every split, and then byte by byte. All results must equal that of one scan.
fn same_however_split(input: &[u8], limits: &RequestLimits) {
    let whole = scan_with(input, limits);
    for at in 0..=input.len() {
        let mut scanner = RequestScanner::default();
        let first = found(scanner.scan(&input[..at], limits));
        let split = if first == Found::Incomplete { found(scanner.scan(input, limits)) } else { first };
        assert_eq!(split, whole, "{:?} split at {at}", String::from_utf8_lossy(input));
    }
    let mut scanner = RequestScanner::default();
    let bytewise = (0..=input.len())
        .map(|end| found(scanner.scan(&input[..end], limits)))
        .find(|found| *found != Found::Incomplete)
        .unwrap_or(Found::Incomplete);
    assert_eq!(bytewise, whole, "{:?}", String::from_utf8_lossy(input));
}

#[test]
fn a_split_changes_nothing() {
    let any = RequestLimits::default();
    for input in [
        &frame(&[b"SET", b"key", b"*1\r\n$4\r\nPING\r\n", b""])[..],
        b"*1\r\n$4\r\nPINGXX",
        b"*1\r\n$4\r\nPING\rX",
        b"*1\rX",
        b"*-12\r\n",
        b"*0\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$4\rX",
        b"*2\r\n$4\r\nECHO\r\n:1\r\n",
        b"*11\r\n",
        b"SET k \"a b\"\r\n",
        b"PING\0\n",
        b" \r\r\n",
        b"*1111111111111111111\r\n",
    ] {
        same_however_split(input, &any);
        same_however_split(input, &any.unauthenticated());
        same_however_split(input, &RequestLimits { max_request: 40, max_inline: 4, ..any.clone() });
    }
}

#[test]
fn need_is_a_lower_bound() {
    let input = frame(&[b"ECHO", &[b'x'; 100]]);
    for end in 0..input.len() {
        let scanned = RequestScanner::default().scan(&input[..end], &RequestLimits::default());
        let Scanned::Incomplete { need } = scanned else { panic!("{end}") };
        assert!(need > 0 && end + need <= input.len(), "{need} at {end}");
    }
    let scanned = RequestScanner::default().scan(&input[..30], &RequestLimits::default());
    assert!(matches!(scanned, Scanned::Incomplete { need } if need == input.len() - 30));
}

/// Counts how often the scanner advanced: it must not start again with every piece.
#[test]
fn pieces_are_scanned_on_from_where_the_last_one_ended() {
    let many = frame(&vec![&b"abc"[..]; 100_000]);
    let large = frame(&[b"ECHO", &vec![b'x'; 1024 * 1024]]);
    for input in [many, large] {
        let mut scanner = RequestScanner::default();
        for end in 0..input.len() {
            let before = scanner.at;
            assert!(matches!(
                scanner.scan(&input[..end], &RequestLimits::default()),
                Scanned::Incomplete { .. }
            ));
            // The scanner reads again at most the header of the argument that is incomplete.
            assert!(scanner.at >= before);
        }
        assert!(matches!(scanner.scan(&input, &RequestLimits::default()), Scanned::Request(_)));
    }
    let line = [b'a'; 60_000];
    let mut scanner = RequestScanner::default();
    for end in 1..line.len() {
        scanner.scan(&line[..end], &RequestLimits::default());
        assert_eq!(scanner.searched, end);
    }
}

mod properties {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn args() -> impl Strategy<Value = Vec<Vec<u8>>> {
        vec(
            prop_oneof![
                vec(any::<u8>(), 0..40),
                vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'$')], 0..9)
            ],
            1..8,
        )
    }

    fn encoded(args: &[Vec<u8>]) -> Vec<u8> {
        frame(&args.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// Generates bytes that often look like a request.
    fn like_a_request() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[*$][0-9+-]{0,3}\r?\n?".prop_map(String::into_bytes),
            3 => "[a-zA-Z \"'\\\\]{0,5}\r?\n?".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..4),
        ];
        vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_canonical_request_scans_the_same_however_it_is_split(args in args(), rest in vec(any::<u8>(), 0..9)) {
            let frame = encoded(&args);
            let input = [&frame[..], &rest].concat();
            prop_assert_eq!(scan(&input), Found::Request(frame, args));
            same_however_split(&input, &RequestLimits::default());
        }

        #[test]
        fn what_is_accepted_encodes_to_the_same_bytes(input in like_a_request()) {
            same_however_split(&input, &RequestLimits::default());
            match scan(&input) {
                Found::Request(raw, args) => prop_assert_eq!(encoded(&args), raw),
                Found::Inline(len) => {
                    if let Ok(Some(frame)) = split_inline(&input[..len], &RequestLimits::default()) {
                        prop_assert!(matches!(scan(&frame), Found::Request(raw, _) if raw == frame));
                    }
                }
                Found::Incomplete | Found::Skip(_) | Found::Malformed(_) => {}
            }
        }

        #[test]
        fn a_mutated_request_never_panics_and_never_changes_by_encoding(
            args in args(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut input = encoded(&args);
            for (place, byte) in changes {
                let place = place.index(input.len());
                input[place] = byte;
            }
            same_however_split(&input, &RequestLimits::default());
            if let Found::Request(raw, args) = scan(&input) {
                prop_assert_eq!(encoded(&args), raw);
            }
        }
    }
}
