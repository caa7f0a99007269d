use super::*;

fn scan(input: &[u8]) -> ScannedReply {
    ReplyScanner::default().scan(input)
}

fn whole(input: &[u8], kind: ReplyKind) -> ScannedReply {
    ScannedReply::Complete { len: input.len(), kind }
}

/// Scans the input in two pieces, then byte by byte, then byte by byte while dropping the scanned bytes at once.
fn same_however_split(input: &[u8]) {
    let expected = scan(input);
    for at in 0..=input.len() {
        let mut scanner = ReplyScanner::default();
        let first = scanner.scan(&input[..at]);
        let split = if first == ScannedReply::Incomplete { scanner.scan(input) } else { first };
        assert_eq!(split, expected, "{:?} split at {at}", String::from_utf8_lossy(input));
    }
    let (mut bytewise, mut streamed) = (ReplyScanner::default(), ReplyScanner::default());
    let mut dropped = 0;
    for end in 0..=input.len() {
        let piece = bytewise.scan(&input[..end]);
        let mut rest = streamed.scan(&input[dropped..end]);
        if let ScannedReply::Complete { len, .. } = &mut rest {
            *len += dropped;
        }
        assert_eq!(rest, piece, "{:?} until {end}, {dropped} dropped", String::from_utf8_lossy(input));
        if piece != ScannedReply::Incomplete {
            assert_eq!(piece, expected);
            return;
        }
        let scanned = streamed.scanned();
        streamed.rebase(scanned);
        dropped += scanned;
    }
    assert_eq!(expected, ScannedReply::Incomplete);
}

#[test]
fn every_type_is_found_whole() {
    use ReplyKind::{Error, Push, Reply};
    for (input, kind) in [
        (&b"+OK\r\n"[..], Reply),
        (b"+\r\n", Reply),
        (b"-ERR a\xff\r\n", Error),
        (b":-12\r\n", Reply),
        (b"$5\r\na\r\nbc\r\n", Reply),
        (b"$0\r\n\r\n", Reply),
        (b"$-1\r\n", Reply),
        (b"*-1\r\n", Reply),
        (b"*0\r\n", Reply),
        (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", Reply),
        (b"*2\r\n-ERR in EXEC\r\n+OK\r\n", Reply),
        (b"_\r\n", Reply),
        (b"#t\r\n", Reply),
        (b",nan\r\n", Reply),
        (b",-inf\r\n", Reply),
        // A Lua script can write any bytes into these lines.
        (b"(abc def\r\n", Reply),
        (b"!3\r\nERR\r\n", Error),
        (b"=7\r\ntxt:abc\r\n", Reply),
        (b"%1\r\n+k\r\n*0\r\n", Reply),
        (b"~2\r\n:1\r\n:2\r\n", Reply),
        (b">2\r\n+invalidate\r\n_\r\n", Push),
        (b">0\r\n", Push),
        (b"+a lone \n is data\r\n", Reply),
    ] {
        assert_eq!(scan(input), whole(input, kind), "{:?}", String::from_utf8_lossy(input));
        let two = [input, b"+NEXT\r\n"].concat();
        assert_eq!(scan(&two), whole(input, kind), "{:?}", String::from_utf8_lossy(input));
        same_however_split(input);
    }
}

#[test]
fn an_attribute_belongs_to_what_it_precedes() {
    for (input, kind) in [
        (&b"|1\r\n+ttl\r\n:9\r\n+x\r\n"[..], ReplyKind::Reply),
        (b"|1\r\n+a\r\n*2\r\n-ERR no\r\n:1\r\n-ERR yes\r\n", ReplyKind::Error),
        (b"|1\r\n+a\r\n:1\r\n>1\r\n+p\r\n", ReplyKind::Push),
        (b"|0\r\n+x\r\n", ReplyKind::Reply),
        (b"|1\r\n+a\r\n:1\r\n|1\r\n+b\r\n:2\r\n-x\r\n", ReplyKind::Error),
        (b"*2\r\n|1\r\n+a\r\n:1\r\n+x\r\n+y\r\n", ReplyKind::Reply),
        (b"|1\r\n|1\r\n+a\r\n:1\r\n+k\r\n+v\r\n+x\r\n", ReplyKind::Reply),
    ] {
        assert_eq!(scan(input), whole(input, kind), "{:?}", String::from_utf8_lossy(input));
        same_however_split(input);
    }
    assert_eq!(scan(b"|1\r\n+a\r\n:1\r\n"), ScannedReply::Incomplete);
}

#[test]
fn what_is_not_resp_is_a_fault() {
    use ReplyError::{Crlf, Length, Line, NestedPush, Type};
    for (input, error) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], Type(b'H')),
        (b"\r\n", Type(b'\r')),
        (b"\0", Type(0)),
        (b"*1\r\nX", Type(b'X')),
        // The streamed types, which no server sends.
        (b"$?\r\n", Length),
        (b"*?\r\n", Length),
        (b".\r\n", Type(b'.')),
        (b";1\r\n", Type(b';')),
        (b"$\r\n", Length),
        (b"$+1\r\n", Length),
        (b"$01\r\n", Length),
        (b"$-0\r\n", Length),
        (b"$-2\r\n", Length),
        (b"$1x\r\n", Length),
        (b"*-2\r\n", Length),
        (b"=-1\r\n", Length),
        (b"!-1\r\n", Length),
        (b"~-1\r\n", Length),
        (b"%-1\r\n", Length),
        (b">-1\r\n", Length),
        (b"|-1\r\n", Length),
        (b"$1073741825\r\n", Length),
        (b"*4294967297\r\n", Length),
        (b"%4294967297\r\n", Length),
        (b"*4294967295\r\n*4294967295\r\n", Length),
        (b"$123456789012\r\n", Length),
        (b"$12345678901234567", Line),
        (b"*11111111111111111", Line),
        (b"+a\rb", Crlf),
        (b"$1\rX", Crlf),
        (b"$1\r\naXX", Crlf),
        (b"$1\r\na\n\n", Crlf),
        (b"$1\r\na\rX", Crlf),
        (b"*1\r\n>1\r\n+a\r\n", NestedPush),
        (b"|1\r\n+a\r\n>1\r\n+b\r\n+c\r\n", NestedPush),
    ] {
        assert_eq!(scan(input), ScannedReply::Malformed(error), "{:?}", String::from_utf8_lossy(input));
        same_however_split(input);
    }
}

