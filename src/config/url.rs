//! Parses upstream URLs as users write them. No error text here quotes a user or a password.

mod dialects;

use percent_encoding::percent_decode_str;

use super::address::{DEFAULT_PORT, DEFAULT_SENTINEL_PORT, socket_path, tcp};
use crate::secret::Secret;
use crate::topology::Address;

const SCHEMES: &str = "redis:// or rediss:// (with TLS), redis-sentinel:// or rediss-sentinel://, redis-cluster:// or rediss-cluster://, \
     their valkey twins, or unix:";

/// The parts of an upstream URL.
#[derive(Clone, Debug)]
pub struct UpstreamUrl {
    /// The server or the Sentinels.
    pub target: Target,
    /// The user at the data nodes.
    pub username: Option<String>,
    /// The user's password at the data nodes.
    pub password: Option<Secret>,
    /// The database that sessions start in.
    pub database: Option<u32>,
    /// True if the scheme asks for TLS, to the server and to the Sentinels.
    pub tls: bool,
}

/// What an upstream URL points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One server.
    Fixed(Address),
    /// Sentinels, which know the address of the primary.
    Sentinels {
        /// The addresses of the Sentinels, at least one.
        seeds: Vec<Address>,
        /// The name under which they monitor the primary.
        primary_name: String,
    },
    /// The nodes of a cluster.
    Cluster {
        /// The addresses of some of them, at least one.
        seeds: Vec<Address>,
    },
}

/// Parses an upstream URL:
///
/// - `redis://` or `valkey://` `[user:password@]host[:6379][/database]`
/// - `redis-sentinel://` or `valkey-sentinel://`
///   `[user:password@]host[:26379][,host…][/database]#primary-name`
/// - `redis-cluster://` or `valkey-cluster://` `[user:password@]host[:6379][,host…][/database]`
/// - the same with TLS: `rediss://`, `valkeys://`, `rediss-sentinel://`, `valkeys-sentinel://`, `rediss-cluster://`,
///   `valkeys-cluster://`
/// - `unix:/path` or `unix://[user:password@]/path`, then `[?db=database]`
/// - the forms of other libraries, if they mean the same (see [`dialects::rewritten`])
///
/// User and password are percent-decoded.
///
/// # Errors
/// Returns what is wrong and how to fix it, without any part of the user or password.
pub fn upstream(text: &str) -> Result<UpstreamUrl, String> {
    let text = &dialects::rewritten(text)?;
    if let Some(rest) = text.strip_prefix("unix:") {
        return unix(rest);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("is not a URL; begin it with {SCHEMES}"));
    };
    match scheme {
        "redis" | "valkey" => server(rest, false),
        "rediss" | "valkeys" => server(rest, true),
        "redis-sentinel" | "valkey-sentinel" => sentinels(rest, false),
        "rediss-sentinel" | "valkeys-sentinel" => sentinels(rest, true),
        "redis-cluster" | "valkey-cluster" => cluster(rest, false),
        "rediss-cluster" | "valkeys-cluster" => cluster(rest, true),
        _ => Err(format!("the scheme is unknown; begin the URL with {SCHEMES}")),
    }
}

fn server(rest: &str, tls: bool) -> Result<UpstreamUrl, String> {
    let parts = Parts::of(rest)?;
    if parts.query.is_some() {
        return Err("takes no ?options; the database is the path, as in /0".into());
    }
    if parts.fragment.is_some() {
        return Err("a #name belongs to Sentinel; begin the URL with redis-sentinel://".into());
    }
    if parts.host.contains(',') {
        return Err(
            "takes one host; several Sentinels are written redis-sentinel://host,host#primary-name, and nodes of a cluster \
             redis-cluster://host,host"
                .into()
        );
    }
    Ok(UpstreamUrl {
        target: Target::Fixed(tcp(parts.host, DEFAULT_PORT)?),
        username: parts.username,
        password: parts.password,
        database: database(parts.path)?,
        tls,
    })
}

