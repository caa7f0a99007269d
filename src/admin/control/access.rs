//! Decides whether a request may control or read respgate. Does no I/O.
//!
//! A client of the control socket may control, because its mode 0600 admits only respgate's own user and root. Everyone
//! else needs the token, on loopback too: other users and containers share loopback, and so does every web page that is
//! open in a browser on this machine. A web page can neither read the token nor send it, and the checks of `Host` and
//! `Origin` refuse it a second time: a page that reaches respgate through a name of its own (DNS rebinding) sends that
//! name as `Host`, and a page of another site sends `Origin`. With TLS, a page's own name has no valid certificate here, so any
//! `Host` will do.
//!
//! The tokens never cross a network in plain text at respgate's request: control from another machine needs TLS. Reading needs
//! the token of readers, or that of control, only if there is a token of readers.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use crate::secret::Secret;

/// The way on which a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Via {
    /// The control socket, with the client's numeric user id if the system tells it.
    Socket(Option<u32>),
    /// The admin listener.
    Tcp {
        /// The client's address.
        peer: SocketAddr,
        /// True if the connection speaks TLS.
        encrypted: bool,
    },
}

/// Why a request may not control respgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::admin) enum Denied {
    #[error(
        "this address does not permit control: no control-token-file is set; use the control socket, or set control-token-file"
    )]
    NoToken,
    #[error(
        "control needs a token: send the content of control-token-file as \"Authorization: Bearer TOKEN\""
    )]
    TokenMissing,
    #[error("the token is wrong: send the content of control-token-file")]
    TokenWrong,
    #[error(
        "control from another machine would show the token to the network: run respgate ctl on this machine, or set admin-tls-cert"
    )]
    NotEncrypted,
    #[error(
        "only loopback may ask for this: send the request from this machine, or from a container of this pod"
    )]
    NotLocal,
    #[error("the Host header must be an IP address or localhost, so that no web page can control respgate")]
    ForeignHost,
    #[error("the request comes from a web page of another origin, which may not control respgate")]
    ForeignOrigin,
    #[error("reading needs a token: send the content of read-token-file as \"Authorization: Bearer TOKEN\"")]
    ReadTokenMissing,
    #[error("the token is wrong: send the content of read-token-file")]
    ReadTokenWrong,
}

impl Denied {
    /// Returns true if another token would help.
    pub(in crate::admin) fn wants_token(self) -> bool {
        matches!(self, Self::TokenMissing | Self::TokenWrong | Self::ReadTokenMissing | Self::ReadTokenWrong)
    }
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks whether a request with these headers may control respgate. `token` is the content of `control-token-file`, if
/// there is one.
///
/// # Errors
/// Returns the reason why it may not.
pub(in crate::admin) fn check(via: &Via, headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Denied> {
    let Via::Tcp { peer, encrypted } = via else { return Ok(()) };
    check_page(headers, *encrypted)?;
    let token = token.ok_or(Denied::NoToken)?;
    if !may_carry_control(*peer, *encrypted) {
        return Err(Denied::NotEncrypted);
    }
    let sent = bearer(headers).ok_or(Denied::TokenMissing)?;
    if token.matches(sent) { Ok(()) } else { Err(Denied::TokenWrong) }
}

/// Checks whether a request without a token comes from this machine, or from this pod, and from no web page.
///
/// # Errors
/// Returns the reason why it does not.
pub(in crate::admin) fn check_origin(via: &Via, headers: &HeaderMap) -> Result<(), Denied> {
    match via {
        Via::Socket(_) => Ok(()),
        Via::Tcp { peer, .. } if !peer.ip().to_canonical().is_loopback() => Err(Denied::NotLocal),
        Via::Tcp { encrypted, .. } => check_page(headers, *encrypted),
    }
}

/// Refuses requests that a web page may have sent.
fn check_page(headers: &HeaderMap, encrypted: bool) -> Result<(), Denied> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !encrypted && !names_this_machine(host) {
        return Err(Denied::ForeignHost);
    }
    let origin = headers.get(ORIGIN).map(|value| value.to_str().unwrap_or_default());
    let site = headers.get(FETCH_SITE).map(|value| value.to_str().unwrap_or_default());
    if origin.is_some_and(|origin| {
        origin.strip_prefix(if encrypted { "https://" } else { "http://" }) != Some(host)
    }) || site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return Err(Denied::ForeignOrigin);
    }
    Ok(())
}