#[test]
fn a_line_is_bounded() {
    let mut line = vec![b'a'; MAX_LINE];
    line[0] = b'-';
    assert_eq!(scan(&line), ScannedReply::Incomplete);
    let full = [&line[..], b"\r\n"].concat();
    assert_eq!(scan(&full), whole(&full, ReplyKind::Error));
    line.push(b'a');
    assert_eq!(scan(&line), ScannedReply::Malformed(ReplyError::Line));
}

#[test]
fn depth_costs_nothing() {
    let mut input = b"*1\r\n".repeat(100_000);
    input.extend_from_slice(b":1\r\n");
    assert_eq!(scan(&input), whole(&input, ReplyKind::Reply));
}

#[test]
fn the_caller_sees_each_element_once_and_may_refuse_it() {
    let input = b"*3\r\n|1\r\n+a\r\n:1\r\n$1\r\nx\r\n%2\r\n+a\r\n+b\r\n+c\r\n*-1\r\n~0\r\n";
    let mut seen = Vec::new();
    let mut scanner = ReplyScanner::default();
    for end in 0..=input.len() {
        scanner.scan_seen(&input[..end], |children| {
            seen.push(children);
            Ok(())
        });
    }
    assert_eq!(seen, [3, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(
        ReplyScanner::default()
            .scan_seen(input, |children| { if children == 4 { Err(ReplyError::Depth) } else { Ok(()) } }),
        ScannedReply::Malformed(ReplyError::Depth)
    );
}

#[test]
fn pieces_are_scanned_on_from_where_the_last_one_ended() {
    let large = [&b"$1048576\r\n"[..], &vec![b'\r'; 1024 * 1024], b"\r\n"].concat();
    let many = [&b"*200000\r\n"[..], &b"+OK\r\n".repeat(200_000)].concat();
    let line = [&b"+"[..], &vec![b'a'; MAX_LINE - 1], b"\r\n"].concat();
    for input in [large, many, line] {
        let mut scanner = ReplyScanner::default();
        for end in 0..input.len() {
            assert_eq!(scanner.scan(&input[..end]), ScannedReply::Incomplete);
            // The scanner reads again a length's header, the byte before an LF, or one of the last two bytes of a bulk.
            let known = scanner.at.max(scanner.searched);
            assert!(known + MAX_DIGITS + 3 >= end, "{known} of {end}");
        }
        assert_eq!(scanner.scan(&input), whole(&input, ReplyKind::Reply));
    }
}

mod properties {
    use super::*;
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use redis_protocol::{resp2, resp3};

    fn bulk(kind: char, data: &str) -> String {
        format!("{kind}{}\r\n{data}\r\n", data.len())
    }

    fn aggregate(kind: char, count: usize, elements: &[String]) -> String {
        format!("{kind}{count}\r\n{}", elements.concat())
    }

    fn resp2() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[+-][ -~]{0,9}\r\n",
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            "[a\r\n$*]{0,9}".prop_map(|data| bulk('$', &data)),
            Just("$-1\r\n".to_owned()),
            Just("*-1\r\n".to_owned()),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            vec(inner, 0..5).prop_map(|elements| aggregate('*', elements.len(), &elements))
        })
    }

    fn resp3() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[+-][ -~]{0,9}\r\n",
            any::<i64>().prop_map(|number| format!(":{number}\r\n")),
            "[a\r\n$*>|]{0,9}".prop_map(|data| bulk('$', &data)),
            "[a\r\n]{0,9}".prop_map(|data| bulk('=', &format!("txt:{data}"))),
            "[a\r\n]{1,9}".prop_map(|data| bulk('!', &data)),
            "[(][0-9]{1,9}\r\n",
            Just(",inf\r\n".to_owned()),
            Just(",1.5\r\n".to_owned()),
            Just("_\r\n".to_owned()),
            Just("#t\r\n".to_owned()),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(|elements| aggregate('*', elements.len(), &elements)),
                // Redis-protocol requires that keys, and the elements of a set, are unique.
                vec(inner.clone(), 0..4).prop_map(|values| aggregate('%', values.len(), &keyed(&values))),
                (0..5i64).prop_map(|count| {
                    aggregate(
                        '~',
                        count as usize,
                        &(0..count).map(|n| format!(":{n}\r\n")).collect::<Vec<_>>(),
                    )
                }),
                (vec(inner.clone(), 1..3), inner).prop_filter_map(
                    "an attribute describes a value",
                    |(about, of)| {
                        let described = !of.starts_with(['_', '|']);
                        described.then(|| aggregate('|', about.len(), &keyed(&about)) + &of)
                    }
                ),
            ]
        })
    }

    fn keyed(values: &[String]) -> Vec<String> {
        values.iter().enumerate().map(|(key, value)| format!("+k{key}\r\n{value}")).collect()
    }

    fn push() -> impl Strategy<Value = String> {
        vec(resp3(), 1..4)
            .prop_map(|elements| format!(">{}\r\n+message\r\n{}", elements.len() + 1, elements.concat()))
    }

    fn length_of(input: &[u8]) -> Option<usize> {
        match scan(input) {
            ScannedReply::Complete { len, .. } => Some(len),
            ScannedReply::Incomplete | ScannedReply::Malformed(_) => None,
        }
    }

    proptest! {
        #[test]
        fn resp2_frames_have_the_length_that_redis_protocol_finds(frame in resp2(), rest in "[ -~\r\n]{0,9}") {
            let input = Bytes::from(frame + &rest);
            let (_, len) = resp2::decode::decode_bytes(&input).unwrap().unwrap();
            prop_assert_eq!(length_of(&input), Some(len));
            same_however_split(&input[..len]);
        }

        #[test]
        fn resp3_frames_have_the_length_that_redis_protocol_finds(
            frame in prop_oneof![4 => resp3(), 1 => push()], rest in "[ -~\r\n]{0,9}",
        ) {
            let input = Bytes::from(frame + &rest);
            let (_, len) = resp3::decode::complete::decode_bytes(&input).unwrap().unwrap();
            prop_assert_eq!(length_of(&input), Some(len));
            same_however_split(&input[..len]);
        }

        #[test]
        fn no_input_panics_or_depends_on_its_pieces(
            pieces in vec(prop_oneof![
                "[*%~>|$!=+:,#_(.;-][0-9]{0,2}\r?\n?".prop_map(String::into_bytes), vec(any::<u8>(), 0..4),
            ], 0..8),
        ) {
            same_however_split(&pieces.concat());
        }

        #[test]
        fn a_mutated_frame_never_panics(
            frame in resp3(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut input = frame.into_bytes();
            for (place, byte) in changes {
                let place = place.index(input.len());
                input[place] = byte;
            }
            same_however_split(&input);
        }
    }
}
