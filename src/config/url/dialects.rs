//! Upstream URLs as other libraries and programs write them. If such a URL means the same as one of
//! respgate's own, it is rewritten; otherwise the error shows the corrected URL. No error text
//! quotes a user or a password.

use crate::config::address::{DEFAULT_SENTINEL_PORT, tcp};

/// The primary's name in a corrected URL if the user's URL has none.
const NAME: &str = "mymaster";

/// Rewrites a URL:
///
/// - `host:port` is a server,
/// - `redis+sentinel://hosts/primary-name[/database]`, `sentinel://…` and their variants with TLS
///   are Sentinels (redis-sentinel-url of Python and others put the name into the path),
/// - `redis+cluster://hosts` is a cluster (redis-py-cluster and others),
/// - `redis+unix:///path`, `redis+socket:///path`, `redis-socket:///path` are sockets (redis-py,
///   kombu, lettuce).
///
/// Any other text is returned as it is.
///
/// # Errors
/// Returns the corrected URL if the text is such a URL but lacks a required part.
pub(super) fn rewritten(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return bare(text);
    };
    match scheme {
        "redis+unix" | "valkey+unix" | "redis+socket" | "valkey+socket" | "redis-socket"
        | "valkey-socket" => socket(rest),
        "redis+cluster" | "valkey+cluster" => Ok(format!("redis-cluster://{rest}")),
        "rediss+cluster" | "valkeys+cluster" => Ok(format!("rediss-cluster://{rest}")),
        "sentinel" | "redis+sentinel" | "valkey+sentinel" => sentinels(rest, "redis-sentinel"),
        "sentinels" | "rediss+sentinel" | "valkeys+sentinel" => sentinels(rest, "rediss-sentinel"),
        _ => Ok(text.to_owned()),
    }
}