fn sentinels(rest: &str, tls: bool) -> Result<UpstreamUrl, String> {
    let parts = Parts::of(rest)?;
    if parts.query.is_some() {
        return Err("takes no ?options; the database is the path, as in /0#primary-name".into());
    }
    let Some(name) = parts.fragment.filter(|name| !name.is_empty()) else {
        return Err("does not say which primary the Sentinels should be asked for; \
                    end it with its name, as in #mymaster"
            .into());
    };
    let seeds =
        parts.host.split(',').map(|host| tcp(host, DEFAULT_SENTINEL_PORT)).collect::<Result<_, _>>()?;
    Ok(UpstreamUrl {
        target: Target::Sentinels { seeds, primary_name: decode_text(name)? },
        username: parts.username,
        password: parts.password,
        database: database(parts.path)?,
        tls,
    })
}

fn cluster(rest: &str, tls: bool) -> Result<UpstreamUrl, String> {
    let parts = Parts::of(rest)?;
    if parts.query.is_some() {
        return Err("takes no ?options; several nodes are written redis-cluster://host,host".into());
    }
    if parts.fragment.is_some() {
        return Err("a #name belongs to Sentinel; a cluster has none, so leave it out".into());
    }
    let seeds = parts.host.split(',').map(|host| tcp(host, DEFAULT_PORT)).collect::<Result<_, _>>()?;
    Ok(UpstreamUrl {
        target: Target::Cluster { seeds },
        username: parts.username,
        password: parts.password,
        database: database(parts.path)?,
        tls,
    })
}

fn unix(rest: &str) -> Result<UpstreamUrl, String> {
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (user_info, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let slash = rest.find('/').unwrap_or(rest.len());
            match rest[..slash].rsplit_once('@') {
                Some((user_info, "")) => (Some(user_info), &rest[slash..]),
                None if slash == 0 => (None, rest),
                _ => return Err("names a host; a socket is written unix:/path or unix:///path".into()),
            }
        }
        None => (None, rest),
    };
    let database = match query.map(|query| query.strip_prefix("db=").ok_or(query)) {
        None => None,
        Some(Ok(number)) => database(number)?,
        Some(Err(_)) => return Err("takes one option only, the database: ?db=0".into()),
    };
    let (username, password) = user_info.map_or(Ok((None, None)), credentials)?;
    let target = Target::Fixed(Address::Unix(socket_path(path)?));
    Ok(UpstreamUrl { target, username, password, database, tls: false })
}

/// The parts of a URL after `://`.
struct Parts<'a> {
    username: Option<String>,
    password: Option<Secret>,
    host: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Result<Self, String> {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        // A character of a password has probably ended the authority, so a quote of any part might
        // show a piece of the password.
        if rest.contains('@') {
            return Err("has an @ after the host; inside a user or password, write / as %2F, # as %23, \
                        ? as %3F and @ as %40"
                .into());
        }
        let (rest, fragment) = split_off(rest, '#');
        let (path, query) = split_off(rest, '?');
        let (user_info, host) = match authority.rsplit_once('@') {
            Some((user_info, host)) => (Some(user_info), host),
            None => (None, authority),
        };
        let (username, password) = user_info.map_or(Ok((None, None)), credentials)?;
        Ok(Self { username, password, host, path: path.strip_prefix('/').unwrap_or(path), query, fragment })
    }
}