/// Checks whether a request with these headers may read pages. `reading` is the content of `read-token-file`: without it,
/// everybody may. The token of control permits reading too, where it permits control.
///
/// # Errors
/// Returns the reason why it may not.
pub(in crate::admin) fn check_reading(
    via: &Via,
    headers: &HeaderMap,
    reading: Option<&Secret>,
    control: Option<&Secret>,
) -> Result<(), Denied> {
    let (Via::Tcp { peer, encrypted }, Some(reading)) = (via, reading) else { return Ok(()) };
    let sent = bearer(headers).ok_or(Denied::ReadTokenMissing)?;
    let controls =
        may_carry_control(*peer, *encrypted) && control.is_some_and(|control| control.matches(sent));
    if reading.matches(sent) || controls { Ok(()) } else { Err(Denied::ReadTokenWrong) }
}

/// Returns true if the token of control is not readable on a network between the client and respgate.
fn may_carry_control(peer: SocketAddr, encrypted: bool) -> bool {
    encrypted || peer.ip().to_canonical().is_loopback()
}

/// Returns the token that a request sends.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(AUTHORIZATION)?.as_bytes().strip_prefix(b"Bearer ")
}

/// Returns true if a `Host` header holds an IP address or `localhost`. A name could belong to a web page.
fn names_this_machine(host: &str) -> bool {
    host.parse::<SocketAddr>().is_ok()
        || host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
        || host.split_once(':').map_or(host, |(name, _)| name).eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header value")))
            .collect()
    }

    fn asked(peer: &str, pairs: &[(&'static str, &str)], token: Option<&str>) -> Result<(), Denied> {
        let token = token.map(|text| Secret::new(text.as_bytes()));
        check(&via(peer, false), &headers(pairs), token.as_ref())
    }

    fn via(peer: &str, encrypted: bool) -> Via {
        Via::Tcp { peer: peer.parse().expect("an address"), encrypted }
    }

    const HERE: &str = "127.0.0.1:50000";

    #[test]
    fn the_socket_needs_no_token() {
        assert_eq!(check(&Via::Socket(Some(0)), &HeaderMap::new(), None), Ok(()));
    }

    #[test]
    fn the_token_permits_control_from_this_machine() {
        let good = [("host", "127.0.0.1:9121"), ("authorization", "Bearer s3cret")];
        assert_eq!(asked(HERE, &good, Some("s3cret")), Ok(()));
        assert_eq!(asked("[::1]:50000", &good, Some("s3cret")), Ok(()));
        assert_eq!(asked(HERE, &good, None), Err(Denied::NoToken));
        assert_eq!(asked(HERE, &good, Some("other")), Err(Denied::TokenWrong));
        assert_eq!(asked(HERE, &good[..1], Some("s3cret")), Err(Denied::TokenMissing));
        assert_eq!(asked("10.0.0.7:50000", &good, Some("s3cret")), Err(Denied::NotEncrypted));
    }

    #[test]
    fn without_a_token_only_this_machine_and_no_web_page_is_admitted() {
        let asked =
            |peer: &str, pairs: &[(&'static str, &str)]| check_origin(&via(peer, false), &headers(pairs));
        let host = ("host", "127.0.0.1:9121");
        assert_eq!(asked(HERE, &[host]), Ok(()));
        assert_eq!(asked("10.0.0.7:50000", &[host]), Err(Denied::NotLocal));
        assert_eq!(asked(HERE, &[("host", "evil.example")]), Err(Denied::ForeignHost));
        assert_eq!(asked(HERE, &[host, ("origin", "https://evil.example")]), Err(Denied::ForeignOrigin));
        assert_eq!(check_origin(&Via::Socket(None), &HeaderMap::new()), Ok(()));
    }

    #[test]
    fn with_tls_the_token_permits_control_from_elsewhere() {
        let token = Secret::new("s3cret");
        let asked = |pairs: &[(&'static str, &str)]| {
            check(&via("10.0.0.7:50000", true), &headers(pairs), Some(&token))
        };
        let bearer = ("authorization", "Bearer s3cret");
        assert_eq!(asked(&[("host", "respgate.example:9121"), bearer]), Ok(()));
        assert_eq!(asked(&[("host", "respgate.example:9121")]), Err(Denied::TokenMissing));
        let page = [("host", "respgate.example:9121"), bearer, ("origin", "https://evil.example")];
        assert_eq!(asked(&page), Err(Denied::ForeignOrigin));
        let own = [("host", "respgate.example:9121"), bearer, ("origin", "https://respgate.example:9121")];
        assert_eq!(asked(&own), Ok(()));
    }

    #[test]
    fn reading_and_controlling_are_separate_rights() {
        let (reader, operator) = (Secret::new("read"), Secret::new("control"));
        let reads = |via: &Via, sent: &str, reading: Option<&Secret>| {
            check_reading(via, &headers(&[("authorization", sent)]), reading, Some(&operator))
        };
        let here = via(HERE, false);
        assert_eq!(reads(&here, "", None), Ok(()), "no token for readers");
        assert_eq!(reads(&here, "", Some(&reader)), Err(Denied::ReadTokenMissing));
        assert_eq!(reads(&here, "Bearer read", Some(&reader)), Ok(()));
        assert_eq!(reads(&here, "Bearer control", Some(&reader)), Ok(()));
        assert_eq!(reads(&here, "Bearer wrong", Some(&reader)), Err(Denied::ReadTokenWrong));
        let elsewhere = via("10.0.0.7:50000", false);
        assert_eq!(reads(&elsewhere, "Bearer read", Some(&reader)), Ok(()));
        assert_eq!(reads(&elsewhere, "Bearer control", Some(&reader)), Err(Denied::ReadTokenWrong));
        assert_eq!(reads(&Via::Socket(None), "", Some(&reader)), Ok(()));
        let headers = headers(&[("host", "localhost"), ("authorization", "Bearer read")]);
        assert_eq!(
            check(&here, &headers, Some(&operator)),
            Err(Denied::TokenWrong),
            "a reader controls nothing"
        );
    }

    #[test]
    fn an_empty_token_permits_nothing() {
        let empty = [("host", "127.0.0.1:9121"), ("authorization", "Bearer ")];
        assert_eq!(asked(HERE, &empty, Some("s3cret")), Err(Denied::TokenWrong));
    }

    /// The token is right in each case, as if a page had learned it.
    #[test]
    fn a_web_page_may_not_control() {
        let page = |host, extra: &[(&'static str, &str)]| {
            let mut pairs = vec![("host", host), ("authorization", "Bearer s3cret")];
            pairs.extend(extra);
            asked(HERE, &pairs, Some("s3cret"))
        };
        let here = "127.0.0.1:9121";
        for host in ["evil.example", "evil.example:9121", "127.0.0.1.evil.example:9121", "localhost.evil", ""]
        {
            assert_eq!(page(host, &[]), Err(Denied::ForeignHost), "{host}");
        }
        for host in [here, "localhost", "localhost:9121", "LOCALHOST:9121", "[::1]:9121", "[::1]", "::1"] {
            assert_eq!(page(host, &[]), Ok(()), "{host}");
        }
        for origin in ["https://evil.example", "null", "http://127.0.0.1:80", "", "http://localhost:9121"] {
            assert_eq!(page(here, &[("origin", origin)]), Err(Denied::ForeignOrigin), "{origin}");
        }
        assert_eq!(page(here, &[("origin", "http://127.0.0.1:9121")]), Ok(()));
        for (site, wanted) in [
            ("cross-site", Err(Denied::ForeignOrigin)),
            ("same-site", Err(Denied::ForeignOrigin)),
            ("same-origin", Ok(())),
            ("none", Ok(())),
        ] {
            assert_eq!(page(here, &[("sec-fetch-site", site)]), wanted, "{site}");
        }
    }
}
