//! The status page: files that are part of the binary, and the headers that keep it harmless.
//!
//! The page loads nothing from elsewhere and runs no script but its own files: the browser enforces that by the
//! Content-Security-Policy. The files hold no data. Their scripts read `/status` and write what they read as text, never
//! as HTML.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, REFERRER_POLICY,
    VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::respond::respond;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CSS: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const SVG: HeaderValue = HeaderValue::from_static("image/svg+xml");

/// Nothing but the page's own files, and requests to respgate itself.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// The headers of every file of the page.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Another version of respgate has other files under the same paths.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (VARY, HeaderValue::from_static("Accept")),
];

/// The files besides the page itself, by their path.
static PARTS: [(&str, HeaderValue, &str); PARTS_COUNT] = [
    ("/page/page.css", CSS, include_str!("page/page.css")),
    ("/page/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("page/main.js")),
    ("/page/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/page/topology.js", SCRIPT, include_str!("page/topology.js")),
    ("/page/plots.js", SCRIPT, include_str!("page/plots.js")),
    ("/page/failovers.js", SCRIPT, include_str!("page/failovers.js")),
    ("/page/tables.js", SCRIPT, include_str!("page/tables.js")),
    ("/page/control.js", SCRIPT, include_str!("page/control.js")),
];
const PARTS_COUNT: usize = 9;

/// Returns true if the client asks for HTML: browsers do, curl does not.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")))
}

/// Returns true if the path is that of a file of the page, besides the page itself. The files hold no data, so no token guards them: a browser
/// sends none before their scripts have asked the reader for it.
pub(super) fn is_file(path: &str) -> bool {
    PARTS.iter().any(|(known, ..)| *known == path)
}

/// Returns the page.
pub(super) fn index() -> Response<Full<Bytes>> {
    guarded(HTML, include_str!("page/index.html"))
}

/// Returns a file of the page; `None` if there is none with this path.
pub(super) fn part(path: &str) -> Option<Response<Full<Bytes>>> {
    let (_, kind, text) = PARTS.iter().find(|(known, ..)| *known == path)?;
    Some(guarded(kind.clone(), text))
}

fn guarded(kind: HeaderValue, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, kind, text);
    response.headers_mut().extend(HEADERS);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy would stop these, so they must not be there.
    #[test]
    fn the_files_hold_no_inline_code_and_load_nothing_from_elsewhere() {
        let files = PARTS.iter().map(|(path, _, text)| (*path, *text));
        for (path, text) in files.chain([("/", include_str!("page/index.html"))]) {
            for forbidden in [
                " style=",
                " onclick=",
                " onload=",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "@import",
                "url(",
            ] {
                assert!(!text.contains(forbidden), "{path}: {forbidden}");
            }
            let external = text.replace("http://www.w3.org/2000/svg", "").replace("http://\" + ", "");
            assert!(!external.contains("http://") && !external.contains("https://"), "{path}");
        }
    }

    #[test]
    fn browsers_ask_for_html() {
        let accepts =
            |value: &'static str| wanted(&[(ACCEPT, HeaderValue::from_static(value))].into_iter().collect());
        assert!(accepts("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(!accepts("*/*"));
        assert!(!wanted(&HeaderMap::new()));
    }
}