fn split_off(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn credentials(user_info: &str) -> Result<(Option<String>, Option<Secret>), String> {
    let (username, password) = split_off(user_info, ':');
    let username = Some(decode_text(username)?).filter(|name| !name.is_empty());
    let password = password.map(decode).transpose()?.filter(|bytes| !bytes.is_empty()).map(Secret::new);
    Ok((username, password))
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let escapes_are_whole = text.split('%').skip(1).all(|after| {
        after.as_bytes().first_chunk::<2>().is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    if !escapes_are_whole {
        return Err("has a % that is not followed by two hexadecimal digits; write % itself as %25".into());
    }
    Ok(percent_decode_str(text).collect())
}

fn decode_text(text: &str) -> Result<String, String> {
    String::from_utf8(decode(text)?).map_err(|_| "has a percent-encoded part that is not UTF-8".into())
}

fn database(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits_only => Ok(Some(number)),
        _ => Err(format!("{text:?} is not a database; write its number, as in /0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Target, Option<String>, Option<String>, Option<u32>) {
        let url = upstream(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let password = url.password.map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
        (url.target, url.username, password, url.database)
    }

    fn fixed(host: &str, port: u16) -> Target {
        Target::Fixed(Address::tcp(host, port))
    }

    #[test]
    fn servers() {
        assert_eq!(parsed("redis://db"), (fixed("db", 6379), None, None, None));
        assert_eq!(parsed("valkey://db:7000/3"), (fixed("db", 7000), None, None, Some(3)));
        assert_eq!(parsed("redis://[::1]:7000/"), (fixed("::1", 7000), None, None, None));
        assert_eq!(
            parsed("redis://app:p%40ss%3aw%2F@db/1"),
            (fixed("db", 6379), Some("app".into()), Some("p@ss:w/".into()), Some(1))
        );
        assert_eq!(parsed("redis://:pw@db"), (fixed("db", 6379), None, Some("pw".into()), None));
        assert_eq!(parsed("redis://app@db"), (fixed("db", 6379), Some("app".into()), None, None));
        // An unencoded @ inside a password is still unambiguous.
        assert_eq!(
            parsed("redis://a:p@w@db"),
            (fixed("db", 6379), Some("a".into()), Some("p@w".into()), None)
        );
    }

    #[test]
    fn several_sentinels() {
        let target = Target::Sentinels {
            seeds: vec![Address::tcp("s1", 26379), Address::tcp("s2", 5000), Address::tcp("::1", 26379)],
            primary_name: "my-master.1".into(),
        };
        assert_eq!(
            parsed("redis-sentinel://u:p@s1,s2:5000,[::1]/2#my-master.1"),
            (target.clone(), Some("u".into()), Some("p".into()), Some(2))
        );
        assert_eq!(parsed("valkey-sentinel://s1:26379,s2:5000,[::1]:26379#my-master.1").0, target);
    }

    #[test]
    fn several_nodes_of_a_cluster() {
        let target = Target::Cluster { seeds: vec![Address::tcp("c1", 6379), Address::tcp("c2", 7000)] };
        assert_eq!(
            parsed("redis-cluster://u:p@c1,c2:7000"),
            (target.clone(), Some("u".into()), Some("p".into()), None)
        );
        assert_eq!(parsed("valkeys-cluster://c1:6379,c2:7000/0"), (target, None, None, Some(0)));
        assert!(upstream("rediss-cluster://c1").unwrap().tls);
    }

    #[test]
    fn sockets() {
        let target = Target::Fixed(Address::Unix("/run/v.sock".into()));
        for text in ["unix:/run/v.sock", "unix:///run/v.sock"] {
            assert_eq!(parsed(text), (target.clone(), None, None, None));
        }
        assert_eq!(
            parsed("unix://u:p@/run/v.sock?db=4"),
            (target, Some("u".into()), Some("p".into()), Some(4))
        );
    }

    #[test]
    fn wrong_urls_say_what_to_write() {
        for (text, expected) in [
            ("db 6379", "begin it with redis://"),
            ("http://db", "scheme is unknown"),
            ("redis://", "is not a host"),
            ("redis://db:0", "0 is not a port"),
            ("redis://db:+1", "is not a port"),
            ("redis://db:65536", "is not a port"),
            ("redis://::1", "needs brackets"),
            ("redis://[db]:1", "is not an IPv6 address"),
            ("redis://db/one", "is not a database"),
            ("redis://db/+1", "is not a database"),
            ("redis://db?db=1", "takes no ?options"),
            ("redis://db#m", "belongs to Sentinel"),
            ("redis://a,b", "takes one host"),
            ("redis-cluster://a,b#m", "belongs to Sentinel"),
            ("redis-cluster://a?b", "takes no ?options"),
            ("redis-cluster://a,", "is not a host"),
            ("redis-sentinel://s1", "end it with its name"),
            ("redis-sentinel://s1,#m", "is not a host"),
            ("redis-sentinel://s1#%ff", "not UTF-8"),
            ("unix:", "names no socket"),
            ("unix://host/x", "names a host"),
            ("unix:/x?a=1", "?db=0"),
        ] {
            let error = upstream(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for text in [
            "redis://app:hunter2/secret@db:6379",
            "redis://app:hunter2#secret@db:6379",
            "redis://app:hunter2?secret@db:6379",
            "redis://app:hunter2%zzsecret@db:6379",
            "redis://app:hunter2secret@db:x",
            "redis-sentinel://app:hunter2secret@s1",
            "http://app:hunter2secret@db",
            "app:hunter2secret@db",
            "unix://app:hunter2secret@db/x",
            "unix://app:hunter2/secret@/x",
            "rediss://app:hunter2secret@db:x",
        ] {
            let error = upstream(text).unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("secret"), "{text}: {error}");
        }
    }
}
