//! Decides whether a request may control respgate. Does no I/O.
//!
//! A client of the control socket may control, because its mode 0600 admits only respgate's own user and root. Everyone
//! else needs the token, on loopback too: other users and containers share loopback, and so does every web page that is
//! open in a browser on this machine. A web page can neither read the token nor send it, and the checks of `Host` and
//! `Origin` refuse it a second time: a page that reaches respgate through a name of its own (DNS rebinding) sends that
//! name as `Host`, and a page of another site sends `Origin`.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};

use crate::secret::Secret;

/// The way on which a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Via {
    /// The control socket, with the client's numeric user id if the system tells it.
    Socket(Option<u32>),
    /// The admin listener, from this address.
    Tcp(SocketAddr),
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
        "control from another machine would show the token to the network; run respgate ctl on this machine"
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
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Checks whether a request with these headers may control respgate. `token` is the content of `control-token-file`, if
/// there is one.
///
/// # Errors
/// Returns the reason why it may not.
pub(in crate::admin) fn check(via: &Via, headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Denied> {
    if matches!(via, Via::Socket(_)) {
        return Ok(());
    }
    check_page(headers)?;
    let token = token.ok_or(Denied::NoToken)?;
    if is_remote(via) {
        return Err(Denied::NotEncrypted);
    }
    let sent = headers.get(AUTHORIZATION).ok_or(Denied::TokenMissing)?;
    let sent = sent.as_bytes().strip_prefix(b"Bearer ").ok_or(Denied::TokenMissing)?;
    if token.matches(sent) { Ok(()) } else { Err(Denied::TokenWrong) }
}

/// Checks whether a request without a token comes from this machine, or from this pod, and from no web page.
///
/// # Errors
/// Returns the reason why it does not.
pub(in crate::admin) fn check_origin(via: &Via, headers: &HeaderMap) -> Result<(), Denied> {
    match via {
        Via::Socket(_) => Ok(()),
        Via::Tcp(_) if is_remote(via) => Err(Denied::NotLocal),
        Via::Tcp(_) => check_page(headers),
    }
}

/// Returns true if the request came from another machine or pod.
fn is_remote(via: &Via) -> bool {
    matches!(via, Via::Tcp(peer) if !peer.ip().to_canonical().is_loopback())
}

/// Refuses requests that a web page may have sent.
fn check_page(headers: &HeaderMap) -> Result<(), Denied> {
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !names_this_machine(host) {
        return Err(Denied::ForeignHost);
    }
    let origin = headers.get(ORIGIN).map(|value| value.to_str().unwrap_or_default());
    let site = headers.get(FETCH_SITE).map(|value| value.to_str().unwrap_or_default());
    if origin.is_some_and(|origin| origin.strip_prefix("http://") != Some(host))
        || site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return Err(Denied::ForeignOrigin);
    }
    Ok(())
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
        check(&Via::Tcp(peer.parse().expect("an address")), &headers(pairs), token.as_ref())
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
        let asked = |peer: &str, pairs: &[(&'static str, &str)]| {
            check_origin(&Via::Tcp(peer.parse().expect("an address")), &headers(pairs))
        };
        let host = ("host", "127.0.0.1:9121");
        assert_eq!(asked(HERE, &[host]), Ok(()));
        assert_eq!(asked("10.0.0.7:50000", &[host]), Err(Denied::NotLocal));
        assert_eq!(asked(HERE, &[("host", "evil.example")]), Err(Denied::ForeignHost));
        assert_eq!(asked(HERE, &[host, ("origin", "https://evil.example")]), Err(Denied::ForeignOrigin));
        assert_eq!(check_origin(&Via::Socket(None), &HeaderMap::new()), Ok(()));
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