/// Parses a text without a scheme: a host and a port, or something else.
fn bare(text: &str) -> Result<String, String> {
    let odd = |byte: u8| byte.is_ascii_whitespace() || b"@/?#,;%".contains(&byte);
    if text.starts_with("unix:") || text.is_empty() || text.bytes().any(odd) {
        return Ok(text.to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|_| tcp(text, 0).is_ok()) else {
        return match tcp(text, 0) {
            Ok(_) => Err(format!("is not a URL; write redis://{text}, or rediss://{text} with TLS")),
            Err(_) => Ok(text.to_owned()),
        };
    };
    if port == DEFAULT_SENTINEL_PORT.to_string() {
        return Err(format!(
            "{port} is the port of Sentinels; write redis-sentinel://{host}:{port}#{NAME} with the name of the primary, or \
             redis://{host}:{port} if a server listens there"
        ));
    }
    Ok(format!("redis://{text}"))
}

fn socket(rest: &str) -> Result<String, String> {
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    let database = query.map(|query| {
        // kombu calls the database a virtual host.
        query.strip_prefix("db=").or_else(|| query.strip_prefix("virtual_host=")).unwrap_or(query)
    });
    match database {
        None => Ok(format!("unix://{place}")),
        Some(number) if is_number(number) => Ok(format!("unix://{place}?db={number}")),
        Some(_) => Err("takes one option only, the database: unix:///path?db=0".into()),
    }
}

fn sentinels(rest: &str, scheme: &str) -> Result<String, String> {
    let (before, fragment) = rest.split_once('#').map_or((rest, None), |(before, name)| (before, Some(name)));
    // Celery writes several whole URLs, separated by semicolons.
    let several = before.contains(';');
    if fragment.is_some() && !several {
        return Ok(format!("{scheme}://{rest}"));
    }
    let (place, query) = before.split_once('?').map_or((before, None), |(place, query)| (place, Some(query)));
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if !several && query.is_none() && !path.contains('@') {
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
        match parts[..] {
            [name] if !name.is_empty() && !is_number(name) => {
                return Ok(format!("{scheme}://{authority}#{name}"));
            }
            [name, database] if !name.is_empty() && is_number(database) => {
                return Ok(format!("{scheme}://{authority}/{database}#{name}"));
            }
            _ => {}
        }
    }
    Err(corrected(before, scheme))
}

/// Returns an error text that shows the corrected URL of Sentinels.
fn corrected(before: &str, scheme: &str) -> String {
    let urls = before.split(';').map(|url| url.split_once("://").map_or(url, |(_, rest)| rest));
    let places: Vec<&str> = urls.map(|url| url.split(['?', '#']).next().unwrap_or_default()).collect();
    let whole = |place: &str| match place.rsplit_once('@') {
        // A password may contain any character, so the text before the last @ is ignored.
        Some((_, host)) => host.to_owned(),
        None => place.to_owned(),
    };
    let hosts: Vec<String> = places
        .iter()
        .map(|place| whole(place))
        .flat_map(|place| {
            let hosts = place.split('/').next().unwrap_or_default();
            hosts.split(',').map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let credentials = if before.contains('@') { "user:password@" } else { "" };
    let database =
        places.last().and_then(|place| whole(place).rsplit_once('/').map(|(_, path)| path.to_owned()));
    let database =
        database.filter(|path| is_number(path)).map(|number| format!("/{number}")).unwrap_or_default();
    let hosts = match hosts.iter().all(|host| tcp(host, DEFAULT_SENTINEL_PORT).is_ok()) {
        true => hosts.join(","),
        false => "host1:26379,host2:26379".to_owned(),
    };
    format!(
        "does not say which primary the Sentinels should be asked for; write {scheme}://{credentials}{hosts}{database}#{NAME} \
         with its name in place of {NAME}"
    )
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::upstream;
    use super::*;

    #[test]
    fn complete_urls_are_rewritten() {
        for (text, ours) in [
            ("db:6379", "redis://db:6379"),
            ("10.0.0.5:7000", "redis://10.0.0.5:7000"),
            ("[::1]:7000", "redis://[::1]:7000"),
            ("redis+unix:///run/v.sock", "unix:///run/v.sock"),
            ("redis+socket://u:p@/run/v.sock?virtual_host=3", "unix://u:p@/run/v.sock?db=3"),
            ("redis+sentinel://u:p@s1:26379,s2/mymaster/0", "redis-sentinel://u:p@s1:26379,s2/0#mymaster"),
            ("sentinel://s1/mymaster", "redis-sentinel://s1#mymaster"),
            ("rediss+sentinel://s1/2#m", "rediss-sentinel://s1/2#m"),
        ] {
            assert_eq!(rewritten(text).as_deref(), Ok(ours));
            assert!(upstream(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn incomplete_urls_get_a_corrected_url() {
        for (text, ours) in [
            ("db", "redis://db,"),
            ("s1:26379", "redis-sentinel://s1:26379#mymaster "),
            ("sentinel://s1:5000;sentinel://s2:5000", "redis-sentinel://s1:5000,s2:5000#mymaster "),
            (
                "sentinel://:hunter2@s1:5000;sentinel://:hunter2@s2/1",
                "redis-sentinel://user:password@s1:5000,s2/1#mymaster ",
            ),
            ("redis+sentinel://s1/0", "redis-sentinel://s1/0#mymaster "),
            ("redis+sentinel://s1?service_name=m", "redis-sentinel://s1#mymaster "),
            ("redis+unix:///run/v.sock?timeout=5", "unix:///path?db=0"),
        ] {
            let error = upstream(text).unwrap_err();
            assert!(error.contains(ours) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    proptest! {
        /// No input makes an error show a part of a password, and every URL that an error shows is
        /// valid.
        #[test]
        fn corrected_urls_are_valid(
            scheme in "(sentinel|redis\\+sentinel|rediss\\+sentinel|redis\\+unix|)",
            user in "(|app:hunter2@|:hunter2@|app:hunter2/@)",
            rest in "[a-z0-9:,;/?#=]{0,24}",
        ) {
            let text = if scheme.is_empty() { format!("{user}{rest}") } else { format!("{scheme}://{user}{rest}") };
            if let Err(error) = upstream(&text) {
                prop_assert!(!error.contains("hunter2"), "{text}: {error}");
                if let Some(at) = error.find("-sentinel://").filter(|_| error.contains("#mymaster ")) {
                    let from = error[..at].rfind(' ').unwrap() + 1;
                    let shown = error[from..].split(' ').next().unwrap();
                    prop_assert!(upstream(shown).is_ok(), "{shown} for {text}");
                }
            }
        }
    }
}
